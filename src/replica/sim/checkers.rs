//! What must hold after every step, whatever happened before it.

use super::oracle::Oracle;
use super::plain::{self, Plain, Seg};
use crate::step::{Effects, Folder};
use crate::view::View;
use bytes::Bytes;
use confold_log::Record;
use confold_model::event::{self, Body, Event};
use confold_model::ids::{Hash, Position, Revision};
use confold_model::merge;
use confold_model::node::EMPTY_NODE;
use confold_model::objects::Objects;
use confold_model::path::Path;
use confold_model::schema::Schema;
use confold_model::tree::{Lookup, NodeView, Tree};
use confold_model::walk::Walk;
use confold_store::memory::MemoryStore;
use confold_store::{Order, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Each with what of `docs/` it guards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Check {
    /// I1: the same state, time and bytes give the same result.
    Pure,
    /// I2, I4: positions come one after the other.
    Positions,
    /// I3: what was folded is what the log holds.
    Digest,
    /// I5: head, root, objects and state stand in one batch; a restart finds them equal.
    OneBatch,
    /// I6: equal chain, root and state at equal positions on all replicas.
    Agreement,
    /// I6: replicas announce what they computed, and only what differs is an alarm.
    Alarm,
    /// I7: everything the fold reads is in the state's rows.
    StateRows,
    /// I8: answers come after the fold and the store, say what was decided, and stay true.
    Answers,
    /// I8: no intention is applied twice.
    Once,
    /// Readers see nothing that no store holds.
    Views,
    /// I9: stored bytes are what their hash says.
    Objects,
    /// I10: what is kept can be read to its last object, and nothing else stays after a sweep.
    Reachable,
    /// I11: outcomes and codes are those that the oracle gives.
    Verdicts,
    /// I12: behaviour changes only at an activation, and a build that does not know it stops there.
    Level,
    /// I13: time never goes back, save by a clock event.
    Time,
    /// The tree is what a plain ordered map of the same commits is.
    Tree,
    /// History rows, id index and persisted marks are those of the log.
    History,
    /// Without faults everything comes to an end.
    Liveness,
}

impl Check {
    pub const ALL: [Check; 18] = [
        Check::Pure,
        Check::Positions,
        Check::Digest,
        Check::OneBatch,
        Check::Agreement,
        Check::Alarm,
        Check::StateRows,
        Check::Answers,
        Check::Once,
        Check::Views,
        Check::Objects,
        Check::Reachable,
        Check::Verdicts,
        Check::Level,
        Check::Time,
        Check::Tree,
        Check::History,
        Check::Liveness,
    ];
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breach {
    pub check: Check,
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}

pub type Held<T = ()> = Result<T, Breach>;

pub fn breach<T>(check: Check, what: impl Into<String>) -> Held<T> {
    let mut what: String = what.into();
    // Records can be long.
    if let Some((cut, _)) = what.char_indices().nth(2_000) {
        what.truncate(cut);
        what.push('…');
    }
    Err(Breach { check, what })
}

/// What all replicas must agree on, and the checkers that are told to be silent.
pub struct Checkers {
    silenced: BTreeSet<Check>,
    /// By position: who folded it first, chain, root, revision.
    folded: Vec<Option<(usize, Hash, Hash, Revision)>>,
    /// State hashes after batches.
    states: BTreeMap<Position, (usize, Hash)>,
    schemas: BTreeMap<u32, Arc<Schema>>,
}

impl Checkers {
    pub fn new(silenced: &[Check]) -> Checkers {
        let silenced = silenced.iter().copied().collect();
        Checkers {
            silenced,
            folded: Vec::new(),
            states: BTreeMap::new(),
            schemas: BTreeMap::new(),
        }
    }

    pub fn require(&self, check: Check, holds: bool, what: impl FnOnce() -> String) -> Held {
        if holds || self.silenced.contains(&check) {
            Ok(())
        } else {
            breach(check, what())
        }
    }

    /// After one record, within a batch.
    pub fn folded(&mut self, site: usize, folder: &Folder, oracle: &Oracle) -> Held {
        let state = folder.state();
        let position = state.position().unwrap_or_default();
        let at = position.0 as usize;
        if self.folded.len() <= at {
            self.folded.resize(at + 1, None);
        }
        let (chain, root, revision) = (state.chain(), state.root(), state.revision());
        if let Some(on_log) = oracle.records.get(at) {
            self.require(Check::Digest, state.digest() == on_log.digest, || {
                let (ours, theirs) = (state.digest().short(), on_log.digest.short());
                format!("position {position}: replica {site} has log digest {ours}, the log {theirs}")
            })?;
        }
        match self.folded[at] {
            None => self.folded[at] = Some((site, chain, root, revision)),
            Some((other, ..)) if other == site => {}
            Some((other, their_chain, their_root, theirs)) => {
                let same = (chain, root, revision) == (their_chain, their_root, theirs);
                self.require(Check::Agreement, same, || {
                    format!(
                        "position {position}: replica {site} has chain {} root {} revision {revision}, replica {other} \
                         chain {} root {} revision {theirs}",
                        chain.short(),
                        root.short(),
                        their_chain.short(),
                        their_root.short()
                    )
                })?;
            }
        }
        let Some(verdict) = oracle.verdicts.get(at) else {
            return breach(
                Check::Positions,
                format!("replica {site} folded position {position}, which the log does not have"),
            );
        };
        self.require(Check::Time, state.time().0 == verdict.time, || {
            format!(
                "position {position}: replica {site} has time {}, it is {}",
                state.time().0,
                verdict.time
            )
        })?;
        if let Some(before) = at.checked_sub(1).map(|at| &oracle.verdicts[at]) {
            self.require(Check::Time, verdict.clock || state.time().0 >= before.time, || {
                format!(
                    "position {position}: time went back from {} to {}",
                    before.time,
                    state.time().0
                )
            })?;
            self.require(Check::Level, before.level <= event::LEVEL, || {
                format!(
                    "replica {site} folded position {position} at level {}, which it does not know",
                    before.level
                )
            })?;
        }
        self.require(Check::Level, state.level() == verdict.level, || {
            format!(
                "position {position}: replica {site} is at level {}, not {}",
                state.level(),
                verdict.level
            )
        })?;
        let (revision, floor) = (state.revision().0, state.floor().0);
        self.require(
            Check::Verdicts,
            (revision, floor) == (verdict.revision, verdict.floor),
            || {
                let (wanted, low) = (verdict.revision, verdict.floor);
                format!(
                    "position {position}: replica {site} has revision {revision} floor {floor}, not {wanted} and {low}"
                )
            },
        )
    }

    /// Before anybody hears of it.
    pub fn shown(&mut self, site: usize, effects: &Effects, oracle: &Oracle) -> Held {
        let first = effects.view.position.0 + 1 - effects.records;
        self.verdicts(site, first, effects, oracle)?;
        match effects.mark {
            Some(mark) => self.agree_on(site, mark.position, mark.state),
            None => Ok(()),
        }
    }

    /// After a batch is in the store.
    pub fn committed(&mut self, site: usize, folder: &Folder, store: &MemoryStore) -> Held {
        let state = folder.state();
        let Some(head) = store.head() else {
            return breach(Check::OneBatch, "a store without a head after a batch");
        };
        let same = Some(head.applied) == state.position()
            && (head.digest, head.chain, head.root, head.revision)
                == (state.digest(), state.chain(), state.root(), state.revision());
        self.require(Check::OneBatch, same, || {
            format!("replica {site}: the store's head {head:?} is not the fold's state")
        })?;
        let there = head.root == EMPTY_NODE || store.object(&head.root).is_ok();
        self.require(Check::OneBatch, there, || {
            format!("replica {site}: root {} of its head is not stored", head.root)
        })
    }

    /// The state hash between two batches; equal on all replicas that stand at the same position.
    pub fn state(&mut self, site: usize, folder: &Folder) -> Held<Hash> {
        let mut state = folder.state().clone();
        let (position, hash) = (state.position().unwrap_or_default(), state.hash());
        self.agree_on(site, position, hash)?;
        Ok(hash)
    }

    fn agree_on(&mut self, site: usize, position: Position, hash: Hash) -> Held {
        let (other, theirs) = *self.states.entry(position).or_insert((site, hash));
        self.require(Check::Agreement, theirs == hash, || {
            format!(
                "position {position}: replica {site} has state {}, replica {other} {}",
                hash.short(),
                theirs.short()
            )
        })
    }

    fn verdicts(&self, site: usize, first: u64, effects: &Effects, oracle: &Oracle) -> Held {
        let range = first as usize..(first + effects.records) as usize;
        let verdicts = &oracle.verdicts[range.clone()];
        let mut wanted: BTreeMap<(u8, u16), u64> = BTreeMap::new();
        verdicts
            .iter()
            .for_each(|verdict| *wanted.entry((verdict.outcome, verdict.code)).or_default() += 1);
        let mut settled = effects.settlements.iter();
        for (position, verdict) in range.clone().zip(verdicts) {
            let Some(id) = verdict.id else { continue };
            let Some(settlement) = settled.next() else {
                return self.require(Check::Verdicts, false, || {
                    format!("replica {site} settles nothing at {position}")
                });
            };
            let first = match &settlement.outcome {
                confold_model::fold::Outcome::Duplicate(entry) => Some(entry.position.0),
                _ => None,
            };
            let outcome = (settlement.outcome.number(), settlement.outcome.code());
            let same = settlement.id == id
                && settlement.position.0 == position as u64
                && outcome == (verdict.outcome, verdict.code)
                && first == verdict.first
                && settlement.time == verdict.time()
                && settlement.revision == verdict.made_revision();
            self.require(Check::Verdicts, same, || {
                let meaning = oracle.book.get(&oracle.records[position].bytes);
                let (at, outcome) = (settlement.position, &settlement.outcome);
                format!(
                    "position {position}: replica {site} says id {} at {at} {outcome:?} revision {:?}, must be {verdict:?}; \
                     the record means {meaning:?}",
                    settlement.id, settlement.revision
                )
            })?;
        }
        let none_left = settled.next().is_none();
        self.require(Check::Verdicts, none_left && effects.outcomes == wanted, || {
            format!(
                "positions from {first}: replica {site} counts {:?}, must be {wanted:?}",
                effects.outcomes
            )
        })?;
        let alarms = verdicts.iter().filter(|verdict| verdict.alarm).count();
        let at_most = alarms + verdicts.iter().filter(|verdict| verdict.may_alarm).count();
        self.require(Check::Alarm, (alarms..=at_most).contains(&effects.disagreements.len()), || {
            format!(
                "positions from {first}: replica {site} raises {:?}, must raise {alarms} to {at_most}",
                effects.disagreements
            )
        })?;
        let marks: Vec<usize> = range
            .clone()
            .filter(|position| oracle.verdicts[*position].mark)
            .collect();
        let mark = effects.mark.map(|mark| mark.position.0 as usize);
        // A mark ends its batch, so there is one at most, and last.
        self.require(
            Check::Verdicts,
            marks == mark.into_iter().collect::<Vec<_>>() && mark.is_none_or(|mark| mark + 1 == range.end),
            || format!("positions {range:?}: replica {site} marks {mark:?}, must mark {marks:?}"),
        )
    }

    /// The tree in the store, loaded anew, and the one that readers were given.
    pub fn tree(&self, site: usize, store: &MemoryStore, oracle: &Oracle) -> Held {
        let Some(head) = store.head() else { return Ok(()) };
        let Some(plain) = oracle.tree_at(head.revision.0) else {
            return Ok(());
        };
        self.same_tree(
            &format!("replica {site} at revision {}", head.revision),
            &stored(head.root),
            store,
            &plain,
        )
    }

    pub fn view(&self, site: usize, view: &View, store: &MemoryStore, plain: &Plain) -> Held {
        self.same_tree(
            &format!("a view of replica {site} at revision {}", view.revision),
            &view.tree,
            store,
            plain,
        )
    }

    fn same_tree(&self, whose: &str, tree: &Tree, objects: &dyn Objects, plain: &Plain) -> Held {
        let mut found = BTreeMap::new();
        let read = match tree.node(&Path::root(), objects) {
            Ok(Lookup::Found(root)) => read_node(&root, &mut Vec::new(), objects, &mut found),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            return self.require(Check::Reachable, false, || format!("{whose}: {error}"));
        }
        let wanted: BTreeMap<Rc<[Seg]>, Bytes> = plain
            .iter()
            .map(|(path, config)| (path.clone(), plain::config_bytes(config).into()))
            .collect();
        self.require(Check::Tree, found == wanted, || {
            let differs = |(path, bytes): &(&Rc<[Seg]>, &Bytes), other: &BTreeMap<Rc<[Seg]>, Bytes>| {
                other.get(*path) != Some(*bytes)
            };
            let more: Vec<_> = found.iter().filter(|one| differs(one, &wanted)).take(3).collect();
            let less: Vec<_> = wanted.iter().filter(|one| differs(one, &found)).take(3).collect();
            format!("{whose} has {more:?} where {less:?} should be")
        })
    }

    /// Every persisted tree to its last object; and `nothing_else` is stored where a sweep has just run alone.
    pub fn reachable(&self, site: usize, store: &MemoryStore, held: &[Hash], nothing_else: bool) -> Held {
        let Some(head) = store.head() else { return Ok(()) };
        let mut walk = Walk::new();
        let rows = store
            .persisted(Revision(0)..=head.revision, Order::Ascending, usize::MAX)
            .unwrap_or_default();
        let roots = rows
            .iter()
            .map(|row| row.root)
            .chain([head.root])
            .chain(held.iter().copied());
        roots
            .filter(|root| *root != EMPTY_NODE)
            .for_each(|root| walk.add_root(root));
        let mut count = 0;
        while let Some(found) = walk.next(store) {
            if let Err(error) = found {
                return self.require(Check::Reachable, false, || {
                    format!("replica {site}: a kept tree cannot be read: {error}")
                });
            }
            count += 1;
        }
        if !nothing_else {
            return Ok(());
        }
        let stored = store
            .object_sizes(&Hash::ZERO, usize::MAX)
            .map_or(0, |all| all.iter().filter(|(hash, _)| *hash != EMPTY_NODE).count());
        self.require(Check::Reachable, stored <= count, || {
            format!("replica {site}: {stored} objects stay after a sweep, the kept trees reach {count}")
        })
    }

    /// History rows, ids and the trees at marks, as far as the store has come.
    pub fn history(&self, site: usize, store: &MemoryStore, oracle: &Oracle) -> Held {
        let Some(head) = store.head() else { return Ok(()) };
        let rows = store
            .revisions(Revision(1)..=head.revision, Order::Ascending, usize::MAX)
            .unwrap_or_default();
        let made = oracle.verdicts[..=head.applied.0 as usize]
            .iter()
            .enumerate()
            .filter(|(_, verdict)| verdict.made);
        let found = rows
            .iter()
            .map(|row| (row.position.0 as usize, row.revision.0, row.time.0, row.id, row.digest));
        let wanted = made.map(|(position, verdict)| {
            (
                position,
                verdict.revision,
                verdict.time,
                verdict.id,
                oracle.records[position].digest,
            )
        });
        let same = found.eq(wanted);
        self.require(Check::History, same, || {
            format!("replica {site}: its history rows are not those of the log")
        })?;
        for (position, verdict) in oracle.verdicts[..=head.applied.0 as usize].iter().enumerate() {
            let (0, Some(id)) = (verdict.outcome, verdict.id) else {
                continue;
            };
            let row = store.id(&id, oracle.window).ok().flatten();
            let revision = if verdict.made { verdict.revision } else { 0 };
            let same = row.is_some_and(|row| (row.position.0, row.revision.0) == (position as u64, revision));
            self.require(Check::History, same, || {
                format!("replica {site}: id {id} accepted at {position} is indexed as {row:?}")
            })?;
        }
        for mark in oracle.marks.iter().filter(|mark| **mark <= head.applied.0) {
            let revision = Revision(oracle.verdicts[*mark as usize].revision);
            // Below the floor the sweep may have taken it, and revision 0 has no row; a later batch of the same revision renews the row.
            if revision <= head.floor || revision == Revision(0) {
                continue;
            }
            let row = store
                .persisted(revision..=revision, Order::Ascending, 1)
                .unwrap_or_default()
                .pop();
            self.require(Check::History, row.is_some_and(|row| row.mark), || {
                format!("replica {site}: the tree of the mark at {mark}, revision {revision}, is kept as {row:?}")
            })?;
        }
        Ok(())
    }

    /// A kept revision, made again from the nearest persisted tree below it.
    pub fn remade(&mut self, site: usize, store: &MemoryStore, revision: Revision, oracle: &Oracle) -> Held<Tree> {
        let base = store.persisted_at_or_below(revision).unwrap_or_default();
        let (mut tree, from) = base.map_or((Tree::empty(), Revision(0)), |base| (stored(base.root), base.revision));
        let rows = store
            .revisions(Revision(from.0 + 1)..=revision, Order::Ascending, usize::MAX)
            .unwrap_or_default();
        for row in &rows {
            let record: &Record = &oracle.records[row.position.0 as usize];
            let version = oracle.version_at(row.position.0);
            let schema = self.schemas.entry(version).or_insert_with(|| {
                let set = super::workload::schema(version);
                Arc::new(Schema::compile(set, "sim.Root").expect("the simulation's own schema"))
            });
            let Ok(Event {
                body: Body::Commit(commit),
                ..
            }) = Event::decode(&record.bytes)
            else {
                return breach(
                    Check::History,
                    format!(
                        "position {} made revision {} without a commit",
                        row.position, row.revision
                    ),
                );
            };
            let limits = event::Limits {
                max_event_bytes: oracle.max_event_bytes as u64,
                ..event::Limits::default()
            };
            tree = match merge::commit(&tree, schema, &limits, &commit, store) {
                Ok(Ok(tree)) => tree,
                Ok(Err(refused)) => {
                    return breach(
                        Check::History,
                        format!("revision {} is refused when made again: {refused:?}", row.revision),
                    );
                }
                Err(error) => {
                    return breach(
                        Check::Reachable,
                        format!("replica {site}: revision {revision} cannot be made again: {error}"),
                    );
                }
            };
            if tree.root() != row.root {
                return breach(
                    Check::History,
                    format!(
                        "revision {} has root {} when made again, its row {}",
                        row.revision,
                        tree.root(),
                        row.root
                    ),
                );
            }
        }
        if let Some(plain) = oracle.tree_at(revision.0) {
            self.same_tree(
                &format!("revision {revision}, made again by replica {site},"),
                &tree,
                store,
                &plain,
            )?;
        }
        Ok(tree)
    }
}

pub fn stored(root: Hash) -> Tree {
    if root == EMPTY_NODE {
        Tree::empty()
    } else {
        Tree::at(root)
    }
}

fn read_node(
    node: &NodeView,
    at: &mut Vec<Seg>,
    objects: &dyn Objects,
    found: &mut BTreeMap<Rc<[Seg]>, Bytes>,
) -> Result<(), confold_model::objects::ObjectsError> {
    let config = node.config(objects)?;
    let is_element = at.last().is_some_and(|(_, key)| key.is_some());
    if is_element || !config.is_empty() {
        found.insert(at[..].into(), Bytes::copy_from_slice(config));
    }
    let kind = match plain::goal(at, u32::MAX) {
        Ok(plain::Goal::Node { kind, .. }) => kind,
        // An element of a list has no path of its own.
        _ => plain::Kind::Server,
    };
    for field in node.fields().collect::<Vec<_>>() {
        match kind.child(field, u32::MAX) {
            Some(plain::Child::Single(_)) => {
                at.push((field, None));
                read_node(&node.child(field, objects)?, at, objects, found)?;
                at.pop();
            }
            _ => {
                for (key, element) in node.container(field, objects)?.slice(0, u64::MAX, objects)? {
                    at.push((field, Some(Rc::from(&*key))));
                    read_node(&element, at, objects, found)?;
                    at.pop();
                }
            }
        }
    }
    Ok(())
}
