//! A look at RocksDB's own logs before it opens them: its reader does not end on one kind of damage.
//!
//! `log::Reader::ReadPhysicalRecord` (RocksDB up to 11.8) refuses a record of a recycled log behind one of a log that is not, and does
//! not step over it; `ReadRecord` asks again, for ever. One flipped bit in a record's type is enough. This store recycles no
//! logs, so such a record is damage wherever it stands. Everything else that may be wrong is for RocksDB to find.

use crate::folder::failed;
use confold_store::StoreError;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Records do not cross blocks of this size (`db/log_format.h`).
const BLOCK: u64 = 32 << 10;
/// Masked CRC-32C of all that follows; u16 length of the payload, little-endian; type.
const HEADER: usize = 7;

/// Whether a type says that its log was recycled.
fn is_recycled(kind: u8) -> bool {
    matches!(kind, 5..=8 | 11 | 131)
}

/// Refuses a database whose logs RocksDB could not read to an end.
pub fn check(database: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(database).map_err(|error| failed("reading", database, &error))? {
        let path = entry.map_err(|error| failed("reading", database, &error))?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if !name.starts_with("MANIFEST-") && !name.ends_with(".log") {
            continue;
        }
        let found = File::open(&path).and_then(recycled_record);
        if let Some(offset) = found.map_err(|error| failed("reading", &path, &error))? {
            return Err(StoreError::damaged(format!(
                "{}, byte {offset}: a record of a recycled log, and this store recycles none",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Where the first record of a recycled log stands that RocksDB's reader would come to.
fn recycled_record(mut file: impl Read) -> io::Result<Option<u64>> {
    let mut block = Vec::with_capacity(BLOCK as usize);
    for number in 0.. {
        block.clear();
        file.by_ref().take(BLOCK).read_to_end(&mut block)?;
        if block.is_empty() {
            break;
        }
        let mut rest = &block[..];
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER>() {
            let [c0, c1, c2, c3, l0, l1, kind] = *header;
            if is_recycled(kind) {
                return Ok(Some(number * BLOCK + (block.len() - rest.len()) as u64));
            }
            // From here on the reader drops the rest of the block itself where something is wrong.
            let length = usize::from(u16::from_le_bytes([l0, l1]));
            let Some((payload, next)) = behind.split_at_checked(length) else { break };
            let sum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
            if (kind, length) == (0, 0) || unmasked(u32::from_le_bytes([c0, c1, c2, c3])) != sum {
                break;
            }
            rest = next;
        }
    }
    Ok(None)
}

/// As `crc32c::Unmask` has it: checksums are stored turned and moved.
fn unmasked(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_right(17)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
        let stored = sum.rotate_left(17).wrapping_add(0xa282_ead8);
        let length = (payload.len() as u16).to_le_bytes();
        [&stored.to_le_bytes()[..], &length, &[kind], payload].concat()
    }

    fn found(file: &[u8]) -> Option<u64> {
        recycled_record(file).unwrap()
    }

    #[test]
    fn a_record_of_a_recycled_log_is_found_where_a_reader_would_come_to_it() {
        let first = record(1, &[7; 100]);
        for kind in [5, 6, 7, 8, 11, 131] {
            let mut file = [&first[..], &record(1, b"two")].concat();
            file[first.len() + HEADER - 1] = kind;
            assert_eq!(found(&file), Some(first.len() as u64), "{kind}");
            // Behind damage of another kind the reader goes on with the next block.
            file[50] ^= 1;
            assert_eq!(found(&file), None, "{kind}");
            file.resize(BLOCK as usize, 0);
            file.extend(record(kind, b"three"));
            assert_eq!(found(&file), Some(BLOCK), "{kind}");
        }
    }

    #[test]
    fn logs_that_end_anywhere_are_left_to_the_database() {
        let whole = [record(1, &[7; 100]), record(2, &[8; 30]), record(4, b""), record(9, b"x")].concat();
        for end in 0..=whole.len() {
            assert_eq!(found(&whole[..end]), None, "{end}");
        }
        assert_eq!(found(&[0; 100_000]), None);
    }
}
