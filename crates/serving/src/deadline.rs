//! The time by which a caller needs its answer. It is passed from hop to hop in gRPC's own
//! `grpc-timeout`; for the engine, a deadline that passes is a caller that left.

use std::{future::Future, time::Duration};

use futures::{Stream, StreamExt as _};
use llm_dit_fault::Fault;
use tokio::time::{self, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, metadata::MetadataMap};

const HEADER: &str = "grpc-timeout";

/// A service that is asked gives up this much later than we do, so that our own words arrive.
const SLACK: Duration = Duration::from_secs(1);

/// Runs towards a deadline for as long as it lives.
#[derive(Debug)]
pub struct Timer {
    deadline: Deadline,
    stop: DropGuard,
}

/// A moment, or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline.
    pub const NEVER: Self = Self(None);

    /// The deadline `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        // What no clock can hold is never.
        Self(Instant::now().checked_add(timeout))
    }

    /// What a gRPC caller asked for.
    pub fn of(metadata: &MetadataMap) -> Self {
        let timeout = metadata.get(HEADER).and_then(|value| parse(value.to_str().ok()?));
        timeout.map_or(Self::NEVER, Self::after)
    }

    /// The earlier of the two.
    pub fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// A call that carries it on.
    pub fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(at) = self.0 {
            request.set_timeout(at.saturating_duration_since(Instant::now()) + SLACK);
        }
        request
    }

    /// Runs `work` until the deadline, then drops it.
    ///
    /// # Errors
    ///
    /// The error of `work`, or a [`Fault`] if the deadline passes first.
    pub async fn bound<T, E: From<Fault>>(
        self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.0 {
            Some(at) => time::timeout_at(at, work).await.unwrap_or_else(|_| Err(over().into())),
            None => work.await,
        }
    }

    /// A timer for work whose caller may have left.
    pub fn start(self) -> Timer {
        let token = CancellationToken::new();
        if let Some(at) = self.0 {
            let fired = token.clone();
            tokio::spawn(async move {
                // Ends with the timer as well.
                if fired.run_until_cancelled(time::sleep_until(at)).await.is_some() {
                    fired.cancel();
                }
            });
        }
        Timer { deadline: self, stop: token.drop_guard() }
    }

    fn is_over(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }
}

impl Timer {
    /// Fires at the deadline, and with the timer's end.
    pub fn token(&self) -> &CancellationToken {
        self.stop.token()
    }

    /// Answers of work that the token stops. A cancellation after the deadline is reported as
    /// [`Fault::Deadline`].
    pub fn explain<T>(
        self,
        answers: impl Stream<Item = Result<T, Fault>>,
    ) -> impl Stream<Item = Result<T, Fault>> {
        answers.map(move |answer| {
            // All of it, so that the timer runs for as long as there are answers.
            let timer = &self;
            match answer {
                Err(Fault::Cancelled(_)) if timer.deadline.is_over() => Err(over()),
                answer => answer,
            }
        })
    }
}

fn over() -> Fault {
    Fault::Deadline("the deadline of the request has passed".to_owned())
}

/// At most eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("5m"), Some(Duration::from_millis(5)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "-1S", "+1S", "100000000S", "1s", "1\u{e9}", "1 S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn what_takes_longer_is_dropped() {
        let in_time = Deadline::after(Duration::from_secs(600)).bound(async { Ok::<_, Fault>(1) });
        assert_eq!(in_time.await, Ok(1));
        let deadline = Deadline::after(Duration::from_millis(5));
        let timer = deadline.start();
        let never = deadline.bound(std::future::pending::<Result<(), Fault>>()).await;
        assert!(matches!(never, Err(Fault::Deadline(_))));
        timer.token().cancelled().await;
        let token = Deadline::NEVER.start().token().clone();
        token.cancelled().await;
        assert_eq!(Deadline::NEVER.earlier(deadline), deadline);
        assert_eq!(deadline.earlier(Deadline::after(Duration::MAX)), deadline);
    }

    #[tokio::test]
    async fn a_deadline_travels_with_a_call() {
        let seconds = |n: u64| Deadline::after(Duration::from_secs(n));
        let request = seconds(500).request(());
        let there = Deadline::of(request.metadata());
        assert_eq!(there.earlier(seconds(600)), there);
        let before = seconds(400);
        assert_eq!(there.earlier(before), before);
        assert_eq!(Deadline::of(Deadline::NEVER.request(()).metadata()), Deadline::NEVER);
    }
}
