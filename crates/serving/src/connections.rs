//! Connections are counted, so that clients cannot open more than a process can hold.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::transport::server::Connected;

use llm_dit_telemetry::metrics::CONNECTIONS_REFUSED;

/// Well below the 1024 files that many systems let a process open.
pub const MAX_CONNECTIONS: usize = 512;

/// How many there may be.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Semaphore>);

/// One of them.
#[derive(Debug)]
pub struct Counted<T> {
    inner: T,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    /// Admits at most `max` connections at a time, and at least one.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS))))
    }

    /// `None`, and it is closed, when there are as many as there may be.
    pub fn count<T>(&self, inner: T) -> Option<Counted<T>> {
        match Arc::clone(&self.0).try_acquire_owned() {
            Ok(place) => Some(Counted { inner, _place: place }),
            Err(_) => {
                metrics::counter!(CONNECTIONS_REFUSED.name).increment(1);
                tracing::warn!("closed a connection: the limit on open connections is reached");
                None
            }
        }
    }

    /// Those of a listener that there is room for.
    pub fn admit<T: Send + 'static>(
        self,
        incoming: impl Stream<Item = io::Result<T>>,
    ) -> impl Stream<Item = io::Result<Counted<T>>> {
        incoming.filter_map(move |connection| {
            let counted = connection.map(|connection| self.count(connection)).transpose();
            std::future::ready(counted)
        })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<T: Connected> Connected for Counted<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> T::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone() {
        let connections = Connections::new(1);
        let first = connections.count(()).expect("room");
        assert!(connections.count(()).is_none());
        drop(first);
        assert!(connections.count(()).is_some());
    }
}
