//! Connections are counted, so that clients cannot open more than a process can hold, and must do
//! something, so that silent ones do not keep out others.

mod counted;
mod errors;
mod place;

use std::{
    future::ready,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use tokio::time;

use llm_dit_telemetry::metrics::CONNECTIONS_REFUSED;

use self::place::Places;
pub use self::{
    counted::{Counted, Opened},
    errors::AcceptErrors,
};

/// Well below the 1024 files that many systems let a process open.
pub const MAX_CONNECTIONS: usize = 512;

/// How many there may be, and how long they may be silent. When there are as many, a new one takes the
/// place of the one that has sent nothing for longest.
#[derive(Clone, Debug)]
pub struct Connections {
    places: Arc<Places>,
    patience: Patience,
}

/// Limits of time of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From its begin to its first request, a TLS handshake included.
    pub first_request: Duration,
    /// For the peer to take the next bytes that we write.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first_request: Duration::from_secs(10), write: Duration::from_secs(60) }
    }
}

impl Connections {
    /// Admits at most `max` connections at a time, and at least one.
    pub fn new(max: usize) -> Self {
        Self { places: Arc::new(Places::new(max)), patience: Patience::default() }
    }

    /// Replaces the default limits of time.
    pub fn patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The time for the first request, for a server that keeps it itself.
    pub fn first_request(&self) -> Duration {
        self.patience.first_request
    }

    /// `None`, and it is closed, when there are as many as there may be and each has sent something.
    pub fn count<T>(&self, inner: T) -> Option<Counted<T>> {
        self.counted(inner, None)
    }

    /// The connections of a listener, as far as there are places. The server marks their [`Opened`] at
    /// the first request. Errors of the listener are logged, and followed by a pause.
    pub fn admit<T: Send + 'static>(
        self,
        incoming: impl Stream<Item = io::Result<T>>,
    ) -> impl Stream<Item = io::Result<Counted<T>>> {
        let errors = Mutex::new(AcceptErrors::default());
        let paced = incoming.then(move |connection| {
            let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
            let pause = match &connection {
                Ok(_) => {
                    errors.end();
                    Duration::ZERO
                }
                Err(error) => errors.add(error),
            };
            async move {
                if !pause.is_zero() {
                    time::sleep(pause).await;
                }
                connection.ok()
            }
        });
        paced.filter_map(move |connection| {
            let first_request = Some(self.patience.first_request);
            ready(connection.and_then(|inner| self.counted(inner, first_request)).map(Ok))
        })
    }

    fn counted<T>(&self, inner: T, first_request: Option<Duration>) -> Option<Counted<T>> {
        match self.places.take() {
            Some(place) => Some(Counted::new(inner, first_request, self.patience.write, place)),
            None => {
                metrics::counter!(CONNECTIONS_REFUSED.name).increment(1);
                tracing::warn!("closed a connection: the limit on open connections is reached");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const SHORT: Patience =
        Patience { first_request: Duration::from_millis(20), write: Duration::from_millis(20) };

    #[tokio::test]
    async fn a_connection_that_sent_something_keeps_its_place_to_its_end() {
        let connections = Connections::new(1);
        let (near, _silent) = duplex(16);
        let mut evicted = connections.count(near).expect("room");
        let (near, mut far) = duplex(16);
        let mut first = connections.count(near).expect("the place of the silent one");
        let error = evicted.read_u8().await.expect_err("it has no place");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        far.write_u8(7).await.expect("open");
        assert_eq!(first.read_u8().await.expect("a byte"), 7);
        assert!(connections.count(duplex(1).0).is_none());
        drop(first);
        assert!(connections.count(duplex(1).0).is_some());
    }

    #[tokio::test]
    async fn a_peer_that_sends_no_request_is_let_go_and_one_that_did_may_wait() {
        let connections = Connections::new(2).patience(SHORT);
        let ((near, _far), (other, mut peer)) = (duplex(16), duplex(16));
        let mut admitted = pin!(connections.admit(stream::iter([Ok(near), Ok(other)])));
        let mut silent = admitted.next().await.expect("room").expect("no error");
        let error = silent.read_u8().await.expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let mut used = admitted.next().await.expect("room").expect("no error");
        tonic::transport::server::Connected::connect_info(&used).set();
        time::sleep(SHORT.first_request * 2).await;
        peer.write_u8(7).await.expect("open");
        assert_eq!(used.read_u8().await.expect("a byte"), 7);
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_let_go() {
        let (near, mut far) = duplex(16);
        let mut near = Connections::new(1).patience(SHORT).count(near).expect("room");
        near.write_all(&[0; 16]).await.expect("the buffer has room");
        far.read_exact(&mut [0; 8]).await.expect("there is something");
        near.write_all(&[0; 8]).await.expect("there is room again");
        let error = near.write_all(&[0; 8]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_listener_out_of_files_is_asked_again_after_a_pause() {
        let error = || Err(io::Error::other("too many open files"));
        let begun = time::Instant::now();
        let incoming = stream::iter([error(), Ok(1), error(), Ok(2)]);
        let admitted = Connections::new(2).admit(incoming);
        assert_eq!(admitted.count().await, 2);
        assert!(begun.elapsed() >= Duration::from_millis(200));
    }
}
