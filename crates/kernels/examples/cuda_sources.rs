//! Writes the GPU's kernels to a folder, a file for each way that they are compiled, so that they can
//! be compiled where there is no GPU: `cargo run -p llm-dit-kernels --example cuda_sources -- DIR`.

use std::{env, error::Error, fs, path::PathBuf};

use llm_dit_kernels::cuda_source::Source;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args().nth(1).ok_or("usage: cuda_sources DIR")?);
    fs::create_dir_all(&folder)?;
    for (i, source) in Source::all().into_iter().enumerate() {
        // Hopper's own instructions need an architecture with an `a`.
        let architecture = if source.needs_hopper() { "sm_90a" } else { "sm_80" };
        let name = format!("{i:02}.{architecture}.cu");
        fs::write(folder.join(name), format!("// {source:?}\n{}", source.text()))?;
    }
    Ok(())
}
