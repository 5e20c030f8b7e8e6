//! What this build is, for `--version`.

/// The version, what it computes on, and the optional parts that are in it.
pub fn long() -> String {
    let on = |name: &'static str, is_on: bool| is_on.then_some(name);
    let backends = [
        on("cpu", cfg!(feature = "local")),
        on("cuda", cfg!(feature = "cuda")),
        on("metal", cfg!(feature = "metal")),
    ];
    let features = [
        on("local", cfg!(feature = "local")),
        on("embed-demo-model", cfg!(feature = "embed-demo-model")),
    ];
    let list = |names: &[Option<&'static str>]| {
        let names: Vec<&str> = names.iter().flatten().copied().collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    format!(
        "{}\nbackends: {}\nfeatures: {}\ntarget: {}-{}",
        env!("CARGO_PKG_VERSION"),
        list(&backends),
        list(&features),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
}
