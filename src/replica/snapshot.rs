//! The whole fold state at a mark as a stream of bytes: how a new replica begins without the log's past.
//!
//! ```text
//! magic, format ─ header ─ state rows ─ kept trees ─ objects ─ revisions ─ event ids ─ touched paths ─ end: BLAKE3 of all before
//!                 └ each part: kind, length, bytes, first half of their BLAKE3
//! ```
//! What makes it trustworthy is not the stream: the rows hash to a state hash that stands in a checkpoint on the log, every object hashes to
//! what its parent calls it, and the history's rows hash to the history in the state. Only the names of authors, event ids older
//! than the window and the index of touched paths rest on the replica that was asked. docs/formats.md has the bytes.

mod bytes;
mod export;
mod import;
#[cfg(test)]
mod tests;
mod verify;

pub use export::{Export, export};
pub use import::{Imported, import};
pub use verify::{Verified, verify};

use confold_log::LogError;
use confold_model::ids::{Hash, Incarnation, Position, Revision, Time};
use confold_store::StoreError;

/// What the stream says about itself, before anything of it is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub store_name: String,
    pub log_id: Incarnation,
    pub incarnation: Incarnation,
    pub transport_id: [u8; 16],
    /// The mark.
    pub position: Position,
    pub time: Time,
    /// d(position - 1), d(position), chain(position), state(position).
    pub before: Hash,
    pub digest: Hash,
    pub chain: Hash,
    pub state: Hash,
    pub root: Hash,
    pub revision: Revision,
    pub floor: Revision,
    /// The replica that it was taken from.
    pub source: [u8; 16],
}

/// Why a snapshot could not be taken, or is refused. A target that was begun is of no use and holds no store.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Try again, or ask another replica.
    #[error("no state of a mark is kept: the replica has {0}")]
    NoMark(String),
    /// It is cut short, bent or of something else. Fetch it again.
    #[error("the snapshot is damaged at byte {at}: {what}")]
    Damaged { at: u64, what: String },
    /// Made by a newer build.
    #[error("the snapshot has format {found}, this build reads up to {known}")]
    TooNew { found: u16, known: u16 },
    /// What it says of itself is not so. Fetch it from another replica, and find out about this one.
    #[error("the snapshot is not what it says it is: {0}")]
    Forged(String),
    /// It belongs to another log, or the log has not confirmed it.
    #[error("the log does not confirm the snapshot: {0}")]
    Unconfirmed(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever sends it stopped.
    #[error("the snapshot ends early: {0}")]
    Source(String),
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// The stream's first bytes; the format follows as u16.
const MAGIC: &[u8; 8] = b"CONFOLDS";
/// Counts changes that an older build would misread; 0 until the first release.
const FORMAT: u16 = 0;
/// A part is closed when it has grown to this; one object alone may make it bigger.
const PART_BYTES: usize = 1 << 20;
/// No part can be longer: the biggest object, and what stands around it.
const LONGEST_PART: usize = 64 << 20;
