//! Faults of the network and of brokers, as the client library's own mock cluster makes them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::file::{self, FileLog, Identity};
use confold_log::origin::Origin;
use confold_log::{Log, LogError, Reader, Record, Tip, copy_records};
use confold_log_kafka::{KafkaCopy, KafkaLog, Options};
use confold_model::ids::{Hash, Position};
use rdkafka::bindings::rd_kafka_resp_err_t as error;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaApiKey;

use crate::support::*;

const TOPIC: &str = "log";

fn mock(brokers: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(brokers).unwrap();
    cluster.create_topic(TOPIC, 1, brokers).unwrap();
    cluster
}

fn open_mock(cluster: &MockCluster<'static, DefaultProducerContext>) -> KafkaLog {
    KafkaLog::open(Options {
        dev_unsafe: true,
        message_timeout: Duration::from_secs(5),
        ..options(&cluster.bootstrap_servers(), TOPIC)
    })
    .unwrap()
}

fn soak(ci: usize) -> usize {
    std::env::var("CONFOLD_SOAK_ROUNDS").map_or(ci, |count| count.parse().unwrap())
}

// F12
#[test]
fn brokers_go_and_come_back_and_leaders_move() {
    let cluster = mock(3);
    let log = open_mock(&cluster);
    let mut reader = log.reader(Position(0)).unwrap();
    let faults = soak(50);
    let mut due = 0;
    let mut slowest = Duration::ZERO;
    for round in 0..faults as i32 {
        match round % 4 {
            0 => {
                for broker in 1..=3 {
                    cluster.broker_down(broker).unwrap();
                }
                until("the log says that it is away", || log.health().is_err());
                let refused = log.append(numbered(due, 1).next().unwrap());
                assert!(matches!(refused, Err(LogError::Unreachable { .. })), "{refused:?}");
                for broker in 1..=3 {
                    cluster.broker_up(broker).unwrap();
                }
                let up = Instant::now();
                let mut said = Vec::new();
                until("the log is well again", || {
                    let health = log.health().map_err(|error| error.to_string());
                    if said.last().is_none_or(|(_, last)| *last != health) {
                        said.push((up.elapsed(), health.clone()));
                    }
                    health.is_ok()
                });
                assert!(up.elapsed() < Duration::from_secs(10), "{said:#?}");
                slowest = slowest.max(up.elapsed());
            }
            1 => cluster.partition_leader(TOPIC, 0, Some(1 + (round / 4) % 3)).unwrap(),
            2 => cluster
                .broker_round_trip_time(1 + (round / 4) % 3, Duration::from_millis(300))
                .unwrap(),
            _ => {
                for broker in 1..=3 {
                    cluster.broker_round_trip_time(broker, Duration::ZERO).unwrap();
                }
            }
        }
        append_all(&log, numbered(due, 5));
        let came = read_some(&mut *reader, 5);
        let texts: Vec<Bytes> = came.iter().map(|record| record.bytes.clone()).collect();
        assert_eq!(texts, numbered(due, 5).collect::<Vec<_>>(), "none lost and none twice");
        due += 5;
    }
    println!("SOAK faults={faults} records={due} slowest={} ms", slowest.as_millis());
}

/// What a reader has seen, and how often.
struct Seen {
    reader: Box<dyn Reader>,
    all: Vec<Record>,
    counts: BTreeMap<Bytes, usize>,
}

impl Seen {
    /// As proposers do: sends records again until they were seen, however an attempt ended.
    fn settle(&mut self, log: &dyn Log, records: &[Bytes], patience: Duration) {
        let give_up = Instant::now() + patience;
        loop {
            let wait = Instant::now() + Duration::from_millis(1500);
            let mut missing: Vec<&Bytes> = records.iter().collect();
            while !missing.is_empty() && Instant::now() < wait {
                match self.reader.read(1024, usize::MAX, Duration::from_millis(50)) {
                    Ok(came) => {
                        for record in &came {
                            *self.counts.entry(record.bytes.clone()).or_default() += 1;
                        }
                        self.all.extend(came);
                    }
                    Err(LogError::Unreachable { .. }) => {}
                    Err(error) => panic!("read: {error}"),
                }
                missing.retain(|record| !self.counts.contains_key(*record));
            }
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < give_up, "{} records never came", missing.len());
            append_all(log, missing.into_iter().cloned());
        }
    }
}

fn seen(log: &KafkaLog) -> Seen {
    Seen {
        reader: log.reader(Position(0)).unwrap(),
        all: Vec::new(),
        counts: BTreeMap::new(),
    }
}

// F12: the brokers answer, and take nothing.
#[test]
fn brokers_that_answer_and_refuse_writes_are_known_before_the_next_append_and_when_they_take_them_again() {
    for (refusal, words) in [
        (
            error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            "has confirmed no record for 1s",
        ),
        (
            error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            "grant it the operation Write",
        ),
    ] {
        let cluster = mock(1);
        let log = KafkaLog::open(Options {
            dev_unsafe: true,
            message_timeout: Duration::from_millis(2500),
            confirm_within: Duration::from_secs(1),
            ..options(&cluster.bootstrap_servers(), TOPIC)
        })
        .unwrap();
        let mut seen = seen(&log);
        append_all(&log, numbered(0, 1));
        until("it is confirmed", || log.health().is_ok());
        seen.settle(&log, &numbered(0, 1).collect::<Vec<_>>(), DEADLINE);

        cluster.request_errors(RDKafkaApiKey::Produce, &[refusal; 1000]);
        append_all(&log, numbered(1, 1));
        until("the log says that nothing is taken", || log.health().is_err());
        let refused = log.append(numbered(2, 1).next().unwrap()).unwrap_err();
        assert!(matches!(refused, LogError::Refusing { .. }), "{refused:?}");
        assert!(refused.to_string().contains(words), "{refused}");
        // The one that waited is given up, and tried again for as long as it takes.
        until("it was given up twice", || log.counts().failed_deliveries >= 2);
        assert!(matches!(log.health(), Err(LogError::Refusing { .. })));
        assert_eq!(
            seen.reader.read(1, usize::MAX, Duration::ZERO).unwrap(),
            [],
            "reading goes on"
        );

        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        until("the log takes records again", || log.health().is_ok());
        seen.settle(
            &log,
            &numbered(1, 1).chain(numbered(3, 1)).collect::<Vec<_>>(),
            DEADLINE,
        );
        assert!(
            !seen.counts.contains_key(&numbered(2, 1).next().unwrap()),
            "what was refused never comes"
        );
    }
}

// F13. The mock cluster answers some retries with success that it has not written: only reading tells.
#[test]
fn an_unknown_end_of_an_append_is_made_known_by_reading() {
    let cluster = mock(1);
    let log = open_mock(&cluster);
    let mut seen = seen(&log);
    let writes = soak(5_000) as u64;
    let faults = [
        error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        error::RD_KAFKA_RESP_ERR__TRANSPORT,
        error::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    ];
    for (round, first) in (0..writes).step_by(200).enumerate() {
        let records: Vec<Bytes> = numbered(first, 200).collect();
        // Eight requests that fail, among about forty.
        cluster.request_errors(RDKafkaApiKey::Produce, &[faults[round % faults.len()]; 8]);
        for some in records.chunks(5) {
            append_all(&log, some.iter().cloned());
            // Whoever appends next comes a little later: a request carries few records.
            std::thread::park_timeout(Duration::from_micros(500));
        }
        seen.settle(&log, &records, DEADLINE);
    }
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    // Every one stands there, and dedup by id makes it once; positions have no hole.
    assert_eq!(seen.counts.len() as u64, writes.next_multiple_of(200));
    for (record, due) in seen.all.iter().zip(0..) {
        assert_eq!(record.position, Position(due));
    }
    let again = read_some(&mut *log.reader(Position(0)).unwrap(), seen.all.len());
    assert_eq!(again, seen.all);
    let twice = seen.counts.values().filter(|count| **count > 1).count();
    eprintln!(
        "{writes} writes, {twice} of them stand more than once, {:?}",
        log.counts()
    );
}

// F15
#[test]
fn a_producer_that_failed_for_good_is_replaced_and_nothing_needs_a_restart() {
    let cluster = mock(1);
    let log = open_mock(&cluster);
    let mut seen = seen(&log);
    let rounds = soak(100) as u64;
    let mut waiting = Vec::new();
    for round in 0..rounds {
        // A sequence number that the broker did not expect: no retry can mend that.
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[error::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
        );
        let began = Instant::now();
        append_all(&log, numbered(round * 3, 3));
        waiting.extend(numbered(round * 3, 3));
        until("a new producer", || log.counts().renewed_producers > round);
        if waiting.len() >= 30 || round + 1 == rounds {
            seen.settle(&log, &waiting, Duration::from_secs(10));
            waiting.clear();
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert_eq!(seen.counts.len() as u64, 3 * rounds);
    assert_eq!(log.counts().renewed_producers, rounds);
}

// I2: brokers that give records by the topic's name alone could give another topic's.
#[test]
fn records_that_were_fetched_by_the_topics_name_alone_are_refused() {
    let cluster = mock(1);
    // From 13 on a fetch names the topic by its id.
    cluster.apiversion(RDKafkaApiKey::Fetch, Some(4), Some(12)).unwrap();
    let at = |dev_unsafe: bool| Options {
        dev_unsafe,
        ..options(&cluster.bootstrap_servers(), TOPIC)
    };
    // Copied records: others of these brokers would be refused for their times already.
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity {
        log_id: [1; 16],
        transport_id: [2; 16],
    };
    let source = FileLog::create(folder.path(), identity, file::Options::default()).unwrap();
    append_all(&source, numbered(0, 5));
    let records = read_some(&mut *source.reader(Position(0)).unwrap(), 5);
    let origin = Origin {
        identity,
        source: identity.transport_id,
        first: Tip::START,
        end: Position(5),
        state: Hash::of(b"state"),
    };
    let mut copy = KafkaCopy::create(at(true), origin).unwrap();
    copy_records(&source, &mut copy, Position(5), Duration::ZERO).unwrap();
    copy.finish().unwrap();

    let log = KafkaLog::open(at(false)).unwrap();
    let refused = refusal(&mut *log.reader(Position(0)).unwrap());
    fenced(&refused, &["too old", "by the topic's name alone", "Kafka 3.1"]);
    fenced(&log.health().unwrap_err(), &["too old"]);
    let tried = KafkaLog::open(at(true)).unwrap();
    assert_eq!(read_some(&mut *tried.reader(Position(0)).unwrap(), 5), records);
}
