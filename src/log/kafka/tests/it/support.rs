//! What the tests share.

use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::{Log, LogError, Reader, Record};
use confold_log_kafka::{ClientSettings, KafkaLog, Options};
use rdkafka::ClientConfig;
use rdkafka::producer::BaseProducer;

pub const LIMIT: usize = 100_000;
/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// What every topic of a log must have.
pub const BROKER_STAMPS: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

pub fn options(brokers: &str, topic: &str) -> Options {
    Options {
        record_bytes: LIMIT,
        ..Options::new(ClientSettings::new(brokers), topic)
    }
}

pub fn open(brokers: &str, topic: &str) -> KafkaLog {
    KafkaLog::open(options(brokers, topic)).unwrap()
}

pub fn numbered(first: u64, count: u64) -> impl Iterator<Item = Bytes> {
    (first..first + count).map(|n| Bytes::from(format!("record {n}")))
}

/// Asks a log that is full or away again.
pub fn append_all(log: &dyn Log, records: impl IntoIterator<Item = Bytes>) {
    let give_up = Instant::now() + DEADLINE;
    for record in records {
        loop {
            match log.append(record.clone()) {
                Ok(()) => break,
                Err(LogError::Full { .. } | LogError::Unreachable { .. }) if Instant::now() < give_up => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("append: {error}"),
            }
        }
    }
}

/// Exactly so many, or a panic at the deadline.
pub fn read_some(reader: &mut dyn Reader, count: usize) -> Vec<Record> {
    let give_up = Instant::now() + DEADLINE;
    let (mut records, mut said) = (Vec::new(), String::new());
    while records.len() < count {
        let left = give_up.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "{} of {count} records came in time: {said}",
            records.len()
        );
        match reader.read(count - records.len(), usize::MAX, left) {
            Ok(some) => records.extend(some),
            Err(LogError::Unreachable { what }) => said = what,
            Err(error) => panic!("read: {error}"),
        }
    }
    records
}

/// Reads until an error that does not pass by itself; a record is a panic.
pub fn refusal(reader: &mut dyn Reader) -> LogError {
    let give_up = Instant::now() + DEADLINE;
    while Instant::now() < give_up {
        match reader.read(10, usize::MAX, Duration::from_secs(1)) {
            Ok(records) => assert!(records.is_empty(), "{records:?} was handed out"),
            Err(LogError::Unreachable { .. }) => {}
            Err(error) => return error,
        }
    }
    panic!("no error within {DEADLINE:?}");
}

#[track_caller]
pub fn fenced(error: &LogError, words: &[&str]) {
    let text = error.to_string();
    assert!(matches!(error, LogError::Fenced { .. }), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

/// Somebody else's producer.
pub fn stranger(brokers: &str, settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// Asks again until it holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + 2 * DEADLINE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}: not within {:?}", 2 * DEADLINE);
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
