//! Machines that do the same work, and which of them is next: the one with the fewest requests.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::join_all;
use llm_dit_fault::Fault;
use llm_dit_serving::Credentials;
use llm_dit_telemetry::metrics::BACKEND_RETRIES;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Response, Status};

use super::{
    Backend, Condition,
    follow::{Names, Pace},
    names::{self, Address},
};
use crate::{error::Error, records::model::Model};

/// Backends that can stand in for each other.
pub(crate) struct Pool {
    what: &'static str,
    list: List,
    /// Where the next round begins, so that equals take turns.
    turn: AtomicUsize,
    _stop: DropGuard,
}

/// Shared with the task that follows the names, and with leases.
type List = Arc<Mutex<Vec<Arc<Backend>>>>;

/// A request's claim on a backend, which counts as its load.
#[derive(Debug)]
pub(crate) struct Lease {
    backend: Arc<Backend>,
    /// All backends that could do the work.
    list: List,
}

/// Backends that a request has been to in vain, and what the last of them said.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    backends: Vec<Arc<Backend>>,
    error: Option<Error>,
    /// How many of them crashed, and how many may; `None`: all.
    crashes: u32,
    max_crashes: Option<u32>,
    /// An engine failed at the request.
    failed_inside: bool,
}

impl Pool {
    /// `is_inner`: they run in this process. Must be called inside a tokio runtime.
    pub fn new(
        what: &'static str,
        service: &'static str,
        urls: &[String],
        credentials: &Credentials,
        is_inner: bool,
    ) -> Result<Self, Error> {
        let mut first: Vec<Arc<Backend>> = Vec::new();
        for url in urls {
            if first.iter().all(|backend| backend.url() != url) {
                let address = Address::of(url);
                first.push(Backend::new(what, service, &address, credentials, is_inner)?);
            }
        }
        let list = Arc::new(Mutex::new(first));
        let stop = CancellationToken::new();
        let names = Names {
            what,
            service,
            urls: urls.to_vec(),
            credentials: credentials.clone(),
            is_inner,
            list: Arc::clone(&list),
            pace: Pace::default(),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(names.follow(names::look_up)));
        Ok(Self { what, list, turn: AtomicUsize::new(0), _stop: stop.drop_guard() })
    }

    /// All of them, in the order in which they were given.
    pub fn all(&self) -> Vec<Arc<Backend>> {
        self.list.lock().clone()
    }

    /// Changes whenever one of them came back, perhaps with another model.
    pub fn epoch(&self) -> u64 {
        self.list.lock().iter().map(|backend| backend.recoveries()).sum()
    }

    /// The least busy of those that are well and not tried yet.
    pub async fn pick(&self, tried: &mut Tried) -> Result<Lease, Error> {
        if let Some(lease) = self.try_pick(tried) {
            return Ok(lease);
        }
        // Perhaps one has come back since it was asked last.
        let left: Vec<_> =
            self.all().into_iter().filter(|backend| !tried.contains(backend)).collect();
        join_all(left.iter().map(|backend| backend.check())).await;
        match self.try_pick(tried) {
            Some(lease) => Ok(lease),
            None => Err(tried.error.take().unwrap_or_else(|| self.none_left(&left).into())),
        }
    }

    fn try_pick(&self, tried: &Tried) -> Option<Lease> {
        let list = self.list.lock();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % list.len().max(1);
        let (before, from) = list.split_at(turn);
        let best = from
            .iter()
            .chain(before)
            .filter(|backend| !tried.contains(backend))
            .map(|backend| (backend.state().condition, backend))
            .filter(|(condition, _)| condition.is_usable())
            .min_by_key(|(condition, backend)| {
                (*condition != Condition::Serving, backend.in_flight())
            });
        // Counted before the list is let go, so that two requests do not see the same load.
        best.map(|(_, backend)| Lease::new(Arc::clone(backend), Arc::clone(&self.list)))
    }

    fn none_left(&self, left: &[Arc<Backend>]) -> Fault {
        let what = self.what;
        let said = |backend: &Arc<Backend>| {
            let state = backend.state();
            let place = backend.remote.place();
            state.detail.unwrap_or_else(|| format!("{place} is not accepting requests"))
        };
        let all: Vec<String> = left.iter().map(said).collect();
        Fault::Unavailable(if all.is_empty() {
            format!("there is no {what}")
        } else {
            all.join("; ")
        })
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Lease {
    fn new(backend: Arc<Backend>, list: List) -> Self {
        backend.begin();
        Self { backend, list }
    }

    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// [`Backend::model`], unless the backend falls silent.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the service does not answer, or answers nothing that can be used.
    pub async fn model(&self) -> Result<Model, Fault> {
        self.unless_silent(self.backend.model()).await
    }

    /// The answer of a call of this backend, unless it falls silent.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the call fails, or as [`Self::unless_silent`].
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Fault> {
        let answer = async { call.await.map_err(|status| self.remote.fault(status)) };
        Ok(self.unless_silent(answer).await?.into_inner())
    }

    /// Waits for `call`, unless the backend stops to answer its health checks while another one is
    /// usable: then the call is dropped, so that the other one can do it. Without another one it may
    /// take as long as the connection lives.
    pub async fn unless_silent<T, E: From<Fault>>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            result = call => result,
            fault = self.silence() => Err(fault.into()),
        }
    }

    async fn silence(&self) -> Fault {
        let mut states = self.backend.watch();
        loop {
            let state = states.borrow_and_update().clone();
            if state.is_silent && self.has_alternative() {
                let silent = || format!("{} does not answer", self.backend.remote.place());
                return Fault::Unavailable(state.detail.unwrap_or_else(silent));
            }
            if states.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn has_alternative(&self) -> bool {
        let list = self.list.lock();
        let others = list.iter().filter(|other| !Arc::ptr_eq(other, &self.backend));
        others.into_iter().any(|other| other.state().condition.is_usable())
    }
}

impl Deref for Lease {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.end();
    }
}

impl Tried {
    /// For a request that is not sent to another backend once so many crashed with it.
    pub fn until_crashes(max: u32) -> Self {
        Self { max_crashes: Some(max), ..Self::default() }
    }

    /// Remembers that `backend` could not help, and with what words. Gives the error back when
    /// another machine would say the same, or might crash as well.
    ///
    /// What a service did wrong is no fault of the request: it is tried on another one. A request that
    /// makes an engine fail, however, gets one second attempt and does not go through all services.
    pub fn note(&mut self, backend: &Arc<Backend>, error: Error) -> Result<(), Error> {
        let error = match error {
            // We cancel by dropping a call, so this one was ended by the service.
            Error::Fault(Fault::Cancelled(message)) => Fault::Unavailable(message).into(),
            error => error,
        };
        match &error {
            Error::Fault(fault @ Fault::Unavailable(_)) => backend.fail(fault),
            Error::Lost(message) | Error::Crashed(message) => {
                backend.fail(&Fault::Unavailable(message.clone()));
            }
            // Another one may have room, the file, or what it takes.
            Error::Fault(
                Fault::Busy { .. }
                | Fault::OutOfMemory(_)
                | Fault::Unsupported(_)
                | Fault::NotFound(_),
            ) => {}
            Error::Fault(Fault::Internal(_)) if !self.failed_inside => self.failed_inside = true,
            _ => return Err(error),
        }
        if let Error::Crashed(message) = &error {
            self.crashes += 1;
            if self.max_crashes.is_some_and(|max| self.crashes >= max) {
                return Err(Error::crashes(self.crashes, message));
            }
        }
        tracing::info!(url = backend.url(), %error, "retrying on another service");
        metrics::counter!(BACKEND_RETRIES.name, "kind" => backend.kind()).increment(1);
        self.backends.push(Arc::clone(backend));
        self.error = Some(error);
        Ok(())
    }

    /// Remembers that `backend` lacks what a request asks for, though another one may have it.
    pub fn skip(&mut self, backend: &Arc<Backend>, error: Error) {
        self.backends.push(Arc::clone(backend));
        self.error = Some(error);
    }

    fn contains(&self, backend: &Arc<Backend>) -> bool {
        self.backends.iter().any(|tried| Arc::ptr_eq(tried, backend))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use llm_dit_proto::v1::encoder_server::SERVICE_NAME;

    use super::{super::backend::State, *};

    #[tokio::test]
    async fn nobody_gets_the_same_machine_twice() {
        let (a, b) = ("http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned());
        let pool = Pool::new("encoder", SERVICE_NAME, &[a, b], &Credentials::default(), false)
            .expect("valid");
        let mut tried = Tried::default();
        let mut been = Vec::new();
        for _ in 0..2 {
            let lease = pool.try_pick(&tried).expect("one that was not tried");
            been.push(lease.url().to_owned());
            let busy = Fault::Busy { message: "x".to_owned(), retry_after: Duration::ZERO };
            tried.note(lease.backend(), busy.into()).expect("another may have room");
        }
        assert_ne!(been[0], been[1]);
        assert!(pool.try_pick(&tried).is_none());
    }

    #[tokio::test]
    async fn a_request_that_crashes_services_does_not_get_to_all_of_them() {
        let urls = [1, 2, 3].map(|port| format!("http://127.0.0.1:{port}"));
        let pool = Pool::new("encoder", SERVICE_NAME, &urls, &Credentials::default(), false)
            .expect("valid");
        let mut tried = Tried::until_crashes(2);
        let mut note = |error: Error| {
            let lease = pool.try_pick(&tried).expect("one that was not tried");
            tried.note(lease.backend(), error)
        };
        let crash = || Error::Crashed("connection reset".to_owned());
        note(crash()).expect("it may have been bad luck");
        note(Error::Lost("nonsense".to_owned())).expect("no crash");
        let error = note(crash()).expect_err("twice").to_string();
        assert!(error.contains("2 services crashed") && error.contains("reset"), "{error}");
    }

    fn silent() -> State {
        let detail = Some("gone".to_owned());
        State { condition: Condition::Unreachable, detail, is_silent: true }
    }

    #[tokio::test]
    async fn a_call_to_a_silent_backend_moves_only_to_a_usable_one() {
        let (a, b) = ("http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned());
        let pool = Pool::new("encoder", SERVICE_NAME, &[a, b], &Credentials::default(), false)
            .expect("valid");
        let lease = pool.try_pick(&Tried::default()).expect("one");
        let mut list = pool.all();
        list.retain(|backend| !Arc::ptr_eq(backend, lease.backend()));
        let other = list.remove(0);
        other.set(silent());
        lease.backend().set(silent());
        // Nothing is awaited, so that no health check of its own changes the states.
        let call = lease.unless_silent(std::future::pending::<Result<(), Fault>>());
        tokio::pin!(call);
        assert_eq!(call.as_mut().now_or_never(), None, "no other backend could do better");
        other.set(State { condition: Condition::Serving, detail: None, is_silent: false });
        // The next check of the silent one finds that the other one is back.
        lease.backend().set(silent());
        let gone = Fault::Unavailable("gone".to_owned());
        assert_eq!(call.as_mut().now_or_never(), Some(Err(gone)));
        // A result that is there counts.
        let result = lease.unless_silent(async { Ok::<_, Fault>(1) }).now_or_never();
        assert_eq!(result, Some(Ok(1)));
    }
}
