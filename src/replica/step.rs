//! The fold with what surrounds it, and without I/O: records in, a batch for the store and its effects out.
//!
//! ```text
//! fold(record) … fold(record) ─▶ finish() ─▶ Folded { batch, effects }
//!      until Next::Ends, or as many as the caller likes          write the batch, then let the effects go: never the other way
//! ```
//! Any cut of a log into batches gives the same state; marks end a batch by themselves, so that all replicas have the
//! same well-known points. The drive loop and simulations use it unchanged.

use crate::touch;
use crate::view::View;
use bytes::Bytes;
use confold_log::Record;
use confold_model::code::Code;
use confold_model::digest::intent_mark;
use confold_model::event::{self, Body, Event, Malformed};
use confold_model::fold::{self, Applied, Outcome};
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::objects::{Objects, ObjectsError};
use confold_model::state::{CheckpointRow, IncarnationRow, State, TagRow, member};
use confold_model::window::Entry;
use confold_store::{Batch, Durability, Head, IdRow, RevisionRow, StateEdit, Store, StoreError, Touched};
use std::collections::BTreeMap;
use std::sync::Arc;

/// State tables of the replica's own in a store, above those of the fold. Never given out again.
mod own {
    /// Keys: see below.
    pub const FACTS: u16 = 0x8000;
    /// Marks that this replica passed: u64 position; chain and state hash.
    pub const MARKS: u16 = 0x8001;

    /// 16 bytes that name this data folder.
    pub const REPLICA: &[u8] = b"replica";
    /// The store's name, from genesis.
    pub const NAME: &[u8] = b"name";
}

/// The fold's own tables, as `State::load` wants them.
const STATE_TABLES: [u16; 9] = [
    0,
    member::SCHEMAS,
    member::LEVELS,
    member::TAGS,
    member::MARKS,
    member::CHECKPOINTS,
    member::INCARNATIONS,
    member::WINDOW,
    member::POLICY,
];

/// Own marks that are kept for comparing with what other replicas announce.
const MARKS_KEPT: usize = 256;

/// Folds records, and collects what a store and those who wait need to know of them.
pub struct Folder {
    state: State,
    replica: [u8; 16],
    name: Arc<str>,
    marks: BTreeMap<Position, Mark>,
    /// What views show of the state's tables, shared between views until an event changes it.
    shown: Shown,
    stale: Stale,
    last_author: Arc<str>,
    open: Open,
}

/// A position at which this replica computed the state hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    pub position: Position,
    pub chain: Hash,
    pub state: Hash,
}

/// Whether the batch may take another record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    More,
    /// A mark, or an event after which this build must stop: finish before anything else is folded.
    Ends,
}

/// Events folded together: write the batch, then release the effects.
pub struct Folded {
    pub batch: Batch,
    pub effects: Effects,
}

/// What becomes of a batch once it is written.
pub struct Effects {
    pub view: Arc<View>,
    /// One for each event that has an id, in order.
    pub settlements: Vec<Settlement>,
    /// The mark that the batch ends with.
    pub mark: Option<Mark>,
    /// Records of fence events, as they stand on the log.
    pub fences: Vec<Bytes>,
    /// Announcements of others that differ from what this replica computed at the same mark.
    pub disagreements: Vec<Disagreement>,
    /// A level that this build does not know became active: fold nothing more.
    pub halt: Option<u32>,
    pub floor_raised: bool,
    /// Events other than housekeeping were folded.
    pub worked: bool,
    /// How many events met which outcome, and which rejection code (0 for the others).
    pub outcomes: BTreeMap<(u8, u16), u64>,
    pub records: u64,
    pub bytes: u64,
}

/// What became of one event with an id.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub id: EventId,
    pub position: Position,
    pub time: Time,
    pub outcome: Outcome,
    /// The revision that it made.
    pub revision: Option<Revision>,
    /// The tree's root after it.
    pub root: Hash,
    /// The copy that this became of: another one of the same id may carry another intent.
    pub record: Bytes,
}

/// Another replica announced other values for a mark than this one computed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disagreement {
    pub ours: Mark,
    pub theirs: Mark,
    pub replica: [u8; 16],
    pub build: String,
}

/// Why a record could not be folded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FoldError {
    /// Nothing happened: the same record may be folded again.
    #[error("position {position} cannot be folded now: {error}")]
    Objects { position: Position, error: ObjectsError },
    /// This is not the log that was folded so far. The folder is spoilt: drop it.
    #[error("{0}")]
    Fenced(String),
}

/// The batch being collected.
#[derive(Default)]
struct Open {
    revisions: Vec<RevisionRow>,
    touched: Vec<Touched>,
    ids: Vec<IdRow>,
    own: Vec<StateEdit>,
    settlements: Vec<Settlement>,
    mark: Option<Mark>,
    fences: Vec<Bytes>,
    disagreements: Vec<Disagreement>,
    halt: Option<u32>,
    floor_raised: bool,
    worked: bool,
    outcomes: BTreeMap<(u8, u16), u64>,
    records: u64,
    bytes: u64,
}

#[derive(Clone, Default)]
struct Shown {
    tags: Arc<BTreeMap<String, TagRow>>,
    schemas: Arc<BTreeMap<Position, Bytes>>,
    checkpoints: Arc<Vec<CheckpointRow>>,
    incarnations: Arc<Vec<IncarnationRow>>,
    root_message: Arc<str>,
}

/// Which of them no longer show what the state says.
#[derive(Default)]
struct Stale {
    tags: bool,
    schemas: bool,
    checkpoints: bool,
    incarnations: bool,
}

impl Settlement {
    /// Whether what became of this copy is the answer to whoever handed over `record`, whose `digest::intent_mark` is
    /// `intent`: it was that very record, or another copy of the same intent under the same id.
    pub fn answers(&self, record: &[u8], intent: &[u8; 16]) -> bool {
        if self.record == record {
            return true;
        }
        // These say something about where or how this copy stands, and nothing about another one.
        let of_this_copy_alone = matches!(&self.outcome, Outcome::Rejected(rejection)
            if matches!(rejection.code, Code::Foreign | Code::Future | Code::Expired | Code::Sealed));
        // Read only where copies of one id differ, which is rare.
        let own_intent = || {
            let event = Event::decode(&self.record).ok()?;
            let (_, own) = event.intention?;
            Some(intent_mark(&own, &event.principal))
        };
        !of_this_copy_alone && own_intent() == Some(*intent)
    }
}

impl Folder {
    /// Before genesis. `replica` names the data folder that the batches go to: 16 random bytes.
    pub fn new(replica: [u8; 16]) -> Folder {
        let mut folder = Folder::of(State::new(), replica, "".into());
        folder.open.own.push(fact(own::REPLICA, &replica));
        folder
    }

    /// Where a store stands. An empty one begins anew under the name given; any other keeps its own.
    pub fn restore(store: &dyn Store, replica: [u8; 16]) -> Result<Folder, StoreError> {
        let Some(head) = store.head() else { return Ok(Folder::new(replica)) };
        let mut rows = Vec::new();
        for table in STATE_TABLES {
            store.state_rows(table, &mut |key, value| {
                rows.push((table, key.to_vec(), value.to_vec()));
                Ok(())
            })?;
        }
        let state = State::load(rows).map_err(|Malformed(what)| StoreError::damaged(format!("the fold's state: {what}")))?;
        agree("position", state.position(), Some(head.applied))?;
        agree("log digest", state.digest(), head.digest)?;
        agree("chain", state.chain(), head.chain)?;
        agree("root", state.root(), head.root)?;
        agree("revision", state.revision(), head.revision)?;
        agree("floor", state.floor(), head.floor)?;
        agree("transport", state.transport_id(), head.transport_id)?;
        let missing = |what: &str| StoreError::damaged(format!("{what} is missing"));
        let replica = store.state_row(own::FACTS, own::REPLICA)?;
        let replica = replica.and_then(|bytes| bytes.as_ref().try_into().ok()).ok_or_else(|| missing("the folder's own id"))?;
        let name = store.state_row(own::FACTS, own::NAME)?.ok_or_else(|| missing("the store's name"))?;
        let name = std::str::from_utf8(&name).map_err(|_| StoreError::damaged("the store's name is not UTF-8"))?;
        let mut folder = Folder::of(state, replica, name.into());
        store.state_rows(own::MARKS, &mut |key, value| {
            let mark = read_mark(key, value).ok_or_else(|| StoreError::damaged("a row of this replica's own marks"))?;
            folder.marks.insert(mark.position, mark);
            Ok(())
        })?;
        Ok(folder)
    }

    fn of(state: State, replica: [u8; 16], name: Arc<str>) -> Folder {
        Folder {
            state,
            replica,
            name,
            marks: BTreeMap::new(),
            shown: Shown::default(),
            stale: Stale { tags: true, schemas: true, checkpoints: true, incarnations: true },
            last_author: "".into(),
            open: Open::default(),
        }
    }

    /// Applies the next record of the log.
    pub fn fold(&mut self, record: &Record, objects: &dyn Objects) -> Result<Next, FoldError> {
        let expected = self.state.next_position();
        if record.position != expected {
            let found = record.position;
            return Err(FoldError::Fenced(format!("the log gave position {found} where {expected} comes next")));
        }
        let floor = self.state.floor();
        let applied = fold::apply(&mut self.state, record.time, &record.bytes, objects)
            .map_err(|error| FoldError::Objects { position: expected, error })?;
        if applied.digest != record.digest {
            let (log, ours) = (record.digest.short(), applied.digest.short());
            let detail = format!("position {expected}: the log's digest is {log}, ours for what was folded up to there is {ours}");
            return Err(FoldError::Fenced(detail));
        }
        self.open.records += 1;
        self.open.bytes += record.bytes.len() as u64;
        self.open.floor_raised |= self.state.floor() > floor;
        if applied.position == Position(0) {
            self.begin(&applied, record)?;
        }
        Ok(self.collect(applied, record))
    }

    /// Records collected and not yet finished.
    pub fn collected(&self) -> u64 {
        self.open.records
    }

    /// Closes the batch: `None` where nothing was folded since the last one. The next fold builds on it, so a batch that
    /// could not be written is the end of this folder.
    pub fn finish(&mut self) -> Option<Folded> {
        if self.open.records == 0 {
            return None;
        }
        let open = std::mem::take(&mut self.open);
        let mut objects = Vec::new();
        self.state.tree().unpersisted(&mut |hash, bytes| objects.push((hash, bytes)));
        let mut state: Vec<StateEdit> = self.state.take_edits().into_iter().map(edit).collect();
        state.extend(open.own);
        let batch = Batch {
            head: self.head(),
            objects,
            revisions: open.revisions,
            touched: open.touched,
            ids: open.ids,
            state,
            tree_persisted: true,
            mark: open.mark.is_some(),
            durability: Durability::Later,
        };
        let effects = Effects {
            view: Arc::new(self.view()),
            settlements: open.settlements,
            mark: open.mark,
            fences: open.fences,
            disagreements: open.disagreements,
            halt: open.halt,
            floor_raised: open.floor_raised,
            worked: open.worked,
            outcomes: open.outcomes,
            records: open.records,
            bytes: open.bytes,
        };
        Some(Folded { batch, effects })
    }

    /// What the state shows now. Between batches only: within one it would show what no store has.
    pub fn view(&mut self) -> View {
        self.refresh();
        let state = &self.state;
        View {
            store_name: self.name.clone(),
            position: state.position().unwrap_or_default(),
            time: state.time(),
            digest: state.digest(),
            chain: state.chain(),
            revision: state.revision(),
            root: state.root(),
            tree: state.tree().clone(),
            floor: state.floor(),
            level: state.level(),
            incarnation: state.incarnation(),
            log_id: state.log_id(),
            incarnations: self.shown.incarnations.clone(),
            sealed: state.is_sealed(),
            transport_id: state.transport_id(),
            schema: state.schema().cloned(),
            root_message: self.shown.root_message.clone(),
            schemas: self.shown.schemas.clone(),
            tags: self.shown.tags.clone(),
            policy: state.policy().cloned(),
            limits: *state.limits(),
            retention: *state.retention(),
            window: state.window().width(),
            trim_replicas: state.trim_replicas(),
            checkpoints: self.shown.checkpoints.clone(),
            last_mark: state.last_mark(),
            mark: self.marks.values().next_back().copied(),
        }
    }

    pub fn replica(&self) -> [u8; 16] {
        self.replica
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the window says of an id.
    pub fn entry(&self, id: &EventId) -> Option<Entry> {
        self.state.window().get(id).copied()
    }

    /// Roughly what the loaded tree takes; see `Tree::memory`.
    pub fn tree_memory(&self) -> usize {
        self.state.tree().memory()
    }

    /// Drops loaded parts of the tree that a store holds. Only when every batch so far is written.
    pub fn shed(&mut self, target: usize) {
        self.state.tree_mut().shed(target);
    }

    fn begin(&mut self, applied: &Applied, record: &Record) -> Result<(), FoldError> {
        if let Outcome::Rejected(rejection) = &applied.outcome {
            let detail = format!("the log does not begin a store: {} ({})", rejection.detail, rejection.code);
            return Err(FoldError::Fenced(detail));
        }
        if let Ok(Event { body: Body::Genesis(genesis), .. }) = Event::decode(&record.bytes) {
            self.name = genesis.store_name.into();
            self.open.own.push(fact(own::NAME, self.name.as_bytes()));
        }
        Ok(())
    }

    fn collect(&mut self, applied: Applied, record: &Record) -> Next {
        let accepted = matches!(applied.outcome, Outcome::Accepted);
        *self.open.outcomes.entry((applied.outcome.number(), applied.outcome.code())).or_default() += 1;
        tracing::debug!(
            position = applied.position.0,
            id = applied.id.map(tracing::field::display),
            body = applied.body,
            outcome = applied.outcome.number(),
            code = applied.outcome.code(),
            "folded"
        );
        if applied.made_revision {
            if *self.last_author != *applied.author {
                self.last_author = applied.author.as_str().into();
            }
            self.open.revisions.push(RevisionRow {
                revision: applied.revision,
                position: applied.position,
                time: applied.time,
                root: applied.root,
                id: applied.id,
                author: self.last_author.clone(),
                digest: applied.digest,
            });
            touch::rows(applied.revision, &applied.touched, &mut self.open.touched);
        }
        let made = applied.made_revision.then_some(applied.revision);
        if let (true, Some(id)) = (accepted, applied.id) {
            self.open.ids.push(IdRow { id, position: applied.position, revision: made.unwrap_or_default() });
        }
        match applied.body {
            "tag" | "untag" => self.stale.tags |= accepted,
            "schema" => self.stale.schemas |= accepted,
            "genesis" | "open" => self.stale.incarnations |= accepted,
            "checkpoint" if accepted => {
                self.stale.checkpoints = true;
                self.compare(record);
            }
            "fence" => self.open.fences.push(record.bytes.clone()),
            _ => {}
        }
        self.open.worked |= !matches!(applied.body, "mark" | "checkpoint" | "fence");
        self.open.halt = self.open.halt.or(applied.halt);
        if let Some(state) = applied.mark {
            self.pass_mark(Mark { position: applied.position, chain: applied.chain, state });
        }
        let ends = applied.mark.is_some() || applied.halt.is_some();
        if let Some(id) = applied.id {
            self.open.settlements.push(Settlement {
                id,
                position: applied.position,
                time: applied.time,
                outcome: applied.outcome,
                revision: made,
                root: applied.root,
                record: record.bytes.clone(),
            });
        }
        if ends { Next::Ends } else { Next::More }
    }

    fn pass_mark(&mut self, mark: Mark) {
        self.open.mark = Some(mark);
        self.marks.insert(mark.position, mark);
        let value = [mark.chain.0, mark.state.0].concat();
        self.open.own.push(StateEdit { table: own::MARKS, key: mark.position.0.to_be_bytes().into(), value: Some(value.into()) });
        if self.marks.len() > MARKS_KEPT
            && let Some((oldest, _)) = self.marks.pop_first()
        {
            self.open.own.push(StateEdit { table: own::MARKS, key: oldest.0.to_be_bytes().into(), value: None });
        }
    }

    fn compare(&mut self, record: &Record) {
        let Ok(Event { body: Body::Checkpoint(announced), .. }) = Event::decode(&record.bytes) else { return };
        // Builds of other levels may rightly differ.
        if announced.replica == self.replica || announced.level != event::LEVEL {
            return;
        }
        let Some(ours) = self.marks.get(&announced.position).copied() else { return };
        let theirs = Mark { position: announced.position, chain: announced.chain, state: announced.state };
        if ours != theirs {
            let (replica, build) = (announced.replica, announced.build.into_owned());
            self.open.disagreements.push(Disagreement { ours, theirs, replica, build });
        }
    }

    fn refresh(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        if stale.tags {
            self.shown.tags = Arc::new(self.state.tags().map(|(name, row)| (name.to_owned(), row)).collect());
        }
        if stale.schemas {
            let schemas = self.state.schemas();
            self.shown.schemas = Arc::new(schemas.map(|(at, set)| (at, Bytes::copy_from_slice(set))).collect());
            self.shown.root_message = self.state.root_message().into();
        }
        if stale.incarnations {
            self.shown.incarnations = Arc::new(self.state.incarnations().collect());
        }
        if stale.checkpoints {
            self.shown.checkpoints = Arc::new(self.state.checkpoints().collect());
        }
    }

    fn head(&self) -> Head {
        Head {
            applied: self.state.position().unwrap_or_default(),
            time: self.state.time(),
            digest: self.state.digest(),
            chain: self.state.chain(),
            root: self.state.root(),
            revision: self.state.revision(),
            floor: self.state.floor(),
            transport_id: self.state.transport_id(),
            incarnation: self.state.incarnation(),
        }
    }
}

fn fact(key: &[u8], value: &[u8]) -> StateEdit {
    StateEdit { table: own::FACTS, key: key.to_vec(), value: Some(Bytes::copy_from_slice(value)) }
}

fn edit(edit: confold_model::state::StateEdit) -> StateEdit {
    StateEdit { table: edit.table, key: edit.key, value: edit.value.map(Bytes::from) }
}

fn read_mark(key: &[u8], value: &[u8]) -> Option<Mark> {
    let position = Position(u64::from_be_bytes(key.try_into().ok()?));
    let (chain, state) = value.split_at_checked(32)?;
    Some(Mark { position, chain: Hash::from_slice(chain)?, state: Hash::from_slice(state)? })
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, state: T, head: T) -> Result<(), StoreError> {
    if state == head {
        return Ok(());
    }
    Err(StoreError::damaged(format!("the state's {what} is {state:?}, the head's {head:?}")))
}
