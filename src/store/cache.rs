//! A bounded cache in front of a store's objects.

use crate::Store;
use bytes::Bytes;
use confold_model::ids::Hash;
use confold_model::objects::{Objects, ObjectsError};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Objects of a store, the lately used ones from memory. Objects never change and the store hands out no wrong one,
/// so each is verified once, when it is loaded, and what is cached can only go stale by being swept: nobody then
/// asks for it.
pub struct CachedObjects<S: Store + ?Sized> {
    store: Arc<S>,
    cache: Cache<Hash, Bytes, ByBytes>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl<S: Store + ?Sized> CachedObjects<S> {
    /// `capacity` bounds the memory in bytes, what each entry costs beside its bytes included.
    pub fn new(store: Arc<S>, capacity: u64) -> CachedObjects<S> {
        let items = usize::try_from(capacity / (TYPICAL_OBJECT + ENTRY_OVERHEAD))
            .unwrap_or(usize::MAX)
            .max(16);
        CachedObjects {
            store,
            cache: Cache::with_weighter(items, capacity, ByBytes),
            hits: 0.into(),
            misses: 0.into(),
        }
    }

    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Bytes in use, by the same reckoning as the capacity.
    pub fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}

impl<S: Store + ?Sized> Objects for CachedObjects<S> {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        if let Some(bytes) = self.cache.get(hash) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(bytes);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let bytes = self.store.object(hash)?;
        self.cache.insert(*hash, bytes.clone());
        Ok(bytes)
    }
}

const TYPICAL_OBJECT: u64 = 250;
/// Key, `Bytes` and its shared part, the cache's own links.
const ENTRY_OVERHEAD: u64 = 128;

#[derive(Clone)]
struct ByBytes;

impl Weighter<Hash, Bytes> for ByBytes {
    fn weight(&self, _: &Hash, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + ENTRY_OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;
    use crate::conformance::{Leaf, head_at};
    use crate::memory::MemoryStore;
    use confold_model::objects::ObjectsErrorCause;

    #[test]
    fn a_cache_stays_within_its_bytes_and_answers_as_the_store() {
        let store = Arc::new(MemoryStore::new());
        let leaves: Vec<_> = (0..2_000u64).map(Leaf::of).collect();
        let mut batch = Batch::at(head_at(0));
        batch.objects = leaves.clone();
        store.commit(&batch).unwrap();
        let cached = CachedObjects::new(store.clone(), 64 * 1024);
        for _ in 0..2 {
            for (hash, bytes) in &leaves {
                assert_eq!(&cached.object(hash).unwrap(), bytes);
            }
        }
        assert!(cached.bytes() <= 64 * 1024, "{} bytes", cached.bytes());
        let (hash, _) = &leaves[7];
        cached.object(hash).unwrap();
        let reads = store.stats().objects_read;
        cached.object(hash).unwrap();
        assert_eq!(store.stats().objects_read, reads, "the second read comes from memory");
        assert_eq!(cached.hits() + cached.misses(), 4_002);
        let absent = Hash::of(b"absent");
        assert_eq!(cached.object(&absent).unwrap_err().cause, ObjectsErrorCause::Missing);
    }
}
