//! The program as a person meets it.

use llm_dit_testkit::program::Program;

const ENCODER: Program = Program(env!("CARGO_BIN_EXE_encoder-service"));

#[test]
fn it_explains_itself() {
    ENCODER.teaches("50051");
}

#[test]
fn a_wrong_command_line_exits_64() {
    ENCODER.refuses_wrong_command_lines();
    ENCODER.reads_a_configuration(("encoder.device = \"gpu\"", "unknown device 'gpu'"));
}

#[test]
fn the_address_of_another_machine_is_checked() {
    for url in ["mac:port", "ftp://mac:8000", "http://mac:8000/v1"] {
        let said = ENCODER.refusal(&["--api-url", url], &[]);
        assert!(said.contains("--api-url") && said.contains("http://HOST:PORT"), "{said}");
    }
}
