//! What happens to jobs, as it happens: progress and previews, from the worker to every gateway.
//!
//! They are not stored. A gateway that was cut off or started later shows the next one.

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use llm_dit_fault::Fault;
use serde::{Deserialize, Serialize};

use super::{fault::failed, server::Shared};
use crate::{
    jobs::store::JobEvents,
    records::{
        job::JobId,
        progress::{Event, Preview, Progress},
    },
};

const SUBJECT: &str = "llm-dit.events.";
/// The header that says what a message is; its payload is the preview's file.
const HEADER: &str = "Llm-Dit-Event";

#[derive(Debug, Serialize, Deserialize)]
struct Told {
    number: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Progress(Progress),
    Preview { step: u32, steps: u32, media_type: String },
}

#[tonic::async_trait]
impl JobEvents for Shared {
    async fn tell(&self, job: JobId, number: u64, event: Event) {
        let (what, file) = match event {
            Event::Progress(progress) => (What::Progress(progress), Bytes::new()),
            Event::Preview(Preview { step, steps, media_type, file }) => {
                (What::Preview { step, steps, media_type }, file)
            }
        };
        let Ok(json) = serde_json::to_string(&Told { number, what }) else { return };
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, json);
        let told = self.0.client.publish_with_headers(format!("{SUBJECT}{job}"), headers, file);
        if let Err(error) = told.await {
            tracing::debug!(%error, "other gateways miss an event of a job");
        }
    }

    async fn follow(&self) -> Result<BoxStream<'static, (JobId, u64, Event)>, Fault> {
        let heard = self.0.client.subscribe(format!("{SUBJECT}*")).await;
        let heard = heard.map_err(|error| failed("following the events", &error))?;
        Ok(heard.filter_map(async |message| read(&message)).boxed())
    }
}

/// `None` if it is of another version.
fn read(message: &Message) -> Option<(JobId, u64, Event)> {
    let job = message.subject.strip_prefix(SUBJECT)?.parse().ok()?;
    let Told { number, what } =
        serde_json::from_str(message.headers.as_ref()?.get(HEADER)?.as_str()).ok()?;
    let event = match what {
        What::Progress(progress) => Event::Progress(progress),
        What::Preview { step, steps, media_type } => {
            Event::Preview(Preview { step, steps, media_type, file: message.payload.clone() })
        }
    };
    Some((job, number, event))
}
