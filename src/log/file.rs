//! The log in a folder: the default of a single machine, and what an exported log is.
//!
//! ```text
//! append --> queue --> writer: one write, one fdatasync --> tail --> readers
//!            bounded           (a batch of what waited)     newest records in memory, older ones read from the files
//! ```
//! What is assumed of the disk: a sync that succeeded made the bytes written before it durable; a rename is atomic; a
//! write that was never synced may be there in part, or not at all. Nothing is assumed of what an interrupted write
//! leaves: every byte is under a checksum. After a sync that failed nothing is known any more, so the log stops for good:
//! appends fail with the cause, readers go on with what is durable. A full disk is different, as a write says so before any
//! sync: it is taken back, appends are refused with `DiskFull`, and the writer tries again until there is space.
//!
//! The bytes are drawn in `frame.rs` and the crate's `origin.rs`; docs/formats.md has the whole.

mod copy;
pub mod disk;
mod frame;
mod open;
mod origin;
mod reader;
mod segment;
mod tail;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use confold_model::ids::{Hash, Position, Time};
use parking_lot::Mutex;

pub use copy::Copy;
use disk::{Access, Disk, OsDisk};
pub use frame::Identity;
use reader::FileReader;
use tail::{Extent, Tail};
use writer::{Appender, Fault, Queue};

pub use crate::origin::Origin;
use crate::{Fence, Log, LogError, Observer, Range, Reader, Tip};

/// Milliseconds since 1970, as the writer stamps them.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// How to open a log; all of it has a default.
#[derive(Clone)]
pub struct Options {
    /// The last position that the caller has applied from this log. A log that ends at or before it is refused.
    pub must_have: Option<Position>,
    /// Refuse (`Fenced`) a log with another transport id.
    pub transport_id: Option<[u8; 16]>,
    /// Check every batch and digest of every segment, not only of the last.
    pub verify_all: bool,
    /// A segment that has grown to this size is followed by a new one.
    pub segment_bytes: u64,
    /// A bigger record is refused.
    pub record_bytes: usize,
    /// What may wait to be written.
    pub queue_bytes: usize,
    /// What is written at once, unless a single record is bigger.
    pub batch_bytes: usize,
    /// The newest records, kept in memory for readers that keep up.
    pub ring_bytes: usize,
    /// How long to wait before a full disk is tried again.
    pub full_pause: Duration,
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            must_have: None,
            transport_id: None,
            verify_all: false,
            segment_bytes: 64 << 20,
            record_bytes: 16 << 20,
            queue_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            ring_bytes: 16 << 20,
            full_pause: Duration::from_millis(200),
            clock: Arc::new(system_clock),
        }
    }
}

impl Options {
    fn record_limit(&self) -> usize {
        self.record_bytes.min(frame::BATCH_MAX - frame::RECORD_HEADER)
    }
}

/// The clock of this machine.
pub fn system_clock() -> Time {
    millis(std::time::SystemTime::now())
}

/// What was cut off the end when the log was opened: a write that a crash had interrupted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    pub file: String,
    /// The file's length now.
    pub offset: u64,
    pub bytes: u64,
    /// The position that the lost write would have had; the log ends before it.
    pub position: Position,
    pub why: String,
}

/// A log in a folder. Dropping it closes it; readers may outlive it.
pub struct FileLog {
    identity: Identity,
    origin: Mutex<Option<Origin>>,
    cut: Option<Cut>,
    options: Options,
    tail: Arc<Tail>,
    /// `None`: read only.
    writer: Option<Writer>,
}

struct Writer {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl FileLog {
    /// A new, empty log. The folder is made where it is missing; one that holds a log already is refused with `Exists`.
    pub fn create(folder: &Path, identity: Identity, options: Options) -> Result<FileLog, LogError> {
        let disk = OsDisk::make(folder)
            .map_err(|error| LogError::failed(format!("cannot create {}", folder.display()), error))?;
        FileLog::create_on(Arc::new(disk), identity, options)
    }

    /// The log in this folder, to read and append. One process at a time: any other gets `Locked`.
    pub fn open(folder: &Path, options: Options) -> Result<FileLog, LogError> {
        // A lock must not be the first file of a folder that holds nothing.
        if !folder.is_dir() {
            return Err(LogError::Missing {
                folder: folder.display().to_string(),
            });
        }
        FileLog::open_on(Arc::new(OsDisk::new(folder)), options)
    }

    /// The log as it ends now, without a lock and without changing anything; another process may be writing it. It does
    /// not grow; a torn end is left alone and reported by [`FileLog::cut`].
    pub fn open_read_only(folder: &Path, options: Options) -> Result<FileLog, LogError> {
        FileLog::open_read_only_on(Arc::new(OsDisk::new(folder)), options)
    }

    pub fn create_on(disk: Arc<dyn Disk>, identity: Identity, options: Options) -> Result<FileLog, LogError> {
        let lock = open::lock(&*disk)?;
        let appender = begin(&disk, identity, None, &options)?;
        FileLog::start(disk, lock, appender, None, None, None, options)
    }

    pub fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<FileLog, LogError> {
        let lock = open::lock_existing(&*disk)?;
        let found = open::find(&disk, Access::Write, &options)?;
        let len = found.extents[found.extents.len() - 1].len;
        let appender = Appender::resume(disk.clone(), found.last, len, found.tip, options.segment_bytes);
        FileLog::start(
            disk,
            lock,
            appender,
            Some(found.extents),
            found.origin,
            found.cut,
            options,
        )
    }

    pub fn open_read_only_on(disk: Arc<dyn Disk>, options: Options) -> Result<FileLog, LogError> {
        let found = open::find(&disk, Access::Read, &options)?;
        let tail = Arc::new(Tail::new(disk, found.extents, found.tip, 0));
        Ok(FileLog {
            identity: found.identity,
            origin: Mutex::new(found.origin),
            cut: found.cut,
            options,
            tail,
            writer: None,
        })
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Where the log begins, when it was copied or trimmed.
    pub fn origin(&self) -> Option<Origin> {
        *self.origin.lock()
    }

    /// What opening it cut off.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// The next position, the digest of the last record and its time.
    pub fn tip(&self) -> Tip {
        self.tail.tip()
    }

    /// The same before `position`, which is one of the range or its end: what a copy that begins there has to know.
    pub fn tip_at(&self, position: Position) -> Result<Tip, LogError> {
        let starts = self.tail.starts_up_to(position);
        if starts.last() == Some(&position) {
            return Ok(segment::Segment::open(&*self.tail.disk, position, Access::Read)?
                .header
                .start);
        }
        let before = Position(position.0.saturating_sub(1));
        let records = self.reader(before)?.read(1, 0, Duration::ZERO)?;
        let record = records.first().ok_or(LogError::BeyondEnd {
            asked: position,
            end: self.range().end,
        })?;
        Ok(Tip {
            position,
            digest: record.digest,
            time: record.time,
        })
    }

    /// By how many milliseconds the last stamp is ahead of the clock: a reason for an alarm, as all records get that same stamp until
    /// the clock has caught up. 0 when all is well.
    pub fn clock_ahead(&self) -> u64 {
        let tip = self.tail.tip();
        let ahead = tip.time.0.saturating_sub((self.options.clock)().0);
        if tip.position == Position(0) {
            0
        } else {
            ahead.max(0).unsigned_abs()
        }
    }

    /// Stamps the next batch with the clock as it is, even when that lies before the last stamp: the cure for one wrong stamp,
    /// asked for by an operator together with a `clock` event.
    pub fn let_time_go_back(&self) -> Result<(), LogError> {
        self.writer()?.queue.let_time_go_back();
        Ok(())
    }

    /// Drops the segments that lie wholly below `position` and returns the new start. `state` gives the state hash before
    /// a position; whoever calls this has made a snapshot of it durable.
    ///
    /// The new origin is durable before the first file goes, so an interrupted trim is finished by the next open.
    pub fn trim(&self, position: Position, state: impl FnOnce(Position) -> Hash) -> Result<Position, LogError> {
        self.writer()?.queue.health()?;
        let disk = &*self.tail.disk;
        let mut origin = self.origin.lock();
        let starts = self.tail.starts_up_to(position);
        let Some((&first, gone)) = starts.split_last().filter(|(_, gone)| !gone.is_empty()) else {
            return Ok(self.range().start);
        };
        let header = segment::Segment::open(disk, first, Access::Read)?.header;
        let (source, end) = match &*origin {
            Some(origin) => (origin.source, origin.end.max(first)),
            None => (self.identity.transport_id, first),
        };
        let new = Origin {
            identity: self.identity,
            source,
            first: header.start,
            end,
            state: state(first),
        };
        let failed = |error| LogError::failed(format!("cannot trim {}", disk.folder()), error);
        origin::write(&new, disk)
            .and_then(|()| disk.sync_folder())
            .map_err(failed)?;
        *origin = Some(new);
        self.tail.trim(first);
        for start in gone {
            disk.remove(&segment::name_of(*start)).map_err(failed)?;
        }
        Ok(first)
    }

    fn start(
        disk: Arc<dyn Disk>,
        lock: Box<dyn Send + Sync>,
        appender: Appender,
        extents: Option<std::collections::VecDeque<Extent>>,
        origin: Option<Origin>,
        cut: Option<Cut>,
        options: Options,
    ) -> Result<FileLog, LogError> {
        let identity = appender.identity();
        let extents = extents.unwrap_or_else(|| [appender.extent].into());
        let tail = Arc::new(Tail::new(disk, extents, appender.tip, options.ring_bytes));
        let queue = Arc::new(Queue::new());
        let thread = {
            let (queue, tail, options) = (queue.clone(), tail.clone(), options.clone());
            std::thread::Builder::new()
                .name("log-writer".to_owned())
                .spawn(move || writer::run(appender, queue, tail, options))
        };
        let thread = thread.map_err(|error| LogError::failed("cannot start the log's writer", error))?;
        let writer = Writer {
            queue,
            thread: Mutex::new(Some(thread)),
            lock: Mutex::new(Some(lock)),
        };
        Ok(FileLog {
            identity,
            origin: Mutex::new(origin),
            cut,
            options,
            tail,
            writer: Some(writer),
        })
    }

    fn writer(&self) -> Result<&Writer, LogError> {
        self.writer.as_ref().ok_or_else(|| LogError::ReadOnly {
            folder: self.tail.disk.folder(),
        })
    }
}

impl Log for FileLog {
    fn transport_id(&self) -> [u8; 16] {
        self.identity.transport_id
    }

    fn range(&self) -> Range {
        self.tail.range()
    }

    fn append(&self, record: Bytes) -> Result<(), LogError> {
        self.writer()?.queue.push(record, &self.options)
    }

    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        let Range { start, end } = self.tail.range();
        if from < start {
            return Err(LogError::BelowStart { asked: from, start });
        }
        if from > end {
            return Err(LogError::BeyondEnd { asked: from, end });
        }
        Ok(Box::new(FileReader::new(self.tail.clone(), from)))
    }

    /// A trim, too, leaves an origin behind; then the log is its own source.
    fn copied_to(&self) -> Position {
        let origin = self.origin.lock();
        let copied = origin.as_ref().filter(|origin| origin.source != self.identity.transport_id);
        copied.map_or(Position(0), |origin| origin.end)
    }

    /// One process writes this log: its durable end is the truth.
    fn fence(&self) -> Result<Fence, LogError> {
        Ok(Fence::At(self.tail.range().end))
    }

    fn health(&self) -> Result<(), LogError> {
        self.writer()?.queue.health()
    }

    fn observe(&self, observer: Observer) {
        if let Some(writer) = &self.writer {
            writer.queue.observe(observer);
        }
    }

    fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.queue.close();
            // Held until the writer has ended: a second caller returns only when the log is closed, too.
            let mut thread = writer.thread.lock();
            if let Some(thread) = thread.take()
                && thread.join().is_err()
            {
                tracing::error!("the log's writer had panicked");
            }
            writer.lock.lock().take();
        }
        self.tail.close();
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// The first file of a log, in a folder that has none.
fn begin(
    disk: &Arc<dyn Disk>,
    identity: Identity,
    origin: Option<&Origin>,
    options: &Options,
) -> Result<Appender, LogError> {
    if !open::segments(&**disk)?.is_empty() {
        return Err(LogError::Exists { folder: disk.folder() });
    }
    let failed = |error| LogError::failed(format!("cannot create a log in {}", disk.folder()), error);
    // Whatever was interrupted here before left no segment, and so no log; its origin must not speak for this one.
    match origin {
        Some(origin) => origin::write(origin, &**disk).map_err(failed)?,
        None if disk.list().map_err(failed)?.iter().any(|name| name == origin::NAME) => {
            disk.remove(origin::NAME).map_err(failed)?
        }
        None => {}
    }
    let first = origin.map_or(Tip::START, |origin| origin.first);
    Appender::begin(disk.clone(), identity, first, options.segment_bytes).map_err(|fault| match fault {
        Fault::DiskFull(what) => LogError::DiskFull { what },
        Fault::Final(error) => error,
    })
}

fn millis(now: std::time::SystemTime) -> Time {
    match now.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        Err(before) => Time(i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis)),
    }
}
