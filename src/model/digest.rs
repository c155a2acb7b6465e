//! The chained digests of docs/formats.md 5: what stands on the log, what was decided, what the revisions were.

use crate::ids::{EventId, Hash, Position, Revision, Time};

/// First bytes of the preimages made here; the tree's own kinds are in `node.rs` and `map.rs`.
mod kind {
    pub const LOG_DIGEST: u8 = 0x10;
    pub const CHAIN: u8 = 0x11;
    pub const STATE: u8 = 0x12;
    pub const HISTORY_LEAF: u8 = 0x13;
    pub const HISTORY_INNER: u8 = 0x14;
    pub const STATE_ROW: u8 = 0x15;
    pub const WINDOW_SEGMENT: u8 = 0x16;
    pub const PRINCIPAL_INTENT: u8 = 0x17;
}

/// d(n) = H(`10` d(n-1) u64 n, i64 record time, record bytes). d(-1) is `Hash::ZERO`.
pub fn log_digest(before: Hash, position: Position, time: Time, record: &[u8]) -> Hash {
    let mut head = [0; 49];
    head[0] = kind::LOG_DIGEST;
    head[1..33].copy_from_slice(&before.0);
    head[33..41].copy_from_slice(&position.0.to_be_bytes());
    head[41..49].copy_from_slice(&time.0.to_be_bytes());
    Hash::of_both(&head, record)
}

/// chain(n) = H(`11` chain(n-1) d(n) u8 outcome, u16 code, root(n)). chain(-1) is `Hash::ZERO`.
pub fn chain(before: Hash, digest: Hash, outcome: u8, code: u16, root: Hash) -> Hash {
    let mut preimage = [0; 100];
    preimage[0] = kind::CHAIN;
    preimage[1..33].copy_from_slice(&before.0);
    preimage[33..65].copy_from_slice(&digest.0);
    preimage[65] = outcome;
    preimage[66..68].copy_from_slice(&code.to_be_bytes());
    preimage[68..100].copy_from_slice(&root.0);
    Hash::of(&preimage)
}

/// state(n) = H(`12` u16 count, then per member ascending by its number: u16 number, hash).
pub fn state(members: &[(u16, Hash)]) -> Hash {
    debug_assert!(members.windows(2).all(|pair| pair[0].0 < pair[1].0), "members ascend");
    let mut preimage = vec![kind::STATE];
    let count = u16::try_from(members.len()).expect("the members are a short fixed list");
    preimage.extend(count.to_be_bytes());
    for (number, hash) in members {
        preimage.extend(number.to_be_bytes());
        preimage.extend(hash.0);
    }
    Hash::of(&preimage)
}

/// H(`15` row): the value of a state table's entry, and a scalar member.
pub fn state_row(row: &[u8]) -> Hash {
    Hash::of_both(&[kind::STATE_ROW], row)
}

/// H(`16` entries) over one segment of the window.
pub fn window_segment(entries: &[u8]) -> Hash {
    Hash::of_both(&[kind::WINDOW_SEGMENT], entries)
}

/// What the window compares when an id comes again: 16 bytes that stand for the intent and the principal together.
///
/// Without a principal they are the intent's first 16 bytes; with one, those of H(`17` intent principal), so that
/// one id in the hands of two principals is told apart (`ID_REUSED`) without a longer entry.
pub fn intent_mark(intent: &Hash, principal: &str) -> [u8; 16] {
    let full = if principal.is_empty() {
        *intent
    } else {
        let mut rest = intent.0.to_vec();
        rest.extend(principal.as_bytes());
        Hash::of_both(&[kind::PRINCIPAL_INTENT], &rest)
    };
    full.0[..16].try_into().expect("16 of 32 bytes")
}

/// What a leaf of the history range says about one revision.
pub struct HistoryLeaf {
    pub revision: Revision,
    pub position: Position,
    pub time: Time,
    pub root: Hash,
    /// `seen` 0 and a zero nonce where there is no event id.
    pub id: EventId,
    pub digest: Hash,
}

impl HistoryLeaf {
    /// H(`13` u64 revision, u64 position, i64 t(n), root, event id as u64 seen and nonce, d(position)).
    pub fn hash(&self) -> Hash {
        let mut preimage = [0; 113];
        preimage[0] = kind::HISTORY_LEAF;
        preimage[1..9].copy_from_slice(&self.revision.0.to_be_bytes());
        preimage[9..17].copy_from_slice(&self.position.0.to_be_bytes());
        preimage[17..25].copy_from_slice(&self.time.0.to_be_bytes());
        preimage[25..57].copy_from_slice(&self.root.0);
        preimage[57..65].copy_from_slice(&self.id.seen.0.to_be_bytes());
        preimage[65..81].copy_from_slice(&self.id.nonce);
        preimage[81..113].copy_from_slice(&self.digest.0);
        Hash::of(&preimage)
    }
}

/// A Merkle mountain range over the revisions from 1: one peak per set bit of the count, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HistoryRange {
    count: u64,
    peaks: Vec<Hash>,
}

impl HistoryRange {
    /// `None` when the number of peaks cannot belong to `count` leaves.
    pub fn from_peaks(count: u64, peaks: Vec<Hash>) -> Option<HistoryRange> {
        (count.count_ones() as usize == peaks.len()).then_some(HistoryRange { count, peaks })
    }

    pub fn append(&mut self, leaf: Hash) {
        let mut top = leaf;
        // A carry of binary addition: equal heights merge, from the youngest peak on.
        for _ in 0..self.count.trailing_ones() {
            let left = self.peaks.pop().expect("one peak per set bit");
            let mut preimage = [0; 65];
            preimage[0] = kind::HISTORY_INNER;
            preimage[1..33].copy_from_slice(&left.0);
            preimage[33..].copy_from_slice(&top.0);
            top = Hash::of(&preimage);
        }
        self.peaks.push(top);
        self.count += 1;
    }

    /// How many revisions are in the range.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Oldest, and tallest, first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex32(text: &serde_json::Value) -> Hash {
        Hash::from_slice(&hex::decode(text.as_str().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn digests_chain_and_history_are_those_of_the_golden_vectors() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/vectors/vectors.json"));
        let all: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        let (mut d, mut c, mut range) = (Hash::ZERO, Hash::ZERO, HistoryRange::default());
        let rows = all["log"].as_array().unwrap();
        assert_eq!(rows.len(), 20);
        for row in rows {
            let position = Position(row["position"].as_u64().unwrap());
            let time = Time(row["time_ms"].as_i64().unwrap());
            let record = hex::decode(row["record"].as_str().unwrap()).unwrap();
            let root = hex32(&row["root"]);
            d = log_digest(d, position, time, &record);
            assert_eq!(d, hex32(&row["digest"]), "log digest at {position}");
            let outcome = row["outcome"].as_u64().unwrap() as u8;
            c = chain(c, d, outcome, row["code"].as_u64().unwrap() as u16, root);
            assert_eq!(c, hex32(&row["chain"]), "chain at {position}");
            let nonce = hex::decode(row["nonce"].as_str().unwrap()).unwrap().try_into().unwrap();
            let id = EventId { seen: Position(row["seen"].as_u64().unwrap()), nonce };
            let leaf = HistoryLeaf { revision: Revision(position.0 + 1), position, time, root, id, digest: d }.hash();
            assert_eq!(leaf, hex32(&row["leaf"]), "history leaf at {position}");
            range.append(leaf);
            let peaks: Vec<Hash> = row["peaks"].as_array().unwrap().iter().map(hex32).collect();
            assert_eq!(range.peaks(), peaks, "peaks at {position}");
        }
    }

    #[test]
    fn a_range_with_the_wrong_number_of_peaks_is_refused() {
        assert!(HistoryRange::from_peaks(3, vec![Hash::ZERO]).is_none());
        assert!(HistoryRange::from_peaks(3, vec![Hash::ZERO; 2]).is_some());
    }

    #[test]
    fn one_id_in_the_hands_of_two_principals_has_two_marks() {
        let intent = Hash::of(b"intent");
        assert_eq!(intent_mark(&intent, ""), intent.0[..16]);
        assert_ne!(intent_mark(&intent, "ada"), intent_mark(&intent, "bob"));
        assert_ne!(intent_mark(&intent, "ada"), intent_mark(&intent, ""));
    }
}
