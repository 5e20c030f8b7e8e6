//! The settings in effect, and the source of each.

use std::path::PathBuf;

use clap::{ArgMatches, Command, parser::ValueSource};

use crate::{
    file::{FileValue, FileValues},
    keys::{KEYS, Use},
};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag, with its name.
    Flag(String),
    /// A variable, with its name.
    Environment(String),
    /// The file's profile.
    File,
    /// Built in.
    Default,
}

/// A key of the file format, and what it is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As in [`KEYS`].
    pub path: &'static str,
    pub flag: &'static str,
    /// Empty when the setting has only its default; several for a flag that may be repeated.
    pub values: Vec<String>,
    pub origin: Origin,
}

/// All settings of one command line.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The file that was read, and its profile.
    pub file: Option<(PathBuf, String)>,
    pub settings: Vec<Setting>,
    /// What else was said: by flag or variable, with or without a key.
    explicit: Vec<String>,
}

impl Settings {
    pub(crate) fn new(
        command: &Command,
        matches: &ArgMatches,
        values: &FileValues,
        file: Option<(PathBuf, String)>,
    ) -> Self {
        let (command, matches) = innermost(command, matches);
        let mut explicit = Vec::new();
        let mut settings = Vec::new();
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            // Not every argument of the definition is in the matches: `--help` is not.
            let Ok(Some(source)) = matches.try_contains_id(id).map(|_| matches.value_source(id))
            else {
                continue;
            };
            if source != ValueSource::DefaultValue {
                explicit.push(id.to_owned());
            }
        }
        for key in KEYS {
            // LoRAs have several keys; the flag's id stands for all of them.
            let flag = match key.used {
                Use::Flag(flag) => flag,
                Use::Lora if key.path == "lora.entries" => "lora",
                _ => continue,
            };
            let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == flag) else {
                continue;
            };
            let raw = matches.get_raw(flag).into_iter().flatten();
            let value = raw.map(|v| v.to_string_lossy().into_owned()).collect();
            let origin = match matches.value_source(flag) {
                Some(ValueSource::CommandLine) => {
                    Origin::Flag(format!("--{}", arg.get_long().unwrap_or(flag)))
                }
                Some(ValueSource::EnvVariable) => {
                    let name = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                    Origin::Environment(name.unwrap_or_default())
                }
                _ if values.values.iter().any(|FileValue { flag: f, .. }| *f == flag) => {
                    Origin::File
                }
                _ => Origin::Default,
            };
            settings.push(Setting { path: key.path, flag, values: value, origin });
        }
        Self { file, settings, explicit }
    }

    /// True when a flag or a variable set this argument, as opposed to a file or the default.
    pub fn is_explicit(&self, id: &str) -> bool {
        self.explicit.iter().any(|e| e == id)
    }
}

/// The subcommand that runs, however deep.
fn innermost<'a>(
    mut command: &'a Command,
    mut matches: &'a ArgMatches,
) -> (&'a Command, &'a ArgMatches) {
    while let Some((name, inner)) = matches.subcommand() {
        let Some(next) = command.find_subcommand(name) else { break };
        (command, matches) = (next, inner);
    }
    (command, matches)
}
