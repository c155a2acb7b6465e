//! A store whose process dies at a named step: the disk of its log, its log, its store and its callers are wrapped, so that nothing
//! has to be built into the program itself.
//!
//! The process is this same test binary, told by its environment to write instead of to test. What it does stands in lines on
//! its standard output: `begin W COUNT ID`, `acked W COUNT POSITION`, `found W COUNT`, `tagging NAME REVISION`, `tagged NAME REVISION`,
//! `house FLOOR DELETED`, `died STEP`.

use super::number;
use super::writers::{self, WRITERS, Writer};
use bytes::Bytes;
use confold::replica::service::{self, Service, Stores};
use confold::replica::{Handle, Housekeeping, Options, Replica, Thinning, View};
use confold::wire::api::Api;
use confold::wire::{convert, pb};
use confold_log::file::disk::{Access, Disk, DiskFile, NotLocked, OsDisk};
use confold_log::file::{self, FileLog};
use confold_log::{Fence, Log, LogError, Range, Reader, Record, Tip};
use confold_model::event::{Body, Event};
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::objects::{Objects, ObjectsError};
use confold_store::{
    Batch, Engine, Estimate, Head, IdRow, Order, PathDigest, PersistedTree, RevisionRow, RootPrefix, RowVisitor, Rows,
    Stats, Store, StoreError, SweepGate, Touched,
};
use confold_store_rocks::RocksStore;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Set for the process that is to die: its data folder, its step and the passing of it, and what the writers know.
pub const FOLDER: &str = "CONFOLD_DYING_FOLDER";
pub const STEP: &str = "CONFOLD_DYING_STEP";
pub const PASSING: &str = "CONFOLD_DYING_PASSING";
pub const KNOWN: &str = "CONFOLD_DYING_KNOWN";
pub const LIFE: &str = "CONFOLD_DYING_LIFE";

/// Every step of the write path, in about the order in which an event passes them.
pub const STEPS: [&str; 45] = [
    // Handing an event to the log.
    "commit::append::before",
    "commit::append::after",
    "tag::append::before",
    "tag::append::after",
    "prune::append::before",
    "prune::append::after",
    "checkpoint::append::before",
    "checkpoint::append::after",
    // The log's writer.
    "log::batch::before_write",
    "log::batch::half_written",
    "log::batch::after_write",
    "log::batch::after_sync",
    "log::segment::before_create",
    "log::segment::after_create",
    "log::segment::after_write",
    "log::segment::after_sync",
    "log::segment::after_rename",
    "log::segment::after_folder_sync",
    // Opening a log with a torn end.
    "log::open::before_cut",
    "log::open::after_cut",
    "log::open::after_sync",
    // The fold has read records, and folds them.
    "fold::after_read",
    // The batch that holds an event, into the store.
    "commit::store::before",
    "commit::store::after",
    "tag::store::before",
    "tag::store::after",
    "prune::store::before",
    "prune::store::after",
    "checkpoint::store::before",
    "checkpoint::store::after",
    // A reader sees the new root.
    "view::published",
    // The answer.
    "answer::before",
    "answer::after",
    // The store is made durable for a checkpoint.
    "store::sync::before",
    "store::sync::after",
    // A tagged revision is made whole, before what it is made from may go.
    "sweep::persist::before",
    "sweep::persist::after",
    // The sweep forgets trees, then deletes objects.
    "sweep::forget::before",
    "sweep::forget::after",
    "sweep::delete::before",
    "sweep::delete::after",
    // A batch that ends at a mark.
    "mark::append::before",
    "mark::append::after",
    "mark::store::before",
    "mark::store::after",
];

struct Death {
    step: String,
    left: AtomicI64,
}

static DEATH: OnceLock<Option<Death>> = OnceLock::new();

fn is_armed(name: &str) -> bool {
    debug_assert!(STEPS.contains(&name), "{name} is no step");
    DEATH
        .get()
        .and_then(Option::as_ref)
        .is_some_and(|death| death.step == name)
}

/// The process ends here without a word to anybody else, if this is its step.
fn step(name: &str) {
    if is_armed(name)
        && let Some(Some(death)) = DEATH.get()
        && death.left.fetch_sub(1, SeqCst) == 1
    {
        say(&format!("died {name}"));
        std::process::abort();
    }
}

fn say(line: &str) {
    // Not through `println!`, which the test runner may keep to itself.
    let mut out = io::stdout().lock();
    _ = out.write_all(format!("{line}\n").as_bytes());
    _ = out.flush();
}

/// What the writers know, as text for the environment.
pub fn known(writers: &[Writer]) -> String {
    let one = |writer: &Writer| match writer.open {
        Some((_, id)) => format!("{}:{id}", writer.acknowledged),
        None => writer.acknowledged.to_string(),
    };
    writers.iter().map(one).collect::<Vec<_>>().join(",")
}

fn recall(text: &str) -> Vec<Writer> {
    let one = |text: &str| {
        let (acknowledged, open) = text
            .split_once(':')
            .map_or((text, None), |(count, id)| (count, Some(id)));
        let acknowledged = acknowledged.parse().unwrap();
        let open = open.map(|id| (acknowledged + 1, convert::parse_event_id(id).unwrap()));
        Writer { acknowledged, open }
    };
    text.split(',').map(one).collect()
}

/// Acknowledgements after which a step that was not passed is taken for one that is never passed.
const ENOUGH: u64 = 4_000;

/// Writes, tags, marks, checkpoints, prunes and sweeps until the process dies.
pub async fn live(folder: &Path) {
    say("");
    let variable = |name: &str| std::env::var(name).unwrap();
    let death = std::env::var(STEP).ok().map(|step| Death {
        step,
        left: AtomicI64::new(number(PASSING).unwrap() as i64),
    });
    assert!(DEATH.set(death).is_ok());
    let life = number(LIFE).unwrap();
    let known = recall(&variable(KNOWN));
    let rocks = RocksStore::open(&folder.join("store"), &confold_store_rocks::Options::default()).unwrap();
    let head = rocks.head();
    let disk = Arc::new(DyingDisk {
        inner: OsDisk::new(folder.join("log")),
        open: Arc::new(AtomicBool::new(false)),
    });
    let options = file::Options {
        must_have: head.as_ref().map(|head| head.applied),
        transport_id: head.as_ref().map(|head| head.transport_id),
        // New segments often.
        segment_bytes: 8 << 10,
        ..file::Options::default()
    };
    let log = FileLog::open_on(disk.clone(), options).unwrap();
    disk.open.store(true, SeqCst);
    let kinds = Arc::new(Mutex::new(BTreeMap::new()));
    let log = DyingLog {
        inner: log,
        kinds: kinds.clone(),
    };
    let store = Arc::new(DyingStore { inner: rocks, kinds });
    let options = Options {
        housekeeping: Housekeeping::ByHand,
        mark_every_ms: 1,
        prune_every_ms: 1,
        sync_every_ms: 1,
        thinning: Thinning {
            all: 40,
            marks: 400,
            one_in: 100,
        },
        sweep_step: 64,
        ..Options::default()
    };
    let handle = Replica::open(Arc::new(log), store, options).unwrap();
    handle.ready().await;
    let stores = Arc::new(Stores::new(service::Options::default()));
    stores.add(handle.clone(), "file").unwrap();
    let api: Arc<dyn Api> = Arc::new(Service::over(stores));
    for number in 0..WRITERS {
        say(&format!(
            "found {number} {}",
            writers::value_of(&*api, number).await.unwrap()
        ));
    }
    let acknowledged = Arc::new(AtomicU64::new(0));
    let seen = handle.view().position.0;
    for (number, writer) in known.into_iter().enumerate() {
        tokio::spawn(write(api.clone(), number, writer, seen, life, acknowledged.clone()));
    }
    tokio::spawn(tag(api.clone(), handle.clone(), life));
    tokio::spawn(watch(handle.views()));
    keep_house(handle, acknowledged).await;
    say("enough");
}

async fn write(
    api: Arc<dyn Api>,
    number: usize,
    mut writer: Writer,
    seen: u64,
    life: u64,
    acknowledged: Arc<AtomicU64>,
) {
    for turn in 0.. {
        let (count, id) = writer.next(|| writers::new_id(seen, number, life << 8, turn));
        say(&format!("begin {number} {count} {id}"));
        let decision = api.commit(writers::commit(number, count, id)).await.unwrap();
        assert_eq!(decision.outcome(), pb::decision::Outcome::Committed);
        step("answer::before");
        say(&format!("acked {number} {count} {}", decision.position.unwrap()));
        step("answer::after");
        writer = Writer {
            acknowledged: count,
            open: None,
        };
        acknowledged.fetch_add(1, SeqCst);
    }
}

/// A few tags a life, of revisions that are in the middle of a batch as often as not.
async fn tag(api: Arc<dyn Api>, handle: Handle, life: u64) {
    let mut views = handle.views();
    let mut next = 2;
    for number in 0.. {
        let revision = loop {
            let view = views.borrow_and_update().clone();
            if view.revision.0 >= next {
                break view.revision.0 - 1;
            }
            views.changed().await.unwrap();
        };
        next = revision + 30 * (number + 1);
        let name = format!("t{life}-{number}");
        say(&format!("tagging {name} {revision}"));
        let request = pb::TagRequest {
            name: name.clone(),
            at: format!("rev:{revision}"),
            ..Default::default()
        };
        // By then the floor may have passed it.
        if api
            .tag(request)
            .await
            .is_ok_and(|decision| decision.outcome() == pb::decision::Outcome::Committed)
        {
            say(&format!("tagged {name} {revision}"));
        }
    }
}

async fn watch(mut views: tokio::sync::watch::Receiver<Arc<View>>) {
    while views.changed().await.is_ok() {
        step("view::published");
    }
}

async fn keep_house(handle: Handle, acknowledged: Arc<AtomicU64>) {
    let mut views = handle.views();
    while acknowledged.load(SeqCst) < ENOUGH {
        let house = handle.clone();
        let swept = tokio::task::spawn_blocking(move || {
            house.keep_house();
            match house.sweep() {
                Ok(swept) => swept.report.deleted,
                Err(StoreError::Busy { .. }) => 0,
                Err(error) => panic!("{error}"),
            }
        });
        say(&format!("house {} {}", handle.view().floor, swept.await.unwrap()));
        let _ = tokio::time::timeout(Duration::from_millis(50), views.changed()).await;
    }
}

/// Which steps the events on their way are at, by position.
type Kinds = Arc<Mutex<BTreeMap<Position, &'static str>>>;

fn kind_of(record: &[u8]) -> Option<&'static str> {
    match Event::decode(record).ok()?.body {
        Body::Commit(_) => Some("commit"),
        Body::Tag { .. } => Some("tag"),
        Body::Prune { .. } => Some("prune"),
        Body::Checkpoint(_) => Some("checkpoint"),
        Body::Mark { .. } => Some("mark"),
        _ => None,
    }
}

struct DyingLog {
    inner: FileLog,
    kinds: Kinds,
}

impl Log for DyingLog {
    fn transport_id(&self) -> [u8; 16] {
        self.inner.transport_id()
    }

    fn range(&self) -> Range {
        self.inner.range()
    }

    fn append(&self, record: Bytes) -> Result<(), LogError> {
        let kind = kind_of(&record);
        if let Some(kind) = kind {
            step(&format!("{kind}::append::before"));
        }
        self.inner.append(record)?;
        if let Some(kind) = kind {
            step(&format!("{kind}::append::after"));
        }
        Ok(())
    }

    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(DyingReader {
            inner: self.inner.reader(from)?,
            kinds: self.kinds.clone(),
        }))
    }

    fn anchor(&self, tip: Tip) {
        self.inner.anchor(tip);
    }

    fn copied_to(&self) -> Position {
        self.inner.copied_to()
    }

    fn fence(&self) -> Result<Fence, LogError> {
        self.inner.fence()
    }

    fn health(&self) -> Result<(), LogError> {
        self.inner.health()
    }

    fn close(&self) {
        self.inner.close();
    }
}

struct DyingReader {
    inner: Box<dyn Reader>,
    kinds: Kinds,
}

impl Reader for DyingReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Record>, LogError> {
        let records = self.inner.read(max_records, max_bytes, wait)?;
        if !records.is_empty() {
            let mut kinds = self.kinds.lock();
            kinds.extend(
                records
                    .iter()
                    .filter_map(|record| Some((record.position, kind_of(&record.bytes)?))),
            );
            drop(kinds);
            step("fold::after_read");
        }
        Ok(records)
    }
}

struct DyingDisk {
    inner: OsDisk,
    /// The log is open: what is written from now on is a batch or a new segment.
    open: Arc<AtomicBool>,
}

impl Disk for DyingDisk {
    fn folder(&self) -> String {
        self.inner.folder()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        step("log::segment::before_create");
        let inner = self.inner.create(name)?;
        step("log::segment::after_create");
        Ok(Arc::new(DyingFile {
            inner,
            open: self.open.clone(),
            begun: AtomicBool::new(false),
        }))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(name, access)?;
        Ok(Arc::new(DyingFile {
            inner,
            open: self.open.clone(),
            begun: AtomicBool::new(true),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)?;
        step("log::segment::after_rename");
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.inner.sync_folder()?;
        if self.open.load(SeqCst) {
            step("log::segment::after_folder_sync");
        }
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, NotLocked> {
        self.inner.lock()
    }
}

struct DyingFile {
    inner: Arc<dyn DiskFile>,
    open: Arc<AtomicBool>,
    /// Its header is durable: what follows are batches.
    begun: AtomicBool,
}

impl DiskFile for DyingFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if !self.begun.load(SeqCst) {
            let written = self.inner.write_at(bytes, offset)?;
            step("log::segment::after_write");
            return Ok(written);
        }
        step("log::batch::before_write");
        if is_armed("log::batch::half_written") {
            let written = self.inner.write_at(&bytes[..bytes.len() / 2], offset)?;
            step("log::batch::half_written");
            return Ok(written);
        }
        let written = self.inner.write_at(bytes, offset)?;
        step("log::batch::after_write");
        Ok(written)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        step("log::open::before_cut");
        self.inner.truncate(len)?;
        step("log::open::after_cut");
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()?;
        match (self.open.load(SeqCst), self.begun.swap(true, SeqCst)) {
            (false, _) => step("log::open::after_sync"),
            (true, false) => step("log::segment::after_sync"),
            (true, true) => step("log::batch::after_sync"),
        }
        Ok(())
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.inner.forget_cached()
    }
}

struct DyingStore {
    inner: RocksStore,
    kinds: Kinds,
}

impl Objects for DyingStore {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        self.inner.object(hash)
    }
}

impl Store for DyingStore {
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let folded = {
            let mut kinds = self.kinds.lock();
            let later = kinds.split_off(&batch.head.applied.next());
            std::mem::replace(&mut *kinds, later)
        };
        let holds = |kind: &str| folded.values().any(|found| *found == kind);
        for kind in ["commit", "tag", "prune", "checkpoint", "mark"] {
            if holds(kind) {
                step(&format!("{kind}::store::before"));
            }
        }
        self.inner.commit(batch)?;
        for kind in ["commit", "tag", "prune", "checkpoint", "mark"] {
            if holds(kind) {
                step(&format!("{kind}::store::after"));
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        step("store::sync::before");
        self.inner.sync()?;
        step("store::sync::after");
        Ok(())
    }

    fn persist_tree(&self, tree: PersistedTree, objects: &[(Hash, Bytes)]) -> Result<(), StoreError> {
        step("sweep::persist::before");
        self.inner.persist_tree(tree, objects)?;
        step("sweep::persist::after");
        Ok(())
    }

    fn forget_persisted(&self, revisions: &[Revision]) -> Result<(), StoreError> {
        step("sweep::forget::before");
        self.inner.forget_persisted(revisions)?;
        step("sweep::forget::after");
        Ok(())
    }

    fn delete_objects(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        step("sweep::delete::before");
        self.inner.delete_objects(hashes)?;
        step("sweep::delete::after");
        Ok(())
    }

    fn head(&self) -> Option<Head> {
        self.inner.head()
    }

    fn load(&self, rows: &Rows) -> Result<(), StoreError> {
        self.inner.load(rows)
    }

    fn durable(&self) -> Option<Position> {
        self.inner.durable()
    }

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError> {
        self.inner.revision(revision)
    }

    fn revisions(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        self.inner.revisions(range, order, limit)
    }

    fn revision_at_position(&self, position: Position) -> Result<Option<RevisionRow>, StoreError> {
        self.inner.revision_at_position(position)
    }

    fn revision_at_time(&self, time: Time) -> Result<Option<RevisionRow>, StoreError> {
        self.inner.revision_at_time(time)
    }

    fn revisions_by_root(&self, prefix: &RootPrefix, limit: usize) -> Result<Vec<RevisionRow>, StoreError> {
        self.inner.revisions_by_root(prefix, limit)
    }

    fn touched(
        &self,
        path: &PathDigest,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Touched>, StoreError> {
        self.inner.touched(path, range, order, limit)
    }

    fn id(&self, id: &EventId, reach: u64) -> Result<Option<IdRow>, StoreError> {
        self.inner.id(id, reach)
    }

    fn ids(&self, from: Position, limit: usize) -> Result<Vec<IdRow>, StoreError> {
        self.inner.ids(from, limit)
    }

    fn all_touched(&self, from: (PathDigest, Revision), limit: usize) -> Result<Vec<Touched>, StoreError> {
        self.inner.all_touched(from, limit)
    }

    fn state_row(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.state_row(table, key)
    }

    fn state_rows(&self, table: u16, visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        self.inner.state_rows(table, visit)
    }

    fn persisted_at_or_below(&self, revision: Revision) -> Result<Option<PersistedTree>, StoreError> {
        self.inner.persisted_at_or_below(revision)
    }

    fn persisted(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<PersistedTree>, StoreError> {
        self.inner.persisted(range, order, limit)
    }

    fn gate(&self) -> &SweepGate {
        self.inner.gate()
    }

    fn object_sizes(&self, from: &Hash, limit: usize) -> Result<Vec<(Hash, u32)>, StoreError> {
        self.inner.object_sizes(from, limit)
    }

    fn engine(&self) -> Engine {
        self.inner.engine()
    }

    fn estimate(&self) -> Estimate {
        self.inner.estimate()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}
