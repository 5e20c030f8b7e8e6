//! Follows the addresses behind the names of services, for as long as their pool exists.

use std::{collections::HashMap, sync::Arc, time::Duration};

use llm_dit_serving::Credentials;
use parking_lot::Mutex;
use tokio::time;

use super::{
    Backend,
    names::{self, Address, LookUp},
};

/// When names are looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two looks at the addresses behind a name.
    interval: Duration,
    /// After the first look-up that fails; doubled after each further one.
    retry: Duration,
    /// A name server that takes longer has failed.
    timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            retry: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Names whose addresses may change.
pub(super) struct Names {
    pub what: &'static str,
    pub service: &'static str,
    pub urls: Vec<String>,
    pub credentials: Credentials,
    pub is_inner: bool,
    pub list: Arc<Mutex<Vec<Arc<Backend>>>>,
    pub pace: Pace,
}

impl Names {
    /// Looks the names up with `look_up`, again and again. Returns only if there is no name among
    /// the URLs.
    pub async fn follow<F>(self, look_up: impl Fn(String) -> F)
    where
        F: Future<Output = LookUp>,
    {
        let mut known: HashMap<String, Vec<Address>> = HashMap::new();
        let Pace { interval, retry: first, timeout } = self.pace;
        let mut retry = first;
        loop {
            let (mut has_names, mut all_found) = (false, true);
            let mut now: Vec<Address> = Vec::new();
            for url in &self.urls {
                let found = time::timeout(timeout, look_up(url.clone())).await;
                match found.unwrap_or(LookUp::Failed) {
                    LookUp::NoName => {}
                    LookUp::Found(addresses) => {
                        has_names = true;
                        known.insert(url.clone(), names::spread(url, &addresses));
                    }
                    // What it had stays: the name server is gone, and not the service.
                    LookUp::Failed => (has_names, all_found) = (true, false),
                }
                match known.get(url) {
                    Some(addresses) => now.extend_from_slice(addresses),
                    None => now.push(Address::of(url)),
                }
            }
            if !has_names {
                return;
            }
            self.replace(&now);
            if all_found {
                retry = first;
                time::sleep(interval).await;
            } else {
                tracing::debug!(what = self.what, seconds = retry.as_secs(), "looking up again");
                time::sleep(retry).await;
                retry = (retry * 2).min(interval);
            }
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
            let new =
                || Backend::new(self.what, self.service, address, &self.credentials, self.is_inner);
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
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use llm_dit_proto::v1::encoder_server::SERVICE_NAME;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(2);

    fn names(urls: &[&str]) -> (Names, Arc<Mutex<Vec<Arc<Backend>>>>) {
        let list = Arc::new(Mutex::new(Vec::new()));
        let names = Names {
            what: "encoder",
            service: SERVICE_NAME,
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            credentials: Credentials::default(),
            is_inner: false,
            list: Arc::clone(&list),
            pace: Pace { interval: MOMENT, retry: MOMENT, timeout: MOMENT },
        };
        (names, list)
    }

    fn urls(list: &Mutex<Vec<Arc<Backend>>>) -> Vec<String> {
        list.lock().iter().map(|backend| backend.url().to_owned()).collect()
    }

    #[tokio::test]
    async fn when_a_name_has_other_addresses_those_that_stay_are_still_known() {
        let (a, b, c) = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3");
        let (names, list) = names(&[]);
        names.replace(&[a, b, a].map(Address::of));
        assert_eq!(urls(&list), [a, b], "each once");
        let stays = Arc::clone(&list.lock()[1]);
        names.replace(&[c, b].map(Address::of));
        assert_eq!(urls(&list), [c, b]);
        assert!(Arc::ptr_eq(&stays, &list.lock()[1]), "with all that is known of it");
    }

    fn found(addresses: &[&str]) -> LookUp {
        let parse = |text: &&str| text.parse::<SocketAddr>().expect("an address");
        LookUp::Found(addresses.iter().map(parse).collect())
    }

    /// What the list holds after each answer of the name server.
    async fn after_each(answers: Vec<fn() -> LookUp>) -> Vec<Vec<String>> {
        let (names, list) = names(&["http://gpus:80"]);
        let last = answers.len() - 1;
        let turn = AtomicUsize::new(0);
        let mut seen = Vec::new();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let follow = names.follow(|_| {
            let turn = turn.fetch_add(1, Ordering::SeqCst);
            let _ = tell.send(urls(&list));
            let answer = answers[turn.min(last)];
            async move { answer() }
        });
        tokio::pin!(follow);
        // The list before each look-up is what the one before it left.
        while seen.len() <= answers.len() {
            tokio::select! {
                () = &mut follow => panic!("a name is followed for ever"),
                Some(list) = told.recv() => seen.push(list),
            }
        }
        seen.split_off(1)
    }

    const A: [&str; 2] = ["http://10.0.0.1:80", "http://10.0.0.2:80"];
    const B: [&str; 2] = ["http://10.0.0.3:80", "http://10.0.0.4:80"];

    #[tokio::test]
    async fn a_failed_look_up_keeps_the_addresses_and_is_repeated() {
        let seen = after_each(vec![
            || found(&["10.0.0.1:80", "10.0.0.2:80"]),
            || LookUp::Failed,
            || LookUp::Failed,
            || found(&["10.0.0.3:80", "10.0.0.4:80"]),
        ]);
        assert_eq!(seen.await, [A, A, A, B]);
    }

    #[tokio::test]
    async fn a_name_that_is_unknown_at_the_start_is_found_later() {
        let seen = after_each(vec![|| LookUp::Failed, || LookUp::Failed, || {
            found(&["10.0.0.1:80", "10.0.0.2:80"])
        }])
        .await;
        assert_eq!(seen[..2], [["http://gpus:80"], ["http://gpus:80"]]);
        assert_eq!(seen[2], A);
    }

    #[tokio::test]
    async fn a_name_server_that_hangs_has_failed() {
        let (names, list) = names(&["http://gpus:80"]);
        let turn = AtomicUsize::new(0);
        let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let follow = names.follow(|_| {
            let turn = turn.fetch_add(1, Ordering::SeqCst);
            let _ = tell.send(turn);
            async move {
                if turn == 0 {
                    std::future::pending::<()>().await;
                }
                found(&["10.0.0.1:80", "10.0.0.2:80"])
            }
        });
        tokio::select! {
            () = follow => panic!("a name is followed for ever"),
            // By the third look-up the second one has its effect.
            () = async { while asked.recv().await != Some(2) {} } => {}
        }
        assert_eq!(urls(&list), A);
    }

    #[tokio::test]
    async fn addresses_are_not_followed() {
        let (names, _) = names(&["http://10.0.0.1:80"]);
        names.follow(|_| async { LookUp::NoName }).await;
    }
}
