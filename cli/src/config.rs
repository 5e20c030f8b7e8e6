//! `llm-dit config`: shows the settings in effect and the source of each value.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::{Args, Subcommand};
use llm_dit_hub::RemoteArgs;
use llm_dit_memory::MemoryArgs;
use llm_dit_serving::{Grace, args::ListenArgs, telemetry::TraceArgs};
use llm_dit_settings::{KEYS, Kind, Origin, Setting, Settings};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    args::GenerateArgs,
    error::CliError,
    local::{AccessArgs, JobArgs, OpenAiArgs},
    output::print,
};

/// The file that ships with the repository; a test loads it.
const EXAMPLE: &str = include_str!("../../config.example.toml");

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting in effect as TOML, with the source of each value. Accepts the flags of
    /// `generate` and `serve`, to try out a command line
    Show(Box<ShowArgs>),
    /// Print a commented example configuration with every key
    #[command(after_help = "Example:\n  llm-dit config example > config.toml")]
    Example,
}

#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    generate: GenerateArgs,
    #[command(flatten)]
    listen: ListenArgs<7860>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    openai: OpenAiArgs,
    #[command(flatten)]
    jobs: JobArgs,
    #[command(flatten)]
    grace: Grace,
    #[command(flatten)]
    traces: TraceArgs,
    #[command(flatten)]
    hub: RemoteArgs,
    /// Print a JSON object of keys, each with its value and origin
    #[arg(long)]
    json: bool,
}

/// One setting as it is printed.
#[derive(Serialize)]
struct Shown {
    /// `None` if the setting is unset and the model has no default for it.
    value: Option<Value>,
    origin: String,
}

/// Prints the example, or the settings in effect.
///
/// # Errors
///
/// [`CliError`] if stdout cannot be written.
pub fn run(command: ConfigCommand, settings: &Settings) -> Result<(), CliError> {
    let text = match command {
        ConfigCommand::Example => EXAMPLE.to_owned(),
        ConfigCommand::Show(args) => {
            let shown = shown(&args, settings);
            if args.json {
                let by_path: BTreeMap<&str, &Shown> =
                    shown.iter().map(|(path, shown)| (*path, shown)).collect();
                serde_json::to_string_pretty(&by_path).map_err(CliError::failed)? + "\n"
            } else {
                toml(&shown, settings)
            }
        }
    };
    print(&text)
}

fn shown(args: &ShowArgs, settings: &Settings) -> Vec<(&'static str, Shown)> {
    let model = model_defaults(args);
    let origin = |setting: &Setting| match &setting.origin {
        Origin::Flag(name) => name.clone(),
        Origin::Environment(name) => format!("${name}"),
        Origin::File => "file".to_owned(),
        Origin::Default => "default".to_owned(),
    };
    let one = |setting: &Setting| {
        if !setting.values.is_empty() {
            return Shown { value: Some(value(setting)), origin: origin(setting) };
        }
        match model.get(setting.flag) {
            Some((value, label)) => {
                Shown { value: Some(value.clone()), origin: format!("model {label}") }
            }
            None => Shown { value: None, origin: "not set".to_owned() },
        }
    };
    settings.settings.iter().map(|setting| (setting.path, one(setting))).collect()
}

/// What the model's own files say, by flag.
fn model_defaults(args: &ShowArgs) -> BTreeMap<&'static str, (Value, String)> {
    let Some((folder, label, defaults)) = args.generate.model.known() else {
        return BTreeMap::new();
    };
    [
        ("model_path", json!(folder.to_string_lossy())),
        ("width", json!(defaults.width)),
        ("height", json!(defaults.height)),
        ("steps", json!(defaults.steps)),
        ("guidance_scale", json!(defaults.guidance_scale)),
        ("shift", json!(defaults.shift)),
    ]
    .map(|(flag, value)| (flag, (value, label.clone())))
    .into()
}

fn value(setting: &Setting) -> Value {
    let kind = KEYS.iter().find(|key| key.path == setting.path).map(|key| key.kind);
    let one = |value: &String| match kind {
        // The flag's parser took it; what JSON has no number for stays the text that it was.
        Some(Kind::Integer | Kind::Number | Kind::Switch) => {
            serde_json::from_str(value).unwrap_or_else(|_| json!(value))
        }
        _ => json!(value),
    };
    match (kind, setting.values.as_slice()) {
        (Some(Kind::LoraEntries), values) => {
            let entry = |value: &String| {
                let (path, scale) = value.rsplit_once(':').unwrap_or((value, "1.0"));
                json!({ "path": path, "scale": scale.parse::<f64>().unwrap_or(1.0) })
            };
            values.iter().map(entry).collect()
        }
        (Some(Kind::Texts | Kind::Numbers), values) => values.iter().map(one).collect(),
        (_, [single]) => one(single),
        (_, values) => values.iter().map(one).collect(),
    }
}

/// As TOML has it on one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name} = {}", inline(value));
            format!("{{ {} }}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        // A JSON string is a TOML basic string, and numbers and switches are the same in both.
        other => other.to_string(),
    }
}

fn toml(shown: &[(&'static str, Shown)], settings: &Settings) -> String {
    let mut text = String::new();
    let profile = match &settings.file {
        Some((path, profile)) => {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "# profile '{profile}' of {}", path.display());
            profile.as_str()
        }
        None => {
            text.push_str("# no configuration file\n");
            "default"
        }
    };
    let mut table = None;
    for (path, shown) in shown {
        let (inner, name) = path.rsplit_once('.').unwrap_or(("", path));
        let header = match inner {
            "" => format!("[{profile}]"),
            // Global: it belongs to no profile.
            "server" => "[server]".to_owned(),
            inner => format!("[{profile}.{inner}]"),
        };
        if table.as_ref() != Some(&header) {
            let _ = writeln!(text, "\n{header}");
            table = Some(header);
        }
        let line = match &shown.value {
            Some(value) => format!("{name} = {}", inline(value)),
            None => format!("# {name}"),
        };
        let _ = writeln!(text, "{line:<40} # {}", shown.origin);
    }
    text
}
