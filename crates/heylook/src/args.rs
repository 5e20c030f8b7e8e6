//! The flags that name a server, the same in every program that can use one.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use llm_dit_serving::{client::service_url, security::ClientTls};

use crate::{ApiKey, HeylookEncoder, HeylookOptions, SetupError};

/// Which heylookitsanllm server to ask, if any.
#[derive(Clone, Debug, Args)]
pub struct ApiArgs {
    /// Get embeddings from heylookitsanllm instead of computing them, such as http://mac:8000
    #[arg(long, value_name = "URL", value_parser = service_url)]
    pub api_url: Option<String>,
    /// The text encoder's name there
    #[arg(long, value_name = "NAME", default_value = "Qwen3-4B")]
    pub api_model: String,
    /// File with that server's HEYLOOK_API_KEY in its first line; comes before --api-key
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// The key itself. Other users of this machine can read a command line: better use the variable
    /// or --api-key-file
    #[arg(long, value_name = "KEY", env = "LLM_DIT_API_KEY", hide_env_values = true)]
    pub api_key: Option<ApiKey>,
    /// Authorities that may have signed its certificate, for https:// (PEM) [default: those that this
    /// system trusts]
    #[arg(long, value_name = "FILE")]
    pub api_ca: Option<PathBuf>,
    /// Width of its embeddings; others are refused [default: that of the first answer]
    #[arg(long, value_name = "N", value_parser = count)]
    pub api_hidden_size: Option<usize>,
    /// Decoder layers of its model, for --hidden-layer [default: 36, as Qwen3-4B]
    #[arg(long, value_name = "N", value_parser = count)]
    pub api_layers: Option<usize>,
    /// Encode here, even if --api-url is set
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub local_encoder: bool,
}

impl ApiArgs {
    /// The encoder that the flags name; `None` if the program is to encode by itself.
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
