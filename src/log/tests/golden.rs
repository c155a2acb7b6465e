//! The bytes on disk are for ever: a segment written by hand from the description, and read and written by the code.

mod common;

use common::*;
use confold_log::Log;
use confold_log::Tip;
use confold_log::file::{Copy, FileLog, Options, Origin};
use confold_model::ids::{Hash, Time};
use std::sync::Arc;

#[test]
fn the_golden_segment_is_read_and_written_byte_for_byte() {
    let golden: Vec<Vec<u8>> = include_str!("golden_segment.txt")
        .lines()
        .map(|line| hex::decode(line).unwrap())
        .collect();
    let mut tip = Tip::START;
    let records: Vec<_> = [("one", 0), ("two", 0), ("", 1)]
        .map(|(text, ms)| tip.record(Time(1_700_000_000_000 + ms), text.into()))
        .into();

    let disk = SimDisk::default();
    let origin = Origin {
        identity: IDENTITY,
        source: IDENTITY.transport_id,
        first: Tip::START,
        end: at(3),
        state: Hash::ZERO,
    };
    let mut copy = Copy::create_on(Arc::new(disk.clone()), origin, options()).unwrap();
    copy.append(&records[..2]).unwrap();
    copy.append(&records[2..]).unwrap();
    copy.finish().unwrap();
    let name = "00000000000000000000.log";
    let written = disk.bytes(name);
    let parts = [&written[..104], &written[104..104 + 60 + 30], &written[194..]];
    assert_eq!(
        parts.map(hex::encode),
        golden.iter().map(hex::encode).collect::<Vec<_>>()[..]
    );

    let disk = SimDisk::default();
    disk.put(name, golden.concat());
    let log = FileLog::open_read_only_on(
        Arc::new(disk),
        Options {
            transport_id: Some(IDENTITY.transport_id),
            ..options()
        },
    )
    .unwrap();
    assert_eq!(read_all(&log), records);
    assert_eq!(log.tip(), tip);
}

#[test]
fn an_unknown_format_is_named() {
    let disk = SimDisk::default();
    create(&disk, options()).close();
    let name = "00000000000000000000.log";
    let mut bytes = disk.bytes(name);
    bytes[11] = 9;
    let sum = crc32c::crc32c(&bytes[..100]);
    bytes[100..104].copy_from_slice(&sum.to_be_bytes());
    disk.put(name, bytes);
    let refused = open(&disk, options()).err().unwrap().to_string();
    assert!(
        refused.contains("format 9") && refused.contains("reads format 0"),
        "{refused}"
    );
}
