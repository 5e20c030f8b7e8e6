//! Writes the GPU's kernels to a folder, a file for each way that they are compiled, so that they can
//! be compiled where there is no GPU: `cargo run -p llm-dit-kernels --example cuda_sources -- DIR`.

use std::{env, error::Error, fs, path::PathBuf};

use llm_dit_device::Capability;
use llm_dit_kernels::cuda_source::Source;

/// Compute capabilities of the cards that are supported, from RTX 20 to RTX 50.
const TARGETS: [Capability; 7] = [
    Capability::TURING,
    Capability::AMPERE,
    Capability::new(8, 6),
    Capability::new(8, 9),
    Capability::HOPPER,
    Capability::new(10, 0),
    Capability::new(12, 0),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args().nth(1).ok_or("usage: cuda_sources DIR")?);
    fs::create_dir_all(&folder)?;
    for target in TARGETS {
        for (i, source) in Source::all(target).into_iter().enumerate() {
            let name = format!("{i:02}.{}.cu", source.architecture(target));
            fs::write(folder.join(name), format!("// {source:?}\n{}", source.text()))?;
        }
    }
    Ok(())
}
