//! One rule gives every flag its variable: `--guidance-scale` is `LLM_DIT_GUIDANCE_SCALE`.

use std::env;

use clap::{Arg, Command, builder::Resettable};

const PREFIX: &str = "LLM_DIT_";

/// Lets every flag of the command and of its subcommands be set by a variable.
pub(crate) fn add_variables(command: Command) -> Command {
    command.mut_args(add_variable).mut_subcommands(add_variables)
}

/// As if there were no environment.
pub(crate) fn without_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| arg.env(Resettable::Reset));
    command.mut_subcommands(without_variables)
}

/// The variable of a flag, unless it has none: positional arguments, `--help` and `--version`.
fn variable(arg: &Arg) -> Option<String> {
    let name = arg.get_long()?;
    let nothing_to_set = matches!(name, "help" | "version");
    (!nothing_to_set).then(|| named(name))
}

fn named(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

/// The variable of a flag as messages write it: `--steps <N>`, `--preview[=<WHEN>]`.
pub(crate) fn variable_of(command: &Command, shown: &str) -> Option<String> {
    let name = shown.strip_prefix("--")?;
    let name = name.split([' ', '[', '=', '<']).next().filter(|name| !name.is_empty())?;
    Some(own_variable(command, name).unwrap_or_else(|| named(name)))
}

/// The variable that the flag's definition names, in whichever subcommand it is.
fn own_variable(command: &Command, flag: &str) -> Option<String> {
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    let own = arg.and_then(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
    own.or_else(|| command.get_subcommands().find_map(|sub| own_variable(sub, flag)))
}

fn add_variable(arg: Arg) -> Arg {
    match variable(&arg) {
        // A definition that names its own variable knows better.
        Some(name) if arg.get_env().is_none() && service_link(&name).is_none() => {
            arg.env(name).hide_env(true)
        }
        _ => arg,
    }
}

/// The value of a variable that Kubernetes, not a person, has set: it gives every container an
/// address such as `LLM_DIT_PORT=tcp://10.0.0.1:7860` for a Service named `llm-dit`.
pub(crate) fn service_link(variable: &str) -> Option<String> {
    let value = env::var(variable).ok()?;
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    (address && variable.ends_with("_PORT")).then_some(value)
}

/// The variable that stands for a flag of the command line, if Kubernetes has set it.
pub(crate) fn service_links(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(variable);
    let mut links: Vec<_> = own.filter_map(|name| service_link(&name).map(|_| name)).collect();
    links.extend(command.get_subcommands().flat_map(service_links));
    links.sort();
    links.dedup();
    links
}
