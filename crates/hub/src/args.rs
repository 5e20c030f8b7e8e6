//! Flags, with the names of Hugging Face's own variables. Programs of both share token and cache.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
};

use clap::{
    ArgAction, Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use llm_dit_serving::security::Key;

use crate::{Cache, Client, HubError, NotCached, Retry, locate::locate};

/// The hub that is asked unless another is named.
const ENDPOINT: &str = "https://huggingface.co";

/// Where downloaded models are.
#[derive(Clone, Debug, Default, Args)]
pub struct CacheArgs {
    /// Folder of models from the Hugging Face hub, shared with Python's huggingface_hub. Variable
    /// HF_HUB_CACHE [default: hub in --hf-home]
    #[arg(long, value_name = "DIR", env = "HF_HUB_CACHE", hide_env = true, value_parser = folder())]
    pub hf_hub_cache: Option<PathBuf>,
    /// Folder of Hugging Face's programs, with hub/ and token. Variable HF_HOME [default:
    /// ~/.cache/huggingface]
    #[arg(long, value_name = "DIR", env = "HF_HOME", hide_env = true, value_parser = folder())]
    pub hf_home: Option<PathBuf>,
    /// The older name of HF_HUB_CACHE.
    #[arg(long, env = "HUGGINGFACE_HUB_CACHE", hide = true, value_parser = folder())]
    pub huggingface_hub_cache: Option<PathBuf>,
    /// The folder of caches, which HF_HOME is in by default.
    #[arg(long, env = "XDG_CACHE_HOME", hide = true, value_parser = folder())]
    pub xdg_cache_home: Option<PathBuf>,
}

/// All that a download needs.
#[derive(Clone, Debug, Args)]
pub struct HubArgs {
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Which hub to ask, and with which token.
#[derive(Clone, Debug, Args)]
pub struct RemoteArgs {
    /// URL of the hub, or of a mirror of it. Variable HF_ENDPOINT [default: huggingface.co]
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", hide_env = true)]
    pub hf_endpoint: Option<String>,
    /// Access token for private and gated repositories. Other users of this machine can read command
    /// lines: prefer the variable HF_TOKEN or --hf-token-path
    #[arg(long, value_name = "TOKEN", env = "HF_TOKEN", hide_env = true, hide_env_values = true)]
    pub hf_token: Option<Key>,
    /// File with the access token, as `hf auth login` writes it. Variable HF_TOKEN_PATH [default:
    /// token in --hf-home, if it exists]
    #[arg(long, value_name = "FILE", env = "HF_TOKEN_PATH", hide_env = true, value_parser = folder())]
    pub hf_token_path: Option<PathBuf>,
    /// Do not connect: use what is in the cache. Variable HF_HUB_OFFLINE
    #[arg(long, value_name = "BOOL", env = "HF_HUB_OFFLINE", hide_env = true, num_args = 0..=1,
          default_missing_value = "true", default_value = "false", require_equals = true,
          action = ArgAction::Set, hide_default_value = true, value_parser = truth)]
    pub hf_hub_offline: bool,
}

/// A path; an empty variable is one that is not set.
fn folder() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// As Python reads such variables: every other word means no.
#[expect(clippy::unnecessary_wraps, reason = "clap's signature")]
fn truth(text: &str) -> Result<bool, Infallible> {
    Ok(["1", "on", "yes", "true"].iter().any(|word| text.eq_ignore_ascii_case(word)))
}

impl CacheArgs {
    /// The cache.
    ///
    /// # Errors
    ///
    /// [`HubError::NoHome`] if there is neither a flag nor a home folder.
    pub fn cache(&self) -> Result<Cache, HubError> {
        match set(&self.hf_hub_cache).or_else(|| set(&self.huggingface_hub_cache)) {
            Some(folder) => Ok(Cache::new(folder)),
            None => Ok(Cache::new(self.home()?.join("hub"))),
        }
    }

    /// As [`locate`](crate::locate), in this cache.
    ///
    /// # Errors
    ///
    /// [`NotCached`] if the cache does not have what the path names.
    pub fn locate(&self, path: &Path) -> Result<PathBuf, NotCached> {
        match self.cache() {
            Ok(cache) => locate(path, &cache),
            // There is no cache that could have it.
            Err(_) => Ok(path.to_owned()),
        }
    }

    fn home(&self) -> Result<PathBuf, HubError> {
        // On every system in `.cache`, as in Python.
        let caches =
            || set(&self.xdg_cache_home).or_else(|| Some(dirs::home_dir()?.join(".cache")));
        let home = set(&self.hf_home).or_else(|| Some(caches()?.join("huggingface")));
        home.ok_or(HubError::NoHome)
    }
}

/// The folder that a flag or a variable names, if it does; `~/` is the home folder.
fn set(path: &Option<PathBuf>) -> Option<PathBuf> {
    let path = path.as_ref().filter(|path| !path.as_os_str().is_empty())?;
    match (path.strip_prefix("~"), dirs::home_dir()) {
        (Ok(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(path.clone()),
    }
}

impl HubArgs {
    /// A client of the hub.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the URL or the token cannot be used.
    pub fn client(&self) -> Result<Client, HubError> {
        let endpoint = self.remote.hf_endpoint.as_deref().filter(|url| !url.is_empty());
        Client::new(endpoint.unwrap_or(ENDPOINT), self.token()?.as_ref(), Retry::default())
    }

    fn token(&self) -> Result<Option<Key>, HubError> {
        if let Some(token) =
            self.remote.hf_token.as_ref().filter(|token| !token.expose().trim().is_empty())
        {
            return Ok(Some(Key::from(token.expose().trim().to_owned())));
        }
        let (path, named) = match set(&self.remote.hf_token_path) {
            Some(path) => (path, true),
            None => (self.cache.home()?.join("token"), false),
        };
        if !named && !path.is_file() {
            return Ok(None);
        }
        let token = Key::from_file(&path).map_err(|error| HubError::Token(error.to_string()))?;
        Ok(Some(token))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        hub: HubArgs,
    }

    fn parse(words: &[&str]) -> HubArgs {
        Program::try_parse_from(["x"].iter().chain(words)).expect("valid").hub
    }

    fn cache(words: &[&str]) -> PathBuf {
        parse(words).cache.cache().expect("a folder").root().to_owned()
    }

    #[test]
    fn the_folders_are_those_of_python() {
        assert_eq!(cache(&["--hf-hub-cache", "/c", "--hf-home", "/h"]), Path::new("/c"));
        assert_eq!(cache(&["--hf-hub-cache", "", "--hf-home", "/h"]), Path::new("/h/hub"));
        let xdg = ["--hf-hub-cache=", "--hf-home=", "--xdg-cache-home", "/x"];
        assert_eq!(cache(&xdg), Path::new("/x/huggingface/hub"));
        let older = ["--hf-hub-cache=", "--huggingface-hub-cache", "/o"];
        assert_eq!(cache(&older), Path::new("/o"));
        let home = dirs::home_dir().expect("a home");
        assert_eq!(cache(&["--hf-home", "~/hf"]), home.join("hf/hub"));
    }

    #[test]
    fn tokens_come_from_the_flag_or_a_file() {
        let room = tempfile::tempdir().expect("a folder");
        let home = room.path().to_str().expect("text");
        let token = |more: &[&str]| {
            let words = [&["--hf-home", home, "--hf-token-path="], more].concat();
            parse(&words).token().map(|token| token.map(|token| token.expose().to_owned()))
        };
        assert_eq!(token(&["--hf-token="]).expect("none"), None);
        fs::write(room.path().join("token"), "hf_file\n").expect("written");
        assert_eq!(token(&["--hf-token="]).expect("one").as_deref(), Some("hf_file"));
        assert_eq!(token(&["--hf-token= hf_flag\n"]).expect("one").as_deref(), Some("hf_flag"));
        let missing = parse(&["--hf-token=", "--hf-token-path", "/no/such/file"]).token();
        assert!(matches!(missing, Err(HubError::Token(_))));
    }

    #[test]
    fn offline_is_read_as_python_reads_it() {
        let offline = |words: &[&str]| parse(words).remote.hf_hub_offline;
        assert!(offline(&["--hf-hub-offline"]) && offline(&["--hf-hub-offline=ON"]));
        assert!(!offline(&["--hf-hub-offline=0"]) && !offline(&["--hf-hub-offline="]));
    }
}
