//! What a replica keeps beside its log: the trait [`Store`], its rows and its contract.
//!
//! ```text
//!             fold ── Batch ──▶ commit ──▶ one atomic write        sync ──▶ fsync
//!   folded in memory          │ head, rows, state, objects │       positions up to durable() survive a power cut
//! ```
//!
//! A store may lag the log and may lose its newest batches in a crash, but never a part of one: after any crash it
//! holds exactly the batches up to some head, and the log is folded on from there. Whatever is found wrong with it
//! is [`StoreError::Damaged`]: the folder is set aside and rebuilt from the log.
//!
//! Everything is synchronous and may be called from any thread. One thread at a time commits; readers never wait for
//! it.

pub mod cache;
pub mod conformance;
pub mod memory;
pub mod sweep;

use bytes::Bytes;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_model::objects::{Objects, ObjectsError, ObjectsErrorCause};
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use sweep::SweepGate;

/// A kept fold: the newest state's digests and rows, the history of revisions, and the trees' objects.
///
/// `object` (from [`Objects`]) answers with bytes that hash to what was asked for, or with an error: a wrong hash is
/// `Corrupt`, an absent object `Missing`. Both mean damage, as whoever holds a hash was promised its object.
pub trait Store: Objects {
    /// Where the fold stood after the newest batch; `None` in a store that never had one.
    fn head(&self) -> Option<Head>;

    /// Writes everything in the batch or nothing. After `Io` the store takes no more writes, and only opening it
    /// anew tells which. After `Full` the same batch comes next, until it is taken. With `Durability::Now` it is on
    /// disk on return, with all before it. A batch that does not continue the head is `Refused` (see [`check_batch`]).
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Rows of a snapshot, into a store that never had a batch: `Refused` in any other. Revisions come in their order, over all
    /// calls; the batch that is then committed makes it a store.
    fn load(&self, rows: &Rows) -> Result<(), StoreError>;

    /// Makes every batch committed before the call durable.
    fn sync(&self) -> Result<(), StoreError>;

    /// The head's position of the newest batch that survives a power cut.
    fn durable(&self) -> Option<Position>;

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError>;

    /// At most `limit` rows of the range, in the order asked for.
    fn revisions(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, StoreError>;

    /// The last revision whose event stands at or before the position.
    fn revision_at_position(&self, position: Position) -> Result<Option<RevisionRow>, StoreError>;

    /// The last revision *by position* whose time is at or before the asked one, also where a `clock` event set time
    /// back.
    fn revision_at_time(&self, time: Time) -> Result<Option<RevisionRow>, StoreError>;

    /// Revisions whose root starts so, by root, then by revision.
    fn revisions_by_root(&self, prefix: &RootPrefix, limit: usize) -> Result<Vec<RevisionRow>, StoreError>;

    /// At most `limit` of the range's revisions that touched a path.
    fn touched(
        &self,
        path: &PathDigest,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Touched>, StoreError>;

    /// Where the accepted event with this id stands, looked for at the positions `seen + 1 ..= seen + reach`: an id
    /// can stand nowhere before, and past the window nowhere after. Costs a short scan from `seen` on, so it is for
    /// answers about the past.
    fn id(&self, id: &EventId, reach: u64) -> Result<Option<IdRow>, StoreError>;

    /// Accepted event ids from a position on, at most `limit`.
    fn ids(&self, from: Position, limit: usize) -> Result<Vec<IdRow>, StoreError>;

    /// Touched paths from a path and its revision on, ascending by both, at most `limit`.
    fn all_touched(&self, from: (PathDigest, Revision), limit: usize) -> Result<Vec<Touched>, StoreError>;

    fn state_row(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits the rows of one table by ascending key, until the visitor fails. The visitor must not write to the
    /// store.
    fn state_rows(&self, table: u16, visit: &mut RowVisitor<'_>) -> Result<(), StoreError>;

    /// The newest tree that is whole in the store, not above the revision: where re-making a revision starts.
    fn persisted_at_or_below(&self, revision: Revision) -> Result<Option<PersistedTree>, StoreError>;

    fn persisted(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<PersistedTree>, StoreError>;

    /// Keeps the tree of a past revision that was re-made, with the objects that the tree it was re-made from does
    /// not hold. `Busy` while a sweep runs, as the sweep may already have passed them by.
    fn persist_tree(&self, tree: PersistedTree, objects: &[(Hash, Bytes)]) -> Result<(), StoreError>;

    /// Thins out persisted trees; the next sweep takes their objects. The head's own tree is `Refused`.
    fn forget_persisted(&self, revisions: &[Revision]) -> Result<(), StoreError>;

    /// Where commits and a sweep meet.
    fn gate(&self) -> &SweepGate;

    /// Up to `limit` objects from a hash on, ascending, with their sizes: for the sweep and for counting exactly.
    fn object_sizes(&self, from: &Hash, limit: usize) -> Result<Vec<(Hash, u32)>, StoreError>;

    /// Only the sweep calls this, inside its gate. All at once or not at all; not durable before the next durable
    /// batch.
    fn delete_objects(&self, hashes: &[Hash]) -> Result<(), StoreError>;

    fn estimate(&self) -> Estimate;

    fn stats(&self) -> Stats;

    /// What goes on below the rows; all zero where everything is in memory.
    fn engine(&self) -> Engine;
}

/// Takes the key, without its table, and the value of one row.
pub type RowVisitor<'v> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'v;

/// The fold's position after a batch, and what of its state identifies it. Stored with its own checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The last position folded.
    pub applied: Position,
    pub time: Time,
    /// d(applied - 1): what a log that stores no digests must be told before it is asked for the record at `applied`.
    pub before: Hash,
    /// d(applied), chain(applied): docs/formats.md 5.
    pub digest: Hash,
    pub chain: Hash,
    /// Root of the latest revision.
    pub root: Hash,
    pub revision: Revision,
    pub floor: Revision,
    pub transport_id: [u8; 16],
    pub incarnation: Incarnation,
}

/// Folded events, the last of them at `head.applied`, written together or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub head: Head,
    /// Every object reachable from `head.root` that was not reachable from the root of the batch before, whether or
    /// not an older tree holds it too: an object of older trees alone may be swept at any moment.
    pub objects: Vec<(Hash, Bytes)>,
    /// Ascending without a hole, the last one being the head's; into an empty store also with holes.
    pub revisions: Vec<RevisionRow>,
    /// At most one per revision and path.
    pub touched: Vec<Touched>,
    /// Accepted events, by ascending position.
    pub ids: Vec<IdRow>,
    pub state: Vec<StateEdit>,
    /// Whether the tree of `head.root` is whole in the store after this batch.
    pub tree_persisted: bool,
    /// Whether it ends at a mark.
    pub mark: bool,
    pub durability: Durability,
}

impl Batch {
    /// Moves the head and nothing else.
    pub fn at(head: Head) -> Batch {
        Batch {
            head,
            objects: Vec::new(),
            revisions: Vec::new(),
            touched: Vec::new(),
            ids: Vec::new(),
            state: Vec::new(),
            tree_persisted: true,
            mark: false,
            durability: Durability::Later,
        }
    }

    /// The row that the batch adds to the persisted trees: none where it persists no tree, and none for the empty
    /// tree of revision 0.
    pub fn persists(&self) -> Option<PersistedTree> {
        let Head {
            revision,
            applied: position,
            root,
            ..
        } = self.head;
        let worth_a_row = self.tree_persisted && revision.0 > 0 && (self.mark || !self.revisions.is_empty());
        worth_a_row.then_some(PersistedTree {
            revision,
            position,
            root,
            mark: self.mark,
        })
    }
}

/// Rows that come before there is a head.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    pub objects: Vec<(Hash, Bytes)>,
    pub revisions: Vec<RevisionRow>,
    pub touched: Vec<Touched>,
    pub ids: Vec<IdRow>,
    pub persisted: Vec<PersistedTree>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Handed to the operating system: survives the process, not the machine.
    Later,
    Now,
}

/// One revision of the tree, made by one accepted event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevisionRow {
    pub revision: Revision,
    pub position: Position,
    pub time: Time,
    pub root: Hash,
    /// `None` where no proposer's event made it, e.g. a genesis with a tree.
    pub id: Option<EventId>,
    pub author: Arc<str>,
    /// d(position).
    pub digest: Hash,
}

/// The first 12 bytes of a path's hash: enough to find revisions by path, as the caller checks them against the
/// event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathDigest(pub [u8; 12]);

/// A revision changed a path; `kind` is the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched {
    pub revision: Revision,
    pub path: PathDigest,
    pub kind: u8,
}

/// An accepted event; revision 0 where it made none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRow {
    pub id: EventId,
    pub position: Position,
    pub revision: Revision,
}

/// A row of the fold's other state, opaque here. `None` removes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateEdit {
    pub table: u16,
    pub key: Vec<u8>,
    pub value: Option<Bytes>,
}

/// A revision all of whose objects are in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PersistedTree {
    pub revision: Revision,
    /// Up to which the fold had come: re-making a later revision starts with the next position.
    pub position: Position,
    pub root: Hash,
    /// Persisted at a mark, so all replicas have it at the same place.
    pub mark: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Ascending,
    Descending,
}

/// The first hex digits of a root, as people write it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RootPrefix {
    nibbles: Vec<u8>,
}

impl RootPrefix {
    /// 1 to 64 hex digits of either case; `None` for anything else.
    pub fn parse(text: &str) -> Option<RootPrefix> {
        if text.is_empty() || text.len() > 64 {
            return None;
        }
        let nibbles = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
            .collect::<Option<_>>()?;
        Some(RootPrefix { nibbles })
    }

    pub fn matches(&self, root: &Hash) -> bool {
        self.nibbles.iter().enumerate().all(|(i, nibble)| {
            let byte = root.0[i / 2];
            *nibble == if i % 2 == 0 { byte >> 4 } else { byte & 15 }
        })
    }

    /// The lowest hash that starts so: where a search by order begins.
    pub fn lowest(&self) -> Hash {
        let mut low = Hash::ZERO;
        for (i, nibble) in self.nibbles.iter().enumerate() {
            low.0[i / 2] |= if i % 2 == 0 { nibble << 4 } else { *nibble };
        }
        low
    }
}

/// Roughly what the objects take; exact counts come from [`Store::object_sizes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Estimate {
    pub objects: u64,
    pub bytes: u64,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    pub batches: u64,
    /// Single puts and deletes handed down, and their bytes with keys.
    pub puts: u64,
    pub bytes: u64,
    pub objects_put: u64,
    pub objects_read: u64,
    pub objects_deleted: u64,
    pub syncs: u64,
}

/// The database under a store: sizes as they are, and counters since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Engine {
    /// Blocks of files that were in the cache when they were asked for, and those that were not.
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: u64,
    /// Written to files, whatever for: its own log, new files, files written again.
    pub written_bytes: u64,
    pub disk_bytes: u64,
    /// What it has yet to write again to keep reads short.
    pub compaction_pending_bytes: u64,
    /// It takes batches more slowly than they come, or not at all.
    pub held_back: bool,
}

/// Told apart by what the caller can do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Set the folder aside and rebuild it from the log.
    #[error("the store is damaged: {what}")]
    Damaged { what: String },
    /// The disk or its file system failed. What was not yet durable may be lost: stop, do not try again on the same
    /// handle.
    #[error("the store cannot be read or written: {what}")]
    Io { what: String },
    /// Nothing of the write is there. Make the same one again once there is space: the store goes on by itself.
    #[error("no space is left for the store: {what}; free some, it then goes on by itself")]
    Full { what: String },
    /// Another process has it open.
    #[error("the store is in use: {what}")]
    Locked { what: String },
    /// Written by a newer version: run that one, or rebuild from the log.
    #[error("the store has format {found}, this version knows up to {known}")]
    TooNew { found: u32, known: u32 },
    /// A mistake of the caller; nothing was changed.
    #[error("refused by the store: {what}")]
    Refused { what: String },
    /// Try again when the sweep is over, or when the replica runs again.
    #[error("the store is busy: {what}")]
    Busy { what: String },
}

impl StoreError {
    pub fn damaged(what: impl Into<String>) -> StoreError {
        StoreError::Damaged { what: what.into() }
    }

    pub fn refused(what: impl Into<String>) -> StoreError {
        StoreError::Refused { what: what.into() }
    }

    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Damaged { .. })
    }
}

impl From<ObjectsError> for StoreError {
    fn from(error: ObjectsError) -> StoreError {
        match error.cause {
            ObjectsErrorCause::Missing | ObjectsErrorCause::Corrupt(_) => StoreError::damaged(error.to_string()),
            ObjectsErrorCause::Unavailable(_) => StoreError::Io {
                what: error.to_string(),
            },
        }
    }
}

/// The error for a hash whose object is not there.
pub fn missing(hash: &Hash) -> ObjectsError {
    ObjectsError {
        hash: *hash,
        cause: ObjectsErrorCause::Missing,
    }
}

/// Passes on bytes that hash to what was asked for.
pub fn verified(hash: &Hash, bytes: Bytes) -> Result<Bytes, ObjectsError> {
    let found = Hash::of(&bytes);
    if found == *hash {
        return Ok(bytes);
    }
    let cause = ObjectsErrorCause::Corrupt(format!("its {} bytes hash to {found}", bytes.len()));
    Err(ObjectsError { hash: *hash, cause })
}

/// Refuses a batch that does not continue `head`. Every store asks this first, so a wrong batch never reaches a disk.
pub fn check_batch(head: Option<&Head>, batch: &Batch) -> Result<(), StoreError> {
    let new = &batch.head;
    let refuse = |what: String| {
        Err(StoreError::Refused {
            what: format!("batch up to position {}: {what}", new.applied),
        })
    };
    if let Some(old) = head {
        if new.applied <= old.applied {
            return refuse(format!("the store has folded position {} already", old.applied));
        }
        if new.floor < old.floor {
            return refuse(format!("its floor {} is below {}", new.floor, old.floor));
        }
        if new.revision.0 != old.revision.0 + batch.revisions.len() as u64 {
            let rows = batch.revisions.len();
            return refuse(format!(
                "{rows} revision rows do not lead from revision {} to {}",
                old.revision, new.revision
            ));
        }
        if batch.revisions.is_empty() && new.root != old.root {
            return refuse(format!("a new root {} without a revision row", new.root.short()));
        }
    }
    let (mut revision, mut position) = head.map_or((0, None), |old| (old.revision.0, Some(old.applied)));
    for row in &batch.revisions {
        let follows = if head.is_some() {
            row.revision.0 == revision + 1
        } else {
            row.revision.0 > revision
        };
        if !follows || position.is_some_and(|before| row.position <= before) || row.position > new.applied {
            return refuse(format!(
                "revision row {} at position {} is out of order",
                row.revision, row.position
            ));
        }
        if row.id.is_some_and(|id| id.seen >= row.position) {
            return refuse(format!(
                "revision {} stands at or before what its author had seen",
                row.revision
            ));
        }
        (revision, position) = (row.revision.0, Some(row.position));
    }
    if batch
        .revisions
        .last()
        .is_some_and(|last| last.revision != new.revision || last.root != new.root)
    {
        return refuse("the last revision row is not the head's".into());
    }
    let first = head.map_or(0, |old| old.revision.0 + 1);
    let (mut position, mut revision) = (head.map(|old| old.applied), first);
    for row in &batch.ids {
        let ascends = position.is_none_or(|before| row.position > before) && row.position <= new.applied;
        let of_this_batch = row.revision.0 == 0 || row.revision.0 >= revision && row.revision <= new.revision;
        if !ascends || !of_this_batch || row.id.seen >= row.position {
            return refuse(format!(
                "event id {} at position {} is out of order",
                row.id, row.position
            ));
        }
        (position, revision) = (Some(row.position), revision.max(row.revision.0 + 1));
    }
    match batch
        .touched
        .iter()
        .find(|row| row.revision.0 < first || row.revision > new.revision)
    {
        Some(row) => refuse(format!(
            "a touched path names revision {}, which is not of this batch",
            row.revision
        )),
        None => Ok(()),
    }
}
