//! A data folder: one store on this machine. The only place that picks a log and a store.
//!
//! ```text
//! DIR/log/     the log, the only truth (docs/formats.md, File log)
//! DIR/store/   what was folded from it, in RocksDB; can be built anew from the log
//! DIR/rebuild  present when the store was found damaged while it was open: the next start sets it aside
//! ```

use confold_log::LogError;
use confold_log::file::{self, FileLog, Identity};
use confold_model::event::RetentionPolicy;
use confold_replica::{Begin, BeginError, Handle, OpenError, Options, Replica, ReplicaState, begin};
use confold_store::{Store, StoreError};
use confold_store_rocks::RocksStore;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keep this many revisions, and all of the last thirty days, unless told otherwise.
pub const DEFAULT_RETENTION: RetentionPolicy =
    RetentionPolicy { keep_revisions: 100_000, keep_age_ms: 30 * 24 * 3600 * 1000, keep_all: false };

const LOG: &str = "log";
const STORE: &str = "store";
const REBUILD: &str = "rebuild";

/// Why a data folder could not be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{0} holds no store")]
    NoStore(PathBuf),
    #[error("{0} holds a store already")]
    Exists(PathBuf),
    #[error("{0} is not empty and holds no store: confold would mix its files with others")]
    NotEmpty(PathBuf),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Begin(#[from] BeginError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

impl FolderError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            FolderError::NoStore(_) => "make one there with `confold init`, or name the folder that has one",
            FolderError::Exists(_) => "serve it, or choose another folder",
            FolderError::NotEmpty(_) => "choose a new or an empty folder",
            FolderError::Log(LogError::Locked { .. }) => {
                "a server has it open: talk to that server with --server, or stop it first"
            }
            FolderError::Store(StoreError::Locked { .. }) => {
                "a server has it open: talk to that server with --server, or stop it first"
            }
            FolderError::Log(LogError::Corrupt { .. }) => {
                "the log is the only truth, so nothing was cut: restore it from a copy; `confold doctor` says more"
            }
            _ => "`confold doctor --data DIR` looks at every part of it",
        }
    }
}

/// An open data folder.
pub struct Opened {
    pub handle: Handle,
    /// What happened on the way that somebody should know: a torn tail cut, a store set aside.
    pub notes: Vec<String>,
}

/// Makes a data folder with an empty store in it, and gives its log id. The folder may exist if it is empty.
pub fn create(dir: &Path, store_name: &str, options: &Begin) -> Result<[u8; 16], FolderError> {
    let io = |error| FolderError::Io(dir.to_owned(), error);
    if dir.join(LOG).exists() || dir.join(STORE).exists() {
        return Err(FolderError::Exists(dir.to_owned()));
    }
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(FolderError::NotEmpty(dir.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(dir).map_err(io)?,
        Err(error) => return Err(io(error)),
    }
    let (log_id, transport_id) = (random()?, random()?);
    let identity = Identity { log_id, transport_id };
    let settings = file::Options { record_bytes: record_bytes(options.limits.max_event_bytes), ..Default::default() };
    let log = FileLog::create(&dir.join(LOG), identity, settings)?;
    begin(&log, store_name, &Begin { log_id: Some(log_id), ..options.clone() })?;
    Ok(log_id)
}

/// Opens the store of a data folder for reading and writing. A store that is damaged is set aside and built anew from
/// the log; a log that is damaged is refused.
pub fn open(dir: &Path, options: Options) -> Result<Opened, FolderError> {
    if !dir.join(LOG).is_dir() {
        return Err(FolderError::NoStore(dir.to_owned()));
    }
    let mut notes = Vec::new();
    let store = open_store(dir, &mut notes)?;
    let head = store.head();
    let log_options = file::Options {
        must_have: head.as_ref().map(|head| head.applied),
        transport_id: head.as_ref().map(|head| head.transport_id),
        ..Default::default()
    };
    let log = FileLog::open(&dir.join(LOG), log_options)?;
    if let Some(cut) = log.cut() {
        notes.push(format!(
            "{}: a write that was under way when the process ended was cut off, {} bytes at {}; it was never acknowledged",
            cut.file, cut.bytes, cut.offset
        ));
    }
    let ahead = log.clock_ahead();
    if ahead > 60_000 {
        notes.push(format!(
            "the last record's time is {} s ahead of this machine's clock; `confold admin set-clock` sets it right",
            ahead / 1000
        ));
    }
    let handle = Replica::open(Arc::new(log), Arc::new(store), options)?;
    Ok(Opened { handle, notes })
}

fn open_store(dir: &Path, notes: &mut Vec<String>) -> Result<RocksStore, FolderError> {
    let (folder, marker) = (dir.join(STORE), dir.join(REBUILD));
    let settings = confold_store_rocks::Options::default();
    let damage = match std::fs::read_to_string(&marker) {
        Ok(reason) => Some(reason),
        Err(_) => match RocksStore::open(&folder, &settings) {
            Ok(store) => return Ok(store),
            Err(error) if error.is_damage() => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        },
    };
    let aside = confold_store_rocks::set_aside(&folder)?;
    _ = std::fs::remove_file(&marker);
    notes.push(format!(
        "the store was damaged ({}) and is built anew from the log; what was found lies in {}",
        damage.unwrap_or_default().trim(),
        aside.display()
    ));
    Ok(RocksStore::open(&folder, &settings)?)
}

/// Remembers that a store showed damage while it was open, so that the next start builds it anew.
pub fn mark_damaged(dir: &Path, handle: &Handle) {
    let standing = handle.status().standing;
    if standing.state == ReplicaState::Quarantined
        && let Err(error) = std::fs::write(dir.join(REBUILD), &standing.reason)
    {
        tracing::error!(%error, "cannot note that the store is damaged");
    }
}

/// The log of a data folder, read only and without a lock: for tools, also while a server writes.
pub fn open_log(dir: &Path, verify_all: bool) -> Result<FileLog, FolderError> {
    if !dir.join(LOG).is_dir() {
        return Err(FolderError::NoStore(dir.to_owned()));
    }
    Ok(FileLog::open_read_only(&dir.join(LOG), file::Options { verify_all, ..Default::default() })?)
}

/// The store of a data folder that no server has open, read only. `None`: nothing was folded yet.
pub fn open_store_read_only(dir: &Path) -> Result<Option<RocksStore>, FolderError> {
    if !dir.join(STORE).is_dir() {
        return Ok(None);
    }
    Ok(Some(RocksStore::open_read_only(&dir.join(STORE), &confold_store_rocks::Options::default())?))
}

fn record_bytes(max_event_bytes: u64) -> usize {
    usize::try_from(max_event_bytes).unwrap_or(usize::MAX).max(16 << 20)
}

fn random() -> Result<[u8; 16], FolderError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| FolderError::Random(error.to_string()))?;
    Ok(bytes)
}
