//! A link to an immutable object: its hash, its content, or both.
//!
//! Links make a tree persistent: a clone shares everything, an edit copies only what others still hold (`Arc::make_mut`), so within
//! one edit fresh objects change in place and each is hashed once, when its hash is asked for. The hash, the content and the two
//! flags can be filled in through a shared reference; readers never lock. A clone of a link copies the flags it finds: a copy made
//! before its object was handed out may hand it out once more, which a content-addressed store does not mind.

use crate::ids::Hash;
use crate::node::Place;
use crate::objects::ObjectsError;
use bytes::Bytes;
use once_cell::sync::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The object and everything below it has been handed out for storing, or came from a store.
const PERSISTED: u8 = 1;
/// Used since the last pass of shedding.
const TOUCHED: u8 = 2;
/// The hash is known.
const HASHED: u8 = 4;

/// What becomes an object.
pub(crate) trait Encode: Clone {
    /// Appends the object's bytes. What is below is hashed where that is not done yet.
    fn encode(&self, scratch: &mut Scratch);

    /// Hashes all that is below without recursion; for contents that can be nested deeper than a stack is.
    fn hash_below(&self, _: &mut Scratch) {}
}

/// What an object of a tree holds in memory.
pub(crate) trait Content: Encode {
    fn each_link<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn AnyLink));
    fn each_link_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut dyn AnyLink));
    /// Bytes of memory that it takes, without what is below.
    fn size(&self) -> usize;
}

/// A buffer for encoding, used as a stack: whoever appends a preimage to hash it takes it away again.
#[derive(Default)]
pub(crate) struct Scratch {
    pub bytes: Vec<u8>,
    depth: usize,
}

impl Scratch {
    pub fn with_room() -> Scratch {
        Scratch { bytes: Vec::with_capacity(4096), depth: 0 }
    }
}

/// The hash of content that is at hand without its link.
pub(crate) fn hash_of(content: &impl Encode) -> Hash {
    let mut scratch = Scratch::with_room();
    content.encode(&mut scratch);
    Hash::of(&scratch.bytes)
}

/// Hashing goes down by recursion this far, which is further than any tree of a real configuration is deep.
const RECURSION: usize = 64;

/// Loads content by hash.
pub(crate) trait Source<T> {
    fn load(&self, hash: &Hash, place: Place<'_>) -> Result<T, ObjectsError>;

    /// Told of everything that is passed on the way down, loaded just now or long ago.
    fn passed(&self, _content: &T) {}
}

pub(crate) struct Link<T> {
    loaded: OnceCell<Arc<T>>,
    /// Valid behind the flag HASHED, which is always there when nothing is loaded. Whoever writes it writes the same, as it follows
    /// from the content; so writers need no lock.
    hash: [AtomicU64; 4],
    flags: AtomicU8,
}

impl<T> Link<T> {
    /// To an object that a store holds.
    pub fn stored(hash: Hash) -> Link<T> {
        Link { loaded: OnceCell::new(), hash: words(&hash), flags: AtomicU8::new(PERSISTED | HASHED) }
    }

    /// To an object that has just been made.
    pub fn fresh(content: T) -> Link<T> {
        let loaded = OnceCell::with_value(Arc::new(content));
        Link { loaded, hash: Default::default(), flags: AtomicU8::new(TOUCHED) }
    }

    /// To content whose hash is known but which a store may not hold.
    pub fn of(content: Arc<T>, hash: Hash) -> Link<T> {
        Link { loaded: OnceCell::with_value(content), hash: words(&hash), flags: AtomicU8::new(TOUCHED | HASHED) }
    }

    /// The hash, where it is known already.
    pub fn known(&self) -> Option<Hash> {
        self.has_hash().then(|| self.hash_words())
    }

    fn has_hash(&self) -> bool {
        self.flags.load(Ordering::Acquire) & HASHED != 0
    }

    pub fn load<S: Source<T> + ?Sized>(&self, source: &S, place: Place<'_>) -> Result<&Arc<T>, ObjectsError> {
        if self.flags.load(Ordering::Relaxed) & TOUCHED == 0 {
            self.flags.fetch_or(TOUCHED, Ordering::Relaxed);
        }
        let content = self.loaded.get_or_try_init(|| source.load(&self.hash_words(), place).map(Arc::new))?;
        source.passed(content);
        Ok(content)
    }

    /// The content, where nobody else holds it.
    pub fn into_content(self) -> Option<T> {
        self.loaded.into_inner().and_then(Arc::into_inner)
    }

    fn hash_words(&self) -> Hash {
        let mut hash = [0; 32];
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(&self.hash) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        Hash(hash)
    }

    fn set_hash(&self, hash: &Hash) {
        for (word, new) in self.hash.iter().zip(words(hash)) {
            word.store(new.into_inner(), Ordering::Relaxed);
        }
        self.flags.fetch_or(HASHED, Ordering::Release);
    }
}

fn words(hash: &Hash) -> [AtomicU64; 4] {
    let (words, _) = hash.0.as_chunks();
    std::array::from_fn(|index| AtomicU64::new(u64::from_ne_bytes(words[index])))
}

impl<T: Encode> Link<T> {
    /// The content for changing, copied if somebody else holds it. Forgets the hash, so it is for edits that will change something.
    pub fn edit<S: Source<T> + ?Sized>(&mut self, source: &S, place: Place<'_>) -> Result<&mut T, ObjectsError> {
        self.changing(source, place).map(Arc::make_mut)
    }

    /// Like [`Link::edit`]; where others hold the content, `copy` makes ours.
    pub fn edit_with<S: Source<T> + ?Sized>(
        &mut self,
        source: &S,
        place: Place<'_>,
        copy: impl FnOnce(&T) -> T,
    ) -> Result<&mut T, ObjectsError> {
        let content = self.changing(source, place)?;
        if Arc::get_mut(content).is_none() {
            *content = Arc::new(copy(content));
        }
        Ok(Arc::make_mut(content))
    }

    fn changing<S: Source<T> + ?Sized>(&mut self, source: &S, place: Place<'_>) -> Result<&mut Arc<T>, ObjectsError> {
        self.load(source, place)?;
        *self.flags.get_mut() = TOUCHED;
        Ok(self.loaded.get_mut().expect("loaded just above"))
    }

    /// Hashes what is not hashed yet.
    pub fn hash(&self, scratch: &mut Scratch) -> Hash {
        self.known().unwrap_or_else(|| {
            let content = self.loaded.get().expect("a link without a hash has content");
            if scratch.depth >= RECURSION {
                content.hash_below(scratch);
            }
            scratch.depth += 1;
            let start = scratch.bytes.len();
            content.encode(scratch);
            let hash = Hash::of(&scratch.bytes[start..]);
            scratch.bytes.truncate(start);
            scratch.depth -= 1;
            self.set_hash(&hash);
            hash
        })
    }

    /// Appends the hash to a preimage, hashing what is not hashed yet.
    #[inline]
    pub fn put_hash(&self, scratch: &mut Scratch) {
        if !self.has_hash() {
            self.hash(scratch);
        }
        // Word by word: a hash put together on the stack would have to be stored before it can be copied.
        for word in &self.hash {
            scratch.bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// The hash on its own, for where it is known nearly always.
    pub fn hash_alone(&self) -> Hash {
        self.known().unwrap_or_else(|| self.hash(&mut Scratch::with_room()))
    }
}

impl<T> Clone for Link<T> {
    fn clone(&self) -> Link<T> {
        // The flags first: where they say so, the hash is there.
        let flags = self.flags.load(Ordering::Acquire);
        let hash = std::array::from_fn(|index| AtomicU64::new(self.hash[index].load(Ordering::Relaxed)));
        Link { loaded: self.loaded.clone(), hash, flags: AtomicU8::new(flags) }
    }
}

/// What can be done with a link whatever it leads to. Nothing here recurses: keys that begin alike, in containers within
/// containers, make trees deeper than a thread's stack.
pub(crate) trait AnyLink {
    fn is_hashed(&self) -> bool;
    fn is_persisted(&self) -> bool;
    /// Hashes the content; everything below is hashed already.
    fn hash_here(&self, scratch: &mut Scratch);
    /// Encodes the content, tells it with its hash, and remembers it as persisted. Everything below is.
    fn hand_out_here(&self, scratch: &mut Scratch, sink: &mut dyn FnMut(Hash, Bytes));
    /// Bytes of memory, without what is below.
    fn size_here(&self) -> usize;
    /// The links of what is loaded.
    fn each_below<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn AnyLink));
    /// Forgets the content if it can be had again and is to go; else the links below are to be looked at.
    fn shed_here<'a>(&'a mut self, shedding: &mut Shedding, below: &mut dyn FnMut(&'a mut dyn AnyLink));
}

/// How much a pass of shedding still has to free, and whether it spares what was used lately.
pub(crate) struct Shedding {
    pub excess: usize,
    pub spare_touched: bool,
}

/// Hashes these and all that is below, children first.
pub(crate) fn hash_all(mut open: Vec<&dyn AnyLink>, scratch: &mut Scratch) {
    while let Some(link) = open.last().copied() {
        let before = open.len();
        if !link.is_hashed() {
            link.each_below(&mut |below| {
                if !below.is_hashed() {
                    open.push(below);
                }
            });
        }
        if open.len() == before {
            open.pop();
            link.hash_here(scratch);
        }
    }
}

/// Hands out what is new at and below a link, children first.
pub(crate) fn hand_out(link: &dyn AnyLink, sink: &mut dyn FnMut(Hash, Bytes)) {
    let mut scratch = Scratch::with_room();
    let mut open = vec![link];
    while let Some(link) = open.last().copied() {
        let before = open.len();
        if !link.is_persisted() {
            link.each_below(&mut |below| {
                if !below.is_persisted() {
                    open.push(below);
                }
            });
        }
        if open.len() == before {
            open.pop();
            if !link.is_persisted() {
                link.hand_out_here(&mut scratch, sink);
            }
        }
    }
}

/// Bytes of memory that the loaded objects at and below a link take.
pub(crate) fn measure(link: &dyn AnyLink) -> usize {
    let mut open = vec![link];
    let mut size = 0;
    while let Some(link) = open.pop() {
        size += link.size_here();
        link.each_below(&mut |below| open.push(below));
    }
    size
}

/// Forgets content until nothing is in excess or all has been looked at.
pub(crate) fn shed(link: &mut dyn AnyLink, shedding: &mut Shedding) {
    let mut open = vec![link];
    while let Some(link) = open.pop() {
        if shedding.excess == 0 {
            return;
        }
        link.shed_here(shedding, &mut |below| open.push(below));
    }
}

impl<T: Content> AnyLink for Link<T> {
    fn is_hashed(&self) -> bool {
        self.has_hash()
    }

    fn is_persisted(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & PERSISTED != 0
    }

    fn hash_here(&self, scratch: &mut Scratch) {
        self.hash(scratch);
    }

    fn hand_out_here(&self, scratch: &mut Scratch, sink: &mut dyn FnMut(Hash, Bytes)) {
        let content = self.loaded.get().expect("what is not persisted is loaded");
        content.encode(scratch);
        let hash = self.known().unwrap_or_else(|| Hash::of(&scratch.bytes));
        self.set_hash(&hash);
        sink(hash, Bytes::copy_from_slice(&scratch.bytes));
        scratch.bytes.clear();
        self.flags.fetch_or(PERSISTED, Ordering::Relaxed);
    }

    fn size_here(&self) -> usize {
        self.loaded.get().map_or(0, |content| content.size())
    }

    fn each_below<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn AnyLink)) {
        if let Some(content) = self.loaded.get() {
            content.each_link(visit);
        }
    }

    fn shed_here<'a>(&'a mut self, shedding: &mut Shedding, below: &mut dyn FnMut(&'a mut dyn AnyLink)) {
        if self.loaded.get().is_none() {
            return;
        }
        let flags = self.flags.get_mut();
        let touched = *flags & TOUCHED != 0;
        *flags &= !TOUCHED;
        if *flags & PERSISTED != 0 && !(touched && shedding.spare_touched) {
            let size = measure(self);
            if size <= shedding.excess || size == self.size_here() {
                shedding.excess = shedding.excess.saturating_sub(size);
                self.loaded.take();
                return;
            }
        }
        // The links inside change, not the object they stand for: hash and flags stay.
        if let Some(content) = self.loaded.get_mut() {
            Arc::make_mut(content).each_link_mut(below);
        }
    }
}
