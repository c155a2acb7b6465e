//! What brokers and client library do without a log on top: the limit of the log's speed, measured with the same settings.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use confold_log::LogError;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::ffi::Consumer;
use crate::producer::Context;
use crate::settings::ClientSettings;

/// Taken from the client at once.
const AT_ONCE: usize = 1024;
/// Long enough for any broker that lives.
const PATIENCE: Duration = Duration::from_secs(20);

/// A producer and a consumer of one topic that nobody else uses.
pub struct Bare {
    producer: BaseProducer,
    consumer: Consumer<Context>,
    topic: String,
}

impl Bare {
    pub fn new(settings: &ClientSettings, topic: &str) -> Result<Bare, LogError> {
        let record_bytes = 16 << 20;
        let producer = settings.producer(record_bytes, PATIENCE).create().map_err(failed)?;
        let mut consumer =
            Consumer::new(&settings.consumer(record_bytes), topic, Context(Arc::default())).map_err(failed)?;
        consumer.start(0, None).map_err(failed)?;
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
            let messages = self.consumer.poll(AT_ONCE, Duration::from_millis(100));
            // The end of the partition comes as an error.
            for _ in messages.iter().filter(|message| message.error().is_none()) {
                heard = Instant::now();
                under_way.pop_front().into_iter().for_each(&mut done);
            }
            let nothing = messages.len() == 0;
            drop(messages);
            if nothing {
                self.consumer.serve();
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
