//! The connection to the server, and what is stored there.

use std::{fs, sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectOptions,
    connection::State,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, PullConsumer, pull},
        context::ContextBuilder,
        kv, object_store,
        stream::{DiscardPolicy, RetentionPolicy, StorageType, Stream},
    },
};
use bytes::Bytes;
use llm_dit_fault::Fault;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    fault::{failed, is_full},
    mirror::Mirror,
    objects::Objects,
};
use crate::{
    error::Error,
    history::AT_ONCE,
    options::{KeepOptions, QueueOptions},
};

/// What each request to the server may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A lost connection may come back within this time before a request is refused.
const RECONNECT: Duration = Duration::from_secs(2);
/// A server may start together with the gateway.
const FIRST_CONNECT: Duration = Duration::from_secs(30);
/// How often a change is sent whose answer did not come.
const TRIES: u32 = 3;
/// A message is stored once within this time, however often it is sent.
const DUPLICATES: Duration = Duration::from_secs(120);
/// Markers of removed keys are kept that long, for gateways that were cut off.
pub(super) const MARKERS: Duration = Duration::from_secs(3600);

pub(super) const WORK: &str = "llm-dit-work";
const JOBS: &str = "llm-dit-jobs";
const HISTORY: &str = "llm-dit-history";
const PICTURES: &str = "llm-dit-pictures";
const WORKERS: &str = "workers";
/// Bytes that a message of the work queue takes at most.
const MESSAGE_BYTES: i64 = 1024;
const JOBS_BYTES: i64 = 256 << 20;
const HISTORY_BYTES: i64 = 128 << 20;
/// For images that jobs start from, beside those of the history.
const SOURCES_BYTES: i64 = 1 << 30;
/// Jobs in work at all workers together.
const MAX_CLAIMED: i64 = 10_000;

/// A server that gateways share. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub client: Client,
    pub context: Context,
    pub work: Stream,
    pub workers: PullConsumer,
    pub records: kv::Store,
    pub entries: kv::Store,
    pub objects: Objects,
    pub mirror: Mirror,
    pub options: QueueOptions,
    pub max_entries: usize,
    pub max_bytes: u64,
    /// Turns to make a thumbnail.
    pub thumbnails: Arc<Semaphore>,
    /// Why the last change failed, until one succeeds.
    pub trouble: Mutex<Option<String>>,
    pub stop: CancellationToken,
    _stop: DropGuard,
}

impl Shared {
    /// Connects, and creates what the server does not have yet.
    ///
    /// # Errors
    ///
    /// [`Error::Queue`] if a file cannot be read, or the server does not answer or refuses.
    pub async fn open(options: &QueueOptions, keep: &KeepOptions) -> Result<Self, Error> {
        let client = connect(options).await?;
        let mut context = ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT);
        context = context.max_ack_inflight(1024);
        let context = context.build(client.clone());
        let until = time::Instant::now() + FIRST_CONNECT;
        loop {
            let created = Self::create(client.clone(), context.clone(), options, keep).await;
            let fault = match created {
                Ok(shared) => return Ok(shared),
                Err(fault) => fault,
            };
            // It may accept connections before it has read its data.
            if time::Instant::now() > until {
                return Err(Error::Queue(fault.to_string()));
            }
            tracing::warn!(%fault, "waiting for the queue's server");
            time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn create(
        client: Client,
        context: Context,
        options: &QueueOptions,
        keep: &KeepOptions,
    ) -> Result<Self, Fault> {
        let num_replicas = options.replicas;
        let max_messages = i64::from(options.max_jobs);
        let work = jetstream::stream::Config {
            name: WORK.to_owned(),
            subjects: vec!["llm-dit.work.*".to_owned()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            max_messages,
            max_bytes: max_messages * MESSAGE_BYTES,
            duplicate_window: DUPLICATES,
            num_replicas,
            ..Default::default()
        };
        let work = context.get_or_create_stream(work).await;
        let work = work.map_err(|error| failed("creating the work queue", &error))?;
        let consumer = pull::Config {
            durable_name: Some(WORKERS.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: options.lease,
            // What exceeds it would stay in the queue for ever. Records count the attempts.
            max_deliver: -1,
            max_ack_pending: MAX_CLAIMED,
            ..Default::default()
        };
        // Takes over another lease.
        let workers = work.create_consumer(consumer).await;
        let workers = workers.map_err(|error| failed("creating the consumer", &error))?;
        let bucket = |name: &str, max_bytes| kv::Config {
            bucket: name.to_owned(),
            history: 1,
            max_bytes,
            num_replicas,
            limit_markers: Some(MARKERS),
            ..Default::default()
        };
        let records = bucket_of(&context, bucket(JOBS, JOBS_BYTES)).await?;
        let entries = bucket_of(&context, bucket(HISTORY, HISTORY_BYTES)).await?;
        let store = match context.get_object_store(PICTURES).await {
            Ok(store) => store,
            Err(_) => {
                let max_bytes = i64::try_from(keep.history_bytes).unwrap_or(i64::MAX);
                let config = object_store::Config {
                    bucket: PICTURES.to_owned(),
                    max_bytes: max_bytes.saturating_add(SOURCES_BYTES),
                    num_replicas,
                    ..Default::default()
                };
                let created = context.create_object_store(config).await;
                created.map_err(|error| failed("creating the object store", &error))?
            }
        };
        let stream = context.get_stream_no_info(format!("OBJ_{PICTURES}")).await;
        let stream = stream.map_err(|error| failed("finding the object store", &error))?;
        let objects = Objects { store, stream, bucket: PICTURES };
        let mirror = Mirror::of(client.clone(), entries.clone()).await;
        let stop = CancellationToken::new();
        Ok(Self(Arc::new(Inner {
            client,
            context,
            work,
            workers,
            records,
            entries,
            objects,
            mirror,
            options: options.clone(),
            max_entries: keep.history_max,
            max_bytes: keep.history_bytes,
            thumbnails: Arc::new(Semaphore::new(AT_ONCE)),
            trouble: Mutex::default(),
            _stop: stop.clone().drop_guard(),
            stop,
        })))
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.0.client.connection_state() == State::Connected
    }

    /// What is wrong with the server, as far as is known at once.
    pub fn trouble(&self) -> Option<String> {
        if !self.is_connected() {
            return Some(self.away());
        }
        self.0.trouble.lock().clone()
    }

    pub fn options(&self) -> &QueueOptions {
        &self.0.options
    }

    fn away(&self) -> String {
        format!("the server of the shared queue, {}, cannot be reached", self.0.options.place())
    }

    /// Returns when there is a connection.
    ///
    /// # Errors
    ///
    /// [`Fault::Unavailable`] if there is none for a while.
    pub(super) async fn ready(&self) -> Result<(), Fault> {
        let connected = async {
            while !self.is_connected() {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        let connected = time::timeout(RECONNECT, connected).await;
        connected.map_err(|_| Fault::Unavailable(self.away()))
    }

    /// Stores a value in place of revision `expected` of a key; 0 if it must be new. `None` if the
    /// key has another revision. Sent again if no answer comes, since the change may have been
    /// made.
    pub(super) async fn compare_and_set(
        &self,
        bucket: &kv::Store,
        key: &str,
        value: Bytes,
        expected: u64,
    ) -> Result<Option<u64>, Fault> {
        self.ready().await?;
        let changed = self.try_compare_and_set(bucket, key, value, expected).await;
        *self.0.trouble.lock() = changed.as_ref().err().map(ToString::to_string);
        changed
    }

    async fn try_compare_and_set(
        &self,
        bucket: &kv::Store,
        key: &str,
        value: Bytes,
        expected: u64,
    ) -> Result<Option<u64>, Fault> {
        let mut last = None;
        for attempt in 0..TRIES {
            let (refused, fault) = if expected == 0 {
                match bucket.create(key, value.clone()).await {
                    Ok(revision) => return Ok(Some(revision)),
                    Err(error) => (
                        error.kind() == kv::CreateErrorKind::AlreadyExists,
                        (is_full(&error), failed("storing a record", &error)),
                    ),
                }
            } else {
                match bucket.update(key, value.clone(), expected).await {
                    Ok(revision) => return Ok(Some(revision)),
                    Err(error) => (
                        error.kind() == kv::UpdateErrorKind::WrongLastRevision,
                        (is_full(&error), failed("storing a record", &error)),
                    ),
                }
            };
            if refused {
                if attempt == 0 {
                    return Ok(None);
                }
                // Perhaps by what we sent before.
                let entry = bucket.entry(key).await;
                let entry = entry.map_err(|error| failed("reading a record", &error))?;
                let ours = entry.filter(|entry| entry.value == value);
                return Ok(ours.map(|entry| entry.revision));
            }
            let (full, fault) = fault;
            if full {
                return Err(fault);
            }
            last = Some(fault);
        }
        Err(last.unwrap_or_else(|| Fault::Unavailable(self.away())))
    }

    /// The value of a key with its revision; `None` if it has none.
    pub(super) async fn value(
        &self,
        bucket: &kv::Store,
        key: &str,
    ) -> Result<Option<kv::Entry>, Fault> {
        self.ready().await?;
        let entry = bucket.entry(key).await;
        let entry = entry.map_err(|error| failed("reading a record", &error))?;
        Ok(entry.filter(|entry| entry.operation == kv::Operation::Put && !entry.value.is_empty()))
    }

    /// Removes a key.
    pub(super) async fn purge(&self, bucket: &kv::Store, key: &str) -> Result<(), Fault> {
        self.ready().await?;
        let purged = bucket.purge_with_ttl(key, MARKERS).await;
        purged.map_err(|error| failed("removing a record", &error))
    }
}

async fn bucket_of(context: &Context, config: kv::Config) -> Result<kv::Store, Fault> {
    if let Ok(bucket) = context.get_key_value(&config.bucket).await {
        return Ok(bucket);
    }
    let created = context.create_key_value(config).await;
    created.map_err(|error| failed("creating a bucket", &error))
}

async fn connect(options: &QueueOptions) -> Result<Client, Error> {
    let mut connect = ConnectOptions::new()
        .name("llm-dit gateway")
        .connection_timeout(TIMEOUT)
        .request_timeout(Some(TIMEOUT))
        .require_tls(options.is_encrypted())
        .event_callback(async |event| match event {
            async_nats::Event::Connected => tracing::info!("connected to the shared queue"),
            event => tracing::warn!(%event, "the connection to the shared queue"),
        });
    if let Some(path) = &options.nkey {
        let unread = |error| Error::Queue(format!("--queue-nkey {}: {error}", path.display()));
        let seed = fs::read_to_string(path).map_err(unread)?;
        // Comments, as tools of NATS write them.
        let mut lines = seed.lines().map(str::trim);
        let seed = lines.find(|line| line.starts_with("SU")).ok_or_else(|| {
            let what = "holds no seed of a user, a line that begins with SU";
            Error::Queue(format!("--queue-nkey {} {what}", path.display()))
        })?;
        connect = connect.nkey(seed.to_owned());
    }
    if let Some(path) = &options.ca {
        let unread = |error| Error::Queue(format!("--queue-ca {}: {error}", path.display()));
        fs::metadata(path).map_err(unread)?;
        connect = connect.add_root_certificates(path.clone());
    }
    let until = time::Instant::now() + FIRST_CONNECT;
    loop {
        let refused = match connect.clone().connect(&options.urls).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let place = options.place();
        if time::Instant::now() > until || !is_passing(&refused) {
            return Err(Error::Queue(format!(
                "cannot connect to the queue's server {place}: {refused}"
            )));
        }
        tracing::warn!(error = %refused, server = place, "waiting for the queue's server");
        time::sleep(Duration::from_secs(1)).await;
    }
}

/// Whether it may connect later: the server is not there yet.
fn is_passing(error: &async_nats::ConnectError) -> bool {
    use async_nats::ConnectErrorKind as Kind;
    matches!(error.kind(), Kind::Dns | Kind::Io | Kind::TimedOut)
}
