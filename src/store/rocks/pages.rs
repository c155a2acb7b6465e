//! Values: what stands under the keys of `keys.rs`. Varints are LEB128; `z` marks a signed one in zigzag.
//!
//! - **head**: u8 1, u64 applied, i64 time, digest, chain, root, u64 revision, u64 floor, transport id, incarnation,
//!   then the BLAKE3 hash of all before it.
//! - **revisions**: u64 first position, i64 first time; then for each revision from the key's on: varint position
//!   since the row before (first: 0), z-varint time since then, root, varint (position - seen), or 0 and no nonce
//!   where there is no event id, nonce, varint author, digest. A page ends where revisions have a hole or time goes
//!   back. 87 bytes or so for each revision.
//! - **touched**: for each revision: varint revisions since the one before (first: since the key's), u8 kind.
//! - **ids**: u64 first position, u64 revision before; then for each: varint position since the row before, varint
//!   (position - seen), nonce, varint (revision - last revision), or 0 where the event made none.
//! - **persisted**: u64 position, u8 mark, root.
//!
//! Decoders answer `None` to anything that the encoders cannot have written.

use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_store::{Head, IdRow, PathDigest, PersistedTree, RevisionRow, Touched};
use std::sync::Arc;

/// The most rows that share a page: few enough that reading one row by way of its page costs little.
pub const ROWS_IN_A_PAGE: usize = 64;

const HEAD_VERSION: u8 = 2;

pub fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = vec![HEAD_VERSION];
    out.extend_from_slice(&head.applied.0.to_be_bytes());
    out.extend_from_slice(&head.time.0.to_be_bytes());
    for hash in [head.before, head.digest, head.chain, head.root] {
        out.extend_from_slice(&hash.0);
    }
    out.extend_from_slice(&head.revision.0.to_be_bytes());
    out.extend_from_slice(&head.floor.0.to_be_bytes());
    out.extend_from_slice(&head.transport_id);
    out.extend_from_slice(&head.incarnation.0);
    let checksum = Hash::of(&out);
    out.extend_from_slice(&checksum.0);
    out
}

pub fn decode_head(bytes: &[u8]) -> Option<Head> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if Hash::of(body).0 != *checksum {
        return None;
    }
    let mut from = Reader(body);
    if from.array::<1>()? != [HEAD_VERSION] {
        return None;
    }
    let head = Head {
        applied: Position(from.u64()?),
        time: Time(from.i64()?),
        before: from.hash()?,
        digest: from.hash()?,
        chain: from.hash()?,
        root: from.hash()?,
        revision: Revision(from.u64()?),
        floor: Revision(from.u64()?),
        transport_id: from.array()?,
        incarnation: Incarnation(from.array()?),
    };
    from.end()?;
    Some(head)
}

/// Where the page that begins with `rows[0]` ends: so many rows.
pub fn page_length(rows: &[RevisionRow]) -> usize {
    let together = rows.windows(2).take(ROWS_IN_A_PAGE - 1);
    1 + together
        .take_while(|two| two[1].revision.0 == two[0].revision.0 + 1 && two[1].time >= two[0].time)
        .count()
}

/// `rows` is one page, as `page_length` cuts them; `author` gives each name its number.
pub fn encode_revisions(rows: &[RevisionRow], mut author: impl FnMut(&Arc<str>) -> u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + rows.len() * 92);
    let Some(first) = rows.first() else { return out };
    out.extend_from_slice(&first.position.0.to_be_bytes());
    out.extend_from_slice(&first.time.0.to_be_bytes());
    let (mut position, mut time) = (first.position.0, first.time.0);
    for row in rows {
        put_varint(&mut out, row.position.0 - position);
        put_signed(&mut out, row.time.0.wrapping_sub(time));
        (position, time) = (row.position.0, row.time.0);
        out.extend_from_slice(&row.root.0);
        match row.id {
            Some(id) => {
                put_varint(&mut out, row.position.0 - id.seen.0);
                out.extend_from_slice(&id.nonce);
            }
            None => put_varint(&mut out, 0),
        }
        put_varint(&mut out, u64::from(author(&row.author)));
        out.extend_from_slice(&row.digest.0);
    }
    out
}

/// Position and time of a page's first row.
pub fn first_of_revisions(bytes: &[u8]) -> Option<(Position, Time)> {
    let mut from = Reader(bytes);
    Some((Position(from.u64()?), Time(from.i64()?)))
}

pub fn decode_revisions(
    first: Revision,
    bytes: &[u8],
    author: impl Fn(u32) -> Option<Arc<str>>,
) -> Option<Vec<RevisionRow>> {
    let mut from = Reader(bytes);
    let (mut position, mut time) = (from.u64()?, from.i64()?);
    let mut rows = Vec::with_capacity(bytes.len() / 86);
    while !from.0.is_empty() {
        position = position.checked_add(from.varint()?)?;
        time = time.wrapping_add(from.signed()?);
        let root = from.hash()?;
        let id = match from.varint()? {
            0 => None,
            distance => Some(EventId {
                seen: Position(position.checked_sub(distance)?),
                nonce: from.array()?,
            }),
        };
        let author = author(u32::try_from(from.varint()?).ok()?)?;
        let revision = Revision(first.0.checked_add(rows.len() as u64)?);
        rows.push(RevisionRow {
            revision,
            position: Position(position),
            time: Time(time),
            root,
            id,
            author,
            digest: from.hash()?,
        });
    }
    (!rows.is_empty()).then_some(rows)
}

/// `rows` are of one path, ascending by revision.
pub fn encode_touched(rows: &[Touched]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * 3);
    let mut before = rows.first().map_or(0, |row| row.revision.0);
    for row in rows {
        put_varint(&mut out, row.revision.0 - before);
        out.push(row.kind);
        before = row.revision.0;
    }
    out
}

pub fn decode_touched(path: &PathDigest, first: Revision, bytes: &[u8]) -> Option<Vec<Touched>> {
    let mut from = Reader(bytes);
    let mut revision = first.0;
    let mut rows = Vec::with_capacity(bytes.len() / 2);
    while !from.0.is_empty() {
        revision = revision.checked_add(from.varint()?)?;
        let [kind] = from.array()?;
        rows.push(Touched {
            revision: Revision(revision),
            path: *path,
            kind,
        });
    }
    (!rows.is_empty()).then_some(rows)
}

pub fn encode_ids(rows: &[IdRow]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + rows.len() * 20);
    let Some(first) = rows.first() else { return out };
    let mut position = first.position.0;
    let mut revision = rows
        .iter()
        .find(|row| row.revision.0 > 0)
        .map_or(0, |row| row.revision.0 - 1);
    out.extend_from_slice(&position.to_be_bytes());
    out.extend_from_slice(&revision.to_be_bytes());
    for row in rows {
        put_varint(&mut out, row.position.0 - position);
        put_varint(&mut out, row.position.0 - row.id.seen.0);
        out.extend_from_slice(&row.id.nonce);
        put_varint(&mut out, row.revision.0.saturating_sub(revision));
        (position, revision) = (row.position.0, revision.max(row.revision.0));
    }
    out
}

pub fn decode_ids(bytes: &[u8]) -> Option<Vec<IdRow>> {
    let mut from = Reader(bytes);
    let (mut position, mut last) = (from.u64()?, from.u64()?);
    let mut rows = Vec::with_capacity(bytes.len() / 19);
    while !from.0.is_empty() {
        position = position.checked_add(from.varint()?)?;
        let id = EventId {
            seen: Position(position.checked_sub(from.varint()?)?),
            nonce: from.array()?,
        };
        let revision = match from.varint()? {
            0 => 0,
            step => {
                last = last.checked_add(step)?;
                last
            }
        };
        rows.push(IdRow {
            id,
            position: Position(position),
            revision: Revision(revision),
        });
    }
    (!rows.is_empty()).then_some(rows)
}

pub fn encode_persisted(tree: &PersistedTree) -> Vec<u8> {
    let mut out = tree.position.0.to_be_bytes().to_vec();
    out.push(u8::from(tree.mark));
    out.extend_from_slice(&tree.root.0);
    out
}

pub fn decode_persisted(revision: Revision, bytes: &[u8]) -> Option<PersistedTree> {
    let mut from = Reader(bytes);
    let position = Position(from.u64()?);
    let mark = match from.array()? {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    let tree = PersistedTree {
        revision,
        position,
        root: from.hash()?,
        mark,
    };
    from.end()?;
    Some(tree)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn hash(&mut self) -> Option<Hash> {
        self.array().map(Hash)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 127);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        self.varint().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use confold_store::conformance::{Dice, History, head_at};

    fn number(name: &Arc<str>) -> u32 {
        u32::try_from(name.len()).unwrap()
    }

    fn name(number: u32) -> Option<Arc<str>> {
        ["", "ada", "bob@example", "Zoë"]
            .into_iter()
            .find(|name| name.len() == number as usize)
            .map(Arc::from)
    }

    #[test]
    fn pages_come_back_as_they_were_put_in() {
        for seed in 0..20 {
            let batch = History::new(seed).next_batch(300);
            let mut rest = &batch.revisions[..];
            while !rest.is_empty() {
                let (page, after) = rest.split_at(page_length(rest));
                assert!(page.len() <= ROWS_IN_A_PAGE);
                let bytes = encode_revisions(page, number);
                assert_eq!(decode_revisions(page[0].revision, &bytes, name).unwrap(), page);
                assert_eq!(first_of_revisions(&bytes), Some((page[0].position, page[0].time)));
                rest = after;
            }
            for page in batch.ids.chunks(ROWS_IN_A_PAGE) {
                assert_eq!(decode_ids(&encode_ids(page)).unwrap(), page);
            }
            assert_eq!(decode_head(&encode_head(&batch.head)), Some(batch.head.clone()));
            let tree = batch.persists().unwrap();
            assert_eq!(decode_persisted(tree.revision, &encode_persisted(&tree)), Some(tree));
        }
    }

    #[test]
    fn a_revision_takes_at_most_120_bytes_with_its_id() {
        let batch = History::new(3).next_batch(256);
        let mut bytes = 0;
        let mut rest = &batch.revisions[..];
        while !rest.is_empty() {
            let (page, after) = rest.split_at(page_length(rest));
            bytes += 9 + encode_revisions(page, number).len();
            rest = after;
        }
        bytes += batch
            .ids
            .chunks(ROWS_IN_A_PAGE)
            .map(|page| 9 + encode_ids(page).len())
            .sum::<usize>();
        assert!(
            bytes <= 120 * batch.revisions.len(),
            "{bytes} bytes for {} revisions",
            batch.revisions.len()
        );
    }

    #[test]
    fn a_head_with_any_bit_changed_is_refused() {
        let bytes = encode_head(&head_at(7));
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_head(&bent), None);
        }
    }

    #[test]
    fn numbers_of_every_size_come_back() {
        for bit in 0..64 {
            for value in [1u64 << bit, (1 << bit) - 1, !(1 << bit)] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                put_signed(&mut out, value as i64);
                let mut from = Reader(&out);
                assert_eq!((from.varint(), from.signed()), (Some(value), Some(value as i64)));
                assert!(from.0.is_empty());
            }
        }
        assert_eq!(Reader(&[255; 9]).varint(), None);
        assert_eq!(Reader(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).varint(), None);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic() {
        let mut dice = Dice(1);
        let batch = History::new(4).next_batch(40);
        let page = encode_revisions(&batch.revisions[..page_length(&batch.revisions)], number);
        for round in 0..20_000 {
            let mut bytes = if round % 2 == 0 {
                page.clone()
            } else {
                encode_ids(&batch.ids)
            };
            for _ in 0..1 + dice.below(4) {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] = dice.roll() as u8;
            }
            bytes.truncate(dice.below(bytes.len() as u64 + 1) as usize);
            // Whatever they answer, they return.
            let _ = decode_revisions(Revision(dice.roll()), &bytes, name);
            let _ = decode_touched(&PathDigest([0; 12]), Revision(dice.roll()), &bytes);
            let _ = decode_persisted(Revision(1), &bytes);
            let _ = (decode_ids(&bytes), decode_head(&bytes), first_of_revisions(&bytes));
        }
    }
}
