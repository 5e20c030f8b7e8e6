//! What a bucket holds, and every change of it from then on.

use std::time::{Duration, SystemTime};

use async_nats::{
    Client, Message,
    jetstream::{
        consumer::{DeliverPolicy, ReplayPolicy, push},
        kv::Store,
    },
};
use bytes::Bytes;
use futures::StreamExt as _;
use llm_dit_fault::Fault;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time,
};

use super::fault::failed;

/// Before a bucket is followed again from the beginning.
const PAUSE: Duration = Duration::from_secs(1);
/// Without a word from the server, even about itself, its answer is lost.
const SILENCE: Duration = Duration::from_secs(30);

/// A key that has a value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub revision: u64,
    pub value: Bytes,
    /// When the value was stored.
    pub at: SystemTime,
}

/// What a follower hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// Everything that is there, oldest change first. Comes first, and again whenever the server was
    /// lost for longer.
    All(Vec<Entry>),
    Put(Entry),
    Gone(String),
}

/// All keys of the bucket that `filter` selects, until the receiver is dropped.
pub(super) fn follow(
    client: Client,
    bucket: Store,
    filter: &'static str,
) -> UnboundedReceiver<Heard> {
    let (send, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let lost = tokio::select! {
                () = send.closed() => return,
                lost = tell(&client, &bucket, filter, &send) => lost,
            };
            if let Err(fault) = lost {
                tracing::warn!(%fault, "lost sight of the shared queue; following it again");
            }
            tokio::select! {
                () = send.closed() => return,
                () = time::sleep(PAUSE) => {}
            }
        }
    });
    heard
}

/// All keys that `filter` selects now, oldest change first.
///
/// # Errors
///
/// [`Fault`] if the server does not answer.
pub(super) async fn snapshot(
    client: &Client,
    bucket: &Store,
    filter: &str,
) -> Result<Vec<Entry>, Fault> {
    open(client, bucket, filter).await.map(|(all, _)| all)
}

async fn tell(
    client: &Client,
    bucket: &Store,
    filter: &str,
    send: &UnboundedSender<Heard>,
) -> Result<(), Fault> {
    let (all, mut changes) = open(client, bucket, filter).await?;
    let mut said = send.send(Heard::All(all));
    while said.is_ok() {
        let Some(message) = changes.next().await else { break };
        let message = message.map_err(|error| failed("watching a bucket", &error))?;
        said = send.send(match read(bucket, &message)? {
            (_, Some(entry)) => Heard::Put(entry),
            (key, None) => Heard::Gone(key),
        });
    }
    Ok(())
}

/// What is there, and what changes after it.
async fn open(
    client: &Client,
    bucket: &Store,
    filter: &str,
) -> Result<(Vec<Entry>, push::Ordered), Fault> {
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: format!("{}{filter}", bucket.prefix),
        replay_policy: ReplayPolicy::Instant,
        deliver_policy: DeliverPolicy::LastPerSubject,
        ..Default::default()
    };
    let consumer = bucket.stream.create_consumer(config).await;
    let consumer = consumer.map_err(|error| failed("watching a bucket", &error))?;
    let mut left = consumer.cached_info().num_pending;
    let changes = consumer.messages().await;
    let mut changes = changes.map_err(|error| failed("watching a bucket", &error))?;
    let mut all: Vec<Entry> = Vec::new();
    while left > 0 {
        let next = time::timeout(SILENCE, changes.next()).await;
        let Ok(Some(message)) = next else {
            return Err(Fault::Unavailable("the shared queue fell silent".to_owned()));
        };
        let message = message.map_err(|error| failed("reading a bucket", &error))?;
        left = pending(&message)?;
        let (key, entry) = read(bucket, &message)?;
        // It may have changed since the reading began.
        all.retain(|known| known.key != key);
        all.extend(entry);
    }
    Ok((all, changes))
}

fn pending(message: &async_nats::jetstream::Message) -> Result<u64, Fault> {
    Ok(message.info().map_err(|error| failed("reading a bucket", &*error))?.pending)
}

/// The key that a message is about, and its value; `None` if it was removed.
fn read(
    bucket: &Store,
    message: &async_nats::jetstream::Message,
) -> Result<(String, Option<Entry>), Fault> {
    let info = message.info().map_err(|error| failed("reading a bucket", &*error))?;
    let key = message.subject.strip_prefix(&*bucket.prefix).unwrap_or_default().to_owned();
    if is_removal(message) {
        return Ok((key, None));
    }
    let (revision, value) = (info.stream_sequence, message.payload.clone());
    Ok((key.clone(), Some(Entry { key, revision, value, at: info.published.into() })))
}

/// Removals are marked in the header. No value of ours is empty, as markers are.
fn is_removal(message: &Message) -> bool {
    message.payload.is_empty()
}
