//! The program as a person meets it.

use llm_dit_testkit::program::Program;

const GATEWAY: Program = Program(env!("CARGO_BIN_EXE_gateway"));

#[test]
fn it_explains_itself() {
    GATEWAY.teaches("7860");
}

#[test]
fn a_wrong_command_line_exits_64() {
    GATEWAY.refuses_wrong_command_lines();
    GATEWAY.reads_a_configuration(("templates_dir = 5", "templates_dir must be a string"));
}
