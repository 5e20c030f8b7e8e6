//! The whole command line: flags as they are declared, with what is the same for all of them.

use clap::{
    ArgMatches, Command, CommandFactory, Error, FromArgMatches, Parser, builder::StyledStr,
};

use crate::Cli;

/// [`Cli`] with a short help for `-h`, and with negative numbers as values.
#[derive(Debug)]
pub struct Whole(pub Cli);

/// Flags that `-h` shows, by command. `--help` shows all. A command that is not here has few.
const SHORT: &[(&str, &[&str])] = &[
    (
        "generate",
        &[
            "prompt",
            "output",
            "num_images",
            "prompts",
            "from",
            "json",
            "quiet",
            "model_path",
            "device",
            "dtype",
            "width",
            "height",
            "steps",
            "seed",
            "guidance_scale",
            "negative_prompt",
            "scheduler",
            "image",
            "strength",
            "template",
            "lora",
            "gateway",
            "config",
        ],
    ),
    (
        "encode",
        &[
            "prompts",
            "output",
            "json",
            "quiet",
            "model_path",
            "device",
            "dtype",
            "template",
            "api_url",
        ],
    ),
    (
        "serve",
        &[
            "host",
            "port",
            "model_path",
            "device",
            "dtype",
            "lora",
            "loras_dir",
            "keys",
            "tls_cert",
            "tls_key",
            "history",
            "no_history",
            "api_url",
        ],
    ),
    (
        "bench",
        &[
            "shape",
            "only",
            "sizes",
            "batches",
            "runs",
            "json",
            "compare",
            "model_path",
            "device",
            "dtype",
            "quiet",
        ],
    ),
];

impl CommandFactory for Whole {
    fn command() -> Command {
        whole(Cli::command())
    }

    fn command_for_update() -> Command {
        whole(Cli::command_for_update())
    }
}

impl FromArgMatches for Whole {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Cli::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Parser for Whole {}

fn whole(command: Command) -> Command {
    let command = with_negative_numbers(command);
    SHORT.iter().fold(command, |command, (name, shown)| {
        command.mut_subcommand(name, |sub| with_short_help(sub, name, shown))
    })
}

/// `--seed -1` gives the flag a wrong value, which its own message explains.
fn with_negative_numbers(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let takes_value = arg.get_long().is_some() && arg.get_action().takes_values();
            arg.allow_negative_numbers(takes_value)
        })
        .mut_subcommands(with_negative_numbers)
}

fn with_short_help(command: Command, name: &str, shown: &[&str]) -> Command {
    let more = format!("All flags, with examples: llm-dit {name} --help");
    command
        .mut_args(|arg| {
            let is_shown = shown.contains(&arg.get_id().as_str());
            let brief = arg.get_help().map(|help| brief(&help.to_string()));
            // The whole text stays for `--help`.
            match (is_shown, arg.get_help().cloned(), brief) {
                (true, Some(whole), Some(brief)) if arg.get_long_help().is_none() => {
                    arg.long_help(whole).help(brief)
                }
                (false, ..) => arg.hide_short_help(true),
                (true, ..) => arg,
            }
        })
        .after_help(StyledStr::from(more))
}

/// The first sentence or clause, with the default that ends the text.
fn brief(help: &str) -> String {
    let (text, default) = match help.rfind(" [default: ") {
        Some(at) if help.ends_with(']') => help.split_at(at),
        _ => (help, ""),
    };
    let end = [". ", "; ", ", with ", ", such as "].iter().filter_map(|end| text.find(end)).min();
    format!("{}{default}", &text[..end.unwrap_or(text.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent_and_shows_flags_that_there_are() {
        let command = Whole::command();
        command.clone().debug_assert();
        if cfg!(feature = "local") {
            for (name, shown) in SHORT {
                let sub = command.find_subcommand(name).expect(name);
                for id in shown.iter().filter(|id| **id != "config") {
                    assert!(sub.get_arguments().any(|arg| arg.get_id() == *id), "{name} {id}");
                }
            }
        }
    }

    #[test]
    fn a_help_text_is_cut_to_its_beginning() {
        assert_eq!(brief("JPEG quality; WebP files are lossless"), "JPEG quality");
        assert_eq!(brief("A. B [default: c]"), "A [default: c]");
        assert_eq!(brief("Width in pixels"), "Width in pixels");
    }
}
