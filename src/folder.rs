//! A data folder: one store on this machine. The only place that picks a log and a store.
//!
//! ```text
//! DIR/confold.toml  which log it is, and how a server runs (config.rs); absent: the embedded log
//! DIR/log/          the embedded log, the only truth (docs/formats.md, File log)
//! DIR/kafka.notes   hints about the topic; can be lost
//! DIR/store/        what was folded from the log, in RocksDB; can be built anew from it
//! DIR/rebuild       present when the store was found damaged while it was open: the next start sets it aside
//! DIR/stopped       present when the replica was found wrong: it stays so until `confold store rebuild`
//! DIR/closed        present when an operator closed the store of a server: its next start leaves it closed
//! ```

use crate::config::{Config, ConfigError, Kafka};
use crate::kafka::{self, Begun, Shape, Topic, Watch};
use confold_log::file::{self, FileLog, Identity};
use confold_log::{Log, LogError};
use confold_log_kafka::TopicError;
use confold_model::event::{Limits, RetentionPolicy};
use confold_model::ids::Incarnation;
use confold_replica::service::Report;
use confold_replica::{Begin, BeginError, Handle, OpenError, Options, Replica, ReplicaState, Standing, begin};
use confold_store::{Store, StoreError};
use confold_store_rocks::RocksStore;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keep this many revisions, and all of the last thirty days, unless told otherwise.
pub const DEFAULT_RETENTION: RetentionPolicy =
    RetentionPolicy { keep_revisions: 100_000, keep_age_ms: 30 * 24 * 3600 * 1000, keep_all: false };

/// How many replicas have to have a durable checkpoint before a log on Kafka may be trimmed.
const TRIM_REPLICAS: u32 = 2;

pub const LOG: &str = "log";
const STORE: &str = "store";
const REBUILD: &str = "rebuild";
const STOPPED: &str = "stopped";
const CLOSED: &str = "closed";

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
    Config(#[from] ConfigError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// One line for each reason.
    #[error("{0}")]
    Unsafe(String),
    /// The topic, what it holds, what was asked for.
    #[error("topic {0} holds {1}, and {2}")]
    OtherStore(String, String, String),
    #[error("the store in {0} is called {1:?}, and a store of that name is served already")]
    SameName(PathBuf, String),
    #[error("the replica in {0} was stopped: {1}")]
    Stopped(PathBuf, String),
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
            FolderError::Config(_) => "docs/configuration.md has every setting",
            FolderError::Topic(TopicError::Missing { .. }) => "make it with `confold init --create-topic`",
            FolderError::Topic(_) => "",
            FolderError::Unsafe(_) => {
                "change the topic; where every broker is on this machine, --dev-unsafe makes it an alarm"
            }
            FolderError::OtherStore(..) => "name the topic of the store that is wanted",
            FolderError::SameName(..) => "a server has each name once: serve it in another process",
            FolderError::Stopped(..) => {
                "`confold store rebuild DIR` sets its store aside as evidence and folds the log anew"
            }
            FolderError::Log(LogError::Locked { .. }) => {
                "a server has it open: talk to that server with --server, or stop it first"
            }
            FolderError::Store(StoreError::Locked { .. }) => {
                "a server has it open: talk to that server with --server, or stop it first"
            }
            FolderError::Log(LogError::Corrupt { .. }) => {
                "the log is the only truth, so nothing was cut: restore it from a copy; `confold doctor` says more"
            }
            FolderError::Log(LogError::Unreachable { .. } | LogError::Missing { .. }) => {
                "are the brokers in confold.toml the right ones, and do they run? `confold doctor --data DIR` asks them"
            }
            _ => "`confold doctor --data DIR` looks at every part of it",
        }
    }

    /// How a store that could not be opened stands: for a server that goes on with others.
    pub fn state(&self) -> ReplicaState {
        match self {
            FolderError::OtherStore(..) | FolderError::Log(LogError::Fenced { .. }) => ReplicaState::Fenced,
            FolderError::Open(OpenError::NoStore(_)) => ReplicaState::Fenced,
            FolderError::Open(OpenError::SnapshotNeeded { .. }) => ReplicaState::SnapshotNeeded,
            FolderError::Stopped(..) => ReplicaState::Quarantined,
            _ => ReplicaState::Halted,
        }
    }

    /// Whether trying again later may help, without anybody's doing.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            FolderError::Log(LogError::Unreachable { .. })
                | FolderError::Topic(TopicError::Unreachable { .. })
                | FolderError::Open(OpenError::Log(LogError::Unreachable { .. }))
        )
    }
}

/// An open data folder.
pub struct Opened {
    pub handle: Handle,
    /// `file` or `kafka`.
    pub log: &'static str,
    /// What happened on the way that somebody should know: a torn tail cut, a store set aside.
    pub notes: Vec<String>,
    /// Looks after the topic as long as it lives.
    pub watch: Option<Watch>,
}

impl Opened {
    /// What is to be told of the log's settings.
    pub fn report(&self) -> Option<Report> {
        self.watch.as_ref().map(Watch::report)
    }
}

/// Makes a data folder with an empty store in it, and gives its log id. The folder may exist if it is empty.
pub fn create(dir: &Path, store_name: &str, options: &Begin) -> Result<[u8; 16], FolderError> {
    make_room(dir)?;
    let (log_id, transport_id) = (random()?, random()?);
    let identity = Identity { log_id, transport_id };
    let settings = file::Options { record_bytes: record_bytes(options.limits.max_event_bytes), ..Default::default() };
    let log = FileLog::create(&dir.join(LOG), identity, settings)?;
    begin(&log, store_name, &Begin { log_id: Some(log_id), ..options.clone() })?;
    Ok(log_id)
}

/// What `create_on_kafka` is to do.
#[derive(Clone, Debug, Default)]
pub struct OnKafka {
    pub kafka: Kafka,
    /// Make the topic, where it is not there.
    pub create_topic: Option<Shape>,
    /// The store that has to be there already, by its log id.
    pub join: Option<[u8; 16]>,
    /// `None`: whatever the store there is called, or `main` where there is none yet.
    pub store_name: Option<String>,
}

/// What a folder on Kafka came to hold.
pub struct Joined {
    pub begun: Begun,
    /// The store was there already.
    pub joined: bool,
    pub notes: Vec<String>,
}

/// Makes a data folder for the store on a topic, and begins that store where the topic is empty. When several do so at once,
/// what came to stand at position 0 decides, and the others join it.
pub fn create_on_kafka(dir: &Path, on: &OnKafka, options: &Begin) -> Result<Joined, FolderError> {
    make_room(dir)?;
    let earlier = Config::of_folder(dir)?;
    let topic = Topic::of(dir, &on.kafka)?;
    let mut notes = Vec::new();
    if let Some(shape) = on.create_topic {
        match topic.create(shape)? {
            true => notes.push(format!("made the topic {}", topic.name)),
            false => notes.push(format!("the topic {} is there already", topic.name)),
        }
    }
    notes.extend(kafka::sentences(&topic.check()?));
    let log = topic.open(None)?;
    let other = |found: &str, wanted: String| FolderError::OtherStore(topic.name.clone(), found.to_owned(), wanted);
    let mut ours = false;
    if kafka::begun(&log)?.is_none() {
        if let Some(wanted) = on.join {
            return Err(other("no store yet", format!("{} is to be joined", Incarnation(wanted))));
        }
        let name = on.store_name.as_deref().unwrap_or("main");
        ours = begin(&log, name, &Begin { trim_replicas: TRIM_REPLICAS, ..options.clone() })?;
    }
    let begun = kafka::begun(&log)?.ok_or(OpenError::Empty)?;
    let found = format!("the store {:?} with log id {}", begun.store_name, Incarnation(begun.log_id));
    if let Some(wanted) = on.join.filter(|wanted| *wanted != begun.log_id) {
        return Err(other(&found, format!("{} is to be joined", Incarnation(wanted))));
    }
    if let Some(wanted) = on.store_name.as_ref().filter(|wanted| **wanted != begun.store_name) {
        return Err(other(&found, format!("a store called {wanted:?} was asked for")));
    }
    log.close();
    Config { server: earlier.server, ..kafka::config_of(&on.kafka, &begun) }.write(dir)?;
    Ok(Joined { begun, joined: !ours, notes })
}

/// Refuses a folder that holds anything but a configuration without a log; makes it where it is missing.
pub fn make_room(dir: &Path) -> Result<(), FolderError> {
    let io = |error| FolderError::Io(dir.to_owned(), error);
    if is_data_folder(dir)? || dir.join(STORE).exists() {
        return Err(FolderError::Exists(dir.to_owned()));
    }
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                if entry.map_err(io)?.file_name() != crate::config::NAME {
                    return Err(FolderError::NotEmpty(dir.to_owned()));
                }
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(dir).map_err(io),
        Err(error) => Err(io(error)),
    }
}

/// Whether a folder holds a store, on whichever log.
pub fn is_data_folder(dir: &Path) -> Result<bool, FolderError> {
    Ok(dir.join(LOG).is_dir() || Config::of_folder(dir)?.kafka.is_some_and(|kafka| kafka.topic.is_some()))
}

/// What a folder's log is.
pub enum Place {
    File(PathBuf),
    Kafka(Kafka),
}

pub fn place(dir: &Path) -> Result<Place, FolderError> {
    match Config::of_folder(dir)?.kafka {
        Some(kafka) if kafka.topic.is_some() => Ok(Place::Kafka(kafka)),
        _ if dir.join(LOG).is_dir() => Ok(Place::File(dir.join(LOG))),
        _ => Err(FolderError::NoStore(dir.to_owned())),
    }
}

/// The name of a folder's store, where it can be told without opening it.
pub fn store_name(dir: &Path) -> Option<String> {
    match place(dir).ok()? {
        Place::Kafka(kafka) => kafka.store,
        Place::File(log) => {
            let log = FileLog::open_read_only(&log, file::Options::default()).ok()?;
            Some(kafka::begun(&log).ok()??.store_name)
        }
    }
}

/// Where a data folder keeps what it has folded.
pub fn store_of(dir: &Path) -> PathBuf {
    dir.join(STORE)
}

/// Puts a log that was left beside the data folder's own files, under a name that says so.
pub fn keep_old_log(dir: &Path, log: &Path) -> Result<PathBuf, FolderError> {
    let free = (1..).map(|number| dir.join(format!("{LOG}.moved-{number}"))).find(|name| !name.exists());
    let aside = free.unwrap_or_else(|| dir.join(format!("{LOG}.moved")));
    std::fs::rename(log, &aside).map_err(|error| FolderError::Io(log.to_owned(), error))?;
    Ok(aside)
}

/// Opens the store of a data folder for reading and writing. A store that is damaged is set aside and built anew from
/// the log; a log that is damaged, and a topic that does not keep what a log must, are refused.
pub fn open(dir: &Path, options: Options) -> Result<Opened, FolderError> {
    open_as(dir, options, false)
}

/// The same; with `dev_unsafe` an alarm is enough where a topic would be refused and every broker is on this machine.
pub fn open_as(dir: &Path, options: Options, dev_unsafe: bool) -> Result<Opened, FolderError> {
    let opened = open_once(dir, options.clone(), dev_unsafe);
    let Err(FolderError::Open(OpenError::Store(error))) = &opened else { return opened };
    if !error.is_damage() {
        return opened;
    }
    // Damage that shows when the fold's state is read is as good as damage that shows before.
    let marker = dir.join(REBUILD);
    std::fs::write(&marker, error.to_string()).map_err(|error| FolderError::Io(marker, error))?;
    open_once(dir, options, dev_unsafe)
}

fn open_once(dir: &Path, options: Options, dev_unsafe: bool) -> Result<Opened, FolderError> {
    let place = place(dir)?;
    if let Some(reason) = stopped_for(dir) {
        return Err(FolderError::Stopped(dir.to_owned(), reason));
    }
    let mut notes = Vec::new();
    let options = remembered(dir, options);
    match place {
        Place::File(log) => {
            let store = open_store(dir, &mut notes)?;
            let log = open_file(&log, &store, &mut notes)?;
            let handle = Replica::open(Arc::new(log), Arc::new(store), options)?;
            Ok(Opened { handle, log: "file", notes, watch: None })
        }
        Place::Kafka(kafka) => {
            let kafka = Kafka { dev_unsafe: kafka.dev_unsafe || dev_unsafe, ..kafka };
            let topic = Topic::of(dir, &kafka)?;
            let found = topic.check()?;
            notes.extend(kafka::sentences(&found));
            let store = open_store(dir, &mut notes)?;
            let log = topic.open(Some(dir))?;
            if store.head().is_none() {
                must_be_ours(&topic, &kafka, &log)?;
            }
            let handle = Replica::open(Arc::new(log), Arc::new(store), options)?;
            Ok(Opened { handle, log: "kafka", notes, watch: Some(topic.watch(&found)) })
        }
    }
}

fn open_file(folder: &Path, store: &RocksStore, notes: &mut Vec<String>) -> Result<FileLog, FolderError> {
    let head = store.head();
    let log_options = file::Options {
        must_have: head.as_ref().map(|head| head.applied),
        transport_id: head.as_ref().map(|head| head.transport_id),
        ..Default::default()
    };
    let log = FileLog::open(folder, log_options)?;
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
    Ok(log)
}

/// A folder that has folded nothing yet knows its store by the log id alone.
fn must_be_ours(topic: &Topic, kafka: &Kafka, log: &dyn Log) -> Result<(), FolderError> {
    let Some(begun) = kafka::begun(log)? else { return Err(OpenError::Empty.into()) };
    let found = Incarnation(begun.log_id).to_string();
    match &kafka.log_id {
        Some(ours) if *ours != found => Err(FolderError::OtherStore(
            topic.name.clone(),
            format!("the store {:?} with log id {found}", begun.store_name),
            format!("this folder belongs to log id {ours}"),
        )),
        _ => Ok(()),
    }
}

/// Options with which the folder remembers that its replica stopped for good by itself.
fn remembered(dir: &Path, options: Options) -> Options {
    let dir = dir.to_owned();
    Options { on_stop: Some(Arc::new(move |standing: &Standing| remember(&dir, standing))), ..options }
}

/// A store that showed damage is built anew at the next start; one that was found wrong waits for an operator.
fn remember(dir: &Path, standing: &Standing) {
    let name = match (standing.state, standing.by_operator) {
        (_, true) => STOPPED,
        (ReplicaState::Quarantined, false) => REBUILD,
        _ => return,
    };
    if let Err(error) = std::fs::write(dir.join(name), &standing.reason) {
        tracing::error!(%error, name, "cannot note why the replica stopped");
    }
}

/// A store that shows damage is set aside, and an empty one opened in its place.
pub(crate) fn open_store(dir: &Path, notes: &mut Vec<String>) -> Result<RocksStore, FolderError> {
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

/// What a rebuild found and did.
pub struct Rebuilt {
    /// Where the store lies now; `None`: there was none.
    pub aside: Option<PathBuf>,
    /// Up to where it had folded.
    pub folded: Option<u64>,
    /// Why the replica had been stopped.
    pub reason: Option<String>,
}

/// Sets the store of a folder aside, so that the next start folds the log anew. Refused while a process has it open.
pub fn rebuild(dir: &Path) -> Result<Rebuilt, FolderError> {
    place(dir)?;
    let io = |error| FolderError::Io(dir.to_owned(), error);
    let (folder, stopped) = (dir.join(STORE), dir.join(STOPPED));
    let reason = std::fs::read_to_string(&stopped).ok();
    if !folder.exists() {
        _ = std::fs::remove_file(&stopped);
        return Ok(Rebuilt { aside: None, folded: None, reason });
    }
    // Whoever has it open holds its lock; a store that is damaged is set aside unread.
    let folded = match RocksStore::open(&folder, &confold_store_rocks::Options::default()) {
        Ok(store) => store.head().map(|head| head.applied.0),
        Err(error @ StoreError::Locked { .. }) => return Err(error.into()),
        Err(_) => None,
    };
    let aside = confold_store_rocks::set_aside(&folder)?;
    if let Some(reason) = &reason {
        std::fs::write(aside.join("why"), reason).map_err(io)?;
    }
    for marker in [STOPPED, REBUILD] {
        match std::fs::remove_file(dir.join(marker)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    Ok(Rebuilt { aside: Some(aside), folded, reason })
}

/// Why the replica of this folder was stopped, where that is for an operator to look into.
pub fn stopped_for(dir: &Path) -> Option<String> {
    std::fs::read_to_string(dir.join(STOPPED)).ok().map(|reason| reason.trim().to_owned())
}

/// Whether an operator closed the store of this folder.
pub fn is_closed(dir: &Path) -> bool {
    dir.join(CLOSED).exists()
}

pub fn set_closed(dir: &Path, closed: bool) -> Result<(), FolderError> {
    let marker = dir.join(CLOSED);
    let done = match closed {
        true => std::fs::write(&marker, ""),
        false => std::fs::remove_file(&marker),
    };
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FolderError::Io(marker, error)),
        _ => Ok(()),
    }
}

/// The embedded log of a data folder, read only and without a lock: for tools, also while a server writes.
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

pub fn record_bytes(max_event_bytes: u64) -> usize {
    usize::try_from(max_event_bytes.max(Limits::default().max_event_bytes)).unwrap_or(usize::MAX)
}

pub fn random() -> Result<[u8; 16], FolderError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| FolderError::Random(error.to_string()))?;
    Ok(bytes)
}
