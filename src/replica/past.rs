//! Trees of past revisions: as they were kept, or made again from the nearest kept one below and the log.
//!
//! A revision is made by exactly one event, and its history row says where that stands. So the events to apply are those
//! with a row and no others: what was rejected, unchanged or repeated then needs no second decision. The row also says
//! which root must come out; any other is an error, never an answer.

use crate::core::Core;
use crate::view::View;
use confold_log::{LogError, Reader, Record, Tip};
use confold_model::code::Code;
use confold_model::event::{Body, Event};
use confold_model::ids::{Hash, Position, Revision, Time};
use confold_model::merge;
use confold_model::node::EMPTY_NODE;
use confold_model::objects::ObjectsError;
use confold_model::schema::Schema;
use confold_model::tree::Tree;
use confold_store::{Order, PersistedTree, RevisionRow, Store, StoreError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// One revision of the past, readable as long as it is held: no sweep takes its objects meanwhile.
pub struct PastView {
    pub revision: Revision,
    /// Where the event that made it stands, and t there; genesis for revision 0.
    pub position: Position,
    pub time: Time,
    pub root: Hash,
    pub tree: Tree,
    /// The schema that was in force then; `None` before the first.
    pub schema: Option<Arc<Schema>>,
    /// `None` for revision 0.
    pub row: Option<RevisionRow>,
    _hold: Hold,
}

/// Why a revision cannot be shown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PastError {
    /// Read the nearest one that is kept.
    #[error("revision {revision} is gone: everything untagged up to {floor} was pruned; the nearest that is kept is {nearest}")]
    Pruned { revision: Revision, floor: Revision, nearest: Revision },
    /// Wait for it, or read latest.
    #[error("revision {revision} is not reached yet, the latest is {latest}")]
    Future { revision: Revision, latest: Revision },
    /// The store or the log is damaged, or this build decides otherwise than the one that folded it: do not trust this replica.
    #[error("the re-made tree of revision {revision} differs: {what}")]
    Differs { revision: Revision, what: String },
    /// Try again, or ask another replica.
    #[error("revision {revision} cannot be re-made now: {what}")]
    Unavailable { revision: Revision, what: String },
}

impl PastError {
    /// The code that clients know it by.
    pub fn code(&self) -> Code {
        match self {
            PastError::Pruned { .. } => Code::Pruned,
            PastError::Future { .. } => Code::Future,
            PastError::Differs { .. } => Code::Quarantined,
            PastError::Unavailable { .. } => Code::Unavailable,
        }
    }
}

/// Keeps the objects that a past tree may still load.
enum Hold {
    View(Arc<View>),
    Base(Pin),
    Nothing,
}

/// Persisted trees that must survive, and which may be built on while a sweep runs.
#[derive(Default)]
pub(crate) struct Pins {
    state: Mutex<PinState>,
}

#[derive(Default)]
struct PinState {
    roots: BTreeMap<Hash, usize>,
    sweep: Option<Kept>,
}

/// What a running sweep keeps of the persisted trees up to a revision; all above it stay.
#[derive(Clone)]
pub(crate) struct Kept {
    pub up_to: Revision,
    pub revisions: BTreeSet<Revision>,
}

pub(crate) struct Pin {
    pins: Arc<Pins>,
    root: Hash,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.state.lock();
        if let Some(count) = state.roots.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                state.roots.remove(&self.root);
            }
        }
    }
}

impl Pins {
    /// Chooses a persisted tree and pins it, as one step: a sweep either sees the pin or has already said what it keeps.
    pub fn choose(
        self: &Arc<Pins>,
        choose: impl FnOnce(Option<&Kept>) -> Result<Option<PersistedTree>, StoreError>,
    ) -> Result<Option<(PersistedTree, Pin)>, StoreError> {
        let mut state = self.state.lock();
        let Some(tree) = choose(state.sweep.as_ref())? else { return Ok(None) };
        *state.roots.entry(tree.root).or_default() += 1;
        Ok(Some((tree, Pin { pins: self.clone(), root: tree.root })))
    }

    pub fn begin_sweep(&self, kept: impl FnOnce() -> Result<Kept, StoreError>) -> Result<Vec<Hash>, StoreError> {
        let mut state = self.state.lock();
        state.sweep = Some(kept()?);
        Ok(state.roots.keys().copied().collect())
    }

    pub fn end_sweep(&self) {
        self.state.lock().sweep = None;
    }

    pub fn count(&self) -> usize {
        self.state.lock().roots.values().sum()
    }
}

/// Past trees made lately, bounded by number and by memory.
pub(crate) struct PastCache {
    trees: Mutex<BTreeMap<Revision, (u64, Arc<PastView>)>>,
    uses: Mutex<u64>,
    /// Compiled schemas of the past by the position of their event.
    schemas: Mutex<BTreeMap<Position, Arc<Schema>>>,
    count_limit: usize,
    bytes_limit: usize,
    /// One re-making at a time: the next one may find what it needs in the cache.
    remaking: Mutex<()>,
}

impl PastCache {
    pub fn new(count_limit: usize, bytes_limit: usize) -> PastCache {
        PastCache {
            trees: Mutex::default(),
            uses: Mutex::default(),
            schemas: Mutex::default(),
            count_limit,
            bytes_limit,
            remaking: Mutex::default(),
        }
    }

    fn get(&self, revision: Revision) -> Option<Arc<PastView>> {
        let now = self.tick();
        let mut trees = self.trees.lock();
        let (used, view) = trees.get_mut(&revision)?;
        *used = now;
        Some(view.clone())
    }

    fn nearest_below(&self, revision: Revision) -> Option<Arc<PastView>> {
        self.trees.lock().range(..revision).next_back().map(|(_, (_, view))| view.clone())
    }

    fn put(&self, view: Arc<PastView>) {
        let now = self.tick();
        let mut trees = self.trees.lock();
        trees.insert(view.revision, (now, view));
        loop {
            let bytes: usize = trees.values().map(|(_, view)| view.tree.memory()).sum();
            if trees.len() <= self.count_limit && (bytes <= self.bytes_limit || trees.len() <= 1) {
                return;
            }
            let oldest = trees.iter().min_by_key(|(_, (used, _))| *used).map(|(revision, _)| *revision);
            oldest.map(|revision| trees.remove(&revision));
        }
    }

    /// What the floor has released need not be shown any more.
    pub fn forget(&self, gone: impl Fn(Revision) -> bool) {
        self.trees.lock().retain(|revision, _| !gone(*revision));
    }

    fn tick(&self) -> u64 {
        let mut uses = self.uses.lock();
        *uses += 1;
        *uses
    }
}

impl Core {
    /// The tree of a revision. May read the log and the store: not for threads that must not wait.
    pub fn past(&self, revision: Revision) -> Result<Arc<PastView>, PastError> {
        let view = self.views.latest();
        check_kept(&view, revision)?;
        if revision == view.revision || revision == Revision(0) {
            return self.without_remaking(view, revision).map(Arc::new);
        }
        if let Some(found) = self.past.get(revision) {
            return Ok(found);
        }
        let _one_at_a_time = self.past.remaking.lock();
        if let Some(found) = self.past.get(revision) {
            return Ok(found);
        }
        let made = self.remake(&view, revision, self.past.nearest_below(revision));
        let made = Arc::new(made.inspect_err(|error| {
            if matches!(error, PastError::Differs { .. }) {
                self.metrics.tally.differs.fetch_add(1, Relaxed);
            }
        })?);
        self.past.put(made.clone());
        Ok(made)
    }

    /// The latest revision from its view, and revision 0 from nothing.
    fn without_remaking(&self, view: Arc<View>, revision: Revision) -> Result<PastView, PastError> {
        if revision == Revision(0) {
            return Ok(PastView {
                revision,
                position: Position(0),
                time: Time(0),
                root: EMPTY_NODE,
                tree: Tree::empty(),
                schema: None,
                row: None,
                _hold: Hold::Nothing,
            });
        }
        let row = self.row(revision)?;
        Ok(PastView {
            revision,
            position: row.position,
            time: row.time,
            root: view.root,
            tree: view.tree.clone(),
            schema: self.schema_at(&view, row.position, revision)?,
            row: Some(row),
            _hold: Hold::View(view),
        })
    }

    /// From the nearest persisted tree, or from `near` where that is closer.
    pub fn remake(&self, view: &View, revision: Revision, near: Option<Arc<PastView>>) -> Result<PastView, PastError> {
        let unavailable = |error: StoreError| PastError::Unavailable { revision, what: error.to_string() };
        let persisted = self
            .pins
            .choose(|kept| self.persisted_below(revision, kept))
            .map_err(unavailable)?;
        let at = |root: Hash| if root == EMPTY_NODE { Tree::empty() } else { Tree::at(root) };
        let (mut base, mut tree, hold) = match persisted {
            Some((found, pin)) => (found.revision, at(found.root), Hold::Base(pin)),
            None => (Revision(0), Tree::empty(), Hold::Nothing),
        };
        // The persisted tree that `near` was made from is pinned as long as `near` is held; this one's own pin comes on top.
        let mut near_hold = None;
        if let Some(near) = near.filter(|near| near.revision > base) {
            (base, tree) = (near.revision, near.tree.clone());
            near_hold = Some(near);
        }
        let row = self.row(revision)?;
        if base < revision {
            tree = self.fold_on(view, tree, base, revision)?;
            self.metrics.tally.remade.fetch_add(1, Relaxed);
        }
        if tree.root() != row.root {
            let what = format!("root {}, its row says {}", tree.root(), row.root);
            return Err(PastError::Differs { revision, what });
        }
        let hold = near_hold.map_or(hold, |near| near.hold_again(self));
        Ok(PastView {
            revision,
            position: row.position,
            time: row.time,
            root: row.root,
            tree,
            schema: self.schema_at(view, row.position, revision)?,
            row: Some(row),
            _hold: hold,
        })
    }

    /// The nearest persisted tree not above the revision, of those that a running sweep leaves.
    fn persisted_below(&self, revision: Revision, kept: Option<&Kept>) -> Result<Option<PersistedTree>, StoreError> {
        let found = self.store.persisted_at_or_below(revision)?;
        let Some(kept) = kept else { return Ok(found) };
        if found.is_none_or(|found| found.revision > kept.up_to || kept.revisions.contains(&found.revision)) {
            return Ok(found);
        }
        let Some(below) = kept.revisions.range(..=revision).next_back() else { return Ok(None) };
        Ok(self.store.persisted(*below..=*below, Order::Ascending, 1)?.pop())
    }

    /// Applies the events of the revisions after `base`, up to and including `revision`.
    fn fold_on(&self, view: &View, mut tree: Tree, base: Revision, revision: Revision) -> Result<Tree, PastError> {
        let unavailable = |what: String| PastError::Unavailable { revision, what };
        let mut next = Revision(base.0 + 1);
        let mut log: Option<LogWalk> = None;
        while next <= revision {
            let rows = self
                .store
                .revisions(next..=revision, Order::Ascending, 1024)
                .map_err(|error| unavailable(error.to_string()))?;
            if rows.first().is_none_or(|row| row.revision != next) {
                return Err(unavailable(format!("the history row of revision {next} is missing")));
            }
            for row in rows {
                if row.revision != next {
                    return Err(unavailable(format!("the history row of revision {next} is missing")));
                }
                let walk = match &mut log {
                    Some(walk) => walk,
                    None => log.insert(LogWalk::from(self, row.position).map_err(|error| unavailable(error.to_string()))?),
                };
                let record = walk.at(row.position).map_err(|error| unavailable(error.to_string()))?;
                tree = self.apply_again(view, &tree, &record, &row)?;
                next = Revision(next.0 + 1);
            }
        }
        Ok(tree)
    }

    fn apply_again(&self, view: &View, tree: &Tree, record: &Record, row: &RevisionRow) -> Result<Tree, PastError> {
        let revision = row.revision;
        let differs = |what: String| PastError::Differs { revision, what };
        if record.digest != row.digest {
            let what = format!("the record at {} has digest {}, the row {}", row.position, record.digest.short(), row.digest.short());
            return Err(differs(what));
        }
        let event = Event::decode(&record.bytes).map_err(|error| differs(format!("the record at {}: {error}", row.position)))?;
        let Body::Commit(commit) = &event.body else {
            return Err(differs(format!("the event at {} is a {}, no commit", row.position, event.body.name())));
        };
        let schema = self.schema_at(view, row.position, revision)?;
        let schema = schema.ok_or_else(|| differs(format!("no schema was in force at {}", row.position)))?;
        let decided = merge::commit(tree, &schema, &view.limits, commit, &*self.objects);
        match decided.map_err(|error: ObjectsError| PastError::Unavailable { revision, what: error.to_string() })? {
            Ok(tree) => Ok(tree),
            Err(rejection) => {
                Err(differs(format!("the commit at {} is rejected: {} {}", row.position, rejection.code, rejection.detail)))
            }
        }
    }

    /// The schema in force when the event at a position was folded.
    fn schema_at(&self, view: &View, position: Position, revision: Revision) -> Result<Option<Arc<Schema>>, PastError> {
        let Some((since, set)) = view.descriptor_set_at(position) else { return Ok(None) };
        if view.schemas.last_key_value().is_some_and(|(latest, _)| *latest == since) {
            return Ok(view.schema.clone());
        }
        let mut schemas = self.past.schemas.lock();
        if let Some(schema) = schemas.get(&since) {
            return Ok(Some(schema.clone()));
        }
        let schema = Schema::compile(set, &view.root_message).map_err(|problems| PastError::Differs {
            revision,
            what: problems.first().map_or_else(|| "its schema does not compile".to_owned(), ToString::to_string),
        })?;
        let schema = Arc::new(schema);
        schemas.insert(since, schema.clone());
        Ok(Some(schema))
    }

    fn row(&self, revision: Revision) -> Result<RevisionRow, PastError> {
        let missing = || PastError::Unavailable { revision, what: "its history row is missing".to_owned() };
        // Most are of long ago: those need not wait for what was shown just now.
        let is_there = || self.store.head().is_some_and(|head| head.revision >= revision);
        let row = if is_there() { Ok(&*self.store) } else { self.rows() }.and_then(|store| store.revision(revision));
        row.map_err(|error| PastError::Unavailable { revision, what: error.to_string() })?.ok_or_else(missing)
    }

    /// A reader from a position on. A log that stores no digests is told the nearest one below that this store knows.
    pub fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        // Without one the log computes on from further below.
        if let Ok(Some(tip)) = nearest_tip(&*self.store, from) {
            self.log.anchor(tip);
        }
        self.log.reader(from)
    }

    /// The record at a position; `None` where the log has none there (any more, or yet).
    pub fn record_at(&self, position: Position) -> Result<Option<Record>, LogError> {
        let range = self.log.range();
        if position < range.start || position >= range.end {
            return Ok(None);
        }
        let mut reader = self.reader(position)?;
        // It is there, but may have to come from a broker.
        Ok(reader.read(1, 1, Duration::from_secs(5))?.into_iter().next())
    }
}

impl PastView {
    /// A hold of what this one holds, for a tree that builds on it.
    fn hold_again(&self, core: &Core) -> Hold {
        match &self._hold {
            Hold::View(view) => Hold::View(view.clone()),
            Hold::Base(pin) => {
                let mut state = core.pins.state.lock();
                *state.roots.entry(pin.root).or_default() += 1;
                Hold::Base(Pin { pins: core.pins.clone(), root: pin.root })
            }
            Hold::Nothing => Hold::Nothing,
        }
    }
}

fn check_kept(view: &View, revision: Revision) -> Result<(), PastError> {
    if revision > view.revision {
        return Err(PastError::Future { revision, latest: view.revision });
    }
    if !view.is_kept(revision) {
        return Err(PastError::Pruned { revision, floor: view.floor, nearest: view.nearest_kept(revision) });
    }
    Ok(())
}

/// The nearest digest at or below a position that a store knows.
fn nearest_tip(store: &dyn Store, from: Position) -> Result<Option<Tip>, StoreError> {
    let Some(head) = store.head() else { return Ok(None) };
    if from > head.applied {
        return Ok(Some(Tip { position: head.applied.next(), digest: head.digest, time: head.time }));
    }
    if from == head.applied {
        return Ok(Some(Tip { position: from, digest: head.before, time: head.time }));
    }
    let Some(below) = from.0.checked_sub(1) else { return Ok(None) };
    let row = store.revision_at_position(Position(below))?;
    Ok(row.map(|row| Tip { position: row.position.next(), digest: row.digest, time: row.time }))
}

/// Reads the log forwards, stopping at some positions.
struct LogWalk {
    reader: Box<dyn Reader>,
    ahead: std::vec::IntoIter<Record>,
}

impl LogWalk {
    fn from(core: &Core, position: Position) -> Result<LogWalk, LogError> {
        Ok(LogWalk { reader: core.reader(position)?, ahead: Vec::new().into_iter() })
    }

    /// The record at a position not before the last one asked for.
    fn at(&mut self, position: Position) -> Result<Record, LogError> {
        loop {
            if let Some(record) = self.ahead.by_ref().find(|record| record.position >= position) {
                return Ok(record);
            }
            // What has a history row is on the log; a wait that ends empty means that the log lost it.
            let records = self.reader.read(1024, 4 << 20, Duration::from_secs(5))?;
            let Some(last) = records.last() else {
                return Err(LogError::BeyondEnd { asked: position, end: position });
            };
            debug_assert!(last.position >= records[0].position);
            self.ahead = records.into_iter();
        }
    }
}
