//! Everything that a topic can do to a log: it is fenced before one record of another past is handed out.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::time::Duration;

use confold_log::digest::log_digest;
use confold_log::{Log, LogError, Range, Record, Tip};
use confold_log_kafka::{KafkaLog, Options};
use confold_model::ids::{Hash, Position};
use confold_test_brokers::{self as brokers, Cluster, Setup};
use parking_lot::{Mutex, MutexGuard};
use rdkafka::producer::{BaseRecord, Producer};

use crate::support::*;

/// One that is killed and restarted, and compacts soon; one test at a time.
fn rough() -> MutexGuard<'static, Cluster> {
    static ROUGH: LazyLock<Mutex<Cluster>> = LazyLock::new(|| {
        let settings = [
            ("log.cleaner.backoff.ms", "200"),
            ("log.retention.check.interval.ms", "200"),
        ];
        Mutex::new(Cluster::start(Setup {
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Setup::default()
        }))
    });
    ROUGH.lock()
}

/// The soak command's figure, where it is given.
fn rounds(ci: usize) -> usize {
    std::env::var("CONFOLD_SOAK_ROUNDS").map_or(ci, |rounds| rounds.parse().unwrap())
}

/// Cuts the last batches off a partition whose broker is down.
fn cut_batches(cluster: &Cluster, topic: &str, count: usize) {
    let segment = cluster.data_dir(1).join(format!("{topic}-0/00000000000000000000.log"));
    let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let len = file.metadata().unwrap().len();
    let (mut at, mut starts) = (0, Vec::new());
    while at + 12 <= len {
        let mut length = [0; 4];
        file.read_exact_at(&mut length, at + 8).unwrap();
        let length = u64::from(u32::from_be_bytes(length));
        // A segment may be longer than what was written to it.
        if length == 0 {
            break;
        }
        starts.push(at);
        at += 12 + length;
    }
    file.set_len(starts[starts.len() - count]).unwrap();
}

/// Appends one record a time, so that each is a batch of its own.
fn append_singly(log: &dyn Log, first: u64, count: u64) -> Vec<Record> {
    let from = log.range().end;
    let mut reader = log.reader(from).unwrap();
    (first..first + count)
        .flat_map(|n| {
            append_all(log, numbered(n, 1));
            read_some(&mut *reader, 1)
        })
        .collect()
}

fn before(records: &[Record], index: usize) -> Tip {
    Tip {
        position: records[index].position,
        digest: index.checked_sub(1).map_or(Hash::ZERO, |before| records[before].digest),
        time: records[index].time,
    }
}

// F16
#[test]
fn a_topic_that_lost_its_end_is_fenced_before_a_record_of_the_new_branch() {
    let cluster = rough();
    for round in 0..rounds(3) {
        let topic = cluster.new_topic(&[BROKER_STAMPS]);
        let log = open(&cluster.bootstrap(), &topic);
        let records = append_singly(&log, 0, 6);
        let mut reader = log.reader(Position(0)).unwrap();
        assert_eq!(read_some(&mut *reader, 6), records);

        cluster.kill(1);
        cut_batches(&cluster, &topic, 1 + round % 3);
        cluster.restart(1);
        // Others see nothing wrong and go on: the new branch becomes longer than the old one.
        let other = open(&cluster.bootstrap(), &topic);
        append_all(&other, numbered(100, 10));
        let mut new = other.reader(Position(0)).unwrap();
        let new = read_some(&mut *new, 16 - (1 + round % 3));
        other.close();

        // Whoever goes on reading.
        let refused = refusal(&mut *reader);
        let taken = log_digest(records[4].digest, Position(5), new[5].time, &new[5].bytes).to_string();
        let old = records[5].digest.to_string();
        fenced(&refused, &["position 5", &old, &taken]);
        fenced(&log.append(numbered(0, 1).next().unwrap()).unwrap_err(), &[]);
        fenced(&log.health().unwrap_err(), &[]);
        fenced(&log.reader(Position(0)).err().unwrap(), &[]);

        // Whoever comes back with what was folded before: the overlap read shows the other digest.
        let again = open(&cluster.bootstrap(), &topic);
        again.anchor(before(&records, 5));
        let overlap = read_some(&mut *again.reader(Position(5)).unwrap(), 1);
        assert_ne!(overlap[0].digest, records[5].digest);
        // Told both digests, the log refuses by itself.
        let again = open(&cluster.bootstrap(), &topic);
        again.anchor(before(&records, 5));
        again.anchor(Tip {
            position: Position(6),
            digest: records[5].digest,
            time: records[5].time,
        });
        fenced(
            &refusal(&mut *again.reader(Position(6)).unwrap()),
            &["position 5", &old],
        );
    }
}

#[test]
fn a_topic_that_lost_its_end_and_got_nothing_new_is_fenced_too() {
    let cluster = rough();
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let log = open(&cluster.bootstrap(), &topic);
    let records = append_singly(&log, 0, 5);
    let mut reader = log.reader(Position(0)).unwrap();
    assert_eq!(read_some(&mut *reader, 5), records);
    // This one is begun, and has seen nothing yet.
    let mut unread = log.reader(Position(0)).unwrap();
    cluster.kill(1);
    cut_batches(&cluster, &topic, 2);
    cluster.restart(1);
    let refused = refusal(&mut *reader);
    fenced(&refused, &["lost its end", &records[4].digest.to_string()]);
    fenced(&refusal(&mut *unread), &["lost its end"]);
    let again = open(&cluster.bootstrap(), &topic);
    assert!(matches!(
        again.reader(Position(5)),
        Err(LogError::BeyondEnd {
            asked: Position(5),
            end: Position(3)
        })
    ));
}

// F17
#[test]
fn a_topic_made_anew_is_fenced_though_it_is_longer() {
    let cluster = brokers::one();
    for _ in 0..rounds(3) {
        let topic = cluster.new_topic(&[BROKER_STAMPS]);
        let log = open(&cluster.bootstrap(), &topic);
        append_all(&log, numbered(0, 5));
        let mut reader = log.reader(Position(0)).unwrap();
        read_some(&mut *reader, 5);
        cluster.topic_delete(&topic);
        cluster.topic_create(&topic, 1, &[BROKER_STAMPS]);
        let other = open(&cluster.bootstrap(), &topic);
        append_all(&other, numbered(100, 50));
        read_some(&mut *other.reader(Position(0)).unwrap(), 50);

        let (old, new) = (hex::encode(log.transport_id()), hex::encode(other.transport_id()));
        fenced(&refusal(&mut *reader), &["made anew", &old, &new]);
        fenced(&log.append(numbered(0, 1).next().unwrap()).unwrap_err(), &[]);
        let refused = KafkaLog::open(Options {
            transport_id: Some(log.transport_id()),
            ..options(&cluster.bootstrap(), &topic)
        });
        fenced(&refused.err().unwrap(), &["made anew", &old, &new]);
    }
}

// F18
#[test]
fn a_topic_that_drops_what_was_read_alarms_and_goes_on_and_one_that_drops_more_stops() {
    for _ in 0..rounds(3) {
        drop_records(brokers::one());
    }
}

fn drop_records(cluster: &Cluster) {
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let log = open(&cluster.bootstrap(), &topic);
    append_all(&log, numbered(0, 10));
    let mut reader = log.reader(Position(0)).unwrap();
    let mut records = read_some(&mut *reader, 6);

    cluster.delete_records(&topic, 4);
    until("the log starts later", || log.range().start == Position(4));
    assert!(log.counts().start_moved > 0);
    assert!(matches!(
        log.reader(Position(3)),
        Err(LogError::BelowStart {
            asked: Position(3),
            start: Position(4)
        })
    ));
    records.extend(read_some(&mut *reader, 4));

    cluster.delete_records(&topic, -1);
    append_all(&log, numbered(10, 2));
    records.extend(read_some(&mut *reader, 2));

    // Another log of this topic knows no digest there, until it is told one.
    let other = open(&cluster.bootstrap(), &topic);
    assert_eq!(
        other.range(),
        Range {
            start: Position(10),
            end: Position(12)
        }
    );
    assert!(matches!(other.reader(Position(10)), Err(LogError::BelowStart { .. })));
    other.anchor(before(&records, 10));
    let mut late = other.reader(Position(10)).unwrap();
    assert_eq!(read_some(&mut *late, 2), records[10..]);

    // More than was read goes.
    append_all(&other, numbered(12, 3));
    read_some(&mut *late, 3);
    cluster.delete_records(&topic, 14);
    let mut behind = log.reader(Position(12)).map_err(|error| error.to_string());
    let refused = match &mut behind {
        Ok(reader) => refusal(&mut **reader).to_string(),
        Err(refused) => refused.clone(),
    };
    assert!(refused.contains("trimmed away; the log starts at 14"), "{refused}");
}

// F18
#[test]
fn compaction_leaves_the_logs_own_records_alone_and_a_hole_of_it_is_fenced() {
    let cluster = rough();
    let settings = [
        BROKER_STAMPS,
        ("segment.ms", "500"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "500"),
    ];
    let topic = cluster.new_topic(&settings);
    let log = open(&cluster.bootstrap(), &topic);
    append_all(&log, numbered(0, 20));
    let own = read_some(&mut *log.reader(Position(0)).unwrap(), 20);
    // A stranger's records share a key.
    let stranger = stranger(&cluster.bootstrap(), &[]);
    for n in 0..5 {
        let text = format!("foreign {n}");
        stranger
            .send(BaseRecord::to(&topic).partition(0).key("same").payload(&text))
            .unwrap();
        stranger.flush(DEADLINE).unwrap();
    }
    append_all(&log, numbered(25, 5));
    let whole = read_some(&mut *log.reader(Position(0)).unwrap(), 30);
    assert_eq!(whole[..20], own);
    cluster.config_alter(&topic, &[("cleanup.policy", "compact")]);

    let mut next = 1000;
    let mut refused = None;
    until("compaction makes a hole", || {
        // Only closed segments are compacted, and only what comes closes one.
        append_all(&log, numbered(next, 1));
        next += 1;
        let fresh = open(&cluster.bootstrap(), &topic);
        let mut reader = fresh.reader(Position(0)).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 30 {
            match reader.read(30 - seen.len(), usize::MAX, DEADLINE) {
                Ok(records) => seen.extend(records),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        assert_eq!(seen, whole[..seen.len()], "what came before the hole is as it was");
        refused.is_some()
    });
    fenced(&refused.unwrap(), &["position 20", "--until 19", "compaction"]);
}

// F18
#[test]
fn a_transaction_in_the_topic_is_fenced_at_the_mark_that_it_leaves() {
    let cluster = brokers::one();
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let log = open(&cluster.bootstrap(), &topic);
    append_all(&log, numbered(0, 3));
    let mut reader = log.reader(Position(0)).unwrap();
    read_some(&mut *reader, 3);
    let stranger = stranger(&cluster.bootstrap(), &[("transactional.id", &topic)]);
    stranger.init_transactions(DEADLINE).unwrap();
    stranger.begin_transaction().unwrap();
    stranger
        .send(BaseRecord::to(&topic).partition(0).key("k").payload("foreign"))
        .unwrap();
    stranger.commit_transaction(DEADLINE).unwrap();
    // The record itself is one like any other: the fold rejects it.
    assert_eq!(read_some(&mut *reader, 1)[0].bytes, "foreign");
    fenced(&refusal(&mut *reader), &["position 4", "--until 3", "transaction"]);
}

#[test]
fn records_that_their_producer_stamped_are_refused() {
    let cluster = brokers::one();
    let topic = cluster.new_topic(&[("message.timestamp.type", "CreateTime")]);
    let log = open(&cluster.bootstrap(), &topic);
    append_all(&log, numbered(0, 1));
    fenced(
        &refusal(&mut *log.reader(Position(0)).unwrap()),
        &["message.timestamp.type", "LogAppendTime"],
    );
    let tried = KafkaLog::open(Options {
        dev_unsafe: true,
        ..options(&cluster.bootstrap(), &topic)
    })
    .unwrap();
    assert_eq!(read_some(&mut *tried.reader(Position(0)).unwrap(), 1).len(), 1);
}

#[test]
fn what_is_no_log_is_not_opened() {
    let cluster = brokers::one();
    let missing = KafkaLog::open(options(&cluster.bootstrap(), "nothing-here"))
        .err()
        .unwrap();
    assert!(
        matches!(&missing, LogError::Missing { folder } if folder.contains("nothing-here")),
        "{missing}"
    );
    let wide = brokers::fresh_name("wide");
    cluster.topic_create(&wide, 2, &[BROKER_STAMPS]);
    fenced(
        &KafkaLog::open(options(&cluster.bootstrap(), &wide)).err().unwrap(),
        &["2 partitions"],
    );
    let away = KafkaLog::open(Options {
        open_wait: Duration::from_millis(100),
        ..options("127.0.0.1:1", "any")
    });
    let away = away.err().unwrap();
    assert!(
        matches!(&away, LogError::Unreachable { what } if what.contains("127.0.0.1:1")),
        "{away}"
    );
}

// I18, I19
#[test]
fn settings_that_are_changed_for_the_worse_are_named_while_the_log_serves_and_more_partitions_stop_it() {
    let cluster = brokers::one();
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let log = KafkaLog::open(Options {
        look_every: Duration::from_millis(200),
        ..options(&cluster.bootstrap(), &topic)
    })
    .unwrap();
    append_all(&log, numbered(0, 1));
    let names = |name: &str| log.problems().iter().any(|problem| problem.setting.contains(name));
    until("the settings are looked at", || !log.problems().is_empty());
    assert!(!names("message.timestamp.type"), "{:?}", log.problems());
    cluster.config_alter(&topic, &[("message.timestamp.type", "CreateTime")]);
    until("the change is named", || names("message.timestamp.type"));
    assert!(log.health().is_ok());
    cluster.partitions_add(&topic, 2);
    until("the log is fenced", || log.health().is_err());
    fenced(&log.health().unwrap_err(), &["2 partitions"]);
}

// F23
#[test]
fn readers_and_writers_go_on_after_each_restart_of_the_broker() {
    let cluster = rough();
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let log = open(&cluster.bootstrap(), &topic);
    let mut reader = log.reader(Position(0)).unwrap();
    let restarts = rounds(5) as u64;
    let mut slowest = Duration::ZERO;
    for round in 0..restarts {
        append_all(&log, numbered(round * 10, 10));
        read_some(&mut *reader, 10);
        if round % 2 == 0 {
            cluster.kill(1);
        } else {
            cluster.stop(1);
        }
        until("the log says that it is away", || log.health().is_err());
        assert!(matches!(
            log.append(numbered(0, 1).next().unwrap()),
            Err(LogError::Unreachable { .. })
        ));
        cluster.restart(1);
        let up = std::time::Instant::now();
        until("the log is well again", || log.health().is_ok());
        append_all(&log, numbered(round, 1));
        read_some(&mut *reader, 1);
        assert!(
            up.elapsed() < Duration::from_secs(20),
            "round {round}: it took {:?}",
            up.elapsed()
        );
        slowest = slowest.max(up.elapsed());
    }
    println!("SOAK restarts={restarts} slowest={} ms", slowest.as_millis());
}
