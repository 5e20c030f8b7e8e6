//! Peers that break the rules, at a real port of ours or behind one: an honest client beside them
//! gets its answer.

mod answers;
mod floods;
mod frames;
mod silence;

use std::net::{Ipv4Addr, SocketAddr};

use llm_dit_serving::{
    BoundListener, Credentials, Remote,
    connections::{Connections, Patience},
    grpc::GrpcServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// A server of nothing but health and reflection.
struct Server {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Server {
    async fn start(max_connections: usize, patience: Patience) -> Self {
        let (listener, address) = listen().await;
        let connections = Connections::new(max_connections).patience(patience);
        let bound = BoundListener { connections, ..BoundListener::from(listener) };
        let stop = CancellationToken::new();
        tokio::spawn(GrpcServer::default().serve(bound, stop.clone()));
        Self { address, _stop: stop.drop_guard() }
    }

    fn remote(&self) -> Remote {
        remote(self.address)
    }

    /// An honest client, with a connection of its own.
    async fn answers(&self) {
        check(&self.remote()).await.expect("an answer");
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn remote(address: SocketAddr) -> Remote {
    let url = format!("http://{address}");
    Remote::new("test service", &url, &Credentials::default()).expect("a URL")
}

async fn check(remote: &Remote) -> Result<(), Status> {
    let answer = HealthClient::new(remote.channel()).check(HealthCheckRequest::default()).await?;
    assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
    Ok(())
}
