//! The embeddings that were used last, bounded in bytes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use llm_dit_telemetry::metrics::{CACHE_HITS, CACHE_MISSES};
use lru::LruCache;
use parking_lot::Mutex;
use serde::Serialize;

use super::embedding::Embedding;

/// What an entry takes beside its texts and numbers, about.
const OVERHEAD: usize = 256;

/// Everything that determines one prompt's embeddings, as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(Arc<[u8]>);

#[derive(Debug)]
pub(crate) struct Cache {
    limit: usize,
    entries: Mutex<Entries>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
struct Entries {
    by_key: LruCache<Key, Arc<Embedding>>,
    bytes: usize,
}

/// What `/health` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct CacheStats {
    pub entries: usize,
    pub bytes: usize,
    pub limit: usize,
    hits: u64,
    misses: u64,
}

impl Key {
    /// A key of these bytes, which describe a prompt and its encoder completely.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Cache {
    /// Holds `limit` bytes; 0 remembers nothing.
    pub fn new(limit: usize) -> Self {
        let entries = Entries { by_key: LruCache::unbounded(), bytes: 0 };
        Self {
            limit,
            entries: Mutex::new(entries),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The embedding of this key, which counts as a hit or a miss.
    pub fn get(&self, key: &Key) -> Option<Arc<Embedding>> {
        let found = self.entries.lock().by_key.get(key).cloned();
        let (count, metric) = match found {
            Some(_) => (&self.hits, CACHE_HITS),
            None => (&self.misses, CACHE_MISSES),
        };
        count.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(metric.name).increment(1);
        found
    }

    /// Whether something of this size would be kept.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        bytes <= self.limit as u64
    }

    /// Stores an embedding and evicts the least recently used ones beyond the limit. One that is
    /// larger than the limit is not stored.
    pub fn put(&self, key: Key, embedding: &Arc<Embedding>) {
        let size = weight(&key, embedding);
        if size > self.limit {
            return;
        }
        let mut entries = self.entries.lock();
        if let Some((key, old)) = entries.by_key.push(key, Arc::clone(embedding)) {
            entries.bytes -= weight(&key, &old);
        }
        entries.bytes += size;
        while entries.bytes > self.limit
            && let Some((key, old)) = entries.by_key.pop_lru()
        {
            entries.bytes -= weight(&key, &old);
        }
    }

    /// The cache's size and its hits and misses.
    pub fn stats(&self) -> CacheStats {
        let entries = self.entries.lock();
        CacheStats {
            entries: entries.by_key.len(),
            bytes: entries.bytes,
            limit: self.limit,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

fn weight(key: &Key, embedding: &Embedding) -> usize {
    let data: usize = embedding.chunks.iter().map(bytes::Bytes::len).sum();
    key.0.len() + data + OVERHEAD
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn embedding(bytes: usize) -> Arc<Embedding> {
        let chunks = vec![Bytes::from(vec![7; bytes])];
        Arc::new(Embedding { chunks, ..Default::default() })
    }

    fn key(name: u8) -> Key {
        Key::new(vec![name])
    }

    #[test]
    fn what_was_asked_for_last_stays_within_the_bytes() {
        let size = 1000 + 1 + OVERHEAD;
        let cache = Cache::new(3 * size);
        for name in 0..3 {
            cache.put(key(name), &embedding(1000));
        }
        assert!(cache.get(&key(0)).is_some(), "0 is now the youngest");
        cache.put(key(3), &embedding(1000));
        assert!(cache.get(&key(1)).is_none());
        assert!([0, 2, 3].iter().all(|&name| cache.get(&key(name)).is_some()));
        // The same key again is no second entry.
        cache.put(key(3), &embedding(500));
        let expected =
            CacheStats { entries: 3, bytes: 3 * size - 500, limit: 3 * size, hits: 4, misses: 1 };
        assert_eq!(cache.stats(), expected);
        // One that is larger than all of it drives nothing out.
        cache.put(key(4), &embedding(3 * size));
        assert_eq!(cache.stats(), expected);
        // A large one drives out as many as it needs to, the oldest first.
        cache.put(key(5), &embedding(2 * size));
        assert_eq!(cache.stats().entries, 2);
        assert!([3, 5].iter().all(|&name| cache.get(&key(name)).is_some()));
    }

    #[test]
    fn without_room_nothing_is_remembered() {
        let cache = Cache::new(0);
        cache.put(key(1), &embedding(1));
        assert!(cache.get(&key(1)).is_none() && !cache.has_room_for(1));
    }
}
