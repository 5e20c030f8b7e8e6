//! Connections that say nothing.

use std::time::Duration;

use llm_dit_serving::connections::Patience;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Server, check, frames::connect};

fn short() -> Patience {
    Patience { first_request: Duration::from_millis(100), ..Default::default() }
}

#[tokio::test]
async fn connections_without_a_request_do_not_keep_out_others() {
    let server = Server::start(3, short()).await;
    let mut silent = TcpStream::connect(server.address).await.expect("accepts");
    let mut slow = TcpStream::connect(server.address).await.expect("accepts");
    slow.write_all(b"PRI * HT").await.expect("open");
    let (mut polite, _open) = connect(server.address).await;
    // Each is closed, whatever was sent to it before.
    let _ = silent.read_to_end(&mut Vec::new()).await;
    let _ = slow.read_to_end(&mut Vec::new()).await;
    let _ = polite.read_to_end(&mut Vec::new()).await;
    server.answers().await;
}

#[tokio::test]
async fn a_connection_that_had_a_request_may_wait_for_the_next() {
    let server = Server::start(1, short()).await;
    let remote = server.remote();
    check(&remote).await.expect("an answer");
    tokio::time::sleep(short().first_request * 3).await;
    // There is one place, which a connection that was closed and opened again could not have.
    assert!(check(&server.remote()).await.is_err(), "the place is taken");
    check(&remote).await.expect("an answer");
}
