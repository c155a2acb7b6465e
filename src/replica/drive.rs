//! The loop: read, fold, commit, and only then let the effects go.
//!
//! ```text
//! fold thread    read k ── fold k ── read k+1 ── fold k+1 ── …
//! store thread                └────── commit k ── effects of k ── commit k+1 ── …
//! ```
//! A small batch is committed by the fold thread itself, which saves two changes of threads where every microsecond
//! counts; a big one is handed over, so that the next is folded meanwhile. The order of commits and effects is that of the log
//! either way: the fold thread commits itself only when nothing it handed over is still under way.

use crate::agree::dispute_loop;
use crate::core::Core;
use crate::fence;
use crate::options::Housekeeping;
use crate::status::{ReplicaState, Standing};
use crate::step::{FoldError, Folded, Folder, Next};
use confold_log::{LogError, Reader, Record};
use confold_model::ids::Position;
use confold_model::objects::Objects;
use confold_store::StoreError;
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Starts the threads of one replica; they end with `Core::stop` or in a final state.
pub(crate) fn start(core: &Arc<Core>, reader: Box<dyn Reader>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let (sender, receiver) = sync_channel(1);
    let pending = Arc::new(Pending::default());
    let writer = Writer { core: core.clone(), sender, pending: pending.clone() };
    let mut threads = vec![
        spawn("confold-store", core, move |core| write_loop(core, &receiver, &pending))?,
        spawn("confold-fold", core, move |core| fold_loop(core, reader, &writer))?,
    ];
    if core.options.housekeeping == Housekeeping::Background {
        threads.push(spawn("confold-house", core, house_loop)?);
        threads.push(spawn("confold-sweep", core, sweep_loop)?);
        threads.push(spawn("confold-agree", core, dispute_loop)?);
    }
    Ok(threads)
}

/// Runs in a thread of its own. A panic in it is a bug: it stops the replica with a message and is never an outcome.
fn spawn(
    name: &str,
    core: &Arc<Core>,
    run: impl FnOnce(&Arc<Core>) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let core = core.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&core))) {
            let thread = std::thread::current();
            let reason = format!("a bug in {}: {}", thread.name().unwrap_or("a thread"), panic_text(&*panic));
            core.stop_as(ReplicaState::Halted, reason);
        }
    })
}

/// Batches handed to the store thread and not yet settled.
#[derive(Default)]
struct Pending {
    count: Mutex<usize>,
    settled: Condvar,
}

struct Writer {
    core: Arc<Core>,
    sender: SyncSender<Folded>,
    pending: Arc<Pending>,
}

/// A batch of at least this many records is worth a second thread.
const HAND_OVER_FROM: u64 = 128;

impl Writer {
    /// `false`: the replica has stopped.
    fn settle(&self, folded: Folded) -> bool {
        let mut count = self.pending.count.lock();
        if *count == 0 && folded.effects.records < HAND_OVER_FROM {
            drop(count);
            return self.core.settle(folded);
        }
        *count += 1;
        drop(count);
        self.sender.send(folded).is_ok()
    }

    /// Waits until everything handed over is settled.
    fn drain(&self) {
        let mut count = self.pending.count.lock();
        while *count > 0 {
            self.pending.settled.wait(&mut count);
        }
    }
}

fn write_loop(core: &Arc<Core>, folded: &Receiver<Folded>, pending: &Pending) {
    let mut works = true;
    while let Ok(folded) = folded.recv() {
        // After a failure nothing more is written: a later batch would stand on one that is missing.
        let settled = works.then(|| catch_unwind(AssertUnwindSafe(|| core.settle(folded))));
        works = match settled {
            Some(Ok(settled)) => settled,
            Some(Err(panic)) => {
                core.stop_as(ReplicaState::Halted, format!("a bug while committing a batch: {}", panic_text(&*panic)));
                false
            }
            None => false,
        };
        *pending.count.lock() -= 1;
        pending.settled.notify_all();
    }
}

fn fold_loop(core: &Arc<Core>, mut reader: Box<dyn Reader>, writer: &Writer) {
    let (least, most) = (*core.options.batch_records.start(), *core.options.batch_records.end());
    let mut limit = least.max(1);
    let mut progress = Instant::now();
    while !core.is_stopped() && !core.stand.state().is_final() {
        let records = match reader.read(limit, core.options.batch_bytes, core.options.read_wait) {
            Ok(records) => records,
            Err(error) => {
                if !read_failed(core, error) {
                    break;
                }
                continue;
            }
        };
        // The log's writer has stopped for good, and nothing more will come.
        if records.is_empty()
            && let Err(error @ LogError::Failed { .. }) = core.log.health()
        {
            core.log_failed(&error);
            break;
        }
        core.set_reading(true);
        if !records.is_empty() || core.lag(&core.views.latest()) == 0 {
            progress = Instant::now();
        } else if progress.elapsed() >= core.options.stall {
            // Consumers have been seen to stall in silence; what a new one gives is checked like everything else.
            progress = Instant::now();
            match renewed(core) {
                Ok(renewed) => reader = renewed,
                Err(error) => {
                    if !read_failed(core, error) {
                        break;
                    }
                }
            }
        }
        // Far behind, longer batches cost less; near the end, shorter ones are sooner visible.
        if records.len() >= limit {
            limit = (limit * 2).min(most.max(1));
        } else if records.len() < limit / 2 {
            limit = (limit / 2).max(least.max(1));
        }
        if !fold_all(core, &records, writer) {
            break;
        }
        shed(core, writer);
    }
    writer.drain();
    core.drop_folder();
    core.desk.dismiss();
}

/// A new reader that goes on where the fold stands.
fn renewed(core: &Core) -> Result<Box<dyn Reader>, LogError> {
    let tip = core.folder.lock().as_ref().map(|folder| folder.tip());
    let tip = tip.ok_or(LogError::Closed)?;
    tracing::warn!(position = tip.position.0, end = core.log.range().end.0, "the log gave nothing: reading anew");
    core.metrics.tally.new_readers.fetch_add(1, Relaxed);
    core.log.anchor(tip);
    core.log.reader(tip.position)
}

/// Folds and settles some records. `false`: the replica has stopped.
fn fold_all(core: &Arc<Core>, records: &[Record], writer: &Writer) -> bool {
    let (mut at, mut tries) = (0, 0);
    while at < records.len() {
        let started = Instant::now();
        let before = at;
        let folded = {
            let mut folder = core.folder.lock();
            let Some(folder) = folder.as_mut() else { return false };
            let fold = AssertUnwindSafe(|| fold_one_batch(folder, records, &mut at, &*core.objects));
            catch_unwind(fold)
        };
        core.metrics.fold_seconds.record(started.elapsed());
        if at > before {
            tries = 0;
        }
        let (folded, error) = match folded {
            Ok(result) => result,
            Err(panic) => {
                let position = records.get(at).map_or(Position(0), |record| record.position);
                let reason = format!("a bug while folding position {position}: {}", panic_text(&*panic));
                // What was folded before it in this batch is lost with the folder, and folded again after a restart.
                core.drop_folder();
                core.stop_as(ReplicaState::Halted, reason);
                return false;
            }
        };
        if let Some(FoldError::Fenced(reason)) = error {
            core.drop_folder();
            core.stop_as(ReplicaState::Fenced, reason);
            return false;
        }
        if let Some(folded) = folded {
            let last = folded.effects.halt.is_some();
            if !writer.settle(folded) || last {
                return false;
            }
        }
        if let Some(error) = error {
            tries += 1;
            core.metrics.tally.retries.fetch_add(1, Relaxed);
            tracing::warn!(%error, tries, "an object could not be read");
            if tries > core.options.object_retries {
                core.stop_as(ReplicaState::Halted, error.to_string());
                return false;
            }
            core.pause(core.options.retry_pause);
            if core.is_stopped() {
                return false;
            }
        }
    }
    if records.is_empty() {
        core.serve_when_caught_up(&core.views.latest());
    }
    true
}

/// Folds up to the end of the records or of the batch, and closes the batch also where an object was missing.
fn fold_one_batch(
    folder: &mut Folder,
    records: &[Record],
    at: &mut usize,
    objects: &dyn Objects,
) -> (Option<Folded>, Option<FoldError>) {
    while let Some(record) = records.get(*at) {
        match folder.fold(record, objects) {
            Ok(next) => {
                *at += 1;
                if next == Next::Ends {
                    break;
                }
            }
            Err(error @ FoldError::Fenced(_)) => return (None, Some(error)),
            Err(error) => return (folder.finish(), Some(error)),
        }
    }
    (folder.finish(), None)
}

/// Keeps the loaded tree within its bound. Only what the store holds may go, so what was handed over is waited for.
fn shed(core: &Arc<Core>, writer: &Writer) {
    let limit = core.options.tree_cache_bytes;
    let outgrown = |folder: &Option<Folder>| folder.as_ref().is_some_and(|folder| folder.tree_memory() > limit);
    if !outgrown(&core.folder.lock()) {
        return;
    }
    writer.drain();
    let mut folder = core.folder.lock();
    let Some(folder) = folder.as_mut().filter(|folder| folder.collected() == 0) else { return };
    if core.stand.state().is_final() {
        return;
    }
    folder.shed(limit - limit / 4);
    core.metrics.tally.sheds.fetch_add(1, Relaxed);
    // The latest view shares the tree: it must let go of the same parts.
    core.views.publish(Arc::new(folder.view()));
}

/// What a failed read means. `false`: stop.
fn read_failed(core: &Arc<Core>, error: LogError) -> bool {
    core.set_reading(false);
    let at = core.views.latest().position;
    match error {
        _ if core.is_stopped() || core.is_closing() => return false,
        LogError::BeyondEnd { end, .. } => {
            let digest = core.views.latest().digest;
            let what = format!("it ends before position {end}, this replica has folded up to {at} with digest {digest}");
            core.stop_as(ReplicaState::Fenced, fence::truncated(&what));
        }
        LogError::Fenced { .. } => {
            core.stop_as(ReplicaState::Fenced, format!("{error}; this replica has folded up to {at}"));
        }
        LogError::BelowStart { .. } => core.stop_as(ReplicaState::SnapshotNeeded, error.to_string()),
        LogError::Failed { .. } => core.log_failed(&error),
        LogError::Closed | LogError::Corrupt { .. } => core.stop_as(ReplicaState::Halted, error.to_string()),
        other => {
            core.stand.set(Standing::without_log(&other));
            core.pause(core.options.retry_pause);
            return true;
        }
    }
    false
}

fn house_loop(core: &Arc<Core>) {
    while !core.is_stopped() {
        core.house.wait(Duration::from_secs(1));
        if !core.is_stopped() {
            core.keep_house();
        }
    }
}

fn sweep_loop(core: &Arc<Core>) {
    while !core.is_stopped() {
        core.house.wait_beside(Duration::from_secs(5));
        // A replica that catches up raises its floor again and again: one sweep at the end does for all.
        if core.is_stopped() || core.stand.state() != ReplicaState::Serving || !core.house.sweep_is_worth_it(&*core.store) {
            continue;
        }
        match core.sweep(false) {
            Ok(_) => {}
            Err(error @ (StoreError::Busy { .. } | StoreError::Full { .. })) => {
                tracing::debug!(%error, "the sweep waits");
                core.pause(Duration::from_secs(1));
            }
            Err(error) => core.store_failed(&error),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it did not say what").to_owned()
}
