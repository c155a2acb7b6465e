//! How to run a replica; everything has a default.

use crate::status::Standing;
use confold_model::event::{Limits, RetentionPolicy, WINDOW};
use confold_model::ids::Time;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Milliseconds since 1970. Housekeeping asks it when to propose a mark or a prune; the fold never does.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

#[derive(Clone)]
pub struct Options {
    /// Events per batch: at first, and at most when the log is far ahead. The default of both follows docs/formats.md 5, by
    /// which no batch can be longer than the distance between marks.
    pub batch_records: std::ops::RangeInclusive<usize>,
    /// Bytes of records per batch.
    pub batch_bytes: usize,
    /// Memory of the loaded tree; above it what was not used lately is dropped, to be loaded again when needed.
    pub tree_cache_bytes: usize,
    /// Memory of the objects kept beside it, as they came from the store.
    pub object_cache_bytes: u64,
    /// Trees of past revisions kept after they were re-made: how many, and their memory.
    pub past_trees: usize,
    pub past_cache_bytes: usize,
    /// Proposals that may be under way at once: how many, and their bytes.
    pub in_flight: usize,
    pub in_flight_bytes: usize,
    /// How often a read of the store is tried again before the fold halts, and the pause before each.
    pub object_retries: u32,
    pub retry_pause: Duration,
    /// How long to wait before a store whose disk is full is tried again.
    pub full_pause: Duration,
    /// How long the fold waits for the log before it looks around.
    pub read_wait: Duration,
    /// A reader that gives nothing for so long while the log holds more is replaced by a new one.
    pub stall: Duration,
    /// Whether this replica proposes marks, checkpoints and prunes, and sweeps: in a thread of its own, or only when
    /// [`crate::Handle::keep_house`] is called.
    pub housekeeping: Housekeeping,
    pub clock: Clock,
    /// A mark event after this time, where events were folded since the last mark.
    pub mark_every_ms: i64,
    /// At most one prune event in this time.
    pub prune_every_ms: i64,
    /// At most one sync of the store for a checkpoint in this time.
    pub sync_every_ms: i64,
    pub thinning: Thinning,
    /// Objects per step of a sweep, and the percentage of time it may work.
    pub sweep_step: usize,
    pub sweep_percent: u32,
    /// What to do when another replica disagrees and this one reproduces its own value.
    pub on_dispute: OnDispute,
    /// Called once when the replica stops for good by itself; a data folder remembers it so.
    pub on_stop: Option<OnStop>,
    /// Fold a copied log that nobody opened yet, so that it can be: the one proposal to make then is its `open`.
    pub adopt: bool,
    /// Close the log at shutdown. Not where several replicas of one process share it.
    pub close_log: bool,
}

/// Told of a final state.
pub type OnStop = Arc<dyn Fn(&Standing) + Send + Sync>;

/// Whether to go on while replicas disagree and it is not known which is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDispute {
    /// Serve on, and say with every answer that it is disputed.
    #[default]
    Serve,
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Housekeeping {
    Background,
    ByHand,
}

/// Which whole trees stay in the store, by their age in positions. Any other kept revision is re-made from the one below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thinning {
    /// Every tree of the last so many positions.
    pub all: u64,
    /// Those of marks in the last so many positions.
    pub marks: u64,
    /// Older than that: one in so many positions.
    pub one_in: u64,
}

impl Default for Thinning {
    fn default() -> Thinning {
        Thinning { all: 1 << 16, marks: 1 << 20, one_in: 64 * confold_model::fold::MARK_EVERY }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            batch_records: 256..=4096,
            batch_bytes: 8 << 20,
            tree_cache_bytes: 512 << 20,
            object_cache_bytes: 64 << 20,
            past_trees: 32,
            past_cache_bytes: 128 << 20,
            in_flight: 1 << 16,
            in_flight_bytes: 128 << 20,
            object_retries: 5,
            retry_pause: Duration::from_millis(50),
            full_pause: Duration::from_millis(200),
            read_wait: Duration::from_millis(200),
            stall: Duration::from_secs(10),
            housekeeping: Housekeeping::Background,
            clock: Arc::new(system_clock),
            mark_every_ms: 60_000,
            prune_every_ms: 60_000,
            sync_every_ms: 1_000,
            thinning: Thinning::default(),
            sweep_step: 256,
            sweep_percent: 25,
            on_dispute: OnDispute::Serve,
            on_stop: None,
            adopt: false,
            close_log: true,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("batch_records", &self.batch_records).finish_non_exhaustive()
    }
}

/// What a new store begins with; fixed for ever, save the retention policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begin {
    /// 16 random bytes, where the log bears them already; `None`: made here.
    pub log_id: Option<[u8; 16]>,
    pub limits: Limits,
    pub window: u64,
    /// N: how many replicas must have a durable checkpoint before the log may be trimmed.
    pub trim_replicas: u32,
    pub retention: RetentionPolicy,
    /// How long to wait for genesis to come back from the log.
    pub deadline: Duration,
}

impl Default for Begin {
    fn default() -> Begin {
        Begin {
            log_id: None,
            limits: Limits::default(),
            window: WINDOW,
            trim_replicas: 1,
            retention: RetentionPolicy { keep_all: true, ..RetentionPolicy::default() },
            deadline: Duration::from_secs(30),
        }
    }
}

fn system_clock() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
