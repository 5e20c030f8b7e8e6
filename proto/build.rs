//! Compiles the `.proto` files with protox, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["llmdit/v1/tensor.proto", "llmdit/v1/encoder.proto", "llmdit/v1/diffusion.proto"];
    println!("cargo:rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files)?;
    let descriptors = compiler.file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Served by gRPC reflection.
    fs::write(out.join("llmdit.v1.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        // Chunks of tensors and pictures are handed on without a copy.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
