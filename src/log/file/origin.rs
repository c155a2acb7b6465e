//! The `origin` file: where a log begins that was copied, or trimmed, and so does not begin with genesis.
//!
//! ```text
//!   0   8  "CONFOLDO"                        68   8  end of what was copied
//!   8   4  format, 0                         76  32  d(first - 1)
//!  12  16  log id                           108   8  time of record first - 1 (0 before any)
//!  28  16  transport id of this folder      116  32  state(first - 1), zero when first is 0
//!  44  16  transport id of the source       148   4  CRC32C of bytes 0..148
//!  60   8  first position
//! ```

use bytes::{Buf, BufMut};
use confold_model::ids::{Hash, Position, Time};

use super::disk::{Access, Disk, read_full, write_full};
use super::frame::{FORMAT, Identity, take};
use super::segment::place;
use crate::{LogError, Tip};

pub(super) const NAME: &str = "origin";
pub(super) const UNFINISHED: &str = "origin.tmp";
const SIZE: usize = 152;
const MAGIC: &[u8; 8] = b"CONFOLDO";

/// Not an event, at no position, in no digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub identity: Identity,
    /// Transport id of the log that the records below `end` were first written to.
    pub source: [u8; 16],
    /// The first record of this log, with the digest and the time before it.
    pub first: Tip,
    /// Records below this position were copied, with their times; those from here on are this log's own.
    pub end: Position,
    /// State hash before `first`, which a snapshot that goes with this log must have; zero when `first` is genesis.
    pub state: Hash,
}

impl Origin {
    /// Durable once the folder was synced.
    pub(super) fn write(&self, disk: &dyn Disk) -> std::io::Result<()> {
        let mut out = Vec::with_capacity(SIZE);
        out.put_slice(MAGIC);
        out.put_u32(FORMAT);
        out.put_slice(&self.identity.log_id);
        out.put_slice(&self.identity.transport_id);
        out.put_slice(&self.source);
        out.put_u64(self.first.position.0);
        out.put_u64(self.end.0);
        out.put_slice(self.first.digest.as_bytes());
        out.put_i64(self.first.time.0);
        out.put_slice(self.state.as_bytes());
        out.put_u32(crc32c::crc32c(&out));
        let file = disk.create(UNFINISHED)?;
        write_full(&*file, &out, 0)?;
        file.sync()?;
        disk.rename(UNFINISHED, NAME)
    }

    pub(super) fn read(disk: &dyn Disk) -> Result<Origin, LogError> {
        let mut bytes = [0; SIZE];
        let read = disk
            .open(NAME, Access::Read)
            .and_then(|file| Ok((read_full(&*file, &mut bytes, 0)?, file.len()?)));
        let (read, len) =
            read.map_err(|error| LogError::failed(format!("cannot read {}", place(disk, NAME)), error))?;
        let corrupt = |what: String| LogError::Corrupt {
            file: place(disk, NAME),
            offset: 0,
            position: Position(0),
            what,
        };
        let mut fields = &bytes[8..148];
        let format = fields.get_u32();
        if read < SIZE
            || len != SIZE as u64
            || bytes[..8] != *MAGIC
            || crc32c::crc32c(&bytes[..148]).to_be_bytes() != bytes[148..]
        {
            return Err(corrupt("it is not a whole and sound origin".to_owned()));
        }
        if format != FORMAT {
            return Err(corrupt(format!(
                "it has format {format}, and this build reads format {FORMAT}"
            )));
        }
        let identity = Identity {
            log_id: take(&mut fields),
            transport_id: take(&mut fields),
        };
        let source = take(&mut fields);
        let position = Position(fields.get_u64());
        let end = Position(fields.get_u64());
        let first = Tip {
            position,
            digest: Hash(take(&mut fields)),
            time: Time(fields.get_i64()),
        };
        Ok(Origin {
            identity,
            source,
            first,
            end,
            state: Hash(take(&mut fields)),
        })
    }
}
