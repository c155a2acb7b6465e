//! Where a log begins that was copied, or trimmed, and so does not begin with genesis: the same bytes as a file beside the segments
//! of a folder, and as the first record of a Kafka topic.
//!
//! ```text
//!   0   8  "CONFOLDO"                        68   8  end of what was copied
//!   8   4  format, 0                         76  32  d(first - 1)
//!  12  16  log id                           108   8  time of record first - 1 (0 before any)
//!  28  16  transport id of this log         116  32  state(first - 1), zero when first is 0
//!  44  16  transport id of the source       148   4  CRC32C of bytes 0..148
//!  60   8  first position
//! ```
//! The first byte, read as protobuf, begins a group: no event begins so.

use bytes::{Buf, BufMut};
use confold_model::ids::{Hash, Position, Time};

use crate::Tip;
use crate::file::Identity;

pub const SIZE: usize = 152;
const MAGIC: &[u8; 8] = b"CONFOLDO";
const FORMAT: u32 = 0;

/// Not an event, at no position, in no digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    pub fn encode(&self) -> [u8; SIZE] {
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
        out.try_into().expect("the fields above add up")
    }

    /// Whether these bytes mean to be an origin, sound or not. No event does.
    pub fn is_meant_by(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// What is wrong is said in words for people.
    pub fn decode(bytes: &[u8]) -> Result<Origin, String> {
        let sound = bytes.len() == SIZE
            && Origin::is_meant_by(bytes)
            && crc32c::crc32c(&bytes[..148]).to_be_bytes() == bytes[148..];
        if !sound {
            return Err("it is not a whole and sound origin".to_owned());
        }
        let mut fields = &bytes[8..148];
        let format = fields.get_u32();
        if format != FORMAT {
            return Err(format!("it has format {format}, and this build reads format {FORMAT}"));
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

fn take<const N: usize>(fields: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    fields.copy_to_slice(&mut bytes);
    bytes
}
