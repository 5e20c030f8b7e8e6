//! A small program with flags like ours, and what files and flags make of them.

use std::{fs, path::PathBuf};

use clap::{Parser, Subcommand};
use llm_dit_settings::{Origin, Parsed, Program, try_parse_from};
use tempfile::TempDir;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(Generate),
    Serve {
        #[arg(long, default_value_t = 7860)]
        port: u16,
    },
}

#[derive(Debug, clap::Args)]
struct Generate {
    prompt: Option<String>,
    #[arg(long)]
    model_path: Option<PathBuf>,
    #[arg(long)]
    steps: Option<u32>,
    #[arg(long)]
    guidance_scale: Option<f32>,
    #[arg(long)]
    device: Option<String>,
    #[arg(long)]
    dit_device: Option<String>,
    #[arg(long)]
    enable_thinking: bool,

    #[arg(long)]
    lora: Vec<String>,
    #[arg(long)]
    lora_trigger: Vec<String>,
}

struct File(TempDir);

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("c.toml"), text).expect("written");
        Self(folder)
    }

    fn parse(&self, words: &[&str]) -> Result<Parsed<Cli>, String> {
        let path = self.0.path().join("c.toml");
        let path = path.to_str().expect("text");
        let mut all = vec!["llm-dit", "generate", "--config", path];
        all.extend(words);
        try_parse_from(Program::Command, all).map_err(|error| error.to_string())
    }

    fn generate(&self, words: &[&str]) -> Generate {
        match self.parse(words).expect("valid").args.command {
            Command::Generate(args) => args,
            Command::Serve { .. } => panic!("generate was asked for"),
        }
    }

    fn refused(&self, words: &[&str]) -> String {
        self.parse(words).map(drop).expect_err("it must be refused")
    }
}

const FILE: &str = r#"
[default]
model_path = "models/x"
[default.generation]
num_inference_steps = 9
guidance_scale = 2
enable_thinking = true
[fast.generation]
steps = 4
[server]
port = 8000
"#;

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let file = File::new(FILE);
    // A repository has such a name; a path to nothing stays as it stands.
    let named = file.generate(&["a cat"]).model_path;
    assert_eq!(named.as_deref(), Some(std::path::Path::new("models/x")));
    std::fs::create_dir_all(file.0.path().join("models/x")).expect("made");
    let args = file.generate(&["a cat"]);
    assert_eq!(args.prompt.as_deref(), Some("a cat"));
    assert_eq!((args.steps, args.guidance_scale, args.enable_thinking), (Some(9), Some(2.0), true));
    // Relative to the file's own folder.
    assert_eq!(args.model_path, Some(file.0.path().join("models/x")));
    assert_eq!(file.generate(&["--steps", "3"]).steps, Some(3));
    let fast = file.generate(&["--profile", "fast"]);
    assert_eq!((fast.steps, fast.guidance_scale, fast.enable_thinking), (Some(4), None, false));
}

#[test]
fn it_is_known_who_said_what() {
    let file = File::new(FILE);
    let settings = file.parse(&["--steps", "3"]).expect("valid").settings;
    let origin = |path: &str| {
        settings.settings.iter().find(|s| s.path == path).expect("a key").origin.clone()
    };
    assert_eq!(origin("generation.steps"), Origin::Flag("--steps".into()));
    assert_eq!(origin("generation.guidance_scale"), Origin::File);
    assert_eq!(origin("devices.dit"), Origin::Default);
    assert!(settings.is_explicit("steps") && !settings.is_explicit("guidance_scale"));
    assert_eq!(settings.file.expect("read").1, "default");
}

#[test]
fn the_server_table_is_global() {
    let file = File::new(FILE);
    let path = file.0.path().join("c.toml");
    let words = ["llm-dit", "--config", path.to_str().expect("text"), "serve"];
    let parsed: Parsed<Cli> = try_parse_from(Program::Command, words).expect("valid");
    assert!(matches!(parsed.args.command, Command::Serve { port: 8000 }));
}

#[test]
fn loras_become_repeated_flags() {
    let file = File::new(
        r#"
[default.lora]
entries = [
    { path = "a.safetensors", scale = 0.5, trigger_words = "ink" },
    { path = "off.safetensors", enabled = false },
    { path = "d.safetensors", pass = "positive" },
    { path = "e.safetensors", pass = "positive", blocks = "layers.0-14=0" },
]
paths = ["b.safetensors", "c.safetensors"]
scales = [2]
"#,
    );
    let args = file.generate(&[]);
    let expected = [
        "a.safetensors:0.5",
        "d.safetensors:1.0@pass=positive",
        "e.safetensors:1.0@layers.0-14=0,pass=positive",
        "b.safetensors:2",
        "c.safetensors:1.0",
    ];
    assert_eq!(args.lora, expected);
    assert_eq!(args.lora_trigger, ["ink", "", "", "", ""]);
    assert_eq!(file.generate(&["--lora", "d"]).lora, ["d"]);
}

#[test]
fn what_is_unknown_is_refused_by_name_with_the_nearest() {
    for (text, expected) in [
        (
            "[default.generation]\nstep = 4",
            "c.toml:2: unknown key 'generation.step'; did you mean 'generation.steps'?",
        ),
        (
            "[default.generations]\nsteps = 4",
            "unknown table 'generations'; did you mean 'generation'?",
        ),
        ("[default]\nmodel = 'x'", "unknown key 'model'; did you mean 'model_path'?"),
        ("steps = 4", "'steps' is outside a profile; move it to [default.generation]"),
        ("stepz = 4", "'stepz' is outside a profile; move it to [default]"),
        ("[generation]\nsteps = 4", "c.toml:1: [generation] is a table of a profile"),
        ("[default.server]\nport = 1", "[server] is not part of a profile"),
        ("[server]\nprt = 1", "unknown key 'server.prt'; did you mean 'server.port'?"),
        (
            "[default.lora]\nentries = [{ pth = 'x' }]",
            "unknown key 'pth' in lora.entries; did you mean 'path'?",
        ),
        // Profiles that are not chosen are checked as well.
        ("[default]\n[other]\nmodel = 'x'", "c.toml:3: unknown key 'model'"),
    ] {
        let error = File::new(text).refused(&[]);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let file = File::new(FILE);
    let error = file.refused(&["--profile", "fst"]);
    assert!(error.contains("has no profile 'fst'; did you mean 'fast'?"), "{error}");
    let error = File::new("[fast]").refused(&[]);
    assert!(error.contains("has no profile 'default'; there is fast"), "{error}");
}

#[test]
fn wrong_values_are_refused_with_file_and_line() {
    for (text, expected) in [
        (
            "[default.generation]\nsteps = 'many'",
            "c.toml:2: generation.steps must be a whole number, not string",
        ),
        (
            "[default.generation]\n\nsteps = -1",
            "c.toml:3: generation.steps is not valid: -1 is not in",
        ),
        ("[default.optimization]\ncpu_offload = 1", "must be true or false"),
        (
            "[default.pipeline]\nenable_sequential_cpu_offload = true",
            "parts are offloaded whole, not layer by layer",
        ),
        (
            "[default.encoder]\nquantization = '4bit'",
            "weights are not quantized while they are loaded",
        ),
        (
            "[default.generation]\nsteps = 4\nnum_inference_steps = 5",
            "set the same value and differ",
        ),
        ("[default.lora]\nscales = [1.0]", "lora has 1 scales for 0 paths"),
        ("[default\n", "is not valid TOML"),
    ] {
        let error = File::new(text).refused(&[]);
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_missing_file_and_a_profile_without_one_are_named() {
    let none = ["llm-dit", "generate", "--config", "no/such.toml"];
    let error = try_parse_from::<Cli>(Program::Command, none).map(drop).expect_err("no file");
    assert!(error.to_string().contains("cannot read the configuration no/such.toml"));
    let none = ["llm-dit", "generate", "--profile", "fast"];
    let error = try_parse_from::<Cli>(Program::Command, none).map(drop).expect_err("no file");
    assert!(error.to_string().contains("name one with --config"));
}

/// The services are one part of the command each, with plain flags.
#[test]
fn a_services_device_is_the_devices_of_its_part() {
    #[derive(Debug, Parser)]
    struct Service {
        #[arg(long)]
        device: Option<String>,
        #[arg(long, default_value_t = 50052)]
        port: u16,
    }
    let file = File::new(
        "[default.pipeline]\ndevice = 'cuda'\n[default.devices]\ntext_encoder = 'metal'\ndit = 'cuda:1'\n[server]\nport = 1",
    );
    let path = file.0.path().join("c.toml");
    let device = |program: Program| {
        let words = ["x", "--config", path.to_str().expect("text")];
        let parsed: Parsed<Service> = try_parse_from(program, words).expect("valid");
        assert_eq!(parsed.args.port, 50052);
        parsed.args.device
    };
    assert_eq!(device(Program::Encoder).as_deref(), Some("metal"));
    assert_eq!(device(Program::Diffusion).as_deref(), Some("cuda:1"));
}
