//! A disk that tells written from durable, and helpers for the tests of the file log.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::file::disk::{Access, Disk, DiskFile, NotLocked};
use confold_log::file::{FileLog, Identity, Options};
use confold_log::{Log, LogError, Reader, Record};
use confold_model::ids::{Position, Time};
use parking_lot::Mutex;

pub const IDENTITY: Identity = Identity {
    log_id: *b"the log id......",
    transport_id: *b"the transport id",
};
pub const DEADLINE: Duration = Duration::from_secs(20);
const SECTOR: usize = 512;

/// A folder in memory. What was not synced may be lost at a crash, sector by sector; [`SimDisk::crash`] makes the image.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By name: as seen now, and as found after a crash.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    locked: bool,
    faults: Faults,
    operations: Vec<Operation>,
    watch: Option<Watch>,
}

/// Sees the disk as it is before each operation that changes it.
type Watch = Arc<dyn Fn(&SimDisk) + Send + Sync>;

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// A sync failed: what it should have written is seen by readers, and will never be written.
    stuck: bool,
}

/// What goes wrong, and how.
#[derive(Clone, Default)]
pub struct Faults {
    /// `sync` and `sync_folder` do nothing and say `Ok`: what a program without fsync gets.
    pub ignore_sync: bool,
    /// Only `sync_folder` does nothing.
    pub ignore_folder_sync: bool,
    /// All files together may hold this many bytes.
    pub capacity: Option<usize>,
    /// The first operation of this kind fails with this error, once.
    pub fail_next: Option<(Operation, i32)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Write,
    Sync,
    Truncate,
    Rename,
    Remove,
    SyncFolder,
}

/// Which of the writes that were not durable a crash keeps.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    Nothing,
    Everything,
    /// Each sector and each name by a coin of this seed.
    Some(u64),
}

impl SimDisk {
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
    }

    pub fn watch(&self, watch: impl Fn(&SimDisk) + Send + Sync + 'static) {
        self.state.lock().watch = Some(Arc::new(watch));
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.state.lock().operations.clone()
    }

    /// The disk that a restarted process finds: everything written is seen, and only what was synced is durable.
    pub fn process_dies(&self) -> SimDisk {
        let state = self.state.lock();
        let state = State {
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            files: state.files.clone(),
            ..State::default()
        };
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The disk that a restarted machine finds.
    pub fn crash(&self, keep: Keep) -> SimDisk {
        let state = self.state.lock();
        let mut coin = match keep {
            Keep::Some(seed) => seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            _ => 1,
        };
        let mut kept = || match keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Some(_) => {
                coin ^= coin << 13;
                coin ^= coin >> 7;
                coin ^= coin << 17;
                coin >> 63 == 1
            }
        };
        let all: BTreeSet<&String> = state.names.keys().chain(state.durable_names.keys()).collect();
        let mut names = BTreeMap::new();
        for name in all {
            let (now, durable) = (state.names.get(name), state.durable_names.get(name));
            if let Some(file) = if now == durable || kept() { now } else { durable } {
                names.insert(name.clone(), *file);
            }
        }
        let files: Vec<Content> = state.files.iter().map(|file| file.after_crash(&mut kept)).collect();
        let state = State {
            durable_names: names.clone(),
            names,
            files,
            ..State::default()
        };
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state.lock();
        state.files[state.names[name]].now.clone()
    }

    /// Replaces a file's content, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        state.files.push(Content {
            now: bytes.clone(),
            durable: bytes,
            stuck: false,
        });
        let index = state.files.len() - 1;
        state.names.insert(name.to_owned(), index);
        state.durable_names.insert(name.to_owned(), index);
    }

    pub fn erase(&self, name: &str) {
        let mut state = self.state.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// Names of the segment files, oldest first.
    pub fn segments(&self) -> Vec<String> {
        self.state
            .lock()
            .names
            .keys()
            .filter(|name| name.ends_with(".log"))
            .cloned()
            .collect()
    }

    pub fn used(&self) -> usize {
        let state = self.state.lock();
        state.names.values().map(|file| state.files[*file].now.len()).sum()
    }

    fn change<T>(&self, operation: Operation, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let watch = self.state.lock().watch.clone();
        if let Some(watch) = watch {
            watch(self);
        }
        let mut state = self.state.lock();
        state.operations.push(operation);
        if let Some((_, code)) = state.faults.fail_next.take_if(|(failing, _)| *failing == operation) {
            return Err(io::Error::from_raw_os_error(code));
        }
        change(&mut state)
    }
}

impl Content {
    fn after_crash(&self, kept: &mut impl FnMut() -> bool) -> Content {
        let mut bytes = self.durable.clone();
        if self.now.len() != bytes.len() && kept() {
            bytes.resize(self.now.len(), 0);
        }
        for start in (0..bytes.len()).step_by(SECTOR) {
            let end = (start + SECTOR).min(bytes.len());
            let now = self.now.get(start..end.min(self.now.len())).unwrap_or(&[]);
            if bytes[start..start + now.len()] != *now && kept() {
                bytes[start..start + now.len()].copy_from_slice(now);
            }
        }
        Content {
            now: bytes.clone(),
            durable: bytes,
            stuck: false,
        }
    }
}

impl Disk for SimDisk {
    fn folder(&self) -> String {
        "sim".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change(Operation::Create, |state| {
            state.files.push(Content::default());
            let index = state.files.len() - 1;
            state.names.insert(name.to_owned(), index);
            Ok(self.file(index))
        })
    }

    fn open(&self, name: &str, _: Access) -> io::Result<Arc<dyn DiskFile>> {
        let index = self.state.lock().names.get(name).copied();
        Ok(self.file(index.ok_or(ErrorKind::NotFound)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Operation::Rename, |state| {
            let index = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), index);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(Operation::Remove, |state| {
            state.names.remove(name).ok_or(ErrorKind::NotFound)?;
            Ok(())
        })
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.change(Operation::SyncFolder, |state| {
            if !state.faults.ignore_sync && !state.faults.ignore_folder_sync {
                state.durable_names = state.names.clone();
            }
            Ok(())
        })
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, NotLocked> {
        let mut state = self.state.lock();
        if state.locked {
            return Err(NotLocked::Held(None));
        }
        state.locked = true;
        Ok(Box::new(SimLock(self.state.clone())))
    }
}

struct SimLock(Arc<Mutex<State>>);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}

struct SimFile {
    disk: SimDisk,
    index: usize,
}

impl SimDisk {
    fn file(&self, index: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            index,
        })
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().files[self.index].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state.lock();
        let content = &state.files[self.index].now;
        let rest = content.get(offset as usize..).unwrap_or(&[]);
        // Short reads are part of the contract.
        let read = rest.len().min(buffer.len()).min(100_000);
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let used = self.disk.used();
        self.disk.change(Operation::Write, |state| {
            let capacity = state.faults.capacity;
            let content = &mut state.files[self.index].now;
            let growth = (offset as usize + bytes.len()).saturating_sub(content.len());
            let missing = capacity.map_or(0, |capacity| (used + growth).saturating_sub(capacity));
            if missing >= bytes.len() && !bytes.is_empty() {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            let written = bytes.len() - missing;
            let end = offset as usize + written;
            if content.len() < end {
                content.resize(end, 0);
            }
            content[offset as usize..end].copy_from_slice(&bytes[..written]);
            Ok(written)
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.change(Operation::Truncate, |state| {
            state.files[self.index].now.resize(len as usize, 0);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let done = self.disk.change(Operation::Sync, |state| {
            let content = &mut state.files[self.index];
            if !state.faults.ignore_sync && !content.stuck {
                content.durable = content.now.clone();
            }
            Ok(())
        });
        if done.is_err() {
            // As on Linux: the pages count as clean now, and the next sync says `Ok` without writing them.
            self.disk.state.lock().files[self.index].stuck = true;
        }
        done
    }

    fn forget_cached(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let content = &mut state.files[self.index];
        if std::mem::take(&mut content.stuck) {
            content.now = content.durable.clone();
        }
        Ok(())
    }
}

pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

pub fn options() -> Options {
    Options {
        clock: Arc::new(|| Time(1_700_000_000_000)),
        full_pause: Duration::from_millis(1),
        ..Options::default()
    }
}

pub fn create(disk: &SimDisk, options: Options) -> FileLog {
    FileLog::create_on(Arc::new(disk.clone()), IDENTITY, options).unwrap()
}

pub fn open(disk: &SimDisk, options: Options) -> Result<FileLog, LogError> {
    FileLog::open_on(Arc::new(disk.clone()), options)
}

/// Appends one record and waits until it can be read: it is then a batch of its own.
pub fn put(log: &dyn Log, bytes: impl Into<Bytes>) -> Record {
    let mut reader = log.reader(log.range().end).unwrap();
    log.append(bytes.into()).unwrap();
    read_some(&mut *reader, 1).pop().unwrap()
}

pub fn read_all(log: &dyn Log) -> Vec<Record> {
    let range = log.range();
    let mut reader = log.reader(range.start).unwrap();
    read_some(&mut *reader, (range.end.0 - range.start.0) as usize)
}

pub fn read_some(reader: &mut dyn Reader, count: usize) -> Vec<Record> {
    let give_up = Instant::now() + DEADLINE;
    let mut records = Vec::new();
    while records.len() < count {
        let left = give_up
            .checked_duration_since(Instant::now())
            .expect("the records come in time");
        records.extend(reader.read(count - records.len(), usize::MAX, left).unwrap());
    }
    records
}

/// Polls until it holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}: not in time");
        std::thread::yield_now();
    }
}

/// A record whose bytes depend on the seed, of up to `max` bytes.
pub fn sample(seed: u64, max: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let size = next() % (max + 1);
    (0..size).map(|_| next() as u8).collect()
}

pub fn at(position: u64) -> Position {
    Position(position)
}
