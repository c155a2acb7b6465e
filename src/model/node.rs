//! Stored objects as bytes (docs/formats.md 3): how each is written, and what a decoder refuses.
//!
//! Equal content has exactly one encoding. The decoder therefore refuses everything that the rules cannot have made: alone here
//! in [`decode`], and what only shows beside the parent in [`check_place`].

use crate::ids::Hash;
pub use crate::wire_bytes::put_varint;

pub const KIND_NODE: u8 = 0x01;
pub const KIND_INNER: u8 = 0x02;
pub const KIND_BUCKET: u8 = 0x03;
pub const KIND_BLOB: u8 = 0x04;

/// A set of at most this many keys is one bucket; a larger one is an inner.
pub const BUCKET_KEYS: usize = 16;
/// A config of at most this many bytes stands in its node; a longer one is a blob of its own.
pub const INLINE_CONFIG: usize = 1024;
/// Keys have 1 to this many bytes.
pub const MAX_KEY: usize = 256;
/// Protobuf's highest field number.
pub const MAX_FIELD: u32 = (1 << 29) - 1;

/// Hash of the node without config and without entries: the root of revision 0, and every default single child.
pub const EMPTY_NODE: Hash = Hash([
    0xc6, 0x10, 0xe8, 0x52, 0x12, 0xd0, 0x69, 0x7c, 0xb1, 0x61, 0xd4, 0xba, 0x43, 0x1b, 0xa6, 0x03, 0xf2, 0x73, 0xfe, 0xee,
    0x7d, 0xcb, 0x79, 0x27, 0xc9, 0xff, 0x5d, 0x74, 0xae, 0x6c, 0xbf, 0xa3,
]);

/// The bytes of the object that [`EMPTY_NODE`] names.
pub const EMPTY_NODE_BYTES: &[u8] = &[KIND_NODE, 0, 0, 0];

/// Data hash of a config: that of its blob, also where the config stands inside the node.
pub fn data_hash(config: &[u8]) -> Hash {
    Hash::of_both(&[KIND_BLOB], config)
}

/// One decoded object, borrowing from its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object<'a> {
    Node(NodeObject<'a>),
    Inner(InnerObject),
    Bucket(BucketObject<'a>),
    /// A config of more than [`INLINE_CONFIG`] bytes.
    Blob(&'a [u8]),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeObject<'a> {
    pub config: ConfigObject<'a>,
    /// Field number, and the hash of the single child's node or of the container's top object; ascending.
    pub entries: Vec<(u32, Hash)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigObject<'a> {
    Inline(&'a [u8]),
    Blob(Hash),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketObject<'a> {
    /// Whole keys, ascending, and node hashes.
    pub entries: Vec<(&'a [u8], Hash)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InnerObject {
    /// The prefix common to all keys beyond what the path above has consumed, one nibble to a byte.
    pub skipped: Vec<u8>,
    /// The node of the key that ends after the prefix.
    pub own: Option<Hash>,
    /// Ascending by nibble.
    pub branches: Vec<BranchObject>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BranchObject {
    pub nibble: u8,
    /// Number of keys below.
    pub count: u64,
    pub hash: Hash,
}

/// Why bytes are not an object, or not the object that belongs there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ObjectRefused {
    #[error("it has no bytes")]
    Empty,
    #[error("its kind byte {0:#04x} names no kind of object")]
    Kind(u8),
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    #[error("{0} is not a minimal varint of at most 64 bits")]
    Varint(&'static str),
    #[error("the tag byte before {what} is {tag:#04x}, not 00 or 01")]
    Tag { what: &'static str, tag: u8 },
    #[error("a blob of {0} bytes belongs inside its node")]
    SmallBlob(usize),
    #[error("an inline config of {0} bytes belongs into a blob")]
    LargeConfig(u64),
    #[error("{0} is no field number")]
    FieldNumber(u64),
    #[error("its entry for field {0} is out of order or there twice")]
    EntryOrder(u32),
    #[error("its entry for field {0} names the empty node, which is never stored")]
    DefaultEntry(u32),
    #[error("a bucket of {0} keys")]
    BucketKeys(u64),
    #[error("a key of {0} bytes")]
    KeyLength(u64),
    #[error("its key number {0} is out of order or there twice")]
    KeyOrder(usize),
    #[error("a prefix of {0} nibbles is longer than any key")]
    PrefixLength(u64),
    #[error("the padding of its prefix is not zero")]
    Padding,
    #[error("no key is counted below nibble {0:x}")]
    ZeroCount(u8),
    #[error("its counts exceed 64 bits")]
    CountOverflow,
    #[error("an inner of {0} keys belongs into a bucket")]
    InnerKeys(u64),
    #[error("an inner with one branch and no own entry belongs into the prefix of its branch")]
    OneBranch,
    // What only shows beside the parent:
    #[error("a {expected} belongs there, this is a {found}")]
    WrongKind { expected: &'static str, found: &'static str },
    #[error("its key {0} is off the prefix above")]
    OffPrefix(String),
    #[error("it holds {found} keys where {expected} are counted above")]
    CountDiffers { expected: u64, found: u64 },
    #[error("its own entry stands at half a byte")]
    HalfByte,
    #[error("its bytes hash to {0}")]
    HashDiffers(Hash),
}

/// Decodes one object and refuses what cannot be right whatever is around it. Never panics.
pub fn decode(bytes: &[u8]) -> Result<Object<'_>, ObjectRefused> {
    let (&kind, rest) = bytes.split_first().ok_or(ObjectRefused::Empty)?;
    let mut input = Input(rest);
    let object = match kind {
        KIND_NODE => Object::Node(decode_node(&mut input)?),
        KIND_INNER => Object::Inner(decode_inner(&mut input)?),
        KIND_BUCKET => Object::Bucket(decode_bucket(&mut input)?),
        KIND_BLOB if rest.len() <= INLINE_CONFIG => return Err(ObjectRefused::SmallBlob(rest.len())),
        KIND_BLOB => return Ok(Object::Blob(rest)),
        other => return Err(ObjectRefused::Kind(other)),
    };
    match input.0.len() {
        0 => Ok(object),
        trailing => Err(ObjectRefused::Trailing(trailing)),
    }
}

/// Where a container's object hangs: at the top, or below one branch of an inner.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    Top,
    /// All keys there begin with the first `len` nibbles of `base` and then `nibble`; the inner above counts `count` of them.
    Below { base: &'a [u8], len: usize, nibble: u8, count: u64 },
}

impl Place<'_> {
    /// Nibbles that the path above has consumed.
    pub fn depth(&self) -> usize {
        match self {
            Place::Top => 0,
            Place::Below { len, .. } => len + 1,
        }
    }

    fn holds(&self, key: &[u8]) -> bool {
        match *self {
            Place::Top => true,
            Place::Below { base, len, nibble: last, .. } => {
                let whole = len / 2;
                key.len() >= whole
                    && base.len() >= whole
                    && key[..whole] == base[..whole]
                    && (len % 2 == 0 || nibble(key, len - 1) == nibble(base, len - 1))
                    && nibble(key, len) == Some(last)
            }
        }
    }
}

/// Refuses an inner or a bucket that is sound in itself but wrong where it hangs.
pub fn check_place(object: &Object<'_>, place: Place<'_>) -> Result<(), ObjectRefused> {
    let found = match object {
        Object::Bucket(bucket) => {
            // Keys ascend, so what the first and the last share is shared by all.
            for (key, _) in bucket.entries.first().into_iter().chain(bucket.entries.last()) {
                if !place.holds(key) {
                    return Err(ObjectRefused::OffPrefix(hex(key)));
                }
            }
            bucket.entries.len() as u64
        }
        Object::Inner(inner) => {
            let end = place.depth() + inner.skipped.len();
            let longest = if inner.branches.is_empty() { end } else { end + 1 };
            if longest > 2 * MAX_KEY {
                return Err(ObjectRefused::KeyLength(longest.div_ceil(2) as u64));
            }
            if inner.own.is_some() && end % 2 == 1 {
                return Err(ObjectRefused::HalfByte);
            }
            if inner.own.is_some() && end == 0 {
                return Err(ObjectRefused::KeyLength(0));
            }
            inner.keys()
        }
        other => return Err(ObjectRefused::WrongKind { expected: "container", found: other.kind_name() }),
    };
    match place {
        Place::Below { count: expected, .. } if expected != found => Err(ObjectRefused::CountDiffers { expected, found }),
        _ => Ok(()),
    }
}

impl Object<'_> {
    pub fn kind_name(&self) -> &'static str {
        match self {
            Object::Node(_) => "node",
            Object::Inner(_) => "inner",
            Object::Bucket(_) => "bucket",
            Object::Blob(_) => "blob",
        }
    }

    /// Hashes of the objects that this one names, in its own order.
    pub fn references(&self) -> Vec<Hash> {
        match self {
            Object::Blob(_) => Vec::new(),
            Object::Bucket(bucket) => bucket.entries.iter().map(|(_, hash)| *hash).collect(),
            Object::Inner(inner) => inner.own.into_iter().chain(inner.branches.iter().map(|branch| branch.hash)).collect(),
            Object::Node(node) => {
                let blob = match node.config {
                    ConfigObject::Blob(hash) => Some(hash),
                    ConfigObject::Inline(_) => None,
                };
                blob.into_iter().chain(node.entries.iter().map(|(_, hash)| *hash)).collect()
            }
        }
    }
}

impl InnerObject {
    /// Number of keys at and below it. [`decode`] has refused sums that do not fit.
    pub fn keys(&self) -> u64 {
        self.branches.iter().fold(u64::from(self.own.is_some()), |sum, branch| sum.saturating_add(branch.count))
    }
}

/// The nibble number `index` of `key`, high half of each byte first; `None` behind its end.
pub fn nibble(key: &[u8], index: usize) -> Option<u8> {
    let byte = *key.get(index / 2)?;
    Some(if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
}

/// Appends the nibbles of an inner's prefix: their number, then two to a byte, high one first, the last padded with 0.
pub fn put_prefix(out: &mut Vec<u8>, nibbles: &[u8]) {
    put_varint(out, nibbles.len() as u64);
    out.extend(nibbles.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)));
}

fn decode_node<'a>(input: &mut Input<'a>) -> Result<NodeObject<'a>, ObjectRefused> {
    let config = match input.tag("the config")? {
        false => {
            let length = input.varint("the config's length")?;
            if length > INLINE_CONFIG as u64 {
                return Err(ObjectRefused::LargeConfig(length));
            }
            ConfigObject::Inline(input.take(length as usize, "the config")?)
        }
        true => ConfigObject::Blob(input.hash("the blob's hash")?),
    };
    let count = input.varint("the number of entries")?;
    let mut entries = Vec::new();
    let mut last = 0;
    for _ in 0..count {
        let number = input.varint("a field number")?;
        let field = match u32::try_from(number) {
            Ok(field) if (1..=MAX_FIELD).contains(&field) => field,
            _ => return Err(ObjectRefused::FieldNumber(number)),
        };
        if field <= last {
            return Err(ObjectRefused::EntryOrder(field));
        }
        last = field;
        let hash = input.hash("an entry's hash")?;
        if hash == EMPTY_NODE {
            return Err(ObjectRefused::DefaultEntry(field));
        }
        entries.push((field, hash));
    }
    Ok(NodeObject { config, entries })
}

fn decode_bucket<'a>(input: &mut Input<'a>) -> Result<BucketObject<'a>, ObjectRefused> {
    let count = input.varint("the number of keys")?;
    if count == 0 || count > BUCKET_KEYS as u64 {
        return Err(ObjectRefused::BucketKeys(count));
    }
    let mut entries: Vec<(&[u8], Hash)> = Vec::with_capacity(count as usize);
    for index in 0..count as usize {
        let length = input.varint("a key's length")?;
        if length == 0 || length > MAX_KEY as u64 {
            return Err(ObjectRefused::KeyLength(length));
        }
        let key = input.take(length as usize, "a key")?;
        if entries.last().is_some_and(|(last, _)| *last >= key) {
            return Err(ObjectRefused::KeyOrder(index));
        }
        entries.push((key, input.hash("a key's hash")?));
    }
    Ok(BucketObject { entries })
}

fn decode_inner(input: &mut Input<'_>) -> Result<InnerObject, ObjectRefused> {
    let length = input.varint("the prefix's length")?;
    if length > 2 * MAX_KEY as u64 {
        return Err(ObjectRefused::PrefixLength(length));
    }
    let length = length as usize;
    let packed = input.take(length.div_ceil(2), "the prefix")?;
    let skipped = (0..length).filter_map(|index| nibble(packed, index)).collect();
    if length % 2 == 1 && nibble(packed, length) != Some(0) {
        return Err(ObjectRefused::Padding);
    }
    let own = match input.tag("the own entry")? {
        true => Some(input.hash("the own entry's hash")?),
        false => None,
    };
    let bitmap = input.take(2, "the bitmap")?;
    let bitmap = u16::from_be_bytes([bitmap[0], bitmap[1]]);
    let mut keys = u64::from(own.is_some());
    let mut branches = Vec::with_capacity(bitmap.count_ones() as usize);
    for nibble in (0..16u8).filter(|nibble| bitmap & 1 << nibble != 0) {
        let count = input.varint("a count")?;
        if count == 0 {
            return Err(ObjectRefused::ZeroCount(nibble));
        }
        keys = keys.checked_add(count).ok_or(ObjectRefused::CountOverflow)?;
        branches.push(BranchObject { nibble, count, hash: Hash::ZERO });
    }
    for branch in &mut branches {
        branch.hash = input.hash("a branch's hash")?;
    }
    if keys <= BUCKET_KEYS as u64 {
        return Err(ObjectRefused::InnerKeys(keys));
    }
    if own.is_none() && branches.len() < 2 {
        return Err(ObjectRefused::OneBranch);
    }
    Ok(InnerObject { skipped, own, branches })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], ObjectRefused> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ObjectRefused::Truncated(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, ObjectRefused> {
        Ok(self.take(1, what)?[0])
    }

    fn hash(&mut self, what: &'static str) -> Result<Hash, ObjectRefused> {
        Hash::from_slice(self.take(32, what)?).ok_or(ObjectRefused::Truncated(what))
    }

    fn tag(&mut self, what: &'static str) -> Result<bool, ObjectRefused> {
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(ObjectRefused::Tag { what, tag }),
        }
    }

    fn varint(&mut self, what: &'static str) -> Result<u64, ObjectRefused> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds one bit; a last byte of zero makes the varint longer than it has to be.
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return Err(ObjectRefused::Varint(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ObjectRefused::Varint(what))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
