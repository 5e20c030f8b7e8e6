//! A connection that holds a place, and what it must do to keep it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Sleep},
};
use tonic::transport::server::Connected;

use super::place::Place;

/// A connection with its place.
#[derive(Debug)]
pub struct Counted<T> {
    /// First, so that it is free when the peer sees the end.
    place: Arc<Place>,
    inner: T,
    opened: Opened,
    /// Runs until the first request.
    first_request: Option<Pin<Box<Sleep>>>,
    write: Duration,
    /// Runs while the peer takes nothing of what we write.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Whether a connection has brought a request; an extension of all its requests.
#[derive(Clone, Debug, Default)]
pub struct Opened(Arc<AtomicBool>);

impl Opened {
    /// There is a request.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<T> Counted<T> {
    pub(super) fn new(
        inner: T,
        first_request: Option<Duration>,
        write: Duration,
        place: Arc<Place>,
    ) -> Self {
        let first_request = first_request.map(|limit| Box::pin(time::sleep(limit)));
        let opened = Opened::default();
        Self { place, inner, opened, first_request, write, stalled: None }
    }

    /// Whether the time for the first request is over.
    fn is_idle(&mut self, context: &mut Context<'_>) -> bool {
        if self.opened.get() {
            self.first_request = None;
        }
        let limit = self.first_request.as_mut();
        limit.is_some_and(|limit| limit.as_mut().poll(context).is_ready())
    }

    fn progress<R>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let write = self.write;
        let limit = self.stalled.get_or_insert_with(|| Box::pin(time::sleep(write)));
        limit.as_mut().poll(context).map(|()| Err(timed_out("the peer does not read")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_idle(context) {
            return Poll::Ready(Err(timed_out("the peer sends no request")));
        }
        if self.place.is_lost(context) {
            return Poll::Ready(Err(timed_out("the peer was silent, and its place was needed")));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.place.spoke();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.progress(context, written)
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
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<T> Connected for Counted<T> {
    type ConnectInfo = Opened;

    fn connect_info(&self) -> Opened {
        self.opened.clone()
    }
}

fn timed_out(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}
