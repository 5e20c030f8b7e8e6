//! What this build is, for `--version`.

/// What this build computes on.
pub fn backends() -> Vec<&'static str> {
    on([
        ("cpu", cfg!(feature = "local")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ])
}

/// The version, what it computes on, and the optional parts that are in it.
pub fn long() -> String {
    let features = on([
        ("local", cfg!(feature = "local")),
        ("embed-demo-model", cfg!(feature = "embed-demo-model")),
    ]);
    let list = |names: &[&str]| {
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    format!(
        "{}\nbackends: {}\nfeatures: {}\ntarget: {}-{}",
        env!("CARGO_PKG_VERSION"),
        list(&backends()),
        list(&features),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
}

fn on<const N: usize>(parts: [(&'static str, bool); N]) -> Vec<&'static str> {
    parts.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect()
}
