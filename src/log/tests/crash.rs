//! What a crash leaves: at every step of the writer, the image of the disk is opened again, and every record that was
//! acknowledged before must be there. The same test on a disk that ignores fsync must find losses, or it proves nothing.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use confold_log::file::{Copy, Identity, Options, Origin};
use confold_log::{Log, LogError, Record, Tip};
use confold_model::ids::Hash;
use parking_lot::Mutex;

/// The disk after a crash, and how many records had been acknowledged by then.
type Image = (SimDisk, usize);

/// Runs a log of `count` records on this disk and takes crash images before every operation.
fn run(disk: &SimDisk, options: Options, count: u64) -> (Vec<Record>, Vec<Image>) {
    let acked = Arc::new(AtomicUsize::new(0));
    let images = Arc::new(Mutex::new(Vec::new()));
    let take = {
        let (acked, images) = (acked.clone(), images.clone());
        move |disk: &SimDisk| {
            let acked = acked.load(Ordering::SeqCst);
            let mut images = images.lock();
            let seed = images.len() as u64;
            for keep in [
                Keep::Nothing,
                Keep::Everything,
                Keep::Some(seed * 2 + 1),
                Keep::Some(seed * 2 + 2),
            ] {
                images.push((disk.crash(keep), acked));
            }
        }
    };
    let log = create(disk, options);
    disk.watch(take);
    let mut records = Vec::new();
    for n in 0..count {
        records.push(put(&log, sample(n, 1500)));
        acked.store(records.len(), Ordering::SeqCst);
    }
    log.close();
    disk.watch(|_| {});
    for keep in [Keep::Nothing, Keep::Everything] {
        images.lock().push((disk.crash(keep), records.len()));
    }
    let images = std::mem::take(&mut *images.lock());
    (records, images)
}

/// What is wrong with an image, if anything.
fn loss(records: &[Record], (disk, acked): &Image, options: &Options) -> Result<(), String> {
    let must_have = acked.checked_sub(1).map(|last| records[last].position);
    let log = open(
        disk,
        Options {
            must_have,
            verify_all: true,
            ..options.clone()
        },
    )
    .map_err(|error| error.to_string())?;
    let found = read_all(&log);
    // One more than acknowledged may have become durable; nothing may be there that was never appended.
    if found.len() < *acked || found != records[..found.len()] {
        return Err(format!("{acked} acknowledged, {} found", found.len()));
    }
    let next = put(&log, &b"after the crash"[..]);
    if next.position.0 != found.len() as u64 {
        return Err(format!("the next record stands at {}", next.position));
    }
    log.close();
    let again = open(disk, options.clone()).map_err(|error| format!("second open: {error}"))?;
    if again.cut().is_some() || again.range().end != next.position.next() {
        return Err("the second open differs from the first".to_owned());
    }
    Ok(())
}

fn small_segments() -> Options {
    Options {
        segment_bytes: 3000,
        ..options()
    }
}

#[test]
fn an_acknowledged_record_survives_a_crash_at_any_step() {
    let disk = SimDisk::default();
    let (records, images) = run(&disk, small_segments(), 40);
    assert!(disk.segments().len() > 5, "the run rolls segments");
    let (mut cuts, count) = (0, images.len());
    assert!(count > 40 * 2 * 4, "{count} images");
    for (index, image) in images.into_iter().enumerate() {
        if let Err(what) = loss(&records, &image, &small_segments()) {
            panic!("image {index}: {what}");
        }
        cuts += usize::from(image.0.operations().contains(&Operation::Truncate));
    }
    assert!(cuts > 20, "only {cuts} images had a torn end");
}

#[test]
fn what_a_restarted_process_serves_is_durable_first() {
    // A process dies between write and sync, the next one reads the batch from the system's memory, and then the power
    // fails: whoever read it had it acknowledged.
    let disk = SimDisk::default();
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = images.clone();
    let log = create(&disk, small_segments());
    disk.watch(move |disk| taken.lock().push(disk.process_dies()));
    let records: Vec<Record> = (0..12).map(|n| put(&log, sample(n, 1500))).collect();
    log.close();
    disk.watch(|_| {});
    let images = std::mem::take(&mut *images.lock());
    assert!(images.len() > 24);
    let mut served = std::collections::BTreeSet::new();
    for image in images {
        let log = open(&image, small_segments()).unwrap();
        let seen = read_all(&log);
        served.insert(seen.len());
        for keep in [Keep::Nothing, Keep::Some(seen.len() as u64 + 1)] {
            let must_have = seen.last().map(|last| last.position);
            let after = open(
                &image.crash(keep),
                Options {
                    must_have,
                    ..small_segments()
                },
            )
            .unwrap();
            assert_eq!(read_all(&after), records[..seen.len()]);
        }
        // And so is what is written there next, without a step of its own for the segment's name.
        let next = put(&log, "next");
        let after = open(&image.crash(Keep::Nothing), small_segments()).unwrap();
        assert_eq!(read_all(&after).last(), Some(&next));
    }
    assert_eq!(served.last(), Some(&12));
}

#[test]
fn what_was_cut_off_does_not_come_back_before_a_new_segment() {
    let disk = SimDisk::default();
    let log = create(&disk, options());
    let first = put(&log, sample(1, 1500));
    log.close();
    let name = disk.segments().pop().unwrap();
    let torn = [disk.bytes(&name), vec![7; 100]].concat();
    disk.put(&name, torn);
    // The next one begins a new segment, and writes no more into the one that was cut.
    let tiny = Options {
        segment_bytes: 1,
        ..options()
    };
    let log = open(&disk, tiny).unwrap();
    assert!(log.cut().is_some());
    let next = put(&log, "next");
    assert_eq!(disk.segments().len(), 2);
    for keep in [Keep::Nothing, Keep::Everything] {
        let after = open(&disk.crash(keep), options()).unwrap();
        assert_eq!(read_all(&after), [first.clone(), next.clone()]);
    }
}

#[test]
fn what_a_finished_copy_notes_survives_a_crash() {
    let log = create(&SimDisk::default(), options());
    let records: Vec<Record> = (0..5).map(|n| put(&log, sample(n, 1500))).collect();
    let identity = Identity {
        transport_id: [9; 16],
        ..IDENTITY
    };
    let origin = Origin {
        identity,
        source: IDENTITY.transport_id,
        first: Tip::START,
        end: at(0),
        state: Hash([3; 32]),
    };
    let disk = SimDisk::default();
    let mut copy = Copy::create_on(Arc::new(disk.clone()), origin, options()).unwrap();
    copy.append(&records).unwrap();
    copy.finish().unwrap();
    for keep in [Keep::Nothing, Keep::Everything] {
        let copied = open(&disk.crash(keep), options()).unwrap();
        assert_eq!(read_all(&copied), records);
        assert_eq!(copied.origin().unwrap().end, at(5));
    }
}

#[test]
fn what_a_failed_sync_left_in_memory_is_not_served_by_the_next_process() {
    let disk = SimDisk::default();
    let log = create(&disk, options());
    let first = put(&log, "one");
    disk.faults(|faults| faults.fail_next = Some((Operation::Sync, EIO)));
    log.append("two".into()).unwrap();
    wait_until("the log fails", || log.health().is_err());
    log.close();
    let log = open(&disk, options()).unwrap();
    assert_eq!(
        read_all(&log),
        std::slice::from_ref(&first),
        "the disk never got the second"
    );
    let next = put(&log, "two again");
    log.close();
    assert_eq!(
        read_all(&open(&disk.crash(Keep::Nothing), options()).unwrap()),
        [first, next]
    );
}

#[test]
fn without_fsync_the_same_test_finds_losses() {
    let disk = SimDisk::default();
    disk.faults(|faults| faults.ignore_sync = true);
    let (records, images) = run(&disk, small_segments(), 40);
    let losses = images
        .iter()
        .filter(|image| loss(&records, image, &small_segments()).is_err())
        .count();
    assert!(losses > 100, "only {losses} losses");
}

#[test]
fn without_syncing_the_folder_the_same_test_finds_losses() {
    let disk = SimDisk::default();
    disk.faults(|faults| faults.ignore_folder_sync = true);
    let (records, images) = run(&disk, small_segments(), 40);
    let losses = images
        .iter()
        .filter(|image| loss(&records, image, &small_segments()).is_err())
        .count();
    assert!(losses > 50, "only {losses} losses");
}

#[test]
fn a_sync_error_stops_the_log_for_good_and_readers_keep_what_is_durable() {
    // reliability I15: never retried, never acknowledged, and a restart finds what had been acknowledged.
    for (operation, code) in [
        (Operation::Sync, EIO),
        (Operation::Sync, ENOSPC),
        (Operation::Write, EIO),
    ] {
        let disk = SimDisk::default();
        let log = create(&disk, options());
        let records = [put(&log, "one"), put(&log, "two")];
        let mut waiting = log.reader(log.range().end).unwrap();
        disk.faults(|faults| faults.fail_next = Some((operation, code)));
        let before = disk.operations().len();
        log.append("three".into()).unwrap();
        wait_until("the log fails", || log.health().is_err());
        let refused = log.append("four".into());
        assert!(
            matches!(&refused, Err(LogError::Failed { cause, .. }) if cause.raw_os_error() == Some(code)),
            "{refused:?}"
        );
        assert_eq!(log.range().end, at(2));
        assert_eq!(read_all(&log), records);
        assert_eq!(waiting.read(1, 1, std::time::Duration::ZERO).unwrap(), []);
        log.close();
        let since = &disk.operations()[before..];
        assert_eq!(
            since.last(),
            Some(&operation),
            "nothing touched the disk after the error: {since:?}"
        );
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(1)] {
            let log = open(
                &disk.crash(keep),
                Options {
                    must_have: Some(at(1)),
                    ..options()
                },
            )
            .unwrap();
            assert_eq!(read_all(&log)[..2], records);
        }
    }
}

#[test]
fn an_error_while_a_segment_is_begun_stops_the_log_for_good() {
    for operation in [
        Operation::Create,
        Operation::Rename,
        Operation::SyncFolder,
        Operation::Sync,
    ] {
        let disk = SimDisk::default();
        let log = create(
            &disk,
            Options {
                segment_bytes: 1,
                ..options()
            },
        );
        let first = put(&log, "one");
        disk.faults(|faults| faults.fail_next = Some((operation, EIO)));
        log.append("two".into()).unwrap();
        wait_until("the log fails", || log.health().is_err());
        assert_eq!(read_all(&log), std::slice::from_ref(&first));
        log.close();
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(3)] {
            let log = open(&disk.crash(keep), options()).unwrap();
            assert_eq!(read_all(&log), std::slice::from_ref(&first), "{operation:?}");
            assert_eq!(put(&log, "again").position, at(1));
        }
    }
}

#[test]
fn a_full_disk_refuses_appends_and_the_log_goes_on_when_there_is_space() {
    // reliability F6, at every amount of free space up to a batch and a new segment.
    for segment_bytes in [64 << 20, 1] {
        for room in 0..300 {
            let disk = SimDisk::default();
            let small = Options {
                segment_bytes,
                ..options()
            };
            let log = create(&disk, small.clone());
            let first = put(&log, vec![1; 50]);
            let room = disk.used() + room;
            disk.faults(|faults| faults.capacity = Some(room));
            // More than fits, whatever the room.
            log.append(vec![2; 300].into()).unwrap();
            wait_until("the disk is full", || log.health().is_err());
            let refused = log.append("three".into());
            assert!(matches!(refused, Err(LogError::DiskFull { .. })), "{refused:?}");
            assert_eq!(read_all(&log), std::slice::from_ref(&first));
            let operations = disk.operations();
            match operations
                .iter()
                .position(|operation| *operation == Operation::Truncate)
            {
                Some(cut) => assert_eq!(
                    operations[cut + 1],
                    Operation::Sync,
                    "what was written is taken back durably"
                ),
                None => assert_eq!(
                    segment_bytes, 1,
                    "only a segment that could not be begun leaves nothing to cut"
                ),
            }
            // A crash now finds the log as it was.
            let crashed = open(&disk.crash(Keep::Everything), small.clone()).unwrap();
            assert_eq!(read_all(&crashed), std::slice::from_ref(&first));

            disk.faults(|faults| faults.capacity = None);
            wait_until("the log recovers", || log.health().is_ok());
            let third = put(&log, "three");
            assert_eq!(
                third.position,
                at(2),
                "what was handed over before the disk was full stands as well"
            );
            let all = read_all(&log);
            log.close();
            let again = open(
                &disk,
                Options {
                    verify_all: true,
                    ..small
                },
            )
            .unwrap();
            assert!(again.cut().is_none());
            assert_eq!(read_all(&again), all);
        }
    }
}

#[test]
fn closing_on_a_full_disk_ends() {
    let disk = SimDisk::default();
    let log = create(&disk, options());
    let first = put(&log, "one");
    // Room for a part of it.
    let room = disk.used() + 20;
    disk.faults(|faults| faults.capacity = Some(room));
    log.append("two".into()).unwrap();
    wait_until("the disk is full", || log.health().is_err());
    log.close();
    disk.faults(|faults| faults.capacity = None);
    let log = open(&disk, options()).unwrap();
    assert!(log.cut().is_none(), "the part that was written was taken back");
    assert_eq!(read_all(&log), [first]);
}
