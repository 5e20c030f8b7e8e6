//! Why something of the hub cannot be had.

use std::path::PathBuf;

use crate::{RepoName, RepoSpec, repo::BadName};

/// Why a model was not downloaded, found, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("{url} is not the URL of a hub: {why}; write it as https://HOST")]
    Endpoint { url: String, why: String },
    #[error("cannot set up encryption for {url}: {cause}")]
    Client { url: String, cause: String },
    #[error("cannot read the token: {0}")]
    Token(String),
    #[error(
        "there is no folder for the cache: set --hf-hub-cache or --hf-home (variables HF_HUB_CACHE, HF_HOME)"
    )]
    NoHome,
    #[error("cannot use {path}: {cause}")]
    Io { path: PathBuf, cause: std::io::Error },
    #[error(
        "the download takes {} more, but the disk of {path} has {} free; free some, or put the cache on another disk with --hf-hub-cache (HF_HUB_CACHE)",
        decimal(.needed),
        decimal(.free)
    )]
    NoSpace { path: PathBuf, needed: u64, free: u64 },

    #[error(
        "{spec} is not in the cache {cache}, and HF_HUB_OFFLINE (--hf-hub-offline) forbids to connect"
    )]
    Offline { spec: RepoSpec, cache: PathBuf },
    #[error(
        "{repo} is gated: accept its licence at {page}, create a token of the same account at {tokens}, and set the variable HF_TOKEN or --hf-token-path FILE"
    )]
    Gated { repo: RepoName, page: String, tokens: String },
    #[error(
        "{repo} is gated, and the account of the token has no access: accept its licence at {page}; a fine-grained token also needs the permission to read gated repositories ({tokens})"
    )]
    GatedFor { repo: RepoName, page: String, tokens: String },
    #[error(
        "{repo} does not exist on {host}, or it is private: check the spelling; for a private repository, set the variable HF_TOKEN or --hf-token-path FILE"
    )]
    NoRepo { repo: RepoName, host: String },
    #[error(
        "{host} does not accept the token (HF_TOKEN, --hf-token-path), or its account cannot see {repo}, or {repo} does not exist"
    )]
    BadToken { repo: RepoName, host: String },
    #[error("{repo} has no revision '{revision}'")]
    NoRevision { repo: RepoName, revision: String },
    #[error("{repo} has no file '{file}'{}", or_near(.near))]
    NoFile { repo: RepoName, file: String, near: Option<String> },
    #[error(
        "{repo} is no model folder (it has no model_index.json) and has {count} files of weights; choose with --file, which takes * for any text:\n{files}"
    )]
    Choose { repo: RepoName, count: usize, files: String },
    #[error("{repo} has a file with the name {name:?}, which is refused: {why}")]
    FileName { repo: RepoName, name: String, why: &'static str },
    #[error("{host} answered {status} for {what}{}", as_said(.said))]
    Refused { host: String, status: u16, what: String, said: String },
    #[error("{host} answered with something else than {what}: {why}")]
    Strange { host: String, what: String, why: String },
    #[error("{what}: {host} redirects to {to}, which is refused: {why}")]
    Redirect { what: String, host: String, to: String, why: &'static str },
    #[error(
        "{host} limits requests and asks to wait {seconds} s; run the command again then, it resumes{}",
        with_token(.anonymous)
    )]
    Limited { host: String, seconds: u64, anonymous: bool },
    #[error(
        "{what}: no success after {attempts} attempts; the last one: {cause}. What has arrived is kept; run the command again to resume"
    )]
    GaveUp { what: String, attempts: u32, cause: String },
    #[error(
        "{host} sends no checksum for {file} (its ETag is {etag:?}), so its content cannot be verified; set --hf-endpoint (HF_ENDPOINT) to another hub"
    )]
    NoChecksum { host: String, file: String, etag: String },
    #[error("{file} is damaged: its checksum is not {checksum}; what arrived was deleted")]
    Checksum { file: String, checksum: String },
    #[error("{host} contradicts itself about {file}: {why}")]
    Contradiction { host: String, file: String, why: String },
    #[error("{0} is not in the cache; llm-dit list shows what is")]
    NotInCache(RepoName),
    #[error("{0} is being downloaded by another process; wait for it or end it")]
    InUse(RepoName),
}

/// Bytes as people and shops count them.
fn decimal(bytes: &u64) -> String {
    format!("{:.2} GB", *bytes as f64 / 1e9)
}

fn or_near(near: &Option<String>) -> String {
    near.as_ref().map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

fn as_said(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn with_token(anonymous: &bool) -> &'static str {
    if *anonymous { "; a token (variable HF_TOKEN) raises the limit" } else { "" }
}
