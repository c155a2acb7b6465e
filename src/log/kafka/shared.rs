//! What the log, its readers and its watch share.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use confold_log::origin::Origin;
use confold_log::{LogError, Range};
use confold_model::ids::Position;
use parking_lot::{Condvar, Mutex};
use rdkafka::client::Client;

use crate::anchors::Anchors;
use crate::ffi::{Consumer, TopicFacts, describe_topic, leader_of};
use crate::preflight::Finding;
use crate::producer::{Context, Events, Producer};
use crate::{Options, hex_id};

/// How offsets of the partition become positions of the log.
#[derive(Clone, Copy)]
pub struct Frame {
    /// Position minus offset.
    pub shift: i64,
    /// Records below this position were copied, and bear their original times.
    pub copied: Position,
    /// What stands at offset 0 of a topic that was copied into, while it is there.
    pub origin: Option<Origin>,
}

impl Frame {
    /// A log that begins with genesis.
    pub const PLAIN: Frame = Frame {
        shift: 0,
        copied: Position(0),
        origin: None,
    };

    pub fn of(origin: Origin) -> Frame {
        Frame {
            shift: i64::try_from(origin.first.position.0).unwrap_or(i64::MAX) - 1,
            copied: origin.end,
            origin: Some(origin),
        }
    }

    pub fn offset(&self, position: Position) -> i64 {
        i64::try_from(position.0).unwrap_or(i64::MAX).saturating_sub(self.shift)
    }

    pub fn position(&self, offset: i64) -> Position {
        Position(u64::try_from(offset.saturating_add(self.shift)).unwrap_or(0))
    }

    /// Of the first offset that can hold a record.
    fn first(&self) -> i64 {
        i64::from(self.origin.is_some())
    }
}

/// A consumer and the count of answers up to which the topic was found to be the right one.
pub struct Line {
    pub consumer: Consumer<Context>,
    pub verified: u64,
}

/// The highest leader epoch that was read, and where: no later record can have a lower one.
#[derive(Clone, Copy, Default)]
pub struct EpochFloor {
    pub offset: i64,
    pub epoch: i32,
}

pub struct Shared {
    pub options: Options,
    pub topic_id: [u8; 16],
    pub frame: Frame,
    pub producer: Producer,
    pub events: Arc<Events>,
    pub anchors: Mutex<Anchors>,
    pub floor: Mutex<EpochFloor>,
    /// Offsets: the first that is still there, and the next one as far as anybody has heard.
    start: AtomicI64,
    end: AtomicI64,
    fenced: OnceLock<String>,
    unreachable: Mutex<Option<String>>,
    refusing: Mutex<Option<String>>,
    stage: Mutex<Stage>,
    ends_at: AtomicI64,
    idle: Mutex<Vec<Line>>,
    pub watch: Mutex<Watch>,
    pub watch_moved: Condvar,
    opened: Instant,
    /// Milliseconds since `opened`.
    end_asked: AtomicU64,
    reader_seen: AtomicU64,
    pub stopping: AtomicBool,
    pub tally: Tally,
    pub problems: Mutex<Vec<Finding>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Open,
    /// Appends are refused; what was handed over is being settled.
    Closing,
    /// Readers end where the log ended then.
    Closed,
}

#[derive(Default)]
pub struct Watch {
    pub asked: bool,
}

/// Counted since the log was opened.
#[derive(Default)]
pub struct Tally {
    pub renewed_consumers: AtomicU64,
    pub verified: AtomicU64,
    pub skew_ms: AtomicI64,
    pub start_moved: AtomicU64,
}

/// Consumers that nobody reads with now, for the next reader.
const IDLE_CONSUMERS: usize = 2;
/// A new leader may know of less for a moment.
const SHORTER: Duration = Duration::from_secs(5);
/// How long one question to the brokers may take.
pub const ASK: Duration = Duration::from_secs(3);

impl Shared {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        options: Options,
        topic_id: [u8; 16],
        frame: Frame,
        producer: Producer,
        events: Arc<Events>,
        anchors: Anchors,
        floor: EpochFloor,
        (start, end): (i64, i64),
    ) -> Shared {
        Shared {
            options,
            topic_id,
            frame,
            producer,
            events,
            anchors: Mutex::new(anchors),
            floor: Mutex::new(floor),
            start: AtomicI64::new(start),
            end: AtomicI64::new(end),
            fenced: OnceLock::new(),
            unreachable: Mutex::default(),
            refusing: Mutex::default(),
            stage: Mutex::new(Stage::Open),
            ends_at: AtomicI64::new(i64::MAX),
            idle: Mutex::default(),
            watch: Mutex::default(),
            watch_moved: Condvar::new(),
            opened: Instant::now(),
            end_asked: AtomicU64::new(0),
            reader_seen: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            tally: Tally::default(),
            problems: Mutex::default(),
        }
    }

    /// How people name this log.
    pub fn name(&self) -> String {
        self.options.name()
    }

    // --- where it ends ---

    pub fn start_offset(&self) -> i64 {
        self.start.load(SeqCst).max(self.frame.first())
    }

    pub fn end_offset(&self) -> i64 {
        self.end.load(SeqCst).max(self.frame.first())
    }

    pub fn range(&self) -> Range {
        Range {
            start: self.frame.position(self.start_offset()),
            end: self.frame.position(self.end_offset()),
        }
    }

    /// A record below `end` was read, or a broker has said so.
    pub fn saw_end(&self, end: i64) {
        self.end.fetch_max(end, SeqCst);
    }

    pub fn saw_start(&self, start: i64) {
        let before = self.start.fetch_max(start, SeqCst);
        if start > before {
            self.tally.start_moved.fetch_add(1, Relaxed);
            tracing::warn!(
                log = self.name(),
                from = self.frame.position(before).0,
                to = self.frame.position(start).0,
                "the topic has dropped its oldest records: retention or somebody deletes them; look at retention.ms, \
                 retention.bytes and cleanup.policy of the topic"
            );
        }
    }

    /// The leader says that the log ends here. Once that was more; a leader that has said less for so long has lost it.
    pub fn leader_says_end(&self, end: i64, shorter_since: &mut Option<Instant>) {
        self.saw_end(end);
        if end >= self.end_offset() {
            *shorter_since = None;
        } else if shorter_since.get_or_insert_with(Instant::now).elapsed() >= SHORTER {
            self.fence(format!(
                "{} ends at position {} now, and reached up to {} before: it has lost its end \
                 (docs/errors/fenced/truncated.md)",
                self.name(),
                self.frame.position(end),
                self.frame.position(self.end_offset())
            ));
        }
    }

    /// Whoever asks for the range wants it soon; a reader at the end hears of news by itself.
    pub fn want_end(&self) {
        let now = self.elapsed();
        let (asked, read) = (self.end_asked.load(Relaxed), self.reader_seen.load(Relaxed));
        if now.saturating_sub(asked) >= 50 && (read == 0 || now.saturating_sub(read) > 1000) {
            self.poke();
        }
    }

    pub fn end_was_asked(&self) {
        self.end_asked.store(self.elapsed(), Relaxed);
    }

    pub fn reader_lives(&self) {
        self.reader_seen.store(self.elapsed(), Relaxed);
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    pub fn poke(&self) {
        self.watch.lock().asked = true;
        self.watch_moved.notify_all();
    }

    // --- what it has become ---

    /// The log is not what it was: for good, for everybody.
    pub fn fence(&self, what: String) -> LogError {
        let first = self.fenced.set(what.clone()).is_ok();
        if first {
            tracing::error!(log = self.name(), what, "the log is fenced");
        }
        LogError::Fenced {
            what: self.fenced.get().cloned().unwrap_or(what),
        }
    }

    pub fn check(&self) -> Result<(), LogError> {
        match self.fenced.get() {
            Some(what) => Err(LogError::Fenced { what: what.clone() }),
            None => Ok(()),
        }
    }

    pub fn stage(&self) -> Stage {
        *self.stage.lock()
    }

    /// `false`: somebody did so before.
    pub fn begin_to_close(&self) -> bool {
        let mut stage = self.stage.lock();
        let first = *stage == Stage::Open;
        if first {
            *stage = Stage::Closing;
        }
        first
    }

    pub fn closed(&self, end: i64) {
        self.ends_at.store(end, SeqCst);
        *self.stage.lock() = Stage::Closed;
        self.idle.lock().clear();
    }

    /// Where readers end; `None` while the log is open.
    pub fn ends_at(&self) -> Option<i64> {
        (self.stage() == Stage::Closed).then(|| self.ends_at.load(SeqCst))
    }

    pub fn unreachable(&self) -> Option<String> {
        self.unreachable.lock().clone()
    }

    pub fn set_reachable(&self, answer: Result<(), String>) {
        let mut unreachable = self.unreachable.lock();
        match answer {
            Ok(()) => {
                if unreachable.take().is_some() {
                    self.events.deliveries.lock().begin_anew(Instant::now());
                    tracing::info!(log = self.name(), "the brokers can be reached again");
                }
            }
            Err(what) => {
                if unreachable.is_none() {
                    tracing::warn!(log = self.name(), what, "the brokers cannot be reached");
                }
                *unreachable = Some(what);
            }
        }
    }

    pub fn refusing(&self) -> Option<String> {
        self.refusing.lock().clone()
    }

    /// Whether the brokers take records; they answer in any case.
    pub fn set_taking(&self, answer: Result<(), String>) {
        let mut refusing = self.refusing.lock();
        match answer {
            Ok(()) => {
                if refusing.take().is_some() {
                    tracing::info!(log = self.name(), "the brokers take records again");
                }
            }
            Err(what) => {
                if refusing.is_none() {
                    tracing::warn!(log = self.name(), what, "the brokers take no records");
                }
                *refusing = Some(what);
            }
        }
    }

    pub fn health(&self) -> Result<(), LogError> {
        if self.stage() != Stage::Open {
            return Err(LogError::Closed);
        }
        self.check()?;
        if let Some(what) = self.unreachable() {
            return Err(LogError::Unreachable { what });
        }
        match self.refusing() {
            Some(what) => Err(LogError::Refusing { what }),
            None => Ok(()),
        }
    }

    // --- whether it is still the same topic ---

    /// Asks which topic has this name now: the broker that gave what is to be verified, else the leader. Another topic
    /// fences the log.
    pub fn verify_topic(&self, broker: Option<i32>) -> Result<(), LogError> {
        let topic = &self.options.topic;
        let facts = self.producer.with_client(|client| match broker {
            Some(broker) => describe_topic(client, topic, broker, ASK),
            None => ask_topic(client, topic),
        });
        let facts = facts.map_err(|why| LogError::Unreachable {
            what: format!("{}: which topic this is cannot be asked: {why}", self.name()),
        })?;
        self.tally.verified.fetch_add(1, Relaxed);
        match facts {
            None => Err(LogError::Unreachable {
                what: format!("the brokers know no topic {topic} any more"),
            }),
            Some(facts) if facts.id != self.topic_id => Err(self.fence(format!(
                "the topic {topic} was deleted and made anew: it had id {}, it has {} \
                 (docs/errors/fenced/recreated.md)",
                hex_id(self.topic_id),
                hex_id(facts.id)
            ))),
            Some(facts) if facts.partitions != 1 => Err(self.fence(format!(
                "the topic {topic} has {} partitions now; a log is one partition, and records of the others have no position",
                facts.partitions
            ))),
            Some(_) => Ok(()),
        }
    }

    // --- consumers ---

    pub fn line(&self) -> Result<Line, LogError> {
        if let Some(line) = self.idle.lock().pop() {
            return Ok(line);
        }
        let config = self.options.settings.consumer(self.options.record_bytes);
        let consumer = Consumer::new(&config, &self.options.topic, Context(self.events.clone()));
        let consumer = consumer.map_err(|error| LogError::Unreachable {
            what: format!("a consumer for {} cannot be made: {error}", self.name()),
        })?;
        Ok(Line { consumer, verified: 0 })
    }

    pub fn keep(&self, mut line: Line) {
        line.consumer.stop();
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_CONSUMERS && self.stage() == Stage::Open {
            idle.push(line);
        }
    }

    pub fn serve_idle(&self) {
        for line in &*self.idle.lock() {
            line.consumer.serve();
        }
    }
}

impl Shared {
    /// First and next offset, asked of the leader.
    pub fn ask_range(&self) -> Result<(i64, i64), LogError> {
        let range = ask_range(&self.producer, &self.options.topic, ASK).map_err(|why| LogError::Unreachable {
            what: format!("{}: {why}", self.name()),
        })?;
        self.saw_start(range.0);
        self.saw_end(range.1);
        self.end_was_asked();
        Ok(range)
    }
}

/// Asks the leader.
pub fn ask_topic(client: &Client<Context>, topic: &str) -> Result<Option<TopicFacts>, String> {
    match leader_of(client, topic, ASK)? {
        Some(broker) => describe_topic(client, topic, broker, ASK),
        None => Ok(None),
    }
}

pub fn ask_range(producer: &Producer, topic: &str, wait: Duration) -> Result<(i64, i64), String> {
    producer
        .with_client(|client| client.fetch_watermarks(topic, 0, wait))
        .map_err(|error| format!("where it begins and ends cannot be asked: {error}"))
}
