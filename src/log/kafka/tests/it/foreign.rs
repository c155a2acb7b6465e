//! Foreign records are records like any other: what they mean is for the fold to say.

use confold_log::Log;
use confold_model::ids::Position;
use confold_test_brokers as brokers;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};

use crate::support::*;

// F21
#[test]
fn any_bytes_of_a_stranger_have_a_position_and_harm_nobody() {
    let cluster = brokers::one();
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let log = open(&cluster.bootstrap(), &topic);
    let count = std::env::var("CONFOLD_SOAK_ROUNDS").map_or(10_000, |count| count.parse().unwrap());
    append_all(&log, numbered(0, 1));
    let stranger = stranger(&cluster.bootstrap(), &[("message.max.bytes", "900000")]);
    let mut runner = TestRunner::deterministic();
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..200);
    let mut expected: Vec<Vec<u8>> = vec![b"record 0".to_vec()];
    for n in 0..count {
        let value: Vec<u8> = match n % 100 {
            0 => vec![n as u8; 800_000],
            1 => Vec::new(),
            2 => b"CONFOLDO and then nothing".to_vec(),
            3 => vec![0xff; 300],
            _ => bytes.new_tree(&mut runner).unwrap().current(),
        };
        let time = [0xee; 8];
        let headers = OwnedHeaders::new().insert(Header {
            key: "confold-time",
            value: Some(&time[..]),
        });
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic).partition(0).headers(headers);
        if n % 3 == 0 {
            record = record.key(&value[..value.len().min(10)]);
        }
        // No value at all, now and then.
        if n % 100 == 50 {
            expected.push(Vec::new());
        } else {
            record = record.payload(&value);
            expected.push(value.clone());
        }
        let mut record = Some(record);
        while let Some(waiting) = record.take() {
            if let Err((error, waiting)) = stranger.send(waiting) {
                assert_eq!(
                    error.rdkafka_error_code(),
                    Some(rdkafka::error::RDKafkaErrorCode::QueueFull)
                );
                stranger.poll(std::time::Duration::from_millis(1));
                record = Some(waiting);
            }
        }
    }
    stranger.flush(DEADLINE).unwrap();
    append_all(&log, numbered(1, 1));
    expected.push(b"record 1".to_vec());
    let records = read_some(&mut *log.reader(Position(0)).unwrap(), expected.len());
    for (record, (due, bytes)) in records.iter().zip((0..).zip(&expected)) {
        assert_eq!(record.position, Position(due));
        assert!(record.bytes == bytes, "position {due}");
        // A header says nothing in a log that was not copied.
        assert!(record.time.0 > 0, "position {due}");
    }
    assert!(log.health().is_ok());
}
