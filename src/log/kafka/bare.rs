//! What brokers and client library do without a log on top: the limit of the log's speed, measured with the same settings.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use confold_log::LogError;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientContext, Message as _, Offset, TopicPartitionList};

use crate::settings::ClientSettings;

/// Long enough for any broker that lives.
const PATIENCE: Duration = Duration::from_secs(20);

/// A producer and a consumer of one topic that nobody else uses.
pub struct Bare {
    producer: BaseProducer<Quiet>,
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

/// Delivery reports say nothing here: a record is done when it was consumed.
#[derive(Clone)]
struct Quiet;

impl ClientContext for Quiet {}

impl rdkafka::consumer::ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl Bare {
    pub fn new(settings: &ClientSettings, topic: &str) -> Result<Bare, LogError> {
        let record_bytes = 16 << 20;
        let producer = settings.producer(record_bytes, PATIENCE).create_with_context(Quiet).map_err(failed)?;
        let consumer: BaseConsumer<Quiet> =
            settings.consumer(record_bytes).create_with_context(Quiet).map_err(failed)?;
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, 0, Offset::Beginning).map_err(failed)?;
        consumer.assign(&place).map_err(failed)?;
        Ok(Bare { producer, consumer, topic: topic.to_owned() })
    }

    /// Produces records of this size and consumes each, with so many on their way at most. `done` hears of each record when it
    /// was produced, at the moment at which it was consumed.
    pub fn run(
        &mut self,
        in_flight: usize,
        record_bytes: usize,
        duration: Duration,
        mut done: impl FnMut(Instant),
    ) -> Result<(), LogError> {
        let payload = vec![0x5a; record_bytes];
        let mut under_way = VecDeque::with_capacity(in_flight);
        let mut turn = 0_u64;
        let (began, mut heard) = (Instant::now(), Instant::now());
        loop {
            let more = began.elapsed() < duration;
            while more && under_way.len() < in_flight {
                turn += 1;
                let key = turn.to_be_bytes();
                let record = BaseRecord::to(&self.topic).partition(0).key(&key).payload(&payload);
                match self.producer.send(record) {
                    Ok(()) => under_way.push_back(Instant::now()),
                    Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) => break,
                    Err((error, _)) => return Err(failed(error)),
                }
            }
            if under_way.is_empty() {
                return Ok(());
            }
            self.producer.poll(Duration::ZERO);
            let mut wait = Duration::from_millis(100);
            while let Some(message) = self.consumer.poll(wait) {
                wait = Duration::ZERO;
                match message {
                    Ok(message) if message.payload_len() == record_bytes => {
                        heard = Instant::now();
                        under_way.pop_front().into_iter().for_each(&mut done);
                    }
                    // The end of the partition comes as an error.
                    Ok(_) | Err(_) => {}
                }
            }
            if heard.elapsed() > PATIENCE {
                return Err(LogError::Unreachable { what: format!("nothing came back from topic {}", self.topic) });
            }
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        _ = self.producer.flush(PATIENCE);
    }
}

fn failed(error: impl std::fmt::Display) -> LogError {
    LogError::Unreachable { what: format!("the Kafka client: {error}") }
}
