//! HTTP/2 by hand, for what no library would send.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_HEADERS: u8 = 4;

/// A server that takes nothing more for this long has stopped to listen.
const STUCK: Duration = Duration::from_secs(2);

/// A frame, as RFC 9113, section 4.1 has it.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as HPACK literals without indexing (RFC 7541, section 6.2.2); names and values are shorter
/// than 127 bytes.
pub(super) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in list {
        bytes.extend([0, name.len() as u8]);
        bytes.extend(name.as_bytes());
        bytes.push(value.len() as u8);
        bytes.extend(value.as_bytes());
    }
    bytes
}

/// A call of a gRPC method.
pub(super) fn call() -> Vec<u8> {
    fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/llmdit.v1.Diffusion/Generate"),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// Sends the preface and then `frames` until all are sent, the server closes, or takes no more.
/// Returns how many were taken.
pub(super) async fn flood(address: &str, frames: impl Iterator<Item = Vec<u8>>) -> usize {
    let Ok(stream) = TcpStream::connect(address).await else { return 0 };
    let (mut from, mut to) = stream.into_split();
    // Reads what the server answers, so that it is not stopped by a full window.
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while from.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    let mut taken = 0;
    let sending = async || {
        to.write_all(PREFACE).await?;
        to.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        let mut batch = Vec::new();
        for next in frames {
            batch.extend(next);
            taken += 1;
            if batch.len() > 32 * 1024 {
                time::timeout(STUCK, to.write_all(&batch)).await??;
                batch.clear();
            }
        }
        to.write_all(&batch).await
    };
    // However it ends, what counts is how others fare.
    let _ = sending().await;
    reader.abort();
    taken
}
