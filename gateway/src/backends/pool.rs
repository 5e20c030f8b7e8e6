//! Machines that do the same work, and which of them is next: the one with the fewest requests.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use llm_dit_fault::Fault;
use llm_dit_serving::Credentials;
use llm_dit_telemetry::metrics::BACKEND_RETRIES;
use parking_lot::Mutex;
use tokio::time;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Backend, Condition,
    names::{self, Address},
};
use crate::error::Error;

/// Between two looks at the addresses behind a name.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(15);

/// Backends that can stand in for each other.
pub(crate) struct Pool {
    what: &'static str,
    list: Arc<Mutex<Vec<Arc<Backend>>>>,
    /// Where the next round begins, so that equals take turns.
    turn: AtomicUsize,
    _stop: DropGuard,
}

/// A request's claim on a backend, which counts as its load.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Backend>);

/// Backends that a request has been to in vain, and what the last of them said.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    backends: Vec<Arc<Backend>>,
    error: Option<Error>,
    /// How many of them crashed, and how many may; `None`: all.
    crashes: u32,
    max_crashes: Option<u32>,
}

impl Pool {
    /// Must be called inside a tokio runtime.
    pub fn new(
        what: &'static str,
        service: &'static str,
        urls: &[String],
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        let mut first: Vec<Arc<Backend>> = Vec::new();
        for url in urls {
            if first.iter().all(|backend| backend.url() != url) {
                first.push(Backend::new(what, service, &Address::of(url), credentials)?);
            }
        }
        let list = Arc::new(Mutex::new(first));
        let stop = CancellationToken::new();
        let names = Names {
            what,
            service,
            urls: urls.to_vec(),
            credentials: credentials.clone(),
            list: Arc::clone(&list),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(names.follow()));
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
        best.map(|(_, backend)| Lease::new(Arc::clone(backend)))
    }

    fn none_left(&self, left: &[Arc<Backend>]) -> Fault {
        let what = self.what;
        let said = |backend: &Arc<Backend>| {
            let state = backend.state();
            state.detail.unwrap_or_else(|| {
                format!("the {what} at {} is not accepting requests", backend.url())
            })
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
    fn new(backend: Arc<Backend>) -> Self {
        backend.begin();
        Self(backend)
    }

    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Deref for Lease {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Tried {
    /// For a request that is not sent to another backend once so many crashed with it.
    pub fn until_crashes(max: u32) -> Self {
        Self { max_crashes: Some(max), ..Self::default() }
    }

    /// Remembers that `backend` could not help, and with what words. Gives the error back when
    /// another machine would say the same, or might crash as well.
    pub fn note(&mut self, backend: &Arc<Backend>, error: Error) -> Result<(), Error> {
        match &error {
            Error::Fault(fault @ Fault::Unavailable(_)) => backend.fail(fault),
            Error::Lost(message) | Error::Crashed(message) => {
                backend.fail(&Fault::Unavailable(message.clone()));
            }
            Error::Fault(Fault::Busy { .. } | Fault::OutOfMemory(_)) => {}
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

/// Names whose addresses may change.
struct Names {
    what: &'static str,
    service: &'static str,
    urls: Vec<String>,
    credentials: Credentials,
    list: Arc<Mutex<Vec<Arc<Backend>>>>,
}

impl Names {
    async fn follow(self) {
        loop {
            let mut changing = false;
            let mut now: Vec<Address> = Vec::new();
            for url in &self.urls {
                let found = names::look_up(url).await;
                changing |= found.is_some();
                // A name that cannot be looked up keeps what it had.
                let those = match found {
                    Some(addresses) => names::spread(url, &addresses),
                    None => vec![Address::of(url)],
                };
                now.extend(those);
            }
            if !changing {
                return;
            }
            self.replace(&now);
            time::sleep(LOOK_UP_INTERVAL).await;
        }
    }

    /// Keeps the backends that are still there, with all that is known of them.
    fn replace(&self, addresses: &[Address]) {
        let mut list = self.list.lock();
        let mut next: Vec<Arc<Backend>> = Vec::new();
        for address in addresses {
            let url = &address.url;
            if next.iter().any(|backend| backend.url() == url) {
                continue;
            }
            let known = list.iter().find(|backend| backend.url() == url).cloned();
            let new = || Backend::new(self.what, self.service, address, &self.credentials);
            let backend = known.map_or_else(new, Ok);
            match backend {
                Ok(backend) => next.push(backend),
                Err(error) => tracing::warn!(url, %error, "an address is unusable"),
            }
        }
        if next.iter().map(|b| b.url()).ne(list.iter().map(|b| b.url())) {
            let urls: Vec<&str> = next.iter().map(|backend| backend.url()).collect();
            tracing::info!(what = self.what, ?urls, "the addresses of a service changed");
        }
        *list = next;
    }
}

#[cfg(test)]
mod tests {
    use llm_dit_proto::v1::encoder_server::SERVICE_NAME;

    use super::*;

    fn urls(list: &Mutex<Vec<Arc<Backend>>>) -> Vec<String> {
        list.lock().iter().map(|backend| backend.url().to_owned()).collect()
    }

    #[tokio::test]
    async fn when_a_name_has_other_addresses_those_that_stay_are_still_known() {
        let (a, b, c) = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3");
        let list = Arc::new(Mutex::new(Vec::new()));
        let names = Names {
            what: "encoder",
            service: SERVICE_NAME,
            urls: Vec::new(),
            credentials: Credentials::default(),
            list: Arc::clone(&list),
        };
        names.replace(&[a, b, a].map(Address::of));
        assert_eq!(urls(&list), [a, b], "each once");
        let stays = Lease::new(Arc::clone(&list.lock()[1]));
        names.replace(&[c, b].map(Address::of));
        assert_eq!(urls(&list), [c, b]);
        assert!(Arc::ptr_eq(stays.backend(), &list.lock()[1]));
        assert_eq!(list.lock()[1].in_flight(), 1, "with what it has to do");
    }

    #[tokio::test]
    async fn nobody_gets_the_same_machine_twice() {
        let (a, b) = ("http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned());
        let pool =
            Pool::new("encoder", SERVICE_NAME, &[a, b], &Credentials::default()).expect("valid");
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
        let pool =
            Pool::new("encoder", SERVICE_NAME, &urls, &Credentials::default()).expect("valid");
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
}
