//! Flags that select a heylookitsanllm server.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use llm_dit_serving::{client::service_url, security::ClientTls};

use crate::{ApiKey, HeylookEncoder, HeylookOptions, SetupError};

/// The heylookitsanllm server to use, if any.
#[derive(Clone, Debug, Args)]
pub struct ApiArgs {
    /// URL of a heylookitsanllm server that computes the embeddings, such as http://mac:8000
    #[arg(long, value_name = "URL", value_parser = service_url)]
    pub api_url: Option<String>,
    /// Name of the text encoder on that server
    #[arg(long, value_name = "NAME", default_value = "Qwen3-4B")]
    pub api_model: String,
    /// File whose first line is the server's HEYLOOK_API_KEY; takes precedence over --api-key
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// The server's API key. Other users of this machine can read command lines: prefer
    /// --api-key-file or the environment variable
    #[arg(long, value_name = "KEY", env = "LLM_DIT_API_KEY", hide_env_values = true)]
    pub api_key: Option<ApiKey>,
    /// PEM file of CA certificates trusted for an https:// server [default: those that the system
    /// trusts]
    #[arg(long, value_name = "FILE")]
    pub api_ca: Option<PathBuf>,
    /// Width of the server's embeddings; any other width is rejected [default: the width of the
    /// first response]
    #[arg(long, value_name = "N", value_parser = count)]
    pub api_hidden_size: Option<usize>,
    /// Number of decoder layers of the server's model, to resolve --hidden-layer [default: 36, as
    /// in Qwen3-4B]
    #[arg(long, value_name = "N", value_parser = count)]
    pub api_layers: Option<usize>,
    /// Encode locally, even if --api-url is set
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub local_encoder: bool,
}

impl ApiArgs {
    /// The encoder that the flags select; `None` if the program encodes locally.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if a file of the flags cannot be read, or as [`HeylookEncoder::new`].
    pub fn encoder(&self) -> Result<Option<HeylookEncoder>, SetupError> {
        let Some(url) = self.api_url.as_ref().filter(|_| !self.local_encoder) else {
            return Ok(None);
        };
        let api_key = match &self.api_key_file {
            Some(path) => Some(ApiKey::from_file(path)?),
            None => self.api_key.clone(),
        };
        let tls = ClientTls::new(self.api_ca.as_deref(), None)?;
        let options = HeylookOptions { api_key, tls, ..HeylookOptions::default() };
        let encoder = HeylookEncoder::new(url, &self.api_model, options)?;
        Ok(Some(encoder.with_shape(self.api_hidden_size, self.api_layers)))
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=65536) => Ok(n),
        Ok(_) | Err(_) => Err("use a number from 1 to 65536".to_owned()),
    }
}
