//! What is kept of a job.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    picture::About,
    problem::Problem,
    request::{GenerateBody, LoraBody},
};

pub(crate) type JobId = Uuid;

/// A job as it is stored: enough to make its picture again, or to tell what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub id: JobId,
    /// Times are RFC 3339.
    pub created: String,
    /// When the last attempt began.
    pub started: Option<String>,
    pub ended: Option<String>,
    /// What the client called the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// With every value that was left open, the seed above all, but without the picture to draw from.
    pub request: GenerateBody,
    /// The set of LoRAs, which was the default when the job was accepted if the request named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loras: Option<Vec<LoraBody>>,
    /// Times that the picture was begun.
    pub attempts: u32,
    /// Times that a service crashed while it made the picture.
    #[serde(default, skip_serializing_if = "is_none")]
    pub crashes: u32,
    /// Where gateways share a queue: the claim under which it runs, or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub state: JobState,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobState {
    /// Waiting for its turn, or for unavailable services.
    Queued,
    Running,
    Done(Box<About>),
    Failed(Problem),
    Cancelled,
}

fn is_none(crashes: &u32) -> bool {
    *crashes == 0
}

impl JobState {
    pub const NAMES: [&str; 5] = ["queued", "running", "done", "failed", "cancelled"];

    /// As answers and metrics have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// `Idempotency-Key`, and what the request was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdempotencyKey {
    pub text: String,
    /// SHA-256 of the body, in hex.
    pub body: String,
}

impl IdempotencyKey {
    pub fn new(text: String, body: &GenerateBody) -> Self {
        // Of what was asked for, whatever the order or the spaces were.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { text, body: HEXLOWER.encode(&Sha256::digest(&body)) }
    }
}

impl JobRecord {
    /// A job that is accepted now.
    pub fn new(request: GenerateBody, key: Option<IdempotencyKey>) -> Self {
        Self {
            id: Uuid::new_v4(),
            created: Timestamp::now().to_string(),
            started: None,
            ended: None,
            key,
            request,
            loras: None,
            attempts: 0,
            crashes: 0,
            owner: None,
            state: JobState::Queued,
        }
    }

    pub fn begin(&mut self) {
        self.attempts += 1;
        self.started = Some(Timestamp::now().to_string());
        self.state = JobState::Running;
    }

    /// It waits again. An attempt under way was interrupted, which was no fault of the job's.
    pub fn requeue(&mut self) {
        if matches!(self.state, JobState::Running) {
            self.attempts = self.attempts.saturating_sub(1);
        }
        self.state = JobState::Queued;
    }

    pub fn end(&mut self, state: JobState) {
        self.ended = Some(Timestamp::now().to_string());
        self.state = state;
    }

    pub fn is_over(&self) -> bool {
        match self.state {
            JobState::Queued | JobState::Running => false,
            JobState::Done(_) | JobState::Failed(_) | JobState::Cancelled => true,
        }
    }

    /// Whether it ended before then.
    pub fn ended_before(&self, then: Timestamp) -> bool {
        let ended = self.ended.as_deref().and_then(|ended| ended.parse::<Timestamp>().ok());
        ended.is_some_and(|ended| ended < then)
    }
}
