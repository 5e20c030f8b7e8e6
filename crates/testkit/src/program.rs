//! What holds for each of the three services as a person meets it; each one's own tests include it.

use std::{
    fs,
    process::{Command, Output},
};

/// A built program.
pub struct Program(pub &'static str);

impl Program {
    /// Runs it, with neither the variables nor the configuration of whoever runs the tests.
    pub fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let nowhere = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(self.0);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("LLM_DIT_") || name_text.starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", nowhere.path()).env("XDG_CONFIG_HOME", nowhere.path());
        command.args(args).envs(variables.iter().copied()).output().expect("starts")
    }

    /// Runs what is a wrong command line, and returns what it said.
    pub fn refusal(&self, args: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.run(args, variables);
        assert_eq!(output.status.code(), Some(64), "{args:?} {variables:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    pub fn teaches(&self, port: &str) {
        let output = self.run(&["--help"], &[]);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("text");
        for word in ["Examples:", "--host", "--port", "--config", "LLM_DIT_", port] {
            assert!(text.contains(word), "no {word} in: {text}");
        }
    }

    pub fn refuses_wrong_command_lines(&self) {
        for args in [&["--nonsense"][..], &["--port", "70000"], &["--host", "here"]] {
            assert!(!self.refusal(args, &[]).is_empty(), "{args:?}");
        }
        let said = self.refusal(&[], &[("LLM_DIT_PORT", "70000")]);
        assert!(said.contains("70000"), "{said}");
        // Kubernetes sets this beside a Service named `llm-dit`.
        let said = self.refusal(&["--port", "70000"], &[("LLM_DIT_PORT", "tcp://10.0.0.1:7860")]);
        assert!(said.contains("70000") && !said.contains("tcp://"), "{said}");
        let linked = self.run(&["--help"], &[("LLM_DIT_PORT", "tcp://10.0.0.1:7860")]);
        assert!(linked.status.success());
        let said = self.refusal(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://localhost:4317")]);
        assert!(said.contains("variable OTEL_EXPORTER_OTLP_ENDPOINT"), "{said}");
        assert!(said.contains("http://HOST:PORT"), "{said}");
    }

    /// `wrong`: a line of `[default]` that this service has a flag for, with a value that it does
    /// not take, and what is said of it.
    pub fn reads_a_configuration(&self, wrong: (&str, &str)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        let path = path.to_str().expect("text");
        for (text, said) in [
            ("[default.generation]\nwidht = 1\n", "did you mean 'generation.width'"),
            (&format!("[default]\n{}\n", wrong.0), wrong.1),
        ] {
            fs::write(path, text).expect("written");
            let found = self.refusal(&["--config", path], &[]);
            assert!(found.contains("config.toml:2") && found.contains(said), "{found}");
        }
        let found = self.refusal(&["--config", path, "--profile", "mine"], &[]);
        assert!(found.contains("mine") || found.contains("config.toml:2"), "{found}");
    }
}
