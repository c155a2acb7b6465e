//! The tree: a persistent value over lazily loaded objects.
//!
//! A [`Tree`] is cheap to clone, and a clone never changes under its holder: an edit copies the few objects on the way to what it changes
//! that somebody else holds, and changes in place what nobody else does. Objects are loaded when a path leads through them, hashed
//! again and decoded with every refusal; a wrong one is an [`ObjectsError`] that says what is wrong. It knows no schema: whoever
//! asks has resolved the path against one.
//!
//! After an `Err` of an edit the tree is to be dropped, as it may hold a part of the change; a clone made before is as it was. An edit
//! at a path that has just been looked up loads nothing more and so cannot fail, save a removal, which may have to load neighbours.

use crate::content::{Child, Copying, Loader, Meter, Node, container_mut, container_of, single_mut};
use crate::ids::Hash;
use crate::link::{Link, Shedding, hand_out, hash_of, measure, shed};
use crate::map::Part;
use crate::node::{self, EMPTY_NODE, Place};
use crate::objects::{MemoryObjects, Objects, ObjectsError};
use crate::path::{Path, Step};
use crate::subtree::Subtree;
use bytes::Bytes;
use once_cell::sync::OnceCell;
use std::cell::RefCell;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One revision's tree, or any subtree: every node is the root of what is below it.
#[derive(Clone)]
pub struct Tree {
    root: Link<Node>,
    memory: Meter,
}

/// What is at the path of a node.
pub enum Lookup {
    Found(NodeView),
    /// A single child that is not stored because its config is empty and nothing is below it. It exists all the same (S5).
    Default,
    /// There is no such key at this step of the path.
    Absent { step: usize },
}

impl Tree {
    /// The empty node: revision 0.
    pub fn empty() -> Tree {
        Tree { root: Link::fresh(Node::default()), memory: Meter::default() }
    }

    /// The tree whose root node has this hash. Loads nothing yet.
    pub fn at(root: Hash) -> Tree {
        Tree { root: Link::stored(root), memory: Meter::default() }
    }

    /// The tree of a subtree.
    pub fn of(subtree: &Subtree<'_>) -> Tree {
        let memory = Meter::default();
        Tree { root: Link::fresh(Node::of(subtree, &memory)), memory }
    }

    /// The hash of the root node. Hashes what an edit has changed since it was last asked for, each object once.
    pub fn root(&self) -> Hash {
        self.root.hash_alone()
    }

    /// The node at a path. A path without a key at its end is that of a single child here.
    pub fn node(&self, path: &Path, objects: &dyn Objects) -> Result<Lookup, ObjectsError> {
        let loader = self.loader(objects);
        Ok(match self.descend(&path.steps, &loader)? {
            Reached::Default => Lookup::Default,
            Reached::Absent(step) => Lookup::Absent { step },
            Reached::Node(node, link) => Lookup::Found(self.view(node, link.known())),
        })
    }

    /// The container at a path, which ends with a step without a key. `None`: a node above it is not there.
    pub fn container(&self, path: &Path, objects: &dyn Objects) -> Result<Option<ContainerView>, ObjectsError> {
        let loader = self.loader(objects);
        let Some((last, above)) = path.steps.split_last() else { return Ok(None) };
        Ok(match self.descend(above, &loader)? {
            Reached::Absent(_) => None,
            Reached::Default => Some(ContainerView::empty(&self.memory)),
            Reached::Node(node, _) => Some(ContainerView::of(node, last.field, &loader, &self.memory)?),
        })
    }

    /// Hash of the node at a path with all that is below it; `None` when it is absent.
    pub fn subtree_hash(&self, path: &Path, objects: &dyn Objects) -> Result<Option<Hash>, ObjectsError> {
        Ok(match self.descend(&path.steps, &self.loader(objects))? {
            Reached::Absent(_) => None,
            Reached::Default => Some(EMPTY_NODE),
            Reached::Node(_, link) => Some(link.hash()),
        })
    }

    /// Hash of the config of the node at a path; `None` when it is absent.
    pub fn data_hash(&self, path: &Path, objects: &dyn Objects) -> Result<Option<Hash>, ObjectsError> {
        Ok(match self.descend(&path.steps, &self.loader(objects))? {
            Reached::Absent(_) => None,
            Reached::Default => Some(node::data_hash(&[])),
            Reached::Node(node, _) => Some(node.data_hash()),
        })
    }

    /// Hash of the container at a path, 32 zero bytes for an empty one; `None` when a node above it is absent.
    pub fn container_hash(&self, path: &Path, objects: &dyn Objects) -> Result<Option<Hash>, ObjectsError> {
        Ok(self.container(path, objects)?.map(|container| container.hash()))
    }

    /// Replaces the config of the node at a path; its children stay. `false`: there is no such node, and nothing changed.
    pub fn set_config(&mut self, path: &Path, config: &[u8], objects: &dyn Objects) -> Result<bool, ObjectsError> {
        let memory = self.memory.clone();
        let found = self.edit(&path.steps, Copying::AllButConfig, objects, &mut |node| {
            memory.add(config.len());
            memory.subtract(node.config.length());
            node.config.set(config);
            Ok(())
        })?;
        Ok(found.is_some())
    }

    /// Puts a whole subtree where the path says, in place of what is there. `false`: its parent is not there, and nothing changed.
    pub fn insert_subtree(&mut self, path: &Path, subtree: &Subtree<'_>, objects: &dyn Objects) -> Result<bool, ObjectsError> {
        let memory = self.memory.clone();
        let node = Node::of(subtree, &memory);
        let Some((last, above)) = path.steps.split_last() else {
            self.root = Link::fresh(node);
            return Ok(true);
        };
        let mut node = Some(node);
        let loader = Loader { objects, memory: &memory, trace: None };
        let found = self.edit(above, Copying::All, objects, &mut |parent| {
            let Some(node) = node.take() else { return Ok(()) };
            match &last.key {
                None => parent.put_entry(last.field, (!node.is_default()).then(|| Link::fresh(Child::Single(Arc::new(node))))),
                Some(key) => match parent.entry_mut(last.field) {
                    None => parent.put_entry(
                        last.field,
                        Some(Link::fresh(Child::Container(Part::single(key, Link::fresh(node))))),
                    ),
                    Some(link) => {
                        container_mut(link, &loader)?.insert(key, Link::fresh(node), 0, &loader)?;
                    }
                },
            }
            Ok(())
        })?;
        Ok(found.is_some())
    }

    /// Takes the element of a keyed container away; a single child becomes default. `false`: nothing was there.
    pub fn remove(&mut self, path: &Path, objects: &dyn Objects) -> Result<bool, ObjectsError> {
        let memory = self.memory.clone();
        let loader = Loader { objects, memory: &memory, trace: None };
        let Some((last, above)) = path.steps.split_last() else {
            let something = self.root() != EMPTY_NODE;
            self.root = Link::fresh(Node::default());
            return Ok(something);
        };
        // Looked up first, so that nothing is copied or hashed again for what is not there.
        if !matches!(self.descend(&path.steps, &loader)?, Reached::Node(..)) {
            return Ok(false);
        }
        let removed = self.edit(above, Copying::All, objects, &mut |parent| {
            let Some(key) = &last.key else {
                parent.put_entry(last.field, None);
                return Ok(true);
            };
            let Some(link) = parent.entry_mut(last.field) else { return Ok(false) };
            let part = container_mut(link, &loader)?;
            let removed = part.remove(key, 0, &loader)?;
            if part.keys() == 0 {
                parent.put_entry(last.field, None);
            }
            if let Some(node) = &removed {
                memory.subtract(measure(node));
            }
            Ok(removed.is_some())
        })?;
        Ok(removed == Some(true))
    }

    /// Makes a container hold exactly these entries, which ascend by key. `false`: its owner is not there, and nothing changed.
    pub fn replace_container(
        &mut self,
        path: &Path,
        entries: &[(Box<[u8]>, Subtree<'_>)],
        objects: &dyn Objects,
    ) -> Result<bool, ObjectsError> {
        let memory = self.memory.clone();
        let Some((last, above)) = path.steps.split_last() else { return Ok(false) };
        let found = self.edit(above, Copying::All, objects, &mut |parent| {
            let part = container_of(entries, &memory);
            parent.put_entry(last.field, part.map(|part| Link::fresh(Child::Container(part))));
            Ok(())
        })?;
        Ok(found.is_some())
    }

    /// Hands out every object that is new since the last call, children before parents, and remembers it as persisted.
    /// Costs O(new objects). The same content at two new places may come twice.
    pub fn unpersisted(&self, sink: &mut dyn FnMut(Hash, Bytes)) {
        hand_out(&self.root, sink);
    }

    /// Roughly how many bytes the loaded objects take, of this tree and its clones together: kept up at each load and edit, put right by
    /// [`Tree::shed`].
    pub fn memory(&self) -> usize {
        self.memory.0.load(Relaxed)
    }

    /// Forgets loaded objects that a store holds until about `target` bytes are left.
    ///
    /// What was not used since the last call goes first, as whole subtrees; then whatever is persisted. That is the clock
    /// algorithm with one bit for each link: reading costs one flag, and nothing is kept in order of use. A call visits all that
    /// is loaded (about half a second for a million nodes), so it is for when [`Tree::memory`] has
    /// outgrown a limit, with a target well below that. New objects stay. Views and clones keep what they hold until they
    /// are dropped.
    pub fn shed(&mut self, target: usize) {
        let size = measure(&self.root);
        let mut shedding = Shedding { excess: size.saturating_sub(target), spare_touched: true };
        shed(&mut self.root, &mut shedding);
        shedding.spare_touched = false;
        shed(&mut self.root, &mut shedding);
        self.memory.0.store(size.min(target.saturating_add(shedding.excess)), Relaxed);
    }

    /// The objects that prove what [`Tree::node`] says about this path, presence or absence, to whoever knows the root.
    pub fn prove(&self, path: &Path, objects: &dyn Objects) -> Result<Vec<Bytes>, ObjectsError> {
        let trace = RefCell::new(Vec::new());
        let loader = Loader { objects, memory: &self.memory, trace: Some(&trace) };
        if let Reached::Node(node, _) = self.descend(&path.steps, &loader)? {
            node.config(&loader)?;
        }
        Ok(trace.into_inner())
    }

    pub(crate) fn root_view(&self, objects: &dyn Objects) -> Result<NodeView, ObjectsError> {
        let node = self.root.load(&self.loader(objects), Place::Top)?;
        Ok(self.view(node, self.root.known()))
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.memory
    }

    fn view(&self, node: &Arc<Node>, hash: Option<Hash>) -> NodeView {
        NodeView { hash: lazily(hash), node: node.clone(), memory: self.memory.clone() }
    }

    fn loader<'a>(&'a self, objects: &'a dyn Objects) -> Loader<'a> {
        Loader { objects, memory: &self.memory, trace: None }
    }

    fn descend<'t>(&'t self, steps: &[Step], loader: &Loader<'_>) -> Result<Reached<'t>, ObjectsError> {
        let mut node = self.root.load(loader, Place::Top)?;
        let mut reached = ReachedLink::Node(&self.root);
        for (index, step) in steps.iter().enumerate() {
            let Some(entry) = node.entry(step.field) else {
                // What is below a default single child is default or absent.
                let absent = steps[index..].iter().position(|step| step.key.is_some());
                return Ok(absent.map_or(Reached::Default, |more| Reached::Absent(index + more)));
            };
            let child = entry.load(loader, Place::Top)?;
            match (&**child, &step.key) {
                (Child::Single(single), None) => {
                    node = single;
                    reached = ReachedLink::Single(entry);
                }
                (Child::Container(part), Some(key)) => match part.get(key, loader)? {
                    None => return Ok(Reached::Absent(index)),
                    Some(link) => {
                        node = link.load(loader, Place::Top)?;
                        reached = ReachedLink::Node(link);
                    }
                },
                (child, _) => return Err(child.wrong(entry)),
            }
        }
        Ok(Reached::Node(node, reached))
    }

    /// Changes the node at a path. `None`: it is not there. A default single child on the way is made, and one that has become default goes.
    fn edit<R>(
        &mut self,
        steps: &[Step],
        copying: Copying,
        objects: &dyn Objects,
        change: Change<'_, R>,
    ) -> Result<Option<R>, ObjectsError> {
        let memory = self.memory.clone();
        let loader = Loader { objects, memory: &memory, trace: None };
        let root = self.root.edit_with(&loader, Place::Top, |node| node.copy(copying, steps))?;
        edit_node(root, steps, copying, &loader, change)
    }
}

/// Whether the objects prove what stands at `path` below `root`, and what that is. `Err` says which object is missing or wrong.
pub fn verify(root: Hash, path: &Path, proof: &[Bytes]) -> Result<Lookup, ObjectsError> {
    let objects = MemoryObjects(proof.iter().map(|bytes| (Hash::of(bytes), bytes.clone())).collect());
    let found = Tree::at(root).node(path, &objects)?;
    if let Lookup::Found(view) = &found {
        view.config(&objects)?;
    }
    Ok(found)
}

/// A node of some tree, held: it stays readable whatever happens to the tree.
#[derive(Clone)]
pub struct NodeView {
    /// Found when asked for: most views taken in the middle of an edit never are.
    hash: OnceCell<Hash>,
    node: Arc<Node>,
    memory: Meter,
}

impl NodeView {
    /// Of the node with all that is below it.
    pub fn hash(&self) -> Hash {
        *self.hash.get_or_init(|| hash_of(&*self.node))
    }

    /// Of its config alone.
    pub fn data_hash(&self) -> Hash {
        self.node.data_hash()
    }

    /// The canonical bytes of its config. Loads only what is over 1,024 bytes, once.
    pub fn config(&self, objects: &dyn Objects) -> Result<&[u8], ObjectsError> {
        self.node.config(&self.loader(objects))
    }

    /// The fields that hold something: non-empty containers and single children that are not default, ascending.
    pub fn fields(&self) -> impl Iterator<Item = u32> {
        self.node.entries.iter().map(|entry| entry.field)
    }

    /// The single child of a field; a default one is a view of the empty node.
    pub fn child(&self, field: u32, objects: &dyn Objects) -> Result<NodeView, ObjectsError> {
        let Some(entry) = self.node.entry(field) else { return Ok(NodeView::empty(&self.memory)) };
        match &**entry.load(&self.loader(objects), Place::Top)? {
            Child::Single(node) => {
                Ok(NodeView { hash: lazily(entry.known()), node: node.clone(), memory: self.memory.clone() })
            }
            child => Err(child.wrong(entry)),
        }
    }

    /// The container of a field; empty where nothing is stored.
    pub fn container(&self, field: u32, objects: &dyn Objects) -> Result<ContainerView, ObjectsError> {
        ContainerView::of(&self.node, field, &self.loader(objects), &self.memory)
    }

    /// This node as the root of a tree of its own.
    pub fn tree(&self) -> Tree {
        Tree { root: Link::of(self.node.clone(), self.hash()), memory: self.memory.clone() }
    }

    pub(crate) fn empty(memory: &Meter) -> NodeView {
        NodeView { hash: OnceCell::with_value(EMPTY_NODE), node: Arc::default(), memory: memory.clone() }
    }

    pub(crate) fn is_container(&self, field: u32, objects: &dyn Objects) -> Result<bool, ObjectsError> {
        let Some(entry) = self.node.entry(field) else { return Ok(false) };
        Ok(matches!(&**entry.load(&self.loader(objects), Place::Top)?, Child::Container(_)))
    }

    /// Hash of what a field holds, without loading it.
    pub(crate) fn entry_hash(&self, field: u32) -> Option<Hash> {
        self.node.entry(field).map(|entry| entry.hash_alone())
    }

    fn loader<'a>(&'a self, objects: &'a dyn Objects) -> Loader<'a> {
        Loader { objects, memory: &self.memory, trace: None }
    }
}

/// A container of some tree, held. Elements come in key order (K7), those of a keyless list in that of their index.
#[derive(Clone)]
pub struct ContainerView {
    hash: OnceCell<Hash>,
    top: Option<Arc<Child>>,
    memory: Meter,
}

/// An element's key and node.
pub type Element = (Box<[u8]>, NodeView);

impl ContainerView {
    fn of(node: &Node, field: u32, loader: &Loader<'_>, memory: &Meter) -> Result<ContainerView, ObjectsError> {
        let Some(entry) = node.entry(field) else { return Ok(ContainerView::empty(memory)) };
        let top = entry.load(loader, Place::Top)?;
        match &**top {
            Child::Container(_) => Ok(ContainerView { hash: lazily(entry.known()), top: Some(top.clone()), memory: memory.clone() }),
            child => Err(child.wrong(entry)),
        }
    }

    pub(crate) fn empty(memory: &Meter) -> ContainerView {
        ContainerView { hash: OnceCell::with_value(Hash::ZERO), top: None, memory: memory.clone() }
    }

    pub fn len(&self) -> u64 {
        self.part().map_or(0, Part::keys)
    }

    pub fn is_empty(&self) -> bool {
        self.top.is_none()
    }

    /// 32 zero bytes when it is empty.
    pub fn hash(&self) -> Hash {
        *self.hash.get_or_init(|| self.top.as_ref().map_or(Hash::ZERO, |top| hash_of(&**top)))
    }

    pub fn get(&self, key: &[u8], objects: &dyn Objects) -> Result<Option<NodeView>, ObjectsError> {
        let loader = self.loader(objects);
        let Some(part) = self.part() else { return Ok(None) };
        part.get(key, &loader)?.map(|link| element(link, &loader, &self.memory)).transpose()
    }

    /// How many keys are below `key`, and whether it is there itself: its index, if so. O(log n).
    pub fn rank(&self, key: &[u8], objects: &dyn Objects) -> Result<(u64, bool), ObjectsError> {
        self.part().map_or(Ok((0, false)), |part| part.rank(key, &self.loader(objects)))
    }

    /// The element at an index. O(log n).
    pub fn nth(&self, index: u64, objects: &dyn Objects) -> Result<Option<Element>, ObjectsError> {
        Ok(self.slice(index, 1, objects)?.pop())
    }

    /// At most `limit` elements from the index `start` on.
    pub fn slice(&self, start: u64, limit: u64, objects: &dyn Objects) -> Result<Vec<Element>, ObjectsError> {
        let mut found = Vec::new();
        let loader = self.loader(objects);
        if let Some(part) = self.part() {
            part.slice(start, limit, &loader, &mut |key, link| {
                found.push((key.into(), element(link, &loader, &self.memory)?));
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// At most `limit` elements in key order, from a key on.
    pub fn range(&self, from: Bound<&[u8]>, limit: u64, objects: &dyn Objects) -> Result<Vec<Element>, ObjectsError> {
        let start = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.rank(key, objects)?.0,
            Bound::Excluded(key) => {
                let (below, present) = self.rank(key, objects)?;
                below + u64::from(present)
            }
        };
        self.slice(start, limit, objects)
    }

    /// At most `limit` elements against key order, from a key downwards.
    pub fn range_back(&self, from: Bound<&[u8]>, limit: u64, objects: &dyn Objects) -> Result<Vec<Element>, ObjectsError> {
        let end = match from {
            Bound::Unbounded => self.len(),
            Bound::Excluded(key) => self.rank(key, objects)?.0,
            Bound::Included(key) => {
                let (below, present) = self.rank(key, objects)?;
                below + u64::from(present)
            }
        };
        let start = end.saturating_sub(limit);
        let mut found = self.slice(start, end - start, objects)?;
        found.reverse();
        Ok(found)
    }

    pub(crate) fn part(&self) -> Option<&Part<Link<Node>>> {
        self.top.as_ref().and_then(|top| top.part())
    }

    pub(crate) fn loader<'a>(&'a self, objects: &'a dyn Objects) -> Loader<'a> {
        Loader { objects, memory: &self.memory, trace: None }
    }

    pub(crate) fn memory(&self) -> &Meter {
        &self.memory
    }
}

/// A view of the node behind an element's link.
pub(crate) fn element(link: &Link<Node>, loader: &Loader<'_>, memory: &Meter) -> Result<NodeView, ObjectsError> {
    let node = link.load(loader, Place::Top)?.clone();
    Ok(NodeView { hash: lazily(link.known()), node, memory: memory.clone() })
}

type Change<'a, R> = &'a mut dyn FnMut(&mut Node) -> Result<R, ObjectsError>;

enum Reached<'t> {
    Node(&'t Arc<Node>, ReachedLink<'t>),
    Default,
    Absent(usize),
}

enum ReachedLink<'t> {
    Node(&'t Link<Node>),
    Single(&'t Link<Child>),
}

impl ReachedLink<'_> {
    fn hash(&self) -> Hash {
        match self {
            ReachedLink::Node(link) => link.hash_alone(),
            ReachedLink::Single(link) => link.hash_alone(),
        }
    }

    fn known(&self) -> Option<Hash> {
        match self {
            ReachedLink::Node(link) => link.known(),
            ReachedLink::Single(link) => link.known(),
        }
    }
}

fn lazily(hash: Option<Hash>) -> OnceCell<Hash> {
    hash.map_or_else(OnceCell::new, OnceCell::with_value)
}

fn edit_node<R>(
    node: &mut Node,
    steps: &[Step],
    copying: Copying,
    loader: &Loader<'_>,
    change: Change<'_, R>,
) -> Result<Option<R>, ObjectsError> {
    let Some((step, rest)) = steps.split_first() else { return change(node).map(Some) };
    let entry = node.entry_mut(step.field);
    match (&step.key, entry) {
        (Some(_), None) => Ok(None),
        (Some(key), Some(link)) => {
            let edited = container_mut(link, loader)?.edit(key, loader, |link| {
                let child = link.edit_with(loader, Place::Top, |child| child.copy(copying, rest))?;
                edit_node(child, rest, copying, loader, change)
            })?;
            Ok(edited.flatten())
        }
        (None, Some(link)) => {
            let child = single_mut(link, loader, copying, rest)?;
            let edited = edit_node(child, rest, copying, loader, change)?;
            if child.is_default() {
                node.put_entry(step.field, None);
            }
            Ok(edited)
        }
        (None, None) => {
            let mut child = Node::default();
            let edited = edit_node(&mut child, rest, copying, loader, change)?;
            if !child.is_default() {
                node.put_entry(step.field, Some(Link::fresh(Child::Single(Arc::new(child)))));
            }
            Ok(edited)
        }
    }
}
