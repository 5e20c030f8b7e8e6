//! Explains a wrong command line: the flag that was meant, also where it has another name in other
//! programs.

mod foreign;

use std::{
    error::Error as _,
    ffi::OsString,
    num::{ParseFloatError, ParseIntError},
};

use clap::{
    Arg, Command, Error,
    error::{ContextKind, ErrorKind},
};
use llm_dit_params::nearest;

use self::foreign::Foreign;

/// The error with the way out. `words` are the command line, with the program's name.
pub fn explain(error: Error, command: &Command, words: &[OsString]) -> Error {
    let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let (path, inner) = innermost(command, &words);
    let context = |kind| error.get(kind).map(ToString::to_string);
    let said = match error.kind() {
        ErrorKind::UnknownArgument => context(ContextKind::InvalidArg)
            .map(|flag| unknown_flag(&flag, inner, command))
            .map(|why| (why, path)),
        ErrorKind::InvalidSubcommand => context(ContextKind::InvalidSubcommand)
            .map(|word| (unknown_command(&word, inner), path)),
        ErrorKind::ArgumentConflict => context(ContextKind::InvalidArg)
            .filter(|flag| flag.starts_with("--steps") && is_alias_used(&words))
            .map(|_| {
                let why = "--steps and --num-inference-steps are the same parameter; remove one";
                (why.to_owned(), path)
            }),
        ErrorKind::ValueValidation => not_a_number(&error).map(|why| (why, path)),
        _ => None,
    };
    let Some((why, path)) = said else { return error };
    Error::raw(error.kind(), format!("{why}\n\nFor more information, try '{path} --help'.\n"))
}

/// The subcommand that the words name, and how it is called.
fn innermost<'a>(command: &'a Command, words: &[String]) -> (String, &'a Command) {
    let (mut path, mut command) = (command.get_name().to_owned(), command);
    for word in words.iter().skip(1) {
        let Some(next) = command.find_subcommand(word) else {
            // Flags may stand before a subcommand; what follows its name is its own.
            if path.contains(' ') && !command.has_subcommands() {
                break;
            }
            continue;
        };
        path = format!("{path} {}", next.get_name());
        command = next;
    }
    (path, command)
}

fn unknown_flag(flag: &str, command: &Command, root: &Command) -> String {
    let hint = hint(flag, command, root).map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("unexpected argument '{flag}'{hint}")
}

fn hint(flag: &str, command: &Command, root: &Command) -> Option<String> {
    if !flag.starts_with('-') {
        let has_prompt = command.get_positionals().any(|arg| arg.get_id() == "prompt");
        return has_prompt.then(|| "put the prompt in quotes".to_owned());
    }
    let name = flag.trim_start_matches('-').to_lowercase().replace('_', "-");
    if flag.starts_with("--") && has(command, &name) {
        return Some(format!("write it as --{name}"));
    }
    if let Some(Foreign { flag: ours, note, .. }) = foreign::find(flag, &name)
        && (ours.is_empty() || has(command, ours))
    {
        return Some(match (ours.is_empty(), note.is_empty()) {
            (true, _) => (*note).to_owned(),
            (false, true) => format!("use --{ours}"),
            (false, false) => format!("use --{ours}: {note}"),
        });
    }
    if flag.starts_with("--")
        && let Some(near) = nearest(&name, command.get_arguments().filter_map(Arg::get_long))
    {
        return Some(format!("did you mean --{near}?"));
    }
    // `health` takes the flags of the server that it asks.
    let is_its_own = |other: &&Command| other.get_name() != "health";
    let elsewhere = root.get_subcommands().filter(is_its_own).filter(|other| has(other, &name));
    let elsewhere: Vec<&str> = elsewhere.map(Command::get_name).collect();
    (!elsewhere.is_empty()).then(|| {
        format!("{} has no such flag, but {} has", command.get_name(), elsewhere.join(", "))
    })
}

fn has(command: &Command, flag: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(flag))
}

fn unknown_command(word: &str, command: &Command) -> String {
    let known = || command.get_subcommands().map(Command::get_name);
    let hint = if word.contains(char::is_whitespace) {
        "to draw it: llm-dit generate \"a red apple\"".to_owned()
    } else if let Some(command) = foreign::command(word) {
        format!("use {command}")
    } else if let Some(near) = nearest(word, known()) {
        format!("did you mean {near}?")
    } else {
        let known: Vec<&str> = known().collect();
        format!("there are {}", known.join(", "))
    };
    format!("unrecognized subcommand '{word}'; {hint}")
}

fn is_alias_used(words: &[String]) -> bool {
    words.iter().any(|word| word.starts_with("--num-inference-steps"))
}

/// What Rust says of a number is not said to people.
fn not_a_number(error: &Error) -> Option<String> {
    let source = error.source()?;
    let needed = if source.is::<ParseFloatError>() {
        "a number"
    } else if source.is::<ParseIntError>() || source.to_string().starts_with("invalid digit found")
    {
        "a whole number"
    } else {
        return None;
    };
    let flag = error.get(ContextKind::InvalidArg)?.to_string();
    let value = error.get(ContextKind::InvalidValue)?.to_string();
    let more = if flag.starts_with("--num-images") {
        "; a negative prompt is --negative-prompt"
    } else {
        ""
    };
    Some(format!("invalid value '{value}' for '{flag}': use {needed}{more}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::command::Whole;

    #[test]
    fn every_hint_names_a_flag_that_there_is() {
        let command = Whole::command();
        for Foreign { names, flag, note } in foreign::FLAGS {
            assert!(!names.is_empty());
            assert!(!flag.is_empty() || !note.is_empty(), "{names:?}");
            let known = command.get_subcommands().any(|sub| has(sub, flag));
            // A build without the engines has fewer.
            assert!(flag.is_empty() || known || cfg!(not(feature = "local")), "{flag}");
            for name in *names {
                let generate = command.find_subcommand("generate").expect("there");
                assert!(!has(generate, name), "--{name} is a flag of ours");
            }
        }
    }
}
