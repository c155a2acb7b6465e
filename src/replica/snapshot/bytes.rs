//! The parts as bytes, and back. Everything is big-endian with the width given; what comes from outside never panics.

use super::{FORMAT, Header, LONGEST_PART, MAGIC, SnapshotError};
use bytes::{Buf, Bytes, BytesMut};
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_store::{IdRow, PathDigest, PersistedTree, RevisionRow, Touched};

/// Kinds of parts, in the order in which they come; never given out again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Header = 1,
    State = 2,
    Trees = 3,
    Objects = 4,
    Revisions = 5,
    Ids = 6,
    Touched = 7,
    End = 0xff,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::Header, Kind::State, Kind::Trees, Kind::Objects, Kind::Revisions, Kind::Ids, Kind::Touched, Kind::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// u8 kind, u32 length, the bytes, and the first 16 bytes of BLAKE3 over all of these.
const FRAME: usize = 1 + 4;
const CHECK: usize = 16;

/// Writes a stream part by part.
pub struct Framer {
    all: Running,
}

impl Framer {
    /// With the bytes that the stream begins with.
    pub fn begin() -> (Framer, Bytes) {
        let mut framer = Framer { all: Running::default() };
        let first = [&MAGIC[..], &FORMAT.to_be_bytes()].concat();
        framer.all.add(&first);
        (framer, first.into())
    }

    pub fn part(&mut self, kind: Kind, bytes: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(FRAME + bytes.len() + CHECK);
        out.push(kind as u8);
        out.extend((bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
        let check = Hash::of(&out);
        out.extend_from_slice(&check.0[..CHECK]);
        self.all.add(&out);
        out.into()
    }

    pub fn end(mut self) -> Bytes {
        let all = self.all.hash();
        self.part(Kind::End, &all.0)
    }
}

/// Takes a stream apart, however it was cut into pieces.
pub struct Parser<I> {
    pieces: I,
    left: BytesMut,
    at: u64,
    all: Running,
    last: Option<Kind>,
}

impl<I: Iterator<Item = Result<Bytes, String>>> Parser<I> {
    /// Reads magic and format.
    pub fn begin(pieces: I) -> Result<Parser<I>, SnapshotError> {
        let mut parser = Parser { pieces, left: BytesMut::new(), at: 0, all: Running::default(), last: None };
        let first = parser.take(MAGIC.len() + 2)?;
        let (magic, format) = first.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(parser.damaged("it does not begin as a snapshot does"));
        }
        let format = u16::from_be_bytes([format[0], format[1]]);
        if format > FORMAT {
            return Err(SnapshotError::TooNew { found: format, known: FORMAT });
        }
        parser.all.add(&first);
        Ok(parser)
    }

    /// The next part; after the end `None`, once it is sure that nothing follows.
    pub fn next(&mut self) -> Result<Option<(Kind, Bytes)>, SnapshotError> {
        if self.last == Some(Kind::End) {
            return match self.more()? {
                false if self.left.is_empty() => Ok(None),
                _ => Err(self.damaged("bytes follow its end")),
            };
        }
        let head = self.take(FRAME)?;
        let kind = Kind::of(head[0]).ok_or_else(|| self.damaged(&format!("no part has kind {}", head[0])))?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > LONGEST_PART {
            return Err(self.damaged(&format!("a part of {length} bytes")));
        }
        if self.last.is_some_and(|last| kind < last || (kind == last && kind == Kind::Header)) || (self.last.is_none() && kind != Kind::Header) {
            return Err(self.damaged(&format!("a part of kind {kind:?} out of order")));
        }
        let body = self.take(length)?;
        let check = self.take(CHECK)?;
        let mut whole = Vec::with_capacity(FRAME + length + CHECK);
        whole.extend_from_slice(&head);
        whole.extend_from_slice(&body);
        if Hash::of(&whole).0[..CHECK] != check[..] {
            return Err(self.damaged(&format!("the checksum of a part of kind {kind:?} is wrong")));
        }
        if kind == Kind::End && self.all.hash().0[..] != body[..] {
            return Err(self.damaged("the hash over all of it is wrong"));
        }
        whole.extend_from_slice(&check);
        self.all.add(&whole);
        self.last = Some(kind);
        Ok(Some((kind, body)))
    }

    pub fn damaged(&self, what: &str) -> SnapshotError {
        SnapshotError::Damaged { at: self.at, what: what.to_owned() }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, SnapshotError> {
        while self.left.len() < length {
            if !self.more()? {
                return Err(self.damaged(&format!("it ends here, {} bytes too early", length - self.left.len())));
            }
        }
        self.at += length as u64;
        Ok(self.left.split_to(length).freeze())
    }

    fn more(&mut self) -> Result<bool, SnapshotError> {
        for piece in self.pieces.by_ref() {
            let piece = piece.map_err(SnapshotError::Source)?;
            if !piece.is_empty() {
                self.left.extend_from_slice(&piece);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A hash over what was added so far: BLAKE3 of the one before and of each piece's own.
#[derive(Default)]
struct Running(Hash);

impl Running {
    fn add(&mut self, bytes: &[u8]) {
        self.0 = Hash::of(&[self.0.0, Hash::of(bytes).0].concat());
    }

    fn hash(&self) -> Hash {
        self.0
    }
}

/// Reads fields off the front of a part.
pub struct Fields(pub Bytes);

/// The part ended early, or says what cannot be.
pub struct Short;

impl Fields {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, length: usize) -> Result<Bytes, Short> {
        if self.0.len() < length {
            return Err(Short);
        }
        Ok(self.0.split_to(length))
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes(N)?);
        Ok(array)
    }

    pub fn u64(&mut self) -> Result<u64, Short> {
        Ok(self.bytes(8)?.get_u64())
    }

    pub fn u32(&mut self) -> Result<u32, Short> {
        Ok(self.bytes(4)?.get_u32())
    }

    pub fn u16(&mut self) -> Result<u16, Short> {
        Ok(self.bytes(2)?.get_u16())
    }

    pub fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.bytes(1)?.get_u8())
    }

    pub fn hash(&mut self) -> Result<Hash, Short> {
        Ok(Hash(self.array()?))
    }

    /// u32 length and so many bytes.
    pub fn sized(&mut self) -> Result<Bytes, Short> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }

    pub fn text(&mut self) -> Result<String, Short> {
        String::from_utf8(self.sized()?.to_vec()).map_err(|_| Short)
    }
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub fn write_header(header: &Header) -> Vec<u8> {
    let mut out = Vec::new();
    sized(&mut out, header.store_name.as_bytes());
    for id in [header.log_id.0, header.incarnation.0, header.transport_id, header.source] {
        out.extend(id);
    }
    out.extend(header.position.0.to_be_bytes());
    out.extend(header.time.0.to_be_bytes());
    for hash in [header.before, header.digest, header.chain, header.state, header.root] {
        out.extend(hash.0);
    }
    out.extend(header.revision.0.to_be_bytes());
    out.extend(header.floor.0.to_be_bytes());
    out
}

pub fn read_header(bytes: Bytes) -> Result<Header, Short> {
    let mut from = Fields(bytes);
    let store_name = from.text()?;
    let [log_id, incarnation, transport_id, source] = [from.array()?, from.array()?, from.array()?, from.array()?];
    let header = Header {
        store_name,
        log_id: Incarnation(log_id),
        incarnation: Incarnation(incarnation),
        transport_id,
        source,
        position: Position(from.u64()?),
        time: Time(from.u64()? as i64),
        before: from.hash()?,
        digest: from.hash()?,
        chain: from.hash()?,
        state: from.hash()?,
        root: from.hash()?,
        revision: Revision(from.u64()?),
        floor: Revision(from.u64()?),
    };
    if from.is_empty() { Ok(header) } else { Err(Short) }
}

pub fn write_state_row(out: &mut Vec<u8>, (table, key, value): &(u16, Vec<u8>, Vec<u8>)) {
    out.extend(table.to_be_bytes());
    sized(out, key);
    sized(out, value);
}

pub fn read_state_row(from: &mut Fields) -> Result<(u16, Vec<u8>, Vec<u8>), Short> {
    Ok((from.u16()?, from.sized()?.to_vec(), from.sized()?.to_vec()))
}

pub fn write_tree(out: &mut Vec<u8>, tree: &PersistedTree) {
    out.extend(tree.revision.0.to_be_bytes());
    out.extend(tree.position.0.to_be_bytes());
    out.extend(tree.root.0);
    out.push(tree.mark.into());
}

pub fn read_tree(from: &mut Fields) -> Result<PersistedTree, Short> {
    Ok(PersistedTree {
        revision: Revision(from.u64()?),
        position: Position(from.u64()?),
        root: from.hash()?,
        mark: match from.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Short),
        },
    })
}

pub fn write_object(out: &mut Vec<u8>, bytes: &[u8]) {
    sized(out, bytes);
}

pub fn write_revision(out: &mut Vec<u8>, row: &RevisionRow) {
    out.extend(row.revision.0.to_be_bytes());
    out.extend(row.position.0.to_be_bytes());
    out.extend(row.time.0.to_be_bytes());
    out.extend(row.root.0);
    out.extend(row.digest.0);
    match row.id {
        None => out.push(0),
        Some(id) => {
            out.push(1);
            out.extend(id.seen.0.to_be_bytes());
            out.extend(id.nonce);
        }
    }
    sized(out, row.author.as_bytes());
}

pub fn read_revision(from: &mut Fields) -> Result<RevisionRow, Short> {
    let (revision, position) = (Revision(from.u64()?), Position(from.u64()?));
    let (time, root, digest) = (Time(from.u64()? as i64), from.hash()?, from.hash()?);
    let id = match from.u8()? {
        0 => None,
        1 => Some(EventId { seen: Position(from.u64()?), nonce: from.array()? }),
        _ => return Err(Short),
    };
    Ok(RevisionRow { revision, position, time, root, id, author: from.text()?.into(), digest })
}

pub fn write_id(out: &mut Vec<u8>, row: &IdRow) {
    out.extend(row.position.0.to_be_bytes());
    out.extend(row.revision.0.to_be_bytes());
    out.extend(row.id.seen.0.to_be_bytes());
    out.extend(row.id.nonce);
}

pub fn read_id(from: &mut Fields) -> Result<IdRow, Short> {
    let (position, revision) = (Position(from.u64()?), Revision(from.u64()?));
    Ok(IdRow { id: EventId { seen: Position(from.u64()?), nonce: from.array()? }, position, revision })
}

pub fn write_touched(out: &mut Vec<u8>, row: &Touched) {
    out.extend(row.path.0);
    out.extend(row.revision.0.to_be_bytes());
    out.push(row.kind);
}

pub fn read_touched(from: &mut Fields) -> Result<Touched, Short> {
    Ok(Touched { path: PathDigest(from.array()?), revision: Revision(from.u64()?), kind: from.u8()? })
}

/// The parts without their frames, and a stream of them with every checksum right: for forging.
#[cfg(test)]
pub fn take_apart(bytes: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let mut parser = Parser::begin(std::iter::once(Ok(Bytes::copy_from_slice(bytes)))).ok().expect("a whole stream");
    let mut parts = Vec::new();
    while let Some((kind, bytes)) = parser.next().expect("a whole stream") {
        parts.push((kind, bytes.to_vec()));
    }
    parts.retain(|(kind, _)| *kind != Kind::End);
    parts
}

#[cfg(test)]
pub fn put_together(parts: &[(Kind, Vec<u8>)]) -> Vec<u8> {
    let (mut framer, first) = Framer::begin();
    let mut out = first.to_vec();
    for (kind, bytes) in parts {
        out.extend_from_slice(&framer.part(*kind, bytes));
    }
    out.extend_from_slice(&framer.end());
    out
}
