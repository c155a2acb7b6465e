//! Everything the fold reads, and its hash.

use crate::digest::{self, HistoryRange};
use crate::event::{Checkpoint, Limits, Malformed, RetentionPolicy};
use crate::ids::{Hash, Incarnation, Position, Revision, Time};
use crate::map::Map;
use crate::node::MAX_KEY;
use crate::policy::{Policy, Rulebook};
use crate::proto::{self, Fields};
use crate::schema::Schema;
use crate::tree::Tree;
use crate::window::Window;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Numbers of the members of the state hash; never given out again.
pub mod member {
    pub const POSITION: u16 = 1;
    pub const DIGEST: u16 = 2;
    pub const CHAIN: u16 = 3;
    pub const ROOT: u16 = 4;
    pub const ROOT_MESSAGE: u16 = 5;
    pub const LIMITS: u16 = 6;
    pub const WINDOW_WIDTH: u16 = 7;
    pub const TRIM_REPLICAS: u16 = 8;
    pub const TIME: u16 = 9;
    pub const REVISION: u16 = 10;
    pub const FLOOR: u16 = 11;
    pub const RETENTION: u16 = 12;
    pub const LAST_MARK: u16 = 13;
    pub const TRANSPORT: u16 = 14;
    pub const SEALED: u16 = 15;
    pub const HISTORY: u16 = 16;
    pub const SCHEMAS: u16 = 32;
    pub const LEVELS: u16 = 33;
    pub const TAGS: u16 = 34;
    pub const MARKS: u16 = 35;
    pub const CHECKPOINTS: u16 = 36;
    pub const INCARNATIONS: u16 = 37;
    pub const WINDOW: u16 = 38;
    /// Left out while no policy was ever set.
    pub const POLICY: u16 = 39;
}

/// Where the scalar members stand among a store's state rows.
const SCALARS: u16 = 0;

/// One change of a state row, for the store: `value` `None` removes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateEdit {
    pub table: u16,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    /// What stood there; not told of the scalars and the window.
    pub before: Option<Vec<u8>>,
}

/// Rows by key, with the Merkle map of their hashes kept beside them.
#[derive(Clone)]
struct Table {
    number: u16,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    map: Map<Hash>,
}

impl Table {
    fn new(number: u16) -> Table {
        Table { number, rows: BTreeMap::new(), map: Map::empty() }
    }

    /// Gives what stood there.
    fn put(&mut self, key: &[u8], row: Vec<u8>) -> Option<Vec<u8>> {
        self.map.insert(key, digest::state_row(&row));
        self.rows.insert(key.to_vec(), row)
    }

    fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.map.remove(key);
        self.rows.remove(key)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagRow {
    pub revision: Revision,
    pub position: Position,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkRow {
    pub position: Position,
    pub time: Time,
    pub revision: Revision,
}

/// One life of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IncarnationRow {
    /// Position of genesis or of the `open` that began it.
    pub begin: Position,
    pub incarnation: Incarnation,
    /// First position that no longer belongs to it: that of the next `open`. None for the present one.
    pub end: Option<Position>,
}

/// The access policy in force.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    /// Of the event that brought it.
    pub position: Position,
    pub policy: Policy,
    /// What the policy decides.
    pub rules: Rulebook,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointRow {
    pub checkpoint: Checkpoint<'static>,
    pub position: Position,
    pub time: Time,
}

/// The fold's whole state after the events up to `position`. Cloning shares the tree.
#[derive(Clone)]
pub struct State {
    /// Of the last event folded; none before genesis.
    pub(crate) position: Option<Position>,
    pub(crate) digest: Hash,
    pub(crate) chain: Hash,
    pub(crate) tree: Tree,
    pub(crate) root: Hash,
    pub(crate) root_message: String,
    pub(crate) schema: Option<Arc<Schema>>,
    pub(crate) limits: Limits,
    pub(crate) trim_replicas: u32,
    pub(crate) time: Time,
    pub(crate) revision: Revision,
    pub(crate) floor: Revision,
    pub(crate) retention: RetentionPolicy,
    pub(crate) last_mark: Position,
    pub(crate) transport_id: [u8; 16],
    pub(crate) sealed: bool,
    pub(crate) history: HistoryRange,
    pub(crate) incarnation: Incarnation,
    pub(crate) level: u32,
    pub(crate) window: Window,
    schemas: Table,
    levels: Table,
    tags: Table,
    marks: Table,
    checkpoints: Table,
    incarnations: Table,
    /// One row at most.
    policies: Table,
    /// Follows from that row.
    policy: Option<Arc<PolicyRow>>,
    /// How many tags name a revision; derived from the tags.
    tagged: BTreeMap<Revision, u32>,
    edits: Vec<StateEdit>,
    /// First position whose window entries no store row holds yet, and the rows that do: key, last position.
    window_unsaved: Position,
    window_rows: VecDeque<(Position, Position)>,
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// Before the first event.
    pub fn new() -> State {
        let tree = Tree::empty();
        State {
            position: None,
            digest: Hash::ZERO,
            chain: Hash::ZERO,
            root: tree.root(),
            tree,
            root_message: String::new(),
            schema: None,
            limits: Limits::default(),
            trim_replicas: 0,
            time: Time(0),
            revision: Revision(0),
            floor: Revision(0),
            retention: RetentionPolicy::default(),
            last_mark: Position(0),
            transport_id: [0; 16],
            sealed: false,
            history: HistoryRange::default(),
            incarnation: Incarnation::default(),
            level: 0,
            window: Window::default(),
            schemas: Table::new(member::SCHEMAS),
            levels: Table::new(member::LEVELS),
            tags: Table::new(member::TAGS),
            marks: Table::new(member::MARKS),
            checkpoints: Table::new(member::CHECKPOINTS),
            incarnations: Table::new(member::INCARNATIONS),
            policies: Table::new(member::POLICY),
            policy: None,
            tagged: BTreeMap::new(),
            edits: Vec::new(),
            window_unsaved: Position(0),
            window_rows: VecDeque::new(),
        }
    }

    /// Of the last event folded; none before genesis.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Where the next event stands.
    pub fn next_position(&self) -> Position {
        self.position.map_or(Position(0), Position::next)
    }

    /// d(position): the log digest of the last event folded.
    pub fn digest(&self) -> Hash {
        self.digest
    }

    pub fn chain(&self) -> Hash {
        self.chain
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// For bounding memory only (`Tree::shed`): content must not change.
    pub fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    pub fn root(&self) -> Hash {
        self.root
    }

    pub fn schema(&self) -> Option<&Arc<Schema>> {
        self.schema.as_ref()
    }

    /// Full name of the root message; empty before the first schema.
    pub fn root_message(&self) -> &str {
        &self.root_message
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn window(&self) -> &Window {
        &self.window
    }

    pub fn trim_replicas(&self) -> u32 {
        self.trim_replicas
    }

    /// t of the last event: never smaller than before, save after a `clock` event.
    pub fn time(&self) -> Time {
        self.time
    }

    /// The latest revision; 0 is the empty tree.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Everything untagged up to here is gone.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    pub fn retention(&self) -> &RetentionPolicy {
        &self.retention
    }

    pub fn last_mark(&self) -> Position {
        self.last_mark
    }

    pub fn transport_id(&self) -> [u8; 16] {
        self.transport_id
    }

    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Every life of the log, the present one last.
    pub fn incarnations(&self) -> impl DoubleEndedIterator<Item = IncarnationRow> + '_ {
        self.incarnations.rows.iter().filter_map(|(key, row)| read_incarnation(key, row).ok())
    }

    /// The log id: the first incarnation.
    pub fn log_id(&self) -> Incarnation {
        self.incarnations().next().map(|row| row.incarnation).unwrap_or_default()
    }

    /// The log was moved away, and was not opened again since.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub fn level(&self) -> u32 {
        self.level
    }

    pub fn history(&self) -> &HistoryRange {
        &self.history
    }

    /// `None` while no policy was ever set; everything is allowed then, as under one without rules.
    pub fn policy(&self) -> Option<&Arc<PolicyRow>> {
        self.policy.as_ref()
    }

    /// Whether a revision can still be named: above the floor, or tagged. Latest always is.
    pub fn is_kept(&self, revision: Revision) -> bool {
        revision <= self.revision
            && (revision > self.floor || revision == self.revision || self.tagged.contains_key(&revision))
    }

    /// Tagged revisions, ascending, without repeats.
    pub fn tagged(&self) -> impl Iterator<Item = Revision> + '_ {
        self.tagged.keys().copied()
    }

    /// Tags by name.
    pub fn tags(&self) -> impl Iterator<Item = (&str, TagRow)> + '_ {
        let named = self.tags.rows.iter();
        named.filter_map(|(name, row)| Some((std::str::from_utf8(name).ok()?, read_tag(row).ok()?)))
    }

    pub fn tag(&self, name: &str) -> Option<TagRow> {
        read_tag(self.tags.rows.get(name.as_bytes())?).ok()
    }

    /// Marks above the floor, ascending.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = MarkRow> + '_ {
        self.marks.rows.iter().filter_map(|(key, row)| read_mark(key, row).ok())
    }

    pub fn checkpoints(&self) -> impl Iterator<Item = CheckpointRow> + '_ {
        self.checkpoints.rows.values().filter_map(|row| read_checkpoint_row(row).ok())
    }

    pub fn checkpoint(&self, replica: &[u8; 16]) -> Option<CheckpointRow> {
        read_checkpoint_row(self.checkpoints.rows.get(&replica[..])?).ok()
    }

    /// Schemas by the position of their event, ascending: (position, descriptor set).
    pub fn schemas(&self) -> impl DoubleEndedIterator<Item = (Position, &[u8])> + '_ {
        self.schemas.rows.iter().filter_map(|(key, row)| {
            let descriptor_set = Fields::new(row).next()?.ok()?.1.bytes().ok()?;
            Some((read_position(key)?, descriptor_set))
        })
    }

    /// The descriptor set in force at a position.
    pub fn descriptor_set_at(&self, position: Position) -> Option<(Position, &[u8])> {
        self.schemas().rev().find(|(since, _)| *since <= position)
    }

    /// state(n): the hash over every member, meant for marks (it costs a pass over the window's newest segments).
    pub fn hash(&mut self) -> Hash {
        digest::state(&self.members())
    }

    /// Each member's number and hash, ascending: where two replicas differ, this says in what.
    pub fn members(&mut self) -> Vec<(u16, Hash)> {
        let now = self.position.unwrap_or_default();
        let scalars = self.scalars().into_iter().map(|(number, bytes)| (number, digest::state_row(&bytes)));
        let mut members: Vec<(u16, Hash)> = scalars.collect();
        members.extend(self.tables().map(|table| (table.number, table.map.hash())));
        members.push((member::WINDOW, self.window.hash(now)));
        if !self.policies.rows.is_empty() {
            members.push((member::POLICY, self.policies.map.hash()));
        }
        members
    }

    fn tables(&self) -> [&Table; 6] {
        [&self.schemas, &self.levels, &self.tags, &self.marks, &self.checkpoints, &self.incarnations]
    }

    /// Each scalar member's canonical message, ascending by number.
    fn scalars(&self) -> Vec<(u16, Vec<u8>)> {
        let number = |value: u64| written(|out| proto::put_uint(out, 1, value));
        let bytes = |value: &[u8]| written(|out| proto::put_bytes(out, 2, value));
        vec![
            (member::POSITION, number(self.position.unwrap_or_default().0)),
            (member::DIGEST, bytes(&self.digest.0)),
            (member::CHAIN, bytes(&self.chain.0)),
            (member::ROOT, bytes(&self.root.0)),
            (member::ROOT_MESSAGE, written(|out| proto::put_bytes(out, 4, self.root_message.as_bytes()))),
            (member::LIMITS, written(|out| proto::put_message(out, 5, |out| self.limits.write(out)))),
            (member::WINDOW_WIDTH, number(self.window.width())),
            (member::TRIM_REPLICAS, number(self.trim_replicas.into())),
            (member::TIME, written(|out| proto::put_uint(out, 3, self.time.0 as u64))),
            (member::REVISION, number(self.revision.0)),
            (member::FLOOR, number(self.floor.0)),
            (member::RETENTION, written(|out| proto::put_message(out, 6, |out| self.retention.write(out)))),
            (member::LAST_MARK, number(self.last_mark.0)),
            (member::TRANSPORT, bytes(&self.transport_id)),
            (member::SEALED, number(self.sealed.into())),
            (member::HISTORY, written(|out| proto::put_message(out, 7, |out| write_history(out, &self.history)))),
        ]
    }

    /// The rows that changed since the last call, for the store's batch: after it and the objects are written, the
    /// state can be loaded again from the store alone.
    pub fn take_edits(&mut self) -> Vec<StateEdit> {
        let mut edits = std::mem::take(&mut self.edits);
        let mut scalars = Vec::new();
        for (number, bytes) in self.scalars() {
            scalars.extend(number.to_be_bytes());
            scalars.extend((bytes.len() as u32).to_be_bytes());
            scalars.extend(bytes);
        }
        edits.push(StateEdit { table: SCALARS, key: Vec::new(), value: Some(scalars), before: None });
        let now = self.position.unwrap_or_default();
        let packed = self.window.pack_from(self.window_unsaved);
        if !packed.is_empty() {
            let key = self.window_unsaved;
            self.window_rows.push_back((key, now));
            edits.push(window_row(key, Some(packed)));
        }
        self.window_unsaved = now.next();
        while let Some((key, last)) = self.window_rows.front().copied()
            && now.0.checked_sub(self.window.width()).is_some_and(|edge| last.0 <= edge)
        {
            self.window_rows.pop_front();
            edits.push(window_row(key, None));
        }
        edits
    }

    /// The state that `take_edits` described, all rows of all tables given in any order.
    pub fn load(rows: impl IntoIterator<Item = (u16, Vec<u8>, Vec<u8>)>) -> Result<State, Malformed> {
        let mut state = State::new();
        let mut window_rows = BTreeMap::new();
        let mut scalars = None;
        for (number, key, value) in rows {
            match number {
                SCALARS => scalars = Some(value),
                member::WINDOW => {
                    let key = read_position(&key).ok_or_else(|| Malformed("a window row's key".into()))?;
                    window_rows.insert(key, value);
                }
                _ => {
                    let table = state.table_mut(number)?;
                    if !(1..=MAX_KEY).contains(&key.len()) {
                        return Err(Malformed(format!("a state row of table {number} with a key of {} bytes", key.len())));
                    }
                    table.put(&key, value);
                }
            }
        }
        let scalars = scalars.ok_or_else(|| Malformed("state rows without scalars".into()))?;
        state.load_scalars(&scalars)?;
        for (key, packed) in window_rows {
            state.window.unpack(&packed)?;
            let last = packed.last_chunk::<{ crate::window::ENTRY_BYTES }>().map(|entry| read_position(&entry[..8]));
            state.window_rows.push_back((key, last.flatten().unwrap_or(key)));
        }
        state.window_unsaved = state.next_position();
        state.derive()?;
        Ok(state)
    }

    fn load_scalars(&mut self, mut rest: &[u8]) -> Result<(), Malformed> {
        while let Some((head, tail)) = rest.split_first_chunk::<6>() {
            let number = u16::from_be_bytes([head[0], head[1]]);
            let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
            let (bytes, tail) =
                tail.split_at_checked(length).ok_or_else(|| Malformed("the scalars are cut short".into()))?;
            self.load_scalar(number, bytes)?;
            rest = tail;
        }
        Ok(())
    }

    fn load_scalar(&mut self, number: u16, bytes: &[u8]) -> Result<(), Malformed> {
        let value = Fields::new(bytes).next().transpose()?.map(|(_, value)| value);
        let uint = |value: Option<proto::Value<'_>>| value.map_or(Ok(0), |value| value.uint());
        let hash = |value: Option<proto::Value<'_>>| value.map_or(Ok(Hash::ZERO), |v| v.array("hash").map(Hash));
        match number {
            // The last number there is has no next one, and no log comes that far.
            member::POSITION => match uint(value)? {
                u64::MAX => return Err(Malformed(format!("a state at position {}", u64::MAX))),
                position => self.position = Some(Position(position)),
            },
            member::DIGEST => self.digest = hash(value)?,
            member::CHAIN => self.chain = hash(value)?,
            member::ROOT => {
                self.root = hash(value)?;
                self.tree = Tree::at(self.root);
            }
            member::ROOT_MESSAGE => self.root_message = value.map_or(Ok(""), |value| value.text())?.to_owned(),
            member::LIMITS => self.limits = Limits::read(value.map_or(Ok(&[][..]), |value| value.bytes())?)?,
            member::WINDOW_WIDTH => self.window = Window::new(uint(value)?),
            member::TRIM_REPLICAS => self.trim_replicas = uint(value)? as u32,
            member::TIME => self.time = Time(uint(value)? as i64),
            member::REVISION => self.revision = Revision(uint(value)?),
            member::FLOOR => self.floor = Revision(uint(value)?),
            member::RETENTION => {
                self.retention = RetentionPolicy::read(value.map_or(Ok(&[][..]), |value| value.bytes())?)?
            }
            member::LAST_MARK => self.last_mark = Position(uint(value)?),
            member::TRANSPORT => {
                self.transport_id = value.map_or(Ok([0; 16]), |value| value.array("transport id"))?;
            }
            member::SEALED => self.sealed = uint(value)? != 0,
            member::HISTORY => self.history = read_history(value.map_or(Ok(&[][..]), |value| value.bytes())?)?,
            other => return Err(Malformed(format!("no scalar member has number {other}"))),
        }
        Ok(())
    }

    /// What follows from the rows: the schema in force, level, incarnation, policy, tagged revisions.
    fn derive(&mut self) -> Result<(), Malformed> {
        let latest = self.schemas().next_back().map(|(_, set)| Schema::compile(set, &self.root_message));
        self.schema = match latest {
            None => None,
            Some(Ok(schema)) => Some(Arc::new(schema)),
            Some(Err(problems)) => {
                let first = problems.first().map(|problem| problem.to_string()).unwrap_or_default();
                return Err(Malformed(format!("the stored schema does not compile: {first}")));
            }
        };
        if let Some(row) = self.levels.rows.values().next_back() {
            self.level = Fields::new(row).next().transpose()?.map_or(Ok(0), |(_, value)| value.uint32())?;
        }
        if let Some((key, row)) = self.incarnations.rows.iter().next_back() {
            self.incarnation = read_incarnation(key, row)?.incarnation;
        }
        if let Some((key, row)) = self.policies.rows.iter().next_back() {
            self.policy = Some(Arc::new(read_policy(key, row)?));
        }
        let tagged: Vec<Revision> = self.tags().map(|(_, row)| row.revision).collect();
        for revision in tagged {
            *self.tagged.entry(revision).or_default() += 1;
        }
        Ok(())
    }

    fn table_mut(&mut self, number: u16) -> Result<&mut Table, Malformed> {
        Ok(match number {
            member::SCHEMAS => &mut self.schemas,
            member::LEVELS => &mut self.levels,
            member::TAGS => &mut self.tags,
            member::MARKS => &mut self.marks,
            member::CHECKPOINTS => &mut self.checkpoints,
            member::INCARNATIONS => &mut self.incarnations,
            member::POLICY => &mut self.policies,
            other => return Err(Malformed(format!("no state table has number {other}"))),
        })
    }

    fn put_row(&mut self, table: u16, key: &[u8], row: Vec<u8>) {
        let before = self.table_mut(table).expect("a table of this list").put(key, row.clone());
        self.edits.push(StateEdit { table, key: key.to_vec(), value: Some(row), before });
    }

    fn remove_row(&mut self, table: u16, key: &[u8]) {
        if let Some(before) = self.table_mut(table).expect("a table of this list").remove(key) {
            self.edits.push(StateEdit { table, key: key.to_vec(), value: None, before: Some(before) });
        }
    }

    // What the fold writes.

    pub(crate) fn put_schema(&mut self, at: Position, descriptor_set: &[u8], schema: Arc<Schema>) {
        self.put_row(member::SCHEMAS, &at.0.to_be_bytes(), written(|out| proto::put_bytes(out, 1, descriptor_set)));
        self.schema = Some(schema);
    }

    pub(crate) fn put_level(&mut self, at: Position, level: u32) {
        self.put_row(member::LEVELS, &at.0.to_be_bytes(), written(|out| proto::put_uint(out, 1, level.into())));
        self.level = level;
    }

    /// Begins an incarnation, and ends the one before it where there is one.
    pub(crate) fn put_incarnation(&mut self, at: Position, incarnation: Incarnation) {
        let last = self.incarnations().next_back();
        let ended = last.filter(|last| last.begin < at).map(|last| IncarnationRow { end: Some(at), ..last });
        let begun = IncarnationRow { begin: at, incarnation, end: None };
        for row in ended.into_iter().chain([begun]) {
            self.put_row(member::INCARNATIONS, &row.begin.0.to_be_bytes(), incarnation_row(&row));
        }
        self.incarnation = incarnation;
    }

    /// In the place of the one in force, where there is one.
    pub(crate) fn put_policy(&mut self, at: Position, policy: &Policy) {
        if let Some(old) = self.policy.take() {
            self.remove_row(member::POLICY, &old.position.0.to_be_bytes());
        }
        // What it replaced is over.
        let row = written(|out| proto::put_message(out, 1, |out| policy.write(Position(0), out)));
        self.put_row(member::POLICY, &at.0.to_be_bytes(), row);
        self.policy = Some(Arc::new(PolicyRow { position: at, policy: policy.clone(), rules: Rulebook::new(policy) }));
    }

    pub(crate) fn put_tag(&mut self, name: &str, revision: Revision, at: Position) {
        self.release_tag(name);
        let row = written(|out| {
            proto::put_uint(out, 1, revision.0);
            proto::put_uint(out, 2, at.0);
        });
        self.put_row(member::TAGS, name.as_bytes(), row);
        *self.tagged.entry(revision).or_default() += 1;
    }

    pub(crate) fn remove_tag(&mut self, name: &str) {
        self.release_tag(name);
        self.remove_row(member::TAGS, name.as_bytes());
    }

    fn release_tag(&mut self, name: &str) {
        let Some(row) = self.tag(name) else { return };
        if let Some(count) = self.tagged.get_mut(&row.revision) {
            *count -= 1;
            if *count == 0 {
                self.tagged.remove(&row.revision);
            }
        }
    }

    pub(crate) fn put_mark(&mut self, at: Position) {
        self.last_mark = at;
        if self.revision > self.floor {
            let row = written(|out| {
                proto::put_uint(out, 1, self.time.0 as u64);
                proto::put_uint(out, 2, self.revision.0);
            });
            self.put_row(member::MARKS, &at.0.to_be_bytes(), row);
        }
    }

    pub(crate) fn raise_floor(&mut self, floor: Revision) {
        self.floor = floor;
        let below: Vec<Position> = self.marks().take_while(|mark| mark.revision <= floor).map(|m| m.position).collect();
        for position in below {
            self.remove_row(member::MARKS, &position.0.to_be_bytes());
        }
    }

    pub(crate) fn put_checkpoint(&mut self, checkpoint: &Checkpoint<'_>, at: Position, time: Time) {
        let row = written(|out| {
            proto::put_message(out, 1, |out| checkpoint.write(out));
            proto::put_uint(out, 2, at.0);
            proto::put_uint(out, 3, time.0 as u64);
        });
        self.put_row(member::CHECKPOINTS, &checkpoint.replica, row);
    }

    pub(crate) fn remove_checkpoint(&mut self, replica: &[u8; 16]) {
        self.remove_row(member::CHECKPOINTS, replica);
    }
}

fn window_row(key: Position, value: Option<Vec<u8>>) -> StateEdit {
    StateEdit { table: member::WINDOW, key: key.0.to_be_bytes().into(), value, before: None }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn read_position(key: &[u8]) -> Option<Position> {
    Some(Position(u64::from_be_bytes(key.try_into().ok()?)))
}

fn incarnation_row(row: &IncarnationRow) -> Vec<u8> {
    written(|out| {
        proto::put_bytes(out, 1, &row.incarnation.0);
        // The field has presence, so a 0 would be written too; but none ends at genesis.
        proto::put_uint(out, 2, row.end.unwrap_or_default().0);
    })
}

fn read_incarnation(key: &[u8], row: &[u8]) -> Result<IncarnationRow, Malformed> {
    let begin = read_position(key).ok_or_else(|| Malformed("an incarnation's key".into()))?;
    let (mut incarnation, mut end) = (None, None);
    for field in Fields::new(row) {
        match field? {
            (1, value) => incarnation = Some(Incarnation(value.array("incarnation")?)),
            (_, value) => end = Some(Position(value.uint()?)),
        }
    }
    let incarnation = incarnation.ok_or_else(|| Malformed("an incarnation row without its id".into()))?;
    Ok(IncarnationRow { begin, incarnation, end })
}

fn read_policy(key: &[u8], row: &[u8]) -> Result<PolicyRow, Malformed> {
    let position = read_position(key).ok_or_else(|| Malformed("a policy's key".into()))?;
    let bytes = Fields::new(row).next().transpose()?.map_or(Ok(&[][..]), |(_, value)| value.bytes())?;
    let (policy, _) = Policy::read(bytes)?;
    Ok(PolicyRow { position, rules: Rulebook::new(&policy), policy })
}

fn read_tag(row: &[u8]) -> Result<TagRow, Malformed> {
    let (mut revision, mut position) = (0, 0);
    for field in Fields::new(row) {
        match field? {
            (1, value) => revision = value.uint()?,
            (_, value) => position = value.uint()?,
        }
    }
    Ok(TagRow { revision: Revision(revision), position: Position(position) })
}

fn read_mark(key: &[u8], row: &[u8]) -> Result<MarkRow, Malformed> {
    let position = read_position(key).ok_or_else(|| Malformed("a mark's key".into()))?;
    let (mut time, mut revision) = (0, 0);
    for field in Fields::new(row) {
        match field? {
            (1, value) => time = value.uint()? as i64,
            (_, value) => revision = value.uint()?,
        }
    }
    Ok(MarkRow { position, time: Time(time), revision: Revision(revision) })
}

fn read_checkpoint_row(row: &[u8]) -> Result<CheckpointRow, Malformed> {
    let (mut checkpoint, mut position, mut time) = (None, 0, 0);
    for field in Fields::new(row) {
        match field? {
            (1, value) => checkpoint = Some(Checkpoint::read(value.bytes()?)?.into_owned()),
            (2, value) => position = value.uint()?,
            (_, value) => time = value.uint()? as i64,
        }
    }
    let checkpoint = checkpoint.ok_or_else(|| Malformed("a checkpoint row without its checkpoint".into()))?;
    Ok(CheckpointRow { checkpoint, position: Position(position), time: Time(time) })
}

fn write_history(out: &mut Vec<u8>, history: &HistoryRange) {
    proto::put_uint(out, 1, history.count());
    history.peaks().iter().for_each(|peak| proto::put_item(out, 2, &peak.0));
}

fn read_history(bytes: &[u8]) -> Result<HistoryRange, Malformed> {
    let (mut count, mut peaks) = (0, Vec::new());
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => count = value.uint()?,
            (_, value) => peaks.push(Hash(value.array("peak")?)),
        }
    }
    HistoryRange::from_peaks(count, peaks).ok_or_else(|| Malformed("peaks that do not fit their count".into()))
}

#[cfg(test)]
mod tests;
