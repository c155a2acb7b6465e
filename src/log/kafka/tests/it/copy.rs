//! A log moves onto a topic and back: the same positions, times, bytes and digests.

use std::time::Duration;

use confold_log::file::{self, Copy, FileLog, Identity};
use confold_log::origin::Origin;
use confold_log::{CopyTarget, Log, LogError, Range, Record, Tip, copy_records};
use confold_log_kafka::{KafkaCopy, KafkaLog, Options};
use confold_model::ids::{Hash, Position, Time};
use confold_test_brokers as brokers;
use rdkafka::producer::{BaseRecord, Producer};

use crate::support::*;

const IDENTITY: Identity = Identity {
    log_id: [1; 16],
    transport_id: [2; 16],
};

fn source(folder: &std::path::Path, count: u64) -> (FileLog, Vec<Record>) {
    let log = FileLog::create(folder, IDENTITY, file::Options::default()).unwrap();
    append_all(&log, numbered(0, count));
    let records = read_some(&mut *log.reader(Position(0)).unwrap(), count as usize);
    (log, records)
}

fn origin(first: Tip, end: u64) -> Origin {
    Origin {
        identity: IDENTITY,
        source: IDENTITY.transport_id,
        first,
        end: Position(end),
        state: Hash::of(b"state"),
    }
}

#[test]
fn a_copy_has_the_same_records_and_goes_on_with_its_own() {
    let cluster = brokers::one();
    let folder = tempfile::tempdir().unwrap();
    let (log, records) = source(&folder.path().join("source"), 500);
    for first in [0, 123] {
        let topic = cluster.new_topic(&[BROKER_STAMPS]);
        let at = options(&cluster.bootstrap(), &topic);
        let origin = origin(log.tip_at(Position(first)).unwrap(), 480);
        let mut copy = KafkaCopy::create(at.clone(), origin).unwrap();
        copy_records(&log, &mut copy, Position(300), Duration::ZERO).unwrap();
        // Not finished: neither opened as a log, nor begun again.
        assert!(matches!(copy.finish(), Err(LogError::Unfinished { .. })));
        let unfinished = KafkaLog::open(at.clone()).err().unwrap();
        assert!(
            matches!(&unfinished, LogError::Unfinished { what } if what.contains("position 300")),
            "{unfinished}"
        );
        assert!(matches!(
            KafkaCopy::create(at.clone(), origin),
            Err(LogError::Exists { .. })
        ));

        let mut copy = KafkaCopy::resume(at.clone()).unwrap();
        assert_eq!(copy.tip().position, Position(300));
        let wrong = Record {
            bytes: "wrong".into(),
            ..records[300].clone()
        };
        fenced(&copy.append(&[wrong]).unwrap_err(), &["300"]);
        copy_records(&log, &mut copy, Position(480), Duration::ZERO).unwrap();
        assert!(matches!(
            copy.append(&records[480..481]),
            Err(LogError::BeyondEnd { .. })
        ));
        let range = Range {
            start: Position(first),
            end: Position(480),
        };
        assert_eq!(copy.finish().unwrap(), range);

        let target = KafkaLog::open(at.clone()).unwrap();
        assert_eq!(target.range(), range);
        let kept = target.origin().unwrap();
        assert_eq!(kept.identity.transport_id, target.transport_id());
        assert_eq!(
            (kept.source, kept.end, kept.state),
            (origin.source, origin.end, origin.state)
        );
        let mut reader = target.reader(Position(first)).unwrap();
        assert_eq!(
            read_some(&mut *reader, 480 - first as usize),
            records[first as usize..480]
        );
        // Its own records follow, with the broker's time.
        append_all(&target, numbered(900, 2));
        let own = read_some(&mut *reader, 2);
        assert_eq!(own[0].position, Position(480));
        assert!(own[0].time > records[479].time && own[0].bytes == "record 900");
        assert_eq!(read_some(&mut *target.reader(Position(400)).unwrap(), 82)[80..], own);

        // And back into a folder.
        let back = folder.path().join(format!("back-{first}"));
        let tip = target.tip_at(Position(first), DEADLINE).unwrap();
        let mut copy = Copy::create(&back, Origin { first: tip, ..origin }, file::Options::default()).unwrap();
        copy_records(&target, &mut copy, Position(482), DEADLINE).unwrap();
        copy.finish().unwrap();
        let back = FileLog::open(&back, file::Options::default()).unwrap();
        assert_eq!(back.tip().digest, own[1].digest);
        target.close();
        // Opened again it is the same.
        let target = KafkaLog::open(at).unwrap();
        assert_eq!(target.tip_at(Position(482), DEADLINE).unwrap().digest, own[1].digest);
    }
}

#[test]
fn a_copy_that_has_lost_its_first_record_is_read_on_with_the_notes_about_it() {
    let cluster = brokers::one();
    let folder = tempfile::tempdir().unwrap();
    let (log, records) = source(&folder.path().join("source"), 50);
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let at = Options {
        notes: Some(folder.path().join("notes.json")),
        ..options(&cluster.bootstrap(), &topic)
    };
    let mut copy = KafkaCopy::create(at.clone(), origin(log.tip_at(Position(20)).unwrap(), 50)).unwrap();
    copy_records(&log, &mut copy, Position(50), Duration::ZERO).unwrap();
    copy.finish().unwrap();
    KafkaLog::open(at.clone()).unwrap().close();
    cluster.delete_records(&topic, 11);
    let range = Range {
        start: Position(30),
        end: Position(50),
    };
    let noted = KafkaLog::open(at.clone()).unwrap();
    assert_eq!(noted.range(), range);
    noted.anchor(log.tip_at(Position(30)).unwrap());
    let mut reader = noted.reader(Position(30)).unwrap();
    assert_eq!(read_some(&mut *reader, 20), records[30..]);
    // Without notes it looks like a log that began with genesis: what was folded is not found again.
    std::fs::remove_file(folder.path().join("notes.json")).unwrap();
    let unnoted = KafkaLog::open(at).unwrap();
    assert_eq!(unnoted.range().start, Position(11));
    assert!(matches!(unnoted.reader(Position(50)), Err(LogError::BeyondEnd { .. })));
}

#[test]
fn a_copy_meets_a_stranger_and_stops() {
    let cluster = brokers::one();
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = source(folder.path(), 20);
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let at = options(&cluster.bootstrap(), &topic);
    let mut copy = KafkaCopy::create(at.clone(), origin(Tip::START, 20)).unwrap();
    copy_records(&log, &mut copy, Position(10), Duration::ZERO).unwrap();
    let stranger = stranger(&cluster.bootstrap(), &[]);
    stranger
        .send(BaseRecord::to(&topic).partition(0).key("k").payload("foreign"))
        .unwrap();
    stranger.flush(DEADLINE).unwrap();
    let refused = copy_records(&log, &mut copy, Position(20), Duration::ZERO).unwrap_err();
    fenced(&refused, &["confold-time"]);
    assert_eq!(copy.tip().position, Position(10));
    fenced(&KafkaCopy::resume(at).err().unwrap(), &["confold-time"]);
}

#[test]
fn an_origin_of_another_topic_or_of_no_sense_is_refused() {
    let cluster = brokers::one();
    let stranger = stranger(&cluster.bootstrap(), &[]);
    let whole = origin(
        Tip {
            position: Position(3),
            digest: Hash::ZERO,
            time: Time(1),
        },
        3,
    )
    .encode();
    for (first, words) in [
        (&whole[..], "other than `confold log copy`"),
        (&whole[..100], "not a whole and sound origin"),
    ] {
        let topic = cluster.new_topic(&[BROKER_STAMPS]);
        let at = options(&cluster.bootstrap(), &topic);
        // Opened before: it is noticed by whoever reads.
        let early = KafkaLog::open(at.clone()).unwrap();
        let mut reader = early.reader(Position(0)).unwrap();
        stranger
            .send(BaseRecord::to(&topic).partition(0).key("k").payload(first))
            .unwrap();
        stranger.flush(DEADLINE).unwrap();
        fenced(&refusal(&mut *reader), &["a copy was begun"]);
        fenced(&KafkaLog::open(at).err().unwrap(), &[words]);
    }
}
