//! A NATS server with JetStream, as a program that can be killed and started again.
//!
//! The variable `NATS_SERVER` names the program; `.ci/queue` installs it.

use std::{
    env,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::repository;

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// A server with its own data on a port of its own, which it keeps when it is started again.
#[derive(Debug)]
pub struct NatsServer {
    pub url: String,
    port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server with the configuration that we ship.
    ///
    /// # Panics
    ///
    /// If the program cannot be found or started.
    pub fn start() -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("nats://127.0.0.1:{port}");
        let mut server = Self { url, port, folder, child: None };
        server.restart();
        server
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        let program = env::var_os("NATS_SERVER").map(PathBuf::from);
        let program = program.expect("NATS_SERVER must name a nats-server; use .ci/queue");
        let child = Command::new(program)
            .arg("-c")
            .arg(repository("deploy/nats/nats-server.conf"))
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("nats-server starts"));
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(begun.elapsed() < START, "nats-server does not listen");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// As `kill -9`.
    ///
    /// # Panics
    ///
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
