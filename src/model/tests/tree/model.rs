//! A tree as plain nested maps: what the Merkle tree must agree with.

use confold_model::ids::Hash;
use confold_model::objects::{MemoryObjects, Objects};
use confold_model::path::{Path, Step};
use confold_model::subtree::{Children, Subtree};
use confold_model::tree::{NodeView, Tree};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Fields 1 and 2 are keyed containers, 3 is a keyless list, 5 and 6 are single children; all of one type.
pub const CONTAINERS: [u32; 3] = [1, 2, 3];
pub const SINGLES: [u32; 2] = [5, 6];

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Model {
    pub config: Vec<u8>,
    pub singles: BTreeMap<u32, Model>,
    pub containers: BTreeMap<u32, BTreeMap<Vec<u8>, Model>>,
}

impl Model {
    pub fn leaf(config: &[u8]) -> Model {
        Model { config: config.to_vec(), ..Model::default() }
    }

    pub fn is_default(&self) -> bool {
        *self == Model::default()
    }

    /// Drops what is never stored: default single children and empty containers.
    pub fn normal(mut self) -> Model {
        self.singles = self.singles.into_iter().map(|(field, child)| (field, child.normal())).collect();
        self.singles.retain(|_, child| !child.is_default());
        for elements in self.containers.values_mut() {
            *elements = std::mem::take(elements).into_iter().map(|(key, child)| (key, child.normal())).collect();
        }
        self.containers.retain(|_, elements| !elements.is_empty());
        self
    }

    /// The node at a path, single children made on the way; `None` when a key is absent.
    pub fn node(&mut self, steps: &[Step]) -> Option<&mut Model> {
        steps.iter().try_fold(self, |node, step| match &step.key {
            None => Some(node.singles.entry(step.field).or_default()),
            Some(key) => node.containers.get_mut(&step.field)?.get_mut(&**key),
        })
    }

    pub fn subtree(&self) -> Subtree<'_> {
        let singles = self.singles.iter().map(|(field, child)| (*field, vec![(Box::default(), child.subtree())]));
        let containers = self.containers.iter().map(|(field, elements)| (*field, entries(elements)));
        let mut children: Vec<Children<'_>> =
            singles.chain(containers).map(|(field, entries)| Children { field, entries }).collect();
        children.sort_by_key(|children| children.field);
        Subtree { config: Cow::Borrowed(&self.config), children }
    }

    pub fn tree(&self) -> Tree {
        Tree::of(&self.subtree())
    }

    /// Reads a whole tree.
    pub fn read(view: &NodeView, objects: &dyn Objects) -> Model {
        let mut model = Model::leaf(view.config(objects).unwrap());
        for field in view.fields().collect::<Vec<_>>() {
            if SINGLES.contains(&field) {
                model.singles.insert(field, Model::read(&view.child(field, objects).unwrap(), objects));
            } else {
                let elements = view.container(field, objects).unwrap().slice(0, u64::MAX, objects).unwrap();
                let elements = elements.into_iter().map(|(key, node)| (key.into_vec(), Model::read(&node, objects)));
                model.containers.insert(field, elements.collect());
            }
        }
        model
    }
}

pub fn entries(elements: &BTreeMap<Vec<u8>, Model>) -> Vec<(Box<[u8]>, Subtree<'_>)> {
    elements.iter().map(|(key, child)| (key.clone().into(), child.subtree())).collect()
}

/// All objects of a tree, as a store would have them.
pub fn stored(tree: &Tree) -> MemoryObjects {
    let mut objects = MemoryObjects::default();
    persist(tree, &mut objects);
    objects
}

/// Hands new objects to a store; a child must be there before its parent. Returns how many came.
pub fn persist(tree: &Tree, objects: &mut MemoryObjects) -> usize {
    let mut count = 0;
    tree.unpersisted(&mut |hash, bytes| {
        assert_eq!(Hash::of(&bytes), hash);
        for child in confold_model::objects::references(&bytes).unwrap() {
            assert!(objects.0.contains_key(&child), "a parent came before its child");
        }
        objects.0.insert(hash, bytes);
        count += 1;
    });
    count
}

/// `1:61/5/2:ff` for short: field, and the key's hex.
pub fn path(text: &str) -> Path {
    let step = |step: &str| match step.split_once(':') {
        Some((field, key)) => Step { field: field.parse().unwrap(), key: Some(hex::decode(key).unwrap().into()) },
        None => Step { field: step.parse().unwrap(), key: None },
    };
    Path { steps: text.split('/').filter(|step| !step.is_empty()).map(step).collect() }
}

/// Keys that share prefixes, also at half a byte, and are prefixes of each other.
pub fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(0x10), Just(0x11), Just(0xff)];
    proptest::collection::vec(byte, 1..4)
}

pub fn config() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(Vec::new()),
        6 => proptest::collection::vec(any::<u8>(), 1..5),
        1 => (any::<u8>(), 1020..1030usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

pub fn model() -> impl Strategy<Value = Model> {
    config().prop_map(|config| Model { config, ..Model::default() }).prop_recursive(3, 60, 24, |inner| {
        let elements = proptest::collection::btree_map(key(), inner.clone(), 0..24);
        let containers = proptest::collection::btree_map(proptest::sample::select(&CONTAINERS[..2]), elements, 0..3);
        let list = proptest::collection::vec(inner.clone(), 0..20);
        let singles = proptest::collection::btree_map(proptest::sample::select(&SINGLES[..]), inner, 0..3);
        (config(), containers, list, singles).prop_map(|(config, mut containers, list, singles)| {
            let list = list.into_iter().zip(0u32..).map(|(child, index)| (index.to_be_bytes().to_vec(), child)).collect();
            containers.insert(3, list);
            Model { config, singles, containers }.normal()
        })
    })
}
