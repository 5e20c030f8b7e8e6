//! `llm-dit list` and `llm-dit rm`: the models in the cache of the Hugging Face hub.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, IsTerminal as _},
};

use clap::Args;
use indicatif::DecimalBytes;
use llm_dit_hub::{CacheArgs, CachedRepo, HubError, RepoName};
use serde_json::{Value, json};

use crate::{error::CliError, output::print};

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  llm-dit list\n  llm-dit list Comfy-Org/z_image_turbo\n  llm-dit list --json | jq -r '.[].repo'"
)]
pub struct ListArgs {
    /// List the files of this repository, ORG/NAME [default: all repositories]
    repo: Option<RepoName>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Hugging Face hub")]
    cache: CacheArgs,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  llm-dit rm Tongyi-MAI/Z-Image-Turbo")]
pub struct RmArgs {
    /// Repository to remove from the cache, with all its revisions: ORG/NAME
    repo: RepoName,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten, next_help_heading = "Hugging Face hub")]
    cache: CacheArgs,
}

/// Prints what is in the cache.
///
/// # Errors
///
/// [`CliError`] if the cache cannot be read, or if it has no such repository.
pub fn list(args: &ListArgs) -> Result<(), CliError> {
    let cache = args.cache.cache().map_err(CliError::usage)?;
    let mut repos = cache.contents().map_err(CliError::failed)?;
    if let Some(wanted) = &args.repo {
        repos.retain(|repo| repo.repo == *wanted);
        if repos.is_empty() {
            return Err(CliError::usage(HubError::NotInCache(wanted.clone())));
        }
    }
    if args.json {
        let all: Vec<Value> = repos.iter().map(as_json).collect();
        return print(&(serde_json::to_string_pretty(&all).map_err(CliError::failed)? + "\n"));
    }
    if repos.is_empty() {
        eprintln!("{} has no models; llm-dit pull downloads some", cache.root().display());
        return Ok(());
    }
    print(&match &args.repo {
        Some(_) => repos.iter().map(files).collect(),
        None => table(&repos),
    })
}

/// Removes a repository from the cache.
///
/// # Errors
///
/// [`CliError`] if there is no such repository, if the user does not confirm, or if it cannot be removed.
pub fn rm(args: &RmArgs) -> Result<(), CliError> {
    let cache = args.cache.cache().map_err(CliError::usage)?;
    let contents = cache.contents().map_err(CliError::failed)?;
    let found = contents.into_iter().find(|found| found.repo == args.repo);
    let Some(found) = found else {
        return Err(CliError::usage(HubError::NotInCache(args.repo.clone())));
    };
    let freed = DecimalBytes(found.bytes + found.incomplete);
    if !args.yes && !agreed(&format!("remove {} ({freed}) from the cache? [y/N] ", args.repo))? {
        return Err(CliError::Failed("nothing was removed".to_owned()));
    }
    cache.remove(&args.repo).map_err(CliError::failed)?;
    eprintln!("removed {}, {freed}", args.repo);
    Ok(())
}

fn agreed(question: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "standard input is not a terminal, so the question cannot be asked; confirm with --yes"
                .to_owned(),
        ));
    }
    eprint!("{question}");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(CliError::failed)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn table(repos: &[CachedRepo]) -> String {
    let name = |repo: &CachedRepo| repo.repo.to_string();
    let width = repos.iter().map(|repo| name(repo).len()).max().unwrap_or_default();
    let mut text = String::new();
    for repo in repos {
        let files: usize = repo.snapshots.iter().map(|snapshot| snapshot.files.len()).sum();
        let revisions: Vec<&str> =
            repo.snapshots.iter().flat_map(|s| &s.revisions).map(String::as_str).collect();
        let incomplete = match repo.incomplete {
            0 => String::new(),
            bytes => format!(", {} of interrupted downloads", DecimalBytes(bytes)),
        };
        let size = DecimalBytes(repo.bytes).to_string();
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            text,
            "{:width$}  {size:>10}  {files} files  {}{incomplete}",
            name(repo),
            revisions.join(", ")
        );
    }
    text
}

fn files(repo: &CachedRepo) -> String {
    let mut text = String::new();
    for snapshot in &repo.snapshots {
        let revisions = match &snapshot.revisions[..] {
            [] => String::new(),
            names => format!(" ({})", names.join(", ")),
        };
        let _ = writeln!(text, "{}{revisions}", snapshot.path.display());
        for file in &snapshot.files {
            let size = file.bytes.map(|bytes| DecimalBytes(bytes).to_string());
            let size = size.unwrap_or_else(|| "missing".to_owned());
            let _ = writeln!(text, "  {size:>10}  {}", file.name);
        }
    }
    text
}

fn as_json(repo: &CachedRepo) -> Value {
    let snapshots: Vec<Value> = repo
        .snapshots
        .iter()
        .map(|snapshot| {
            let files: Vec<Value> = snapshot
                .files
                .iter()
                .map(|file| json!({"name": file.name, "bytes": file.bytes}))
                .collect();
            json!({
                "commit": snapshot.commit.as_str(), "revisions": snapshot.revisions,
                "path": snapshot.path, "files": files,
            })
        })
        .collect();
    json!({
        "repo": repo.repo.to_string(), "bytes": repo.bytes, "incomplete": repo.incomplete,
        "snapshots": snapshots,
    })
}
