//! What a hub does with one request for a content instead of sending it.

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
};

use super::head;
use crate::fakes::http::Request;

/// The ETag that a store gives a content. It is not the hub's.
const STORE_ETAG: &str = "\"of-the-store\"";
/// Written at once.
const PIECE: usize = 256 * 1024;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trick {
    /// What a good server does.
    None,
    /// Closes the connection after so many bytes of the body.
    Cut(usize),
    /// After so many bytes of the body, sends nothing until it is told to go on.
    Stall(usize),
    /// A status with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The same bytes under a new ETag, as if the file had changed. A range is sent only if
    /// `If-Range` allows it.
    NewEtag,
    /// A range under a new ETag, whatever `If-Range` says.
    RangeOfNewEtag,
    /// All of it, whatever range is asked for.
    NoRange,
    /// Another range than the one that is asked for.
    OtherRange,
    /// 416, whatever range is asked for.
    NoSuchRange,
    /// Says that there are so many bytes more (or fewer) than there are.
    Length(isize),
    /// As many bytes as there should be, with a wrong one among them.
    Damage,
    /// Without a length, and longer than it should be.
    TooLong,
}

impl Trick {
    /// What to send in place of a list or of metadata.
    ///
    /// # Panics
    /// For a trick with a body.
    pub(super) fn reply(&self) -> String {
        let Self::Status(status, headers) = self else { panic!("{self:?} is about a body") };
        let mut headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if !headers.iter().any(|(name, _)| *name == "Content-Length") {
            headers.push(("Content-Length", "0"));
        }
        head(*status, &headers)
    }

    /// Sends it; false when the connection is at its end.
    pub(super) async fn send(
        self,
        stream: &mut TcpStream,
        request: &Request,
        content: &Bytes,
        go_on: &Notify,
    ) -> bool {
        if matches!(self, Self::Status(..)) {
            return stream.write_all(self.reply().as_bytes()).await.is_ok();
        }
        let size = content.len();
        let range = request.headers.get("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let etag = match self {
            Self::NewEtag | Self::RangeOfNewEtag => "\"another\"",
            _ => STORE_ETAG,
        };
        let allowed = match (&self, request.headers.get("if-range")) {
            (Self::NoRange, _) => false,
            (Self::RangeOfNewEtag, _) | (_, None) => true,
            (_, Some(condition)) => condition == etag,
        };
        let from = range.filter(|_| allowed);
        if self == Self::NoSuchRange || from.is_some_and(|from| from >= size) {
            let range = format!("bytes */{size}");
            let headers = [("Content-Range", range.as_str()), ("Content-Length", "0")];
            return stream.write_all(head(416, &headers).as_bytes()).await.is_ok();
        }
        let mut body = content.slice(from.unwrap_or(0)..);
        if self == Self::Damage {
            let mut bytes = body.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            body = bytes.into();
        }
        let announced = match self {
            Self::Length(more) => body.len().saturating_add_signed(more),
            _ => body.len(),
        };
        let first = from.unwrap_or(0) + usize::from(self == Self::OtherRange);
        let (announced, range) =
            (announced.to_string(), format!("bytes {first}-{}/{size}", size - 1));
        let mut headers = vec![("ETag", etag)];
        if self != Self::TooLong {
            headers.push(("Content-Length", &announced));
        }
        if from.is_some() {
            headers.push(("Content-Range", &range));
        }
        let status = if from.is_some() { 206 } else { 200 };
        if stream.write_all(head(status, &headers).as_bytes()).await.is_err() {
            return false;
        }
        match self {
            Self::Cut(after) => {
                write(stream, &body.slice(..after.min(body.len()))).await;
                false
            }
            Self::Stall(after) => {
                let after = after.min(body.len());
                let told = go_on.notified();
                write(stream, &body.slice(..after)).await;
                // A client that was killed closes its end.
                let gone = async { while stream.read_u8().await.is_ok() {} };
                tokio::select! {
                    () = told => {}
                    () = gone => return false,
                }
                write(stream, &body.slice(after..)).await
            }
            Self::TooLong => {
                write(stream, &body).await;
                write(stream, &Bytes::from_static(b"and more")).await;
                false
            }
            Self::Length(_) => {
                write(stream, &body).await;
                false
            }
            _ => write(stream, &body).await,
        }
    }
}

async fn write(stream: &mut TcpStream, body: &Bytes) -> bool {
    for piece in body.chunks(PIECE) {
        if stream.write_all(piece).await.is_err() {
            return false;
        }
    }
    true
}
