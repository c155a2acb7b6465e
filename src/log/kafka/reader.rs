//! Reads the partition in order and lets nothing pass that is not the log that was read before.
//!
//! ```text
//! brokers ── consumer ── each record: the offset due? stamped by a broker? leader epoch not lower?  ── ready ── caller
//!                                     digest as it was read before?                                      │
//!                                          the topic still the same one, asked after the record came ────┘
//! ```
//! A reader begins one record early where it can, and compares. It does so again whenever it begins anew, and where the leader
//! epoch rises: there a leader that had not everything may have taken over.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use confold_log::origin::Origin;
use confold_log::{LogError, Reader, Record, Tip};
use confold_model::ids::{Position, Time};
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::ffi::{Message, Messages, Stamp};
use crate::shared::{Line, Shared};

/// How long a reader waits at once before it looks around.
const SLICE: Duration = Duration::from_millis(50);
/// Taken from the client at once.
const BATCH: usize = 1024;
/// A new consumer may take so long to find the leader before reading begins.
const WARM: Duration = Duration::from_secs(1);
/// After the log was closed, a reader gives up on brokers that say nothing for so long.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

const TIME_HEADER: &CStr = c"confold-time";

pub struct KafkaReader {
    shared: Arc<Shared>,
    /// Of the next record that the caller gets.
    next: Position,
    track: Track,
    line: Option<Line>,
    /// The consumer stopped, or has to begin again one record earlier.
    anew: bool,
    /// When the last record or the end of the partition was seen, or reading was begun.
    heard: Instant,
}

/// What is known of the records up to where reading goes on.
struct Track {
    /// Before the next record that comes from the brokers.
    tip: Tip,
    /// Before the record before it, once that was read.
    behind: Option<Tip>,
    /// Of the record before `tip`.
    epoch: Option<i32>,
    /// The record before this position was read again and compared since reading was begun.
    compared: Option<Position>,
    /// Records from `next` on.
    ready: VecDeque<Record>,
    /// Who gave the last of them.
    broker: i32,
}

/// What becomes of reading after some messages.
enum Then {
    GoOn,
    /// Begin again one record earlier.
    Again,
}

impl KafkaReader {
    /// `from` lies in the range of the log.
    pub fn new(shared: Arc<Shared>, from: Position) -> Result<KafkaReader, LogError> {
        let start = shared.frame.position(shared.start_offset());
        let tip = {
            let anchors = shared.anchors.lock();
            anchors.below(from, start).ok_or(LogError::BelowStart {
                asked: anchors.lowest(),
                start,
            })?
        };
        Ok(KafkaReader {
            shared,
            next: from,
            track: Track {
                tip,
                behind: None,
                epoch: None,
                compared: None,
                ready: VecDeque::new(),
                broker: -1,
            },
            line: None,
            anew: false,
            heard: Instant::now(),
        })
    }

    /// A consumer that reads from where this reader stands, or one record earlier.
    fn begin(&mut self) -> Result<Line, LogError> {
        let mut line = self.shared.line()?;
        line.consumer.warm(WARM);
        let due = self.shared.frame.offset(self.track.tip.position);
        let early = self.track.behind.is_some() && due > self.shared.start_offset();
        self.track.compared = None;
        self.heard = Instant::now();
        let begun = line
            .consumer
            .start(due - i64::from(early), self.track.epoch.filter(|_| early));
        begun.map_err(|error| LogError::Unreachable {
            what: format!("{} cannot be read: {error}", self.shared.name()),
        })?;
        Ok(line)
    }

    /// Takes what came. `false`: nothing did.
    fn fill(&mut self, wait: Duration) -> Result<bool, LogError> {
        if std::mem::take(&mut self.anew)
            && let Some(line) = self.line.take()
        {
            self.shared.keep(line);
        }
        let mut line = match self.line.take() {
            Some(line) => line,
            None => self.begin()?,
        };
        let messages = line.consumer.poll(BATCH, wait);
        let came = messages.len() > 0;
        let taken = self.track.take(&self.shared, &messages, self.next);
        drop(messages);
        self.shared.reader_lives();
        if came {
            self.heard = Instant::now();
        } else {
            line.consumer.serve();
        }
        // What came before is handed out first, and judged by the consumer that gave it.
        self.line = Some(line);
        self.anew = !matches!(taken, Ok(Then::GoOn));
        match taken {
            Err(error) if self.track.ready.is_empty() => return Err(error),
            // It is met again.
            _ => {}
        }
        if !came && self.is_stalled() {
            // Consumers have been seen to stall in silence.
            self.shared.tally.renewed_consumers.fetch_add(1, Relaxed);
            tracing::warn!(
                log = self.shared.name(),
                position = self.track.tip.position.0,
                end = self.shared.range().end.0,
                "the consumer gave nothing although the log holds more: it is made anew"
            );
            self.line = None;
            self.heard = Instant::now();
        }
        Ok(came)
    }

    fn is_stalled(&self) -> bool {
        let behind = self.shared.frame.offset(self.track.tip.position) < self.shared.end_offset();
        behind && self.heard.elapsed() >= self.shared.options.stall && self.shared.unreachable().is_none()
    }

    /// Whether what is ready is of the topic that was opened: where the client may have learned of another one, the broker that
    /// gave it is asked, after it came. A broker that cannot be asked has its records read again, from whoever leads by then.
    fn verify(&mut self) -> Result<(), LogError> {
        let Some(line) = &mut self.line else {
            return self.read_again();
        };
        if line.consumer.fetched_by_name() && !self.shared.options.dev_unsafe {
            return Err(self.shared.fence(format!(
                "the brokers of {} are too old: they give records by the topic's name alone, so a topic made anew would not \
                 show; Kafka 3.1 or later is needed",
                self.shared.name()
            )));
        }
        let seen = line.consumer.metadata_seen();
        if seen == line.verified {
            return Ok(());
        }
        match self.shared.verify_topic(Some(self.track.broker)) {
            Ok(()) => {
                line.verified = seen;
                Ok(())
            }
            Err(error @ LogError::Unreachable { .. }) => {
                self.read_again()?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what was read and not handed out.
    fn read_again(&mut self) -> Result<(), LogError> {
        *self = KafkaReader::new(self.shared.clone(), self.next)?;
        Ok(())
    }

    fn is_over(&self) -> bool {
        let Some(end) = self.shared.ends_at() else { return false };
        self.shared.frame.offset(self.track.tip.position) >= end || self.heard.elapsed() >= LAST_PATIENCE
    }
}

impl Reader for KafkaReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now().checked_add(wait);
        loop {
            self.shared.check()?;
            if !self.track.ready.is_empty() {
                self.verify()?;
            }
            if !self.track.ready.is_empty() {
                let records = self.track.hand_out(max_records, max_bytes);
                self.next = records.last().map_or(self.next, |last| last.position.next());
                return Ok(records);
            }
            if self.is_over() {
                return Err(LogError::Closed);
            }
            let left = deadline.map_or(SLICE, |deadline| deadline.saturating_duration_since(Instant::now()));
            if !self.fill(left.min(SLICE))? && left.is_zero() {
                return match self.shared.unreachable() {
                    Some(what) => Err(LogError::Unreachable { what }),
                    None => Ok(Vec::new()),
                };
            }
        }
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some(line) = self.line.take()
            && !self.is_stalled()
        {
            self.shared.keep(line);
        }
    }
}

impl Track {
    fn hand_out(&mut self, max_records: usize, max_bytes: usize) -> Vec<Record> {
        let (mut count, mut bytes) = (0, 0);
        for record in &self.ready {
            bytes += record.bytes.len();
            if count > 0 && (count >= max_records || bytes > max_bytes) {
                break;
            }
            count += 1;
        }
        self.ready.drain(..count).collect()
    }

    fn take(&mut self, shared: &Shared, messages: &Messages<'_>, from: Position) -> Result<Then, LogError> {
        let mut buffer = BytesMut::with_capacity(messages.iter().map(|message| message.payload().len()).sum());
        let known_end = shared.end_offset();
        let mut tips = vec![self.tip];
        let mut came = Vec::new();
        let mut result = Ok(Then::GoOn);
        for message in messages.iter() {
            match self.take_one(shared, message, &mut buffer) {
                Ok(Taken::Record(record)) => {
                    self.broker = message.broker();
                    tips.push(self.tip);
                    if record.position >= from {
                        came.push(record);
                    }
                }
                Ok(Taken::Nothing) => {}
                Ok(Taken::Again) => {
                    result = Ok(Then::Again);
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if tips.len() > 1 {
            shared
                .anchors
                .lock()
                .pass(&tips)
                .map_err(|error| refence(shared, error))?;
            shared.saw_end(shared.frame.offset(self.tip.position));
            // It was not there when the end was last heard of, a moment ago.
            if let Some(last) = came
                .last()
                .filter(|last| shared.frame.offset(last.position) >= known_end)
            {
                let skew = last.time.0.saturating_sub((shared.options.clock)().0);
                shared.tally.skew_ms.store(skew, Relaxed);
            }
        }
        self.ready.extend(came);
        result
    }

    fn take_one(&mut self, shared: &Shared, message: Message<'_>, buffer: &mut BytesMut) -> Result<Taken, LogError> {
        if let Some((code, why)) = message.error() {
            return self.take_error(shared, message, code, &why);
        }
        let due = shared.frame.offset(self.tip.position);
        let (offset, epoch) = (message.offset(), message.leader_epoch());
        if offset < due {
            if offset == due - 1
                && let Some(mut behind) = self.behind
            {
                let again = behind.record(self.time(shared, message)?, Bytes::copy_from_slice(message.payload()));
                if again.digest != self.tip.digest {
                    return Err(shared.fence(format!(
                        "position {} had log digest {} when it was read before, and has {} now: the topic has lost its \
                         end, and other records took that place (docs/errors/fenced/truncated.md)",
                        again.position, self.tip.digest, again.digest
                    )));
                }
                self.compared = Some(self.tip.position);
                self.epoch = epoch;
            }
            return Ok(Taken::Nothing);
        }
        if offset > due {
            return Err(self.gap(shared, due, offset));
        }
        if let (Some(epoch), Some(before)) = (epoch, self.epoch)
            && epoch > before
            && self.compared != Some(self.tip.position)
        {
            return Ok(Taken::Again);
        }
        self.check_epoch(shared, offset, epoch)?;
        let time = self.time(shared, message)?;
        let payload = message.payload();
        if offset == 0 && shared.frame.origin.is_none() && Origin::is_meant_by(payload) {
            return Err(shared.fence(format!(
                "a copy was begun in {} after it was opened: open it again",
                shared.name()
            )));
        }
        buffer.extend_from_slice(payload);
        self.behind = Some(self.tip);
        self.epoch = epoch;
        Ok(Taken::Record(self.tip.record(time, buffer.split().freeze())))
    }

    /// Offsets from `due` up to `next` hold no record.
    fn gap(&self, shared: &Shared, due: i64, next: i64) -> LogError {
        let position = self.tip.position;
        shared.fence(format!(
            "the log has a gap: offset {due} of {} holds no record, and {next} follows: position {position} was removed (compaction \
             or deletion), or taken by what is no record (the mark that a transaction leaves). `confold log copy` with `--until {}` \
             keeps everything before the gap in a new log and loses what stands behind it (docs/errors/fenced/gapped.md)",
            shared.name(),
            position.0.saturating_sub(1)
        ))
    }

    /// Leader epochs never go down along the log.
    fn check_epoch(&self, shared: &Shared, offset: i64, epoch: Option<i32>) -> Result<(), LogError> {
        let Some(epoch) = epoch else { return Ok(()) };
        let mut floor = shared.floor.lock();
        if let Some(before) = self
            .epoch
            .filter(|before| epoch < *before)
            .or_else(|| (offset >= floor.offset && epoch < floor.epoch).then_some(floor.epoch))
        {
            drop(floor);
            return Err(shared.fence(format!(
                "position {} of {} was written under leader epoch {epoch}, after records of epoch {before}: the topic was made anew \
                 or its leader had lost records",
                self.tip.position,
                shared.name()
            )));
        }
        if offset >= floor.offset && epoch > floor.epoch {
            (floor.offset, floor.epoch) = (offset, epoch);
        }
        Ok(())
    }

    fn time(&self, shared: &Shared, message: Message<'_>) -> Result<Time, LogError> {
        let copied = shared.frame.copied;
        if shared.frame.position(message.offset()) < copied {
            let time = message.header(TIME_HEADER).and_then(|value| value.try_into().ok());
            return time.map(i64::from_be_bytes).map(Time).ok_or_else(|| {
                shared.fence(format!(
                    "offset {} of {} is no copied record: it has no header confold-time, and the copy reaches up to position {}",
                    message.offset(),
                    shared.name(),
                    copied
                ))
            });
        }
        match message.stamp() {
            Stamp::Broker(time) => Ok(Time(time)),
            Stamp::Producer(time) if shared.options.dev_unsafe => Ok(Time(time)),
            Stamp::Producer(_) | Stamp::Nobody => Err(shared.fence(format!(
                "offset {} of {} was not stamped by a broker: the topic's message.timestamp.type is CreateTime, and must be \
                 LogAppendTime from its first record on",
                message.offset(),
                shared.name()
            ))),
        }
    }

    /// Errors come in place of records.
    fn take_error(&mut self, shared: &Shared, message: Message<'_>, code: Code, why: &str) -> Result<Taken, LogError> {
        let at = self.tip.position;
        let unreachable = |what: String| Err(LogError::Unreachable { what });
        match code {
            Code::PartitionEOF => {
                let (end, due) = (message.offset(), shared.frame.offset(at));
                shared.saw_end(end);
                if end > due {
                    Err(self.gap(shared, due, end))
                } else {
                    Ok(Taken::Nothing)
                }
            }
            // Out of range, or the leader does not have the last record under its epoch: the library gives one code for both.
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation => self.out_of_range(shared, why),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                shared.verify_topic(None)?;
                unreachable(format!("{} cannot be read: {why}", shared.name()))
            }
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                unreachable(format!("{} may not be read by this user: {why}", shared.name()))
            }
            Code::BadMessage | Code::InvalidMessage => unreachable(format!(
                "{} sent bytes near position {at} that are damaged: {why}",
                shared.name()
            )),
            _ => {
                tracing::debug!(log = shared.name(), ?code, why, "the consumer reports an error");
                Ok(Taken::Nothing)
            }
        }
    }

    fn out_of_range(&mut self, shared: &Shared, why: &str) -> Result<Taken, LogError> {
        let at = self.tip.position;
        shared.verify_topic(None)?;
        let (start, end) = shared.ask_range()?;
        let due = shared.frame.offset(at);
        if due < start {
            let start = shared.frame.position(start);
            return Err(LogError::BelowStart { asked: at, start });
        }
        if due > end {
            return Err(shared.fence(format!(
                "{} ends at position {} now, and was read up to {at} before (log digest {} before it): it has lost its end \
                 (docs/errors/fenced/truncated.md)",
                shared.name(),
                shared.frame.position(end),
                self.tip.digest
            )));
        }
        if self.behind.is_none() {
            return Err(shared.fence(format!(
                "{} did not have position {at} (log digest {} before it), which it had had before: {why}",
                shared.name(),
                self.tip.digest
            )));
        }
        // Reading the last record again tells which other one took its place. The leader need not be asked once more.
        self.epoch = None;
        Ok(Taken::Again)
    }
}

enum Taken {
    Record(Record),
    Nothing,
    Again,
}

/// Makes it known to everybody.
fn refence(shared: &Shared, error: LogError) -> LogError {
    match error {
        LogError::Fenced { what } => shared.fence(what),
        other => other,
    }
}
