//! What the threads and handles of one open store share.

use crate::agree::Disputes;
use crate::barrier::{Barriers, Turn};
use crate::fence;
use crate::house::House;
use crate::options::Options;
use crate::past::{PastCache, Pins};
use crate::propose::Desk;
use crate::status::{Counts, Metrics, ReplicaState, Stand, Standing, Status};
use crate::step::{Effects, Folder};
use crate::view::{View, Views, WaitError};
use crate::written::Written;
use confold_log::{Fence, Log, LogError};
use confold_model::event::{self, Body, Event};
use confold_model::ids::Position;
use confold_store::cache::CachedObjects;
use confold_store::{Batch, Store, StoreError};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub(crate) struct Core {
    pub log: Arc<dyn Log>,
    pub store: Arc<dyn Store>,
    pub objects: Arc<CachedObjects<dyn Store>>,
    pub options: Options,
    pub replica: [u8; 16],
    /// Held while records are folded, never while a disk or the log is waited for. `None` once nothing more is folded
    /// and what it holds may be more than was shown.
    pub folder: Mutex<Option<Folder>>,
    pub views: Views,
    pub written: Written,
    pub stand: Stand,
    pub desk: Desk,
    pub barriers: Barriers,
    pub house: House,
    pub disputes: Disputes,
    pub metrics: Metrics,
    pub pins: Arc<Pins>,
    pub past: PastCache,
    pub sweeping: Mutex<()>,
    /// Where the log ended when it was opened: from there on the replica serves.
    target: Position,
    reading: AtomicBool,
    closing: AtomicBool,
    disk_failed: AtomicBool,
    stopped: Mutex<bool>,
    stopping: Condvar,
    started: Instant,
}

impl Core {
    pub fn new(log: Arc<dyn Log>, store: Arc<dyn Store>, mut folder: Folder, options: Options) -> Core {
        let first = folder.view();
        let metrics = Metrics::new(&first.store_name);
        metrics.watch(&*log);
        Core {
            objects: Arc::new(CachedObjects::new(store.clone(), options.object_cache_bytes)),
            replica: folder.replica(),
            written: Written::new(first.position.next()),
            views: Views::new(Arc::new(first)),
            stand: Stand::new(),
            desk: Desk::new(options.in_flight, options.in_flight_bytes),
            barriers: Barriers::new(),
            house: House::new(),
            disputes: Disputes::new(),
            metrics,
            pins: Arc::default(),
            past: PastCache::new(options.past_trees, options.past_cache_bytes),
            sweeping: Mutex::default(),
            target: log.range().end,
            folder: Mutex::new(Some(folder)),
            reading: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            disk_failed: AtomicBool::new(false),
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
            started: Instant::now(),
            log,
            store,
            options,
        }
    }

    /// Writes a batch of so many events. `false`: the replica has stopped.
    pub fn write(&self, batch: &Batch, records: u64) -> bool {
        let started = Instant::now();
        let mut was_full = false;
        while let Err(error) = self.store.commit(batch) {
            self.written.stick(error.clone());
            if !matches!(error, StoreError::Full { .. }) {
                self.store_failed(&error);
                return false;
            }
            was_full = true;
            if !self.wait_for_space(&error) {
                return false;
            }
        }
        if was_full {
            tracing::info!("there is space again, and the store goes on");
            self.set_reading(true);
            self.stand.change(ReplicaState::Degraded, ReplicaState::CatchingUp);
        }
        self.metrics.commit_seconds.record(started.elapsed());
        self.metrics.batch_records.record(records as f64);
        self.metrics.tally.batches.fetch_add(1, Relaxed);
        self.written.reach(batch.head.applied.next());
        if was_full {
            self.serve_when_caught_up(&self.views.latest());
        }
        true
    }

    /// The store, with the rows of everything that was shown before the call. Blocks, for about as long as it takes to write a batch.
    pub fn rows(&self) -> Result<&dyn Store, StoreError> {
        self.written.wait().map(|()| &*self.store)
    }

    /// Nothing is folded while the store takes nothing: reads go on with what it has. `false`: the replica is being stopped.
    fn wait_for_space(&self, error: &StoreError) -> bool {
        self.set_reading(false);
        if self.stand.set(Standing::without_space(error)) {
            tracing::error!(%error, "the fold waits");
        }
        self.pause(self.options.full_pause);
        !self.is_stopped()
    }

    /// Lets everybody know what was folded.
    pub fn release(&self, effects: Effects) {
        // Whoever sees the view finds its chores noted and its events counted.
        self.house.note(&effects, || (self.options.clock)());
        self.count(&effects);
        effects.disagreements.iter().for_each(|disagreement| self.alarm(disagreement));
        self.written.show(effects.view.position.next());
        self.views.publish(effects.view.clone());
        // Nobody enters the desk after its event was folded, so an empty desk needs no looking through.
        if self.desk.in_flight() > 0 {
            effects.settlements.into_iter().for_each(|settlement| self.desk.settle(settlement));
        }
        for record in &effects.fences {
            if let Some(nonce) = fence_nonce(record) {
                self.barriers.pass(&nonce, effects.view.position);
            }
        }
        self.leave_a_log_of_another_life(&effects.view);
        self.serve_when_caught_up(&effects.view);
    }

    /// A level that this build does not know became active.
    pub fn halt_at(&self, level: u32) {
        let position = self.views.latest().position;
        let knows = event::LEVEL;
        let reason = format!("level {level} became active at position {position}, this build knows levels up to {knows}");
        self.stop_as(ReplicaState::Halted, reason);
    }

    /// An `open` names the log on which a store goes on: on any other it is over. Up to the end of a copy the log that is named
    /// is the one copied from.
    fn leave_a_log_of_another_life(&self, view: &View) {
        if self.is_of_another_life(view) && view.position.next() > self.log.copied_to() {
            self.stop_as(ReplicaState::Fenced, fence::another_life(&*self.log, view));
        }
    }

    fn is_of_another_life(&self, view: &View) -> bool {
        view.transport_id != self.log.transport_id() && !self.options.adopt
    }

    fn count(&self, effects: &Effects) {
        let (metrics, tally) = (&self.metrics, &self.metrics.tally);
        metrics.count_outcomes(&effects.outcomes);
        metrics.position.set(effects.view.position.0 as f64);
        metrics.revision.set(effects.view.revision.0 as f64);
        metrics.floor.set(effects.view.floor.0 as f64);
        metrics.tree_bytes.set(effects.view.tree.memory() as f64);
        metrics.last_fold.set((self.options.clock)().0 as f64 / 1000.0);
        metrics.last_record.set(effects.view.time.0 as f64 / 1000.0);
        tally.records.fetch_add(effects.records, Relaxed);
        tally.bytes.fetch_add(effects.bytes, Relaxed);
    }

    pub fn serve_when_caught_up(&self, view: &View) {
        if self.stand.state() == ReplicaState::CatchingUp && view.position.next() >= self.target {
            if self.is_of_another_life(view) {
                self.stand.set(Standing::new(ReplicaState::CatchingUp, fence::NOT_OPENED));
                return;
            }
            self.announce();
            self.stand.change(ReplicaState::CatchingUp, ReplicaState::Serving);
            self.house.wake();
        }
    }

    pub fn store_failed(&self, error: &StoreError) {
        let state = if error.is_damage() { ReplicaState::Quarantined } else { ReplicaState::Halted };
        self.disk_failed.fetch_or(matches!(error, StoreError::Io { .. }), SeqCst);
        let at = self.views.latest().position;
        self.stop_as(state, format!("{error}; everything up to position {at} was folded"));
    }

    /// The log cannot be written or read any more. What stands on it is for the next process to find out.
    pub fn log_failed(&self, error: &LogError) {
        self.disk_failed.store(true, SeqCst);
        self.stop_as(ReplicaState::Halted, error.to_string());
    }

    pub fn has_failed_disk(&self) -> bool {
        self.disk_failed.load(SeqCst)
    }

    /// Folds nothing more. Views stay readable, everybody who waits is told.
    pub fn stop_as(&self, state: ReplicaState, reason: impl Into<String>) {
        self.stop_with(Standing::new(state, reason));
    }

    /// As `stop_as`, and the next start must not lead out of it by itself.
    pub fn stop_for_operator(&self, state: ReplicaState, reason: String) {
        self.stop_with(Standing { by_operator: true, ..Standing::new(state, reason) });
    }

    fn stop_with(&self, standing: Standing) {
        if self.stand.set(standing.clone())
            && standing.state != ReplicaState::Stopped
            && let Some(told) = &self.options.on_stop
        {
            told(&standing);
        }
        self.metrics.show_state(standing.state);
        self.desk.dismiss();
    }

    /// Forgets the fold's own state, which may be more than was committed.
    pub fn drop_folder(&self) {
        *self.folder.lock() = None;
    }

    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.stopping.notify_all();
        self.house.wake();
        self.disputes.wake();
    }

    pub fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }

    pub fn close_doors(&self) {
        self.closing.store(true, SeqCst);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    /// Waits unless the replica is being stopped.
    pub fn pause(&self, time: Duration) {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.stopping.wait_for(&mut stopped, time);
        }
    }

    pub fn set_reading(&self, works: bool) {
        self.reading.store(works, Relaxed);
    }

    /// Whether the last read of the log worked.
    pub fn reading(&self) -> bool {
        self.reading.load(Relaxed)
    }

    pub fn lag(&self, view: &View) -> u64 {
        self.log.range().end.0.saturating_sub(view.position.0 + 1)
    }

    pub async fn at_least(&self, wanted: Position, deadline: Duration) -> Result<Arc<View>, WaitError> {
        let (mut views, mut stand) = (self.views.subscribe(), self.stand.watch());
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let view = views.borrow_and_update().clone();
            if view.position >= wanted {
                return Ok(view);
            }
            let standing = stand.borrow_and_update().clone();
            if standing.state.is_final() {
                let reason = format!("{}: {}", standing.state.name(), standing.reason);
                return Err(WaitError::Stopped { reason });
            }
            tokio::select! {
                _ = views.changed() => {}
                _ = stand.changed() => {}
                _ = tokio::time::sleep_until(end) => {
                    return Err(WaitError::Late { wanted, reached: view.position });
                }
            }
        }
    }

    pub async fn fence(&self, deadline: Duration) -> Result<Arc<View>, WaitError> {
        match self.log.fence() {
            Ok(Fence::At(end)) => self.at_least(Position(end.0.saturating_sub(1)), deadline).await,
            Ok(Fence::AppendAndWait) => self.fence_by_event(deadline).await,
            Err(error) => Err(WaitError::NoFence { reason: error.to_string() }),
        }
    }

    async fn fence_by_event(&self, deadline: Duration) -> Result<Arc<View>, WaitError> {
        let mut passed = self.barriers.watch();
        let wanted = self.barriers.arrive();
        let end = Instant::now() + deadline;
        loop {
            let (number, position) = *passed.borrow_and_update();
            if number >= wanted {
                return self.at_least(position, deadline).await;
            }
            let standing = self.stand.get();
            if standing.state.is_final() {
                let reason = format!("{}: {}", standing.state.name(), standing.reason);
                return Err(WaitError::Stopped { reason });
            }
            let now = Instant::now();
            if now >= end {
                let reason = format!("no event of this replica's own came back within {deadline:?}");
                return Err(WaitError::NoFence { reason });
            }
            let nonce = self.desk.nonce().map_err(|error| WaitError::NoFence { reason: error.to_string() })?;
            match self.barriers.turn(wanted, now, nonce) {
                // A refused append is as a lost one: the next turn comes.
                Turn::Append(nonce) => {
                    self.post_with(Body::Fence, hex::encode(nonce));
                }
                Turn::Wait(time) => {
                    // Either way the loop looks again.
                    let _ = tokio::time::timeout(time.min(end - now), passed.changed()).await;
                }
            }
        }
    }

    pub fn status(&self) -> Status {
        let view = self.views.latest();
        let mut counts = self.metrics.counts();
        let stats = self.store.stats();
        counts.extend([
            ("in_flight".to_owned(), self.desk.in_flight() as u64),
            ("open_views".to_owned(), self.open_views() as u64),
            ("tree_bytes".to_owned(), view.tree.memory() as u64),
            ("object_cache_bytes".to_owned(), self.objects.bytes()),
            ("object_cache_hits".to_owned(), self.objects.hits()),
            ("object_cache_misses".to_owned(), self.objects.misses()),
            ("store_puts".to_owned(), stats.puts),
            ("store_bytes".to_owned(), stats.bytes),
        ]);
        Status {
            standing: self.stand.get(),
            replica: self.replica,
            build: env!("CARGO_PKG_VERSION"),
            build_level: event::LEVEL,
            log: self.log.range(),
            lag: self.lag(&view),
            durable: self.store.durable(),
            counts: Counts(counts),
            uptime: self.started.elapsed(),
            view,
        }
    }
}

/// Own fences carry their nonce as their reason.
fn fence_nonce(record: &[u8]) -> Option<[u8; 16]> {
    let event = Event::decode(record).ok()?;
    let mut nonce = [0; 16];
    hex::decode_to_slice(event.reason.as_ref(), &mut nonce).ok()?;
    Some(nonce)
}
