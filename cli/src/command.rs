//! The whole command line: flags as they are declared, with what is the same for all of them.

use clap::{
    ArgMatches, Command, CommandFactory, Error, FromArgMatches, Parser, builder::StyledStr,
};

use crate::Cli;

/// [`Cli`] with a short help for `-h`, and with negative numbers as values.
#[derive(Debug)]
pub struct Whole(pub Cli);

/// A flag in the short help, and what is said of it there; nothing: the first words of its text.
type Shown = (&'static str, &'static str);

/// Flags that `-h` shows, by command. `--help` shows all. A command that is not here has few.
const SHORT: &[(&str, &[Shown])] = &[
    (
        "generate",
        &[
            ("prompt", "The prompt; - reads it from stdin"),
            ("output", ""),
            ("num_images", ""),
            ("prompts", "File with one prompt per line"),
            ("json", "Print a line of JSON on stdout for each image"),
            ("quiet", "Show no progress"),
            ("model_path", ""),
            ("device", ""),
            ("width", ""),
            ("height", ""),
            ("steps", "Denoising steps [default: the model's]"),
            ("seed", "Seed of the initial noise [default: random, and reported]"),
            ("guidance_scale", "Guidance scale; 0 is off [default: the model's]"),
            ("negative_prompt", ""),
            ("scheduler", "flow_euler, flow_heun, dpm_solver or unipc [default: the model's]"),
            ("image", ""),
            ("mask", "Mask of the init image: white is regenerated"),
            ("strength", "Fraction of the init image to regenerate [default: 0.6]"),
            ("template", ""),
            ("lora", ""),
            ("gateway", ""),
        ],
    ),
    (
        "encode",
        &[
            ("prompts", ""),
            ("encode_output", ""),
            ("json", ""),
            ("quiet", "Show no progress"),
            ("model_path", ""),
            ("device", ""),
            ("dtype", ""),
            ("template", ""),
            ("api_url", ""),
        ],
    ),
    (
        "serve",
        &[
            ("host", ""),
            ("port", ""),
            ("model_path", ""),
            ("device", ""),
            ("dtype", ""),
            ("lora", ""),
            ("loras_dir", ""),
            ("keys", ""),
            ("tls_cert", ""),
            ("tls_key", ""),
            ("history", ""),
            ("no_history", ""),
            ("api_url", ""),
        ],
    ),
    (
        "bench",
        &[
            ("shape", ""),
            ("only", ""),
            ("sizes", "Side lengths of the square images in pixels, comma-separated"),
            ("batches", ""),
            ("runs", ""),
            ("json", ""),
            ("compare", ""),
            ("model_path", ""),
            ("device", ""),
            ("dtype", ""),
            ("quiet", ""),
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
    command.mut_subcommands(|sub| {
        let name = sub.get_name().to_owned();
        match SHORT.iter().find(|(known, _)| *known == name) {
            Some((_, shown)) => with_short_help(sub, &name, shown),
            None => sub,
        }
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

fn with_short_help(command: Command, name: &str, shown: &[Shown]) -> Command {
    let more = format!("All flags, with examples: llm-dit {name} --help");
    command
        .mut_args(|arg| {
            let Some((_, said)) = shown.iter().find(|(id, _)| arg.get_id() == *id) else {
                return arg.hide_short_help(true);
            };
            let Some(whole) = arg.get_help().cloned() else { return arg };
            let said = if said.is_empty() { brief(&whole.to_string()) } else { (*said).to_owned() };
            // The whole text stays for `--help`.
            arg.long_help(whole).help(said)
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
                for (id, _) in *shown {
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
