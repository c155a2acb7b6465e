//! A subtree as it comes out of a message: borrowed bytes, split into nodes, nothing of it stored yet.

use std::borrow::Cow;

/// One node and all that is below it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subtree<'a> {
    /// Canonical bytes of the node's message with all child fields cleared.
    pub config: Cow<'a, [u8]>,
    /// Ascending by field number; only fields that are present.
    pub children: Vec<Children<'a>>,
}

/// What one child field holds. A single child is one entry with an empty key; the entries of a keyless list have
/// their index as a big-endian u32 for a key; those of a keyed container ascend by key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Children<'a> {
    pub field: u32,
    pub entries: Vec<(Box<[u8]>, Subtree<'a>)>,
}
