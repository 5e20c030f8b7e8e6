//! Running the program and looking at what it made.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// A folder of its own for each test.
pub struct Room(TempDir);

impl Room {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of the files here, hidden ones included.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("our own folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The program, to be run here with the demo model.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-dit"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        // Neither the variables nor the configuration of whoever runs the tests.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("LLM_DIT_") || text.starts_with("HF_") {
                command.env_remove(name);
            }
        }
        command.env("XDG_CONFIG_HOME", self.0.path());
        command.env("HF_HOME", self.path("huggingface")).env_remove("HUGGINGFACE_HUB_CACHE");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// Runs what must succeed, and returns what it said.
    pub fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        said
    }

    /// Runs what must fail with this status, and returns what it said. Nothing may be left behind.
    pub fn fail(&self, status: i32, args: &[&str]) -> String {
        let before = self.files();
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        assert_eq!(self.files(), before, "{args:?}");
        said
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect(name)
    }

    /// Of a picture, without what else stands in its file.
    pub fn pixels(&self, name: &str) -> Vec<u8> {
        image::load_from_memory(&self.read(name)).expect(name).into_rgb8().into_raw()
    }
}

/// Width and height of a PNG.
pub fn png_size(bytes: &[u8]) -> (u32, u32) {
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert!(bytes.ends_with(b"IEND\xae\x42\x60\x82"), "the file is whole");
    (number(16), number(20))
}

/// The model that ships with the repository.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo")
}
