//! The file log on a real folder.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use confold_log::copy_records;
use confold_log::file::{Copy, FileLog, Identity, Options, Origin, system_clock};
use confold_log::{Log, LogError, Range, Record, Tip};
use confold_model::ids::{Hash, Time};
use proptest::prelude::*;

fn filled(folder: &Path, options: Options, count: u64) -> (FileLog, Vec<Record>) {
    let log = FileLog::create(folder, IDENTITY, options).unwrap();
    let records = (0..count).map(|n| put(&log, sample(n, 400))).collect();
    (log, records)
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_second_opener_is_refused_and_told_who_holds_the_log() {
    // reliability I14: one process lock.
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path(), options(), 2);
    for _ in 0..2 {
        let refused = FileLog::open(folder.path(), options()).err().unwrap();
        assert!(
            matches!(&refused, LogError::Locked { by: Some(pid), .. } if *pid == std::process::id()),
            "{refused}"
        );
        let said = refused.to_string();
        assert!(
            said.contains(&format!("process {}", std::process::id()))
                && said.contains(&folder.path().display().to_string()),
            "{said}"
        );
    }
    assert!(matches!(
        Copy::resume(folder.path(), options()),
        Err(LogError::Locked { .. })
    ));
    // Looking is allowed.
    assert_eq!(
        FileLog::open_read_only(folder.path(), options()).unwrap().range(),
        log.range()
    );
    log.close();
    assert_eq!(FileLog::open(folder.path(), options()).unwrap().range().end, at(2));
}

#[test]
fn a_log_is_created_once_and_opened_only_where_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b/c");
    assert!(matches!(FileLog::open(&deep, options()), Err(LogError::Missing { .. })));
    assert!(!deep.exists());
    assert!(matches!(
        FileLog::open(folder.path(), options()),
        Err(LogError::Missing { .. })
    ));
    assert_eq!(
        files(folder.path()),
        Vec::<String>::new(),
        "an unrelated folder is left alone"
    );
    FileLog::create(&deep, IDENTITY, options()).unwrap().close();
    assert!(matches!(
        FileLog::create(&deep, IDENTITY, options()),
        Err(LogError::Exists { .. })
    ));
    let other = Options {
        transport_id: Some([1; 16]),
        ..options()
    };
    assert!(matches!(FileLog::open(&deep, other), Err(LogError::Fenced { .. })));
    let log = FileLog::open(
        &deep,
        Options {
            transport_id: Some(IDENTITY.transport_id),
            ..options()
        },
    )
    .unwrap();
    assert!(log.identity() == IDENTITY && log.transport_id() == IDENTITY.transport_id);
}

#[test]
fn positions_cross_segments_and_survive_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let small = Options {
        segment_bytes: 2000,
        ..options()
    };
    let (log, records) = filled(folder.path(), small.clone(), 50);
    log.close();
    let segments = files(folder.path())
        .iter()
        .filter(|name| name.ends_with(".log"))
        .count();
    assert!(segments > 4, "{segments} segments");
    let log = FileLog::open(
        folder.path(),
        Options {
            verify_all: true,
            ..small
        },
    )
    .unwrap();
    assert!(log.cut().is_none());
    assert_eq!(read_all(&log), records);
    let last = &records[49];
    assert_eq!(
        log.tip(),
        Tip {
            position: at(50),
            digest: last.digest,
            time: last.time
        }
    );
    for from in 0..50 {
        let mut reader = log.reader(at(from)).unwrap();
        assert_eq!(
            reader.read(1, 0, Duration::ZERO).unwrap(),
            records[from as usize..][..1]
        );
    }
}

#[test]
fn a_reader_crosses_from_disk_to_memory_without_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    // Memory holds a few records only, so a reader falls behind and catches up all the time.
    let small = Options {
        segment_bytes: 5000,
        ring_bytes: 2000,
        ..options()
    };
    let log = FileLog::create(folder.path(), IDENTITY, small).unwrap();
    let count = 3000;
    std::thread::scope(|scope| {
        let readers: Vec<_> = [1, 7, 1000]
            .map(|max| {
                let mut reader = log.reader(at(0)).unwrap();
                scope.spawn(move || {
                    let mut records = Vec::new();
                    while records.len() < count {
                        let some = reader.read(max, 1 << 20, DEADLINE).unwrap();
                        assert!(!some.is_empty(), "in time");
                        records.extend(some);
                    }
                    records
                })
            })
            .into();
        for n in 0..count as u64 {
            log.append(sample(n, 100).into()).unwrap();
        }
        let seen: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert!(seen.iter().all(|records| records == &seen[0]));
        assert_eq!(seen[0], read_all(&log));
        assert!(
            seen[0]
                .iter()
                .enumerate()
                .all(|(n, record)| record.bytes == sample(n as u64, 100))
        );
    });
}

#[test]
fn what_waits_to_be_written_is_bounded() {
    let disk = SimDisk::default();
    let log = create(
        &disk,
        Options {
            queue_bytes: 1000,
            ..options()
        },
    );
    let first = put(&log, "first");
    // A full disk keeps the queue from draining; before that is known, appends are taken.
    let used = disk.used();
    let gate = Arc::new(parking_lot::Mutex::new(()));
    let closed = gate.lock();
    let at_gate = gate.clone();
    disk.watch(move |_| drop(at_gate.lock()));
    let mut taken = 0;
    let refused = loop {
        match log.append(vec![0; 100].into()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert!(matches!(refused, LogError::Full { limit: 1000, .. }), "{refused}");
    assert!((5..=10).contains(&taken), "{taken}");
    assert_eq!(disk.used(), used);
    drop(closed);
    wait_until("the queue drains", || log.range().end == at(taken + 1));
    assert_eq!(read_all(&log)[0], first);
    put(&log, "goes on");
}

#[test]
fn an_empty_record_and_one_bigger_than_a_batch_or_the_queue_pass() {
    let folder = tempfile::tempdir().unwrap();
    let log = FileLog::create(
        folder.path(),
        IDENTITY,
        Options {
            batch_bytes: 10,
            queue_bytes: 10,
            ..options()
        },
    )
    .unwrap();
    let given = [Bytes::new(), Bytes::from(vec![5; 1 << 20]), Bytes::new()];
    let records: Vec<Record> = given.iter().map(|bytes| put(&log, bytes.clone())).collect();
    log.close();
    let log = FileLog::open(folder.path(), options()).unwrap();
    assert_eq!(read_all(&log), records);
    assert_eq!(
        records.iter().map(|record| record.bytes.clone()).collect::<Vec<_>>(),
        given
    );
}

#[test]
fn whoever_watches_is_told_of_every_write() {
    let folder = tempfile::tempdir().unwrap();
    let log = FileLog::create(folder.path(), IDENTITY, options()).unwrap();
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let telling = told.clone();
    put(&log, sample(0, 400));
    log.observe(Arc::new(move |written| telling.lock().push(*written)));
    let before = std::fs::metadata(folder.path().join(&files(folder.path())[0])).unwrap().len();
    let records: Vec<Record> = (1..20).map(|n| put(&log, sample(n, 400))).collect();
    log.close();
    let after = std::fs::metadata(folder.path().join(&files(folder.path())[0])).unwrap().len();
    let told = told.lock();
    assert_eq!(told.iter().map(|written| written.records).sum::<usize>(), records.len());
    assert_eq!(told.iter().map(|written| written.bytes).sum::<u64>(), after - before);
    assert!(told.iter().all(|written| written.sync > Duration::ZERO));
}

#[test]
fn stamps_follow_the_clock_and_never_go_back_unless_asked() {
    // formats.md 6: max(its clock, last stamp), always opens, and the alarm can be raised.
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(1000));
    let clock = now.clone();
    let options = Options {
        clock: Arc::new(move || Time(clock.load(Ordering::SeqCst))),
        ..options()
    };
    let log = FileLog::create(folder.path(), IDENTITY, options.clone()).unwrap();
    assert_eq!(log.clock_ahead(), 0);
    let mut stamps = Vec::new();
    for clock in [1000, 5000, 2000] {
        now.store(clock, Ordering::SeqCst);
        stamps.push(put(&log, "x").time.0);
    }
    log.close();
    let log = FileLog::open(folder.path(), options).unwrap();
    assert_eq!(log.clock_ahead(), 3000);
    stamps.push(put(&log, "x").time.0);
    log.let_time_go_back().unwrap();
    stamps.push(put(&log, "x").time.0);
    assert_eq!(log.clock_ahead(), 0);
    now.store(1500, Ordering::SeqCst);
    stamps.push(put(&log, "x").time.0);
    assert_eq!(stamps, [1000, 5000, 5000, 5000, 2000, 2000]);
    log.close();
    let log = FileLog::open_read_only(
        folder.path(),
        Options {
            verify_all: true,
            ..common::options()
        },
    )
    .unwrap();
    assert_eq!(
        read_all(&log).iter().map(|record| record.time.0).collect::<Vec<_>>(),
        stamps
    );
}

#[test]
fn the_system_clock_is_in_milliseconds() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64;
    assert!((now..now + 20_000).contains(&system_clock().0));
}

fn origin_of(log: &FileLog, first: Tip, end: u64) -> Origin {
    let identity = Identity {
        transport_id: *b"the copy's own..",
        ..log.identity()
    };
    Origin {
        identity,
        source: log.transport_id(),
        first,
        end: at(end),
        state: Hash([3; 32]),
    }
}

#[test]
fn an_exported_range_has_equal_positions_times_and_digests() {
    let folder = tempfile::tempdir().unwrap();
    let (log, records) = filled(
        &folder.path().join("source"),
        Options {
            segment_bytes: 2000,
            ..options()
        },
        50,
    );
    for (from, to) in [(0u64, 50u64), (0, 10), (17, 33), (49, 50), (20, 20)] {
        let target = folder.path().join(format!("{from}-{to}"));
        let known = match from.checked_sub(1) {
            None => Tip::START,
            Some(before) => Tip {
                position: at(from),
                digest: records[before as usize].digest,
                time: records[before as usize].time,
            },
        };
        let first = log.tip_at(at(from)).unwrap();
        assert_eq!(first, known);
        let mut copy = Copy::create(
            &target,
            origin_of(&log, first, to),
            Options {
                segment_bytes: 700,
                ..options()
            },
        )
        .unwrap();
        copy_records(&log, &mut copy, at(to), Duration::ZERO).unwrap();
        assert_eq!(
            copy.finish().unwrap(),
            Range {
                start: at(from),
                end: at(to)
            }
        );
        let exported = FileLog::open_read_only(
            &target,
            Options {
                verify_all: true,
                ..options()
            },
        )
        .unwrap();
        assert_eq!(read_all(&exported), records[from as usize..to as usize]);
        let origin = exported.origin().unwrap();
        assert!(origin == origin_of(&log, first, to));
        for position in from..=to {
            assert_eq!(
                exported.tip_at(at(position)).unwrap(),
                log.tip_at(at(position)).unwrap()
            );
        }
        assert!(matches!(exported.tip_at(at(to + 1)), Err(LogError::BeyondEnd { .. })));
        if from > 0 {
            assert!(matches!(
                exported.tip_at(at(from - 1)),
                Err(LogError::BelowStart { .. })
            ));
            assert!(matches!(
                exported.reader(at(from - 1)),
                Err(LogError::BelowStart { .. })
            ));
        }
    }
    // A copy is a log: it goes on with records of its own.
    let whole = FileLog::open(&folder.path().join("0-50"), options()).unwrap();
    assert_ne!(whole.transport_id(), log.transport_id());
    assert_eq!(put(&whole, "own"), put(&log, "own"));
}

#[test]
fn an_interrupted_copy_goes_on_where_it_stopped_and_refuses_other_records() {
    let folder = tempfile::tempdir().unwrap();
    let (log, records) = filled(&folder.path().join("source"), options(), 30);
    let target = folder.path().join("target");
    let mut copy = Copy::create(&target, origin_of(&log, Tip::START, 0), options()).unwrap();
    copy.append(&records[..11]).unwrap();
    drop(copy);
    let mut copy = Copy::resume(&target, options()).unwrap();
    assert_eq!(copy.tip().position, at(11));
    let mut forged = records[11].clone();
    forged.bytes = Bytes::from_static(b"other");
    for wrong in [&forged, &records[12], &records[10]] {
        assert!(matches!(
            copy.append(std::slice::from_ref(wrong)),
            Err(LogError::Fenced { .. })
        ));
    }
    let beyond = copy_records(&log, &mut copy, at(31), Duration::ZERO);
    assert!(matches!(beyond, Err(LogError::BeyondEnd { asked, end }) if asked == at(31) && end == at(30)));
    copy.finish().unwrap();
    let copied = FileLog::open(&target, options()).unwrap();
    assert_eq!(read_all(&copied), records);
    assert_eq!(
        copied.origin().unwrap().end,
        at(30),
        "the end is noted when it is known"
    );
    assert!(matches!(
        Copy::resume(&folder.path().join("none"), options()),
        Err(LogError::Missing { .. })
    ));
    log.close();
    assert!(matches!(
        Copy::resume(&folder.path().join("source"), options()),
        Err(LogError::Fenced { .. })
    ));
}

#[test]
fn trimming_drops_whole_segments_and_leaves_an_origin() {
    let folder = tempfile::tempdir().unwrap();
    let small = Options {
        segment_bytes: 1000,
        ring_bytes: 0,
        ..options()
    };
    let (log, records) = filled(folder.path(), small.clone(), 60);
    let mut old = log.reader(at(0)).unwrap();
    let mut held = log.reader(at(40)).unwrap();
    let start = log.trim(at(35), |position| Hash([position.0 as u8; 32])).unwrap();
    assert!(start > at(20) && start <= at(35), "{start}");
    assert_eq!(log.range(), Range { start, end: at(60) });
    assert_eq!(log.trim(start, |_| Hash::ZERO).unwrap(), start, "nothing more to drop");
    assert!(matches!(
        old.read(1, 1, Duration::ZERO),
        Err(LogError::BelowStart { .. })
    ));
    assert_eq!(read_some(&mut *held, 20), records[40..]);
    let next = put(&log, "next");
    log.close();
    let log = FileLog::open(
        folder.path(),
        Options {
            verify_all: true,
            ..small.clone()
        },
    )
    .unwrap();
    let origin = log.origin().unwrap();
    assert!(
        origin.first.position == start
            && origin.state == Hash([start.0 as u8; 32])
            && origin.source == IDENTITY.transport_id
    );
    let left = read_all(&log);
    assert_eq!(left, [&records[start.0 as usize..], &[next]].concat());
    // To the very end: the segment that grows stays.
    let start = log.trim(at(61), |_| Hash::ZERO).unwrap();
    assert!(start <= at(60));
    log.close();

    // A segment that should have been the first is missing now, and that is told.
    let first = folder.path().join(
        files(folder.path())
            .into_iter()
            .find(|name| name.ends_with(".log"))
            .unwrap(),
    );
    std::fs::remove_file(first).unwrap();
    let refused = FileLog::open(folder.path(), small).err().unwrap();
    assert!(
        matches!(refused, LogError::Missing { .. } | LogError::Corrupt { .. }),
        "{refused}"
    );
}

#[test]
fn an_interrupted_trim_is_finished_by_the_next_open() {
    let disk = SimDisk::default();
    let small = Options {
        segment_bytes: 1,
        ..options()
    };
    let log = create(&disk, small.clone());
    let records: Vec<Record> = (0..6).map(|n| put(&log, sample(n, 100))).collect();
    let images = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let taken = images.clone();
    disk.watch(move |disk| {
        let mut images = taken.lock();
        let seeds = images.len() as u64..images.len() as u64 + 20;
        images.extend([Keep::Nothing, Keep::Everything].map(|keep| disk.crash(keep)));
        images.extend(seeds.map(|seed| disk.crash(Keep::Some(seed))));
    });
    log.trim(at(4), |_| Hash::ZERO).unwrap();
    disk.watch(|_| {});
    let images = std::mem::take(&mut *images.lock());
    assert!(images.len() > 20);
    let mut starts = std::collections::BTreeSet::new();
    for image in images {
        let log = open(
            &image,
            Options {
                must_have: Some(at(5)),
                verify_all: true,
                ..small.clone()
            },
        )
        .unwrap();
        let start = log.range().start;
        starts.insert(start.0);
        assert_eq!(read_all(&log), records[start.0 as usize..]);
        assert_eq!(image.segments().len() as u64, 6 - start.0);
    }
    assert_eq!(starts.into_iter().collect::<Vec<_>>(), [0, 4]);
}

#[test]
fn an_origin_that_is_damaged_or_of_another_log_is_refused() {
    let disk = SimDisk::default();
    let small = Options {
        segment_bytes: 1,
        ..options()
    };
    let log = create(&disk, small.clone());
    (0..4).for_each(|n| drop(put(&log, sample(n, 100))));
    log.trim(at(2), |_| Hash::ZERO).unwrap();
    log.close();
    let whole = disk.bytes("origin");
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        disk.put("origin", bytes);
        let refused = open(&disk, small.clone()).err().unwrap();
        assert!(
            matches!(&refused, LogError::Corrupt { file, .. } if file == "sim/origin"),
            "{refused}"
        );
    }
    disk.put("origin", whole);
    assert_eq!(open(&disk, small).unwrap().range().start, at(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_sizes_and_limits_read_back_the_same(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..80),
        segment_bytes in 1u64..5000,
        batch_bytes in 1usize..3000,
        ring_bytes in 0usize..3000,
        max_records in 1usize..20,
        max_bytes in 0usize..3000,
        opens in 1usize..4,
    ) {
        let disk = SimDisk::default();
        let options = Options { segment_bytes, batch_bytes, ring_bytes, verify_all: true, ..options() };
        let mut log = create(&disk, options.clone());
        for part in records.chunks(records.len().div_ceil(opens)) {
            for record in part {
                log.append(record.clone().into()).unwrap();
            }
            log.close();
            log = open(&disk, options.clone()).unwrap();
            prop_assert!(log.cut().is_none());
        }
        let mut reader = log.reader(at(0)).unwrap();
        let mut tip = Tip::START;
        loop {
            let some = reader.read(max_records, max_bytes, Duration::ZERO).unwrap();
            if some.is_empty() {
                break;
            }
            prop_assert!(some.len() <= max_records);
            for record in some {
                let expected = tip.record(record.time, records[tip.position.0 as usize].clone().into());
                prop_assert_eq!(&record, &expected);
            }
        }
        prop_assert_eq!(tip.position.0, records.len() as u64);
        prop_assert_eq!(tip, log.tip());
    }
}
