//! The time limit of a request: the client's header, and the gateway's own limit.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use llm_dit_fault::Fault;
use llm_dit_serving::Deadline;

use crate::options::seconds;

const HEADER: HeaderName = HeaderName::from_static("x-request-timeout");

/// The gateway's own bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines(Option<Duration>);

impl Deadlines {
    /// Bounds every request by `longest`; `None` sets no bound.
    pub fn new(longest: Option<Duration>) -> Self {
        Self(longest)
    }

    /// The deadline, from now, of a request with these headers.
    ///
    /// # Errors
    ///
    /// [`Fault::BadRequest`] if the header is not a number of seconds.
    pub fn of(self, headers: &HeaderMap) -> Result<Deadline, Fault> {
        let ours = self.0.map_or(Deadline::NEVER, Deadline::after);
        let Some(value) = headers.get(HEADER) else { return Ok(ours) };
        let asked = value.to_str().map_err(|error| error.to_string()).and_then(seconds);
        match asked {
            Ok(timeout) => Ok(ours.earlier(Deadline::after(timeout))),
            Err(why) => Err(Fault::BadRequest(format!("{HEADER}: {why}"))),
        }
    }
}
