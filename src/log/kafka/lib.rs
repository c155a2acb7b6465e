//! The log on one partition of a Kafka topic.
//!
//! ```text
//! append ── producer ──▶ brokers ──▶ consumer ── reader: the same log as before? ──▶ records with positions and digests
//!           idempotent      │
//!           acks=all        └─ watch: end, reachability, topic id, partitions, clock
//! ```
//! What is assumed of the brokers: a record that a consumer was given stands at its offset for good, unless the topic was made
//! anew, its end was lost, or somebody deletes. None of these is assumed away: each shows, and fences the log for good before a
//! record of another past is handed out. An append is handed over and nothing more; delivery reports acknowledge nothing.
//!
//! Position = offset, for a log that begins with genesis. A log that was copied into the topic begins with an
//! [`Origin`] at offset 0, and its first record stands at offset 1.
//!
//! Nothing of the client library is visible here.

mod admin;
mod anchors;
mod bare;
mod copy;
mod ffi;
mod notes;
mod preflight;
mod producer;
mod reader;
mod settings;
mod shared;
mod taking;
mod topic;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::file::Clock;
use confold_log::origin::Origin;
use confold_log::{Fence, Log, LogError, Range, Reader, Tip};
use confold_model::ids::Position;
use parking_lot::Mutex;

pub use admin::{Admin, TopicError};
use anchors::Anchors;
pub use bare::Bare;
pub use copy::KafkaCopy;
use ffi::Consumer;
pub use preflight::{Finding, Preflight, Severity, Wanted};
use producer::{Context, Events, Producer};
use reader::KafkaReader;
pub use settings::{ClientSettings, RECORD_ROOM, SettingsError};
use shared::{ASK, EpochFloor, Frame, Line, Shared};
pub use topic::NewTopic;

/// How to open the log of a topic.
#[derive(Clone)]
pub struct Options {
    /// Which brokers, and how they are reached.
    pub settings: ClientSettings,
    pub topic: String,
    /// Refuse (`Fenced`) a topic with another id.
    pub transport_id: Option<[u8; 16]>,
    /// A bigger record is refused. The topic's max.message.bytes must be bigger by [`RECORD_ROOM`].
    pub record_bytes: usize,
    /// What may wait to be taken by the brokers.
    pub queue_bytes: usize,
    /// A record that the brokers have not taken after this time is given up. It may stand on the log all the same.
    pub message_timeout: Duration,
    /// While the brokers have confirmed nothing for so long although a record waits, new ones are refused.
    pub confirm_within: Duration,
    /// A consumer that gives nothing for so long while the log holds more is made anew.
    pub stall: Duration,
    /// Id, partitions and settings of the topic are looked at so often.
    pub look_every: Duration,
    /// How long opening may wait for the brokers.
    pub open_wait: Duration,
    /// A file for hints across restarts; losing it loses nothing else.
    pub notes: Option<PathBuf>,
    /// For trying things out: takes records that their producer stamped, and brokers without topic ids in fetches.
    pub dev_unsafe: bool,
    pub clock: Clock,
}

impl Options {
    pub fn new(settings: ClientSettings, topic: impl Into<String>) -> Options {
        Options {
            settings,
            topic: topic.into(),
            transport_id: None,
            record_bytes: 16 << 20,
            queue_bytes: 64 << 20,
            message_timeout: Duration::from_secs(30),
            confirm_within: Duration::from_secs(5),
            stall: Duration::from_secs(5),
            look_every: Duration::from_secs(60),
            open_wait: Duration::from_secs(10),
            notes: None,
            dev_unsafe: false,
            clock: Arc::new(confold_log::file::system_clock),
        }
    }

    fn name(&self) -> String {
        format!("topic {} on {}", self.topic, self.settings.brokers())
    }
}

/// What happened since the log was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records whose delivery was not confirmed in time. They may stand on the log.
    pub failed_deliveries: u64,
    /// Producers made in place of one that had failed for good.
    pub renewed_producers: u64,
    /// Consumers made in place of one that gave nothing.
    pub renewed_consumers: u64,
    /// How often the brokers were asked which topic this is.
    pub verified: u64,
    /// How often the topic was seen to have dropped its oldest records.
    pub start_moved: u64,
    /// By how many milliseconds the brokers' clock was ahead of this machine's when the newest record came.
    pub clock_skew_ms: i64,
}

/// The log on a topic. Dropping it closes it; readers may outlive it.
pub struct KafkaLog {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl KafkaLog {
    /// Opens the log of a topic that exists. `Missing`: there is no such topic. `Unreachable`: no broker answers in time.
    /// `Fenced`: it is another topic than was asked for, has more than one partition, or is not a log. `Unfinished`: it is a
    /// copy that was interrupted.
    pub fn open(options: Options) -> Result<KafkaLog, LogError> {
        let topic = Connected::to(options)?;
        let (frame, line) = topic.find_frame()?;
        if let Some(origin) = &frame.origin
            && frame.position(topic.ends.1) < origin.end
        {
            return Err(LogError::Unfinished {
                what: format!(
                    "{} reaches up to position {} and should reach up to {}: run `confold log copy` again, it goes on where it \
                     stopped",
                    topic.options.name(),
                    frame.position(topic.ends.1),
                    origin.end
                ),
            });
        }
        topic.into_log(frame, line)
    }

    fn start(shared: Arc<Shared>) -> Result<KafkaLog, LogError> {
        let log = KafkaLog {
            shared,
            threads: Mutex::default(),
        };
        for (name, run) in [
            ("kafka-reports", serve_reports as fn(&Arc<Shared>)),
            ("kafka-watch", watch::run),
        ] {
            let shared = log.shared.clone();
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&shared));
            let thread = thread.map_err(|error| LogError::Failed {
                what: format!("cannot start the thread {name}"),
                cause: Arc::new(error),
            })?;
            log.threads.lock().push(thread);
        }
        Ok(log)
    }

    /// Where the log begins, when it was copied into this topic.
    pub fn origin(&self) -> Option<Origin> {
        self.shared.frame.origin
    }

    /// What is wrong with the topic's settings, as it was found last while the log was open.
    pub fn problems(&self) -> Vec<Finding> {
        self.shared.problems.lock().clone()
    }

    pub fn counts(&self) -> Counts {
        let (events, tally) = (&self.shared.events, &self.shared.tally);
        Counts {
            failed_deliveries: events.failed_deliveries.load(Relaxed),
            renewed_producers: events.producers_made.load(Relaxed).saturating_sub(1),
            renewed_consumers: tally.renewed_consumers.load(Relaxed),
            verified: tally.verified.load(Relaxed),
            start_moved: tally.start_moved.load(Relaxed),
            clock_skew_ms: tally.skew_ms.load(Relaxed),
        }
    }

    /// What stands before `position`, which is one of the range or its end: what a copy that begins there has to know. Reads
    /// from the nearest position whose digest is known, so it may take long; gives up after `wait` without news.
    pub fn tip_at(&self, position: Position, wait: Duration) -> Result<Tip, LogError> {
        let first = self.shared.frame.origin.map_or(Tip::START, |origin| origin.first);
        if position <= first.position {
            return Ok(first);
        }
        let before = Position(position.0 - 1);
        let records = self.reader(before)?.read(1, 0, wait)?;
        let record = records.first().ok_or(LogError::BeyondEnd {
            asked: position,
            end: self.range().end,
        })?;
        Ok(Tip {
            position,
            digest: record.digest,
            time: record.time,
        })
    }
}

impl Log for KafkaLog {
    /// The topic's id.
    fn transport_id(&self) -> [u8; 16] {
        self.shared.topic_id
    }

    fn range(&self) -> Range {
        self.shared.want_end();
        self.shared.range()
    }

    fn append(&self, record: Bytes) -> Result<(), LogError> {
        self.shared.health()?;
        let (size, limit) = (record.len(), self.shared.options.record_bytes);
        if size > limit {
            return Err(LogError::TooLarge { size, limit });
        }
        self.shared.producer.send(&record, None)
    }

    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        self.shared.check()?;
        let Range { start, end } = self.shared.range();
        if from < start {
            return Err(LogError::BelowStart { asked: from, start });
        }
        if from > end {
            return Err(LogError::BeyondEnd { asked: from, end });
        }
        Ok(Box::new(KafkaReader::new(self.shared.clone(), from)?))
    }

    fn copied_to(&self) -> Position {
        self.shared.frame.origin.map_or(Position(0), |origin| origin.end)
    }

    fn anchor(&self, tip: Tip) {
        self.shared.anchors.lock().tell(tip);
    }

    /// The end that a broker names may be a deposed leader's.
    fn fence(&self) -> Result<Fence, LogError> {
        self.shared.check()?;
        Ok(Fence::AppendAndWait)
    }

    fn health(&self) -> Result<(), LogError> {
        self.shared.health()
    }

    fn close(&self) {
        // Held until all is settled: a second caller returns only when the log is closed, too.
        let mut threads = self.threads.lock();
        if !self.shared.begin_to_close() {
            return;
        }
        let patience = match self.shared.unreachable().or(self.shared.refusing()) {
            Some(_) => Duration::from_secs(1),
            None => self.shared.options.message_timeout.min(Duration::from_secs(10)),
        };
        let settled = self.shared.producer.flush(patience);
        if !settled {
            tracing::warn!(
                log = self.shared.name(),
                "closed before the brokers had confirmed everything that was handed over"
            );
        }
        let end = match self.shared.ask_range() {
            Ok((_, end)) => end,
            Err(_) => self.shared.end_offset(),
        };
        self.shared.closed(end.max(self.shared.end_offset()));
        self.shared.stopping.store(true, SeqCst);
        self.shared.watch_moved.notify_all();
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the log had panicked");
            }
        }
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// How often delivery reports are looked at. They say nothing that anybody waits for, and a thread that is woken by each of them
/// takes the processor from the one that is woken by the record.
const REPORTS: Duration = Duration::from_millis(10);

fn serve_reports(shared: &Arc<Shared>) {
    while !shared.stopping.load(SeqCst) {
        shared.producer.poll();
        std::thread::sleep(REPORTS);
    }
}

/// Asks again until the deadline has passed, at least once.
fn until<T>(deadline: Instant, mut ask: impl FnMut() -> Result<T, LogError>) -> Result<T, LogError> {
    loop {
        match ask() {
            Err(LogError::Unreachable { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50))
            }
            answer => return answer,
        }
    }
}

/// A topic that can be reached and looks like a log from outside.
struct Connected {
    options: Options,
    events: Arc<Events>,
    producer: Producer,
    topic_id: [u8; 16],
    /// First and next offset.
    ends: (i64, i64),
    deadline: Instant,
    noted: Option<notes::Notes>,
}

impl Connected {
    fn to(options: Options) -> Result<Connected, LogError> {
        let events = Arc::new(Events::default());
        let deadline = Instant::now() + options.open_wait;
        let name = options.name();
        let unreachable = |what: String| LogError::Unreachable {
            what: format!("{name}: {what}"),
        };
        let fenced = |what: String| Err(LogError::Fenced { what });
        let producer = Producer::new(
            options.settings.producer(options.record_bytes, options.message_timeout),
            options.topic.clone(),
            options.queue_bytes,
            events.clone(),
        )
        .map_err(|error| LogError::Unreachable {
            what: format!("no client can be made for {name}: {error}"),
        })?;
        let facts = until(deadline, || {
            producer
                .with_client(|client| shared::ask_topic(client, &options.topic))
                .map_err(unreachable)
        })?;
        let Some(facts) = facts else {
            return Err(LogError::Missing { folder: name });
        };
        if let Some(wanted) = options.transport_id.filter(|wanted| *wanted != facts.id) {
            return fenced(format!(
                "{name} has id {}, and this store belongs to the topic with id {}: it was deleted and made anew, or it is another \
                 one",
                hex_id(facts.id),
                hex_id(wanted)
            ));
        }
        if facts.id == [0; 16] {
            return fenced(format!(
                "the brokers of {name} give topics no id, so one made anew could not be told: Kafka 3.1 or later is needed"
            ));
        }
        if facts.partitions != 1 {
            return fenced(format!("{name} has {} partitions, and a log is one", facts.partitions));
        }
        let ends = until(deadline, || {
            shared::ask_range(&producer, &options.topic, ASK).map_err(unreachable)
        })?;
        let noted = options.notes.as_deref().and_then(|path| notes::read(path, facts.id));
        Ok(Connected {
            options,
            events,
            producer,
            topic_id: facts.id,
            ends,
            deadline,
            noted,
        })
    }

    fn into_log(self, frame: Frame, line: Option<Line>) -> Result<KafkaLog, LogError> {
        let floor = self.noted.map_or_else(EpochFloor::default, |notes| EpochFloor {
            offset: notes.epoch_offset,
            epoch: notes.epoch,
        });
        let first = frame.origin.map_or(Tip::START, |origin| origin.first);
        let shared = Shared::new(
            self.options,
            self.topic_id,
            frame,
            self.producer,
            self.events,
            Anchors::new(first),
            floor,
            self.ends,
        );
        if let Some(line) = line {
            shared.keep(line);
        }
        KafkaLog::start(Arc::new(shared))
    }

    /// What stands at offset 0 says how offsets become positions. Where it is gone, the notes say so.
    fn find_frame(&self) -> Result<(Frame, Option<Line>), LogError> {
        if self.ends.0 > 0 {
            let frame = self.noted.as_ref().map_or(Frame::PLAIN, |notes| Frame {
                shift: notes.shift,
                copied: Position(notes.copied),
                origin: None,
            });
            return Ok((frame, None));
        }
        if self.ends.1 == 0 {
            return Ok((Frame::PLAIN, None));
        }
        let (first, line) = self.read_first()?;
        Ok((frame_of(&self.options, self.topic_id, &first)?, Some(line)))
    }

    /// The record at offset 0, once there is one.
    fn read_first(&self) -> Result<(Bytes, Line), LogError> {
        let name = self.options.name();
        let unreachable = |what: String| LogError::Unreachable {
            what: format!("the first record of {name} cannot be read: {what}"),
        };
        let config = self.options.settings.consumer(self.options.record_bytes);
        let mut consumer = Consumer::new(&config, &self.options.topic, Context(self.events.clone()))
            .map_err(|error| unreachable(error.to_string()))?;
        consumer
            .start(0, None)
            .map_err(|error| unreachable(error.to_string()))?;
        let mut said = "no broker gave it in time".to_owned();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let messages = consumer.poll(1, left.min(Duration::from_millis(200)));
            let mut first = None;
            for message in messages.iter() {
                match message.error() {
                    Some((_, why)) => said = why,
                    None if message.offset() > 0 => {
                        return Err(LogError::Fenced {
                            what: format!(
                                "offset 0 of {name} is missing, and {} is the first that holds a record: the topic is compacted, or a \
                                 transaction left its mark in it; a log begins at the first record of its topic",
                                message.offset()
                            ),
                        });
                    }
                    None => first = Some(Bytes::copy_from_slice(message.payload())),
                }
            }
            drop(messages);
            consumer.serve();
            if let Some(first) = first {
                return Ok((first, Line { consumer, verified: 0 }));
            }
            if left.is_zero() {
                return Err(unreachable(said));
            }
            self.producer.poll();
        }
    }
}

fn frame_of(options: &Options, topic_id: [u8; 16], first: &[u8]) -> Result<Frame, LogError> {
    if !Origin::is_meant_by(first) {
        return Ok(Frame::PLAIN);
    }
    let origin = Origin::decode(first).map_err(|why| LogError::Fenced {
        what: format!(
            "the first record of {} begins like an origin, and {why}",
            options.name()
        ),
    })?;
    if origin.identity.transport_id != topic_id {
        return Err(LogError::Fenced {
            what: format!(
                "{} has id {}, and its origin was written for the topic with id {}: its records were carried here by something \
                 other than `confold log copy`",
                options.name(),
                hex_id(topic_id),
                hex_id(origin.identity.transport_id)
            ),
        });
    }
    Ok(Frame::of(origin))
}

fn hex_id(id: [u8; 16]) -> String {
    hex::encode(id)
}
