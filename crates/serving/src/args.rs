//! Flags that every program of ours takes, and what a wrong one costs.

use std::{net::IpAddr, process::ExitCode};

use tokio::net::TcpListener;

/// Exit status for a wrong command line, `EX_USAGE` of sysexits.h. 1 is left to failures at work,
/// so that a supervisor can tell "do not restart" from "restart".
pub const EXIT_USAGE: u8 = 64;

/// Where to listen. `PORT` is the program's own default.
#[derive(Clone, Debug, clap::Args)]
pub struct ListenArgs<const PORT: u16> {
    /// Address to listen on; 0.0.0.0 or :: serves other machines too
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one and logs it
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
}

impl<const PORT: u16> ListenArgs<PORT> {
    /// Binds, and warns when strangers can connect.
    pub async fn bind(&self) -> Result<TcpListener, ListenError> {
        let Self { host, port } = *self;
        if !host.is_loopback() {
            tracing::warn!(
                %host,
                "listening beyond this machine without encryption or keys; keep it inside a network you trust"
            );
        }
        TcpListener::bind((host, port)).await.map_err(|cause| ListenError { host, port, cause })
    }
}

/// The port is taken, or the address is not ours.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {host} port {port}: {cause}; choose others with --host and --port")]
pub struct ListenError {
    host: IpAddr,
    port: u16,
    cause: std::io::Error,
}

/// Says what is wrong with a command line (or what `--help` asked for), and the status for it.
pub fn report(error: &clap::Error) -> ExitCode {
    // Nothing is left to do when the terminal is gone.
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

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let host = std::net::Ipv4Addr::LOCALHOST.into();
        let first = ListenArgs::<0> { host, port: 0 }.bind().await.expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let error = ListenArgs::<0> { host, port }.bind().await.expect_err("taken");
        assert!(error.to_string().contains(&format!("127.0.0.1 port {port}")), "{error}");
    }
}
