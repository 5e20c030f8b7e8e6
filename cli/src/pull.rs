//! `llm-dit pull`: downloads a model from the Hugging Face hub. The only command that connects to one.

mod transfer;

use clap::Args;
use llm_dit_hub::{
    Cache, Client, HubArgs, HubError, Pulled, RepoSpec, SETS, Set, SetFile, cached,
    pull as download, set,
};
use serde::Serialize;

use self::transfer::Transfer;
use crate::{error::CliError, output::print};

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PullArgs {
    /// Repository, with an optional branch, tag or commit: `ORG/NAME[@REVISION]`; or a short name
    /// for several files: z-image-turbo, z-image-turbo-bf16, z-image-turbo-16gb, z-image-turbo-8gb
    model: String,
    /// File to download, as it is called in the repository; * stands for any text. Repeatable
    /// [default: all that is read of a model folder]
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,
    /// Print a JSON object on stdout: the folder, its commit and the files
    #[arg(long)]
    json: bool,
    /// Show no progress: only errors, and the paths
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten, next_help_heading = "Hugging Face hub")]
    hub: HubArgs,
}

const EXAMPLES: &str = "\
Examples:
  llm-dit pull Tongyi-MAI/Z-Image-Turbo
      Then: llm-dit generate \"a fox\" --model-path Tongyi-MAI/Z-Image-Turbo
  llm-dit pull Comfy-Org/z_image_turbo --file 'split_files/vae/*'
  llm-dit pull z-image-turbo-8gb
      Three files for a card of 8 GB; prints the flags that use them

A download that was interrupted is resumed by the same command. Models are in the cache that Python's
huggingface_hub uses; llm-dit list shows it, llm-dit rm removes from it.";

/// What `--json` prints for a repository.
#[derive(Serialize)]
struct Told {
    repo: String,
    revision: String,
    commit: String,
    path: String,
    files: Vec<ToldFile>,
}

#[derive(Serialize)]
struct ToldFile {
    name: String,
    path: String,
    bytes: u64,
}

/// What is to be downloaded of one repository.
struct Order {
    spec: RepoSpec,
    files: Vec<String>,
}

/// Downloads what the flags name.
///
/// # Errors
///
/// [`CliError`] if the name or a flag is wrong, or if the download fails.
pub async fn pull(args: PullArgs) -> Result<(), CliError> {
    let set = set(&args.model);
    let orders = orders(&args, set)?;
    let cache = args.hub.cache.cache().map_err(CliError::usage)?;
    let client = match args.hub.remote.hf_hub_offline {
        true => None,
        false => Some(args.hub.client().map_err(CliError::usage)?),
    };
    let mut told = Vec::new();
    for order in &orders {
        let pulled = one(&args, client.as_ref(), &cache, order).await.map_err(error)?;
        told.push(tell(&order.spec, &pulled));
        if !args.json {
            print(&paths(&args, set, &pulled))?;
        }
    }
    if args.json {
        let text = match &told[..] {
            [one] if set.is_none() => serde_json::to_string(one),
            all => serde_json::to_string(all),
        };
        return print(&(text.map_err(CliError::failed)? + "\n"));
    }
    if let Some(set) = set.filter(|_| !args.quiet) {
        eprintln!("to use them: llm-dit generate \"a fox\"{}", flags(set));
    }
    Ok(())
}

fn orders(args: &PullArgs, set: Option<&Set>) -> Result<Vec<Order>, CliError> {
    let Some(set) = set else {
        let spec = args.model.parse().map_err(|error| {
            let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
            CliError::Usage(format!("{error}; short names are {}", names.join(", ")))
        })?;
        return Ok(vec![Order { spec, files: args.file.clone() }]);
    };
    if !args.file.is_empty() {
        let name = set.name;
        return Err(CliError::Usage(format!("{name} names its files; leave out --file")));
    }
    let order = |file: &SetFile| {
        let spec = file.repo.parse().map_err(CliError::usage)?;
        Ok(Order { spec, files: file.file.map(str::to_owned).into_iter().collect() })
    };
    set.files.iter().map(order).collect()
}

async fn one(
    args: &PullArgs,
    client: Option<&Client>,
    cache: &Cache,
    order: &Order,
) -> Result<Pulled, HubError> {
    let Order { spec, files } = order;
    match client {
        None => cached(cache, spec, files),
        Some(client) => {
            let transfer = Transfer::new(args.quiet, &spec.to_string());
            download(client, cache, spec, files, &transfer).await
        }
    }
}

/// What is wrong with the words is a matter of the command line.
fn error(error: HubError) -> CliError {
    match error {
        HubError::Name(_)
        | HubError::NoFile { .. }
        | HubError::Choose { .. }
        | HubError::NoRevision { .. }
        | HubError::NoRepo { .. }
        | HubError::Endpoint { .. } => CliError::usage(error),
        _ => CliError::failed(error),
    }
}

fn tell(spec: &RepoSpec, pulled: &Pulled) -> Told {
    let files = pulled.files.iter().map(|file| ToldFile {
        name: file.name.to_string(),
        path: file.path.display().to_string(),
        bytes: file.bytes,
    });
    Told {
        repo: spec.repo.to_string(),
        revision: spec.revision.to_string(),
        commit: pulled.commit.to_string(),
        path: pulled.path.display().to_string(),
        files: files.collect(),
    }
}

/// The files that were asked for, or the folder.
fn paths(args: &PullArgs, set: Option<&Set>, pulled: &Pulled) -> String {
    let by_file = !args.file.is_empty() || set.is_some_and(|set| set.files.len() > 1);
    if !by_file {
        return format!("{}\n", pulled.path.display());
    }
    pulled.files.iter().map(|file| format!("{}\n", file.path.display())).collect()
}

fn flags(set: &Set) -> String {
    let flag = |file: &SetFile| match file.file {
        Some(name) => format!(" {} {}/{name}", file.used.flag(), file.repo),
        None => format!(" {} {}", file.used.flag(), file.repo),
    };
    set.files.iter().map(flag).collect()
}
