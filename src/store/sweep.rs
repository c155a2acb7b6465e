//! Removing objects that no kept tree reaches: local, incremental, safe to kill at any point.
//!
//! A sweep marks what the kept roots reach, then goes through the objects in order and deletes those without a mark.
//! Reachability decides, never an object's age. Nothing of it is stored: after a crash the next sweep begins anew,
//! and whatever the last one deleted was unreachable.
//!
//! Why no commit loses an object, whenever the two run beside each other:
//! - **Before the gate shuts.** A commit holds the gate open from before its write until after it, so when the gate
//!   is shut every batch is either visible or not yet admitted. Only then are the roots asked for: they include
//!   every tree persisted until then.
//! - **After it.** A commit first admits its objects, then writes them. A deletion looks them up and deletes within
//!   one lock. So either the commit came first and the object stays, or the deletion was finished first and the
//!   commit's put comes after it.
//! - **Objects that a new tree takes over** from the tree before: by induction they were reachable from the newest
//!   persisted tree when the walk began, which is always a root, or were admitted since.
//! - **The walk never stops at an admitted object**, only at one it has walked itself. A tree may drop an object and
//!   take it up again while the sweep runs; what lies below it is then in no batch since, and the old tree may reach
//!   it through that very object alone.
//!
//! Deletions go through the same write-ahead log as batches. So a crash that takes back the batch that raised the
//! floor also takes back the deletions that followed it.

use crate::{Order, Store, StoreError};
use confold_model::ids::{Hash, Revision};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

/// What one stored object points at; `Err` says why the bytes are no object.
pub type References<'a> = dyn Fn(&[u8]) -> Result<Vec<Hash>, String> + Send + Sync + 'a;

/// One sweep over a store, driven in steps by a housekeeping thread; dropping it ends it early without harm.
pub struct Sweeper<'s> {
    store: &'s dyn Store,
    references: &'s References<'s>,
    phase: Phase,
    report: Report,
}

/// What a step left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    Marking,
    Sweeping,
    Done,
}

/// Counters of one sweep so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub marked: u64,
    /// Persisted trees that were not kept; their rows are dropped before the first object is deleted.
    pub trees_forgotten: u64,
    pub scanned: u64,
    pub deleted: u64,
    pub bytes_deleted: u64,
}

enum Phase {
    Mark { pending: Vec<Hash> },
    Forget { from: Revision, to: Revision },
    Delete { from: Hash },
    Done,
    Failed(StoreError),
}

impl<'s> Sweeper<'s> {
    /// Shuts the gate, then asks for the roots to keep. The tree that the fold builds on, the newest persisted one,
    /// needs no mention. `Busy` when a sweep is running.
    pub fn begin(
        store: &'s dyn Store,
        references: &'s References<'s>,
        roots: impl FnOnce() -> Result<Vec<Hash>, StoreError>,
    ) -> Result<Sweeper<'s>, StoreError> {
        store.gate().shut()?;
        // From here on dropping opens the gate again, on every way out.
        let mut sweeper = Sweeper {
            store,
            references,
            phase: Phase::Done,
            report: Report::default(),
        };
        let mut pending = roots()?;
        if let Some(head) = store.head() {
            pending.extend(store.persisted_at_or_below(head.revision)?.map(|tree| tree.root));
        }
        sweeper.phase = Phase::Mark { pending };
        Ok(sweeper)
    }

    /// Loads, or scans, at most about `budget` objects. A missing or wrong object among the kept ones is `Damaged`.
    /// A sweep that failed stays so.
    pub fn step(&mut self, budget: usize) -> Result<Progress, StoreError> {
        let progress = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Mark { pending } => self.mark(pending, budget),
            Phase::Forget { from, to } => self.forget(from, to, budget),
            Phase::Delete { from } => self.delete(from, budget),
            Phase::Done => Ok(Progress::Done),
            Phase::Failed(error) => Err(error),
        };
        progress.inspect_err(|error| self.phase = Phase::Failed(error.clone()))
    }

    pub fn report(&self) -> Report {
        self.report
    }

    /// Steps until done, for stopped stores and tests.
    pub fn run(mut self, budget: usize) -> Result<Report, StoreError> {
        while self.step(budget)? != Progress::Done {}
        Ok(self.report)
    }

    fn mark(&mut self, mut pending: Vec<Hash>, budget: usize) -> Result<Progress, StoreError> {
        for _ in 0..budget.max(1) {
            let next = loop {
                match pending.pop() {
                    Some(hash) if hash == Hash::ZERO || !self.store.gate().mark(&hash) => {}
                    other => break other,
                }
            };
            let Some(hash) = next else {
                let to = self.store.head().map_or(Revision(0), |head| head.revision);
                self.phase = Phase::Forget { from: Revision(0), to };
                return Ok(Progress::Sweeping);
            };
            let bytes = self.store.object(&hash)?;
            let below =
                (self.references)(&bytes).map_err(|why| StoreError::damaged(format!("object {hash}: {why}")))?;
            pending.extend(below);
            self.report.marked += 1;
        }
        self.phase = Phase::Mark { pending };
        Ok(Progress::Marking)
    }

    /// A persisted tree stays whole exactly if its root is kept: else its row must go before its objects do.
    fn forget(&mut self, from: Revision, to: Revision, budget: usize) -> Result<Progress, StoreError> {
        let rows = self.store.persisted(from..=to, Order::Ascending, budget.max(1))?;
        let kept = |hash: &Hash| self.store.gate().is_kept(hash);
        let gone: Vec<Revision> = rows
            .iter()
            .filter(|row| !kept(&row.root))
            .map(|row| row.revision)
            .collect();
        if !gone.is_empty() {
            self.store.forget_persisted(&gone)?;
            self.report.trees_forgotten += gone.len() as u64;
        }
        self.phase = match rows.last() {
            Some(last) if last.revision < to => Phase::Forget {
                from: Revision(last.revision.0 + 1),
                to,
            },
            _ => Phase::Delete { from: Hash::ZERO },
        };
        Ok(Progress::Sweeping)
    }

    fn delete(&mut self, from: Hash, budget: usize) -> Result<Progress, StoreError> {
        let found = self.store.object_sizes(&from, budget.max(1))?;
        for some in found.chunks(DELETED_AT_ONCE) {
            let (count, bytes) = self
                .store
                .gate()
                .delete_unkept(some, |doomed| self.store.delete_objects(doomed))?;
            self.report.scanned += some.len() as u64;
            self.report.deleted += count;
            self.report.bytes_deleted += bytes;
        }
        match found.last().and_then(|(last, _)| successor(last)) {
            Some(next) => {
                self.phase = Phase::Delete { from: next };
                Ok(Progress::Sweeping)
            }
            None => {
                self.store.gate().open();
                Ok(Progress::Done)
            }
        }
    }
}

impl Drop for Sweeper<'_> {
    fn drop(&mut self) {
        self.store.gate().open();
    }
}

/// Few enough that a commit hardly waits for the lock.
const DELETED_AT_ONCE: usize = 256;

fn successor(hash: &Hash) -> Option<Hash> {
    let mut next = *hash;
    for byte in next.0.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// Shut while a sweep runs. Every commit passes through it; see the head of this file for why that is enough.
#[derive(Default)]
pub struct SweepGate {
    /// Held for reading by commits under way.
    commits: RwLock<()>,
    marks: Mutex<Option<Marks>>,
}

/// A commit under way; it is dropped when the batch is visible.
pub struct Admitted<'g> {
    _commit: RwLockReadGuard<'g, ()>,
}

impl SweepGate {
    /// Saves a batch's objects from a running sweep, before they are written.
    pub fn admit<'h>(&self, objects: impl Iterator<Item = &'h Hash>) -> Admitted<'_> {
        let admitted = Admitted {
            _commit: self.commits.read(),
        };
        if let Some(marks) = self.marks.lock().as_mut() {
            for hash in objects {
                marks.admitted.insert(hash);
            }
        }
        admitted
    }

    /// As `admit`, for writers that a running sweep would endanger: `Busy` then.
    pub fn admit_alone(&self) -> Result<Admitted<'_>, StoreError> {
        let admitted = Admitted {
            _commit: self.commits.read(),
        };
        match *self.marks.lock() {
            Some(_) => Err(StoreError::Busy {
                what: "a sweep is running".into(),
            }),
            None => Ok(admitted),
        }
    }

    fn shut(&self) -> Result<(), StoreError> {
        let _none_under_way = self.commits.write();
        let mut marks = self.marks.lock();
        if marks.is_some() {
            return Err(StoreError::Busy {
                what: "a sweep is running".into(),
            });
        }
        *marks = Some(Marks::default());
        Ok(())
    }

    fn open(&self) {
        *self.marks.lock() = None;
    }

    /// Whether the mark is new.
    fn mark(&self, hash: &Hash) -> bool {
        self.marks
            .lock()
            .as_mut()
            .is_some_and(|marks| marks.walked.insert(hash))
    }

    fn is_kept(&self, hash: &Hash) -> bool {
        self.marks.lock().as_ref().is_none_or(|marks| marks.keep(hash))
    }

    fn delete_unkept(
        &self,
        found: &[(Hash, u32)],
        delete: impl FnOnce(&[Hash]) -> Result<(), StoreError>,
    ) -> Result<(u64, u64), StoreError> {
        let guard = self.marks.lock();
        let Some(marks) = guard.as_ref() else { return Ok((0, 0)) };
        let doomed: Vec<&(Hash, u32)> = found.iter().filter(|(hash, _)| !marks.keep(hash)).collect();
        if !doomed.is_empty() {
            delete(&doomed.iter().map(|(hash, _)| *hash).collect::<Vec<_>>())?;
        }
        Ok((
            doomed.len() as u64,
            doomed.iter().map(|(_, size)| u64::from(*size)).sum(),
        ))
    }
}

#[derive(Default)]
struct Marks {
    /// Reached from a root: so is all below.
    walked: MarkSet,
    /// Part of a batch since the gate was shut.
    admitted: MarkSet,
}

impl Marks {
    fn keep(&self, hash: &Hash) -> bool {
        self.walked.contains(hash) || self.admitted.contains(hash)
    }
}

/// The first 16 bytes of each marked hash, in short sorted runs: 16 to 18 bytes for each, without the doubling of a
/// hash table. Not fewer bytes, as the walk stops at what it has marked: a false mark could cost a kept tree its
/// objects, and two objects that agree in 8 bytes can be made on purpose.
struct MarkSet {
    runs: Vec<Vec<u128>>,
}

impl Default for MarkSet {
    fn default() -> MarkSet {
        MarkSet {
            runs: vec![Vec::new(); 4096],
        }
    }
}

impl MarkSet {
    fn insert(&mut self, hash: &Hash) -> bool {
        let (run, key) = MarkSet::place(hash);
        let run = &mut self.runs[run];
        let Err(at) = run.binary_search(&key) else { return false };
        if run.len() == run.capacity() {
            run.reserve_exact(8 + run.len() / 8);
        }
        run.insert(at, key);
        true
    }

    fn contains(&self, hash: &Hash) -> bool {
        let (run, key) = MarkSet::place(hash);
        self.runs[run].binary_search(&key).is_ok()
    }

    fn place(hash: &Hash) -> (usize, u128) {
        let run = usize::from(hash.0[0]) << 4 | usize::from(hash.0[1] >> 4);
        let mut key = [0; 16];
        key.copy_from_slice(&hash.0[..16]);
        (run, u128::from_be_bytes(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_set_knows_what_was_put_in() {
        let mut marks = MarkSet::default();
        let hashes: Vec<Hash> = (0..20_000u32).map(|i| Hash::of(&i.to_be_bytes())).collect();
        for hash in &hashes[..10_000] {
            assert!(marks.insert(hash));
            assert!(!marks.insert(hash));
        }
        assert!(hashes[..10_000].iter().all(|hash| marks.contains(hash)));
        assert!(!hashes[10_000..].iter().any(|hash| marks.contains(hash)));
        let slots: usize = marks.runs.iter().map(Vec::capacity).sum();
        assert!(slots < 10_000 * 4, "{slots} slots for 10,000 marks");
    }

    #[test]
    fn the_successor_of_a_hash_is_the_next_one() {
        assert_eq!(successor(&Hash([255; 32])), None);
        let mut carry = Hash::ZERO;
        carry.0[31] = 255;
        let next = successor(&carry).map(|next| (next.0[30], next.0[31]));
        assert_eq!(next, Some((1, 0)));
    }
}
