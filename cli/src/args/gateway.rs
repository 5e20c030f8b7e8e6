//! The gateway to call, and its credentials.

use std::path::PathBuf;

use clap::Args;
use llm_dit_serving::{
    client,
    security::{ClientTls, Key},
};
use reqwest::header::{AUTHORIZATION, HeaderMap};

use crate::error::CliError;

#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// URL of a gateway that generates the images, such as http://127.0.0.1:7860 [default: generate
    /// locally]
    #[arg(id = "gateway", long = "gateway", value_name = "URL", value_parser = client::gateway_url)]
    pub url: Option<String>,
    /// File whose first line is the gateway's API key; takes precedence over --gateway-key
    #[arg(long, value_name = "FILE")]
    pub gateway_key_file: Option<PathBuf>,
    /// The gateway's API key. Other users of this machine can read command lines: prefer
    /// --gateway-key-file or the environment variable
    #[arg(long, value_name = "KEY", env = "LLM_DIT_GATEWAY_KEY", hide_env_values = true)]
    pub gateway_key: Option<Key>,
    /// PEM file of CA certificates trusted for an https:// gateway [default: those that the system
    /// trusts]
    #[arg(long, value_name = "FILE")]
    pub gateway_ca: Option<PathBuf>,
}

impl GatewayArgs {
    /// An HTTP client for `url` that sends the API key.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the key or a certificate cannot be read or used.
    pub fn client(&self, url: &str) -> Result<reqwest::Client, CliError> {
        let key = match &self.gateway_key_file {
            Some(path) => Some(Key::from_file(path).map_err(CliError::usage)?),
            None => self.gateway_key.clone(),
        };
        let header = key.as_ref().map(Key::header).transpose().map_err(CliError::usage)?;
        let headers: HeaderMap =
            header.flatten().map(|key| (AUTHORIZATION, key)).into_iter().collect();
        let tls = ClientTls::new(self.gateway_ca.as_deref(), None).map_err(CliError::usage)?;
        let builder = client::http(url, &tls).map_err(CliError::usage)?;
        builder.default_headers(headers).build().map_err(CliError::failed)
    }
}
