//! Flags that every program takes, and how a wrong command line is reported.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use tokio::net::TcpListener;

use crate::{
    BoundListener, Credentials, Security,
    connections::{Connections, MAX_CONNECTIONS},
    security::{ClientTls, Identity, Key, Keys, SecurityError, ServerTls},
};

/// Exit status for a wrong command line, `EX_USAGE` of sysexits.h. Status 1 stays for run-time
/// failures, so that a supervisor can tell "do not restart" from "restart".
pub const EXIT_USAGE: u8 = 64;

/// Listen address and access rules. `PORT` is the program's default.
#[derive(Clone, Debug, clap::Args)]
pub struct ListenArgs<const PORT: u16> {
    /// Address to listen on. Any address but loopback (such as 0.0.0.0 or ::) needs --tls-cert or
    /// --insecure
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 picks a free port and logs it
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// PEM file of CA certificates; clients must present a certificate signed by one of them
    /// (mutual TLS)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// File of accepted API keys, one per line, each optionally preceded by a name
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Maximum number of open connections; further ones are closed
    #[arg(long, value_name = "N", default_value_t = MAX_CONNECTIONS)]
    pub max_connections: usize,
    /// Allow a non-loopback address without TLS. Anyone on the network path can read and change the
    /// traffic
    #[arg(long)]
    pub insecure: bool,
}

/// The certificate of this program.
#[derive(Clone, Debug, clap::Args)]
pub struct IdentityArgs {
    /// PEM certificate chain. Presented to clients (enables HTTPS) and to upstreams that request a
    /// client certificate. `llm-dit certificates` creates one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM private key of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// Credentials for calls to other services.
#[derive(Clone, Debug, clap::Args)]
pub struct CredentialsArgs {
    /// PEM file of CA certificates trusted for https:// services [default: those that the system
    /// trusts]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// File whose first line is the API key to send to the services
    #[arg(long, value_name = "FILE")]
    pub service_key: Option<PathBuf>,
}

impl<const PORT: u16> ListenArgs<PORT> {
    /// Reads certificates and keys, and binds the port. A non-loopback address needs TLS or
    /// --insecure.
    ///
    /// # Errors
    ///
    /// [`ListenError`] if a certificate or key cannot be used, if a non-loopback address has
    /// neither TLS nor `--insecure`, or if the port cannot be bound.
    pub async fn bind(&self) -> Result<BoundListener, ListenError> {
        let Self { host, port, .. } = *self;
        let security = self.security()?;
        if !host.is_loopback() {
            match (&security.tls, &security.keys, self.insecure) {
                (None, _, false) => return Err(ListenError::Insecure { host }),
                (None, ..) => tracing::warn!(
                    %host,
                    "listening on a non-loopback address without TLS; use this only on a trusted network"
                ),
                (Some(_), None, _) if self.tls_client_ca.is_none() => tracing::warn!(
                    %host,
                    "listening on a non-loopback address without client authentication; restrict access with --keys or --tls-client-ca"
                ),
                (Some(_), ..) => {}
            }
        }
        let bound = TcpListener::bind((host, port)).await;
        let listener = bound.map_err(|cause| ListenError::Bind { host, port, cause })?;
        let connections = Connections::new(self.max_connections);
        Ok(BoundListener { listener, security, connections })
    }

    fn security(&self) -> Result<Security, SecurityError> {
        let tls = match self.identity.read()? {
            Some(identity) => Some(ServerTls::new(identity, self.tls_client_ca.as_deref())?),
            None => None,
        };
        let keys = self.keys.as_deref().map(Keys::from_file).transpose()?;
        Ok(Security { tls, keys })
    }
}

impl IdentityArgs {
    /// Reads certificate and key, if they are set.
    ///
    /// # Errors
    ///
    /// [`SecurityError`] if a file cannot be read, or if certificate and key do not match.
    pub fn read(&self) -> Result<Option<Identity>, SecurityError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Identity::from_files(certificate, key).map(Some),
            _ => Ok(None),
        }
    }
}

impl CredentialsArgs {
    /// Reads the certificates and the key that this client uses.
    ///
    /// # Errors
    ///
    /// [`SecurityError`] if a file cannot be read or has no usable content.
    pub fn read(&self, identity: &IdentityArgs) -> Result<Credentials, SecurityError> {
        Ok(Credentials {
            tls: ClientTls::new(self.tls_ca.as_deref(), identity.read()?)?,
            key: self.service_key.as_deref().map(Key::from_file).transpose()?,
        })
    }
}

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(
        "--host {host} is not a loopback address and TLS is not configured; set --tls-cert and --tls-key (`llm-dit certificates` creates them), or pass --insecure"
    )]
    Insecure { host: IpAddr },
    /// The port is in use, or the address does not belong to this machine.
    #[error("cannot listen on {host} port {port}: {cause}; choose another with --host and --port")]
    Bind { host: IpAddr, port: u16, cause: std::io::Error },
}

/// Prints a command-line error (or the help that was requested) and returns its exit status.
pub fn report(error: &clap::Error) -> ExitCode {
    // A closed terminal leaves nothing to report to.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        listen: ListenArgs<50051>,
    }

    #[test]
    fn listens_locally_unless_told() {
        let program = Program::try_parse_from(["x"]).expect("valid");
        assert!(program.listen.host.is_loopback());
        assert_eq!(program.listen.port, 50051);
        let program = Program::try_parse_from(["x", "--host", "::", "--port", "0"]).expect("valid");
        assert!(!program.listen.host.is_loopback());
        assert!(Program::try_parse_from(["x", "--port", "70000"]).is_err());
        assert!(Program::try_parse_from(["x", "--host", "here"]).is_err());
    }

    fn listen(words: &[&str]) -> ListenArgs<50051> {
        let words = ["x"].iter().chain(words);
        Program::try_parse_from(words).expect("valid").listen
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = listen(&["--port", "0"]).bind().await.expect("a free port");
        let port = first.address().expect("bound").port().to_string();
        let error = listen(&["--port", &port]).bind().await.expect_err("taken");
        assert!(error.to_string().contains(&format!("127.0.0.1 port {port}")), "{error}");
    }

    #[tokio::test]
    async fn strangers_are_let_in_only_when_that_was_asked_for() {
        let open = ["--host", "0.0.0.0", "--port", "0"];
        let error = listen(&open).bind().await.expect_err("refused");
        for fix in ["--tls-cert", "llm-dit certificates", "--insecure"] {
            assert!(error.to_string().contains(fix), "{error}");
        }
        listen(&[&open[..], &["--insecure"]].concat()).bind().await.expect("asked for");
        listen(&["--host", "::1", "--port", "0"]).bind().await.expect("this machine alone");
    }

    #[test]
    fn a_certificate_needs_its_key() {
        for words in [["--tls-cert", "x"], ["--tls-key", "x"], ["--tls-client-ca", "x"]] {
            assert!(Program::try_parse_from(["x"].iter().chain(&words)).is_err(), "{words:?}");
        }
    }
}
