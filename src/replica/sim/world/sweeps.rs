//! Sweeps beside the fold, and looks at everything that is kept.

use super::super::checkers::stored;
use super::super::oracle::is_kept;
use super::super::plants::Plant;
use super::{Check, Held, VICTIM, World, breach};
use crate::view::View;
use confold_model::ids::{Hash, Position, Revision};
use confold_model::node::EMPTY_NODE;
use confold_model::objects::references;
use confold_store::sweep::{Progress, Sweeper};
use confold_store::{Order, PersistedTree, Store};
use rand::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

impl World {
    pub(super) fn sweep(&mut self, number: usize) -> Held {
        // What was shown is in the store before a sweep is planned.
        self.finish(number)?;
        let Some(view) = self.sites[number].view.clone() else {
            return Ok(());
        };
        let store = self.sites[number].store.clone();
        let tags: BTreeMap<Rc<str>, u64> = view
            .tags
            .iter()
            .map(|(name, tag)| (name.as_str().into(), tag.revision.0))
            .collect();
        for tagged in tags.values().filter(|revision| **revision <= view.floor.0) {
            let revision = Revision(*tagged);
            if !store
                .persisted(revision..=revision, Order::Ascending, 1)
                .unwrap_or_default()
                .is_empty()
            {
                continue;
            }
            let tree = self.checkers.remade(number, &store, revision, &self.oracle)?;
            let mut objects = Vec::new();
            tree.unpersisted(&mut |hash, bytes| objects.push((hash, bytes)));
            let Some(row) = store.revision(revision).unwrap_or_default() else {
                continue;
            };
            let made = PersistedTree {
                revision,
                position: row.position,
                root: row.root,
                mark: false,
            };
            if let Err(error) = store.persist_tree(made, &objects) {
                return breach(Check::Reachable, format!("replica {number}: {error}"));
            }
            self.tally.count("sweep: tagged revision made whole");
        }
        let nearest = store
            .persisted_at_or_below(view.floor)
            .unwrap_or_default()
            .map(|tree| tree.revision);
        let rows = store
            .persisted(Revision(0)..=view.revision, Order::Ascending, usize::MAX)
            .unwrap_or_default();
        let mut roots: Vec<Hash> = Vec::new();
        for row in &rows {
            let above = row.revision > view.floor && (row.mark || self.rng.random_ratio(2, 3));
            if above || tags.values().any(|tagged| *tagged == row.revision.0) || nearest == Some(row.revision) {
                roots.push(row.root);
            }
        }
        let held = self.held_roots(number);
        if self.plant != Some(Plant::SweepForgetsHeldViews) || number != VICTIM {
            roots.extend(&held);
        }
        let links = |bytes: &[u8]| references(bytes).map_err(|refused| refused.to_string());
        let begun = Sweeper::begin(&*store, &links, || Ok(roots));
        let mut sweeper = match begun {
            Ok(sweeper) => sweeper,
            Err(error) => return breach(Check::Reachable, format!("replica {number}: {error}")),
        };
        let together = self.rng.random_bool(0.5);
        let mut alone = true;
        loop {
            match sweeper.step(self.rng.random_range(1..80)) {
                Ok(Progress::Done) => break,
                Ok(_) => {}
                Err(error) => {
                    return self
                        .checkers
                        .require(Check::Reachable, false, || format!("replica {number}: {error}"));
                }
            }
            if together && self.rng.random_ratio(1, 3) {
                alone = false;
                self.fold(number)?;
            }
            if self.rng.random_ratio(1, 60) || !Arc::ptr_eq(&store, &self.sites[number].store) {
                self.tally.count("fault: sweep cut short");
                return Ok(());
            }
        }
        let report = sweeper.report();
        drop(sweeper);
        self.tally
            .count(if alone { "sweep: alone" } else { "sweep: while folding" });
        if report.deleted > 0 {
            self.tally.count("sweep: found something");
        }
        if self.plant == Some(Plant::SweepTakesLiveObject) && number == VICTIM {
            let stored = store.object_sizes(&Hash::ZERO, 50).unwrap_or_default();
            if let Some((hash, _)) = stored.last() {
                store.delete_objects(&[*hash]).expect("the memory store deletes");
            }
        }
        // Commits of a sweep's time bring objects that its own roots do not reach; so do stalled heads.
        self.checkers.reachable(number, &store, &held, alone)?;
        self.inspect_views(number)
    }

    /// Of views that somebody holds, and of marks whose state is kept.
    pub(super) fn held_roots(&self, number: usize) -> Vec<Hash> {
        let views = self
            .clients
            .iter()
            .filter(|client| client.home == number)
            .filter_map(|client| client.held.as_ref());
        let head = self.sites[number].store.head().map_or(Position(0), |head| head.applied);
        let roots = views
            .map(|held| &held.view)
            .chain(&self.sites[number].view)
            .filter_map(|view| view.needs(head))
            .chain(
                self.sites[number]
                    .view
                    .iter()
                    .flat_map(|view| view.kept.iter().map(|mark| mark.root)),
            );
        roots.filter(|root| *root != EMPTY_NODE).collect()
    }

    pub(super) fn inspect_views(&mut self, number: usize) -> Held {
        for client in self.clients.iter().filter(|client| client.home == number) {
            if let Some(held) = &client.held {
                let store = &self.sites[number].store;
                let head = store.head().map_or(Position(0), |head| head.applied);
                // As a reader who has nothing of it in memory, where the store has it all.
                let tree = match held.view.is_written(head) {
                    true => stored(held.view.root),
                    false => held.view.tree.clone(),
                };
                let read = View { tree, ..(*held.view).clone() };
                self.checkers.view(number, &read, store, &held.tree)?;
            }
        }
        Ok(())
    }

    pub(super) fn inspect(&mut self, number: usize) -> Held {
        self.tally.count("inspections");
        let store = self.sites[number].store.clone();
        self.checkers.tree(number, &store, &self.oracle)?;
        self.checkers.history(number, &store, &self.oracle)?;
        self.inspect_views(number)?;
        let Some(head) = store.head() else { return Ok(()) };
        // Any kept revision can be made again.
        let latest = head.revision.0;
        let revision = latest.saturating_sub(self.rng.random_range(0..40)).max(1);
        if revision <= latest
            && is_kept(revision, latest, head.floor.0, &self.oracle.tags)
            && self.rng.random_ratio(1, 3)
        {
            self.tally.count("revisions made again");
            self.checkers.remade(number, &store, Revision(revision), &self.oracle)?;
        }
        Ok(())
    }
}
