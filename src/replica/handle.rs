//! Opening a store, and the handle through which everybody else uses it.

use crate::core::Core;
use crate::drive;
use crate::fence::{self, Folded};
use crate::options::{Begin, Options};
use crate::past::{PastError, PastView};
use crate::propose::{Fate, Proposal, ProposeError, Settled, Submission};
use crate::status::{ReplicaState, Standing, Status};
use crate::step::{FoldError, Folder};
use crate::sweep::SweepOutcome;
use crate::view::{View, WaitError};
use crate::watched::Watched;
use bytes::Bytes;
use confold_log::{Log, LogError, Reader, Record, Tip};
use confold_model::event::{self, Body, Event, Genesis};
use confold_model::ids::{EventId, Incarnation, Position, Revision, Time};
use confold_model::objects::{NoObjects, Objects};
use confold_store::{Head, Store, StoreError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One open store in this process; clones are the same one. When the last is dropped the replica stops, without settling
/// what is under way: [`Handle::shutdown`] does it in order. Dropping blocks until its threads have ended: a process that
/// exits while one of them writes would pull RocksDB's globals away from under it.
#[derive(Clone)]
pub struct Handle {
    pub(crate) core: Arc<Core>,
    threads: Arc<Threads>,
}

/// Opens stores.
pub struct Replica;

struct Threads {
    core: Arc<Core>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.core.stop();
        let current = std::thread::current().id();
        // What is told of an event may hold the last handle, and then it is dropped in a thread that cannot wait for itself.
        for thread in self.running.get_mut().drain(..).filter(|thread| thread.thread().id() != current) {
            // A panic was caught inside and stands in the status.
            let _ = thread.join();
        }
    }
}

/// Why a store could not be opened at all. A store whose log turns out to be another one opens, and says so in its status.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Begin the store first, or wait for whoever does.
    #[error("the log is empty: it has no store yet")]
    Empty,
    /// This log belongs to something else.
    #[error("{0}")]
    NoStore(String),
    /// Start from a snapshot.
    #[error("the log starts at position {start}, and this replica has folded nothing yet: it needs a snapshot")]
    SnapshotNeeded { start: Position },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a store could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Choose another name, or a bigger deadline.
    #[error("the store was not begun: {0}")]
    Refused(String),
    /// Look at the log: genesis may still come.
    #[error("genesis did not come back from the log within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// Appends genesis where the log is empty, and waits until it stands. Says whether this call began the store: `false` where
/// the log held something already, which opening it will judge.
pub fn begin(log: &dyn Log, store_name: &str, options: &Begin) -> Result<bool, BeginError> {
    if log.range().end > Position(0) {
        return Ok(false);
    }
    let log_id = match options.log_id {
        Some(log_id) => log_id,
        None => {
            let mut fresh = [0; 16];
            getrandom::fill(&mut fresh)?;
            fresh
        }
    };
    let genesis = Genesis {
        log_id,
        store_name: store_name.to_owned(),
        limits: options.limits,
        window: options.window,
        trim_replicas: options.trim_replicas,
        retention: options.retention,
        level: event::LEVEL,
        transport_id: log.transport_id(),
    };
    let event = Event {
        format: event::FORMAT,
        incarnation: Incarnation(log_id),
        intention: None,
        author: "".into(),
        principal: "".into(),
        client_time_ms: 0,
        reason: "".into(),
        body: Body::Genesis(genesis),
    };
    let record = Bytes::from(event.encode());
    // What would be rejected must not come to stand at position 0.
    let mut trial = confold_model::state::State::new();
    match confold_model::fold::apply(&mut trial, Default::default(), &record, &NoObjects) {
        Ok(applied) => {
            if let confold_model::fold::Outcome::Rejected(rejection) = applied.outcome {
                return Err(BeginError::Refused(rejection.detail));
            }
        }
        Err(error) => return Err(BeginError::Refused(error.to_string())),
    }
    let mut reader = log.reader(Position(0))?;
    match log.append(record.clone()) {
        Ok(()) | Err(LogError::Unsettled { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let end = Instant::now() + options.deadline;
    loop {
        if let Some(first) = reader.read(1, 1, Duration::from_millis(100))?.first() {
            return Ok(first.bytes == record);
        }
        if Instant::now() >= end {
            return Err(BeginError::Late(options.deadline));
        }
    }
}

impl Replica {
    /// Opens a store on its log and begins to fold. Genesis is folded before this returns; the rest follows, see
    /// [`Handle::status`]. A log that is not the one that was folded gives a handle that is FENCED and shows what was folded.
    pub fn open(log: Arc<dyn Log>, store: Arc<dyn Store>, options: Options) -> Result<Handle, OpenError> {
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh)?;
        let mut folder = Folder::restore(&*store, fresh)?;
        if store.head().is_none() {
            fold_genesis(&*log, &*store, &mut folder)?;
        }
        let watched = Arc::new(Watched::new(store.clone()));
        let core = Arc::new(Core::new(log.clone(), watched.clone(), folder, options));
        let told = Arc::downgrade(&core);
        watched.tell(Box::new(move |error| {
            if let Some(core) = told.upgrade() {
                core.store_failed(error);
            }
        }));
        let threads = Arc::new(Threads { core: core.clone(), running: Mutex::default() });
        let handle = Handle { core, threads };
        let head = store.head().ok_or_else(|| StoreError::damaged("its head is missing"))?;
        let reader = match overlap(&*log, &head, &handle.view(), handle.core.options.adopt)? {
            Ok(reader) => reader,
            Err(Standing { state, reason, .. }) => {
                handle.core.drop_folder();
                handle.core.stop_as(state, reason);
                return Ok(handle);
            }
        };
        let level = handle.view().level;
        if level > event::LEVEL {
            handle.core.drop_folder();
            let reason = format!("level {level} is active, this build knows levels up to {}", event::LEVEL);
            handle.core.stop_as(ReplicaState::Halted, reason);
            return Ok(handle);
        }
        // What was not settled before the last stop is looked into again.
        let open = handle.core.folder.lock().as_ref().map(Folder::disagreements);
        open.into_iter().flatten().for_each(|disagreement| handle.core.alarm(&disagreement));
        handle.core.stand.set(ReplicaState::CatchingUp);
        handle.core.serve_when_caught_up(&handle.core.views.latest());
        *handle.threads.running.lock() = drive::start(&handle.core, reader)?;
        Ok(handle)
    }
}

impl Handle {
    /// The newest state that is folded. Never waits.
    pub fn view(&self) -> Arc<View> {
        self.core.views.latest()
    }

    /// Views as they are published: a receiver sees the newest, and may miss some in between. Whoever must see every change
    /// goes through the history rows from the last revision seen to the new one.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.core.views.subscribe()
    }

    /// Hands an event to the log and returns: whoever submits twice has both stand in this order. The outcome comes from
    /// [`Submission::settled`], which waits up to `deadline`; dropping the submission gives up waiting and nothing else.
    pub fn submit(&self, proposal: Proposal, deadline: Duration) -> Result<Submission, ProposeError> {
        self.core.submit(proposal, deadline)
    }

    /// Submits and waits until the event is folded.
    pub async fn propose(&self, proposal: Proposal, deadline: Duration) -> Result<Settled, ProposeError> {
        self.submit(proposal, deadline)?.settled().await
    }

    /// Waits until `submit` would not answer `Busy`: for streams, before each submission.
    pub async fn room(&self) {
        self.core.desk.room().await;
    }

    /// Makes an unknown outcome definite: that of the event's first copy, or never. `who` is the proposal of the withdrawal
    /// itself; its body does not matter.
    pub async fn withdraw(&self, id: EventId, who: Proposal, deadline: Duration) -> Result<Fate, ProposeError> {
        self.core.withdraw(id, who, deadline).await
    }

    /// What is known of an event id now. May read the store.
    pub fn outcome_of(&self, id: EventId) -> Result<Fate, ProposeError> {
        self.core.fate(id)
    }

    /// Waits for a view of this position or a later one.
    pub async fn at_least(&self, position: Position, deadline: Duration) -> Result<Arc<View>, WaitError> {
        self.core.at_least(position, deadline).await
    }

    /// A view of everything that was acknowledged to anybody before this call.
    pub async fn fence(&self, deadline: Duration) -> Result<Arc<View>, WaitError> {
        self.core.fence(deadline).await
    }

    /// Objects of any tree of this store, the lately used ones from memory.
    pub fn objects(&self) -> Arc<dyn Objects> {
        self.core.objects.clone()
    }

    /// For reads: history rows, touched paths, event ids, look-up by time, of everything that a view showed before the call. Nothing else
    /// may be done with it. Blocks for about as long as the store takes to write a batch; `Full` or `Io` where it does not take it.
    pub fn store(&self) -> Result<&dyn Store, StoreError> {
        self.core.rows()
    }

    /// A reader of the log from a position on, with the right digests also where the log stores none.
    pub fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        self.core.reader(from)
    }

    /// For reads: its range and its identity. Records come from [`Handle::reader`].
    pub fn log(&self) -> &dyn Log {
        &*self.core.log
    }

    /// The tree of a revision. Blocks: reads the store, and the log where it has to be re-made. One that does not come out
    /// with the root that its row says is never shown; it quarantines the replica.
    pub fn past(&self, revision: Revision) -> Result<Arc<PastView>, PastError> {
        let past = self.core.past(revision);
        if let Err(error @ PastError::Differs { .. }) = &past {
            self.core.stop_as(ReplicaState::Quarantined, error.to_string());
        }
        past
    }

    /// The time by this replica's own clock. Nothing that is folded depends on it.
    pub fn now(&self) -> Time {
        (self.core.options.clock)()
    }

    /// The record at a position; `None` where the log holds none. Blocks.
    pub fn record_at(&self, position: Position) -> Result<Option<Record>, LogError> {
        self.core.record_at(position)
    }

    /// 16 bytes that name this replica's data folder.
    pub fn replica_id(&self) -> [u8; 16] {
        self.core.replica
    }

    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// State and reason alone, to be watched.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.core.stand.watch()
    }

    /// Whether it is HALTED because a disk of this machine failed: only a process that begins anew knows what stands there.
    pub fn has_failed_disk(&self) -> bool {
        self.core.has_failed_disk()
    }

    /// Waits until the replica serves, or has stopped for good: which of the two is in the answer.
    pub async fn ready(&self) -> Standing {
        let mut stand = self.core.stand.watch();
        let settled = stand.wait_for(|now| now.state == ReplicaState::Serving || now.state.is_final()).await;
        settled.map_or_else(|_| self.core.stand.get(), |standing| standing.clone())
    }

    /// One pass of housekeeping, for replicas that do it by hand.
    pub fn keep_house(&self) {
        self.core.keep_house();
    }

    /// A whole sweep at once. Blocks.
    pub fn sweep(&self) -> Result<SweepOutcome, StoreError> {
        self.core.sweep(true)
    }

    /// Stops at once, as a crash would: nothing is settled, synced or closed. When it returns nothing more is written. Blocks.
    pub fn abandon(&self) {
        self.core.close_doors();
        self.core.stop();
        for thread in self.threads.running.lock().drain(..) {
            let _ = thread.join();
        }
        self.core.stop_as(ReplicaState::Stopped, "abandoned");
    }

    /// Takes no more proposals, lets those under way settle for at most `patience`, then stops, makes the store durable
    /// and closes the log. A second call waits for the first.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), StoreError> {
        self.core.close_doors();
        if !self.core.stand.state().is_final() {
            // What has not settled by then ends as unknown.
            let _ = tokio::time::timeout(patience, self.core.desk.empty()).await;
        }
        let (core, threads) = (self.core.clone(), self.threads.clone());
        let stopped = tokio::task::spawn_blocking(move || {
            let mut running = threads.running.lock();
            core.stop();
            if core.options.close_log {
                core.log.close();
            }
            for thread in running.drain(..) {
                // A panic was caught inside and stands in the status.
                let _ = thread.join();
            }
            let synced = if core.stand.state() == ReplicaState::Quarantined { Ok(()) } else { core.store.sync() };
            core.stop_as(ReplicaState::Stopped, "shut down");
            synced
        });
        stopped.await.unwrap_or_else(|_| Err(StoreError::Io { what: "the runtime ended during the shutdown".to_owned() }))
    }
}

/// How long the first record of a log that has one may take to come.
const GENESIS_WAIT: Duration = Duration::from_secs(30);

/// Into an empty store: everything else of the replica may then rely on a name, limits and an incarnation.
fn fold_genesis(log: &dyn Log, store: &dyn Store, folder: &mut Folder) -> Result<(), OpenError> {
    let range = log.range();
    if range.start > Position(0) {
        return Err(OpenError::SnapshotNeeded { start: range.start });
    }
    if range.end == Position(0) {
        return Err(OpenError::Empty);
    }
    // Whoever keeps the log may be on another machine.
    let first = log.reader(Position(0))?.read(1, 1, GENESIS_WAIT)?;
    let record = first.first().ok_or(OpenError::Empty)?;
    folder.fold(record, &NoObjects).map_err(|error| match error {
        FoldError::Fenced(what) => OpenError::NoStore(what),
        other => OpenError::NoStore(other.to_string()),
    })?;
    // The genesis of a copied log names the log that it was written to.
    if log.copied_to() == Position(0) && folder.state().transport_id() != log.transport_id() {
        return Err(OpenError::NoStore(wrong_transport(folder.state().transport_id(), log.transport_id())));
    }
    if let Some(folded) = folder.finish() {
        store.commit(&folded.batch)?;
    }
    Ok(())
}

/// Whether the log still holds what was folded: the same log by identity, and the same record at the last position. Gives the
/// reader of what comes next, or how the replica stands instead.
fn overlap(log: &dyn Log, head: &Head, view: &View, adopt: bool) -> Result<Result<Box<dyn Reader>, Standing>, LogError> {
    let fenced = |reason: String| Ok(Err(Standing::new(ReplicaState::Fenced, reason)));
    if log.transport_id() != head.transport_id && head.applied.next() > log.copied_to() && !adopt {
        let ours = Folded {
            store_name: &view.store_name,
            log_id: view.log_id,
            transport_id: head.transport_id,
            applied: head.applied,
            digest: head.digest,
        };
        return fenced(fence::other_log(log, &ours));
    }
    let (range, applied) = (log.range(), head.applied);
    if applied >= range.end {
        return fenced(fence::truncated(&format!(
            "this replica has folded up to {applied} with digest {}, the log ends before {}: it has lost records",
            head.digest, range.end
        )));
    }
    if applied.next() < range.start {
        let reason = format!("the log starts at {}, this replica has folded up to {applied}", range.start);
        return Ok(Err(Standing::new(ReplicaState::SnapshotNeeded, reason)));
    }
    if applied < range.start {
        tracing::warn!(start = range.start.0, applied = applied.0, "the log was trimmed up to this replica's position: it cannot be compared");
        log.anchor(Tip { position: applied.next(), digest: head.digest, time: head.time });
        return log.reader(applied.next()).map(Ok);
    }
    // A log that stores no digests computes the one at `applied` from what this store knows of the position before: the
    // same digest then means the same record.
    log.anchor(Tip { position: applied, digest: head.before, time: head.time });
    let mut reader: Box<dyn Reader> = log.reader(applied)?;
    match reader.read(1, 1, Duration::from_secs(5))?.first() {
        Some(record) if record.digest == head.digest => Ok(Ok(reader)),
        Some(record) => fenced(fence::truncated(&format!(
            "position {applied} has digest {} on the log, {} in this store: the log lost its end and grew another",
            record.digest, head.digest
        ))),
        None => fenced(fence::truncated(&format!(
            "position {applied} cannot be read from the log any more; this store has digest {} there",
            head.digest
        ))),
    }
}

fn wrong_transport(ours: [u8; 16], found: [u8; 16]) -> String {
    format!("the store belongs to log {}, this is log {}", hex::encode(ours), hex::encode(found))
}
