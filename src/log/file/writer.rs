//! The one thread that writes: takes what waits, writes it as one batch, makes it durable, publishes it, and again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use confold_model::ids::Time;
use parking_lot::{Condvar, Mutex};

use super::Options;
use super::disk::{Disk, DiskFile, write_full};
use super::frame::{BATCH_MAX, Identity, RECORD_HEADER, SEGMENT_HEADER, SegmentHeader, encode_batch};
use super::segment::{Segment, name_of, place};
use super::tail::{Extent, Tail};
use crate::{LogError, Observer, Record, Tip, Written};

/// A segment gets its name only once its header is durable; until then the file is called this.
pub(super) const UNFINISHED: &str = "segment.tmp";

/// The end of the last segment file, where batches are added.
pub(super) struct Appender {
    disk: Arc<dyn Disk>,
    identity: Identity,
    segment_bytes: u64,
    name: String,
    file: Arc<dyn DiskFile>,
    seed: u32,
    pub(super) extent: Extent,
    pub(super) tip: Tip,
}

/// Why a batch was not written. Nothing of it is visible.
pub(super) enum Fault {
    /// The file is as it was before; the same may be tried again.
    DiskFull(String),
    /// Nobody knows what is on the disk. Never to be tried again by this process.
    Final(LogError),
}

impl Appender {
    /// The first segment of a log that has none.
    pub(super) fn begin(
        disk: Arc<dyn Disk>,
        identity: Identity,
        tip: Tip,
        segment_bytes: u64,
    ) -> Result<Appender, Fault> {
        let (name, file, seed) = create_segment(&*disk, identity, tip, 0)?;
        let extent = Extent {
            start: tip.position,
            len: SEGMENT_HEADER as u64,
        };
        Ok(Appender {
            disk,
            identity,
            segment_bytes,
            name,
            file,
            seed,
            extent,
            tip,
        })
    }

    /// Goes on at the end of a segment, which is `len` bytes long and sound.
    pub(super) fn resume(disk: Arc<dyn Disk>, segment: Segment, len: u64, tip: Tip, segment_bytes: u64) -> Appender {
        let extent = Extent {
            start: segment.header.start.position,
            len,
        };
        let (identity, seed) = (segment.header.identity, segment.header.seed());
        Appender {
            disk,
            identity,
            segment_bytes,
            name: segment.name,
            file: segment.file,
            seed,
            extent,
            tip,
        }
    }

    /// Writes these records as one batch, and says what that took. When it returns `Ok`, they are durable.
    ///
    /// One write is one batch, and no batch is begun before the one before it is durable: so at most one batch can be torn.
    pub(super) fn commit(
        &mut self,
        records: impl IntoIterator<Item = (Time, Bytes)>,
    ) -> Result<(Vec<Record>, Written), Fault> {
        let mut tip = self.tip;
        let records: Vec<Record> = records
            .into_iter()
            .map(|(time, bytes)| tip.record(time, bytes))
            .collect();
        if records.is_empty() {
            return Ok((records, Written::default()));
        }
        if self.extent.len >= self.segment_bytes && self.extent.start < self.tip.position {
            self.roll()?;
        }
        let batch = encode_batch(self.seed, &records);
        write_full(&*self.file, &batch, self.extent.len).map_err(|error| self.write_failed(error))?;
        let begun = Instant::now();
        self.file.sync().map_err(|error| self.failed("sync", error))?;
        let written = Written {
            records: records.len(),
            bytes: batch.len() as u64,
            sync: begun.elapsed(),
        };
        self.extent.len += batch.len() as u64;
        self.tip = tip;
        Ok((records, written))
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    fn roll(&mut self) -> Result<(), Fault> {
        (self.name, self.file, self.seed) = create_segment(&*self.disk, self.identity, self.tip, self.extent.len)?;
        self.extent = Extent {
            start: self.tip.position,
            len: SEGMENT_HEADER as u64,
        };
        Ok(())
    }

    /// A full disk is no reason to stop for good: nothing was promised yet, and what was written is taken back.
    fn write_failed(&self, error: io::Error) -> Fault {
        if !is_full(&error) {
            return self.failed("write to", error);
        }
        // The length must be durable before a new segment says how long this one is.
        match self.file.truncate(self.extent.len).and_then(|()| self.file.sync()) {
            Ok(()) => Fault::DiskFull(format!("{}: {error}", place(&*self.disk, &self.name))),
            Err(error) => self.failed("shorten, after the disk was full,", error),
        }
    }

    fn failed(&self, verb: &str, error: io::Error) -> Fault {
        Fault::Final(LogError::failed(
            format!("cannot {verb} {}", place(&*self.disk, &self.name)),
            error,
        ))
    }
}

/// The file is durable, then its name, then the folder: only after that a record in it may be acknowledged.
fn create_segment(
    disk: &dyn Disk,
    identity: Identity,
    start: Tip,
    bytes_before: u64,
) -> Result<(String, Arc<dyn DiskFile>, u32), Fault> {
    let header = SegmentHeader {
        identity,
        start,
        bytes_before,
    };
    let name = name_of(start.position);
    let failed =
        |verb: &str, error| Fault::Final(LogError::failed(format!("cannot {verb} {}", place(disk, &name)), error));
    let written = disk
        .create(UNFINISHED)
        .and_then(|file| write_full(&*file, &header.encode(), 0).map(|()| file));
    let file = match written {
        Ok(file) => file,
        Err(error) if is_full(&error) => {
            // What is left of it is emptied by the next try, or removed by the next open.
            return Err(Fault::DiskFull(format!("{}: {error}", place(disk, &name))));
        }
        Err(error) => return Err(failed("create", error)),
    };
    file.sync().map_err(|error| failed("sync", error))?;
    if let Err(error) = disk.rename(UNFINISHED, &name) {
        return Err(if is_full(&error) {
            Fault::DiskFull(format!("{}: {error}", place(disk, &name)))
        } else {
            failed("name", error)
        });
    }
    disk.sync_folder()
        .map_err(|error| failed("make durable the name of", error))?;
    Ok((name, file, header.seed()))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What was handed over and is not durable yet.
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
    observer: Mutex<Option<Observer>>,
}

struct Waiting {
    records: VecDeque<Bytes>,
    /// Of the records waiting and of those being written.
    bytes: usize,
    closing: bool,
    /// Let the next batch be stamped with the clock as it is, even backwards.
    time_may_go_back: bool,
    /// What the next append is told.
    trouble: Option<LogError>,
}

impl Queue {
    pub(super) fn new() -> Queue {
        let state = Waiting {
            records: VecDeque::new(),
            bytes: 0,
            closing: false,
            time_may_go_back: false,
            trouble: None,
        };
        Queue {
            state: Mutex::new(state),
            changed: Condvar::new(),
            observer: Mutex::default(),
        }
    }

    pub(super) fn push(&self, record: Bytes, options: &Options) -> Result<(), LogError> {
        let limit = options.record_limit();
        if record.len() > limit {
            return Err(LogError::TooLarge {
                size: record.len(),
                limit,
            });
        }
        let mut state = self.state.lock();
        state.ready()?;
        // A record that is bigger than the whole queue passes when it is alone.
        if state.bytes > 0 && state.bytes + record.len() > options.queue_bytes {
            return Err(LogError::Full {
                queued: state.bytes,
                limit: options.queue_bytes,
            });
        }
        state.bytes += record.len() + RECORD_HEADER;
        state.records.push_back(record);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn health(&self) -> Result<(), LogError> {
        self.state.lock().ready()
    }

    pub(super) fn observe(&self, observer: Observer) {
        *self.observer.lock() = Some(observer);
    }

    fn tell(&self, written: &Written) {
        if let Some(observer) = &*self.observer.lock() {
            observer(written);
        }
    }

    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    pub(super) fn let_time_go_back(&self) {
        self.state.lock().time_may_go_back = true;
    }

    /// As many records as make one batch; `None` when the log is closing and nothing is left.
    fn take(&self, batch_bytes: usize) -> Option<Vec<Bytes>> {
        let mut state = self.state.lock();
        while state.records.is_empty() {
            if state.closing {
                return None;
            }
            self.changed.wait(&mut state);
        }
        let mut bytes = 0;
        let fits = |record: &&Bytes| {
            bytes += record.len() + RECORD_HEADER;
            bytes <= batch_bytes
        };
        let count = state.records.iter().take_while(fits).count().max(1);
        Some(state.records.drain(..count).collect())
    }

    fn make_room(&self, bytes: usize) {
        self.state.lock().bytes -= bytes;
    }

    fn recovered(&self) {
        self.state.lock().trouble = None;
    }

    fn fail(&self, error: LogError) {
        let mut state = self.state.lock();
        state.trouble = Some(error);
        state.records.clear();
    }

    /// Waits before a full disk is tried again; `false` when the log is closing.
    fn disk_is_full(&self, what: String, pause: std::time::Duration) -> bool {
        let mut state = self.state.lock();
        if state.trouble.is_none() {
            tracing::error!(%what, "no space is left for the log; appends are refused until there is some");
        }
        state.trouble = Some(LogError::DiskFull { what });
        if !state.closing {
            self.changed.wait_for(&mut state, pause);
        }
        !state.closing
    }
}

impl Waiting {
    fn ready(&self) -> Result<(), LogError> {
        match &self.trouble {
            Some(LogError::Failed { what, cause }) => Err(LogError::Failed {
                what: what.clone(),
                cause: cause.clone(),
            }),
            _ if self.closing => Err(LogError::Closed),
            Some(trouble) => Err(trouble.clone()),
            None => Ok(()),
        }
    }
}

/// The writer's thread, until the log is closed or fails for good.
pub(super) fn run(mut appender: Appender, queue: Arc<Queue>, tail: Arc<Tail>, options: Options) {
    let _guard = Guard(&queue);
    let batch_bytes = options.batch_bytes.min(BATCH_MAX);
    let mut disk_was_full = false;
    'batches: while let Some(batch) = queue.take(batch_bytes) {
        let (records, written) = loop {
            let time = stamp(&queue, &options, appender.tip.time);
            // A record is a counted reference: to try again costs no copy.
            match appender.commit(batch.iter().map(|bytes| (time, bytes.clone()))) {
                Ok(done) => break done,
                Err(Fault::DiskFull(what)) if queue.disk_is_full(what.clone(), options.full_pause) => {
                    disk_was_full = true
                }
                Err(Fault::DiskFull(what)) => {
                    tracing::error!(%what, records = batch.len(), "closing with no space left; records handed over last were not written");
                    break 'batches;
                }
                Err(Fault::Final(error)) => {
                    tracing::error!(%error, "the log stops: it cannot know what is on the disk");
                    queue.fail(error);
                    break 'batches;
                }
            }
        };
        let bytes = records.iter().map(|record| record.bytes.len() + RECORD_HEADER).sum();
        queue.tell(&written);
        // Who reads a record finds its room free; who finds the log recovered can read what waited.
        queue.make_room(bytes);
        tail.publish(records, appender.tip, appender.extent);
        if std::mem::take(&mut disk_was_full) {
            queue.recovered();
            tracing::info!("there is space again, and the log goes on");
        }
    }
}

fn stamp(queue: &Queue, options: &Options, last: Time) -> Time {
    let now = (options.clock)();
    let back = std::mem::take(&mut queue.state.lock().time_may_go_back);
    if back { now } else { now.max(last) }
}

/// A writer that panics must not leave a log that takes records and never writes them.
struct Guard<'a>(&'a Queue);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cause = io::Error::other("the writer's thread panicked");
            self.0.fail(LogError::failed("the log stopped", cause));
        }
    }
}
