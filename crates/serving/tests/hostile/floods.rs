//! Floods of frames that cost a server more than their sender.

use std::time::Duration;

use llm_dit_serving::connections::Patience;
use tokio::{io::AsyncWriteExt as _, time};

use super::{
    Server,
    frames::{
        CONTINUATION, END_HEADERS, ENHANCE_YOUR_CALM, HEADERS, PING, RST_STREAM, SETTINGS, connect,
        frame, reason, request_headers,
    },
};

/// Sends `flood` while an honest client asks; the reason for which the connection was closed.
async fn flooded(flood: Vec<u8>) -> Option<u32> {
    let server = Server::start(8, Patience::default()).await;
    server.answers().await;
    let (from, mut to) = connect(server.address).await;
    let sent = tokio::spawn(async move { to.write_all(&flood).await });
    let (reason, ()) = tokio::join!(reason(from), async {
        for _ in 0..20 {
            server.answers().await;
        }
    });
    // An error is a connection that was closed before the flood was over.
    let _ = sent.await.expect("no panic");
    reason
}

#[tokio::test]
async fn calls_that_are_opened_and_reset_end_their_connection() {
    let calls = (0..5000).flat_map(|call| {
        let headers = frame(HEADERS, END_HEADERS, 2 * call + 1, &request_headers());
        [headers, frame(RST_STREAM, 0, 2 * call + 1, &8_u32.to_be_bytes())].concat()
    });
    assert_eq!(flooded(calls.collect()).await, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn headers_without_an_end_end_their_connection() {
    let mut flood = frame(HEADERS, 0, 1, &request_headers());
    for _ in 0..5000 {
        // A header `a: b`.
        flood.extend(frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']));
    }
    assert_eq!(flooded(flood).await, Some(ENHANCE_YOUR_CALM));
}

/// Frames that must be answered, from a peer that reads no answer.
async fn unread(one: Vec<u8>) {
    let server =
        Server::start(8, Patience { write: Duration::from_millis(50), ..Default::default() });
    let server = server.await;
    let (from, mut to) = connect(server.address).await;
    let flood = one.repeat(1000);
    let flood = async {
        // It is closed when the answers fill all buffers; until then there is no end.
        while to.write_all(&flood).await.is_ok() {}
    };
    let honest = async {
        for _ in 0..20 {
            server.answers().await;
        }
    };
    let limit = time::timeout(Duration::from_secs(60), async { tokio::join!(flood, honest) });
    limit.await.expect("closed");
    drop(from);
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_whose_answers_are_not_read_end_their_connection() {
    unread(frame(PING, 0, 0, &[7; 8])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_whose_answers_are_not_read_end_their_connection() {
    unread(frame(SETTINGS, 0, 0, &[])).await;
}
