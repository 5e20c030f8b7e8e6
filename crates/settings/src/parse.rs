//! Parses a command line, with the environment and the configuration file as defaults.

use std::{collections::BTreeMap, error::Error as _, ffi::OsString, path::PathBuf};

use clap::{
    Arg, ArgMatches, Command, Parser,
    error::{ContextKind, ErrorKind},
};

use crate::{
    Settings, SettingsError,
    environment::{add_variables, service_links, variable_of, without_variables},
    file::{self, DEFAULT_PROFILE, FileValue, FileValues},
};

/// The program whose command line this is. The services take one part of what the command takes, so
/// a key that names the part sets the service's plain flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Command,
    Encoder,
    Diffusion,
    Gateway,
}

/// A command line, understood.
#[derive(Debug)]
pub struct Parsed<T> {
    pub args: T,
    pub settings: Settings,
}

/// Reads the process's command line, environment and configuration file.
///
/// # Errors
///
/// An error to print, with [`clap::Error::exit_code`]: a wrong flag, a configuration file that
/// cannot be used, or the text of `--help` and `--version`.
pub fn parse<T: Parser>(program: Program) -> Result<Parsed<T>, clap::Error> {
    try_parse_from(program, std::env::args_os())
}

/// As [`parse`], from given words; the first is the program's name.
///
/// # Errors
///
/// As [`parse`].
pub fn try_parse_from<T: Parser>(
    program: Program,
    words: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Parsed<T>, clap::Error> {
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let plain = command::<T>();
    let mut command = add_variables(plain.clone());
    let bad = |error: SettingsError| clap::Error::raw(ErrorKind::Io, format!("{error}\n"));

    let (path, profile) = config(command.clone(), &words);
    let path = path.or_else(|| if profile.is_none() { file::standard_path() } else { None });
    let values = match &path {
        Some(path) => {
            let values = file::read(path, profile.as_deref()).map_err(bad)?;
            let values = program.own(values);
            check(&plain, path, &values).map_err(bad)?;
            values
        }
        None => match profile {
            Some(profile) => return Err(bad(SettingsError::NoFile(profile))),
            None => FileValues::default(),
        },
    };
    command = with_defaults(command, &by_flag(&values));
    let matches = match command.try_get_matches_from_mut(words.clone()) {
        Ok(matches) => matches,
        Err(error) => return Err(from_a_variable(error, &plain, &by_flag(&values), words)),
    };
    let args = T::from_arg_matches(&matches)?;
    for note in &values.notes {
        eprintln!("note: {note}");
    }
    for variable in service_links(&plain) {
        eprintln!("note: {variable} is ignored: it holds the address of a Kubernetes Service");
    }
    let file = path.map(|path| (path, profile.unwrap_or_else(|| DEFAULT_PROFILE.to_owned())));
    let settings = Settings::new(&command, &matches, &values, file);
    Ok(Parsed { args, settings })
}

/// The command line of a program, with the flags of this crate.
pub fn command<T: Parser>() -> Command {
    T::command().arg(config_arg()).arg(profile_arg())
}

/// clap blames the flag for a variable's value. When the words alone are fine, a variable is to
/// blame, and the message says which.
fn from_a_variable(
    error: clap::Error,
    plain: &Command,
    values: &BTreeMap<&str, &[String]>,
    words: Vec<OsString>,
) -> clap::Error {
    let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    let name = flag.as_deref().and_then(|flag| variable_of(plain, flag));
    let wrong = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    let alone = || with_defaults(without_variables(plain.clone()), values);
    let words_alone = || alone().try_get_matches_from(words);
    match name {
        Some(name) if wrong && words_alone().is_ok() => {
            let value = error.get(ContextKind::InvalidValue).map(ToString::to_string);
            let value = value.unwrap_or_default();
            let message = format!("variable {name}: invalid value '{value}': {}\n", why(&error));
            clap::Error::raw(error.kind(), message)
        }
        _ => error,
    }
}

fn config_arg() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .global(true)
        .display_order(900)
        .help("Configuration file (TOML)")
        .long_help("Configuration (TOML) with profiles [default: llm-dit/config.toml in the user's configuration folder]")
}

fn profile_arg() -> Arg {
    Arg::new("profile")
        .long("profile")
        .value_name("NAME")
        .global(true)
        .display_order(901)
        .hide_short_help(true)
        .help("Profile of the configuration to use [default: default]")
}

/// Which file and profile the words and the environment name. Whatever else is wrong with the
/// words is for the real parse to say.
fn config(command: Command, words: &[OsString]) -> (Option<PathBuf>, Option<String>) {
    let matches = command.ignore_errors(true).try_get_matches_from(words);
    let Ok(mut matches) = matches else { return (None, None) };
    loop {
        let path = matches.get_one::<PathBuf>("config").cloned();
        let profile = matches.get_one::<String>("profile").cloned();
        if path.is_some() || profile.is_some() {
            return (path, profile);
        }
        // A global flag is in the matches of the subcommand it was written after.
        match matches.remove_subcommand() {
            Some((_, inner)) => matches = inner,
            None => return (None, None),
        }
    }
}

impl Program {
    /// The values that are this program's, under its own flags' ids.
    fn own(self, file: FileValues) -> FileValues {
        let FileValues { values, notes } = file;
        let mut kept: Vec<FileValue> = Vec::with_capacity(values.len());
        for mut value in values {
            value.flag = match (self, value.flag) {
                (Self::Encoder, "text_encoder_device") => "device",
                (Self::Encoder, "text_encoder_dtype") => "dtype",
                // A service of one part: what the file says of the others is not its own, and
                // the port, and who may connect, is the gateway's.
                (Self::Encoder, "device" | "dtype") => continue,
                (Self::Diffusion, "dit_device") => {
                    kept.retain(|k| k.flag != "device");
                    "device"
                }
                (Self::Diffusion, "device") if kept.iter().any(|k| k.flag == "device") => continue,
                (
                    Self::Encoder | Self::Diffusion,
                    "host" | "port" | "tls_cert" | "tls_key" | "tls_client_ca" | "keys"
                    | "insecure" | "max_connections" | "max_memory",
                ) => continue,
                (_, flag) => flag,
            };
            kept.push(value);
        }
        FileValues { values: kept, notes }
    }
}

fn by_flag(values: &FileValues) -> BTreeMap<&str, &[String]> {
    values.values.iter().map(|v| (v.flag, v.values.as_slice())).collect()
}

/// The command with these defaults, in every subcommand that has the flag.
fn with_defaults(command: Command, values: &BTreeMap<&str, &[String]>) -> Command {
    command
        .mut_args(|arg| match values.get(arg.get_id().as_str()) {
            Some(values) => arg.default_values(values.iter().cloned()),
            None => arg,
        })
        .mut_subcommands(|sub| with_defaults(sub, values))
}

/// Whether each value is one that its flag would take; here the message can name file and line.
fn check(
    command: &Command,
    path: &std::path::Path,
    values: &FileValues,
) -> Result<(), SettingsError> {
    for value in &values.values {
        if let Err(why) = takes(command, value) {
            let problem = format!("{} is not valid: {why}", value.key);
            return Err(SettingsError::Key { path: path.to_owned(), line: value.line, problem });
        }
    }
    Ok(())
}

fn takes(command: &Command, value: &FileValue) -> Result<(), String> {
    if command.get_arguments().any(|arg| arg.get_id() == value.flag) {
        let one = BTreeMap::from([(value.flag, value.values.as_slice())]);
        let alone = command
            .clone()
            .subcommand_required(false)
            .arg_required_else_help(false)
            .mut_args(|arg| arg.required(false));
        let parsed: Result<ArgMatches, _> =
            with_defaults(alone, &one).try_get_matches_from(["llm-dit"]);
        parsed.map_err(|error| why(&error))?;
    }
    command.get_subcommands().try_for_each(|sub| takes(sub, value))
}

/// The error of the flag's own parser.
fn why(error: &clap::Error) -> String {
    if let Some(cause) = error.source() {
        return cause.to_string();
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
