//! HTTP/2 as it stands on the wire.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The reason of a frame that ends a connection: too much was asked of it.
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A frame of `kind`.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a health check, without compression.
pub fn request_headers() -> Vec<u8> {
    // `:method: POST` and `:scheme: http` of the static table.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x04][..], "/grpc.health.v1.Health/Check"),
        (&[0x01], "localhost"),
        (&[0x0f, 0x10], "application/grpc"),
    ] {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

/// A connection that has said hello.
pub async fn connect(address: SocketAddr) -> (OwnedReadHalf, OwnedWriteHalf) {
    let (from, mut to) = TcpStream::connect(address).await.expect("accepts").into_split();
    to.write_all(PREFACE).await.expect("open");
    to.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("open");
    (from, to)
}

/// Reads until the connection is closed: the reason of its GOAWAY frame, if there was one.
pub async fn reason(mut from: OwnedReadHalf) -> Option<u32> {
    let mut reason = None;
    let mut head = [0; 9];
    while from.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if from.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == GOAWAY
            && let Some(&[a, b, c, d]) = payload.get(4..8)
        {
            reason = Some(u32::from_be_bytes([a, b, c, d]));
        }
    }
    reason
}
