//! The registry of column families and kinds of keys. What is written here is on disks: numbers are never changed
//! and never used again.
//!
//! | family    | key                                      | value                                      | one for each        |
//! |-----------|------------------------------------------|--------------------------------------------|---------------------|
//! | `objects` | 32-byte hash                             | the object's bytes                         | object              |
//! | `default` | `01`                                     | head and its checksum                      | store               |
//! | `default` | `02` author                              | name                                       | author              |
//! | `default` | `03` first revision                      | up to 64 revisions in a row                | page                |
//! | `default` | `04` first revision                      | i64 time                                   | run of rising times |
//! | `default` | `05` first 6 bytes of a root, revision   |                                            | revision            |
//! | `default` | `06` 12-byte path digest, first revision | up to 64 revisions of one batch with kinds | path in a batch     |
//! | `default` | `07` first position                      | up to 64 accepted event ids in a row       | page                |
//! | `default` | `08` u16 table, key                      | the fold's                                 | row of state        |
//! | `default` | `09` revision                            | position, mark, root                       | persisted tree      |
//!
//! Revisions, positions and authors stand as a byte that counts their bytes, then those, big-endian without leading
//! zeros: short, and in the order of the numbers. Rows that follow one another share a page, as a put costs more
//! than the bytes of a row. Values are described in `pages.rs`.

use confold_model::ids::{Hash, Position, Revision};
use confold_store::PathDigest;

/// The head, the indexes and the state.
pub const ROWS: &str = "default";
/// Objects by hash, apart from the rest: they come in random order and are only ever asked for one by one.
pub const OBJECTS: &str = "objects";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Head = 1,
    Author = 2,
    Revisions = 3,
    TimeRun = 4,
    Root = 5,
    Touched = 6,
    Ids = 7,
    State = 8,
    Persisted = 9,
}

/// So much of a root stands in its key; roots that agree in it are told apart by their rows.
pub const ROOT_BYTES: usize = 6;

/// Kinds that some version wrote and none does any more: their bytes may still lie in old stores.
pub const RETIRED: &[u8] = &[];

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Head,
        Kind::Author,
        Kind::Revisions,
        Kind::TimeRun,
        Kind::Root,
        Kind::Touched,
        Kind::Ids,
        Kind::State,
        Kind::Persisted,
    ];

    /// The kind's byte alone, where all its keys begin.
    pub fn prefix(self) -> Vec<u8> {
        vec![self as u8]
    }
}

pub fn head() -> Vec<u8> {
    Kind::Head.prefix()
}

pub fn author(number: u32) -> Vec<u8> {
    numbered(&Kind::Author.prefix(), u64::from(number))
}

pub fn revisions(first: Revision) -> Vec<u8> {
    numbered(&Kind::Revisions.prefix(), first.0)
}

pub fn time_run(first: Revision) -> Vec<u8> {
    numbered(&Kind::TimeRun.prefix(), first.0)
}

pub fn root(root: &Hash, revision: Revision) -> Vec<u8> {
    numbered(&key(Kind::Root, &[&root.0[..ROOT_BYTES]]), revision.0)
}

pub fn touched(path: &PathDigest, first: Revision) -> Vec<u8> {
    numbered(&touched_path(path), first.0)
}

/// Where all keys of one path begin.
pub fn touched_path(path: &PathDigest) -> Vec<u8> {
    key(Kind::Touched, &[&path.0])
}

pub fn ids(first: Position) -> Vec<u8> {
    numbered(&Kind::Ids.prefix(), first.0)
}

pub fn state(table: u16, row: &[u8]) -> Vec<u8> {
    key(Kind::State, &[&table.to_be_bytes(), row])
}

pub fn persisted(revision: Revision) -> Vec<u8> {
    numbered(&Kind::Persisted.prefix(), revision.0)
}

/// The key of a number below a prefix.
pub fn numbered(prefix: &[u8], number: u64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let zeros = number.leading_zeros() as usize / 8;
    [prefix, &[8 - zeros as u8], &bytes[zeros..]].concat()
}

/// The number after a prefix of so many bytes, if that is how the key ends.
pub fn number(key: &[u8], prefix: usize) -> Option<u64> {
    let (length, digits) = key.get(prefix..)?.split_first()?;
    if usize::from(*length) != digits.len() || digits.len() > 8 || digits.first() == Some(&0) {
        return None;
    }
    Some(digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The least key that does not begin with `prefix`.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn key(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = kind.prefix();
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_bytes_for_ever() {
        let bytes: Vec<u8> = Kind::ALL.iter().map(|kind| *kind as u8).collect();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(Kind::ALL.iter().all(|kind| !RETIRED.contains(&(*kind as u8))));
    }

    #[test]
    fn keys_keep_their_bytes_for_ever() {
        let path = PathDigest(*b"123456789abc");
        let golden = [
            (head(), "01"),
            (author(258), "02020102"),
            (revisions(Revision(258)), "03020102"),
            (time_run(Revision(1)), "040101"),
            (root(&Hash([0xab; 32]), Revision(3)), "05abababababab0103"),
            (touched(&path, Revision(4)), "063132333435363738396162630104"),
            (ids(Position(5)), "070105"),
            (state(258, b"k"), "0801026b"),
            (persisted(Revision(6)), "090106"),
        ];
        for (key, expected) in golden {
            assert_eq!(hex::encode(&key), expected);
        }
    }

    #[test]
    fn numbers_in_keys_stand_in_their_order() {
        let mut numbers: Vec<u64> = (0..64)
            .flat_map(|bit| [1 << bit, (1 << bit) - 1, !(1 << bit)])
            .chain([0, 255, 256, u64::MAX])
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        for two in numbers.windows(2) {
            assert!(numbered(b"p", two[0]) < numbered(b"p", two[1]));
        }
        for value in numbers {
            assert_eq!(number(&numbered(b"prefix", value), 6), Some(value));
        }
        for bad in [
            &[][..],
            &[1],
            &[1, 0],
            &[2, 1],
            &[9, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            &[0, 1],
        ] {
            assert_eq!(number(bad, 0), None);
        }
    }

    #[test]
    fn after_a_prefix_comes_the_next_one() {
        assert_eq!(after(&[6, 255, 255]), [7]);
        assert_eq!(after(&[8, 0, 1]), [8, 0, 2]);
        assert!(after(&[8, 0, 1]) > state(1, &[255; 40]));
    }
}
