//! Authentication between programs: certificates, keys, and what a port requires of clients.

pub mod guard;
pub mod keys;
pub mod tls;

use std::{io, path::PathBuf};

use llm_dit_files::TextError;

pub use self::{
    keys::{Key, Keys},
    tls::{ClientTls, Identity, ServerTls},
};

/// What a port requires of clients; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// `None`: the traffic is not encrypted, so the network can read and change it.
    pub tls: Option<ServerTls>,
    /// `None`: every client that can connect is accepted.
    pub keys: Option<Keys>,
}

/// What we show to the services that we call, and what we ask of them.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub tls: ClientTls,
    /// Sent to every service. Without encryption those between can read it.
    pub key: Option<Key>,
}

/// A file of certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("{path} cannot be read: {cause}")]
    File { path: PathBuf, cause: io::Error },
    #[error("{path}: {why}")]
    Keys { path: PathBuf, why: String },
    #[error("{path} cannot be used for TLS: {why}")]
    Tls { path: PathBuf, why: String },
}

/// A whole text file.
fn read(path: &std::path::Path) -> Result<String, SecurityError> {
    llm_dit_files::read_text(path).map_err(|error| match error {
        TextError::Io { path, cause } => SecurityError::File { path, cause },
        TextError::NotText { path, why } => {
            SecurityError::File { path, cause: io::Error::other(format!("it {why}")) }
        }
    })
}
