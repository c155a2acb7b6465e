//! The stores of a server: opened when it starts, and made, opened and closed while it serves the others.
//!
//! Each store has its own data folder and its own threads: what befalls one leaves the others as they are. A store that
//! cannot be opened is listed with the reason, and tried again where its brokers were away.

use crate::config::Kafka;
use crate::folder::{self, FolderError, OnKafka, Opened};
use crate::kafka::{Shape, Watch};
use async_trait::async_trait;
use confold_log::LogError;
use confold_model::code::Code;
use confold_model::event::{Limits, RetentionPolicy, WINDOW};
use confold_replica::service::{Keeper, Refusal, Stores};
use confold_replica::{Begin, Handle, Options, ReplicaState, Standing};
use confold_store::StoreError;
use confold_wire::{convert, pb, status};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// How long a store that closes waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long calls that still hold a store that was closed may keep its folder.
const LINGER: Duration = Duration::from_secs(10);

/// A store whose brokers were away is tried again so often.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Opens and closes stores, one at a time.
pub struct Shelf {
    stores: Arc<Stores>,
    /// Where new stores are made; `None`: the server's stores are those it was started with.
    root: Option<PathBuf>,
    /// What new stores on Kafka have in common.
    kafka: Option<Kafka>,
    options: Options,
    /// An alarm is enough where a topic's settings would be refused.
    dev_unsafe: bool,
    /// The server takes no bigger event.
    max_event_bytes: OnceLock<u64>,
    held: tokio::sync::Mutex<BTreeMap<String, Held>>,
}

/// A store that was opened here, or was to be.
struct Held {
    dir: PathBuf,
    watch: Option<Watch>,
}

impl Shelf {
    pub fn new(
        stores: Arc<Stores>,
        root: Option<PathBuf>,
        kafka: Option<Kafka>,
        options: Options,
        dev_unsafe: bool,
    ) -> Shelf {
        Shelf { stores, root, kafka, options, dev_unsafe, max_event_bytes: OnceLock::new(), held: Default::default() }
    }

    /// The biggest event that the server takes, once that is settled.
    pub fn takes(&self, max_event_bytes: u64) {
        self.max_event_bytes.get_or_init(|| max_event_bytes);
    }

    /// The data folders in the folder of stores.
    pub fn folders(root: &Path) -> Result<Vec<PathBuf>, FolderError> {
        let io = |error| FolderError::Io(root.to_owned(), error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(root).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.is_dir() && folder::is_data_folder(&path)? {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Opens a store at the start of the server. What goes wrong is listed under the store's name, and in the answer.
    pub async fn put(self: &Arc<Shelf>, dir: &Path) -> Result<(), FolderError> {
        let name = name_of(dir);
        if folder::is_closed(dir) {
            self.stores.shut(&name, closed());
            self.held.lock().await.insert(name, Held { dir: dir.to_owned(), watch: None });
            return Ok(());
        }
        let put = self.open_in(dir).await;
        if let Err(error) = &put {
            tracing::error!(store = name, %error, hint = error.hint(), "a store cannot be opened");
            self.stores.shut(&name, Standing::new(error.state(), error.to_string()));
            self.held.lock().await.insert(name.clone(), Held { dir: dir.to_owned(), watch: None });
            if error.may_pass() {
                tokio::spawn(try_again(Arc::downgrade(self), name, dir.to_owned()));
            }
        }
        put
    }

    async fn open_in(&self, dir: &Path) -> Result<(), FolderError> {
        let mut held = self.held.lock().await;
        let opened = open_folder(dir, self.options.clone(), self.dev_unsafe).await?;
        let report = opened.report();
        let Opened { handle, log, notes, watch } = opened;
        let name = handle.view().store_name.to_string();
        notes.iter().for_each(|note| tracing::warn!(store = name, "{note}"));
        if let Err(taken) = self.stores.add_reported(handle.clone(), log, report) {
            let _ = handle.shutdown(PATIENCE).await;
            return Err(FolderError::SameName(dir.to_owned(), taken.0));
        }
        held.insert(name, Held { dir: dir.to_owned(), watch });
        Ok(())
    }

    /// Closes every store in order, all at once.
    pub async fn close_all(&self) -> Result<(), StoreError> {
        let open: Vec<Handle> = self.stores.list().into_iter().filter_map(|listed| listed.handle).collect();
        let mut closing = tokio::task::JoinSet::new();
        for handle in open {
            closing.spawn(async move { handle.shutdown(PATIENCE).await });
        }
        let mut first = Ok(());
        while let Some(closed) = closing.join_next().await {
            let closed = closed.unwrap_or_else(|error| Err(StoreError::Io { what: error.to_string() }));
            first = first.and(closed);
        }
        first
    }

    /// Waits for every store to serve or to have stopped, as long as that does not take long.
    pub async fn settle(&self, patience: Duration) {
        let all = async {
            for listed in self.stores.list() {
                if let Some(handle) = listed.handle {
                    handle.ready().await;
                }
            }
        };
        // What takes longer is served as far as it is folded, and says so.
        let _ = tokio::time::timeout(patience, all).await;
    }

    fn place(&self, held: &BTreeMap<String, Held>, name: &str) -> Result<PathBuf, Refusal> {
        if let Some(held) = held.get(name) {
            return Ok(held.dir.clone());
        }
        let unknown = || refusal(Code::NotFound, format!("no store called {name:?} is known here"), "`confold stores` lists them");
        let root = self.root.as_ref().ok_or_else(unknown)?;
        check_name(name)?;
        let dir = root.join(name);
        match folder::is_data_folder(&dir) {
            Ok(true) => Ok(dir),
            _ => Err(unknown()),
        }
    }
}

/// The name that a folder's store goes by before it is open: its own, where that can be read.
fn name_of(dir: &Path) -> String {
    let of_folder = || dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned());
    folder::store_name(dir).unwrap_or_else(of_folder)
}

fn closed() -> Standing {
    Standing { by_operator: true, ..Standing::new(ReplicaState::Stopped, "an operator closed it") }
}

/// Opening waits for disks and brokers.
async fn open_folder(dir: &Path, options: Options, dev_unsafe: bool) -> Result<Opened, FolderError> {
    let owned = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || folder::open_as(&owned, options, dev_unsafe)).await;
    opened.map_err(|error| FolderError::Io(dir.to_owned(), std::io::Error::other(error)))?
}

/// Until it is open, was closed by an operator, or the server is gone.
async fn try_again(shelf: Weak<Shelf>, name: String, dir: PathBuf) {
    loop {
        tokio::time::sleep(TRY_AGAIN).await;
        let Some(shelf) = shelf.upgrade() else { return };
        if shelf.stores.handle(&name).is_some() || folder::is_closed(&dir) {
            return;
        }
        match shelf.open_in(&dir).await {
            Ok(()) => return tracing::info!(store = name, "the store is open now"),
            Err(error) if error.may_pass() => {}
            Err(error) => {
                tracing::error!(store = name, %error, hint = error.hint(), "a store cannot be opened");
                shelf.stores.shut(&name, Standing::new(error.state(), error.to_string()));
                return;
            }
        }
    }
}

#[async_trait]
impl Keeper for Shelf {
    async fn create(&self, request: pb::CreateStoreRequest) -> Result<(), Refusal> {
        let name = request.name.clone();
        check_name(&name)?;
        let Some(root) = &self.root else {
            let hint = "start it with a folder for stores: `confold serve --stores FOLDER`";
            return Err(refusal(Code::Unsupported, "this server has no folder for stores", hint));
        };
        let most = self.max_event_bytes.get().copied().unwrap_or(Limits::default().max_event_bytes);
        if request.max_event_bytes > most {
            let what = format!("events of {} bytes are more than this server takes, {most}", request.max_event_bytes);
            return Err(refusal(Code::Limit, what, "make the store with `confold init` and start the server with it"));
        }
        let dir = root.join(&name);
        let begin = begin(&request);
        if request.topic.is_empty() {
            if !request.join.is_empty() || request.create_topic.is_some() {
                let what = "there is no topic to make or to join a store on";
                return Err(refusal(Code::InvalidPath, what, "name the topic"));
            }
            blocking(move || folder::create(&dir, &name, &begin).map(drop)).await?;
        } else {
            let on = self.on_kafka(&request)?;
            blocking(move || folder::create_on_kafka(&dir, &on, &begin).map(drop)).await?;
        }
        self.open_in(&root.join(&request.name)).await.map_err(refused)
    }

    async fn open(&self, name: &str) -> Result<(), Refusal> {
        if self.stores.handle(name).is_some() {
            return Ok(());
        }
        let dir = self.place(&*self.held.lock().await, name)?;
        let until = tokio::time::Instant::now() + LINGER;
        // Calls of the store's last time may still hold its folder.
        while let Err(error) = self.open_in(&dir).await {
            let lingers = matches!(
                error,
                FolderError::Store(StoreError::Locked { .. }) | FolderError::Log(LogError::Locked { .. })
            );
            if !lingers || tokio::time::Instant::now() >= until {
                return Err(refused(error));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        folder::set_closed(&dir, false).map_err(refused)
    }

    async fn close(&self, name: &str) -> Result<(), Refusal> {
        let mut held = self.held.lock().await;
        let dir = self.place(&held, name)?;
        folder::set_closed(&dir, true).map_err(refused)?;
        if let Some(held) = held.get_mut(name) {
            held.watch = None;
        }
        match self.stores.shut(name, closed()) {
            None => Ok(()),
            Some(handle) => handle.shutdown(PATIENCE).await.map_err(|error| refused(error.into())),
        }
    }
}

impl Shelf {
    fn on_kafka(&self, request: &pb::CreateStoreRequest) -> Result<OnKafka, Refusal> {
        let Some(kafka) = self.kafka.clone() else {
            let hint = "name them in the folder of stores, in confold.toml: [kafka] brokers = \"HOST:PORT\"";
            return Err(refusal(Code::Unsupported, "this server knows no brokers to keep stores on", hint));
        };
        let join = match request.join.as_str() {
            "" => None,
            text => Some(convert::parse_incarnation(text).map_err(|error| refusal(Code::InvalidPath, error.to_string(), ""))?.0),
        };
        let some = |number: u32| (number > 0).then_some(number);
        let create_topic = request
            .create_topic
            .map(|shape| Shape { replication: some(shape.replication), min_insync: some(shape.min_insync) });
        Ok(OnKafka {
            kafka: Kafka {
                topic: Some(request.topic.clone()),
                dev_unsafe: kafka.dev_unsafe || self.dev_unsafe,
                store: None,
                log_id: None,
                max_event_bytes: None,
                ..kafka
            },
            create_topic,
            join,
            store_name: Some(request.name.clone()),
        })
    }
}

fn begin(request: &pb::CreateStoreRequest) -> Begin {
    let retention = request.retention.map_or(folder::DEFAULT_RETENTION, |policy| RetentionPolicy {
        keep_revisions: policy.keep_revisions,
        keep_age_ms: policy.keep_age_ms,
        keep_all: policy.keep_all,
    });
    let mut limits = Limits::default();
    if request.max_event_bytes > 0 {
        limits.max_event_bytes = request.max_event_bytes;
    }
    let window = if request.window > 0 { request.window } else { WINDOW };
    Begin { limits, window, retention, ..Begin::default() }
}

/// What names a folder on every system, and nothing outside of where it belongs.
fn check_name(name: &str) -> Result<(), Refusal> {
    let first = name.chars().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if first && rest && name.len() <= 64 {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    let hint = "1 to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or a digit";
    Err(refusal(Code::InvalidPath, format!("{shown:?} cannot be the name of a store made here"), hint))
}

fn refusal(code: Code, what: impl Into<String>, hint: &str) -> Refusal {
    let mut detail = status::error_detail(code, what);
    if !hint.is_empty() {
        detail.hint = hint.to_owned();
    }
    Refusal::from(detail)
}

fn refused(error: FolderError) -> Refusal {
    let code = match &error {
        FolderError::NoStore(_) => Code::NotFound,
        FolderError::Exists(_) | FolderError::NotEmpty(_) | FolderError::SameName(..) => Code::AlreadyExists,
        FolderError::Config(_) | FolderError::Unsafe(_) | FolderError::Begin(_) => Code::Unsupported,
        FolderError::OtherStore(..) | FolderError::Log(LogError::Fenced { .. }) => Code::Fenced,
        FolderError::Stopped(..) => Code::Quarantined,
        FolderError::Log(LogError::DiskFull { .. }) | FolderError::Store(StoreError::Full { .. }) => Code::DiskFull,
        FolderError::Io(_, error) if error.kind() == ErrorKind::StorageFull => Code::DiskFull,
        _ => Code::Unavailable,
    };
    refusal(code, error.to_string(), error.hint())
}

async fn blocking(work: impl FnOnce() -> Result<(), FolderError> + Send + 'static) -> Result<(), Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(refused),
        Err(error) => Err(refusal(Code::Unavailable, error.to_string(), "")),
    }
}
