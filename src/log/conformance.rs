//! What every log must do, as one suite. A log passes when none of these panics.
//!
//! It is written for a log behind a network as well: nothing is assumed to be visible at once, everything is polled for
//! until a deadline, and no order is assumed between two appenders.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_model::ids::{Hash, Position, Time};

use crate::digest::log_digest;
use crate::{Fence, Log, LogError, Range, Reader, Record, Tip};

/// What the suite needs from whoever runs it.
pub trait Harness: Sync {
    /// A new, empty log, unlike any before.
    fn fresh(&self) -> Arc<dyn Log>;
    /// The same log again, after `close`.
    fn reopen(&self, closed: Arc<dyn Log>) -> Arc<dyn Log>;
    /// The size of the biggest record that `fresh` logs take.
    fn record_limit(&self) -> usize;
    /// How long anything may take.
    fn deadline(&self) -> Duration;
}

pub type Case = fn(&dyn Harness);

/// All cases, by name.
pub const CASES: [(&str, Case); 16] = [
    ("a_new_log_is_empty", a_new_log_is_empty),
    (
        "records_are_read_back_as_they_were_appended",
        records_are_read_back_as_they_were_appended,
    ),
    ("every_reader_sees_the_same", every_reader_sees_the_same),
    ("a_reader_starts_anywhere", a_reader_starts_anywhere),
    ("a_reader_beyond_the_end_is_refused", a_reader_beyond_the_end_is_refused),
    (
        "a_read_keeps_to_its_limits_and_makes_progress",
        a_read_keeps_to_its_limits_and_makes_progress,
    ),
    ("a_waiting_reader_is_woken", a_waiting_reader_is_woken),
    (
        "a_read_without_news_returns_empty_and_skips_nothing",
        a_read_without_news_returns_empty_and_skips_nothing,
    ),
    (
        "appends_of_many_threads_all_stand_once_and_each_threads_in_order",
        appends_of_many_threads_all_stand_once_and_each_threads_in_order,
    ),
    (
        "the_biggest_record_passes_and_a_bigger_one_is_refused",
        the_biggest_record_passes_and_a_bigger_one_is_refused,
    ),
    ("a_fence_covers_what_was_read", a_fence_covers_what_was_read),
    (
        "a_closed_log_refuses_appends_and_ends_its_readers",
        a_closed_log_refuses_appends_and_ends_its_readers,
    ),
    (
        "closing_settles_what_was_handed_over",
        closing_settles_what_was_handed_over,
    ),
    (
        "a_log_opened_again_holds_the_same_and_goes_on",
        a_log_opened_again_holds_the_same_and_goes_on,
    ),
    (
        "a_log_told_its_digests_is_read_as_before",
        a_log_told_its_digests_is_read_as_before,
    ),
    ("two_logs_have_two_ids", two_logs_have_two_ids),
];

/// Runs all of them.
pub fn run_all(harness: &dyn Harness) {
    for (name, case) in CASES {
        eprintln!("{name}");
        case(harness);
    }
}

fn a_new_log_is_empty(harness: &dyn Harness) {
    let log = harness.fresh();
    assert_eq!(
        log.range(),
        Range {
            start: Position(0),
            end: Position(0)
        }
    );
    assert!(log.health().is_ok());
    let mut reader = log.reader(Position(0)).unwrap();
    assert_eq!(reader.read(10, 1000, Duration::ZERO).unwrap(), []);
    log.close();
}

fn records_are_read_back_as_they_were_appended(harness: &dyn Harness) {
    let log = harness.fresh();
    let every_byte: Vec<u8> = (0..=255).collect();
    let given: Vec<Bytes> = [
        b"one".to_vec(),
        b"two".to_vec(),
        b"two".to_vec(),
        every_byte,
        vec![0],
        vec![0; 3000],
        b"end".to_vec(),
    ]
    .map(Bytes::from)
    .into();
    append_all(harness, &*log, given.iter().cloned());
    let records = read_from(harness, &*log, Position(0), given.len());
    check_chain(Hash::ZERO, Position(0), &records);
    assert_eq!(
        records.iter().map(|record| record.bytes.clone()).collect::<Vec<_>>(),
        given
    );
    assert!(records.iter().all(|record| record.time >= Time(0)));
    wait_for_end(harness, &*log, Position(given.len() as u64));
    assert_eq!(log.range().start, Position(0));
    log.close();
}

fn every_reader_sees_the_same(harness: &dyn Harness) {
    let log = harness.fresh();
    // One reads along, one waits at the end in its own thread, one comes later.
    let mut along = log.reader(Position(0)).unwrap();
    let mut seen = Vec::new();
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| read_from(harness, &*log, Position(0), 60));
        for round in 0..20 {
            append_all(harness, &*log, numbered(round * 3, 3));
            seen.extend(read_some(harness, &mut *along, 3));
        }
        waiting.join().unwrap()
    });
    assert_eq!(waiting, seen);
    assert_eq!(read_from(harness, &*log, Position(0), 60), seen);
    check_chain(Hash::ZERO, Position(0), &seen);
    log.close();
}

fn a_reader_starts_anywhere(harness: &dyn Harness) {
    let log = harness.fresh();
    append_all(harness, &*log, numbered(0, 25));
    let all = read_from(harness, &*log, Position(0), 25);
    wait_for_end(harness, &*log, Position(25));
    for from in 0..25 {
        let rest = read_from(harness, &*log, Position(from), 25 - from as usize);
        assert_eq!(rest, all[from as usize..], "from {from}");
    }
    let mut at_end = log.reader(Position(25)).unwrap();
    assert_eq!(at_end.read(10, 1000, Duration::ZERO).unwrap(), []);
    append_all(harness, &*log, numbered(25, 1));
    let next = read_some(harness, &mut *at_end, 1);
    check_chain(all[24].digest, Position(25), &next);
    log.close();
}

fn a_reader_beyond_the_end_is_refused(harness: &dyn Harness) {
    let log = harness.fresh();
    append_all(harness, &*log, numbered(0, 3));
    wait_for_end(harness, &*log, Position(3));
    let refused = log.reader(Position(5)).err();
    assert!(
        matches!(
            refused,
            Some(LogError::BeyondEnd {
                asked: Position(5),
                end: Position(3)
            })
        ),
        "{refused:?}"
    );
    log.close();
}

fn a_read_keeps_to_its_limits_and_makes_progress(harness: &dyn Harness) {
    let log = harness.fresh();
    append_all(harness, &*log, (0..12).map(|n| Bytes::from(vec![n; 100])));
    wait_for_end(harness, &*log, Position(12));
    for (max_records, max_bytes) in [
        (1, 10_000),
        (5, 10_000),
        (100, 100),
        (100, 250),
        (100, 1),
        (0, 0),
        (3, 300),
    ] {
        let mut reader = log.reader(Position(0)).unwrap();
        let mut count = 0;
        let give_up = Instant::now() + harness.deadline();
        while count < 12 {
            assert!(
                Instant::now() < give_up,
                "no progress with {max_records} records and {max_bytes} bytes"
            );
            let records = reader.read(max_records, max_bytes, harness.deadline()).unwrap();
            assert!(
                records.len() <= max_records.max(1),
                "{} records, asked for {max_records}",
                records.len()
            );
            let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
            assert!(
                records.len() <= 1 || bytes <= max_bytes,
                "{bytes} bytes, asked for {max_bytes}"
            );
            for record in records {
                assert_eq!(record.position, Position(count));
                count += 1;
            }
        }
    }
    log.close();
}

fn a_waiting_reader_is_woken(harness: &dyn Harness) {
    let log = harness.fresh();
    let mut reader = log.reader(Position(0)).unwrap();
    thread::scope(|scope| {
        // Far beyond the deadline: only a wake-up ends it in time.
        let reading = scope.spawn(move || {
            let began = Instant::now();
            let records = reader.read(10, 1000, harness.deadline() * 10).unwrap();
            (records, began.elapsed())
        });
        append_all(harness, &*log, numbered(0, 1));
        let (records, took) = reading.join().unwrap();
        assert_eq!(records.len(), 1);
        assert!(took < harness.deadline(), "it took {took:?}");
    });
    log.close();
}

fn a_read_without_news_returns_empty_and_skips_nothing(harness: &dyn Harness) {
    let log = harness.fresh();
    let mut reader = log.reader(Position(0)).unwrap();
    for n in 0..5 {
        let began = Instant::now();
        let wait = Duration::from_millis(5);
        assert_eq!(reader.read(10, 1000, wait).unwrap(), []);
        assert!(began.elapsed() >= wait, "an empty answer came before its time");
        append_all(harness, &*log, numbered(n, 1));
        assert_eq!(read_some(harness, &mut *reader, 1)[0].position, Position(n));
    }
    log.close();
}

fn appends_of_many_threads_all_stand_once_and_each_threads_in_order(harness: &dyn Harness) {
    let log = harness.fresh();
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let log = &*log;
            scope.spawn(move || append_all(harness, log, (0..50u8).map(|n| Bytes::from(vec![thread, n]))));
        }
    });
    let records = read_from(harness, &*log, Position(0), 400);
    check_chain(Hash::ZERO, Position(0), &records);
    let distinct: BTreeSet<&[u8]> = records.iter().map(|record| &record.bytes[..]).collect();
    assert_eq!(distinct.len(), 400);
    for thread in 0..8 {
        let order: Vec<u8> = records
            .iter()
            .filter(|record| record.bytes[0] == thread)
            .map(|record| record.bytes[1])
            .collect();
        assert!(order.is_sorted(), "thread {thread}: {order:?}");
    }
    log.close();
}

fn the_biggest_record_passes_and_a_bigger_one_is_refused(harness: &dyn Harness) {
    let log = harness.fresh();
    let limit = harness.record_limit();
    let refused = log.append(Bytes::from(vec![1; limit + 1]));
    assert!(
        matches!(refused, Err(LogError::TooLarge { size, limit: said }) if size == limit + 1 && said == limit),
        "{refused:?}"
    );
    append_all(
        harness,
        &*log,
        [Bytes::from(vec![2; limit]), Bytes::from_static(b"after")],
    );
    let records = read_from(harness, &*log, Position(0), 2);
    assert!(records[0].bytes.len() == limit && records[0].bytes.iter().all(|byte| *byte == 2));
    assert_eq!(records[1].bytes, "after");
    log.close();
}

fn a_fence_covers_what_was_read(harness: &dyn Harness) {
    let log = harness.fresh();
    append_all(harness, &*log, numbered(0, 4));
    let last = read_from(harness, &*log, Position(0), 4)[3].position;
    match log.fence().unwrap() {
        Fence::At(position) => assert!(position > last, "{position} does not cover {last}"),
        // The caller's own record is then the fence: it has to come after all that was read.
        Fence::AppendAndWait => {
            append_all(harness, &*log, [Bytes::from_static(b"fence")]);
            let own = read_from(harness, &*log, Position(0), 5).pop().unwrap();
            assert!(own.bytes == "fence" && own.position > last);
        }
    }
    log.close();
}

fn a_closed_log_refuses_appends_and_ends_its_readers(harness: &dyn Harness) {
    let log = harness.fresh();
    append_all(harness, &*log, numbered(0, 2));
    let mut reader = log.reader(Position(0)).unwrap();
    assert_eq!(read_some(harness, &mut *reader, 2).len(), 2);
    thread::scope(|scope| {
        let waiting = scope.spawn(move || reader.read(10, 1000, harness.deadline() * 10));
        log.close();
        let end = waiting.join().unwrap();
        assert!(matches!(end, Err(LogError::Closed)), "{end:?}");
    });
    assert!(matches!(log.append(Bytes::from_static(b"late")), Err(LogError::Closed)));
    assert!(matches!(log.health(), Err(LogError::Closed)));
    log.close();
}

fn closing_settles_what_was_handed_over(harness: &dyn Harness) {
    let log = harness.fresh();
    append_all(harness, &*log, numbered(0, 100));
    log.close();
    let log = harness.reopen(log);
    check_chain(Hash::ZERO, Position(0), &read_from(harness, &*log, Position(0), 100));
    log.close();
}

fn a_log_opened_again_holds_the_same_and_goes_on(harness: &dyn Harness) {
    let log = harness.fresh();
    let id = log.transport_id();
    append_all(harness, &*log, numbered(0, 30));
    let before = read_from(harness, &*log, Position(0), 30);
    log.close();
    let log = harness.reopen(log);
    assert_eq!(log.transport_id(), id);
    wait_for_end(harness, &*log, Position(30));
    let mut reader = log.reader(Position(0)).unwrap();
    assert_eq!(read_some(harness, &mut *reader, 30), before);
    append_all(harness, &*log, numbered(30, 5));
    let after = read_some(harness, &mut *reader, 5);
    check_chain(before[29].digest, Position(30), &after);
    assert!(after[0].time >= before[29].time, "time went back");
    log.close();
}

fn a_log_told_its_digests_is_read_as_before(harness: &dyn Harness) {
    let log = harness.fresh();
    append_all(harness, &*log, numbered(0, 12));
    let all = read_from(harness, &*log, Position(0), 12);
    wait_for_end(harness, &*log, Position(12));
    for at in [7, 3, 12] {
        log.anchor(Tip {
            position: Position(at),
            digest: all[at as usize - 1].digest,
            time: all[at as usize - 1].time,
        });
    }
    for from in [3, 5, 7, 11] {
        assert_eq!(
            read_from(harness, &*log, Position(from), 12 - from as usize),
            all[from as usize..]
        );
    }
    let mut at_end = log.reader(Position(12)).unwrap();
    append_all(harness, &*log, numbered(12, 2));
    check_chain(all[11].digest, Position(12), &read_some(harness, &mut *at_end, 2));
    log.close();
}

fn two_logs_have_two_ids(harness: &dyn Harness) {
    let (one, other) = (harness.fresh(), harness.fresh());
    assert_ne!(one.transport_id(), other.transport_id());
    append_all(harness, &*one, numbered(0, 1));
    read_from(harness, &*one, Position(0), 1);
    assert_eq!(other.range().end, Position(0));
    one.close();
    other.close();
}

fn numbered(first: u64, count: u64) -> impl Iterator<Item = Bytes> {
    (first..first + count).map(|n| Bytes::from(format!("record {n}")))
}

/// Appends in order; a log that is full for a moment is asked again.
fn append_all(harness: &dyn Harness, log: &dyn Log, records: impl IntoIterator<Item = Bytes>) {
    let give_up = Instant::now() + harness.deadline();
    for record in records {
        loop {
            match log.append(record.clone()) {
                Ok(()) => break,
                Err(LogError::Full { .. }) if Instant::now() < give_up => thread::yield_now(),
                Err(error) => panic!("append: {error}"),
            }
        }
    }
}

fn read_from(harness: &dyn Harness, log: &dyn Log, from: Position, count: usize) -> Vec<Record> {
    read_some(harness, &mut *log.reader(from).unwrap(), count)
}

/// Exactly `count` records, or a panic at the deadline.
fn read_some(harness: &dyn Harness, reader: &mut dyn Reader, count: usize) -> Vec<Record> {
    let give_up = Instant::now() + harness.deadline();
    let mut records = Vec::new();
    while records.len() < count {
        let left = give_up.checked_duration_since(Instant::now());
        let left = left.unwrap_or_else(|| panic!("{} of {count} records came in time", records.len()));
        records.extend(reader.read(count - records.len(), usize::MAX, left).unwrap());
    }
    records
}

fn wait_for_end(harness: &dyn Harness, log: &dyn Log, end: Position) {
    let give_up = Instant::now() + harness.deadline();
    while log.range().end < end {
        assert!(
            Instant::now() < give_up,
            "the range ends at {} and not at {end}",
            log.range().end
        );
        thread::yield_now();
    }
    assert_eq!(log.range().end, end);
}

/// Positions without holes, and each digest the one of all before it.
fn check_chain(mut before: Hash, first: Position, records: &[Record]) {
    for (due, record) in (first.0..).zip(records) {
        assert_eq!(record.position, Position(due));
        before = log_digest(before, record.position, record.time, &record.bytes);
        assert_eq!(record.digest, before, "digest of {due}");
    }
}
