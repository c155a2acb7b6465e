//! Small types that cannot be mixed up.

use std::fmt;

/// A BLAKE3 hash, 32 bytes. Printed in lower-case hex; `short()` is what people see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// 32 zero bytes: the hash of an empty container, and d(-1), chain(-1).
    pub const ZERO: Hash = Hash([0; 32]);

    /// BLAKE3 over one preimage, whose first byte is its kind.
    pub fn of(preimage: &[u8]) -> Hash {
        Hash(*blake3::hash(preimage).as_bytes())
    }

    /// The same over a preimage in two pieces.
    pub fn of_both(head: &[u8], rest: &[u8]) -> Hash {
        // In one piece it hashes faster, by what a hasher costs, so a short one is put together.
        let mut whole = [0; 512];
        let length = head.len() + rest.len();
        if let Some(whole) = whole.get_mut(..length) {
            whole[..head.len()].copy_from_slice(head);
            whole[head.len()..].copy_from_slice(rest);
            return Hash::of(whole);
        }
        Hash(*blake3::Hasher::new().update(head).update(rest).finalize().as_bytes())
    }

    /// `None` unless there are exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Hash> {
        bytes.try_into().ok().map(Hash)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hex digits.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ordinal of an event on its log; genesis is 0. Never a broker's offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub u64);

/// A numbered state of the tree, made by exactly one accepted event: 1, 2, 3 … Revision 0 is the empty tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision(pub u64);

/// Milliseconds since 1970-01-01T00:00Z, as stamped on records by the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub i64);

impl Position {
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a store's log; at first the log id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub [u8; 16]);

/// Minted once per intention and sent unchanged in every attempt. Ordered by `seen`, then nonce.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventId {
    /// The position that its author had folded: no copy of the id can stand at or before it.
    pub seen: Position,
    pub nonce: [u8; 16],
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// `seen-nonce`, the nonce in hex: what users pass back to ask about an outcome.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.seen.0)?;
        write_hex(f, &self.nonce)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
