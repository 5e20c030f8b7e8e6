//! What a peer may ask of an HTTP/2 connection, on every port of ours and towards other services.
//!
//! Those for floods are as in h2 and hyper, named here so that they cannot change unseen. Frames
//! that need an answer (PING, SETTINGS) have no number: the next frame is not read before the
//! answer is written.

use std::time::Duration;

/// A peer that answers no ping for this long, plus the interval, is gone, and its work is stopped.
/// Calls wait in queues for minutes without a byte; pings tell a busy peer from a dead one.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// See [`KEEPALIVE_INTERVAL`].
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls that a connection may have open.
pub const MAX_STREAMS: u32 = 128;
/// Bytes of the headers of a request. CONTINUATION frames are counted by it.
pub const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Bytes of the headers of an answer. Far more than any of ours: an answer above it is lost, and
/// one of several times as much closes the connection, which other calls share.
pub const MAX_ANSWER_HEADER_BYTES: u32 = 256 * 1024;
/// Calls that the peer may have opened and reset before we looked at them (rapid reset).
pub const MAX_PENDING_RESETS: usize = 20;
/// Calls of a connection that we may have reset because of errors of the peer.
pub const MAX_ERROR_RESETS: usize = 256;
