//! The request that a job comes from.

use llm_dit_telemetry::request_id::RequestId;
use tracing::{Instrument as _, Span};

use crate::records::job::JobId;

/// For a job's logs and traces. After a restart only the job itself is known.
#[derive(Debug)]
pub(super) struct Origin {
    request: RequestId,
    span: Span,
}

impl Origin {
    /// To be called where the job is accepted.
    pub fn of(job: JobId) -> Self {
        let request = RequestId::current().unwrap_or_else(|| job.into());
        let span = tracing::info_span!("job", id = %job, request_id = request.as_str());
        Self { request, span }
    }

    /// Work whose logs and calls name that request.
    pub fn scope(self, work: impl Future<Output = ()>) -> impl Future<Output = ()> {
        self.request.scope(work).instrument(self.span)
    }
}
