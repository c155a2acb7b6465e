//! The fold with what surrounds it, and without I/O: records in, a batch for the store and its effects out.
//!
//! ```text
//! fold(record) … fold(record) ─▶ show() ─▶ Effects         for those who wait, readers, housekeeping: as often as the caller likes
//!      until Next::Ends       ─▶ finish() ─▶ Folded { batch, effects }         the batch takes everything since the last finish
//! ```
//! Any cut of a log into batches gives the same state; marks end a batch by themselves, so that all replicas have the
//! same well-known points. The drive loop and simulations use it unchanged.

use crate::kept::{Hold, Keeping, KeptMark, scalars_at};
use crate::view::{Ground, View};
use crate::voices::{Agreement, Voices};
use crate::{fence, touch};
use bytes::Bytes;
use confold_log::{Record, Tip};
use confold_model::code::Code;
use confold_model::digest::intent_mark;
use confold_model::event::{self, Body, Checkpoint, Event, Malformed};
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
    /// u64 positions of the last two marks on which another replica agreed.
    pub const AGREED: &[u8] = b"agreed";
}

/// The fold's own tables, as `State::load` wants them.
pub(crate) const STATE_TABLES: [u16; 9] = [
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
    keeping: Keeping,
    voices: Voices,
    /// What views show of the state's tables, shared between views until an event changes it.
    shown: Shown,
    stale: Stale,
    last_author: Arc<str>,
    /// d before the last record folded.
    before: Hash,
    /// The last finished batch.
    finished: Ground,
    open: Open,
    news: News,
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

/// Events folded together: release the effects, and write the batch.
pub struct Folded {
    pub batch: Batch,
    /// How many events the batch has.
    pub records: u64,
    /// What was not shown before; its view is that of the whole batch.
    pub effects: Effects,
}

/// What folding brought about.
pub struct Effects {
    pub view: Arc<View>,
    /// One for each event that has an id, in order.
    pub settlements: Vec<Settlement>,
    /// The mark that the last event passed.
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
    /// How many other replicas that were heard before announced their values for this mark, and how many ours.
    pub against: usize,
    pub with: usize,
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
    mark: Option<Mark>,
    records: u64,
}

/// Effects of what was folded since they were last shown.
#[derive(Default)]
struct News {
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
    agreement: Arc<Agreement>,
    kept: Arc<[KeptMark]>,
    incarnations: Arc<Vec<IncarnationRow>>,
    root_message: Arc<str>,
}

/// Which of them no longer show what the state says.
#[derive(Default)]
struct Stale {
    tags: bool,
    schemas: bool,
    checkpoints: bool,
    /// Own marks, and those whose state is kept.
    kept: bool,
    incarnations: bool,
}

impl Settlement {
    /// Whether the window no longer knows the id: then the index of all accepted ids has the answer.
    pub(crate) fn asks_index(&self) -> bool {
        matches!(&self.outcome, Outcome::Rejected(rejection) if matches!(rejection.code, Code::Expired | Code::Foreign))
    }

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
        folder.before = head.before;
        folder.finished = Ground { position: head.applied, root: head.root };
        let agreed = store.state_row(own::FACTS, own::AGREED)?.unwrap_or_default();
        let (agreed, rest) = agreed.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(StoreError::damaged("the marks that were agreed on"));
        }
        let agreed: Vec<Position> = agreed.iter().map(|bytes| Position(u64::from_be_bytes(*bytes))).collect();
        folder.keeping = Keeping::restore(store, &agreed)?;
        let announced: Vec<CheckpointRow> = folder.state.checkpoints().collect();
        folder.voices = Voices::of(announced.iter());
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
            keeping: Keeping::new(),
            voices: Voices::default(),
            shown: Shown::default(),
            stale: Stale { tags: true, schemas: true, checkpoints: true, kept: true, incarnations: true },
            last_author: "".into(),
            before: Hash::ZERO,
            finished: Ground::default(),
            open: Open::default(),
            news: News::default(),
        }
    }

    /// Applies the next record of the log.
    pub fn fold(&mut self, record: &Record, objects: &dyn Objects) -> Result<Next, FoldError> {
        let expected = self.state.next_position();
        if record.position != expected {
            let found = record.position;
            let what = format!("it gave position {found} where {expected} comes next, after digest {}", self.state.digest());
            return Err(FoldError::Fenced(fence::gapped(&what)));
        }
        let floor = self.state.floor();
        let before = self.state.digest();
        let applied = fold::apply(&mut self.state, record.time, &record.bytes, objects)
            .map_err(|error| FoldError::Objects { position: expected, error })?;
        if applied.digest != record.digest {
            let (log, ours) = (record.digest, applied.digest);
            let what = format!("position {expected} has digest {log} on the log, {ours} after what was folded up to there");
            return Err(FoldError::Fenced(fence::truncated(&what)));
        }
        self.before = before;
        self.open.records += 1;
        self.news.records += 1;
        self.news.bytes += record.bytes.len() as u64;
        self.news.floor_raised |= self.state.floor() > floor;
        if applied.position == Position(0) {
            self.begin(&applied, record)?;
        }
        Ok(self.collect(applied, record))
    }

    /// Records collected and not yet finished.
    pub fn collected(&self) -> u64 {
        self.open.records
    }

    /// What folding brought about since this was last asked. The batch stays open; what it becomes stands in no store yet.
    pub fn show(&mut self) -> Effects {
        let News { settlements, mark, fences, disagreements, halt, floor_raised, worked, outcomes, records, bytes } =
            std::mem::take(&mut self.news);
        Effects {
            view: Arc::new(self.view()),
            settlements,
            mark,
            fences,
            disagreements,
            halt,
            floor_raised,
            worked,
            outcomes,
            records,
            bytes,
        }
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
        let mut state = open.own;
        let edits = self.state.take_edits();
        let now = self.state.position().unwrap_or_default();
        let (revision, root) = (self.state.revision(), self.state.root());
        let mark = open.mark.map(|mark| KeptMark { position: mark.position, revision, root, before: self.before });
        let alone = mark.is_some() && self.state.checkpoints().all(|row| row.checkpoint.replica == self.replica);
        self.keeping.pass(edits, now, mark, alone, &mut state);
        self.stale.kept |= mark.is_some();
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
        let effects = self.show();
        self.finished = Ground { position: now, root };
        Some(Folded { batch, records: open.records, effects })
    }

    /// What the state shows now.
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
            ground: self.finished,
            ends_batch: self.open.records == 0,
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
            agreement: self.shown.agreement.clone(),
            kept: self.shown.kept.clone(),
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

    /// Where the fold stands, as a log is told it.
    pub fn tip(&self) -> Tip {
        Tip { position: self.state.next_position(), digest: self.state.digest(), time: self.state.time() }
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
        *self.news.outcomes.entry((applied.outcome.number(), applied.outcome.code())).or_default() += 1;
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
            "fence" => self.news.fences.push(record.bytes.clone()),
            _ => {}
        }
        self.news.worked |= !matches!(applied.body, "mark" | "checkpoint" | "fence");
        self.news.halt = self.news.halt.or(applied.halt);
        if let Some(state) = applied.mark {
            self.pass_mark(Mark { position: applied.position, chain: applied.chain, state });
        }
        let ends = applied.mark.is_some() || applied.halt.is_some();
        if let Some(id) = applied.id {
            self.news.settlements.push(Settlement {
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
        self.news.mark = Some(mark);
        self.marks.insert(mark.position, mark);
        self.open.own.push(own_mark(&mark));
        if self.marks.len() > MARKS_KEPT {
            // What somebody announced last can be compared as long as it stands.
            let named: Vec<Position> = self.state.checkpoints().map(|row| row.checkpoint.position).collect();
            let oldest = self.marks.keys().copied().find(|position| !named.contains(position));
            if let Some(oldest) = oldest {
                self.marks.remove(&oldest);
                self.open.own.push(StateEdit { table: own::MARKS, key: oldest.0.to_be_bytes().into(), value: None });
            }
        }
    }

    /// To plant a fault: nothing else may change what was folded.
    #[cfg(test)]
    pub(crate) fn flip(&mut self, path: &confold_model::path::Path, config: &[u8], objects: &dyn Objects) {
        self.state.tree_mut().set_config(path, config, objects).expect("the leaf can be read");
    }

    /// What this replica computed at a mark.
    pub fn mark(&self, position: Position) -> Option<Mark> {
        self.marks.get(&position).copied()
    }

    /// What replicas announced last that differs from what this one computed, as `Effects::disagreements` told it.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        let announced: Vec<CheckpointRow> = self.state.checkpoints().collect();
        announced.iter().filter_map(|row| self.differs(&row.checkpoint)).collect()
    }

    /// For a while the state of this mark and of all later ones stays kept: of the one to fold a dispute again from.
    pub(crate) fn hold_below(&self, disputed: Position) -> Option<Hold> {
        self.keeping.hold_below(disputed)
    }

    /// Of the newest kept mark at or below a position.
    pub(crate) fn hold_at_or_below(&self, position: Position) -> Option<Hold> {
        self.keeping.hold(|mark| mark.position <= position)
    }

    /// This replica was found right at a mark, by another or by folding again.
    pub(crate) fn agree(&mut self, mark: Position) {
        if self.keeping.agree(mark) {
            let value = self.keeping.agreed().flat_map(|position| position.0.to_be_bytes()).collect::<Vec<u8>>();
            self.open.own.push(fact(own::AGREED, &value));
        }
    }

    fn compare(&mut self, record: &Record) {
        let Ok(Event { body: Body::Checkpoint(announced), .. }) = Event::decode(&record.bytes) else { return };
        self.voices.hear(&announced);
        let comparable = announced.replica != self.replica && announced.level == event::LEVEL;
        match self.differs(&announced) {
            Some(disagreement) => self.news.disagreements.push(disagreement),
            None if comparable && self.marks.contains_key(&announced.position) => self.agree(announced.position),
            None => {}
        }
    }

    fn differs(&self, announced: &Checkpoint<'_>) -> Option<Disagreement> {
        // Builds of other levels may rightly differ.
        if announced.replica == self.replica || announced.level != event::LEVEL {
            return None;
        }
        let ours = self.mark(announced.position)?;
        let theirs = Mark { position: announced.position, chain: announced.chain, state: announced.state };
        (ours != theirs).then(|| Disagreement {
            ours,
            theirs,
            replica: announced.replica,
            build: announced.build.clone().into_owned(),
            against: self.voices.count(&theirs, &self.replica),
            with: self.voices.count(&ours, &self.replica),
        })
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
        if stale.checkpoints || stale.kept {
            let agreement = Agreement::of(self.shown.checkpoints.iter(), &self.replica, &self.marks);
            self.shown.agreement = Arc::new(agreement);
        }
        if stale.kept {
            self.shown.kept = self.keeping.marks().collect();
        }
    }

    fn head(&self) -> Head {
        Head {
            applied: self.state.position().unwrap_or_default(),
            time: self.state.time(),
            before: self.before,
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

/// The state rows of a store that begins at a mark: those of the fold, and a new replica's own.
pub(crate) fn founding(
    replica: [u8; 16],
    name: &str,
    mark: Mark,
    kept: &KeptMark,
    rows: Vec<(u16, Vec<u8>, Vec<u8>)>,
) -> Vec<StateEdit> {
    let scalars = rows.iter().find(|(table, ..)| *table == 0).map(|(.., value)| scalars_at(kept, value));
    let mut edits = vec![fact(own::REPLICA, &replica), fact(own::NAME, name.as_bytes()), own_mark(&mark)];
    edits.extend(scalars);
    edits.extend(rows.into_iter().map(|(table, key, value)| StateEdit { table, key, value: Some(value.into()) }));
    edits
}

fn own_mark(mark: &Mark) -> StateEdit {
    let value = [mark.chain.0, mark.state.0].concat();
    StateEdit { table: own::MARKS, key: mark.position.0.to_be_bytes().into(), value: Some(value.into()) }
}

fn fact(key: &[u8], value: &[u8]) -> StateEdit {
    StateEdit { table: own::FACTS, key: key.to_vec(), value: Some(Bytes::copy_from_slice(value)) }
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
