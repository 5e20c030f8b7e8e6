//! The work queue, and the right to a job.

use std::time::Duration;

use async_nats::jetstream::{AckKind, Message, message::PublishMessage};
use futures::StreamExt as _;
use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::{QUEUE_LATE_RESULTS, QUEUE_REDELIVERIES};
use metrics::counter;
use tokio::time;
use uuid::Uuid;

use super::{
    fault::{failed, is_full},
    records::{result_of, source_of},
    server::Shared,
};
use crate::{
    jobs::store::{Claim, JobIndex as _, JobQueue, StoredJob},
    records::{
        job::{JobId, JobRecord, JobState},
        picture::Made,
    },
};

/// What one request for a message waits.
const FETCH: Duration = Duration::from_secs(5);
/// After the server has failed.
const PAUSE: Duration = Duration::from_secs(1);
/// For a message that cannot be read now.
const NAK: Duration = Duration::from_secs(2);
/// How often a message is sent whose acknowledgement did not come.
const TRIES: u32 = 2;
/// When there may be room again in a full queue.
const RETRY_FULL: Duration = Duration::from_secs(10);

struct SharedClaim {
    shared: Shared,
    job: JobId,
    /// Stands in the record while this worker has the job.
    owner: String,
    message: Message,
    /// Its image is stored under this owner's name.
    stored: bool,
}

fn subject(job: JobId) -> String {
    format!("llm-dit.work.{job}")
}

#[tonic::async_trait]
impl JobQueue for Shared {
    async fn publish(&self, job: JobId) -> Result<(), Fault> {
        self.send(job, &job.to_string()).await
    }

    async fn claim(&self) -> Box<dyn Claim> {
        loop {
            if let Some(claim) = self.try_claim().await {
                return Box::new(claim);
            }
        }
    }

    async fn withdraw(&self, job: JobId) {
        let work = &self.0.work;
        if let Ok(message) = work.get_last_raw_message_by_subject(&subject(job)).await
            && let Err(error) = work.delete_message(message.sequence).await
        {
            tracing::debug!(%job, %error, "a worker will drop the message of a cancelled job");
        }
        if let Err(fault) = self.0.objects.delete(&source_of(job)).await {
            tracing::debug!(%job, %fault, "the init image of a cancelled job goes later");
        }
    }
}

impl Shared {
    /// Puts a job's message into the queue, once for each `message_id`.
    pub(super) async fn send(&self, job: JobId, message_id: &str) -> Result<(), Fault> {
        self.ready().await?;
        let mut last = None;
        for _ in 0..TRIES {
            let message =
                PublishMessage::build().payload(job.to_string().into()).message_id(message_id);
            let sent = match self.0.context.send_publish(subject(job), message).await {
                Ok(sent) => sent.await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(_) => return Ok(()),
                Err(error) if is_full(&error) => {
                    let max = self.0.options.max_jobs;
                    return Err(Fault::Busy {
                        message: format!(
                            "the shared queue is full ({max} jobs at most); try again later"
                        ),
                        retry_after: RETRY_FULL,
                    });
                }
                // Perhaps it is stored: the same id again does no harm.
                Err(error) => last = Some(failed("sending a job", &error)),
            }
        }
        Err(last.unwrap_or_else(|| Fault::Unavailable("the shared queue failed".to_owned())))
    }

    async fn try_claim(&self) -> Option<SharedClaim> {
        if !self.is_connected() {
            time::sleep(PAUSE).await;
            return None;
        }
        let message = self.next_message().await?;
        let text = str::from_utf8(&message.payload).ok();
        let Some(job) = text.and_then(|text| text.parse::<JobId>().ok()) else {
            tracing::error!(subject = %message.subject, "dropped a message that is not ours");
            let _ = message.ack_with(AckKind::Term).await;
            return None;
        };
        if message.info().is_ok_and(|info| info.delivered > 1) {
            counter!(QUEUE_REDELIVERIES.name).increment(1);
            tracing::warn!(%job, "took over a job whose worker was lost");
        }
        let owner = Uuid::new_v4().simple().to_string();
        match self.take_over(job, &owner).await {
            Ok(Some(stored)) if !stored.record.is_over() => {
                Some(SharedClaim { shared: self.clone(), job, owner, message, stored: false })
            }
            Ok(over) => {
                // Its worker died between the end and the acknowledgement, or it was cancelled.
                if let Some(over) = over
                    && let Err(fault) = self.complete(over).await
                {
                    tracing::warn!(%job, %fault, "the history lacks an image for now");
                }
                acknowledge(&message).await;
                None
            }
            Err(fault) => {
                tracing::warn!(%job, %fault, "failed to read the record of a claimed job");
                let _ = message.ack_with(AckKind::Nak(Some(NAK))).await;
                time::sleep(PAUSE).await;
                None
            }
        }
    }

    /// The record of a job. If it names another owner, who was lost, it names this one from now on: what
    /// the other one may still make is refused.
    async fn take_over(&self, job: JobId, owner: &str) -> Result<Option<StoredJob>, Fault> {
        loop {
            let Some(mut stored) = self.by_id(job).await? else { return Ok(None) };
            if stored.record.is_over() || stored.record.owner.is_none() {
                return Ok(Some(stored));
            }
            stored.record.owner = Some(owner.to_owned());
            if let Some(revision) = self.put_record(&stored.record, stored.revision).await? {
                return Ok(Some(StoredJob { revision, ..stored }));
            }
        }
    }

    /// One message: what a worker takes is kept from the others.
    async fn next_message(&self) -> Option<Message> {
        let batch = self.0.workers.batch().max_messages(1).expires(FETCH).messages().await;
        let mut batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(fault = %failed("asking for a job", &error), "no jobs for now");
                time::sleep(PAUSE).await;
                return None;
            }
        };
        // A request is lost with its server.
        let lost = async {
            while self.is_connected() {
                time::sleep(PAUSE).await;
            }
        };
        let next = tokio::select! {
            next = batch.next() => next?,
            () = lost => return None,
        };
        match next {
            Ok(message) => Some(message),
            Err(error) => {
                tracing::warn!(%error, "no jobs for now");
                time::sleep(PAUSE).await;
                None
            }
        }
    }
}

#[tonic::async_trait]
impl Claim for SharedClaim {
    fn job(&self) -> JobId {
        self.job
    }

    fn owner(&self) -> Option<&str> {
        Some(&self.owner)
    }

    fn extend_every(&self) -> Duration {
        self.shared.0.options.lease / 3
    }

    async fn extend(&mut self) -> Result<(), Fault> {
        let extended = self.message.ack_with(AckKind::Progress).await;
        extended.map_err(|error| failed("extending a claim", &*error))
    }

    async fn finish(
        &mut self,
        mut record: JobRecord,
        picture: Option<Made>,
    ) -> Result<Option<JobRecord>, Fault> {
        record.owner = Some(self.owner.clone());
        let (stored, revision) = loop {
            let Some(current) = self.shared.by_id(self.job).await? else {
                self.drop_result().await;
                acknowledge(&self.message).await;
                return Ok(None);
            };
            let is_ours = current.record.owner.as_ref() == Some(&self.owner);
            if current.record.is_over() && is_ours {
                // The answer to an earlier try was lost.
                break (current.record, current.revision);
            }
            let is_foreign = current.record.owner.is_some() && !is_ours;
            if current.record.is_over() || is_foreign {
                if picture.is_some() {
                    counter!(QUEUE_LATE_RESULTS.name).increment(1);
                    tracing::warn!(job = %self.job, "refused a result that came too late");
                }
                self.drop_result().await;
                if current.record.is_over() {
                    // An acknowledgement would end the work of another worker too.
                    acknowledge(&self.message).await;
                }
                return Ok(Some(current.record));
            }
            if let Some(made) = &picture
                && !self.stored
            {
                // Storing it may take longer than what is left of the lease.
                self.extend().await?;
                let name = result_of(self.job, &self.owner);
                self.shared.0.objects.put(&name, &made.file).await?;
                self.stored = true;
                self.extend().await?;
                continue;
            }
            match self.shared.put_record(&record, current.revision).await? {
                Some(revision) => break (record.clone(), revision),
                None => continue,
            }
        };
        let complete = self.shared.complete(StoredJob { record: stored, revision }).await?;
        if let Err(fault) = self.shared.0.objects.delete(&source_of(self.job)).await {
            tracing::debug!(%fault, "an init image goes later");
        }
        acknowledge(&self.message).await;
        Ok(Some(complete))
    }

    async fn requeue(&mut self, mut record: JobRecord) -> Result<(), Fault> {
        record.owner = None;
        let revision = loop {
            let Some(current) = self.shared.by_id(self.job).await? else {
                acknowledge(&self.message).await;
                return Ok(());
            };
            if current.record.is_over() {
                acknowledge(&self.message).await;
                return Ok(());
            }
            if current.record.owner.as_ref().is_some_and(|owner| *owner != self.owner) {
                return Ok(());
            }
            if let Some(revision) = self.shared.put_record(&record, current.revision).await? {
                break revision;
            }
        };
        // Behind those that wait. If there is no room, this message comes again.
        match self.shared.send(self.job, &format!("{}.{}", self.job, revision.0)).await {
            Ok(()) => acknowledge(&self.message).await,
            Err(fault) => {
                tracing::debug!(%fault, "a job keeps its place in the queue");
                let _ = self.message.ack_with(AckKind::Nak(None)).await;
            }
        }
        Ok(())
    }

    async fn abandon(&mut self) -> Result<Option<StoredJob>, Fault> {
        let current = self.shared.by_id(self.job).await?;
        if current.as_ref().is_none_or(|current| current.record.is_over()) {
            self.drop_result().await;
            acknowledge(&self.message).await;
        }
        Ok(current)
    }
}

impl SharedClaim {
    async fn drop_result(&mut self) {
        if !std::mem::take(&mut self.stored) {
            return;
        }
        let name = result_of(self.job, &self.owner);
        if let Err(fault) = self.shared.0.objects.delete(&name).await {
            tracing::debug!(%fault, "an image that is not needed goes later");
        }
    }
}

/// What is not acknowledged comes again, and is acknowledged then.
async fn acknowledge(message: &Message) {
    if let Err(error) = message.double_ack().await {
        tracing::debug!(%error, "the acknowledgement of a job was lost");
    }
}

/// Whether a record is done and its image not in the history yet.
pub(super) fn lacks_entry(record: &JobRecord) -> bool {
    matches!(&record.state, JobState::Done(about) if about.history_id.is_none())
}
