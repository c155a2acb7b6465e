//! Replicas: they fold, write and tell, or die on the way and start again from what their store holds.

use super::super::faults::{Reads, happens};
use super::super::oracle;
use super::super::plants::{Feed, Plant};
use super::super::workload::{self, Envelope};
use super::{Check, Held, VICTIM, World, breach};
use crate::kept::state_at;
use crate::step::{Disagreement, Effects, FoldError, Folder, Mark, Next, Settlement};
use crate::view::View;
use confold_log::memory::MemoryLog;
use confold_log::{Log, Reader, Record, Tip};
use confold_model::event::{self, Body, Checkpoint};
use confold_model::fold::{self, Outcome};
use confold_model::ids::{Hash, Position, Time};
use confold_store::Store;
use confold_store::memory::MemoryStore;
use rand::Rng;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Site {
    pub(super) id: [u8; 16],
    /// `None` while it is down.
    pub(super) folder: Option<Folder>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) reader: Box<dyn Reader>,
    pub(super) queue: VecDeque<Record>,
    pub(super) feed: Feed,
    pub(super) view: Option<Arc<View>>,
    /// Copies of the store as it once was.
    pub(super) copies: Vec<MemoryStore>,
    /// Of the newest batch: what a restart must find.
    pub(super) last_state: Option<(Position, Hash)>,
    /// What the planted bug holds back or has done.
    pub(super) planted: bool,
    pub(super) idle_until: u64,
    pub(super) batch_limit: u64,
    pub(super) halted: bool,
    pub(super) announce: Option<Mark>,
}

impl World {
    pub(super) fn site_turn(&mut self, number: usize) -> Held {
        if self.sites[number].idle_until > self.step {
            return Ok(());
        }
        if happens(&mut self.rng, self.odds.stall) {
            self.tally.count("fault: replica stalls");
            self.sites[number].idle_until = self.step + self.rng.random_range(5..60);
            return Ok(());
        }
        if self.sites[number].folder.is_none() {
            return self.start(number);
        }
        if happens(&mut self.rng, self.odds.snapshot) {
            let copy = self.sites[number].store.snapshot();
            let copies = &mut self.sites[number].copies;
            if copies.len() > 2 {
                copies.remove(0);
            }
            copies.push(copy);
        }
        if happens(&mut self.rng, self.odds.crash) {
            self.crash(number, "fault: replica restarts");
            return Ok(());
        }
        if self.rng.random_ratio(3, 5) {
            self.fold(number)?;
        }
        if happens(&mut self.rng, self.odds.sweep) {
            self.sweep(number)?;
        }
        if happens(&mut self.rng, self.odds.shed)
            && let Some(folder) = &mut self.sites[number].folder
            && folder.collected() == 0
        {
            self.tally.count("fault: tree dropped from memory");
            folder.shed(0);
        }
        if self.rng.random_ratio(1, 40 * self.scale) {
            self.inspect(number)?;
        }
        let announce = self.sites[number].announce.take();
        if let Some(mark) = announce.filter(|_| !self.upgrading && self.rng.random_ratio(3, 4)) {
            let Mark { position, chain, state } = mark;
            let replica = self.sites[number].id;
            let durable = position;
            let announced = Checkpoint {
                replica,
                build: "sim".into(),
                level: event::LEVEL,
                position,
                chain,
                state,
                durable,
            };
            self.housekeeping(workload::checkpoint(announced, false));
        }
        Ok(())
    }

    pub(super) fn may_stop(&self, number: usize) -> bool {
        number != VICTIM || !self.plant.is_some_and(Plant::keeps_up)
    }

    /// Everything that is not in the store is gone.
    pub(super) fn crash(&mut self, number: usize, name: &str) {
        if !self.may_stop(number) {
            return;
        }
        self.tally.count(name);
        let site = &mut self.sites[number];
        site.folder = None;
        site.view = None;
        site.announce = None;
        site.halted = false;
        site.queue.clear();
        self.clients
            .iter_mut()
            .filter(|client| client.home == number)
            .for_each(|client| client.held = None);
        if !site.copies.is_empty() && happens(&mut self.rng, self.odds.old_store) {
            self.tally.count("fault: restart from an old copy");
            let which = self.rng.random_range(0..site.copies.len());
            site.store = Arc::new(site.copies[which].snapshot());
            site.last_state = None;
        }
        if self.plant == Some(Plant::LogRewritten) && number == VICTIM {
            self.rewrite();
        }
        self.sites[number].idle_until = self.step + self.rng.random_range(0..15);
    }

    /// From what the store holds.
    pub(super) fn start(&mut self, number: usize) -> Held {
        let site = &mut self.sites[number];
        let mut folder = match Folder::restore(&*site.store, site.id) {
            Ok(folder) => folder,
            Err(error) => {
                return self.checkers.require(Check::OneBatch, false, || {
                    format!("replica {number} cannot start: {error}")
                });
            }
        };
        let head = site.store.head();
        let from = head.as_ref().map_or(Position(0), |head| head.applied.next());
        if let Some(head) = &head {
            // The overlap read: what was folded last is still what the log holds.
            self.log.anchor(Tip { position: head.applied, digest: head.before, time: head.time });
            let on_log = record_at(&self.log, head.applied);
            let same = on_log.as_ref().is_some_and(|record| record.digest == head.digest);
            self.checkers.require(Check::Digest, same, || {
                format!(
                    "replica {number}: position {} on the log is not the one folded: {on_log:?}",
                    head.applied
                )
            })?;
            let state = folder.state().clone().hash();
            if let Some((position, hash)) = site.last_state {
                self.checkers.require(Check::OneBatch, position == head.applied, || {
                    format!("replica {number} stood at {position} and starts at {}", head.applied)
                })?;
                self.checkers.require(Check::StateRows, hash == state, || {
                    format!(
                        "replica {number} at {position}: state {} before the restart, {} after",
                        hash.short(),
                        state.short()
                    )
                })?;
            }
            let view = Arc::new(folder.view());
            site.halted = view.level > event::LEVEL;
            site.view = Some(view);
        }
        site.reader = match self.log.reader(from) {
            Ok(reader) => reader,
            Err(error) => return breach(Check::Digest, format!("replica {number} cannot read on: {error}")),
        };
        site.folder = Some(folder);
        Ok(())
    }

    /// Folds a batch, writes it, lets its effects go; or dies on the way.
    pub(super) fn fold(&mut self, number: usize) -> Held {
        let deaf = number == VICTIM && self.plant == Some(Plant::DeafReplica) && self.step > 20;
        if self.sites[number].halted || deaf {
            return Ok(());
        }
        let limit = self.rng.random_range(1..=self.sites[number].batch_limit);
        let countdown = if happens(&mut self.rng, self.odds.read_failure) {
            self.rng.random_range(0..3)
        } else {
            -1
        };
        let lies = number == VICTIM && self.plant == Some(Plant::WrongObject) && self.rng.random_ratio(1, 10);
        if lies
            && let Some(folder) = &mut self.sites[number].folder
            && folder.collected() == 0
        {
            folder.shed(0);
        }
        let site = &mut self.sites[number];
        let Some(folder) = &mut site.folder else { return Ok(()) };
        let store = site.store.clone();
        let mut shadow = match folder.collected() == 0 && self.rng.random_ratio(1, 16 * self.scale) {
            true => Some(
                Folder::restore(&*store, site.id)
                    .or_else(|error| breach(Check::OneBatch, format!("replica {number}: {error}")))?,
            ),
            false => None,
        };
        if let Some(shadow) = &shadow
            && folder.state().position().is_some()
        {
            let (kept, live) = (shadow.state().clone().hash(), folder.state().clone().hash());
            self.checkers.require(Check::StateRows, kept == live, || {
                format!(
                    "replica {number} at {:?}: state {} in memory, {} from its rows",
                    folder.state().position(),
                    live.short(),
                    kept.short()
                )
            })?;
        }
        let reads = Reads::good(&*store).fail_after(countdown).lie(lies);
        let mut folded = 0;
        let mut ends = false;
        while folded < limit && !ends {
            let Some(record) = next_record(&mut *site.reader, &mut site.queue, &mut site.feed) else {
                break;
            };
            let expected = folder.state().next_position();
            match folder.fold(&record, &reads) {
                Ok(next) => {
                    folded += 1;
                    self.tally.count("records folded");
                    self.checkers.folded(number, folder, &self.oracle)?;
                    ends = next == Next::Ends;
                }
                Err(FoldError::Objects { error, .. }) => {
                    site.queue.push_front(record.clone());
                    self.checkers.require(Check::Objects, reads.has_failed(), || {
                        format!("replica {number}: {error}")
                    })?;
                    self.tally.count("fault: store read fails");
                    let unmoved = folder.state().next_position() == expected;
                    self.checkers.require(Check::Pure, unmoved, || {
                        format!("a fold that failed moved replica {number} from {expected}")
                    })?;
                    break;
                }
                Err(FoldError::Fenced(what)) => {
                    let check = if record.position == expected {
                        Check::Digest
                    } else {
                        Check::Positions
                    };
                    return breach(check, format!("replica {number}: {what}"));
                }
            }
            if let Some(shadow) = &mut shadow {
                let mut record = record;
                if number == VICTIM && self.plant == Some(Plant::ImpureFold) {
                    record.time = Time(record.time.0 + 5_000_000);
                    let before = shadow.state().digest();
                    record.digest =
                        confold_model::digest::log_digest(before, record.position, record.time, &record.bytes);
                }
                if let Err(error) = shadow.fold(&record, &*store) {
                    self.checkers.require(Check::Pure, false, || {
                        format!("replica {number} folds what its double cannot: {error}")
                    })?;
                }
                let (one, other) = (folder.state(), shadow.state());
                let same = (one.chain(), one.root(), one.time(), one.digest())
                    == (other.chain(), other.root(), other.time(), other.digest());
                self.checkers.require(Check::Pure, same, || {
                    format!(
                        "position {}: folding again from the same state gives another result",
                        record.position
                    )
                })?;
            }
        }
        if let Some(shadow) = &shadow {
            let (one, other) = (folder.state().clone().hash(), shadow.state().clone().hash());
            self.checkers.require(Check::Pure, one == other, || {
                format!("replica {number}: its double has another state")
            })?;
        }
        // Now and then the batch stays open until the next turn, and is shown or not.
        if !ends && self.rng.random_ratio(1, 3) {
            let Some(folder) = &mut self.sites[number].folder else { return Ok(()) };
            if folder.collected() == 0 || self.rng.random_ratio(1, 2) {
                return Ok(());
            }
            let effects = folder.show();
            self.tally.count("batches shown while they are open");
            let later = self.release(number, effects)?;
            if later.is_empty() {
                return Ok(());
            }
            self.finish(number)?;
            return match self.sites[number].folder {
                Some(_) => self.settle_waiters(number, later),
                None => Ok(()),
            };
        }
        self.finish(number)
    }

    pub(super) fn finish(&mut self, number: usize) -> Held {
        if self.odds.crash > 0 && self.rng.random_ratio(1, 60 * self.scale.div_ceil(8)) {
            self.crash(number, "fault: death before a batch is written");
            return Ok(());
        }
        let site = &mut self.sites[number];
        let Some(folder) = &mut site.folder else { return Ok(()) };
        let Some(mut folded) = folder.finish() else {
            return Ok(());
        };
        let victim = self.plant.filter(|_| number == VICTIM);
        // Most plants need something to lose.
        match victim {
            Some(Plant::MisreportedOutcome) => {
                if let Some(last) = folded.effects.settlements.last_mut() {
                    last.outcome = Outcome::Accepted;
                }
            }
            Some(Plant::LostObject) if !folded.batch.objects.is_empty() && self.rng.random_ratio(1, 4) => {
                let which = self.rng.random_range(0..folded.batch.objects.len());
                folded.batch.objects.remove(which);
            }
            Some(Plant::LostStateRow) if self.rng.random_ratio(1, 4) && folded.batch.state.len() > 1 => {
                // Rows of the fold only: the replica's own are not in the state.
                let fold: Vec<usize> = (0..folded.batch.state.len())
                    .filter(|at| folded.batch.state[*at].table < 0x8000)
                    .collect();
                let which = fold[self.rng.random_range(0..fold.len())];
                if folded.batch.state[which].table > 0 {
                    folded.batch.state.remove(which);
                }
            }
            Some(Plant::LostWindow | Plant::LostWindowUnseen) => {
                folded
                    .batch
                    .state
                    .retain(|edit| edit.table != confold_model::state::member::WINDOW);
            }
            Some(Plant::LostPolicy) => {
                folded
                    .batch
                    .state
                    .retain(|edit| edit.table != confold_model::state::member::POLICY);
            }
            Some(Plant::TornBatch) if self.step > 15 => folded.batch.state.clear(),
            Some(Plant::LostIdRow) => folded.batch.ids.truncate(folded.batch.ids.len().saturating_sub(1)),
            Some(Plant::WrongHistoryRow) => folded
                .batch
                .revisions
                .iter_mut()
                .for_each(|row| row.time = Time(row.time.0 + 1)),
            Some(Plant::LostMarkFlag) => folded.batch.mark = false,
            Some(Plant::OldStoreUnderFolder) if self.rng.random_ratio(1, 8) => {
                if let Some(copy) = site.copies.first() {
                    site.store = Arc::new(copy.snapshot());
                }
            }
            _ => {}
        }
        let (position, chain) = (folded.batch.head.applied, folded.batch.head.chain);
        let later = self.release(number, folded.effects)?;
        if self.odds.crash > 0 && self.rng.random_ratio(1, 60 * self.scale.div_ceil(8)) {
            self.crash(number, "fault: death between effects and their batch");
            return Ok(());
        }
        let site = &mut self.sites[number];
        if let Err(error) = site.store.commit(&folded.batch) {
            return breach(Check::OneBatch, format!("replica {number}: {error}"));
        }
        let Some(folder) = &site.folder else { return Ok(()) };
        self.checkers.committed(number, folder, &site.store)?;
        site.last_state = match self.rng.random_ratio(1, 4 * self.scale) {
            true => Some((position, self.checkers.state(number, folder)?)),
            false => None,
        };
        self.trace = Hash::of(&[&self.trace.0[..], &[number as u8], &position.0.to_be_bytes(), &chain.0].concat());
        self.tally.count("batches");
        self.settle_waiters(number, later)
    }

    /// Where another announced something else, a replica that is right finds its own value again in the log.
    fn fold_disputes_again(&mut self, number: usize, disagreements: &[Disagreement]) -> Held {
        let site = &self.sites[number];
        let Some(folder) = &site.folder else { return Ok(()) };
        for disagreement in disagreements {
            let Some(hold) = folder.hold_below(disagreement.ours.position) else { continue };
            let store = &*site.store;
            let mut state = match state_at(store, hold.mark.position) {
                Ok(state) => state,
                Err(error) => return breach(Check::StateRows, format!("replica {number}: {error}")),
            };
            let from = state.next_position();
            self.log.anchor(Tip { position: from, digest: state.digest(), time: state.time() });
            let mut reader = match self.log.reader(from) {
                Ok(reader) => reader,
                Err(error) => return breach(Check::Digest, format!("replica {number} cannot fold again: {error}")),
            };
            while state.position() < Some(disagreement.ours.position) {
                let Ok(records) = reader.read(1, usize::MAX, Duration::ZERO) else { return Ok(()) };
                let Some(record) = records.first() else { return Ok(()) };
                if let Err(error) = fold::apply(&mut state, record.time, &record.bytes, store) {
                    return breach(Check::Objects, format!("replica {number} cannot fold again: {error}"));
                }
            }
            self.tally.count("dispute: folded again");
            let own = (disagreement.ours.chain, disagreement.ours.state) == (state.chain(), state.hash());
            let lied_to = self.plant.is_some() && number == VICTIM;
            self.checkers.require(Check::StateRows, own || lied_to, || {
                format!("replica {number} is right about mark {} and does not find its value again", disagreement.ours.position)
            })?;
            if !own {
                self.tally.count("dispute: the one that is wrong finds another value");
            }
        }
        Ok(())
    }

    /// Gives back those settlements that are answered from the store, which wait for the batch.
    pub(super) fn release(&mut self, number: usize, effects: Effects) -> Held<Vec<Settlement>> {
        self.checkers.shown(number, &effects, &self.oracle)?;
        self.fold_disputes_again(number, &effects.disagreements)?;
        let site = &mut self.sites[number];
        site.announce = effects.mark.or(site.announce);
        if effects.halt.is_some() {
            self.tally.count("replica halts at an unknown level");
            site.halted = !(self.plant == Some(Plant::FoldsPastHalt) && number == VICTIM);
        }
        let before = site.view.clone().filter(|_| self.plant == Some(Plant::OldViewShown) && number == VICTIM);
        self.publish(number, before.unwrap_or(effects.view))?;
        let (later, now) = effects.settlements.into_iter().partition(Settlement::asks_index);
        self.settle_waiters(number, now)?;
        Ok(later)
    }

    /// Readers see it from now on.
    pub(super) fn publish(&mut self, number: usize, view: Arc<View>) -> Held {
        let Some(folder) = &self.sites[number].folder else { return Ok(()) };
        let state = folder.state();
        let folded = (state.position(), state.chain(), state.root()) == (Some(view.position), view.chain, view.root);
        self.checkers.require(Check::Views, folded, || {
            let (position, root) = (state.position(), state.root());
            format!(
                "replica {number} shows position {} root {}, it has folded {position:?} root {}",
                view.position,
                view.root.short(),
                root.short()
            )
        })?;
        self.sites[number].view = Some(view);
        Ok(())
    }

    /// The log loses its end and gets another.
    pub(super) fn rewrite(&mut self) {
        let Some(head) = self.sites[VICTIM].store.head() else {
            return;
        };
        if head.applied.0 < 5 || self.sites[VICTIM].planted {
            return;
        }
        self.sites[VICTIM].planted = true;
        self.log.cut(Position(head.applied.0 - 2));
        // Long enough that nobody finds the log too short for what they have read.
        while self.log.range().end.0 < self.oracle.records.len() as u64 + 5 {
            let envelope = Envelope {
                id: None,
                intent: 0,
                principal: 0,
                incarnation: self.oracle.incarnation(),
                reason: "another end".into(),
            };
            let record = workload::record(&envelope, Body::Fence);
            self.oracle.book.insert(
                record.clone(),
                Rc::new(workload::meaning(&envelope, oracle::Body::Fence)),
            );
            let _said = self.log.append(record);
            let _count = self.log.deliver_all();
        }
    }
}

fn record_at(log: &MemoryLog, position: Position) -> Option<Record> {
    log.reader(position)
        .ok()?
        .read(1, usize::MAX, Duration::ZERO)
        .ok()?
        .pop()
}

/// The next record that the replica is shown.
fn next_record(reader: &mut dyn Reader, queue: &mut VecDeque<Record>, feed: &mut Feed) -> Option<Record> {
    while queue.is_empty() {
        let read = reader
            .read(64, usize::MAX, Duration::ZERO)
            .expect("the memory log can be read");
        if read.is_empty() {
            return None;
        }
        for record in read {
            queue.extend(feed.give(record));
        }
    }
    queue.pop_front()
}
