//! Images, which are too large for messages.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::{
    object_store::{DeleteErrorKind, GetErrorKind, InfoErrorKind, ObjectMetadata, ObjectStore},
    stream::Stream,
};
use bytes::Bytes;
use data_encoding::BASE64URL;
use futures::{StreamExt as _, TryStreamExt as _};
use llm_dit_fault::Fault;
use tokio::{io::AsyncReadExt as _, time};

use super::fault::failed;

/// Each chunk waits for the acknowledgement of the one before it. Below the server's default limit
/// on messages, 1 MiB.
const CHUNK_BYTES: usize = 512 * 1024;
/// For the longest silence while an object is read.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The object store, and the stream below it.
#[derive(Clone)]
pub(super) struct Objects {
    pub store: ObjectStore,
    pub stream: Stream<()>,
    pub bucket: &'static str,
}

/// An object without its content.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub name: String,
    pub bytes: u64,
    /// Of its chunks.
    pub nuid: String,
    pub at: SystemTime,
}

impl Objects {
    /// Stores an object, in place of one of the same name.
    ///
    /// # Errors
    ///
    /// [`Fault`] if there is no room, or the server does not answer.
    pub async fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        let about = ObjectMetadata {
            name: name.to_owned(),
            chunk_size: Some(CHUNK_BYTES),
            ..Default::default()
        };
        let mut content = content;
        let stored = self.store.put(about, &mut content).await;
        stored.map(drop).map_err(|error| failed("storing an image", &error))
    }

    /// The content of an object; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the server does not answer.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Fault> {
        let mut object = match self.store.get(name).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("reading an image", &error)),
        };
        let mut content = Vec::with_capacity(object.info.size);
        let read = time::timeout(READ_TIMEOUT, object.read_to_end(&mut content)).await;
        match read {
            Ok(Ok(_)) => Ok(Some(content.into())),
            Ok(Err(error)) => Err(failed("reading an image", &error)),
            Err(error) => Err(failed("reading an image", &error)),
        }
    }

    /// What is known of an object; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the server does not answer.
    pub async fn about(&self, name: &str) -> Result<Option<About>, Fault> {
        match self.store.info(name).await {
            Ok(info) if info.deleted => Ok(None),
            Ok(info) => Ok(Some(About {
                name: info.name,
                bytes: info.size as u64,
                nuid: info.nuid,
                at: info.modified.map_or_else(SystemTime::now, SystemTime::from),
            })),
            Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("looking for an image", &error)),
        }
    }

    /// Deletes an object, with the marker that deletions leave. One that is not there is ignored.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the server does not answer.
    pub async fn delete(&self, name: &str) -> Result<(), Fault> {
        match self.store.delete(name).await {
            Ok(()) => {}
            Err(error) if error.kind() == DeleteErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("deleting an image", &error)),
        }
        let marker = format!("$O.{}.M.{}", self.bucket, BASE64URL.encode(name.as_bytes()));
        let purged = self.stream.purge().filter(marker).await;
        purged.map(drop).map_err(|error| failed("deleting an image", &error))
    }

    /// All objects.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the server does not answer.
    pub async fn all(&self) -> Result<Vec<About>, Fault> {
        let list = self.store.list().await;
        let list = list.map_err(|error| failed("listing the images", &error))?;
        let about = |info: async_nats::jetstream::object_store::ObjectInfo| About {
            name: info.name,
            bytes: info.size as u64,
            nuid: info.nuid,
            at: info.modified.map_or_else(SystemTime::now, SystemTime::from),
        };
        let all = list.map_ok(about).try_collect().await;
        all.map_err(|error| failed("listing the images", &error))
    }

    /// Removes chunks that belong to no object of the list and were stored before `then`: those of
    /// objects whose storing was cut off.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the server does not answer.
    pub async fn sweep_chunks(&self, all: &[About], then: SystemTime) -> Result<u64, Fault> {
        let prefix = format!("$O.{}.C.", self.bucket);
        let subjects = self.stream.info_with_subjects(format!("{prefix}>")).await;
        let mut subjects = subjects.map_err(|error| failed("listing the images", &error))?;
        let mut removed = 0;
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(|error| failed("listing the images", &error))?;
            let Some(nuid) = subject.strip_prefix(&prefix) else { continue };
            if all.iter().any(|about| about.nuid == nuid) {
                continue;
            }
            let last = self.stream.get_last_raw_message_by_subject(&subject).await;
            let is_old = last.is_ok_and(|last| SystemTime::from(last.time) < then);
            if is_old {
                let purged = self.stream.purge().filter(&subject).await;
                removed += purged.map_err(|error| failed("removing chunks", &error))?.purged;
            }
        }
        Ok(removed)
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}
