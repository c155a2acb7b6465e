//! What a tree's objects hold in memory, and how they are loaded and checked.

use crate::ids::Hash;
use crate::link::{AnyLink, Content, Encode, Link, Scratch, Source, hash_all, measure};
use crate::map::{Branch, Bucket, Inner, Part, Value};
use crate::node::{
    self, ConfigObject, EMPTY_NODE, EMPTY_NODE_BYTES, INLINE_CONFIG, KIND_BLOB, KIND_NODE, Object, ObjectRefused, Place,
    check_place, put_varint,
};
use crate::objects::{Objects, ObjectsError, ObjectsErrorCause};
use crate::path::Step;
use crate::subtree::Subtree;
use bytes::Bytes;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// One immutable node in memory.
#[derive(Clone, Default)]
pub(crate) struct Node {
    pub config: Config,
    /// Ascending by field number.
    pub entries: Vec<Entry>,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub field: u32,
    pub link: Link<Child>,
}

/// What an entry of a node leads to; which of the two it is shows when it is loaded, from its kind.
#[derive(Clone)]
pub(crate) enum Child {
    Single(Arc<Node>),
    Container(Part<Link<Node>>),
}

#[derive(Clone)]
pub(crate) enum Config {
    Inline(Box<[u8]>),
    Blob(Box<Link<Blob>>),
}

#[derive(Clone)]
pub(crate) struct Blob(Box<[u8]>);

/// What an edit has to copy of a node that somebody else holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copying {
    All,
    /// The config is about to be replaced.
    AllButConfig,
}

pub(crate) fn container_mut<'a>(link: &'a mut Link<Child>, loader: &Loader<'_>) -> Result<&'a mut Part<Link<Node>>, ObjectsError> {
    let wrong = match &**link.load(loader, Place::Top)? {
        Child::Container(_) => None,
        child => Some(child.wrong(link)),
    };
    match (link.edit(loader, Place::Top)?, wrong) {
        (Child::Container(part), None) => Ok(part),
        (child, wrong) => Err(wrong.unwrap_or_else(|| child.wrong_at(Hash::ZERO))),
    }
}

pub(crate) fn single_mut<'a>(
    link: &'a mut Link<Child>,
    loader: &Loader<'_>,
    copying: Copying,
    rest: &[Step],
) -> Result<&'a mut Node, ObjectsError> {
    let wrong = match &**link.load(loader, Place::Top)? {
        Child::Single(_) => None,
        child => Some(child.wrong(link)),
    };
    match (link.edit(loader, Place::Top)?, wrong) {
        (Child::Single(node), None) => {
            if Arc::get_mut(node).is_none() {
                *node = Arc::new(node.copy(copying, rest));
            }
            Ok(Arc::make_mut(node))
        }
        (child, wrong) => Err(wrong.unwrap_or_else(|| child.wrong_at(Hash::ZERO))),
    }
}

pub(crate) fn container_of(entries: &[(Box<[u8]>, Subtree<'_>)], memory: &Meter) -> Option<Part<Link<Node>>> {
    if entries.is_empty() {
        return None;
    }
    let mut nodes: Vec<(&[u8], &Subtree<'_>)> = entries.iter().map(|(key, subtree)| (&**key, subtree)).collect();
    if !nodes.is_sorted_by(|one, next| one.0 < next.0) {
        nodes.sort_by_key(|(key, _)| *key);
        nodes.dedup_by_key(|(key, _)| *key);
    }
    let keys: Vec<&[u8]> = nodes.iter().map(|(key, _)| *key).collect();
    // Made before the parts, so that the stack never holds more than one container's.
    let links: Vec<Link<Node>> = nodes.iter().map(|(_, subtree)| Link::fresh(Node::of(subtree, memory))).collect();
    memory.add(keys.iter().map(|key| key.len() + size_of::<Link<Node>>()).sum());
    Some(Part::build(&keys, &mut links.into_iter(), 0))
}

impl Node {
    pub fn of(subtree: &Subtree<'_>, memory: &Meter) -> Node {
        let mut node = Node { config: Config::of(&subtree.config), entries: Vec::new() };
        for children in &subtree.children {
            let link = match &children.entries[..] {
                // Only a single child has an empty key.
                [(key, single)] if key.is_empty() => {
                    let single = Node::of(single, memory);
                    if single.is_default() {
                        continue;
                    }
                    Link::fresh(Child::Single(Arc::new(single)))
                }
                entries => match container_of(entries, memory) {
                    Some(part) => Link::fresh(Child::Container(part)),
                    None => continue,
                },
            };
            node.put_entry(children.field, Some(link));
        }
        memory.add(node.size());
        node
    }

    pub fn is_default(&self) -> bool {
        self.entries.is_empty() && matches!(&self.config, Config::Inline(bytes) if bytes.is_empty())
    }

    pub fn entry(&self, field: u32) -> Option<&Link<Child>> {
        let index = self.entries.binary_search_by_key(&field, |entry| entry.field).ok()?;
        Some(&self.entries[index].link)
    }

    pub fn entry_mut(&mut self, field: u32) -> Option<&mut Link<Child>> {
        let index = self.entries.binary_search_by_key(&field, |entry| entry.field).ok()?;
        Some(&mut self.entries[index].link)
    }

    pub fn put_entry(&mut self, field: u32, link: Option<Link<Child>>) {
        match (self.entries.binary_search_by_key(&field, |entry| entry.field), link) {
            (Ok(index), Some(link)) => self.entries[index].link = link,
            (Ok(index), None) => drop(self.entries.remove(index)),
            (Err(index), Some(link)) => {
                self.entries.reserve_exact(1);
                self.entries.insert(index, Entry { field, link });
            }
            (Err(_), None) => {}
        }
    }

    /// A copy for an edit whose remaining way is `rest`.
    pub fn copy(&self, copying: Copying, rest: &[Step]) -> Node {
        match rest.is_empty() && copying == Copying::AllButConfig {
            true => Node { config: Config::default(), entries: self.entries.clone() },
            false => self.clone(),
        }
    }

    pub fn data_hash(&self) -> Hash {
        match &self.config {
            Config::Inline(bytes) => node::data_hash(bytes),
            Config::Blob(link) => link.hash_alone(),
        }
    }

    pub fn config(&self, loader: &Loader<'_>) -> Result<&[u8], ObjectsError> {
        match &self.config {
            Config::Inline(bytes) => Ok(bytes),
            Config::Blob(link) => Ok(&link.load(loader, Place::Top)?.0),
        }
    }
}

impl Child {
    pub fn part(&self) -> Option<&Part<Link<Node>>> {
        match self {
            Child::Container(part) => Some(part),
            Child::Single(_) => None,
        }
    }

    pub fn wrong(&self, link: &Link<Child>) -> ObjectsError {
        self.wrong_at(link.hash_alone())
    }

    /// The path was resolved against a schema that says otherwise.
    pub fn wrong_at(&self, hash: Hash) -> ObjectsError {
        let (expected, found) = match self {
            Child::Single(_) => ("container", "node"),
            Child::Container(_) => ("node", "container"),
        };
        corrupt(&hash, ObjectRefused::WrongKind { expected, found })
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::Inline(Box::default())
    }
}

impl Config {
    pub fn of(bytes: &[u8]) -> Config {
        match bytes.len() {
            0..=INLINE_CONFIG => Config::Inline(bytes.into()),
            _ => Config::Blob(Box::new(Link::fresh(Blob(bytes.into())))),
        }
    }

    /// Keeps the memory it has where that fits.
    pub fn set(&mut self, bytes: &[u8]) {
        match self {
            Config::Inline(old) if old.len() == bytes.len() => old.copy_from_slice(bytes),
            _ => *self = Config::of(bytes),
        }
    }

    /// Bytes in memory.
    pub fn length(&self) -> usize {
        match self {
            Config::Inline(bytes) => bytes.len(),
            Config::Blob(link) => measure(&**link),
        }
    }
}

impl Value for Link<Node> {
    #[inline]
    fn put_hash(&self, scratch: &mut Scratch) {
        Link::put_hash(self, scratch);
    }

    fn hash_below(part: &Part<Link<Node>>, scratch: &mut Scratch) {
        hash_links(part, scratch);
    }
}

fn hash_links(content: &impl Content, scratch: &mut Scratch) {
    let mut open = Vec::new();
    content.each_link(&mut |link| open.push(link));
    hash_all(open, scratch);
}

impl Encode for Node {
    fn encode(&self, scratch: &mut Scratch) {
        scratch.bytes.push(KIND_NODE);
        match &self.config {
            Config::Inline(bytes) => {
                scratch.bytes.push(0);
                put_varint(&mut scratch.bytes, bytes.len() as u64);
                scratch.bytes.extend_from_slice(bytes);
            }
            Config::Blob(link) => {
                scratch.bytes.push(1);
                link.put_hash(scratch);
            }
        }
        put_varint(&mut scratch.bytes, self.entries.len() as u64);
        for entry in &self.entries {
            put_varint(&mut scratch.bytes, u64::from(entry.field));
            entry.link.put_hash(scratch);
        }
    }

    fn hash_below(&self, scratch: &mut Scratch) {
        hash_links(self, scratch);
    }
}

impl Content for Node {
    fn each_link<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn AnyLink)) {
        if let Config::Blob(link) = &self.config {
            visit(&**link);
        }
        self.entries.iter().for_each(|entry| visit(&entry.link));
    }

    fn each_link_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut dyn AnyLink)) {
        if let Config::Blob(link) = &mut self.config {
            visit(&mut **link);
        }
        self.entries.iter_mut().for_each(|entry| visit(&mut entry.link));
    }

    fn size(&self) -> usize {
        let config = match &self.config {
            Config::Inline(bytes) => bytes.len(),
            Config::Blob(_) => size_of::<Link<Blob>>(),
        };
        ARC + size_of::<Node>() + config + self.entries.capacity() * size_of::<Entry>()
    }
}

impl Encode for Child {
    fn encode(&self, scratch: &mut Scratch) {
        match self {
            Child::Single(node) => node.encode(scratch),
            Child::Container(part) => part.encode(scratch),
        }
    }

    fn hash_below(&self, scratch: &mut Scratch) {
        hash_links(self, scratch);
    }
}

impl Content for Child {
    fn each_link<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn AnyLink)) {
        match self {
            Child::Single(node) => node.each_link(visit),
            Child::Container(part) => part.each_link(visit),
        }
    }

    fn each_link_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut dyn AnyLink)) {
        match self {
            Child::Single(node) => Arc::make_mut(node).each_link_mut(visit),
            Child::Container(part) => part.each_link_mut(visit),
        }
    }

    fn size(&self) -> usize {
        ARC + match self {
            Child::Single(node) => node.size(),
            Child::Container(part) => Content::size(part),
        }
    }
}

impl Content for Part<Link<Node>> {
    fn each_link<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn AnyLink)) {
        match self {
            Part::Bucket(bucket) => bucket.values.iter().for_each(|link| visit(link)),
            Part::Inner(inner) => {
                inner.own.iter().for_each(|own| visit(&**own));
                inner.branches.iter().for_each(|branch| visit(&branch.link));
            }
        }
    }

    fn each_link_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut dyn AnyLink)) {
        match self {
            Part::Bucket(bucket) => bucket.values.iter_mut().for_each(|link| visit(link)),
            Part::Inner(inner) => {
                inner.own.iter_mut().for_each(|own| visit(&mut **own));
                inner.branches.iter_mut().for_each(|branch| visit(&mut branch.link));
            }
        }
    }

    fn size(&self) -> usize {
        ARC + self.size_in_memory()
    }
}

impl Encode for Blob {
    fn encode(&self, scratch: &mut Scratch) {
        scratch.bytes.push(KIND_BLOB);
        scratch.bytes.extend_from_slice(&self.0);
    }
}

impl Content for Blob {
    fn each_link<'a>(&'a self, _: &mut dyn FnMut(&'a dyn AnyLink)) {}
    fn each_link_mut<'a>(&'a mut self, _: &mut dyn FnMut(&'a mut dyn AnyLink)) {}

    fn size(&self) -> usize {
        ARC + self.0.len()
    }
}

/// The two counters in front of what an `Arc` holds, and the allocator's own word.
const ARC: usize = 24;

/// Roughly how many bytes of objects are loaded, counted by a tree and its clones together.
#[derive(Clone, Default)]
pub(crate) struct Meter(pub Arc<AtomicUsize>);

impl Meter {
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Relaxed);
    }

    pub fn subtract(&self, bytes: usize) {
        let before = self.0.load(Relaxed);
        self.0.store(before.saturating_sub(bytes), Relaxed);
    }
}

/// Loads objects, checks them, counts what they take, and keeps a trace for proofs where one is wanted.
pub(crate) struct Loader<'a> {
    pub objects: &'a dyn Objects,
    pub memory: &'a Meter,
    pub trace: Option<&'a RefCell<Vec<Bytes>>>,
}

impl Loader<'_> {
    fn decoded<T: Content>(
        &self,
        hash: &Hash,
        make: impl FnOnce(Object<'_>) -> Result<T, ObjectRefused>,
    ) -> Result<T, ObjectsError> {
        let bytes = checked_object(hash, self.objects)?;
        let content = node::decode(&bytes).and_then(make).map_err(|refused| corrupt(hash, refused))?;
        self.memory.add(content.size());
        Ok(content)
    }

    fn trace(&self, content: &impl Encode) {
        if let Some(trace) = self.trace {
            let mut scratch = Scratch::default();
            content.encode(&mut scratch);
            trace.borrow_mut().push(scratch.bytes.into());
        }
    }
}

/// The bytes of an object, which hash to what it is called (H8).
pub(crate) fn checked_object(hash: &Hash, objects: &dyn Objects) -> Result<Bytes, ObjectsError> {
    if *hash == EMPTY_NODE {
        return Ok(Bytes::from_static(EMPTY_NODE_BYTES));
    }
    let bytes = objects.object(hash)?;
    match Hash::of(&bytes) {
        found if found == *hash => Ok(bytes),
        found => Err(corrupt(hash, ObjectRefused::HashDiffers(found))),
    }
}

pub(crate) fn corrupt(hash: &Hash, refused: ObjectRefused) -> ObjectsError {
    ObjectsError { hash: *hash, cause: ObjectsErrorCause::Corrupt(refused.to_string()) }
}

impl Source<Node> for Loader<'_> {
    fn load(&self, hash: &Hash, _: Place<'_>) -> Result<Node, ObjectsError> {
        self.decoded(hash, |object| match object {
            Object::Node(node) => Ok(node_of(node)),
            other => Err(ObjectRefused::WrongKind { expected: "node", found: other.kind_name() }),
        })
    }

    fn passed(&self, content: &Node) {
        self.trace(content);
    }
}

impl Source<Child> for Loader<'_> {
    fn load(&self, hash: &Hash, place: Place<'_>) -> Result<Child, ObjectsError> {
        self.decoded(hash, |object| match object {
            Object::Node(node) => Ok(Child::Single(Arc::new(node_of(node)))),
            Object::Blob(_) => Err(ObjectRefused::WrongKind { expected: "node or container", found: "blob" }),
            container => part_of(container, place).map(Child::Container),
        })
    }

    fn passed(&self, content: &Child) {
        self.trace(content);
    }
}

impl Source<Part<Link<Node>>> for Loader<'_> {
    fn load(&self, hash: &Hash, place: Place<'_>) -> Result<Part<Link<Node>>, ObjectsError> {
        self.decoded(hash, |object| part_of(object, place))
    }

    fn passed(&self, content: &Part<Link<Node>>) {
        self.trace(content);
    }
}

impl Source<Blob> for Loader<'_> {
    fn load(&self, hash: &Hash, _: Place<'_>) -> Result<Blob, ObjectsError> {
        self.decoded(hash, |object| match object {
            Object::Blob(bytes) => Ok(Blob(bytes.into())),
            other => Err(ObjectRefused::WrongKind { expected: "blob", found: other.kind_name() }),
        })
    }

    fn passed(&self, content: &Blob) {
        self.trace(content);
    }
}

fn node_of(object: node::NodeObject<'_>) -> Node {
    let config = match object.config {
        ConfigObject::Inline(bytes) => Config::Inline(bytes.into()),
        ConfigObject::Blob(hash) => Config::Blob(Box::new(Link::stored(hash))),
    };
    let entries = object.entries.into_iter().map(|(field, hash)| Entry { field, link: Link::stored(hash) }).collect();
    Node { config, entries }
}

fn part_of(object: Object<'_>, place: Place<'_>) -> Result<Part<Link<Node>>, ObjectRefused> {
    check_place(&object, place)?;
    match object {
        Object::Bucket(object) => {
            let room = object.entries.iter().map(|(key, _)| key.len()).sum();
            let mut bucket = Bucket::with_room(room, object.entries.len());
            for (index, (key, hash)) in object.entries.into_iter().enumerate() {
                bucket.insert(index, key, Link::stored(hash));
            }
            Ok(Part::Bucket(bucket))
        }
        Object::Inner(object) => Ok(Part::Inner(Inner {
            bitmap: object.branches.iter().fold(0, |bitmap, branch| bitmap | 1 << branch.nibble),
            skipped: object.skipped.into(),
            own: object.own.map(|hash| Box::new(Link::stored(hash))),
            branches: object
                .branches
                .iter()
                .map(|branch| Branch { count: branch.count, link: Link::stored(branch.hash) })
                .collect(),
        })),
        other => Err(ObjectRefused::WrongKind { expected: "container", found: other.kind_name() }),
    }
}
