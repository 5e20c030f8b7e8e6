//! The beginning of a file on disk, with the checksum of what is in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::checksum::Hasher;

/// Chunks of a body that may wait to be written.
const WAITING: usize = 64;
/// Bytes after which the disk is asked to write, so that little is left to wait for at the end.
const FLUSH: u64 = 32 << 20;
/// Read at once from what an earlier download left.
const BLOCK: usize = 1 << 20;

/// A file that grows.
pub(super) struct Partial {
    file: File,
    hasher: Hasher,
    length: u64,
}

/// A thread that writes and hashes while the next bytes come.
pub(super) struct Receiver {
    chunks: mpsc::Sender<Bytes>,
    thread: JoinHandle<io::Result<Partial>>,
}

impl Partial {
    /// Opens or makes the file and keeps its first `keep` bytes, which are hashed.
    pub fn open(path: &Path, mut hasher: Hasher, keep: u64) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options?;
        file.set_len(keep)?;
        let mut block = vec![0; BLOCK];
        let mut length = 0;
        while length < keep {
            let left = usize::try_from(keep - length).unwrap_or(BLOCK).min(BLOCK);
            file.read_exact(&mut block[..left])?;
            hasher.update(&block[..left]);
            length += left as u64;
        }
        file.seek(SeekFrom::Start(keep))?;
        Ok(Self { file, hasher, length })
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Waits until the disk has all of it.
    pub fn finish(self) -> io::Result<Hasher> {
        self.file.sync_all()?;
        Ok(self.hasher)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// A thread that waits for the disk while the next bytes are written. It ends when this is dropped.
struct Flusher(mpsc::Sender<()>);

impl Flusher {
    fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (asks, mut asked) = mpsc::channel(1);
        drop(tokio::task::spawn_blocking(move || {
            while asked.blocking_recv().is_some() {
                // What fails here fails again at the end, where it counts.
                let _ = file.sync_data();
            }
        }));
        Ok(Self(asks))
    }

    /// Unless it has enough to do.
    fn flush(&self) {
        let _ = self.0.try_send(());
    }
}

impl Receiver {
    /// Begins to write to the file.
    pub fn start(mut partial: Partial) -> Self {
        let (chunks, mut received) = mpsc::channel::<Bytes>(WAITING);
        let thread = tokio::task::spawn_blocking(move || {
            let flusher = Flusher::start(&partial.file)?;
            let mut unflushed = 0;
            while let Some(chunk) = received.blocking_recv() {
                partial.append(&chunk)?;
                unflushed += chunk.len() as u64;
                if unflushed >= FLUSH {
                    flusher.flush();
                    unflushed = 0;
                }
            }
            Ok(partial)
        });
        Self { chunks, thread }
    }

    /// Hands bytes on; false if they cannot be written.
    pub async fn send(&self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// The file, once all bytes are in it, or why they are not.
    pub async fn end(self) -> io::Result<Partial> {
        drop(self.chunks);
        let ended = self.thread.await;
        ended.unwrap_or_else(|_| Err(io::Error::other("the work was ended")))
    }
}
