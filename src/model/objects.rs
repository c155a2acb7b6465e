//! Where immutable objects come from. The model re-hashes what it gets, so an implementation need not be trusted.

use crate::ids::Hash;
use crate::node::{ObjectRefused, decode};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A source of stored objects, by hash.
pub trait Objects: Send + Sync {
    /// The bytes as they were stored. An absent object is an error: whoever holds a hash was promised its object.
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError>;
}

/// An object could not be had. The fold stops at its position and never skips.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("object {hash}: {cause}")]
pub struct ObjectsError {
    pub hash: Hash,
    pub cause: ObjectsErrorCause,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ObjectsErrorCause {
    #[error("missing from the store")]
    Missing,
    #[error("corrupt: {0}")]
    Corrupt(String),
    #[error("cannot be read now: {0}")]
    Unavailable(String),
}

/// What one stored object points at, in its own order; a blob points at nothing. Refuses what is no object.
pub fn references(bytes: &[u8]) -> Result<Vec<Hash>, ObjectRefused> {
    decode(bytes).map(|object| object.references())
}

/// Holds nothing: for trees that live in memory alone.
pub struct NoObjects;

impl Objects for NoObjects {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        Err(ObjectsError { hash: *hash, cause: ObjectsErrorCause::Missing })
    }
}

/// Objects in an ordered map, for tests and tools.
#[derive(Clone, Default)]
pub struct MemoryObjects(pub BTreeMap<Hash, Bytes>);

impl Objects for MemoryObjects {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        self.0.get(hash).cloned().ok_or(ObjectsError { hash: *hash, cause: ObjectsErrorCause::Missing })
    }
}
