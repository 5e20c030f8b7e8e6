//! The program as a person meets it.

use llm_dit_testkit::program::Program;

const DIFFUSION: Program = Program(env!("CARGO_BIN_EXE_diffusion-service"));

#[test]
fn it_explains_itself() {
    DIFFUSION.teaches("50052");
}

#[test]
fn a_wrong_command_line_exits_64() {
    DIFFUSION.refuses_wrong_command_lines();
    DIFFUSION.reads_a_configuration(("devices.vae = \"gpu\"", "unknown device 'gpu'"));
}
