//! The whole state of some past marks, kept so cheaply that a replica can afford it: what a dispute is folded again from, and what a
//! snapshot is taken of while the fold goes on.
//!
//! ```text
//! rows now ─ undo what was changed since the mark ─▶ rows at the mark ─▶ State::load
//!            one row of undo per table row and mark
//! ```
//! The scalars are written once more at each mark, with the log digest before it. Rows of the window are only ever added, and those that leave it are
//! removed once no kept mark has them inside; so the window at a mark is what was written up to it. All other tables are undone
//! row by row. Trees of marks are whole in the store as it is, and the sweep spares them.

use crate::step::STATE_TABLES;
use bytes::Bytes;
use confold_model::event::Malformed;
use confold_model::ids::{Hash, Position, Revision};
use confold_model::state::{self, State, member};
use confold_store::{StateEdit, Store, StoreError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The table, in a store: u64 mark, u16 table, key; what stood there at the mark: nothing, or `01` and the row. Of the scalars the log
/// digest before the mark and then the row.
pub(crate) const KEPT: u16 = 0x8002;
const SCALARS: u16 = 0;

/// Marks whose state is kept where nobody agrees for long.
const MARKS_KEPT: usize = 64;

/// A mark whose whole state can be made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptMark {
    pub position: Position,
    pub revision: Revision,
    pub root: Hash,
    /// d(position - 1).
    pub before: Hash,
}

/// What the fold thread notes for it.
pub(crate) struct Keeping {
    marks: VecDeque<KeptMark>,
    /// The last two marks on which another replica agreed, or which this one has reproduced; the older one first.
    agreed: VecDeque<Position>,
    /// Rows of undo by mark.
    undo: BTreeMap<Position, BTreeSet<(u16, Vec<u8>)>>,
    /// Removals of window rows, each with the position at which no mark from there on needs it.
    parked: VecDeque<(Position, Vec<u8>)>,
    holds: Arc<Holds>,
}

/// Marks that somebody is reading the state of.
#[derive(Default)]
pub(crate) struct Holds {
    held: Mutex<BTreeMap<Position, usize>>,
}

/// Keeps a mark's state, and all later ones, as long as it lives.
pub(crate) struct Hold {
    holds: Arc<Holds>,
    pub mark: KeptMark,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.held.lock();
        if let Some(count) = held.get_mut(&self.mark.position) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.mark.position);
            }
        }
    }
}

impl Keeping {
    pub fn new() -> Keeping {
        Keeping {
            marks: VecDeque::new(),
            agreed: VecDeque::new(),
            undo: BTreeMap::new(),
            parked: VecDeque::new(),
            holds: Arc::default(),
        }
    }

    /// As the store has it.
    pub fn restore(store: &dyn Store, agreed: &[Position]) -> Result<Keeping, StoreError> {
        let mut keeping = Keeping { agreed: agreed.iter().copied().collect(), ..Keeping::new() };
        let damaged = |what: &str| StoreError::damaged(format!("a row of the kept marks: {what}"));
        store.state_rows(KEPT, &mut |key, value| {
            let (position, table, key) = split(key).ok_or_else(|| damaged("its key"))?;
            if table == SCALARS {
                let (before, scalars) = value.split_first_chunk::<32>().ok_or_else(|| damaged("its scalars"))?;
                let at = State::load([(SCALARS, Vec::new(), scalars.to_vec())]).map_err(|Malformed(what)| damaged(&what))?;
                let (revision, root) = (at.revision(), at.root());
                keeping.marks.push_back(KeptMark { position, revision, root, before: Hash(*before) });
            }
            keeping.undo.entry(position).or_default().insert((table, key.to_vec()));
            Ok(())
        })?;
        Ok(keeping)
    }

    /// Ascending.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = KeptMark> + '_ {
        self.marks.iter().copied()
    }

    /// The agreed marks, for the store.
    pub fn agreed(&self) -> impl Iterator<Item = Position> + '_ {
        self.agreed.iter().copied()
    }

    /// Holds the state of the newest kept mark that `wanted` takes.
    pub fn hold(&self, wanted: impl Fn(&KeptMark) -> bool) -> Option<Hold> {
        let mark = self.marks().rev().find(wanted)?;
        *self.holds.held.lock().entry(mark.position).or_default() += 1;
        Some(Hold { holds: self.holds.clone(), mark })
    }

    /// Where a dispute about a mark is folded again from: the older of the agreed marks below it or, where there are none, the
    /// oldest that is kept.
    pub fn hold_below(&self, disputed: Position) -> Option<Hold> {
        let below = |position: Position| self.marks.iter().any(|mark| mark.position == position) && position < disputed;
        let agreed = self.agreed().find(|position| below(*position));
        let base = agreed.or_else(|| self.marks().next().map(|mark| mark.position).filter(|position| *position < disputed))?;
        self.hold(|mark| mark.position == base)
    }

    /// A mark at which this replica was found right. `false`: nothing new.
    pub fn agree(&mut self, mark: Position) -> bool {
        if self.agreed.back().is_some_and(|last| mark <= *last) {
            return false;
        }
        self.agreed.push_back(mark);
        while self.agreed.len() > 2 {
            self.agreed.pop_front();
        }
        true
    }

    /// Turns the fold's edits into those of the store, up to the batch's last position `now`.
    pub fn pass(&mut self, edits: Vec<state::StateEdit>, now: Position, mark: Option<KeptMark>, alone: bool, out: &mut Vec<StateEdit>) {
        let epoch = self.marks.back().map(|mark| mark.position);
        for edit in edits {
            let state::StateEdit { table, key, value, before } = edit;
            if table == member::WINDOW && value.is_none() && epoch.is_some() {
                self.parked.push_back((now, key));
                continue;
            }
            if table == SCALARS {
                if let (Some(mark), Some(scalars)) = (&mark, &value) {
                    out.push(scalars_at(mark, scalars));
                    self.undo.entry(mark.position).or_default().insert((SCALARS, Vec::new()));
                }
            } else if let (Some(epoch), true) = (epoch, table != member::WINDOW)
                && !self.undo.get(&epoch).is_some_and(|rows| rows.contains(&(table, key.clone())))
            {
                out.push(self.note(epoch, table, key.clone(), before.as_ref()));
            }
            out.push(StateEdit { table, key, value: value.map(Bytes::from) });
        }
        if let Some(mark) = mark {
            self.marks.push_back(mark);
            self.let_go(alone, out);
        }
    }

    fn note(&mut self, mark: Position, table: u16, key: Vec<u8>, row: Option<&Vec<u8>>) -> StateEdit {
        let value = row.map_or(Vec::new(), |row| [&[1], &row[..]].concat());
        let edit = StateEdit { table: KEPT, key: joined(mark, table, &key), value: Some(value.into()) };
        self.undo.entry(mark).or_default().insert((table, key));
        edit
    }

    /// Marks older than the older agreed one are of no more use. With nobody to agree, the last two stay.
    fn let_go(&mut self, alone: bool, out: &mut Vec<StateEdit>) {
        let last_but = |count: usize| self.marks.iter().rev().nth(count).map_or(Position(0), |mark| mark.position);
        let agreed = self.agreed.front().copied().unwrap_or_default();
        let mut from = agreed.max(last_but(MARKS_KEPT));
        if alone {
            from = from.max(last_but(1));
        }
        if let Some((oldest, _)) = self.holds.held.lock().first_key_value() {
            from = from.min(*oldest);
        }
        while self.marks.front().is_some_and(|mark| mark.position < from) {
            let Some(gone) = self.marks.pop_front() else { break };
            for (table, key) in self.undo.remove(&gone.position).unwrap_or_default() {
                out.push(StateEdit { table: KEPT, key: joined(gone.position, table, &key), value: None });
            }
        }
        let base = self.marks.front().map_or(Position(0), |mark| mark.position);
        while self.parked.front().is_some_and(|(position, _)| *position <= base) {
            let Some((_, key)) = self.parked.pop_front() else { break };
            out.push(StateEdit { table: member::WINDOW, key, value: None });
        }
    }
}

/// The state at a mark that somebody holds, made from what a store has now; the fold may go on meanwhile.
pub(crate) fn state_at(store: &dyn Store, mark: Position) -> Result<State, StoreError> {
    State::load(rows_at(store, mark)?).map_err(|Malformed(what)| StoreError::damaged(format!("the state kept of mark {mark}: {what}")))
}

/// Its rows: table, key, value.
pub(crate) fn rows_at(store: &dyn Store, mark: Position) -> Result<Vec<(u16, Vec<u8>, Vec<u8>)>, StoreError> {
    let mut rows: BTreeMap<(u16, Vec<u8>), Vec<u8>> = BTreeMap::new();
    for table in STATE_TABLES.into_iter().filter(|table| *table != SCALARS) {
        store.state_rows(table, &mut |key, value| {
            if table != member::WINDOW || key <= &mark.0.to_be_bytes()[..] {
                rows.insert((table, key.to_vec()), value.to_vec());
            }
            Ok(())
        })?;
    }
    // Read after the rows: whatever changed in between is undone by what was written with it.
    let mut undone = BTreeSet::new();
    let mut whole = false;
    store.state_rows(KEPT, &mut |key, value| {
        let Some((position, table, key)) = split(key) else {
            return Err(StoreError::damaged("a key of the kept marks"));
        };
        let of_this_mark = position == mark;
        if position < mark || (table == SCALARS && !of_this_mark) {
            return Ok(());
        }
        let key = (table, key.to_vec());
        if undone.insert(key.clone()) {
            whole |= table == SCALARS;
            let row = if table == SCALARS { value.get(32..) } else { value.get(1..) };
            match row {
                Some(row) => rows.insert(key, row.to_vec()),
                None => rows.remove(&key),
            };
        }
        Ok(())
    })?;
    if !whole {
        return Err(StoreError::damaged(format!("the state of mark {mark} is not kept")));
    }
    Ok(rows.into_iter().map(|((table, key), value)| (table, key, value)).collect())
}

/// The row of a mark's scalars.
pub(crate) fn scalars_at(mark: &KeptMark, scalars: &[u8]) -> StateEdit {
    let value = [&mark.before.0[..], scalars].concat();
    StateEdit { table: KEPT, key: joined(mark.position, SCALARS, &[]), value: Some(value.into()) }
}

fn joined(mark: Position, table: u16, key: &[u8]) -> Vec<u8> {
    [&mark.0.to_be_bytes()[..], &table.to_be_bytes(), key].concat()
}

fn split(key: &[u8]) -> Option<(Position, u16, &[u8])> {
    let (mark, rest) = key.split_first_chunk::<8>()?;
    let (table, key) = rest.split_first_chunk::<2>()?;
    Some((Position(u64::from_be_bytes(*mark)), u16::from_be_bytes(*table), key))
}
