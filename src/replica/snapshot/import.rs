//! A snapshot taken in: everything is checked before the store has a head, so that a refused one leaves no store.

use super::bytes::{Fields, Kind, Parser, Short, read_header, read_id, read_revision, read_state_row, read_touched, read_tree};
use super::{Header, SnapshotError};
use crate::kept::KeptMark;
use crate::step::{self, Mark, STATE_TABLES};
use bytes::Bytes;
use confold_model::digest::{HistoryLeaf, HistoryRange};
use confold_model::event::Malformed;
use confold_model::ids::{Hash, Position, Revision};
use confold_model::node::EMPTY_NODE;
use confold_model::state::{State, member};
use confold_model::walk::Walk;
use confold_model::window::ENTRY_BYTES;
use confold_store::{Batch, Durability, Head, IdRow, Order, PathDigest, PersistedTree, RevisionRow, Rows, Store, StoreError, Touched};
use std::collections::{BTreeMap, VecDeque};

/// What came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    pub header: Header,
    /// The new data folder's own id.
    pub replica: [u8; 16],
    pub objects: u64,
    pub revisions: u64,
}

/// Into a store that never had a batch. `confirm` is asked as soon as the header is known, before anything else is believed: it looks for
/// the state hash on the log, see [`super::verify`]. After an error the store is of no use and has no head. Blocks.
pub fn import(
    pieces: impl Iterator<Item = Result<Bytes, String>>,
    store: &dyn Store,
    confirm: impl FnOnce(&Header) -> Result<(), SnapshotError>,
) -> Result<Imported, SnapshotError> {
    let mut replica = [0; 16];
    getrandom::fill(&mut replica)?;
    let mut parser = Parser::begin(pieces)?;
    let Some((Kind::Header, bytes)) = parser.next()? else {
        return Err(parser.damaged("it has no header"));
    };
    let header = read_header(bytes).map_err(|Short| parser.damaged("its header cannot be read"))?;
    confirm(&header)?;
    let mut taking = Taking::new(store, header);
    while let Some((kind, bytes)) = parser.next()? {
        let mut fields = Fields(bytes);
        let read = taking.part(kind, &mut fields)?;
        if read.is_err() || (kind != Kind::End && !fields.is_empty()) {
            return Err(parser.damaged(&format!("a part of kind {kind:?} cannot be read")));
        }
    }
    taking.finish(replica)
}

/// What has been taken in so far, and what must follow from it.
struct Taking<'s> {
    store: &'s dyn Store,
    header: Header,
    rows: Vec<(u16, Vec<u8>, Vec<u8>)>,
    /// Once all rows are there and hash to what the header says.
    state: Option<State>,
    trees: BTreeMap<Revision, PersistedTree>,
    objects: u64,
    history: HistoryRange,
    last_revision: Option<(Revision, Position)>,
    last_id: Option<Position>,
    /// Revisions whose event has an id, and ids of revisions.
    ids: [u64; 2],
    /// Revisions to compare ids with.
    named: VecDeque<RevisionRow>,
    next_named: Revision,
    last_touched: Option<(PathDigest, Revision)>,
}

fn forged<T>(what: impl Into<String>) -> Result<T, SnapshotError> {
    Err(SnapshotError::Forged(what.into()))
}

impl<'s> Taking<'s> {
    fn new(store: &'s dyn Store, header: Header) -> Taking<'s> {
        Taking {
            store,
            header,
            rows: Vec::new(),
            state: None,
            trees: BTreeMap::new(),
            objects: 0,
            history: HistoryRange::default(),
            last_revision: None,
            last_id: None,
            ids: [0; 2],
            named: VecDeque::new(),
            next_named: Revision(1),
            last_touched: None,
        }
    }

    /// The inner error: the bytes are no rows of this kind.
    fn part(&mut self, kind: Kind, fields: &mut Fields) -> Result<Result<(), Short>, SnapshotError> {
        if kind > Kind::State && self.state.is_none() {
            self.state = Some(self.whole_state()?);
        }
        let mut rows = Rows::default();
        macro_rules! each {
            ($read:ident, $take:expr) => {
                while !fields.is_empty() {
                    match $read(fields) {
                        Ok(row) => $take(row)?,
                        Err(Short) => return Ok(Err(Short)),
                    }
                }
            };
        }
        match kind {
            Kind::Header | Kind::End => return Ok(Ok(())),
            Kind::State => each!(read_state_row, |row| self.state_row(row)),
            Kind::Trees => each!(read_tree, |tree| self.tree(tree)),
            Kind::Objects => {
                while !fields.is_empty() {
                    let Ok(bytes) = fields.sized() else { return Ok(Err(Short)) };
                    self.objects += 1;
                    rows.objects.push((Hash::of(&bytes), bytes));
                }
            }
            Kind::Revisions => each!(read_revision, |row| {
                self.revision(&row)?;
                rows.revisions.push(row);
                Ok::<_, SnapshotError>(())
            }),
            Kind::Ids => each!(read_id, |row| {
                self.id(&row)?;
                rows.ids.push(row);
                Ok::<_, SnapshotError>(())
            }),
            Kind::Touched => each!(read_touched, |row| {
                self.touched(&row)?;
                rows.touched.push(row);
                Ok::<_, SnapshotError>(())
            }),
        }
        self.store.load(&rows)?;
        Ok(Ok(()))
    }

    fn state_row(&mut self, row: (u16, Vec<u8>, Vec<u8>)) -> Result<(), SnapshotError> {
        if !STATE_TABLES.contains(&row.0) {
            return forged(format!("no table of the state has number {}", row.0));
        }
        if self.rows.last().is_some_and(|last| (last.0, &last.1) >= (row.0, &row.1)) {
            return forged("its state rows are out of order");
        }
        if row.0 == member::WINDOW {
            self.window_row(&row.1, &row.2)?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// Positions rise, none lies beyond the mark, and each is behind what its author had seen: what the window relies on.
    fn window_row(&self, key: &[u8], packed: &[u8]) -> Result<(), SnapshotError> {
        let (entries, rest) = packed.as_chunks::<ENTRY_BYTES>();
        let position = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let before = self.rows.last().filter(|(table, ..)| *table == member::WINDOW);
        let before = before.and_then(|(_, key, packed)| position(packed.last_chunk::<ENTRY_BYTES>().map_or(key, |last| &last[..])));
        let positions: Vec<u64> = entries.iter().filter_map(|entry| position(entry)).collect();
        let ordered = positions.is_sorted() && positions.first().is_none_or(|first| before.is_none_or(|before| before <= *first));
        let within = positions.last().is_none_or(|last| *last <= self.header.position.0);
        let seen = entries.iter().all(|entry| position(&entry[8..]) < position(entry));
        match rest.is_empty() && !entries.is_empty() && key.len() == 8 && ordered && within && seen {
            true => Ok(()),
            false => forged("its window of event ids is out of order"),
        }
    }

    fn whole_state(&mut self) -> Result<State, SnapshotError> {
        let state = State::load(self.rows.iter().cloned()).or_else(|Malformed(what)| forged(format!("its state: {what}")))?;
        let hash = state.clone().hash();
        if hash != self.header.state {
            return forged(format!("its state hashes to {hash}, its header says {}", self.header.state));
        }
        // Tables are hashed as they stand, the scalars by what they say: they must also be written as they are.
        let scalars = state.clone().take_edits().into_iter().find(|edit| edit.table == 0).and_then(|edit| edit.value);
        if self.rows.first().map(|(_, _, value)| value) != scalars.as_ref() {
            return forged("the scalars of its state are not written as they are");
        }
        let header = &self.header;
        let said = (Some(header.position), header.digest, header.chain, header.root, header.revision, header.floor, header.time);
        let found = (state.position(), state.digest(), state.chain(), state.root(), state.revision(), state.floor(), state.time());
        let whose = (header.log_id, header.incarnation, header.transport_id);
        if said != found || whose != (state.log_id(), state.incarnation(), state.transport_id()) {
            return forged("its header differs from its state");
        }
        Ok(state)
    }

    fn tree(&mut self, tree: PersistedTree) -> Result<(), SnapshotError> {
        let own = tree.revision == self.header.revision;
        let fits = tree.revision > Revision(0)
            && tree.revision <= self.header.revision
            && tree.position <= self.header.position
            && (!own || (tree.root, tree.position, tree.mark) == (self.header.root, self.header.position, true));
        if !fits || self.trees.last_key_value().is_some_and(|(last, _)| *last >= tree.revision) {
            return forged(format!("its tree of revision {} is out of order", tree.revision));
        }
        self.trees.insert(tree.revision, tree);
        Ok(())
    }

    fn revision(&mut self, row: &RevisionRow) -> Result<(), SnapshotError> {
        let (last, at) = self.last_revision.map_or((Revision(0), None), |(last, at)| (last, Some(at)));
        let follows = row.revision.0 == last.0 + 1 && at.is_none_or(|at| row.position > at);
        let within = row.revision <= self.header.revision && row.position <= self.header.position;
        let tree = self.trees.get(&row.revision).is_none_or(|tree| tree.root == row.root && tree.position >= row.position);
        if !follows || !within || !tree || row.id.is_some_and(|id| id.seen >= row.position) {
            return forged(format!("its history row of revision {} does not fit", row.revision));
        }
        let RevisionRow { revision, position, time, root, id, digest, .. } = *row;
        self.history.append(HistoryLeaf { revision, position, time, root, id: id.unwrap_or_default(), digest }.hash());
        self.last_revision = Some((revision, position));
        self.ids[0] += u64::from(id.is_some());
        Ok(())
    }

    fn id(&mut self, row: &IdRow) -> Result<(), SnapshotError> {
        let no = || forged(format!("its event id {} at position {} does not fit", row.id, row.position));
        if self.last_id.is_some_and(|last| row.position <= last) || row.position > self.header.position || row.id.seen >= row.position {
            return no();
        }
        self.last_id = Some(row.position);
        if row.revision == Revision(0) {
            return Ok(());
        }
        self.ids[1] += 1;
        loop {
            if self.named.is_empty() {
                self.named = self.store.revisions(self.next_named..=self.header.revision, Order::Ascending, 1024)?.into();
                let Some(last) = self.named.back() else { return no() };
                self.next_named = Revision(last.revision.0 + 1);
            }
            match self.named.pop_front() {
                Some(named) if named.revision == row.revision => {
                    return if (named.id, named.position) == (Some(row.id), row.position) { Ok(()) } else { no() };
                }
                // Made by no proposer's event.
                Some(named) if named.revision < row.revision && named.id.is_none() => {}
                _ => return no(),
            }
        }
    }

    fn touched(&mut self, row: &Touched) -> Result<(), SnapshotError> {
        let place = (row.path, row.revision);
        if row.revision == Revision(0) || row.revision > self.header.revision || self.last_touched.is_some_and(|last| place <= last) {
            return forged("its index of touched paths is out of order");
        }
        self.last_touched = Some(place);
        Ok(())
    }

    fn finish(mut self, replica: [u8; 16]) -> Result<Imported, SnapshotError> {
        let state = match self.state.take() {
            Some(state) => state,
            None => self.whole_state()?,
        };
        if self.history != *state.history() {
            return forged("its history rows are not those of its state");
        }
        if self.ids[0] != self.ids[1] {
            return forged(format!("its history has {} event ids, its index {}", self.ids[0], self.ids[1]));
        }
        let own = self.header.root == EMPTY_NODE || self.trees.contains_key(&self.header.revision);
        if !own {
            return forged("the mark's own tree is not among its trees");
        }
        let mut walk = Walk::new();
        let roots = self.trees.values().map(|tree| tree.root).filter(|root| *root != EMPTY_NODE);
        roots.for_each(|root| walk.add_root(root));
        let mut reached = 0;
        while let Some(object) = walk.next(self.store) {
            match object {
                Ok(_) => reached += 1,
                Err(error) => return forged(format!("its trees are not whole: {error}")),
            }
        }
        if reached != self.objects {
            return forged(format!("it has {} objects, its trees reach {reached}", self.objects));
        }
        let Header { position, time, before, digest, chain, state: hash, root, revision, floor, .. } = self.header;
        let persisted = self.trees.into_values().filter(|tree| tree.revision != revision).collect();
        self.store.load(&Rows { persisted, ..Rows::default() })?;
        let head = Head {
            applied: position,
            time,
            before,
            digest,
            chain,
            root,
            revision,
            floor,
            transport_id: self.header.transport_id,
            incarnation: self.header.incarnation,
        };
        let mark = Mark { position, chain, state: hash };
        let batch = Batch {
            state: step::founding(replica, &self.header.store_name, mark, &KeptMark { position, revision, root, before }, self.rows),
            mark: true,
            durability: Durability::Now,
            ..Batch::at(head)
        };
        self.store.commit(&batch)?;
        // What a replica will find when it opens it.
        step::Folder::restore(self.store, replica).map_err(|error: StoreError| SnapshotError::Forged(error.to_string()))?;
        Ok(Imported { objects: self.objects, revisions: revision.0, header: self.header, replica })
    }
}
