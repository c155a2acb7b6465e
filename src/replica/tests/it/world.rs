//! What the tests share: a store of the example network, its events, and stores and logs that fail on command.

use bytes::Bytes;
use confold_log::memory::MemoryLog;
use confold_log::{Fence, Log, LogError, Range, Reader, Tip};
use confold_model::event::{Body, Commit, Event, FORMAT, Operation, OperationKind};
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_model::objects::{Objects, ObjectsError, ObjectsErrorCause};
use confold_model::path::{Path, Step};
use confold_model::tree::{Lookup, Tree};
use confold_replica::{Begin, Handle, Housekeeping, Options, Proposal, Replica, ReplicaState, Settled, begin};
use confold_store::memory::MemoryStore;
use confold_store::*;
use parking_lot::{Condvar, Mutex};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(20);

/// The descriptor set of schemas/examples/network.proto.
pub fn network() -> &'static [u8] {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    SET.get_or_init(|| {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/examples/network.proto");
        confold_wire::schema_source::descriptor_set_of(file.as_ref(), &[]).unwrap().descriptor_set
    })
}

pub fn device_path(id: &str) -> Path {
    Path { steps: vec![Step::keyed(3, id.as_bytes())] }
}

/// Canonical bytes of a Device.
pub fn device(id: &str, description: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, text) in [(1u8, id), (4, description)] {
        if !text.is_empty() {
            out.extend([number << 3 | 2, u8::try_from(text.len()).unwrap()]);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub fn operation(id: &str, kind: OperationKind<'static>) -> Operation<'static> {
    Operation { path: device_path(id), strict: false, base: None, kind }
}

pub fn put(id: &str, description: &str) -> Body<'static> {
    puts(&[(id, description)])
}

pub fn puts(devices: &[(&str, &str)]) -> Body<'static> {
    let put = |(id, description): &(&str, &str)| operation(id, OperationKind::Put { value: device(id, description).into() });
    Body::Commit(Commit { guards: vec![], operations: devices.iter().map(put).collect() })
}

pub fn add(id: &str, description: &str) -> Body<'static> {
    let add = OperationKind::Add { value: device(id, description).into() };
    Body::Commit(Commit { guards: vec![], operations: vec![operation(id, add)] })
}

pub fn remove(id: &str) -> Body<'static> {
    Body::Commit(Commit { guards: vec![], operations: vec![operation(id, OperationKind::Remove)] })
}

pub fn schema() -> Body<'static> {
    Body::Schema { descriptor_set: network().into(), root_message: "example.Network".into() }
}

pub fn tag(name: &'static str, revision: Revision) -> Body<'static> {
    Body::Tag { name: name.into(), revision }
}

/// A record with an id, as some other proposer might append it.
pub fn record(incarnation: Incarnation, id: Option<EventId>, body: Body<'_>) -> Bytes {
    let intention = id.map(|id| (id, Hash::of(&id.nonce)));
    let event = Event {
        format: FORMAT,
        incarnation,
        intention,
        author: "ada".into(),
        principal: "".into(),
        client_time_ms: 0,
        reason: "".into(),
        body,
    };
    event.encode().into()
}

pub fn nonce(number: u64) -> [u8; 16] {
    let mut nonce = [0; 16];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// One log, one store, one clock; replicas are opened and dropped on them.
pub struct World {
    pub log: MemoryLog,
    pub store: Arc<Faulty>,
    pub clock: Arc<AtomicI64>,
}

impl World {
    /// With genesis on the log and nothing else.
    pub fn begun() -> World {
        World::begun_with(&Begin::default())
    }

    pub fn begun_with(options: &Begin) -> World {
        let world = World::with_digests(options);
        // As a log does that stores no digests: whoever reads tells it one near by.
        world.log.forget_digests(64);
        world
    }

    pub fn with_digests(options: &Begin) -> World {
        let log = MemoryLog::new([7; 16]);
        assert!(begin(&log, "network", options).unwrap());
        World { log, store: Arc::default(), clock: Arc::default() }
    }

    pub fn options(&self) -> Options {
        let clock = self.clock.clone();
        Options {
            housekeeping: Housekeeping::ByHand,
            clock: Arc::new(move || Time(clock.load(SeqCst))),
            read_wait: Duration::from_millis(20),
            retry_pause: Duration::from_millis(1),
            close_log: false,
            ..Options::default()
        }
    }

    pub fn set_time(&self, now: i64) {
        self.clock.store(now, SeqCst);
        self.log.set_clock(Time(now));
    }

    pub fn open(&self) -> Handle {
        self.open_with(self.options())
    }

    pub fn open_with(&self, options: Options) -> Handle {
        Replica::open(Arc::new(self.log.clone()), self.store.clone(), options).unwrap()
    }

    /// Open, caught up, with a schema.
    pub async fn serving(&self) -> Handle {
        self.serving_with(self.options()).await
    }

    pub async fn serving_with(&self, options: Options) -> Handle {
        let handle = self.open_with(options);
        serving(&handle).await;
        if handle.view().schema.is_none() {
            commit(&handle, schema()).await;
        }
        handle
    }
}

pub async fn serving(handle: &Handle) {
    let standing = tokio::time::timeout(SOON, handle.ready()).await.expect("it settles");
    assert_eq!(standing.state, ReplicaState::Serving, "{}", standing.reason);
}

/// Proposes and waits for the outcome.
pub async fn commit(handle: &Handle, body: Body<'static>) -> Settled {
    handle.propose(Proposal::new(body), SOON).await.unwrap()
}

/// Waits until what was shown stands in the store. Blocks: for runtimes of several threads.
pub fn written(handle: &Handle) {
    tokio::task::block_in_place(|| handle.store().map(|_| ())).unwrap();
}

/// Waits until the replica has stopped for good, and says how.
pub async fn stopped(handle: &Handle) -> confold_replica::Standing {
    let mut standing = handle.standing();
    let last = tokio::time::timeout(SOON, standing.wait_for(|now| now.state.is_final())).await;
    last.expect("it stops").unwrap().clone()
}

/// Every device with its description.
pub fn devices(tree: &Tree, objects: &dyn Objects) -> Vec<(String, String)> {
    let path = Path { steps: vec![Step::single(3)] };
    let Some(container) = tree.container(&path, objects).unwrap() else { return Vec::new() };
    let all = container.range(std::ops::Bound::Unbounded, u64::MAX, objects).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    all.iter()
        .map(|(key, node)| {
            let config = node.config(objects).unwrap();
            (text(key), text(config.get(2 + key.len() + 2..).unwrap_or_default()))
        })
        .collect()
}

pub fn description(tree: &Tree, id: &str, objects: &dyn Objects) -> Option<String> {
    match tree.node(&device_path(id), objects).unwrap() {
        Lookup::Found(node) => {
            let config = node.config(objects).unwrap();
            Some(String::from_utf8(config.get(2 + id.len() + 2..).unwrap_or_default().to_vec()).unwrap())
        }
        _ => None,
    }
}

/// A memory store that fails on command.
#[derive(Default)]
pub struct Faulty {
    pub inner: MemoryStore,
    pub faults: Mutex<Faults>,
    gate: Condvar,
    pub failed_reads: AtomicU64,
}

#[derive(Default)]
pub struct Faults {
    pub commit: Option<StoreError>,
    /// What history rows say.
    pub rows: Option<StoreError>,
    /// So many reads of objects fail.
    pub reads: u64,
    pub panic_on_read: bool,
    pub panic_on_commit: bool,
    /// Shown instead of the row that is there.
    pub row: Option<RevisionRow>,
    pub hold_commits: bool,
    pub held: u64,
}

impl Faulty {
    /// Commits wait until they are let go.
    pub fn hold(&self, hold: bool) {
        self.faults.lock().hold_commits = hold;
        self.gate.notify_all();
    }

    /// Waits until a commit is held.
    pub fn wait_for_held(&self) {
        let mut faults = self.faults.lock();
        while faults.held == 0 {
            assert!(!self.gate.wait_for(&mut faults, SOON).timed_out(), "no commit came");
        }
    }
}

impl Objects for Faulty {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        let mut faults = self.faults.lock();
        assert!(!faults.panic_on_read, "told to panic");
        if faults.reads > 0 {
            faults.reads -= 1;
            self.failed_reads.fetch_add(1, SeqCst);
            let cause = ObjectsErrorCause::Unavailable("told to fail".to_owned());
            return Err(ObjectsError { hash: *hash, cause });
        }
        drop(faults);
        self.inner.object(hash)
    }
}

impl Store for Faulty {
    fn head(&self) -> Option<Head> {
        self.inner.head()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut faults = self.faults.lock();
        while faults.hold_commits {
            faults.held += 1;
            self.gate.notify_all();
            self.gate.wait(&mut faults);
            faults.held -= 1;
        }
        assert!(!faults.panic_on_commit, "told to panic");
        if let Some(error) = faults.commit.clone() {
            return Err(error);
        }
        drop(faults);
        self.inner.commit(batch)
    }

    fn load(&self, rows: &Rows) -> Result<(), StoreError> {
        self.inner.load(rows)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn durable(&self) -> Option<Position> {
        self.inner.durable()
    }

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError> {
        if let Some(row) = self.faults.lock().row.as_ref().filter(|row| row.revision == revision) {
            return Ok(Some(row.clone()));
        }
        self.inner.revision(revision)
    }

    fn revisions(&self, range: RangeInclusive<Revision>, order: Order, limit: usize) -> Result<Vec<RevisionRow>, StoreError> {
        if let Some(error) = self.faults.lock().rows.clone() {
            return Err(error);
        }
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

    fn touched(&self, path: &PathDigest, range: RangeInclusive<Revision>, order: Order, limit: usize) -> Result<Vec<Touched>, StoreError> {
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

    fn persisted(&self, range: RangeInclusive<Revision>, order: Order, limit: usize) -> Result<Vec<PersistedTree>, StoreError> {
        self.inner.persisted(range, order, limit)
    }

    fn persist_tree(&self, tree: PersistedTree, objects: &[(Hash, Bytes)]) -> Result<(), StoreError> {
        self.inner.persist_tree(tree, objects)
    }

    fn forget_persisted(&self, revisions: &[Revision]) -> Result<(), StoreError> {
        self.inner.forget_persisted(revisions)
    }

    fn gate(&self) -> &SweepGate {
        self.inner.gate()
    }

    fn object_sizes(&self, from: &Hash, limit: usize) -> Result<Vec<(Hash, u32)>, StoreError> {
        self.inner.object_sizes(from, limit)
    }

    fn delete_objects(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        self.inner.delete_objects(hashes)
    }

    fn estimate(&self) -> Estimate {
        self.inner.estimate()
    }

    fn engine(&self) -> Engine {
        self.inner.engine()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

/// A memory log whose health and reads fail on command.
pub struct Unwell {
    pub inner: MemoryLog,
    pub ill: Arc<Mutex<bool>>,
}

impl Unwell {
    fn check(&self) -> Result<(), LogError> {
        illness(&self.ill)
    }
}

fn illness(ill: &Mutex<bool>) -> Result<(), LogError> {
    if *ill.lock() { Err(LogError::DiskFull { what: "the test's disk".to_owned() }) } else { Ok(()) }
}

struct UnwellReader {
    inner: Box<dyn Reader>,
    ill: Arc<Mutex<bool>>,
}

impl Reader for UnwellReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<confold_log::Record>, LogError> {
        illness(&self.ill)?;
        self.inner.read(max_records, max_bytes, wait)
    }
}

impl Log for Unwell {
    fn transport_id(&self) -> [u8; 16] {
        self.inner.transport_id()
    }

    fn range(&self) -> Range {
        self.inner.range()
    }

    fn append(&self, record: Bytes) -> Result<(), LogError> {
        self.check()?;
        self.inner.append(record)
    }

    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(UnwellReader { inner: self.inner.reader(from)?, ill: self.ill.clone() }))
    }

    fn anchor(&self, tip: Tip) {
        self.inner.anchor(tip);
    }

    fn fence(&self) -> Result<Fence, LogError> {
        self.inner.fence()
    }

    fn health(&self) -> Result<(), LogError> {
        self.check()
    }

    fn close(&self) {
        self.inner.close();
    }
}
