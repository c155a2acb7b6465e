//! One segment file: its name, its header, and a cursor over its batches that believes nothing unchecked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use confold_model::ids::Position;

use super::disk::{Access, Disk, DiskFile, read_full};
use super::frame::{BATCH_HEADER, BatchHeader, SEGMENT_HEADER, SegmentHeader};
use crate::{LogError, Record, Tip};

/// How much a cursor asks the disk for at once, and keeps.
const CHUNK: usize = 256 << 10;

pub(super) fn name_of(start: Position) -> String {
    format!("{:020}.log", start.0)
}

/// `None`: the name is not one of a segment.
pub(super) fn start_of(name: &str) -> Option<Position> {
    let digits = name
        .strip_suffix(".log")
        .filter(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().map(Position)
}

/// A segment file with a sound header.
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: SegmentHeader,
}

impl Segment {
    pub(super) fn open(disk: &dyn Disk, start: Position, access: Access) -> Result<Segment, LogError> {
        let name = name_of(start);
        let file = disk
            .open(&name, access)
            .map_err(|error| LogError::failed(format!("cannot open {}", place(disk, &name)), error))?;
        let mut bytes = [0; SEGMENT_HEADER];
        let read = read_full(&*file, &mut bytes, 0)
            .map_err(|error| LogError::failed(format!("cannot read {}", place(disk, &name)), error))?;
        let header = SegmentHeader::decode(&bytes[..read]).and_then(|header| match header.start.position == start {
            true => Ok(header),
            false => Err(format!(
                "the file is named for position {start} and its header says {}",
                header.start.position
            )),
        });
        let header = header.map_err(|what| LogError::Corrupt {
            file: place(disk, &name),
            offset: 0,
            position: start,
            what,
        })?;
        Ok(Segment { name, file, header })
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            file: self.file.clone(),
            seed: self.header.seed(),
            offset: SEGMENT_HEADER as u64,
            tip: self.header.start,
            chunk: Bytes::new(),
            chunk_at: 0,
        }
    }
}

/// How messages name a file of the log.
pub(super) fn place(disk: &dyn Disk, name: &str) -> String {
    format!("{}/{name}", disk.folder())
}

/// Goes over the batches of one segment in order.
pub(super) struct Cursor {
    file: Arc<dyn DiskFile>,
    seed: u32,
    /// Of the next batch.
    pub(super) offset: u64,
    /// The next record, and d before it.
    pub(super) tip: Tip,
    chunk: Bytes,
    chunk_at: u64,
}

/// Why a cursor cannot go on. It has not moved.
pub(super) enum Broken {
    Io(io::Error),
    /// What a write that was cut short leaves behind, or a flipped bit.
    Unsound {
        what: String,
    },
    /// Every checksum is right, and yet the writer cannot have written this here.
    Wrong {
        what: String,
    },
}

impl Broken {
    pub(super) fn error(self, disk: &dyn Disk, name: &str, at: &Cursor) -> LogError {
        match self {
            Broken::Io(error) => LogError::failed(format!("cannot read {}", place(disk, name)), error),
            Broken::Unsound { what } | Broken::Wrong { what } => LogError::Corrupt {
                file: place(disk, name),
                offset: at.offset,
                position: at.tip.position,
                what,
            },
        }
    }
}

/// Where a batch begins in the file of a segment, as a cursor found it that had gone all the way there.
#[derive(Clone, Copy)]
pub(super) struct Waypoint {
    pub(super) tip: Tip,
    offset: u64,
}

impl Cursor {
    fn waypoint(&self) -> Waypoint {
        Waypoint {
            tip: self.tip,
            offset: self.offset,
        }
    }

    /// Goes on from a waypoint of the same segment.
    pub(super) fn jump(&mut self, waypoint: Waypoint) {
        self.offset = waypoint.offset;
        self.tip = waypoint.tip;
    }

    /// The records of the next batch; `None` at `len`, where the file (or its durable part) ends.
    pub(super) fn next(&mut self, len: u64) -> Result<Option<Vec<Record>>, Broken> {
        let Some(header) = self.header(len)? else {
            return Ok(None);
        };
        let body = self
            .load(self.offset + BATCH_HEADER as u64, header.length, len)
            .map_err(Broken::Io)?;
        if !header.body_is_sound(self.seed, &body) {
            let what = format!("the checksum of the batch of {} records is wrong", header.count);
            return Err(Broken::Unsound { what });
        }
        let records = header
            .records(&mut self.tip, body)
            .map_err(|what| Broken::Wrong { what })?;
        self.offset += header.size() as u64;
        Ok(Some(records))
    }

    /// Moves on, without reading records, to the batch that holds `position`. It lies in this segment, below `len`. `pass` hears now
    /// and then where another cursor may begin.
    pub(super) fn skip_to(
        &mut self,
        position: Position,
        len: u64,
        pass: &mut dyn FnMut(Waypoint),
    ) -> Result<(), Broken> {
        let mut passed = self.offset;
        while let Some(header) = self.header(len)? {
            if self.offset - passed >= CHUNK as u64 {
                passed = self.offset;
                pass(self.waypoint());
            }
            if header.first != self.tip.position {
                let what = format!(
                    "a batch begins with position {} where {} is due",
                    header.first, self.tip.position
                );
                return Err(Broken::Wrong { what });
            }
            if header.end() > position {
                break;
            }
            self.offset += header.size() as u64;
            // The time before is the writer's business.
            self.tip = Tip {
                position: header.end(),
                digest: header.digest,
                time: self.tip.time,
            };
        }
        Ok(())
    }

    /// The first sound batch header after the place where the cursor is stuck, of a batch that does not lie before it: with
    /// one of those, this is not the end of what was written.
    pub(super) fn find_later(&self, len: u64) -> io::Result<Option<(u64, Position)>> {
        let mut window = vec![0; CHUNK + BATCH_HEADER];
        let mut at = self.offset + 1;
        while at < len {
            let wanted = window.len().min((len - at) as usize);
            let read = read_full(&*self.file, &mut window[..wanted], at)?;
            for start in 0..read.min(CHUNK) {
                if let Some(header) = BatchHeader::decode(self.seed, &window[start..read])
                    && header.first >= self.tip.position
                {
                    return Ok(Some((at + start as u64, header.first)));
                }
            }
            at += CHUNK as u64;
        }
        Ok(None)
    }

    fn header(&mut self, len: u64) -> Result<Option<BatchHeader>, Broken> {
        let left = len.saturating_sub(self.offset);
        if left == 0 {
            return Ok(None);
        }
        if left < BATCH_HEADER as u64 {
            return Err(Broken::Unsound {
                what: format!("only {left} bytes are left, too few for a batch"),
            });
        }
        let bytes = self.load(self.offset, BATCH_HEADER, len).map_err(Broken::Io)?;
        let Some(header) = BatchHeader::decode(self.seed, &bytes) else {
            return Err(Broken::Unsound {
                what: "no sound batch begins here".to_owned(),
            });
        };
        if (header.size() as u64) > left {
            return Err(Broken::Unsound {
                what: format!("the batch has {} bytes and only {left} are left", header.size()),
            });
        }
        Ok(Some(header))
    }

    /// `size` bytes from `offset` on, fewer where the file turns out to be shorter than `len`.
    fn load(&mut self, offset: u64, size: usize, len: u64) -> io::Result<Bytes> {
        let inside = offset
            .checked_sub(self.chunk_at)
            .map(|from| from as usize..from as usize + size);
        if let Some(range) = inside
            && range.end <= self.chunk.len()
        {
            return Ok(self.chunk.slice(range));
        }
        let wanted = (size.max(CHUNK) as u64).min(len - offset) as usize;
        let mut chunk = vec![0; wanted];
        let read = read_full(&*self.file, &mut chunk, offset)?;
        chunk.truncate(read);
        self.chunk = Bytes::from(chunk);
        self.chunk_at = offset;
        Ok(self.chunk.slice(..size.min(read)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segments_name_is_its_first_position_in_twenty_digits() {
        assert_eq!(name_of(Position(42)), "00000000000000000042.log");
        for (name, start) in [
            ("00000000000000000042.log", Some(42)),
            ("18446744073709551615.log", Some(u64::MAX)),
            ("18446744073709551616.log", None),
            ("42.log", None),
            ("+0000000000000000042.log", None),
            ("00000000000000000042.tmp", None),
            ("lock", None),
        ] {
            assert_eq!(start_of(name), start.map(Position), "{name}");
        }
    }
}
