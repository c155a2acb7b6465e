//! What is said to people, and what is noted across restarts.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use confold_log::Log;
use confold_log_kafka::{KafkaLog, Options};
use confold_model::ids::{Position, Time};
use confold_test_brokers as brokers;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::support::*;

/// Keeps what is told as an error.
struct Errors;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Words<'a>(&'a mut String);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        *self.0 += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR && metadata.target().starts_with("confold")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        event.record(&mut Words(&mut text));
        SAID.lock().push(text);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

// I13
#[test]
fn clocks_that_differ_by_more_than_a_minute_are_an_alarm_and_stop_nothing() {
    tracing::subscriber::set_global_default(Errors).unwrap();
    let cluster = brokers::one();
    // By how much the brokers are ahead of this machine.
    for (ahead, alarms) in [(-120_000_i64, true), (50_000, false), (120_000, true)] {
        let topic = cluster.new_topic(&[BROKER_STAMPS]);
        let log = KafkaLog::open(Options {
            clock: Arc::new(move || Time(confold_log::file::system_clock().0 - ahead)),
            look_every: Duration::from_millis(100),
            ..options(&cluster.bootstrap(), &topic)
        })
        .unwrap();
        let mut reader = log.reader(Position(0)).unwrap();
        // Only a record that nobody had heard of tells of the clock.
        let mut due = 0;
        until("the difference is measured", || {
            append_all(&log, numbered(due, 1));
            read_some(&mut *reader, 1);
            due += 1;
            (log.counts().clock_skew_ms - ahead).abs() < 10_000
        });
        let said = || {
            SAID.lock()
                .iter()
                .any(|said| said.contains(&topic) && said.contains("more than a minute"))
        };
        if alarms {
            until("the alarm", said);
        } else {
            // The topic's settings are looked at in the same round, before the clock.
            until("it was looked at", || !log.problems().is_empty());
            assert!(!said(), "{:?}", SAID.lock());
        }
        assert!(log.health().is_ok());
    }
}

// I3
#[test]
fn a_leader_epoch_that_went_down_across_a_restart_is_fenced() {
    let cluster = brokers::one();
    let topic = cluster.new_topic(&[BROKER_STAMPS]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    let at = || Options {
        notes: Some(path.clone()),
        ..options(&cluster.bootstrap(), &topic)
    };
    let log = KafkaLog::open(at()).unwrap();
    append_all(&log, numbered(0, 3));
    let records = read_some(&mut *log.reader(Position(0)).unwrap(), 3);
    log.close();
    // What was noted fits what is read again.
    let noted: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(noted["topic_id"], hex::encode(log.transport_id()));
    let log = KafkaLog::open(at()).unwrap();
    assert_eq!(read_some(&mut *log.reader(Position(0)).unwrap(), 3), records);
    log.close();

    let note = |topic_id: &serde_json::Value, epoch: u64, offset: u64| {
        let mut notes = noted.clone();
        notes["topic_id"] = topic_id.clone();
        notes["epoch"] = epoch.into();
        notes["epoch_offset"] = offset.into();
        std::fs::write(&path, notes.to_string()).unwrap();
    };
    // Records below where the higher epoch was read may have been written before it.
    note(&noted["topic_id"], 99, 3);
    let log = KafkaLog::open(at()).unwrap();
    let mut reader = log.reader(Position(0)).unwrap();
    assert_eq!(read_some(&mut *reader, 3), records);
    append_all(&log, numbered(3, 1));
    fenced(
        &refusal(&mut *reader),
        &["position 3", "leader epoch", "after records of epoch 99"],
    );
    drop(reader);
    drop(log);
    // Of another topic, or nobody can read them: no notes.
    note(&hex::encode([7; 16]).into(), 99, 0);
    let log = KafkaLog::open(at()).unwrap();
    assert_eq!(read_some(&mut *log.reader(Position(0)).unwrap(), 4)[..3], records);
    log.close();
    std::fs::write(&path, "no notes").unwrap();
    let log = KafkaLog::open(at()).unwrap();
    assert_eq!(read_some(&mut *log.reader(Position(0)).unwrap(), 4)[..3], records);
}
