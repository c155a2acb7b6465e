//! Hands records to the brokers. A delivery report acknowledges nothing: it frees room in the queue, and where it says that a
//! record failed, this is counted and told to nobody, since the record may stand on the log all the same. What reports do tell is
//! whether the brokers take anything at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::LogError;
use confold_model::ids::Hash;
use confold_model::proto::Fields;
use parking_lot::Mutex;
use rdkafka::Message;
use rdkafka::client::Client;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

/// What clients report beside records.
#[derive(Default)]
pub struct Events {
    /// Bytes handed over and not reported on yet.
    pub queued: AtomicUsize,
    pub deliveries: Mutex<Deliveries>,
    /// Records that were reported on, whatever became of them.
    pub reported: AtomicU64,
    pub failed_deliveries: AtomicU64,
    pub producers_made: AtomicU64,
    /// Whether a client has said that it reaches no broker, since this was last looked at.
    pub all_down: Mutex<Option<String>>,
}

#[derive(Clone)]
pub struct Context(pub Arc<Events>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(facility, line, "the Kafka client")
            }
            // A broker that is away is said once by the log itself; the client says it with every attempt.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::info!(facility, line, "the Kafka client"),
            _ => tracing::debug!(facility, line, "the Kafka client"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client reports an error");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.all_down.lock() = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let message = match result {
            Ok(message) => {
                self.0.deliveries.lock().delivered(Instant::now());
                message
            }
            Err((error, message)) => {
                self.0.failed_deliveries.fetch_add(1, Relaxed);
                tracing::debug!(%error, "a record was perhaps not delivered");
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let record = message.payload().unwrap_or_default();
                self.0.deliveries.lock().failed(code, record);
                message
            }
        };
        self.0.queued.fetch_sub(message.payload_len(), SeqCst);
        self.0.reported.fetch_add(1, Relaxed);
    }
}

/// Whether the brokers take records: how long they have taken none although some wait.
#[derive(Default)]
pub struct Deliveries {
    /// Handed over and not reported on yet.
    waiting: usize,
    /// When the last record was delivered, or the first of those that wait was handed over. Set exactly while something waits or
    /// is kept in `kept`.
    since: Option<Instant>,
    /// A record that was given up while the brokers answered. Handed over again, which is harmless (the fold knows event ids), it
    /// shows when they take records again.
    kept: Option<Bytes>,
    /// What the brokers said to it, where that was for good.
    refused: Option<RDKafkaErrorCode>,
}

impl Deliveries {
    fn begun(&mut self, now: Instant) {
        self.waiting += 1;
        self.since.get_or_insert(now);
    }

    /// It was not handed over after all.
    fn undone(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 && self.kept.is_none() {
            self.since = None;
        }
    }

    fn delivered(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.kept = None;
        self.refused = None;
        self.since = (self.waiting > 0).then_some(now);
    }

    fn failed(&mut self, code: RDKafkaErrorCode, record: &[u8]) {
        use RDKafkaErrorCode::*;
        let forbidden = matches!(code, TopicAuthorizationFailed | ClusterAuthorizationFailed);
        // Anything else is about this record, or about the client.
        let not_taken = matches!(
            code,
            MessageTimedOut | RequestTimedOut | NotEnoughReplicas | NotEnoughReplicasAfterAppend | KafkaStorageError
        );
        if forbidden {
            self.refused = Some(code);
        }
        if (forbidden || not_taken) && self.kept.is_none() {
            self.kept = Some(Bytes::copy_from_slice(record));
        }
        self.undone();
    }

    /// The brokers were away: what was not delivered meanwhile says nothing of them now.
    pub fn begin_anew(&mut self, now: Instant) {
        self.kept = None;
        self.refused = None;
        self.since = (self.waiting > 0).then_some(now);
    }

    /// Whether nothing was delivered for so long although something waits.
    pub fn stalled(&self, now: Instant, patience: Duration) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since) >= patience)
    }

    pub fn refused(&self) -> Option<RDKafkaErrorCode> {
        self.refused
    }

    /// What is to be handed over again, once nothing else is under way.
    pub fn to_try(&self) -> Option<Bytes> {
        self.kept.clone().filter(|_| self.waiting == 0)
    }
}

/// One idempotent producer at a time; a new one takes the place of one that has failed for good.
pub struct Producer {
    config: ClientConfig,
    topic: String,
    events: Arc<Events>,
    queue_bytes: usize,
    current: Mutex<Arc<BaseProducer<Context>>>,
}

impl Producer {
    pub fn new(
        config: ClientConfig,
        topic: String,
        queue_bytes: usize,
        events: Arc<Events>,
    ) -> Result<Producer, KafkaError> {
        let current = Mutex::new(make(&config, &events)?);
        Ok(Producer {
            config,
            topic,
            events,
            queue_bytes,
            current,
        })
    }

    fn current(&self) -> Arc<BaseProducer<Context>> {
        self.current.lock().clone()
    }

    /// For questions to the brokers.
    pub fn with_client<T>(&self, ask: impl FnOnce(&Client<Context>) -> T) -> T {
        ask(self.current().client())
    }

    /// Queues one record; `Ok` is all that is ever known here.
    pub fn send(&self, record: &Bytes, time: Option<i64>) -> Result<(), LogError> {
        let size = record.len();
        let mut producer = self.current();
        let mut queued = self.events.queued.fetch_add(size, SeqCst);
        // A single record is always taken, whatever its size.
        let is_full = |queued| queued > 0 && queued + size > self.queue_bytes;
        if is_full(queued) {
            // What was delivered meanwhile makes room.
            self.take_reports(&producer);
            queued = self.events.queued.load(SeqCst) - size;
        }
        if is_full(queued) {
            self.events.queued.fetch_sub(size, SeqCst);
            return Err(LogError::Full {
                queued,
                limit: self.queue_bytes,
            });
        }
        self.events.deliveries.lock().begun(Instant::now());
        let mut sent = self.try_send(&producer, record, time);
        if matches!(sent, Err(RDKafkaErrorCode::Fatal)) {
            sent = match self.renew(&producer) {
                Ok(renewed) => {
                    producer = renewed;
                    self.try_send(&producer, record, time)
                }
                Err(error) => {
                    self.events.queued.fetch_sub(size, SeqCst);
                    self.events.deliveries.lock().undone();
                    return Err(error);
                }
            };
        }
        sent.map_err(|error| {
            self.events.queued.fetch_sub(size, SeqCst);
            self.events.deliveries.lock().undone();
            match error {
                RDKafkaErrorCode::QueueFull => LogError::Full {
                    queued,
                    limit: self.queue_bytes,
                },
                RDKafkaErrorCode::MessageSizeTooLarge => LogError::TooLarge {
                    size,
                    limit: size.saturating_sub(1),
                },
                // The client remembers what the brokers said to an earlier one.
                RDKafkaErrorCode::TopicAuthorizationFailed => LogError::Refusing {
                    what: forbidden(&self.topic),
                },
                error => LogError::Unreachable {
                    what: format!("the Kafka client refused a record: {error}"),
                },
            }
        })
    }

    fn try_send(
        &self,
        producer: &BaseProducer<Context>,
        record: &Bytes,
        time: Option<i64>,
    ) -> Result<(), RDKafkaErrorCode> {
        let key = key_of(record);
        let mut message = BaseRecord::to(&self.topic)
            .partition(0)
            .key(&key.bytes[..key.len])
            .payload(&record[..]);
        if let Some(time) = time {
            message = message.headers(OwnedHeaders::new_with_capacity(1).insert(Header {
                key: TIME_HEADER,
                value: Some(&time.to_be_bytes()[..]),
            }));
        }
        producer
            .send(message)
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
    }

    /// Serves the reports that have come, and replaces a producer that has failed for good. Whatever it had not delivered is lost
    /// or stands on the log already; whoever waits for it learns that from the log.
    pub fn poll(&self) {
        let producer = self.current();
        self.take_reports(&producer);
        if producer.client().fatal_error().is_some()
            && let Err(error) = self.renew(&producer)
        {
            tracing::error!(%error, "a new producer cannot be made");
        }
    }

    /// One call serves the reports of one batch.
    fn take_reports(&self, producer: &BaseProducer<Context>) {
        let mut reported = u64::MAX;
        while reported != self.events.reported.load(Relaxed) {
            reported = self.events.reported.load(Relaxed);
            producer.poll(Duration::ZERO);
        }
    }

    fn renew(&self, failed: &Arc<BaseProducer<Context>>) -> Result<Arc<BaseProducer<Context>>, LogError> {
        let mut current = self.current.lock();
        if Arc::ptr_eq(&current, failed) {
            let why = failed.client().fatal_error().map(|(_, why)| why).unwrap_or_default();
            tracing::warn!(why, "the producer failed for good: a new one takes its place");
            *current = make(&self.config, &self.events).map_err(|error| LogError::Unreachable {
                what: format!("a new producer cannot be made: {error}"),
            })?;
        }
        Ok(current.clone())
    }

    /// Waits until everything handed over was reported on, or for so long.
    pub fn flush(&self, wait: Duration) -> bool {
        self.current().flush(wait).is_ok()
    }
}

/// What it means that the brokers allow no writing.
pub fn forbidden(topic: &str) -> String {
    format!("the brokers do not allow this user to write topic {topic}: grant it the operation Write on it")
}

fn make(config: &ClientConfig, events: &Arc<Events>) -> Result<Arc<BaseProducer<Context>>, KafkaError> {
    events.producers_made.fetch_add(1, Relaxed);
    BaseProducer::from_config_and_context(config, Context(events.clone())).map(Arc::new)
}

/// The original time of a copied record: milliseconds since 1970, eight bytes, big-endian.
pub const TIME_HEADER: &str = "confold-time";

/// Unique, so that compaction switched on by mistake removes nothing: the event id, and the record's hash where it has none.
fn key_of(record: &[u8]) -> Key {
    let mut key = Key {
        bytes: [0; 32],
        len: 32,
    };
    match id_of(record) {
        Some((seen, nonce)) => {
            key.bytes[..8].copy_from_slice(&seen.to_be_bytes());
            key.bytes[8..24].copy_from_slice(&nonce);
            key.len = 24;
        }
        None => key.bytes = Hash::of(record).0,
    }
    key
}

struct Key {
    bytes: [u8; 32],
    len: usize,
}

/// The event id, by a look at the envelope's first fields. Whether all of it is an event is for the fold to say.
fn id_of(record: &[u8]) -> Option<(u64, [u8; 16])> {
    let id = Fields::new(record).find_map(|field| match field {
        Ok((number, _)) if number < EVENT_ID => None,
        Ok((EVENT_ID, value)) => Some(value.bytes().ok()),
        _ => Some(None),
    })??;
    let (mut seen, mut nonce) = (0, None);
    for field in Fields::new(id) {
        match field.ok()? {
            (1, value) => seen = value.uint().ok()?,
            (2, value) => nonce = Some(value.array("nonce").ok()?),
            _ => return None,
        }
    }
    Some((seen, nonce?))
}

/// Number of the field in confold.v1.Event.
const EVENT_ID: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use confold_model::event::{Body, Event, FORMAT};
    use confold_model::ids::{EventId, Position};

    #[test]
    fn nothing_delivered_for_long_is_a_stall_and_anything_delivered_ends_it() {
        let (patience, start) = (Duration::from_secs(5), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deliveries = Deliveries::default();
        assert!(!deliveries.stalled(at(1000), patience), "nothing waits");
        deliveries.begun(at(0));
        deliveries.begun(at(4));
        assert!(!deliveries.stalled(at(4), patience));
        assert!(deliveries.stalled(at(5), patience));
        deliveries.delivered(at(6));
        assert!(
            !deliveries.stalled(at(10), patience),
            "the other has waited for 4 s since"
        );
        assert!(deliveries.stalled(at(11), patience));
        deliveries.failed(RDKafkaErrorCode::MessageTimedOut, b"one");
        assert!(deliveries.stalled(at(12), patience), "giving up does not help");
        assert_eq!(deliveries.to_try().as_deref(), Some(&b"one"[..]));
        deliveries.begun(at(13));
        assert_eq!(deliveries.to_try(), None, "it is under way");
        assert!(deliveries.stalled(at(13), patience));
        deliveries.delivered(at(14));
        assert!(!deliveries.stalled(at(1000), patience));
        assert_eq!(deliveries.to_try(), None);

        deliveries.begun(at(20));
        deliveries.failed(RDKafkaErrorCode::MessageSizeTooLarge, b"big");
        assert!(!deliveries.stalled(at(1000), patience), "that was about this record");
        deliveries.begun(at(30));
        deliveries.undone();
        assert!(!deliveries.stalled(at(1000), patience));

        deliveries.begun(at(40));
        deliveries.failed(RDKafkaErrorCode::TopicAuthorizationFailed, b"two");
        assert_eq!(deliveries.refused(), Some(RDKafkaErrorCode::TopicAuthorizationFailed));
        deliveries.begun(at(41));
        deliveries.begin_anew(at(50));
        assert_eq!((deliveries.refused(), deliveries.to_try()), (None, None));
        assert!(!deliveries.stalled(at(54), patience) && deliveries.stalled(at(55), patience));
    }

    #[test]
    fn the_key_is_the_event_id_or_the_hash_of_what_has_none() {
        let mut event = Event {
            format: FORMAT,
            incarnation: Default::default(),
            intention: Some((
                EventId {
                    seen: Position(258),
                    nonce: [7; 16],
                },
                Hash::ZERO,
            )),
            author: "a".into(),
            principal: "".into(),
            client_time_ms: 0,
            reason: "".into(),
            body: Body::Fence,
        };
        let key = key_of(&event.encode());
        assert_eq!(key.bytes[..key.len], [&[0, 0, 0, 0, 0, 0, 1, 2], &[7; 16][..]].concat());
        event.intention = None;
        for record in [&event.encode()[..], b"", b"CONFOLDO", &[0xff; 40], &[0x1a, 0x02, 0x08]] {
            let key = key_of(record);
            assert_eq!(key.bytes[..key.len], Hash::of(record).0);
        }
    }
}
