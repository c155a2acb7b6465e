//! The event ids of the last W positions: how an event is applied at most once, in bounded memory.
//!
//! An id is minted at `seen`, so no copy of it can stand at or before `seen`; a copy whose `seen` is more than W behind
//! is refused before the window is asked. What lies between is here, so nothing outside the window is ever needed.

use crate::code::Code;
use crate::digest;
use crate::event::Malformed;
use crate::ids::{EventId, Hash, Position, Revision};
use crate::map::Map;
use std::collections::{BTreeMap, VecDeque};

/// Positions per segment of the window's hash.
pub const SEGMENT: u64 = 4096;

/// What one id met with, as the window keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub position: Position,
    pub id: EventId,
    /// What stands for intent and principal: `digest::intent_mark`.
    pub intent: [u8; 16],
    pub outcome: u8,
    pub code: u16,
    pub revision: Revision,
}

/// Bytes of one entry in the window's hash and on disk.
pub const ENTRY_BYTES: usize = 8 + 8 + 16 + 16 + 1 + 2 + 8;

impl Entry {
    fn bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.position.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.id.seen.0.to_be_bytes());
        bytes[16..32].copy_from_slice(&self.id.nonce);
        bytes[32..48].copy_from_slice(&self.intent);
        bytes[48] = self.outcome;
        bytes[49..51].copy_from_slice(&self.code.to_be_bytes());
        bytes[51..].copy_from_slice(&self.revision.0.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8; ENTRY_BYTES]) -> Entry {
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Entry {
            position: Position(u64_at(0)),
            id: EventId { seen: Position(u64_at(8)), nonce: bytes[16..32].try_into().expect("16 bytes") },
            intent: bytes[32..48].try_into().expect("16 bytes"),
            outcome: bytes[48],
            code: u16::from_be_bytes([bytes[49], bytes[50]]),
            revision: Revision(u64_at(51)),
        }
    }

    pub fn rejection(&self) -> Option<Code> {
        Code::from_number(self.code)
    }
}

#[derive(Clone, Default)]
struct Segment {
    entries: Vec<Entry>,
    /// Of these entries, once asked for; gone with the next change.
    hash: Option<Hash>,
}

/// Entries of positions > n - W, found by id.
#[derive(Clone, Default)]
pub struct Window {
    width: u64,
    /// By number, ascending; only those that had an entry, so that a gap of positions costs nothing.
    segments: VecDeque<(u64, Segment)>,
    /// Ids are ordered by `seen`, so new ones come in near the end and the oldest leave near the front.
    by_id: BTreeMap<EventId, Position>,
}

impl Window {
    pub fn new(width: u64) -> Window {
        Window { width, ..Window::default() }
    }

    pub fn width(&self) -> u64 {
        self.width
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn get(&self, id: &EventId) -> Option<&Entry> {
        let position = self.by_id.get(id)?;
        let segment = self.segments.binary_search_by_key(&(position.0 / SEGMENT), |(number, _)| *number).ok()?;
        let entries = &self.segments[segment].1.entries;
        // A withdraw stands beside the id that it bars.
        let first = entries.partition_point(|entry| entry.position < *position);
        entries[first..].iter().find(|entry| entry.id == *id)
    }

    /// Adds an entry; positions come ascending, and an id once.
    pub fn insert(&mut self, entry: Entry) {
        let number = entry.position.0 / SEGMENT;
        if self.segments.back().is_none_or(|(last, _)| *last < number) {
            // As many come as in the segment before, nearly always.
            let room = self.segments.back().map_or(0, |(_, before)| before.entries.len());
            self.segments.push_back((number, Segment { entries: Vec::with_capacity(room), hash: None }));
        }
        let Some((_, segment)) = self.segments.back_mut() else { return };
        segment.hash = None;
        self.by_id.insert(entry.id, entry.position);
        segment.entries.push(entry);
    }

    /// Forgets whole segments that `now` has left behind; the rest of the edge is cut when hashing.
    pub fn advance(&mut self, now: Position) {
        let Some(edge) = now.0.checked_sub(self.width) else { return };
        // The last position of the segment lies at or before the edge.
        while self.segments.front().is_some_and(|(number, _)| number * SEGMENT + (SEGMENT - 1) <= edge) {
            let (_, gone) = self.segments.pop_front().unwrap_or_default();
            for entry in gone.entries {
                self.by_id.remove(&entry.id);
            }
        }
    }

    /// The container map of docs/formats.md 3 over the segments that hold an entry at a position > now - W: key u64
    /// segment number, value H(`16` entries by position).
    pub fn hash(&mut self, now: Position) -> Hash {
        let mut map = Map::<Hash>::empty();
        let edge = now.0.checked_sub(self.width);
        for (number, segment) in &mut self.segments {
            let cut = edge.is_some_and(|edge| *number * SEGMENT <= edge);
            let hash = if cut {
                let gone = segment.entries.partition_point(|entry| Some(entry.position.0) <= edge);
                hash_entries(&segment.entries[gone..])
            } else {
                if segment.hash.is_none() {
                    segment.hash = hash_entries(&segment.entries);
                }
                segment.hash
            };
            if let Some(hash) = hash {
                map.insert(&number.to_be_bytes(), hash);
            }
        }
        map.hash()
    }

    /// The entries from a position on, packed for the store.
    pub fn pack_from(&self, from: Position) -> Vec<u8> {
        let mut out = Vec::new();
        let skip = self.segments.partition_point(|(number, _)| *number < from.0 / SEGMENT);
        for entry in self.segments.iter().skip(skip).flat_map(|(_, segment)| &segment.entries) {
            if entry.position >= from {
                out.extend(entry.bytes());
            }
        }
        out
    }

    /// Adds packed entries, in the order they were packed. Refuses what no window packs: positions that go back, and an id that saw
    /// its own position.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<(), Malformed> {
        let (entries, rest) = packed.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(Malformed(format!("{} bytes of window are not whole entries", packed.len())));
        }
        let mut last = self.segments.back().and_then(|(_, segment)| segment.entries.last()).map(|entry| entry.position);
        for entry in entries.iter().map(Entry::read) {
            if last.is_some_and(|last| last > entry.position) || entry.id.seen >= entry.position {
                return Err(Malformed(format!("the window's entry of position {} is out of order", entry.position)));
            }
            last = Some(entry.position);
            self.insert(entry);
        }
        Ok(())
    }
}

fn hash_entries(entries: &[Entry]) -> Option<Hash> {
    let bytes: Vec<[u8; ENTRY_BYTES]> = entries.iter().map(Entry::bytes).collect();
    (!bytes.is_empty()).then(|| digest::window_segment(bytes.as_flattened()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: u64, seen: u64) -> Entry {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&position.to_be_bytes());
        let id = EventId { seen: Position(seen), nonce };
        Entry { position: Position(position), id, intent: [7; 16], outcome: 0, code: 0, revision: Revision(position) }
    }

    fn filled(width: u64, positions: std::ops::Range<u64>) -> Window {
        let mut window = Window::new(width);
        for position in positions {
            window.insert(entry(position, position.saturating_sub(1)));
            window.advance(Position(position));
        }
        window
    }

    #[test]
    fn an_id_is_found_until_its_segment_is_left_behind() {
        let window = filled(2 * SEGMENT, 1..4 * SEGMENT);
        assert!(window.get(&entry(4 * SEGMENT - 1, 4 * SEGMENT - 2).id).is_some());
        assert!(window.get(&entry(2 * SEGMENT + 1, 2 * SEGMENT).id).is_some());
        assert!(window.get(&entry(1, 0).id).is_none());
        assert!((window.len() as u64) < 3 * SEGMENT + 1, "bounded by W and one segment");
    }

    #[test]
    fn a_segment_goes_when_its_last_position_is_left_behind_and_not_before() {
        let window = filled(SEGMENT, 1..3 * SEGMENT - 1);
        let last = entry(2 * SEGMENT - 1, 2 * SEGMENT - 2).id;
        assert!(window.get(&last).is_some(), "position n - W + 1 counts");
        assert!(window.get(&entry(SEGMENT - 1, SEGMENT - 2).id).is_none());
        assert_eq!(window.segments.len(), 2);
        let window = filled(SEGMENT, 1..3 * SEGMENT);
        assert!(window.get(&last).is_none());
        assert_eq!((window.segments.len(), window.len() as u64), (1, SEGMENT));
    }

    #[test]
    fn the_hash_covers_exactly_the_positions_after_n_minus_w() {
        let now = Position(3 * SEGMENT);
        let mut long = filled(SEGMENT, 1..3 * SEGMENT + 1);
        let mut short = filled(SEGMENT, 2 * SEGMENT + 1..3 * SEGMENT + 1);
        assert_eq!(long.hash(now), short.hash(now));
        let mut other = filled(SEGMENT, 2 * SEGMENT + 2..3 * SEGMENT + 1);
        assert_ne!(long.hash(now), other.hash(now), "the oldest position inside counts");
    }

    #[test]
    fn what_is_packed_comes_back_equal() {
        let mut window = filled(1 << 20, 1..10_000);
        let mut again = Window::new(1 << 20);
        again.unpack(&window.pack_from(Position(0))).unwrap();
        assert_eq!(again.hash(Position(9_999)), window.hash(Position(9_999)));
        assert!(again.unpack(&[0; ENTRY_BYTES + 1]).is_err());
    }

    /// The rows of a damaged or forged store may say any position.
    #[test]
    fn packed_entries_that_no_window_packs_are_refused_and_a_gap_takes_no_memory() {
        let packed = |entries: &[Entry]| {
            let mut out = Vec::new();
            entries.iter().for_each(|entry| out.extend(entry.bytes()));
            out
        };
        let far = u64::MAX - 1;
        let mut window = Window::new(u64::MAX);
        window.unpack(&packed(&[entry(1, 0), entry(far, 7)])).unwrap();
        assert_eq!((window.len(), window.segments.len()), (2, 2));
        assert!(window.get(&entry(1, 0).id).is_some() && window.get(&entry(far, 7).id).is_some());
        window.advance(Position(u64::MAX));
        assert_eq!(window.pack_from(Position(2)).len(), ENTRY_BYTES);
        for wrong in [[entry(9, 0), entry(8, 0)], [entry(8, 0), entry(9, 9)]] {
            assert!(Window::new(5).unpack(&packed(&wrong)).is_err(), "{wrong:?}");
        }
        assert!(window.unpack(&packed(&[entry(5, 0)])).is_err(), "nor behind what is there");
        // A withdrawal stands at its position, and so does the id that it bars.
        assert!(Window::new(5).unpack(&packed(&[entry(9, 3), entry(9, 4)])).is_ok());
    }
}
