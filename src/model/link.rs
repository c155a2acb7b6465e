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
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// The object and everything below it has been handed out for storing, or came from a store.
const PERSISTED: u8 = 1;
/// Used since the last pass of shedding.
const TOUCHED: u8 = 2;

/// What becomes an object.
pub(crate) trait Encode: Clone {
    /// Appends the object's bytes. What is below is hashed where that is not done yet.
    fn encode(&self, out: &mut Vec<u8>);
}

/// What an object holds in memory.
pub(crate) trait Content: Encode {
    fn each_link(&self, visit: &mut dyn FnMut(&dyn AnyLink));
    fn each_link_mut(&mut self, visit: &mut dyn FnMut(&mut dyn AnyLink));
    /// Bytes of memory that it takes, without what is below.
    fn size(&self) -> usize;
}

/// Loads content by hash.
pub(crate) trait Source<T> {
    fn load(&self, hash: &Hash, place: Place<'_>) -> Result<T, ObjectsError>;

    /// Told of everything that is passed on the way down, loaded just now or long ago.
    fn passed(&self, _content: &T) {}
}

pub(crate) struct Link<T> {
    loaded: OnceLock<Arc<T>>,
    /// Always there when nothing is loaded.
    hash: OnceLock<Hash>,
    flags: AtomicU8,
}

impl<T> Link<T> {
    /// To an object that a store holds.
    pub fn stored(hash: Hash) -> Link<T> {
        Link { loaded: OnceLock::new(), hash: OnceLock::from(hash), flags: AtomicU8::new(PERSISTED) }
    }

    /// To an object that has just been made.
    pub fn fresh(content: T) -> Link<T> {
        Link { loaded: OnceLock::from(Arc::new(content)), hash: OnceLock::new(), flags: AtomicU8::new(TOUCHED) }
    }

    /// To content whose hash is known but which a store may not hold.
    pub fn of(content: Arc<T>, hash: Hash) -> Link<T> {
        Link { loaded: OnceLock::from(content), hash: OnceLock::from(hash), flags: AtomicU8::new(TOUCHED) }
    }

    /// The hash, where it is known already.
    pub fn known(&self) -> Option<Hash> {
        self.hash.get().copied()
    }

    pub fn load<S: Source<T> + ?Sized>(&self, source: &S, place: Place<'_>) -> Result<&Arc<T>, ObjectsError> {
        let flags = self.flags.load(Relaxed);
        if flags & TOUCHED == 0 {
            self.flags.fetch_or(TOUCHED, Relaxed);
        }
        let content = match self.loaded.get() {
            Some(content) => content,
            None => {
                let content = Arc::new(source.load(self.known_hash(), place)?);
                // Another reader may have been quicker; either copy will do.
                self.loaded.get_or_init(|| content)
            }
        };
        source.passed(content);
        Ok(content)
    }

    fn known_hash(&self) -> &Hash {
        self.hash.get().expect("a link without content has a hash")
    }
}

impl<T: Encode> Link<T> {
    /// The content for changing. Forgets the hash, so it is for edits that will change something.
    pub fn edit<S: Source<T> + ?Sized>(&mut self, source: &S, place: Place<'_>) -> Result<&mut T, ObjectsError> {
        self.edit_with(source, place, T::clone)
    }

    /// Like [`Link::edit`]; where others hold the content, `copy` makes ours.
    pub fn edit_with<S: Source<T> + ?Sized>(
        &mut self,
        source: &S,
        place: Place<'_>,
        copy: impl FnOnce(&T) -> T,
    ) -> Result<&mut T, ObjectsError> {
        let mut content = match self.loaded.take() {
            Some(content) => content,
            None => Arc::new(source.load(self.known_hash(), place)?),
        };
        if Arc::get_mut(&mut content).is_none() {
            content = Arc::new(copy(&content));
        }
        self.hash.take();
        *self.flags.get_mut() = TOUCHED;
        self.loaded.get_or_init(|| content);
        let content = self.loaded.get_mut().expect("set just above");
        Ok(Arc::get_mut(content).expect("nobody else holds what was copied just above"))
    }

    /// Hashes what is not hashed yet. `buffer` is used as a stack: what it held is there afterwards.
    pub fn hash(&self, buffer: &mut Vec<u8>) -> Hash {
        *self.hash.get_or_init(|| {
            let content = self.loaded.get().expect("a link without a hash has content");
            let start = buffer.len();
            content.encode(buffer);
            let hash = Hash::of(&buffer[start..]);
            buffer.truncate(start);
            hash
        })
    }
}

impl<T> Clone for Link<T> {
    fn clone(&self) -> Link<T> {
        Link { loaded: self.loaded.clone(), hash: self.hash.clone(), flags: AtomicU8::new(self.flags.load(Relaxed)) }
    }
}

/// Takes objects and their hashes on their way to a store.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(Hash, Bytes);

/// How much a pass of shedding still has to free, and whether it spares what was used lately.
pub(crate) struct Shedding {
    pub excess: usize,
    pub spare_touched: bool,
}

/// What can be done with a link whatever it leads to.
pub(crate) trait AnyLink {
    /// Hands out what is new at and below it, children first.
    fn hand_out(&self, buffer: &mut Vec<u8>, sink: Sink<'_>);
    /// Bytes of memory that the loaded objects at and below it take.
    fn measure(&self) -> usize;
    /// Forgets loaded content that can be had again.
    fn shed(&mut self, shedding: &mut Shedding);
}

impl<T: Content> AnyLink for Link<T> {
    fn hand_out(&self, buffer: &mut Vec<u8>, sink: Sink<'_>) {
        if self.flags.load(Relaxed) & PERSISTED != 0 {
            return;
        }
        let content = self.loaded.get().expect("what is not persisted is loaded");
        content.each_link(&mut |link| link.hand_out(buffer, sink));
        buffer.clear();
        content.encode(buffer);
        let hash = *self.hash.get_or_init(|| Hash::of(buffer));
        sink(hash, Bytes::copy_from_slice(buffer));
        self.flags.fetch_or(PERSISTED, Relaxed);
    }

    fn measure(&self) -> usize {
        let Some(content) = self.loaded.get() else { return 0 };
        let mut size = content.size();
        content.each_link(&mut |link| size += link.measure());
        size
    }

    fn shed(&mut self, shedding: &mut Shedding) {
        if shedding.excess == 0 || self.loaded.get().is_none() {
            return;
        }
        let flags = self.flags.get_mut();
        let touched = *flags & TOUCHED != 0;
        *flags &= !TOUCHED;
        if *flags & PERSISTED != 0 && !(touched && shedding.spare_touched) {
            let size = self.measure();
            let nothing_below = self.loaded.get().is_some_and(|content| content.size() == size);
            if size <= shedding.excess || nothing_below {
                shedding.excess = shedding.excess.saturating_sub(size);
                self.loaded.take();
                return;
            }
        }
        // The links inside change, not the object they stand for: hash and flags stay.
        if let Some(content) = self.loaded.get_mut() {
            Arc::make_mut(content).each_link_mut(&mut |link| link.shed(shedding));
        }
    }
}
