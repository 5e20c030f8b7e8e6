//! `llm-dit templates`: lists the templates, or shows one.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use llm_dit_chat::ChatOptions;
use llm_dit_params::{Prompt, nearest};
use llm_dit_templates::{Library, Template};

use crate::{args::LibraryArgs, error::CliError, output::print};

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct TemplatesArgs {
    #[command(subcommand)]
    show: Option<TemplatesCommand>,
    #[command(flatten)]
    library: LibraryArgs,
    /// List only this category
    #[arg(long, value_name = "NAME")]
    category: Option<String>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum TemplatesCommand {
    /// Show one template and the chat that it produces
    Show(ShowArgs),
}

#[derive(Clone, Debug, Args)]
struct ShowArgs {
    /// Name of the template, with or without the prefix z_image_
    name: String,
    /// Prompt of the example
    #[arg(long, value_name = "TEXT", default_value = "a red apple on a blue background")]
    prompt: String,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  llm-dit templates --category photography
  llm-dit templates show noir
  llm-dit generate \"a lighthouse\" --template noir";

/// Prints one template, or the list of all.
///
/// # Errors
///
/// [`CliError`] if the templates cannot be read, if there is none of this name, or if stdout cannot
/// be written.
pub fn templates(args: &TemplatesArgs) -> Result<(), CliError> {
    let library = args.library.load()?;
    let text = match &args.show {
        Some(TemplatesCommand::Show(show)) => {
            let template = library.get(&show.name).map_err(CliError::usage)?;
            if show.json { json(template)? } else { details(template, &show.prompt)? }
        }
        None => list(&library, args.category.as_deref(), args.json)?,
    };
    print(&text)
}

fn list(library: &Library, category: Option<&str>, as_json: bool) -> Result<String, CliError> {
    let mut categories = library.by_category();
    if let Some(wanted) = category {
        let Some((name, templates)) = categories.remove_entry(wanted) else {
            return Err(unknown_category(wanted, categories.keys().copied().collect()));
        };
        categories = [(name, templates)].into();
    }
    if as_json {
        return json(&categories.into_values().flatten().collect::<Vec<_>>());
    }
    let width = library.iter().map(|t| t.short_name().len()).max().unwrap_or_default();
    let mut text = String::new();
    for (category, templates) in &categories {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{category} ({})", templates.len());
        for template in templates {
            let (name, description) = (template.short_name(), &template.description);
            let _ = writeln!(text, "{}", format!("  {name:width$}  {description}").trim_end());
        }
        text.push('\n');
    }
    text.push_str("Use one with --template NAME; see one with: llm-dit templates show NAME\n");
    Ok(text)
}

fn unknown_category(wanted: &str, known: Vec<&str>) -> CliError {
    let hint = match nearest(wanted, known.iter().copied()) {
        Some(category) => format!("did you mean '{category}'?"),
        None => format!("there are {}", known.join(", ")),
    };
    CliError::Usage(format!("there is no category '{wanted}'; {hint}"))
}

fn details(template: &Template, prompt: &str) -> Result<String, CliError> {
    let prompt = Prompt::parse(prompt).map_err(CliError::usage)?;
    let chat = template.fill(ChatOptions::default()).chat(prompt.into_string());
    let mut keys = vec![
        ("name", template.name.clone()),
        ("description", template.description.clone()),
        ("category", template.category.clone()),
        ("add_think_block", template.add_think_block.to_string()),
        ("file", template.path.display().to_string()),
    ];
    keys.extend(template.metadata.iter().map(|(key, value)| {
        (key.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }));
    let mut text = String::new();
    for (key, value) in keys {
        let _ = writeln!(text, "{key:15}  {value}");
    }
    let parts = [
        ("System prompt", Some(&template.system_prompt)),
        ("Thinking content", template.thinking_content.as_ref()),
        ("Assistant content", template.assistant_content.as_ref()),
        ("Formatted chat", Some(&chat.render())),
    ];
    for (title, part) in parts {
        if let Some(part) = part.filter(|part| !part.is_empty()) {
            let _ = writeln!(text, "\n{title}:\n{}", part.trim_end_matches('\n'));
        }
    }
    Ok(text)
}

fn json(value: &impl serde::Serialize) -> Result<String, CliError> {
    Ok(serde_json::to_string_pretty(value).map_err(CliError::failed)? + "\n")
}
