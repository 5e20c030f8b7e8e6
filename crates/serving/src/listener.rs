//! A port that is open, and its security for connections.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::{
    connections::{Connections, MAX_CONNECTIONS},
    security::Security,
};

/// A bound port with its security and its limit of connections.
#[derive(Debug)]
pub struct BoundListener {
    pub listener: TcpListener,
    pub security: Security,
    pub connections: Connections,
}

impl BoundListener {
    /// The address that is bound, with the port that the system chose.
    ///
    /// # Errors
    ///
    /// Fails if the system does not tell the address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.security.tls.is_some() { "https" } else { "http" }
    }
}

/// One that asks nothing.
impl From<TcpListener> for BoundListener {
    fn from(listener: TcpListener) -> Self {
        let connections = Connections::new(MAX_CONNECTIONS);
        Self { listener, security: Security::default(), connections }
    }
}
