//! Which trees stay in the store, and the sweep that takes away the objects of the others.
//!
//! Kept are: the tree that the fold builds on, what thinning leaves above the floor, the nearest persisted tree at or below the
//! floor, every tagged revision below it (made whole first, before the tree that it would be re-made from may go), and
//! whatever somebody holds at the moment.

use crate::core::Core;
use crate::options::Thinning;
use crate::past::{Kept, PastError};
use crate::view::View;
use confold_model::ids::{Hash, Position, Revision};
use confold_model::node::EMPTY_NODE;
use confold_model::objects::references;
use confold_store::sweep::{Progress, Report, Sweeper};
use confold_store::{Order, PersistedTree, StoreError};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What one sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepOutcome {
    pub report: Report,
    /// Tagged revisions that were made whole beforehand.
    pub tagged_persisted: u64,
    /// It was cut short, by a shutdown; the next one begins anew.
    pub cut_short: bool,
}

impl Core {
    /// One sweep from beginning to end, giving way to the fold as the options say unless `at_once`.
    pub fn sweep(&self, at_once: bool) -> Result<SweepOutcome, StoreError> {
        let _one = self.sweeping.lock();
        self.house.begin_sweep();
        let swept = self.sweep_once(at_once);
        let complete = swept.as_ref().is_ok_and(|outcome| !outcome.cut_short);
        self.house.end_sweep(&*self.store, complete);
        swept
    }

    fn sweep_once(&self, at_once: bool) -> Result<SweepOutcome, StoreError> {
        // Planned from one view: whatever is tagged or released after it is only kept longer.
        let begun = Instant::now();
        let view = self.views.latest();
        self.rows()?;
        self.past.forget(|revision| !view.is_kept(revision));
        let mut outcome = SweepOutcome { tagged_persisted: self.persist_tagged(&view)?, ..SweepOutcome::default() };
        let links = |bytes: &[u8]| references(bytes).map_err(|refused| refused.to_string());
        let ended = EndSweep(self);
        let mut sweeper = Sweeper::begin(&*self.store, &links, || {
            let mut roots = Vec::new();
            let pinned = self.pins.begin_sweep(|| {
                let (kept, kept_roots) = self.plan(&view)?;
                roots = kept_roots;
                Ok(kept)
            })?;
            roots.extend(pinned);
            roots.extend(self.views.held_roots(self.store.head().map_or(Position(0), |head| head.applied)));
            roots.extend(view.kept.iter().map(|mark| mark.root).filter(|root| *root != EMPTY_NODE));
            Ok(roots)
        })?;
        loop {
            if self.is_stopped() {
                outcome.cut_short = true;
                break;
            }
            let started = Instant::now();
            if sweeper.step(self.options.sweep_step)? == Progress::Done {
                break;
            }
            if !at_once {
                let share = self.options.sweep_percent.clamp(1, 100);
                self.pause(started.elapsed() * (100 - share) / share);
            }
        }
        outcome.report = sweeper.report();
        drop(sweeper);
        drop(ended);
        let Report { deleted, bytes_deleted, trees_forgotten, .. } = outcome.report;
        let tally = &self.metrics.tally;
        tally.sweeps.fetch_add(1, Relaxed);
        tally.swept_objects.fetch_add(deleted, Relaxed);
        tally.swept_bytes.fetch_add(bytes_deleted, Relaxed);
        self.metrics.last_sweep.set(begun.elapsed());
        tracing::info!(floor = view.floor.0, deleted, bytes_deleted, trees_forgotten, "swept");
        Ok(outcome)
    }

    /// Makes whole every tagged revision at or below the floor.
    fn persist_tagged(&self, view: &View) -> Result<u64, StoreError> {
        let tagged: BTreeSet<Revision> = view.tags.values().map(|tag| tag.revision).filter(|r| *r <= view.floor).collect();
        let mut made = 0;
        for revision in tagged {
            if !self.store.persisted(revision..=revision, Order::Ascending, 1)?.is_empty() {
                continue;
            }
            // Not through the cache: handing its objects out marks the tree as stored, which it is only when that worked.
            let past = self.remake(view, revision, None).map_err(|error| match error {
                PastError::Differs { .. } => StoreError::damaged(error.to_string()),
                other => StoreError::Busy { what: other.to_string() },
            })?;
            let mut objects = Vec::new();
            past.tree.unpersisted(&mut |hash, bytes| objects.push((hash, bytes)));
            let tree = PersistedTree { revision, position: past.position, root: past.root, mark: false };
            self.store.persist_tree(tree, &objects)?;
            made += 1;
        }
        Ok(made)
    }

    /// The persisted trees to keep, by revision and by root.
    fn plan(&self, view: &View) -> Result<(Kept, Vec<Hash>), StoreError> {
        let head = self.store.head().map_or((Revision(0), Position(0)), |head| (head.revision, head.applied));
        let tagged: BTreeSet<Revision> = view.tags.values().map(|tag| tag.revision).collect();
        let nearest = self.store.persisted_at_or_below(view.floor)?.map(|tree| tree.revision);
        let mut thinned = Thinned::new(self.options.thinning, head.1);
        let mut kept = Kept { up_to: head.0, revisions: BTreeSet::new() };
        let mut roots = Vec::new();
        let mut from = Revision(0);
        loop {
            let rows = self.store.persisted(from..=head.0, Order::Ascending, PAGE)?;
            for row in &rows {
                let above = row.revision > view.floor && thinned.keeps(row);
                if above || tagged.contains(&row.revision) || nearest == Some(row.revision) || row.revision == head.0 {
                    kept.revisions.insert(row.revision);
                    roots.push(row.root);
                }
            }
            match rows.last() {
                Some(last) if rows.len() == PAGE => from = Revision(last.revision.0 + 1),
                _ => return Ok((kept, roots)),
            }
        }
    }
}

const PAGE: usize = 4096;

/// Says on every way out that no sweep restricts what may be built on.
struct EndSweep<'a>(&'a Core);

impl Drop for EndSweep<'_> {
    fn drop(&mut self) {
        self.0.pins.end_sweep();
    }
}

/// Goes through persisted trees from the oldest on and says which of them age leaves.
struct Thinned {
    rules: Thinning,
    now: Position,
    last_kept: Option<u64>,
}

impl Thinned {
    fn new(rules: Thinning, now: Position) -> Thinned {
        Thinned { rules, now, last_kept: None }
    }

    fn keeps(&mut self, tree: &PersistedTree) -> bool {
        let age = self.now.0.saturating_sub(tree.position.0);
        if age < self.rules.all || (tree.mark && age < self.rules.marks) {
            return true;
        }
        // The first of each stretch of old positions, so that the same ones stay sweep after sweep.
        let stretch = tree.position.0 / self.rules.one_in.max(1);
        let first = tree.mark && self.last_kept != Some(stretch);
        if first {
            self.last_kept = Some(stretch);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_thin_out_with_age_and_what_stays_once_stays_on() {
        let rules = Thinning { all: 10, marks: 100, one_in: 50 };
        let tree = |position: u64| PersistedTree {
            revision: Revision(position),
            position: Position(position),
            root: Hash::ZERO,
            mark: position.is_multiple_of(5),
        };
        let sweep = |trees: &[u64], now: u64| {
            let mut thinned = Thinned::new(rules, Position(now));
            trees.iter().copied().filter(|position| thinned.keeps(&tree(*position))).collect::<Vec<_>>()
        };
        let all: Vec<u64> = (1..=300).collect();
        let once = sweep(&all, 300);
        let expected: Vec<u64> = [5, 50, 100, 150]
            .into_iter()
            .chain((201..=290u64).filter(|position| position.is_multiple_of(5)))
            .chain(291..=300)
            .collect();
        assert_eq!(once.iter().filter(|p| **p < 200).copied().collect::<Vec<_>>(), expected[..4]);
        assert_eq!(once.iter().filter(|p| **p > 200).copied().collect::<Vec<_>>(), expected[4..]);
        assert_eq!(sweep(&once, 300), once, "a second sweep takes nothing more");
        let later = sweep(&once, 1_000);
        assert_eq!(sweep(&all, 1_000), later, "and in the long run it does not matter when was swept");
    }
}
