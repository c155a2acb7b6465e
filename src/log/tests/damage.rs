//! Torn ends are cut, damage is refused, and nothing is ever taken for a shorter log when it can be told.

mod common;

use common::*;
use confold_log::file::{Copy, FileLog, Options, Origin};
use confold_log::{Log, LogError, Record, Tip};
use confold_model::ids::Hash;
use std::sync::Arc;
use std::time::Duration;

/// Byte length of a segment's header.
const HEADER: usize = 104;

/// A closed log of `count` batches of one record each.
fn sample_log(count: u64, max: u64, segment_bytes: u64) -> (SimDisk, Vec<Record>) {
    let disk = SimDisk::default();
    let log = create(
        &disk,
        Options {
            segment_bytes,
            ..options()
        },
    );
    let records = (0..count).map(|n| put(&log, sample(n, max))).collect();
    log.close();
    (disk, records)
}

/// A number from the environment, by which a run is made longer.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn copy(disk: &SimDisk) -> SimDisk {
    disk.crash(Keep::Everything)
}

fn verified() -> Options {
    Options {
        verify_all: true,
        ..options()
    }
}

fn corrupt(result: Result<FileLog, LogError>) -> (String, u64, u64, String) {
    match result {
        Err(LogError::Corrupt {
            file,
            offset,
            position,
            what,
        }) => (file, offset, position.0, what),
        Err(other) => panic!("another error: {other}"),
        Ok(log) => panic!("opened, with {:?} and {:?}", log.range(), log.cut()),
    }
}

#[test]
fn a_log_cut_at_any_byte_keeps_its_whole_batches() {
    // reliability F7: the last 64 KiB of a log.
    let (disk, records) = sample_log(number("CONFOLD_CUT_RECORDS").unwrap_or(150), 730, 64 << 20);
    let name = disk.segments().pop().unwrap();
    let whole = disk.bytes(&name);
    // Where each batch ends: 60 bytes before the records, 12 before each record.
    let mut ends = vec![HEADER];
    for record in &records {
        ends.push(ends[ends.len() - 1] + 60 + 12 + record.bytes.len());
    }
    assert_eq!(ends.last(), Some(&whole.len()));
    for len in 0..=whole.len() {
        let cut = copy(&disk);
        cut.put(&name, whole[..len].to_vec());
        if len < HEADER {
            corrupt(open(&cut, options()));
            continue;
        }
        let left = ends.iter().filter(|end| **end <= len).count() - 1;
        let torn = len - ends[left];

        // With what was applied beyond the cut, it is refused, and the file stays as it is.
        if left < records.len() {
            let must_have = Some(at(left as u64));
            let (_, offset, position, what) = corrupt(open(&cut, Options { must_have, ..options() }));
            assert_eq!((offset, position), (ends[left] as u64, left as u64), "{what}");
            assert_eq!(cut.bytes(&name).len(), len);
        }

        let must_have = left.checked_sub(1).map(|last| at(last as u64));
        let log = open(&cut, Options { must_have, ..options() }).unwrap();
        assert_eq!(read_all(&log), records[..left], "cut at {len}");
        match log.cut() {
            None => assert_eq!(torn, 0),
            Some(cut) => assert_eq!(
                (cut.offset, cut.bytes, cut.position),
                (ends[left] as u64, torn as u64, at(left as u64))
            ),
        }
        assert_eq!(cut.bytes(&name).len(), ends[left]);
        assert_eq!(put(&log, "next").position, at(left as u64));
    }
    println!("SOAK cuts={} records={} phantoms=0", whole.len() + 1, records.len());
}

#[test]
fn a_tail_of_zeros_or_garbage_is_cut() {
    let (disk, records) = sample_log(5, 300, 64 << 20);
    let name = disk.segments().pop().unwrap();
    let tails =
        (0..40)
            .map(|n| sample(n, 5000))
            .chain([vec![0; 1], vec![0; 4096], vec![0; 700_000], b"CFB0".repeat(100_000)]);
    for tail in tails {
        let damaged = copy(&disk);
        let mut bytes = disk.bytes(&name);
        bytes.extend(&tail);
        damaged.put(&name, bytes);
        let log = open(
            &damaged,
            Options {
                must_have: Some(at(4)),
                ..options()
            },
        )
        .unwrap();
        assert_eq!(read_all(&log), records);
        assert_eq!(log.cut().map_or(0, |cut| cut.bytes), tail.len() as u64);
    }
}

#[test]
fn an_old_batch_of_the_same_log_behind_the_end_is_no_sign_of_damage_before_it() {
    // Two writes of one position: the remains of the first, longer one lie behind the second.
    let (disk, records) = sample_log(2, 300, 64 << 20);
    let name = disk.segments().pop().unwrap();
    let mut bytes = disk.bytes(&name);
    let last = bytes[bytes.len() - 72 - records[1].bytes.len()..].to_vec();
    bytes.extend(&[7; 10]);
    bytes.extend(&last);
    let damaged = copy(&disk);
    damaged.put(&name, bytes.clone());
    assert_eq!(read_all(&open(&damaged, options()).unwrap()), records);

    // The very batch that is due, further on, is: bytes came in between.
    let (longer, _) = sample_log(3, 300, 64 << 20);
    let end = bytes.len() - last.len() - 10;
    let shifted = [&bytes[..end], &[7; 10], &longer.bytes(&name)[end..]].concat();
    damaged.put(&name, shifted);
    let (_, offset, position, _) = corrupt(open(&damaged, options()));
    assert_eq!((offset, position), (end as u64, 2));
}

#[test]
fn every_flipped_bit_is_found_or_stands_in_the_last_batch() {
    // reliability F8.
    let (disk, records) = sample_log(60, 400, 4000);
    let names = disk.segments();
    assert!(names.len() >= 4);
    let last_batch = disk.bytes(names.last().unwrap()).len() - 72 - records[59].bytes.len();
    let (mut refused, mut torn) = (0, 0);
    let (first, flips) = (number("CONFOLD_SEED").unwrap_or(0), number("CONFOLD_FLIPS").unwrap_or(600));
    for seed in first..first + flips {
        // Every tenth hits the last batch.
        let file = if seed % 10 == 0 {
            names.len() - 1
        } else {
            sample(seed, 200).len() % names.len()
        };
        let mut bytes = disk.bytes(&names[file]);
        let mut place = sample(seed + 1000, 100_000).len() % bytes.len();
        if seed % 10 == 0 {
            place = last_batch + place % (bytes.len() - last_batch);
        }
        bytes[place] ^= 1 << (seed % 8);
        let damaged = copy(&disk);
        damaged.put(&names[file], bytes.clone());
        let in_last = file == names.len() - 1 && place >= last_batch;

        // What the store has applied protects every batch.
        let all = Options {
            must_have: Some(at(59)),
            ..verified()
        };
        let (named, offset, position, what) = corrupt(open(&damaged, all));
        assert_eq!(named, format!("sim/{}", names[file]), "{what}");
        assert!(
            offset <= place as u64 && position < 60,
            "byte {place}: {offset}, {position}, {what}"
        );
        assert_eq!(damaged.bytes(&names[file]), bytes, "nothing was changed");

        match open(&damaged, verified()) {
            Err(LogError::Corrupt { .. }) => {
                assert!(!in_last);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
            Ok(log) => {
                assert!(in_last, "byte {place} of {} went unseen", names[file]);
                assert_eq!(read_all(&log), records[..59]);
                assert_eq!(log.cut().map(|cut| cut.position), Some(at(59)));
                torn += 1;
            }
        }

        // Without looking at everything, what is damaged is still never served.
        if let Ok(log) = FileLog::open_read_only_on(Arc::new(damaged), options()) {
            let mut reader = log.reader(at(0)).unwrap();
            let mut seen = Vec::new();
            let end = loop {
                match reader.read(7, 1000, Duration::ZERO) {
                    Ok(records) if records.is_empty() => break None,
                    Ok(records) => seen.extend(records),
                    Err(error) => break Some(error),
                }
            };
            assert_eq!(seen, records[..seen.len()]);
            if !in_last {
                assert!(
                    matches!(&end, Some(LogError::Corrupt { position, .. }) if position.0 == seen.len() as u64),
                    "{end:?}"
                );
                // The reader stands where it stood.
                assert!(matches!(
                    reader.read(1, 1, Duration::ZERO),
                    Err(LogError::Corrupt { .. })
                ));
            }
        }
    }
    assert_eq!(refused + torn, flips, "every one is one or the other");
    assert!(refused > flips * 3 / 4 && torn >= flips / 10, "{refused} refused, {torn} torn");
    println!("SOAK flips={flips} refused={refused} torn={torn} unseen=0");
}

#[test]
fn damage_with_a_sound_batch_behind_it_is_refused_even_when_the_file_is_torn_as_well() {
    let (disk, records) = sample_log(3, 300, 64 << 20);
    let name = disk.segments().pop().unwrap();
    let whole = disk.bytes(&name);
    let second = HEADER + 72 + records[0].bytes.len();
    let third = second + 72 + records[1].bytes.len();
    for damage in [second, second + 5, second + 40, second + 58, third - 1] {
        // Of the third batch only the first 60 bytes are left: it was begun, so the second had been whole.
        for len in [whole.len(), third + 60] {
            let mut bytes = whole[..len].to_vec();
            bytes[damage] ^= 0x10;
            let damaged = copy(&disk);
            damaged.put(&name, bytes);
            let (_, offset, position, what) = corrupt(open(&damaged, options()));
            assert_eq!((offset, position), (second as u64, 1), "{what}");
            assert!(what.contains(&format!("byte {third} with position 2")), "{what}");
        }
    }
}

#[test]
fn a_record_that_looks_like_a_batch_does_not_keep_a_torn_log_from_opening() {
    // The bytes of a real batch of this very log, but of an earlier segment, are the record that is torn.
    let (source, _) = sample_log(9, 50, 64 << 20);
    let bytes = source.bytes(&source.segments()[0]);
    let (disk, records) = sample_log(3, 50, 1);
    let log = open(
        &disk,
        Options {
            segment_bytes: 64 << 20,
            ..options()
        },
    )
    .unwrap();
    put(&log, bytes);
    log.close();
    let name = disk.segments().pop().unwrap();
    let mut torn = disk.bytes(&name);
    torn.truncate(torn.len() - 1);
    disk.put(&name, torn);
    let log = open(&disk, options()).unwrap();
    assert_eq!(read_all(&log), records);
    assert_eq!(log.cut().map(|cut| cut.position), Some(at(3)));
}

#[test]
fn each_byte_of_a_segments_header_is_guarded() {
    let (disk, _) = sample_log(3, 50, 1);
    for (index, name) in disk.segments().iter().enumerate() {
        let whole = disk.bytes(name);
        for place in 0..HEADER {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x80;
            let damaged = copy(&disk);
            damaged.put(name, bytes);
            let (file, _, position, _) = corrupt(open(&damaged, options()));
            assert_eq!((file, position), (format!("sim/{name}"), index as u64));
        }
    }
}

#[test]
fn segments_that_are_missing_swapped_or_of_another_log_are_refused() {
    let (disk, _) = sample_log(5, 50, 1);
    let (other, _) = {
        let disk = SimDisk::default();
        let identity = confold_log::file::Identity {
            transport_id: [9; 16],
            ..IDENTITY
        };
        let log = FileLog::create_on(
            Arc::new(disk.clone()),
            identity,
            Options {
                segment_bytes: 1,
                ..options()
            },
        )
        .unwrap();
        (0..5).for_each(|n| drop(put(&log, sample(n, 50))));
        log.close();
        (disk, ())
    };
    let names = disk.segments();
    type Change<'a> = Box<dyn Fn(&SimDisk) + 'a>;
    let cases: [(&str, Change); 6] = [
        ("missing", Box::new(|disk| disk.erase(&names[0]))),
        ("is missing", Box::new(|disk| disk.erase(&names[2]))),
        (
            "named for position 1",
            Box::new(|disk| disk.put(&names[1], disk.bytes(&names[2]))),
        ),
        (
            "of another log",
            Box::new(|disk| disk.put(&names[3], other.bytes(&names[3]))),
        ),
        (
            "was changed",
            Box::new(|disk| disk.put(&names[1], disk.bytes(&names[1])[..110].to_vec())),
        ),
        (
            "was changed",
            Box::new(|disk| disk.put(&names[1], [disk.bytes(&names[1]), vec![0; 9]].concat())),
        ),
    ];
    for (expected, change) in cases {
        let damaged = copy(&disk);
        change(&damaged);
        let (_, _, _, what) = corrupt(open(&damaged, options()));
        assert!(what.contains(expected), "{what}");
    }
    // The last one cannot be missed by looking at the others: what was applied tells.
    let shorter = copy(&disk);
    shorter.erase(&names[4]);
    let (_, _, position, what) = corrupt(open(
        &shorter,
        Options {
            must_have: Some(at(4)),
            ..options()
        },
    ));
    assert_eq!(position, 4);
    assert!(what.contains("position 4 was already applied"), "{what}");
}

#[test]
fn a_sound_segment_with_other_records_breaks_the_digest_chain() {
    // Same length, same identity, valid checksums everywhere: only the digests tell.
    let make = |text: &'static str| {
        let disk = SimDisk::default();
        let log = create(
            &disk,
            Options {
                segment_bytes: 1,
                ..options()
            },
        );
        for record in ["one", text, "three"] {
            put(&log, record);
        }
        log.close();
        disk
    };
    let (disk, other) = (make("two"), make("TWO"));
    let names = disk.segments();
    disk.put(&names[1], other.bytes(&names[1]));
    let (file, _, position, what) = corrupt(open(&disk, verified()));
    assert_eq!((file, position), (format!("sim/{}", names[2]), 2));
    assert!(what.contains("log digest"), "{what}");
    let log = open(&disk, options()).unwrap();
    let mut reader = log.reader(at(0)).unwrap();
    assert_eq!(read_some(&mut *reader, 2).len(), 2);
    assert!(matches!(reader.read(1, 1, Duration::ZERO), Err(LogError::Corrupt { position, .. }) if position == at(2)));
}

#[test]
fn a_log_whose_past_is_not_the_one_that_it_should_have_is_refused() {
    // A copy says in its origin what came before its first record. Without it, nothing may have.
    let disk = SimDisk::default();
    let first = Tip {
        digest: Hash([7; 32]),
        ..Tip::START
    };
    let origin = Origin {
        identity: IDENTITY,
        source: [1; 16],
        first,
        end: at(0),
        state: Hash([3; 32]),
    };
    Copy::create_on(Arc::new(disk.clone()), origin, options())
        .and_then(Copy::finish)
        .unwrap();
    open(&disk, options()).unwrap().close();
    disk.erase("origin");
    let (file, offset, position, what) = corrupt(open(&disk, options()));
    assert_eq!((file, offset, position), (format!("sim/{}", disk.segments()[0]), 0, 0));
    assert!(what.contains("the log digest before the first record is wrong"), "{what}");
}

#[test]
fn a_read_only_opener_leaves_a_torn_end_alone() {
    let (disk, records) = sample_log(4, 50, 64 << 20);
    let name = disk.segments().pop().unwrap();
    let mut bytes = disk.bytes(&name);
    bytes.pop();
    disk.put(&name, bytes.clone());
    disk.put("segment.tmp", vec![1, 2, 3]);
    let disk = copy(&disk);
    let log = FileLog::open_read_only_on(Arc::new(disk.clone()), options()).unwrap();
    assert_eq!(read_all(&log), records[..3]);
    assert_eq!(log.cut().map(|cut| cut.position), Some(at(3)));
    assert!(matches!(log.append("x".into()), Err(LogError::ReadOnly { .. })));
    assert_eq!(disk.bytes(&name), bytes);
    assert_eq!(disk.operations(), []);
}
