//! `llm-dit completions` and `llm-dit man`: files for shells and for `man`, made of the same
//! declarations as the flags.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{command::Whole, error::CliError, files, output::print_bytes};

#[derive(Clone, Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

const COMPLETIONS: &str = "\
Examples:
  llm-dit completions bash > ~/.local/share/bash-completion/completions/llm-dit
  llm-dit completions zsh > ~/.zfunc/_llm-dit
  llm-dit completions fish > ~/.config/fish/completions/llm-dit.fish";

#[derive(Clone, Debug, Args)]
#[command(after_help = MAN)]
pub struct ManArgs {
    /// Write the pages of all commands to this folder, which is created if it does not exist
    /// [default: print the page of COMMAND to stdout]
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    output_dir: Option<PathBuf>,
    /// The command whose page to print [default: llm-dit]
    command: Option<String>,
}

const MAN: &str = "\
Examples:
  llm-dit man generate | man -l -
  llm-dit man --output-dir ~/.local/share/man/man1";

/// Prints a completion script.
///
/// # Errors
///
/// [`CliError`] if stdout cannot be written.
pub fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut whole(), "llm-dit", &mut script);
    print_bytes(&script)
}

/// Prints a page, or writes all of them.
///
/// # Errors
///
/// [`CliError`] if there is no command of this name, or if a page cannot be written.
pub fn man(args: &ManArgs) -> Result<(), CliError> {
    let pages = pages()?;
    let Some(folder) = &args.output_dir else {
        let name = match &args.command {
            Some(command) => format!("llm-dit-{command}"),
            None => "llm-dit".to_owned(),
        };
        let page = pages.into_iter().find(|(known, _)| *known == name);
        let (_, page) = page.ok_or_else(|| {
            let command = args.command.as_deref().unwrap_or_default();
            CliError::Usage(format!("there is no command '{command}'; llm-dit --help lists them"))
        })?;
        return print_bytes(&page);
    };
    std::fs::create_dir_all(folder).map_err(|cause| {
        CliError::Usage(format!("cannot create --output-dir {}: {cause}", folder.display()))
    })?;
    for (name, page) in pages {
        files::write(&folder.join(format!("{name}.1")), &page)?;
    }
    Ok(())
}

fn whole() -> Command {
    llm_dit_settings::command::<Whole>()
}

/// Names of pages, and the pages.
fn pages() -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut command = whole().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<(), CliError> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone().name(name.clone()));
    man.render(&mut page).map_err(CliError::failed)?;
    pages.push((name, page));
    command.get_subcommands().try_for_each(|sub| collect(sub, pages))
}
