//! Every object at and below some roots, once each: for sweeps, checks and copies.

use crate::content::{checked_object, corrupt};
use crate::ids::Hash;
use crate::map::NibblePath;
use crate::node::{ConfigObject, Object, ObjectRefused, Place, check_place, decode};
use crate::objects::{Objects, ObjectsError};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A walk over all objects that some roots reach. Needs no stack as deep as the tree; what it has seen is 32 bytes an object.
#[derive(Default)]
pub struct Walk {
    seen: BTreeSet<Hash>,
    open: Vec<(Hash, Expected)>,
}

/// What the parent of an object says about it.
enum Expected {
    Node,
    /// Of a node's entry: a single child or a container.
    Child,
    Blob,
    Part { prefix: NibblePath, nibble: u8, count: u64 },
}

impl Walk {
    pub fn new() -> Walk {
        Walk::default()
    }

    /// Adds a root node. What was seen below an earlier one is not visited again.
    pub fn add_root(&mut self, root: Hash) {
        self.add(root, Expected::Node);
    }

    /// The next object with its bytes, checked alone and in its place; `None` at the end.
    /// After a missing or corrupt one the walk goes on with the others: only what is below the bad one is left out.
    pub fn next(&mut self, objects: &dyn Objects) -> Option<Result<(Hash, Bytes), ObjectsError>> {
        let (hash, expected) = self.open.pop()?;
        Some(checked_object(&hash, objects).and_then(|bytes| {
            self.enter(&bytes, expected).map_err(|refused| corrupt(&hash, refused))?;
            Ok((hash, bytes))
        }))
    }

    /// Whether an object has been seen, or is about to be.
    pub fn has_seen(&self, hash: &Hash) -> bool {
        self.seen.contains(hash)
    }

    fn add(&mut self, hash: Hash, expected: Expected) {
        if self.seen.insert(hash) {
            self.open.push((hash, expected));
        }
    }

    fn enter(&mut self, bytes: &[u8], expected: Expected) -> Result<(), ObjectRefused> {
        let object = decode(bytes)?;
        let mut depth = NibblePath::default();
        let wrong = |expected| Err(ObjectRefused::WrongKind { expected, found: object.kind_name() });
        match (&object, expected) {
            (Object::Node(_), Expected::Node | Expected::Child) | (Object::Blob(_), Expected::Blob) => {}
            (_, Expected::Node) => return wrong("node"),
            (_, Expected::Blob) => return wrong("blob"),
            (Object::Blob(_), Expected::Child) => return wrong("node or container"),
            (_, Expected::Child) => check_place(&object, Place::Top)?,
            (_, Expected::Part { prefix, nibble, count }) => {
                check_place(&object, prefix.place(nibble, count))?;
                depth = prefix;
                depth.extend(&[nibble]);
            }
        }
        match object {
            Object::Blob(_) => {}
            Object::Node(node) => {
                if let ConfigObject::Blob(hash) = node.config {
                    self.add(hash, Expected::Blob);
                }
                node.entries.iter().for_each(|(_, hash)| self.add(*hash, Expected::Child));
            }
            Object::Bucket(bucket) => bucket.entries.iter().for_each(|(_, hash)| self.add(*hash, Expected::Node)),
            Object::Inner(inner) => {
                depth.extend(&inner.skipped);
                inner.own.iter().for_each(|hash| self.add(*hash, Expected::Node));
                for branch in &inner.branches {
                    let expected = Expected::Part { prefix: depth.clone(), nibble: branch.nibble, count: branch.count };
                    self.add(branch.hash, expected);
                }
            }
        }
        Ok(())
    }
}
