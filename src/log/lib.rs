//! The log: the only truth of a store, behind one trait.
//!
//! ```text
//!                    range.start                               range.end
//!                        |                                         |
//!   0   1   2   ...      n  n+1  n+2  ...                      e-1 v
//!   [   trimmed away   ] [ durable records, each with its time and ] [ handed over, ... ]
//!                        [ log digest; readers see exactly these   ] [ seen by nobody   ]
//!                                  ^                               ^
//!                            Reader::read goes on from here   Fence::At(e)
//! ```
//!
//! What a caller may conclude:
//! - `append` answered `Ok`: the bytes were handed over, and nothing more. They may come to stand on the log once, never,
//!   or (after a retry somewhere below) more than once. Only reading one's own record back is an acknowledgement.
//! - `append` answered an error: the bytes were certainly not handed over, save for [`LogError::Unsettled`], which says
//!   that this cannot be told. Handing the same bytes over again is harmless, because the fold knows event ids.
//! - A record came out of a reader: it is durable, and every reader of this log finds the same bytes, time and digest at
//!   that position, for ever. Positions come without holes.
//! - `range().end` moved past a position: the same. It may lag what a reader has already seen, never the other way for good.
//! - Times do not decrease on a log whose clock is sane; nothing here relies on it, the fold takes the maximum.
//!
//! What nobody promises: an order between two appends of different threads, or how soon a record is visible. Ask with a
//! deadline.
//!
//! Three logs pass the same [`conformance`] suite: [`memory`] for tests and simulations, [`file`](mod@file), and the one
//! on a Kafka partition, which lives in a crate of its own.

pub mod conformance;
pub mod digest;
pub mod file;
pub mod memory;
pub mod origin;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use confold_model::ids::{Hash, Position, Time};

use digest::log_digest;

/// One record as it stands on a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    pub position: Position,
    /// Stamped by the log, not by who appended.
    pub time: Time,
    /// May be a part of a larger buffer: copy what is to be kept for long.
    pub bytes: Bytes,
    /// d(position), the log digest up to and including this record. A log that does not store digests computes them on
    /// from a position whose digest it was given.
    pub digest: Hash,
}

/// Where a log stands before its next record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tip {
    /// Of the next record.
    pub position: Position,
    /// d(position - 1).
    pub digest: Hash,
    /// Time of the record before; 0 when there is none.
    pub time: Time,
}

impl Tip {
    pub const START: Tip = Tip {
        position: Position(0),
        digest: Hash::ZERO,
        time: Time(0),
    };

    /// The record that follows here with this time and these bytes; the tip moves behind it.
    pub fn record(&mut self, time: Time, bytes: Bytes) -> Record {
        let position = self.position;
        let digest = log_digest(self.digest, position, time, &bytes);
        *self = Tip {
            position: position.next(),
            digest,
            time,
        };
        Record {
            position,
            time,
            bytes,
            digest,
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "record {} at {} of {} bytes, d {}",
            self.position,
            self.time.0,
            self.bytes.len(),
            self.digest.short()
        )
    }
}

/// The positions that can be read: from `start` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first position that is still there; 0 until the log is trimmed.
    pub start: Position,
    /// The next position after the last durable record.
    pub end: Position,
}

/// How a reader becomes sure that it has seen everything acknowledged so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// Everything acknowledged to anybody before the call stands below this position.
    At(Position),
    /// This log cannot tell (its end may come from a deposed leader): append a record of one's own and wait to read it.
    AppendAndWait,
}

/// One write of a log to its disk: some records, made durable together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    pub records: usize,
    /// With what the log adds to the records.
    pub bytes: u64,
    /// How long the disk took to say that it is durable.
    pub sync: Duration,
}

/// Is called on the thread that writes, so it returns at once.
pub type Observer = Arc<dyn Fn(&Written) + Send + Sync>;

/// An ordered, durable sequence of records. Shared between threads; no method but `close` waits for a disk or a network.
pub trait Log: Send + Sync {
    /// Identifies this one physical log: two logs never share it, and a log that was deleted and made anew has another.
    fn transport_id(&self) -> [u8; 16];

    /// What can be read now.
    fn range(&self) -> Range;

    /// Hands one record over. See the module's comment for what each answer means.
    fn append(&self, record: Bytes) -> Result<(), LogError>;

    /// A reader whose first record will be the one at `from`, which may be `range().end`: then it waits for it.
    ///
    /// `BelowStart` when it was trimmed away, `BeyondEnd` when the log is shorter than the caller believed: a log that lost
    /// its end must not be mistaken for one that has nothing new.
    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError>;

    /// Tells the log a digest that the caller has computed or kept: what stands before `tip.position`. A log that stores
    /// no digests needs one at or below a position before it can give a reader there, and computes on from the nearest; it
    /// knows the one before position 0. Any other log ignores it. A wrong one shows, as the digests read from there are wrong.
    fn anchor(&self, _tip: Tip) {}

    /// Records below this position were first written to another log and copied into this one, with their times; 0 for a log
    /// that began here. Behind them comes the `open` that names this log.
    fn copied_to(&self) -> Position {
        Position(0)
    }

    /// What a linearizable read has to wait for.
    fn fence(&self) -> Result<Fence, LogError>;

    /// `Ok` while appends can be expected to work, else the error that the next `append` would give.
    fn health(&self) -> Result<(), LogError>;

    /// From here on `observer` is told of each write to a disk of this machine, instead of whoever was told before. A log that
    /// stands elsewhere has nothing to tell.
    fn observe(&self, _observer: Observer) {}

    /// Settles what was handed over, and lets go of files, locks and connections. Readers get what is durable, then
    /// `Closed`. A second call does nothing.
    fn close(&self);
}

/// Reads a log in order, from one thread.
pub trait Reader: Send {
    /// The next records in order, without holes: at least one and at most `max_records`, together at most `max_bytes`
    /// unless the first alone is bigger. Waits up to `wait` for the first of them; empty when there was none. A
    /// `max_records` of 0 counts as 1.
    ///
    /// After an error the reader stands where it stood: the same call may be made again, and skips nothing.
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Record>, LogError>;
}

/// A log being made as a copy of another: the same positions, times, bytes and digests. It can be interrupted anywhere and gone
/// on with.
pub trait CopyTarget {
    /// What comes next.
    fn tip(&self) -> Tip;

    /// Adds records that follow the tip; they are durable when it returns `Ok`. After an error `tip()` says how far it came.
    /// Each must have the digest that it has here as well, or it is refused as another log's.
    fn append(&mut self, records: &[Record]) -> Result<(), LogError>;
}

/// Copies everything from where `copy` stands up to, not including, `end`. Waits up to `wait` for each next record; stops with
/// what the source says when it has less.
pub fn copy_records(
    source: &dyn Log,
    copy: &mut (impl CopyTarget + ?Sized),
    end: Position,
    wait: Duration,
) -> Result<(), LogError> {
    let mut reader = source.reader(copy.tip().position)?;
    while copy.tip().position < end {
        let left = end.0 - copy.tip().position.0;
        let records = reader.read(left.min(4096) as usize, 1 << 20, wait)?;
        if records.is_empty() {
            return Err(LogError::BeyondEnd {
                asked: end,
                end: source.range().end,
            });
        }
        copy.append(&records)?;
    }
    Ok(())
}

/// Told apart by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// Open it again.
    #[error("the log is closed")]
    Closed,

    /// Use the process that owns the log.
    #[error("the log in {folder} was opened for reading only")]
    ReadOnly { folder: String },

    /// Split it; this record can never be appended.
    #[error("the record has {size} bytes, and the log takes at most {limit}")]
    TooLarge { size: usize, limit: usize },

    /// Slow down and try again soon.
    #[error("{queued} bytes wait to be written, and the limit is {limit}: try again")]
    Full { queued: usize, limit: usize },

    /// Free some space; the log goes on by itself, without a restart.
    #[error("no space is left for the log: {what}; free some, the log then goes on by itself")]
    DiskFull { what: String },

    /// Wait, or look at the network: the log goes on by itself, without a restart.
    #[error("the log cannot be reached: {what}; it goes on by itself once it can be")]
    Unreachable { what: String },

    /// Wait, or see to what keeps the log: it goes on by itself, without a restart. Reading goes on.
    #[error("the log takes no records now: {what}; it goes on by itself once it does")]
    Refusing { what: String },

    /// Look for the record on the log, or hand the same bytes over again.
    #[error("whether the record reached the log is not known: {cause}")]
    Unsettled { cause: String },

    /// Start from a snapshot.
    #[error("position {asked} was trimmed away; the log starts at {start}")]
    BelowStart { asked: Position, start: Position },

    /// Stop: either the position is of another log, or this log lost its end.
    #[error("position {asked} lies beyond the end of the log, {end}: it is another log, or it has lost records")]
    BeyondEnd { asked: Position, end: Position },

    /// Stop: this is not the log that the caller folded.
    #[error("this is another log: {what}")]
    Fenced { what: String },

    /// Restore the named file from a copy, or take the records from another replica. Nothing was changed.
    #[error(
        "the log is damaged: {file}, byte {offset}, position {position}: {what}; nothing was changed, restore this file from a copy"
    )]
    Corrupt {
        file: String,
        offset: u64,
        position: Position,
        what: String,
    },

    /// Go on with the copy.
    #[error("the copy is not finished: {what}")]
    Unfinished { what: String },

    /// Create it, or look in another folder.
    #[error("there is no log in {folder}")]
    Missing { folder: String },

    /// Open it instead, or choose another folder.
    #[error("there is a log in {folder} already")]
    Exists { folder: String },

    /// Stop the other process, or wait for it.
    #[error("the log in {folder} is in use by {}", holder(.by))]
    Locked { folder: String, by: Option<u32> },

    /// Final: what stands on the disk is no longer known. Start the process anew.
    #[error("{what}: {cause}")]
    Failed { what: String, cause: Arc<std::io::Error> },
}

impl LogError {
    /// `what` reads as "cannot <verb> <file>".
    pub(crate) fn failed(what: impl Into<String>, cause: std::io::Error) -> LogError {
        LogError::Failed {
            what: what.into(),
            cause: Arc::new(cause),
        }
    }
}

fn holder(by: &Option<u32>) -> String {
    match by {
        Some(pid) => format!("process {pid}: stop it first"),
        None => "another process: stop it first".to_owned(),
    }
}

/// What a record that does not follow a copy's tip is answered with.
pub fn follows(tip: Tip, records: &[Record]) -> Result<(), LogError> {
    let mut tip = tip;
    for record in records {
        let here = tip.record(record.time, record.bytes.clone());
        if here != *record {
            let what = format!(
                "after {} records the copy expects {here:?}, and the source has {record:?}",
                here.position
            );
            return Err(LogError::Fenced { what });
        }
    }
    Ok(())
}

/// As many records as a caller asked for, and always one.
pub(crate) fn budget(records: impl Iterator<Item = Record>, max_records: usize, max_bytes: usize) -> Vec<Record> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for record in records {
        bytes += record.bytes.len();
        if !taken.is_empty() && (taken.len() >= max_records || bytes > max_bytes) {
            break;
        }
        taken.push(record);
    }
    taken
}
