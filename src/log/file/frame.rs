//! The bytes of a segment: one header, then batches. Everything is big-endian and of fixed width.
//!
//! ```text
//! segment header, 104 bytes                       batch, 60 bytes and its records
//!   0   8  "CONFOLDS"                               0   4  "CFB0"
//!   8   4  format, 0                                4   4  length of the records' part
//!  12  16  log id                                   8   4  number of records, at least 1
//!  28  16  transport id                            12   8  position of the first record
//!  44   8  position of the first record, b         20  32  d(last record of this batch)
//!  52  32  d(b - 1)                                52   4  CRC32C of the records' part
//!  84   8  time of record b - 1 (0 before any)     56   4  CRC32C of bytes 0..56
//!  92   8  bytes of the segment before (0: none)   60   -  per record: i64 time, u32 length, bytes
//! 100   4  CRC32C of bytes 0..100
//! ```
//! Both checksums of a batch go on from the one of its segment's header, so a batch that belongs to another segment or
//! another log is never taken for one of this. The batch's header has a checksum of its own: a length is believed
//! only under it, and telling a torn end from damage looks for such headers only.

use bytes::{Buf, BufMut, Bytes};
use confold_model::ids::{Hash, Position, Time};

use crate::{Record, Tip};

pub const FORMAT: u32 = 0;
pub const SEGMENT_HEADER: usize = 104;
pub const BATCH_HEADER: usize = 60;
/// Time and length of a record.
pub const RECORD_HEADER: usize = 12;
/// No batch has more bytes of records than this; what says so is damaged.
pub const BATCH_MAX: usize = 256 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"CONFOLDS";
const BATCH_MAGIC: &[u8; 4] = b"CFB0";

/// Which log this is, and which physical one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Survives every copy and move.
    pub log_id: [u8; 16],
    /// Of this folder alone.
    pub transport_id: [u8; 16],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub identity: Identity,
    pub start: Tip,
    /// Length of the file before this one; 0 when this one is the first.
    pub bytes_before: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.put_slice(SEGMENT_MAGIC);
        out.put_u32(FORMAT);
        out.put_slice(&self.identity.log_id);
        out.put_slice(&self.identity.transport_id);
        out.put_u64(self.start.position.0);
        out.put_slice(self.start.digest.as_bytes());
        out.put_i64(self.start.time.0);
        out.put_u64(self.bytes_before);
        out.put_u32(crc32c::crc32c(&out));
        out.try_into().expect("the fields above add up")
    }

    /// What is wrong is said in words for people.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, String> {
        if bytes.len() < SEGMENT_HEADER {
            return Err(format!(
                "the segment's header needs {SEGMENT_HEADER} bytes and only {} are there",
                bytes.len()
            ));
        }
        let (mut fields, mut sum) = (&bytes[..100], &bytes[100..SEGMENT_HEADER]);
        if fields[..8] != *SEGMENT_MAGIC {
            return Err("the file does not begin like a segment of a log".to_owned());
        }
        // The format comes first: another one may sum differently.
        fields.advance(8);
        let format = fields.get_u32();
        let summed = crc32c::crc32c(&bytes[..100]) == sum.get_u32();
        if format != FORMAT && summed {
            return Err(format!(
                "the segment has format {format}, and this build reads format {FORMAT}"
            ));
        }
        if !summed {
            return Err("the checksum of the segment's header is wrong".to_owned());
        }
        Ok(SegmentHeader {
            identity: Identity {
                log_id: take(&mut fields),
                transport_id: take(&mut fields),
            },
            start: Tip {
                position: Position(fields.get_u64()),
                digest: Hash(take(&mut fields)),
                time: Time(fields.get_i64()),
            },
            bytes_before: fields.get_u64(),
        })
    }

    /// What the checksums of this segment's batches go on from.
    pub fn seed(&self) -> u32 {
        crc32c::crc32c(&self.encode()[..100])
    }
}

/// The bytes of one batch. `records` are not empty and follow each other.
pub fn encode_batch(seed: u32, records: &[Record]) -> Vec<u8> {
    let size = records
        .iter()
        .map(|record| RECORD_HEADER + record.bytes.len())
        .sum::<usize>();
    let mut out = Vec::with_capacity(BATCH_HEADER + size);
    out.resize(BATCH_HEADER, 0);
    for record in records {
        out.put_i64(record.time.0);
        out.put_u32(record.bytes.len() as u32);
        out.put_slice(&record.bytes);
    }
    let (first, last) = (&records[0], &records[records.len() - 1]);
    let mut header = Vec::with_capacity(BATCH_HEADER);
    header.put_slice(BATCH_MAGIC);
    header.put_u32(size as u32);
    header.put_u32(records.len() as u32);
    header.put_u64(first.position.0);
    header.put_slice(last.digest.as_bytes());
    header.put_u32(crc32c::crc32c_append(seed, &out[BATCH_HEADER..]));
    header.put_u32(crc32c::crc32c_append(seed, &header));
    out[..BATCH_HEADER].copy_from_slice(&header);
    out
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Bytes of the records' part.
    pub length: usize,
    pub count: u32,
    pub first: Position,
    /// d of the last record.
    pub digest: Hash,
    pub body_sum: u32,
}

impl BatchHeader {
    /// `None` when these bytes are not a whole and sound batch header of the segment with that seed.
    pub fn decode(seed: u32, bytes: &[u8]) -> Option<BatchHeader> {
        let bytes = bytes.get(..BATCH_HEADER)?;
        if bytes[..4] != *BATCH_MAGIC || crc32c::crc32c_append(seed, &bytes[..56]).to_be_bytes() != bytes[56..] {
            return None;
        }
        let mut fields = &bytes[4..];
        let header = BatchHeader {
            length: fields.get_u32() as usize,
            count: fields.get_u32(),
            first: Position(fields.get_u64()),
            digest: Hash(take(&mut fields)),
            body_sum: fields.get_u32(),
        };
        let sane = header.count > 0
            && header.length <= BATCH_MAX
            && header.count as usize <= header.length / RECORD_HEADER
            && header.first.0.checked_add(header.count.into()).is_some();
        sane.then_some(header)
    }

    /// All of it: what precedes the records and the records.
    pub fn size(&self) -> usize {
        BATCH_HEADER + self.length
    }

    pub fn end(&self) -> Position {
        Position(self.first.0 + u64::from(self.count))
    }

    pub fn body_is_sound(&self, seed: u32, body: &[u8]) -> bool {
        body.len() == self.length && crc32c::crc32c_append(seed, body) == self.body_sum
    }

    /// The records of a sound body, of which `tip` is the place before; it moves behind them. Refuses, in words, what the writer cannot have written.
    pub fn records(&self, tip: &mut Tip, mut body: Bytes) -> Result<Vec<Record>, String> {
        if self.first != tip.position {
            return Err(format!(
                "a batch begins with position {} where {} is due",
                self.first, tip.position
            ));
        }
        let mut after = *tip;
        let mut records = Vec::with_capacity(self.count as usize);
        for _ in 0..self.count {
            if body.len() < RECORD_HEADER {
                return Err("the batch has fewer records than it says".to_owned());
            }
            let time = Time(body.get_i64());
            let length = body.get_u32() as usize;
            if body.len() < length {
                return Err(format!("record {} is longer than its batch", after.position));
            }
            records.push(after.record(time, body.split_to(length)));
        }
        if !body.is_empty() {
            return Err("the batch has more bytes than its records".to_owned());
        }
        if after.digest != self.digest {
            return Err(format!(
                "the log digest of position {} is {} and the batch says {}",
                self.end().0 - 1,
                after.digest.short(),
                self.digest.short()
            ));
        }
        *tip = after;
        Ok(records)
    }
}

/// The caller has checked that the bytes are there.
pub fn take<const N: usize>(fields: &mut &[u8]) -> [u8; N] {
    let mut out = [0; N];
    fields.copy_to_slice(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with a right checksum, whatever it says.
    fn summed(length: u32, count: u32, first: u64) -> Vec<u8> {
        let mut header = Vec::new();
        header.put_slice(BATCH_MAGIC);
        header.put_u32(length);
        header.put_u32(count);
        header.put_u64(first);
        header.put_slice(&[7; 32]);
        header.put_u32(9);
        header.put_u32(crc32c::crc32c_append(5, &header));
        header
    }

    // What a length or a count leads to (memory, the next header) happens only where the writer can have written it.
    #[test]
    fn a_batch_header_is_believed_only_where_its_numbers_fit_together() {
        let most = BATCH_MAX as u32;
        for (length, count, first) in [(12, 1, 0), (most, 1, 0), (36, 3, 0), (35, 2, 0), (12, 1, u64::MAX - 1)] {
            let header = BatchHeader::decode(5, &summed(length, count, first)).unwrap();
            assert_eq!(
                (header.length, header.count, header.first),
                (length as usize, count, Position(first))
            );
            assert_eq!((header.digest, header.body_sum), (Hash([7; 32]), 9));
            assert_eq!(
                (header.size(), header.end()),
                (60 + length as usize, Position(first + u64::from(count)))
            );
        }
        for (length, count, first) in [
            (12, 0, 0),
            (0, 0, 0),
            (most + 1, 1, 0),
            (11, 1, 0),
            (35, 3, 0),
            (12, u32::MAX, 0),
            (12, 1, u64::MAX),
            (36, 3, u64::MAX - 2),
        ] {
            assert_eq!(
                BatchHeader::decode(5, &summed(length, count, first)),
                None,
                "{length} {count} {first}"
            );
        }
        let sound = summed(12, 1, 0);
        assert_eq!(BatchHeader::decode(6, &sound), None, "of another segment");
        for end in 0..BATCH_HEADER {
            assert_eq!(BatchHeader::decode(5, &sound[..end]), None, "{end} bytes");
        }
    }

    #[test]
    fn a_body_is_sound_with_its_length_and_its_checksum_together() {
        let body = b"twelve bytes";
        let header = BatchHeader {
            body_sum: crc32c::crc32c_append(5, body),
            ..BatchHeader::decode(5, &summed(12, 1, 0)).unwrap()
        };
        assert!(header.body_is_sound(5, body));
        assert!(!header.body_is_sound(6, body) && !header.body_is_sound(5, b"twelve Bytes"));
        let longer = BatchHeader { length: 13, ..header };
        assert!(!longer.body_is_sound(5, body), "a right checksum over another length");
    }
}
