//! The loop: read, fold, let the effects go, and write the batch.
//!
//! ```text
//! fold thread    read ── fold ── effects ── read ── fold ── effects ── batch k ── read ── …
//! store thread                                                           └────── commit k ── …
//! ```
//! Effects go as soon as their records are folded. The batch stays open while more is on its way, for a bounded time: the objects of
//! the revisions in between are then never written. Who needs its rows closes it by waiting for them (see [`Written`]).
//!
//! A small batch is committed by the fold thread itself, which saves two changes of threads; a big one is handed over, so that the
//! next is folded meanwhile. The order of commits is that of the log either way: the fold thread commits itself only when nothing
//! it handed over is still under way.
//!
//! [`Written`]: crate::written::Written

use crate::agree::dispute_loop;
use crate::core::Core;
use crate::fence;
use crate::options::Housekeeping;
use crate::status::{ReplicaState, Standing};
use crate::step::{Effects, FoldError, Folded, Folder, Next};
use confold_log::{LogError, Reader, Record};
use confold_model::ids::Position;
use confold_model::objects::Objects;
use confold_store::{Batch, StoreError};
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
    let mut writer = Writer { core: core.clone(), sender, pending: pending.clone(), opened: None };
    let mut threads = vec![
        spawn("confold-store", core, move |core| write_loop(core, &receiver, &pending))?,
        spawn("confold-fold", core, move |core| fold_loop(core, reader, &mut writer))?,
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

/// Batches handed to the store thread and not yet written.
#[derive(Default)]
struct Pending {
    count: Mutex<usize>,
    written: Condvar,
}

/// Sees to it that batches come into the store, in their order.
struct Writer {
    core: Arc<Core>,
    sender: SyncSender<(Batch, u64)>,
    pending: Arc<Pending>,
    /// Since when the open batch has been waiting for more.
    opened: Option<Instant>,
}

/// A batch of at least this many records is worth a second thread.
const HAND_OVER_FROM: u64 = 128;

/// How long a batch stays open, with how many records at most, and how long it is kept open for the next of them.
const OPEN_FOR: Duration = Duration::from_millis(10);
const OPEN_UP_TO: u64 = 512;
const NEXT_WITHIN: Duration = Duration::from_millis(1);

impl Writer {
    /// Closes the open batch and sees it written, also where it has nothing to show any more. `false`: the replica has stopped.
    fn close(&mut self) -> bool {
        self.opened = None;
        let folded = self.core.folder.lock().as_mut().and_then(Folder::finish);
        folded.is_none_or(|folded| self.take(folded))
    }

    /// As `close`, unless more is on its way and nobody waits for the batch.
    fn close_unless_more_comes(&mut self) -> bool {
        let collected = self.core.folder.lock().as_ref().map_or(0, Folder::collected);
        let stays_open = (1..OPEN_UP_TO).contains(&collected)
            && self.core.desk.in_flight() > 0
            && !self.core.written.is_waited_for()
            && self.opened.get_or_insert_with(Instant::now).elapsed() < OPEN_FOR;
        stays_open || self.close()
    }

    /// Lets the effects go and writes the batch, or has it written. `false`: the replica has stopped.
    fn take(&self, folded: Folded) -> bool {
        let Folded { batch, records, effects } = folded;
        let halt = effects.halt;
        match effects.records {
            0 => self.core.views.replace(effects.view),
            _ => self.core.release(effects),
        }
        let mut count = self.pending.count.lock();
        let taken = if *count == 0 && records < HAND_OVER_FROM {
            drop(count);
            self.core.write(&batch, records)
        } else {
            *count += 1;
            drop(count);
            self.sender.send((batch, records)).is_ok()
        };
        match halt {
            Some(level) if taken => {
                self.drain();
                self.core.halt_at(level);
                false
            }
            _ => taken,
        }
    }

    /// Waits until everything handed over is written.
    fn drain(&self) {
        let mut count = self.pending.count.lock();
        while *count > 0 {
            self.pending.written.wait(&mut count);
        }
    }
}

fn write_loop(core: &Arc<Core>, batches: &Receiver<(Batch, u64)>, pending: &Pending) {
    let mut works = true;
    while let Ok((batch, records)) = batches.recv() {
        // After a failure nothing more is written: a later batch would stand on one that is missing.
        let written = works.then(|| catch_unwind(AssertUnwindSafe(|| core.write(&batch, records))));
        works = match written {
            Some(Ok(written)) => written,
            Some(Err(panic)) => {
                core.stop_as(ReplicaState::Halted, format!("a bug while committing a batch: {}", panic_text(&*panic)));
                false
            }
            None => false,
        };
        *pending.count.lock() -= 1;
        pending.written.notify_all();
    }
}

/// Whoever waits learns that the fold has ended, however it did.
struct Ending<'a>(&'a Core);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.drop_folder();
        self.0.written.end(StoreError::Busy { what: "the replica has stopped".to_owned() });
        self.0.desk.dismiss();
    }
}

fn fold_loop(core: &Arc<Core>, reader: Box<dyn Reader>, writer: &mut Writer) {
    let _ending = Ending(core);
    read_and_fold(core, reader, writer);
    // What was shown comes into the store also where the replica stops; where it cannot, it is folded again after a restart.
    let standing = core.stand.state();
    if !matches!(standing, ReplicaState::Halted | ReplicaState::Quarantined) {
        writer.close();
    }
    writer.drain();
}

fn read_and_fold(core: &Arc<Core>, mut reader: Box<dyn Reader>, writer: &mut Writer) {
    let (least, most) = (*core.options.batch_records.start(), *core.options.batch_records.end());
    let mut limit = least.max(1);
    let mut progress = Instant::now();
    while !core.is_stopped() && !core.stand.state().is_final() {
        let wait = writer.opened.map_or(core.options.read_wait, |_| NEXT_WITHIN.min(core.options.read_wait));
        let records = match reader.read(limit, core.options.batch_bytes, wait) {
            Ok(records) => records,
            Err(error) => {
                if !writer.close() || !read_failed(core, error) {
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
        core.set_reading(!core.written.is_stuck());
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
        let goes_on = match records.is_empty() {
            true => writer.close(),
            false => fold_all(core, &records, writer) && writer.close_unless_more_comes(),
        };
        if !goes_on || !shed(core, writer) {
            break;
        }
        if records.is_empty() {
            core.serve_when_caught_up(&core.views.latest());
        }
    }
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

/// Folds some records and lets their effects go. `false`: the replica has stopped.
fn fold_all(core: &Arc<Core>, records: &[Record], writer: &mut Writer) -> bool {
    let (mut at, mut tries) = (0, 0);
    while at < records.len() {
        let started = Instant::now();
        let before = at;
        let folded = {
            let mut folder = core.folder.lock();
            let Some(folder) = folder.as_mut() else { return false };
            catch_unwind(AssertUnwindSafe(|| fold_some(folder, records, &mut at, &*core.objects)))
        };
        core.metrics.fold_seconds.record(started.elapsed());
        if at > before {
            tries = 0;
        }
        let error = match folded {
            Ok(Ok(Progress::Open(effects))) => {
                core.release(effects);
                continue;
            }
            Ok(Ok(Progress::Closed(folded))) => {
                writer.opened = None;
                if !writer.take(folded) {
                    return false;
                }
                continue;
            }
            Ok(Err(error)) => error,
            Err(panic) => {
                let position = records.get(at).map_or(Position(0), |record| record.position);
                let reason = format!("a bug while folding position {position}: {}", panic_text(&*panic));
                // What was folded before it in this batch is lost with the folder, and folded again after a restart.
                core.drop_folder();
                core.stop_as(ReplicaState::Halted, reason);
                return false;
            }
        };
        if let FoldError::Fenced(reason) = error {
            core.drop_folder();
            core.stop_as(ReplicaState::Fenced, reason);
            return false;
        }
        if !writer.close() {
            return false;
        }
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
    true
}

/// How far `fold_some` came.
enum Progress {
    /// To the end of the records.
    Open(Effects),
    /// To a record that ends the batch.
    Closed(Folded),
}

fn fold_some(folder: &mut Folder, records: &[Record], at: &mut usize, objects: &dyn Objects) -> Result<Progress, FoldError> {
    while let Some(record) = records.get(*at) {
        let next = folder.fold(record, objects)?;
        *at += 1;
        if next == Next::Ends
            && let Some(folded) = folder.finish()
        {
            return Ok(Progress::Closed(folded));
        }
    }
    Ok(Progress::Open(folder.show()))
}

/// Keeps the loaded tree within its bound. Only what the store holds may go, so what was handed over is waited for. `false`: the
/// replica has stopped.
fn shed(core: &Arc<Core>, writer: &mut Writer) -> bool {
    let limit = core.options.tree_cache_bytes;
    let outgrown = |folder: &Option<Folder>| folder.as_ref().is_some_and(|folder| folder.tree_memory() > limit);
    if !outgrown(&core.folder.lock()) {
        return true;
    }
    if !writer.close() {
        return false;
    }
    writer.drain();
    let mut folder = core.folder.lock();
    let Some(folder) = folder.as_mut().filter(|folder| folder.collected() == 0) else { return true };
    if core.stand.state().is_final() {
        return true;
    }
    folder.shed(limit - limit / 4);
    core.metrics.tally.sheds.fetch_add(1, Relaxed);
    // The latest view shares the tree: it must let go of the same parts.
    core.views.replace(Arc::new(folder.view()));
    true
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
