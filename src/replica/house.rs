//! Housekeeping: marks, checkpoints and prunes proposed in time, the log's health watched, sweeps begun.
//!
//! All of it is idempotent and none of it is waited for: what is lost is proposed again, what comes twice is unchanged.

use crate::core::Core;
use crate::options::Housekeeping;
use crate::propose::Proposal;
use crate::status::{ReplicaState, Standing};
use crate::step::{Effects, Mark};
use bytes::Bytes;
use confold_model::event::{self, Body, Checkpoint, Event};
use confold_model::fold::policy_floor;
use confold_model::ids::{Position, Time};
use confold_store::{Store, StoreError};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What the fold left to do.
pub(crate) struct House {
    chores: Mutex<Chores>,
    called: Condvar,
}

#[derive(Default)]
struct Chores {
    /// Somebody called since the last pass.
    called: bool,
    /// The newest mark that no checkpoint was posted for.
    mark: Option<Mark>,
    /// When the first event other than housekeeping came after the last mark.
    worked_since: Option<Time>,
    /// The floor was raised since the last sweep.
    raised: bool,
    /// How the last sweep left the store, or how it was found: objects there, objects put so far, when.
    swept: Option<Swept>,
    last_mark_proposed: Option<(Position, Time)>,
    last_prune: Option<Time>,
    last_sync: Option<Time>,
}

#[derive(Clone, Copy)]
struct Swept {
    objects: u64,
    put: u64,
    at: Instant,
}

// A sweep costs a walk over all that is kept, so it has to be worth it. What it can find is at most what was written since
// the last one.

/// After a raised floor: when as much was written as this part of what was kept.
const WORTH_RAISED: u64 = 8;
/// Or after this time.
const PATIENCE: Duration = Duration::from_secs(3600);
/// For thinning alone: when as much was written as was kept, and at least this many objects.
const WORTH_THINNING: u64 = 1 << 18;

impl House {
    pub fn new() -> House {
        House { chores: Mutex::default(), called: Condvar::new() }
    }

    /// Takes note of what was folded.
    pub fn note(&self, effects: &Effects, now: impl FnOnce() -> Time) {
        if !effects.worked && effects.mark.is_none() && !effects.floor_raised {
            return;
        }
        let mut chores = self.chores.lock();
        if effects.worked && chores.worked_since.is_none() {
            chores.worked_since = Some(now());
        }
        if effects.mark.is_some() {
            chores.mark = effects.mark;
            chores.worked_since = None;
        }
        chores.raised |= effects.floor_raised;
        if effects.mark.is_some() || effects.floor_raised {
            chores.called = true;
            self.called.notify_all();
        }
    }

    pub fn wake(&self) {
        self.chores.lock().called = true;
        self.called.notify_all();
    }

    /// Waits until somebody calls, at most this long.
    pub fn wait(&self, at_most: Duration) {
        let mut chores = self.chores.lock();
        if !std::mem::take(&mut chores.called) {
            self.called.wait_for(&mut chores, at_most);
            chores.called = false;
        }
    }

    /// As `wait`, for the thread that sweeps; it looks at each mark and whenever the floor was raised.
    pub fn wait_beside(&self, at_most: Duration) {
        self.called.wait_for(&mut self.chores.lock(), at_most);
    }

    /// Whether a sweep would find enough to be worth its walk.
    pub fn sweep_is_worth_it(&self, store: &dyn Store) -> bool {
        let (put, found) = (store.stats().objects_put, store.estimate().objects);
        let mut chores = self.chores.lock();
        let swept = *chores.swept.get_or_insert(Swept { objects: found, put: 0, at: Instant::now() });
        let written = put.saturating_sub(swept.put);
        let raised = chores.raised && (written.saturating_mul(WORTH_RAISED) >= swept.objects || swept.at.elapsed() >= PATIENCE);
        raised || written >= swept.objects.max(WORTH_THINNING)
    }

    /// A sweep begins: what is raised from here on is for the next one.
    pub fn begin_sweep(&self) {
        self.chores.lock().raised = false;
    }

    pub fn end_sweep(&self, store: &dyn Store, complete: bool) {
        let (put, objects) = (store.stats().objects_put, store.estimate().objects);
        let mut chores = self.chores.lock();
        if complete {
            chores.swept = Some(Swept { objects, put, at: Instant::now() });
        } else {
            chores.raised = true;
        }
    }
}

impl Core {
    /// One pass of everything but sweeps.
    pub fn keep_house(self: &Arc<Core>) {
        self.watch_log();
        self.show_metrics();
        if self.options.housekeeping == Housekeeping::ByHand {
            self.settle_disputes();
        }
        if self.stand.state() != ReplicaState::Serving || self.is_closing() {
            return;
        }
        // What is over keeps no house: nothing that would be posted changes it.
        if self.views.latest().sealed {
            return;
        }
        let now = (self.options.clock)();
        self.post_checkpoint(now);
        self.propose_mark(now);
        self.propose_prune(now);
    }

    fn watch_log(&self) {
        match (self.stand.state(), self.log.health()) {
            (ReplicaState::Serving, Err(error)) => {
                self.stand.change(ReplicaState::Serving, Standing::without_log(&error));
            }
            // The cause may become known, or another one.
            (ReplicaState::Degraded, Err(error)) if self.reading() => {
                self.stand.change(ReplicaState::Degraded, Standing::without_log(&error));
            }
            (ReplicaState::Degraded, Ok(())) if self.reading() => {
                self.stand.change(ReplicaState::Degraded, ReplicaState::CatchingUp);
                self.serve_when_caught_up(&self.views.latest());
            }
            _ => {}
        }
    }

    /// Everything up to the mark is made durable first, so that the announcement may say so.
    fn post_checkpoint(&self, now: Time) {
        let due = |last: Option<Time>, every: i64| last.is_none_or(|last| now.0.saturating_sub(last.0) >= every || now < last);
        let (mark, sync) = {
            let mut chores = self.house.chores.lock();
            let Some(mark) = chores.mark.take() else { return };
            let sync = due(chores.last_sync, self.options.sync_every_ms);
            if sync {
                chores.last_sync = Some(now);
            }
            (mark, sync)
        };
        if sync {
            let started = Instant::now();
            match self.rows().and_then(|store| store.sync()) {
                Ok(()) => {}
                // The fold finds out by itself, and waits; the next mark is announced.
                Err(error @ (StoreError::Full { .. } | StoreError::Busy { .. })) => return tracing::warn!(%error, "the mark is not announced"),
                Err(error) => return self.store_failed(&error),
            }
            self.metrics.sync_seconds.record(started.elapsed());
            self.metrics.tally.syncs.fetch_add(1, Relaxed);
        }
        let Mark { position, chain, state } = mark;
        self.post(Body::Checkpoint(Checkpoint {
            replica: self.replica,
            build: env!("CARGO_PKG_VERSION").into(),
            level: event::LEVEL,
            position,
            chain,
            state,
            durable: self.store.durable().unwrap_or_default(),
        }));
    }

    fn propose_mark(&self, now: Time) {
        let last_mark = self.views.latest().last_mark;
        {
            let mut chores = self.house.chores.lock();
            let every = self.options.mark_every_ms;
            let waited = chores.worked_since.is_some_and(|since| now.0.saturating_sub(since.0) >= every);
            let proposed = chores
                .last_mark_proposed
                .is_some_and(|(for_mark, at)| for_mark == last_mark && now.0.saturating_sub(at.0) < every);
            if !waited || proposed {
                return;
            }
            chores.last_mark_proposed = Some((last_mark, now));
        }
        self.post(Body::Mark { last_mark });
    }

    /// Only where the policy would move the floor: an idle store stays quiet.
    fn propose_prune(self: &Arc<Core>, now: Time) {
        {
            let chores = self.house.chores.lock();
            if chores.last_prune.is_some_and(|last| now.0.saturating_sub(last.0) < self.options.prune_every_ms) {
                return;
            }
        }
        let moves = {
            let folder = self.folder.lock();
            let Some(state) = folder.as_ref().map(|folder| folder.state()) else { return };
            policy_floor(state, now.max(state.time())) > state.floor()
        };
        if moves {
            self.house.chores.lock().last_prune = Some(now);
            let prune = Proposal { author: "confold".to_owned(), ..Proposal::new(Body::Prune { floor: None }) };
            // Nobody waits for it: the next pass sees whether the floor has moved.
            let _unwatched = self.submit(prune, Duration::ZERO);
        }
    }

    /// Hands a housekeeping event to the log.
    pub fn post(&self, body: Body<'static>) -> bool {
        self.post_with(body, String::new())
    }

    pub fn post_with(&self, body: Body<'static>, reason: String) -> bool {
        let event = Event {
            format: event::FORMAT,
            incarnation: self.views.latest().incarnation,
            intention: None,
            author: "".into(),
            principal: "".into(),
            client_time_ms: 0,
            reason: reason.into(),
            body,
        };
        let posted = self.log.append(Bytes::from(event.encode()));
        if let Err(error) = &posted {
            tracing::debug!(body = event.body.name(), %error, "housekeeping was not taken by the log");
        }
        posted.is_ok()
    }

    pub fn open_views(&self) -> usize {
        self.views.held_count() + self.pins.count()
    }

    /// For a replica that has just begun to serve: its newest mark is worth announcing, and what came after the last mark
    /// (more than the checkpoint that follows each) is worth a new one.
    pub fn announce(&self) {
        let view = self.views.latest();
        let ours = view.checkpoints.iter().find(|row| row.checkpoint.replica == self.replica);
        let announced = ours.map(|row| row.checkpoint.position);
        let mut chores = self.house.chores.lock();
        // Whether the last sweep before the restart saw all of it is not known.
        chores.raised |= view.floor.0 > 0;
        if chores.mark.is_none() && view.mark.is_some_and(|mark| announced.is_none_or(|position| mark.position > position)) {
            chores.mark = view.mark;
        }
        if chores.worked_since.is_none() && view.position.0.saturating_sub(view.last_mark.0) > 1 {
            chores.worked_since = Some((self.options.clock)());
        }
    }
}
