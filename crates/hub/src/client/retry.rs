//! Repeating a request, for as long as that may help.

use std::{error::Error, time::Duration};

use llm_dit_serving::client::root_cause;
use reqwest::Url;

use super::Client;
use crate::{HubError, Progress};

/// How often, and after which time, a request is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts in a row without progress.
    pub attempts: u32,
    /// Time before the second attempt; it doubles with each further one.
    pub pause: Duration,
    /// Longest time that a hub may make us wait.
    pub longest: Duration,
    /// Bytes after which the attempts are counted anew.
    pub progress: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            progress: 1 << 20,
        }
    }
}

/// Why a request did not succeed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may succeed later.
    Passing {
        cause: String,
        after: Option<Duration>,
        limited: bool,
    },
    Final(HubError),
}

impl Trouble {
    /// Something that passes by itself.
    pub fn passing(cause: impl ToString) -> Self {
        Self::Passing { cause: cause.to_string(), after: None, limited: false }
    }

    /// A connection that failed.
    pub fn lost(url: &Url, error: &(dyn Error + 'static)) -> Self {
        let cause = root_cause(error);
        Self::passing(format!("{}: {cause}", url.host_str().unwrap_or_default()))
    }
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// The attempts at one thing.
pub(crate) struct Attempts<'a> {
    what: &'a str,
    retry: Retry,
    progress: &'a dyn Progress,
    made: u32,
    moved: u64,
}

impl<'a> Attempts<'a> {
    /// None has been made.
    pub fn new(what: &'a str, retry: Retry, progress: &'a dyn Progress) -> Self {
        Self { what, retry, progress, made: 0, moved: 0 }
    }

    /// So many bytes have come.
    pub fn moved(&mut self, bytes: u64) {
        self.moved += bytes;
        if self.moved >= self.retry.progress {
            (self.made, self.moved) = (0, 0);
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    ///
    /// [`HubError`] if there is to be none.
    pub async fn failed(&mut self, client: &Client, trouble: Trouble) -> Result<(), HubError> {
        let (cause, after, limited) = match trouble {
            Trouble::Passing { cause, after, limited } => (cause, after, limited),
            Trouble::Final(error) => return Err(error),
        };
        self.made += 1;
        let pause = pause(self.retry, self.made, after);
        if limited && (self.made >= self.retry.attempts || pause > self.retry.longest) {
            return Err(HubError::Limited {
                host: client.host().to_owned(),
                seconds: pause.as_secs(),
                anonymous: !client.has_token(),
            });
        }
        if self.made >= self.retry.attempts || pause > self.retry.longest {
            let (what, attempts) = (self.what.to_owned(), self.made);
            return Err(HubError::GaveUp { what, attempts, cause });
        }
        self.progress.again(pause, &cause);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// What the hub asks for, or twice as long each time.
fn pause(retry: Retry, made: u32, after: Option<Duration>) -> Duration {
    let doubled = retry.pause.saturating_mul(1 << made.saturating_sub(1).min(16));
    after.unwrap_or(doubled.min(retry.longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_unless_the_hub_says_otherwise() {
        let retry = Retry::default();
        let seconds =
            |made, after: Option<u64>| pause(retry, made, after.map(Duration::from_secs)).as_secs();
        assert_eq!([1, 2, 3, 4].map(|made| seconds(made, None)), [1, 2, 4, 8]);
        assert_eq!(
            (seconds(60, None), seconds(1, Some(7)), seconds(1, Some(9999))),
            (300, 7, 9999)
        );
    }
}
