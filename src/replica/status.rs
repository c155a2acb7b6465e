//! How a replica stands, what it counts, and its metrics.

use crate::meters;
use crate::view::View;
use confold_log::{LogError, Range};
use confold_model::ids::Position;
use confold_store::StoreError;
use metrics::{Counter, Gauge, Histogram};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::watch;

/// Where a replica is in its life. Only an operator leads out of the last four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaState {
    Starting,
    /// Reads what was folded so far; takes no proposals.
    CatchingUp,
    Serving,
    /// Reads go on, writes are refused: the log cannot be reached, takes no records, or a disk is full.
    Degraded,
    /// The log is not the one that was folded.
    Fenced,
    /// The replica's own store is not to be trusted.
    Quarantined,
    /// Needs a newer build, or met a fault while folding.
    Halted,
    /// Its position lies below the log's start.
    SnapshotNeeded,
    /// Shut down.
    Stopped,
}

impl ReplicaState {
    pub const ALL: [ReplicaState; 9] = [
        ReplicaState::Starting,
        ReplicaState::CatchingUp,
        ReplicaState::Serving,
        ReplicaState::Degraded,
        ReplicaState::Fenced,
        ReplicaState::Quarantined,
        ReplicaState::Halted,
        ReplicaState::SnapshotNeeded,
        ReplicaState::Stopped,
    ];

    /// Whether nothing more will be folded.
    pub fn is_final(self) -> bool {
        use ReplicaState::*;
        matches!(self, Fenced | Quarantined | Halted | SnapshotNeeded | Stopped)
    }

    /// As in documents and metrics, e.g. `CATCHING_UP`.
    pub fn name(self) -> &'static str {
        match self {
            ReplicaState::Starting => "STARTING",
            ReplicaState::CatchingUp => "CATCHING_UP",
            ReplicaState::Serving => "SERVING",
            ReplicaState::Degraded => "DEGRADED",
            ReplicaState::Fenced => "FENCED",
            ReplicaState::Quarantined => "QUARANTINED",
            ReplicaState::Halted => "HALTED",
            ReplicaState::SnapshotNeeded => "SNAPSHOT_NEEDED",
            ReplicaState::Stopped => "STOPPED",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            ReplicaState::Starting | ReplicaState::CatchingUp => "wait until it has folded what stands on the log",
            ReplicaState::Serving => "",
            ReplicaState::Degraded => "see to the log: free disk space or mend its connection; it goes on by itself",
            ReplicaState::Fenced => "connect the log that was folded, or follow the page named in the reason",
            ReplicaState::Quarantined => {
                "`confold store rebuild DIR` sets the store's folder aside as evidence and builds it anew from the log"
            }
            ReplicaState::Halted => "see the reason; after a fault of the disk, mend it and start it again; after a bug or an unknown level, start a newer build",
            ReplicaState::SnapshotNeeded => "start from a snapshot that is not older than the log's start",
            ReplicaState::Stopped => "start it again",
        }
    }
}

/// A state and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub state: ReplicaState,
    /// Empty where there is nothing to say.
    pub reason: String,
    /// The store is evidence: only an operator's command leads out of this state, a restart must not.
    pub by_operator: bool,
    /// No space is left for the log or the store: proposals are refused as that.
    pub disk_full: bool,
}

impl Standing {
    pub fn new(state: ReplicaState, reason: impl Into<String>) -> Standing {
        Standing { state, reason: reason.into(), by_operator: false, disk_full: false }
    }

    /// Degraded: the log takes no records, or gives none.
    pub(crate) fn without_log(error: &LogError) -> Standing {
        let disk_full = matches!(error, LogError::DiskFull { .. });
        Standing { disk_full, ..Standing::new(ReplicaState::Degraded, error.to_string()) }
    }

    /// Degraded: the store has no space for a batch.
    pub(crate) fn without_space(error: &StoreError) -> Standing {
        Standing { disk_full: true, ..Standing::new(ReplicaState::Degraded, error.to_string()) }
    }
}

impl From<ReplicaState> for Standing {
    fn from(state: ReplicaState) -> Standing {
        Standing::new(state, "")
    }
}

/// Everything that `status` shows, as of one moment.
#[derive(Clone)]
pub struct Status {
    pub standing: Standing,
    pub view: Arc<View>,
    /// 16 bytes that name this replica's data folder.
    pub replica: [u8; 16],
    pub build: &'static str,
    /// The highest level that this build knows.
    pub build_level: u32,
    pub log: Range,
    /// Records on the log that are not folded yet.
    pub lag: u64,
    /// Everything up to here is on this replica's disk.
    pub durable: Option<Position>,
    pub counts: Counts,
    pub uptime: Duration,
}

impl Status {
    /// What to do, where something is to be done.
    pub fn hint(&self) -> &'static str {
        self.standing.state.hint()
    }
}

/// Counted since the replica was opened, and sizes now; ascending by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts(pub BTreeMap<String, u64>);

/// The standing, which everybody may watch and few may change.
pub(crate) struct Stand {
    now: watch::Sender<Standing>,
}

impl Stand {
    pub fn new() -> Stand {
        Stand { now: watch::Sender::new(ReplicaState::Starting.into()) }
    }

    pub fn get(&self) -> Standing {
        self.now.borrow().clone()
    }

    pub fn state(&self) -> ReplicaState {
        self.now.borrow().state
    }

    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.now.subscribe()
    }

    /// Moves on, unless a final state was reached. Says whether anything changed.
    pub fn set(&self, standing: impl Into<Standing>) -> bool {
        let standing = standing.into();
        let moved = self.now.send_if_modified(|now| {
            let moves = !now.state.is_final() && *now != standing;
            if moves {
                *now = standing.clone();
            }
            moves
        });
        let Standing { state, reason, .. } = standing;
        if moved && state.is_final() && state != ReplicaState::Stopped {
            tracing::error!(state = state.name(), reason, hint = state.hint(), "the replica has stopped");
        } else if moved {
            tracing::info!(state = state.name(), reason, "the replica's state");
        }
        moved
    }

    /// Moves only out of the state given.
    pub fn change(&self, from: ReplicaState, to: impl Into<Standing>) -> bool {
        self.state() == from && self.set(to)
    }
}

/// Handles to the metrics of one store, looked up once.
pub(crate) struct Metrics {
    label: metrics::Label,
    pub position: Gauge,
    pub revision: Gauge,
    pub floor: Gauge,
    pub tree_bytes: Gauge,
    /// One for each state, 1 for the present one.
    states: [(ReplicaState, Gauge); 9],
    /// Seconds since 1970 when something was last folded: its age is for the scraper to compute.
    pub last_fold: Gauge,
    /// The stamp of the last record folded, in seconds since 1970.
    pub last_record: Gauge,
    pub last_sweep: Gauge,
    pub batch_records: Histogram,
    pub fold_seconds: Histogram,
    pub commit_seconds: Histogram,
    pub sync_seconds: Histogram,
    outcomes: Mutex<BTreeMap<(u8, u16), (Counter, u64)>>,
    pub tally: Tally,
    /// What counters kept elsewhere were when they were last shown.
    pub shown: Mutex<BTreeMap<&'static str, u64>>,
}

/// The same in plain numbers, for `status`.
#[derive(Default)]
pub(crate) struct Tally {
    pub batches: AtomicU64,
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub proposed: AtomicU64,
    pub unknown: AtomicU64,
    pub refused: AtomicU64,
    pub disagreements: AtomicU64,
    pub remade: AtomicU64,
    pub sheds: AtomicU64,
    pub sweeps: AtomicU64,
    pub swept_objects: AtomicU64,
    pub swept_bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub retries: AtomicU64,
    pub new_readers: AtomicU64,
    pub folded_again: AtomicU64,
    pub differs: AtomicU64,
}

impl Metrics {
    pub fn new(store: &str) -> Metrics {
        meters::describe();
        let label = metrics::Label::new("store", store.to_owned());
        let labels = || vec![label.clone()];
        let gauge = |name: &'static str| metrics::gauge!(name, labels());
        let histogram = |name: &'static str| metrics::histogram!(name, labels());
        Metrics {
            position: gauge("confold_position"),
            revision: gauge("confold_revision"),
            floor: gauge("confold_floor"),
            tree_bytes: gauge("confold_tree_bytes"),
            states: ReplicaState::ALL.map(|state| {
                let labels = vec![label.clone(), metrics::Label::new("state", state.name())];
                (state, metrics::gauge!("confold_state", labels))
            }),
            last_fold: gauge("confold_last_fold_time_seconds"),
            last_record: gauge("confold_last_record_time_seconds"),
            last_sweep: gauge("confold_last_sweep_seconds"),
            batch_records: histogram("confold_batch_records"),
            fold_seconds: histogram("confold_fold_seconds"),
            commit_seconds: histogram("confold_store_commit_seconds"),
            sync_seconds: histogram("confold_store_sync_seconds"),
            outcomes: Mutex::default(),
            tally: Tally::default(),
            shown: Mutex::default(),
            label,
        }
    }

    pub fn count_outcomes(&self, outcomes: &BTreeMap<(u8, u16), u64>) {
        let mut counters = self.outcomes.lock();
        for (what, count) in outcomes {
            let (counter, total) = counters.entry(*what).or_insert_with(|| {
                let code = metrics::Label::new("outcome", outcome_name(*what));
                (metrics::counter!("confold_events_total", vec![self.label.clone(), code]), 0)
            });
            counter.increment(*count);
            *total += count;
        }
    }

    pub fn show_state(&self, now: ReplicaState) {
        self.states.iter().for_each(|(state, gauge)| gauge.set(f64::from(u8::from(*state == now))));
    }

    pub fn label(&self) -> metrics::Label {
        self.label.clone()
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        let tally = &self.tally;
        let mut all: BTreeMap<String, u64> = [
            ("batches", &tally.batches),
            ("records", &tally.records),
            ("record_bytes", &tally.bytes),
            ("proposed", &tally.proposed),
            ("proposals_unknown", &tally.unknown),
            ("proposals_refused", &tally.refused),
            ("disagreements", &tally.disagreements),
            ("past_trees_remade", &tally.remade),
            ("past_trees_differ", &tally.differs),
            ("tree_sheds", &tally.sheds),
            ("sweeps", &tally.sweeps),
            ("swept_objects", &tally.swept_objects),
            ("swept_bytes", &tally.swept_bytes),
            ("store_syncs", &tally.syncs),
            ("object_retries", &tally.retries),
            ("new_readers", &tally.new_readers),
            ("marks_folded_again", &tally.folded_again),
        ]
        .map(|(name, value)| (name.to_owned(), value.load(Relaxed)))
        .into();
        for (what, (_, total)) in self.outcomes.lock().iter() {
            all.insert(format!("events_{}", outcome_name(*what)), *total);
        }
        all
    }
}

fn outcome_name((outcome, code): (u8, u16)) -> String {
    match outcome {
        0 => "accepted".to_owned(),
        1 => "unchanged".to_owned(),
        3 => "duplicate".to_owned(),
        _ => {
            let code = confold_model::code::Code::from_number(code);
            format!("rejected_{}", code.map_or("UNNAMED", |code| code.name()))
        }
    }
}
