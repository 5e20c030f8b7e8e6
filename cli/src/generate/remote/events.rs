//! A gateway's events, as docs/api/web_server_api.md has them: progress, previews, and a result or an
//! error at the end.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use llm_dit_engine::image::Step;
use reqwest::Response;
use serde::{Deserialize, de::DeserializeOwned};
use sse_stream::SseStream;

use super::answer::{Answer, Problem, Unanswered};
use crate::generate::studio::{News, Report};

/// The media type of events.
pub(super) const EVENTS: &str = "text/event-stream";

/// How far the picture is.
#[derive(Deserialize)]
struct Progress {
    stage: String,
    queue_position: Option<u64>,
    step: u32,
    steps: u32,
}

/// The picture, as far as it is looked at here.
#[derive(Deserialize)]
struct Outcome {
    /// The file in base64.
    image: String,
    parameters: Parameters,
    #[serde(default)]
    truncated_tokens: u64,
    #[serde(default)]
    truncated_negative_tokens: u64,
}

#[derive(Deserialize)]
struct Parameters {
    seed: u64,
}

/// What was reported last, so that only news are.
struct Reported {
    stage: String,
    step: u32,
    at: Instant,
}

/// Reads to the last event.
pub(super) async fn read(answer: Response, report: Report<'_>) -> Result<Answer, Unanswered> {
    let mut events = SseStream::from_bytes_stream(answer.bytes_stream());
    let mut reported = Reported { stage: String::new(), step: 0, at: Instant::now() };
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| Unanswered::Lost(error.to_string()))?;
        let data = event.data.unwrap_or_default();
        match event.event.as_deref() {
            Some("progress") => reported.tell(&parse(&data)?, report),
            Some("result") => return finish(parse(&data)?),
            Some("error") => {
                let Problem { detail, status } = parse(&data)?;
                let shown = status.map(|status| format!("{status}: ")).unwrap_or_default();
                return Err(Unanswered::Problem(status, format!("{shown}{detail}")));
            }
            // Previews, and whatever newer gateways tell.
            _ => {}
        }
    }
    Err(Unanswered::Strange("ended before the image arrived".to_owned()))
}

fn parse<T: DeserializeOwned>(data: &str) -> Result<T, Unanswered> {
    serde_json::from_str(data)
        .map_err(|error| Unanswered::Strange(format!("sent an invalid event: {error}")))
}

fn finish(outcome: Outcome) -> Result<Answer, Unanswered> {
    let png = STANDARD.decode(outcome.image);
    let png =
        png.map_err(|e| Unanswered::Strange(format!("sent an image in invalid base64: {e}")))?;
    let cut = |tokens: u64| (tokens > 0).then(|| tokens.to_string());
    Ok(Answer {
        seed: outcome.parameters.seed.to_string(),
        truncated: cut(outcome.truncated_tokens),
        negative_truncated: cut(outcome.truncated_negative_tokens),
        png: png.into(),
    })
}

impl Reported {
    fn tell(&mut self, progress: &Progress, report: Report<'_>) {
        let stage = match (progress.stage.as_str(), progress.queue_position) {
            ("encoding", _) => "encoding the prompt".to_owned(),
            ("queued", Some(1)) => "waiting behind 1 image".to_owned(),
            ("queued", Some(ahead)) if ahead > 1 => format!("waiting behind {ahead} images"),
            ("queued", _) => "waiting".to_owned(),
            ("decoding", _) => "decoding".to_owned(),
            // The steps tell.
            _ => String::new(),
        };
        // With its last step a picture enters the next stage, and with its first it leaves the line:
        // the step took the time until here. Fewer steps than before: the picture was begun anew, on
        // another machine.
        if progress.step != self.step {
            self.step = progress.step;
            let (index, total) = (progress.step, progress.steps);
            report(News::Step(Step { index, total, duration: self.since() }, 1));
        }
        if stage != self.stage {
            if !stage.is_empty() {
                report(News::Stage(&stage));
            }
            self.stage = stage;
            self.at = Instant::now();
        }
    }

    fn since(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.at, now)
    }
}
