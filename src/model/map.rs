//! Merkle radix map over the nibbles of its keys (docs/formats.md 3).
//!
//! Its shape, and so its hash, depends on the set of keys alone: at most 16 keys are a bucket; more are an inner, which splits them by
//! the nibble behind the prefix that all of them share. Reading, changing and counting cost O(log n). [`Map`] lives in memory
//! and holds rows that bring their hash; the containers of a tree are the same parts with nodes for values, loaded when needed.

use crate::ids::Hash;
use crate::link::{Encode, Link, Scratch, Source};
use crate::node::{BUCKET_KEYS, KIND_BUCKET, KIND_INNER, MAX_KEY, Place, nibble, put_prefix, put_varint};
use crate::objects::{ObjectsError, ObjectsErrorCause};
use std::convert::identity;

/// What a key stands for.
pub trait MapValue: Clone {
    /// The hash that stands beside the key. Asked for whenever the bucket it stands in is hashed, so better known than computed.
    fn hash(&self) -> Hash;
}

impl MapValue for Hash {
    fn hash(&self) -> Hash {
        *self
    }
}

/// A map that is in memory as a whole. Clones share everything; each object is hashed once. Keys have 1 to 256 bytes.
#[derive(Clone)]
pub struct Map<V: MapValue = Hash>(Option<Link<Part<Row<V>>>>);

impl<V: MapValue> Default for Map<V> {
    fn default() -> Map<V> {
        Map::empty()
    }
}

impl<V: MapValue> Map<V> {
    pub fn empty() -> Map<V> {
        Map(None)
    }

    /// The map of these entries. They may come in any order; of twins the last one stays.
    pub fn from_entries(entries: impl IntoIterator<Item = (Box<[u8]>, V)>) -> Map<V> {
        let sorted: std::collections::BTreeMap<_, _> = entries.into_iter().collect();
        let keys: Vec<&[u8]> = sorted.keys().map(|key| &**key).collect();
        match keys.is_empty() {
            true => Map(None),
            false => Map(Some(Link::fresh(Part::build(&keys, &mut sorted.values().cloned().map(Row), 0)))),
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&V> {
        self.part().and_then(|part| in_memory(part.get(key, &InMemory))).map(|row| &row.0)
    }

    /// Returns what stood there before.
    pub fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        match &mut self.0 {
            None => {
                self.0 = Some(Link::fresh(Part::single(key, Row(value))));
                None
            }
            Some(link) => {
                let part = in_memory(link.edit(&InMemory, Place::Top));
                in_memory(part.insert(key, Row(value), 0, &InMemory)).map(|row| row.0)
            }
        }
    }

    /// Returns what stood there.
    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        self.get(key)?;
        let part = in_memory(self.0.as_mut()?.edit(&InMemory, Place::Top));
        let removed = in_memory(part.remove(key, 0, &InMemory));
        if part.keys() == 0 {
            self.0 = None;
        }
        removed.map(|row| row.0)
    }

    pub fn len(&self) -> u64 {
        self.part().map_or(0, Part::keys)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Hash of the top object; 32 zero bytes when there is none.
    pub fn hash(&self) -> Hash {
        self.0.as_ref().map_or(Hash::ZERO, Link::hash_alone)
    }

    /// Visits the entries in key order, from the one at `start` on, at most `limit`.
    pub fn visit(&self, start: u64, limit: u64, mut visit: impl FnMut(&[u8], &V)) {
        if let Some(part) = self.part() {
            in_memory(part.slice(start, limit, &InMemory, &mut |key, value| {
                visit(key, &value.0);
                Ok(())
            }));
        }
    }

    /// All entries in key order.
    pub fn entries(&self) -> Vec<(Box<[u8]>, V)> {
        let mut entries = Vec::new();
        self.visit(0, u64::MAX, |key, value| entries.push((key.into(), value.clone())));
        entries
    }

    /// How many keys are below `key`, and whether it is there itself.
    pub fn rank(&self, key: &[u8]) -> (u64, bool) {
        self.part().map_or((0, false), |part| in_memory(part.rank(key, &InMemory)))
    }

    fn part(&self) -> Option<&Part<Row<V>>> {
        self.0.as_ref().map(|link| &**in_memory(link.load(&InMemory, Place::Top)))
    }
}

/// For parts that are never unloaded.
struct InMemory;

impl<V: MapValue> Source<Part<Row<V>>> for InMemory {
    fn load(&self, hash: &Hash, _: Place<'_>) -> Result<Part<Row<V>>, ObjectsError> {
        Err(ObjectsError { hash: *hash, cause: ObjectsErrorCause::Missing })
    }
}

fn in_memory<T>(result: Result<T, ObjectsError>) -> T {
    result.expect("a map in memory loads nothing")
}

/// A value of a map in memory.
#[derive(Clone)]
pub(crate) struct Row<V>(V);

impl<V: MapValue> Value for Row<V> {
    fn put_hash(&self, scratch: &mut Scratch) {
        scratch.bytes.extend_from_slice(&self.0.hash().0);
    }
}

/// Takes entries; an error ends the walk.
pub(crate) type Visit<'a, V> = &'a mut dyn FnMut(&[u8], &V) -> Result<(), ObjectsError>;

/// What stands beside a key: a row, or a link to a node.
pub(crate) trait Value: Clone {
    /// Appends the value's hash, hashing what is not hashed yet.
    fn put_hash(&self, scratch: &mut Scratch);

    /// See [`Encode::hash_below`]. With rows for values a map is at most 512 parts deep.
    fn hash_below(_: &Part<Self>, _: &mut Scratch) {}
}

/// The top object of a container, or one below it.
#[derive(Clone)]
pub(crate) enum Part<V> {
    Bucket(Bucket<V>),
    Inner(Inner<V>),
}

#[derive(Clone)]
pub(crate) struct Bucket<V> {
    /// All keys one after the other; key `i` ends at `ends[i]`. One allocation for up to 16 keys.
    keys: Vec<u8>,
    ends: [u16; BUCKET_KEYS],
    pub values: Vec<V>,
}

#[derive(Clone)]
pub(crate) struct Inner<V> {
    /// One nibble to a byte; empty nearly always.
    pub skipped: Box<[u8]>,
    /// For the key that ends here: rare, so behind a pointer.
    pub own: Option<Box<V>>,
    pub bitmap: u16,
    /// One for each bit of the bitmap, ascending.
    pub branches: Vec<Branch<V>>,
}

#[derive(Clone)]
pub(crate) struct Branch<V> {
    pub count: u64,
    pub link: Link<Part<V>>,
}

impl<V: Value> Part<V> {
    pub fn single(key: &[u8], value: V) -> Part<V> {
        let mut bucket = Bucket::new();
        bucket.insert(0, key, value);
        Part::Bucket(bucket)
    }

    /// The part at `depth` nibbles for these keys, which ascend and share their first `depth` nibbles. Takes one value for each.
    pub fn build<I: Iterator<Item = V>>(keys: &[&[u8]], values: &mut I, depth: usize) -> Part<V> {
        let (Some(first), Some(last), true) = (keys.first(), keys.last(), keys.len() > BUCKET_KEYS) else {
            let mut bucket = Bucket::with_room(keys.iter().map(|key| key.len()).sum(), keys.len());
            for (index, (key, value)) in keys.iter().zip(values).enumerate() {
                bucket.insert(index, key, value);
            }
            return Part::Bucket(bucket);
        };
        let end = (depth..).find(|&at| nibble(first, at) != nibble(last, at) || nibble(first, at).is_none()).unwrap_or(depth);
        let mut inner = Inner {
            skipped: (depth..end).filter_map(|at| nibble(first, at)).collect(),
            own: None,
            bitmap: 0,
            branches: Vec::new(),
        };
        let mut rest = keys;
        if nibble(first, end).is_none() {
            inner.own = values.next().map(Box::new);
            rest = &keys[1..];
        }
        while let Some(branch) = rest.first().and_then(|key| nibble(key, end)) {
            let (below, behind) = rest.split_at(rest.partition_point(|key| nibble(key, end) <= Some(branch)));
            rest = behind;
            inner.bitmap |= 1 << branch;
            let link = Link::fresh(Part::build(below, values, end + 1));
            inner.branches.push(Branch { count: below.len() as u64, link });
        }
        Part::Inner(inner)
    }

    pub fn keys(&self) -> u64 {
        match self {
            Part::Bucket(bucket) => bucket.values.len() as u64,
            Part::Inner(inner) => inner.keys(),
        }
    }

    pub fn get<S: Source<Part<V>>>(&self, key: &[u8], source: &S) -> Result<Option<&V>, ObjectsError> {
        let (mut part, mut depth) = (self, 0);
        loop {
            let inner = match part {
                Part::Bucket(bucket) => return Ok(bucket.find(key).ok().map(|index| &bucket.values[index])),
                Part::Inner(inner) => inner,
            };
            let end = depth + inner.skipped.len();
            if inner.shared(key, depth) < inner.skipped.len() {
                return Ok(None);
            }
            let Some(next) = nibble(key, end) else { return Ok(inner.own.as_deref()) };
            let Some(branch) = inner.branch(next) else { return Ok(None) };
            let place = Place::Below { base: key, len: end, nibble: next, count: branch.count };
            part = branch.link.load(source, place)?;
            depth = end + 1;
        }
    }

    /// How many keys are below `key`, and whether it is there itself.
    pub fn rank<S: Source<Part<V>>>(&self, key: &[u8], source: &S) -> Result<(u64, bool), ObjectsError> {
        let (mut part, mut depth, mut below) = (self, 0, 0);
        loop {
            let inner = match part {
                Part::Bucket(bucket) => {
                    let found = bucket.find(key);
                    return Ok((below + found.unwrap_or_else(identity) as u64, found.is_ok()));
                }
                Part::Inner(inner) => inner,
            };
            let end = depth + inner.skipped.len();
            let shared = inner.shared(key, depth);
            if shared < inner.skipped.len() {
                // All keys here begin alike: the key sought stands before or behind all of them.
                let behind = nibble(key, depth + shared).is_some_and(|nibble| nibble > inner.skipped[shared]);
                return Ok((below + if behind { inner.keys() } else { 0 }, false));
            }
            let Some(next) = nibble(key, end) else { return Ok((below, inner.own.is_some())) };
            below += u64::from(inner.own.is_some());
            below += inner.branches[..inner.slot(next)].iter().map(|branch| branch.count).sum::<u64>();
            let Some(branch) = inner.branch(next) else { return Ok((below, false)) };
            let place = Place::Below { base: key, len: end, nibble: next, count: branch.count };
            part = branch.link.load(source, place)?;
            depth = end + 1;
        }
    }

    /// Visits at most `limit` entries in key order, from the one at `start` on.
    pub fn slice<S: Source<Part<V>>>(
        &self,
        start: u64,
        limit: u64,
        source: &S,
        visit: Visit<'_, V>,
    ) -> Result<(), ObjectsError> {
        let mut window = Window { skip: start, left: limit };
        self.slice_below(&mut NibblePath::default(), &mut window, source, visit)
    }

    fn slice_below<S: Source<Part<V>>>(
        &self,
        path: &mut NibblePath,
        window: &mut Window,
        source: &S,
        visit: Visit<'_, V>,
    ) -> Result<(), ObjectsError> {
        match self {
            Part::Bucket(bucket) => {
                for (index, value) in bucket.values.iter().enumerate() {
                    if window.takes_next() {
                        visit(bucket.key(index), value)?;
                    }
                }
            }
            Part::Inner(inner) => {
                let depth = path.len;
                path.extend(&inner.skipped);
                if let Some(own) = &inner.own
                    && window.takes_next()
                {
                    visit(&path.bytes, own)?;
                }
                for (nibble, branch) in inner.numbered() {
                    if window.left == 0 {
                        break;
                    }
                    if window.skip >= branch.count {
                        window.skip -= branch.count;
                        continue;
                    }
                    let part = branch.link.load(source, path.place(nibble, branch.count))?;
                    path.extend(&[nibble]);
                    part.slice_below(path, window, source, visit)?;
                    path.truncate(path.len - 1);
                }
                path.truncate(depth);
            }
        }
        Ok(())
    }

    /// Changes the value of a key that is there, in place. `None`: the key is not there, and nothing changed but forgotten hashes.
    pub fn edit<S: Source<Part<V>>, R>(
        &mut self,
        key: &[u8],
        source: &S,
        change: impl FnOnce(&mut V) -> Result<R, ObjectsError>,
    ) -> Result<Option<R>, ObjectsError> {
        let (mut part, mut depth) = (self, 0);
        loop {
            let inner = match part {
                Part::Bucket(bucket) => {
                    return match bucket.find(key) {
                        Ok(index) => change(&mut bucket.values[index]).map(Some),
                        Err(_) => Ok(None),
                    };
                }
                Part::Inner(inner) => inner,
            };
            let end = depth + inner.skipped.len();
            if inner.shared(key, depth) < inner.skipped.len() {
                return Ok(None);
            }
            let Some(next) = nibble(key, end) else {
                return inner.own.as_deref_mut().map(change).transpose();
            };
            let Some(branch) = inner.branch_mut(next) else { return Ok(None) };
            let place = Place::Below { base: key, len: end, nibble: next, count: branch.count };
            part = branch.link.edit(source, place)?;
            depth = end + 1;
        }
    }

    /// Returns what stood there before.
    pub fn insert<S: Source<Part<V>>>(
        &mut self,
        key: &[u8],
        value: V,
        depth: usize,
        source: &S,
    ) -> Result<Option<V>, ObjectsError> {
        check_key(key);
        let inner = match self {
            Part::Bucket(bucket) => {
                match bucket.find(key) {
                    Ok(index) => return Ok(Some(std::mem::replace(&mut bucket.values[index], value))),
                    Err(index) if bucket.values.len() < BUCKET_KEYS => bucket.insert(index, key, value),
                    Err(index) => {
                        let mut values = std::mem::take(&mut bucket.values);
                        let mut keys: Vec<&[u8]> = (0..values.len()).map(|index| bucket.key(index)).collect();
                        keys.insert(index, key);
                        values.insert(index, value);
                        *self = Part::build(&keys, &mut values.into_iter(), depth);
                    }
                }
                return Ok(None);
            }
            Part::Inner(inner) => inner,
        };
        let shared = inner.shared(key, depth);
        if shared < inner.skipped.len() {
            inner.split(shared);
        }
        let end = depth + shared;
        let Some(next) = nibble(key, end) else {
            return Ok(inner.own.replace(Box::new(value)).map(|own| *own));
        };
        let slot = inner.slot(next);
        match inner.branch_mut(next) {
            Some(branch) => {
                let place = Place::Below { base: key, len: end, nibble: next, count: branch.count };
                let before = branch.link.edit(source, place)?.insert(key, value, end + 1, source)?;
                branch.count += u64::from(before.is_none());
                Ok(before)
            }
            None => {
                inner.bitmap |= 1 << next;
                inner.branches.insert(slot, Branch { count: 1, link: Link::fresh(Part::single(key, value)) });
                Ok(None)
            }
        }
    }

    /// Returns what stood there. May leave an empty bucket behind: whoever holds the part drops it then.
    pub fn remove<S: Source<Part<V>>>(&mut self, key: &[u8], depth: usize, source: &S) -> Result<Option<V>, ObjectsError> {
        let inner = match self {
            Part::Bucket(bucket) => return Ok(bucket.find(key).ok().map(|index| bucket.remove(index))),
            Part::Inner(inner) => inner,
        };
        let end = depth + inner.skipped.len();
        if inner.shared(key, depth) < inner.skipped.len() {
            return Ok(None);
        }
        let removed = match nibble(key, end) {
            None => inner.own.take().map(|own| *own),
            Some(next) => {
                let slot = inner.slot(next);
                let Some(branch) = inner.branch_mut(next) else { return Ok(None) };
                let place = Place::Below { base: key, len: end, nibble: next, count: branch.count };
                let removed = branch.link.edit(source, place)?.remove(key, end + 1, source)?;
                branch.count -= u64::from(removed.is_some());
                if branch.count == 0 {
                    inner.bitmap &= !(1 << next);
                    inner.branches.remove(slot);
                }
                removed
            }
        };
        if removed.is_some() {
            self.settle(key, depth, source)?;
        }
        Ok(removed)
    }

    /// Gives an inner that has lost a key the shape which its keys ask for. `key` had all its prefix.
    fn settle<S: Source<Part<V>>>(&mut self, key: &[u8], depth: usize, source: &S) -> Result<(), ObjectsError> {
        let Part::Inner(inner) = self else { return Ok(()) };
        let end = depth + inner.skipped.len();
        if inner.keys() <= BUCKET_KEYS as u64 {
            let mut bucket = Bucket::new();
            if let Some(own) = inner.own.take() {
                bucket.insert(0, &key[..end / 2], *own);
            }
            for (next, branch) in inner.numbered() {
                let place = Place::Below { base: key, len: end, nibble: next, count: branch.count };
                if let Part::Bucket(below) = &**branch.link.load(source, place)? {
                    for (index, value) in below.values.iter().enumerate() {
                        bucket.insert(bucket.values.len(), below.key(index), value.clone());
                    }
                }
            }
            *self = Part::Bucket(bucket);
        } else if let (None, [branch]) = (&inner.own, &inner.branches[..]) {
            let next = inner.bitmap.trailing_zeros() as u8;
            let place = Place::Below { base: key, len: end, nibble: next, count: branch.count };
            if let Part::Inner(below) = &**branch.link.load(source, place)? {
                let mut merged = below.clone();
                merged.skipped = inner.skipped.iter().chain(&[next]).chain(&below.skipped).copied().collect();
                *self = Part::Inner(merged);
            }
        }
        Ok(())
    }
}

impl<V> Inner<V> {
    pub fn keys(&self) -> u64 {
        u64::from(self.own.is_some()) + self.branches.iter().map(|branch| branch.count).sum::<u64>()
    }

    /// How many nibbles of the prefix `key` has, behind its first `depth`.
    fn shared(&self, key: &[u8], depth: usize) -> usize {
        self.skipped.iter().zip(depth..).take_while(|(own, at)| nibble(key, *at) == Some(**own)).count()
    }

    /// Where the branch of `nibble` stands or would stand.
    fn slot(&self, nibble: u8) -> usize {
        (self.bitmap & ((1u16 << nibble) - 1)).count_ones() as usize
    }

    pub fn branch(&self, nibble: u8) -> Option<&Branch<V>> {
        if self.bitmap & 1 << nibble != 0 { self.branches.get(self.slot(nibble)) } else { None }
    }

    fn branch_mut(&mut self, nibble: u8) -> Option<&mut Branch<V>> {
        let slot = self.slot(nibble);
        if self.bitmap & 1 << nibble != 0 { self.branches.get_mut(slot) } else { None }
    }

    /// The branches with their nibbles, ascending.
    pub fn numbered(&self) -> impl Iterator<Item = (u8, &Branch<V>)> {
        let bitmap = self.bitmap;
        (0..16u8).filter(move |nibble| bitmap & 1 << nibble != 0).zip(&self.branches)
    }

    /// Ends the prefix after `shared` nibbles; what was here hangs below as the only branch.
    fn split(&mut self, shared: usize) {
        let count = self.keys();
        let next = self.skipped[shared];
        let below = Inner {
            skipped: self.skipped[shared + 1..].into(),
            own: self.own.take(),
            bitmap: self.bitmap,
            branches: std::mem::take(&mut self.branches),
        };
        self.skipped = self.skipped[..shared].into();
        self.bitmap = 1 << next;
        self.branches.push(Branch { count, link: Link::fresh(Part::Inner(below)) });
    }
}

/// Takes inner after inner apart in a loop: a chain of them may be deeper than a stack.
impl<V> Drop for Inner<V> {
    fn drop(&mut self) {
        let mut open = std::mem::take(&mut self.branches);
        while let Some(branch) = open.pop() {
            if let Some(Part::Inner(mut inner)) = branch.link.into_content() {
                open.append(&mut inner.branches);
            }
        }
    }
}

impl<V> Bucket<V> {
    pub fn new() -> Bucket<V> {
        Bucket::with_room(0, 0)
    }

    pub fn with_room(bytes: usize, keys: usize) -> Bucket<V> {
        Bucket { keys: Vec::with_capacity(bytes), ends: [0; BUCKET_KEYS], values: Vec::with_capacity(keys) }
    }

    pub fn key(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.keys[usize::from(start)..usize::from(self.ends[index])]
    }

    /// Where the key is, or where it would stand.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.values.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// There must be room: at most 16 keys of at most 256 bytes, so that an end fits into 16 bits.
    pub fn insert(&mut self, index: usize, key: &[u8], value: V) {
        check_key(key);
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let at = usize::from(start);
        self.keys.reserve_exact(key.len());
        self.keys.splice(at..at, key.iter().copied());
        if self.values.len() == self.values.capacity() {
            self.values.reserve_exact(4);
        }
        self.values.insert(index, value);
        let length = key.len() as u16;
        self.ends.copy_within(index..BUCKET_KEYS - 1, index + 1);
        self.ends[index] = start + length;
        for end in &mut self.ends[index + 1..self.values.len()] {
            *end += length;
        }
    }

    fn remove(&mut self, index: usize) -> V {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let length = self.ends[index] - start;
        self.keys.drain(usize::from(start)..usize::from(self.ends[index]));
        self.ends.copy_within(index + 1.., index);
        let value = self.values.remove(index);
        for end in &mut self.ends[index..self.values.len()] {
            *end -= length;
        }
        value
    }
}

impl<V: Value> Encode for Part<V> {
    fn hash_below(&self, scratch: &mut Scratch) {
        V::hash_below(self, scratch);
    }

    fn encode(&self, scratch: &mut Scratch) {
        match self {
            Part::Bucket(bucket) => {
                scratch.bytes.push(KIND_BUCKET);
                put_varint(&mut scratch.bytes, bucket.values.len() as u64);
                for (index, value) in bucket.values.iter().enumerate() {
                    let key = bucket.key(index);
                    put_varint(&mut scratch.bytes, key.len() as u64);
                    scratch.bytes.extend_from_slice(key);
                    value.put_hash(scratch);
                }
            }
            Part::Inner(inner) => {
                scratch.bytes.push(KIND_INNER);
                put_prefix(&mut scratch.bytes, &inner.skipped);
                scratch.bytes.push(u8::from(inner.own.is_some()));
                if let Some(own) = &inner.own {
                    own.put_hash(scratch);
                }
                scratch.bytes.extend_from_slice(&inner.bitmap.to_be_bytes());
                for branch in &inner.branches {
                    put_varint(&mut scratch.bytes, branch.count);
                }
                for branch in &inner.branches {
                    branch.link.put_hash(scratch);
                }
            }
        }
    }
}

impl<V> Part<V> {
    /// Bytes of memory, without what is below.
    pub fn size_in_memory(&self) -> usize {
        size_of::<Part<V>>()
            + match self {
                Part::Bucket(bucket) => bucket.keys.capacity() + bucket.values.capacity() * size_of::<V>(),
                Part::Inner(inner) => inner.skipped.len() + inner.branches.capacity() * size_of::<Branch<V>>(),
            }
    }
}

/// Keys are checked where they come in from outside; one that got here all the same would make an object that no decoder takes.
fn check_key(key: &[u8]) {
    assert!((1..=MAX_KEY).contains(&key.len()), "a key of {} bytes was let through", key.len());
}

/// Nibbles consumed on the way down, packed two to a byte.
#[derive(Clone, Default)]
pub(crate) struct NibblePath {
    pub bytes: Vec<u8>,
    pub len: usize,
}

impl NibblePath {
    pub fn extend(&mut self, nibbles: &[u8]) {
        for nibble in nibbles {
            match self.bytes.last_mut() {
                Some(last) if self.len % 2 == 1 => *last |= nibble,
                _ => self.bytes.push(nibble << 4),
            }
            self.len += 1;
        }
    }

    pub fn truncate(&mut self, len: usize) {
        self.len = len;
        self.bytes.truncate(len.div_ceil(2));
        if let (Some(last), 1) = (self.bytes.last_mut(), len % 2) {
            *last &= 0xf0;
        }
    }

    /// The place below the branch of `nibble`, behind this path.
    pub fn place(&self, nibble: u8, count: u64) -> Place<'_> {
        Place::Below { base: &self.bytes, len: self.len, nibble, count }
    }
}

/// Which entries of a walk are meant: `left` of them after `skip`.
struct Window {
    skip: u64,
    left: u64,
}

impl Window {
    fn takes_next(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let takes = self.left > 0;
        self.left -= u64::from(takes);
        takes
    }
}
