//! What changed between two trees, in the order in which it is announced (C11).
//!
//! Only what hashes differently is visited, so the cost is O(differences · log n), also when one side is not loaded. The order is a
//! function of the two roots alone: at a node, first its changed children, fields by number and keys ascending, each with all that
//! changed below it; then field by field what was added and what was removed; the node's own update last.

use crate::compare::{Flow, compare};
use crate::content::Node;
use crate::ids::Hash;
use crate::link::Link;
use crate::objects::{Objects, ObjectsError};
use crate::path::{Path, Step};
use crate::tree::{ContainerView, Lookup, NodeView, Tree, element};
use std::ops::ControlFlow;

/// One path on which two trees differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub path: Path,
    pub kind: ChangeKind,
    /// Hash of the node, or of a keyless list as a whole (32 zero bytes when empty), on the old side; `None` if it was added.
    pub before: Option<Hash>,
    /// The same on the new side; `None` if it was removed.
    pub after: Option<Hash>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChangeKind {
    /// An element with all that is below it.
    Added,
    Removed,
    /// The node's own config differs. A single child always exists, so it is updated and never added (S5).
    Updated,
    /// A keyless list differs somewhere: it changes as a whole.
    ListChanged,
}

/// A change with the two nodes, for reading their values. Neither is there for a list.
pub struct Difference {
    pub change: Change,
    pub old: Option<NodeView>,
    pub new: Option<NodeView>,
}

/// How a child field holds its children, and their type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildShape<T> {
    Single(T),
    List(T),
    Keyed(T),
}

/// What a diff has to know of a schema.
pub trait Shape {
    type Type: Copy;

    /// The type of the root node.
    fn root(&self) -> Self::Type;

    /// `None` where the type has no such child field: what is stored there is then compared as a single child or a keyed container.
    fn child(&self, of: Self::Type, field: u32) -> Option<ChildShape<Self::Type>>;
}

/// Which differences are wanted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only at and below this path; the root path means everything.
    pub below: Path,
    /// Name each node of an added or removed subtree, descendants first, and not only its top.
    pub deep: bool,
    /// Stop after so many.
    pub limit: Option<usize>,
}

/// Visits the differences from `old` to `new` in their order, until the limit, or until `visit` breaks. Says whether that was all.
pub fn diff<S: Shape>(
    old: &Tree,
    new: &Tree,
    shape: &S,
    options: &Options,
    objects: &dyn Objects,
    visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
) -> Result<bool, ObjectsError> {
    let left = options.limit.unwrap_or(usize::MAX);
    let mut comparison = Comparison { shape, deep: options.deep, left, objects, visit, path: options.below.clone() };
    let mut ty = Some(shape.root());
    let mut container = None;
    for (index, step) in options.below.steps.iter().enumerate() {
        let child = ty.and_then(|ty| shape.child(ty, step.field));
        let is_last = index + 1 == options.below.steps.len();
        container = match (&child, &step.key) {
            (Some(ChildShape::Single(_)), _) | (_, Some(_)) => None,
            _ if is_last => Some(matches!(child, Some(ChildShape::List(_)))),
            _ => None,
        };
        ty = child.map(|child| match child {
            ChildShape::Single(ty) | ChildShape::List(ty) | ChildShape::Keyed(ty) => ty,
        });
    }
    let flow = match (container, options.below.is_root()) {
        (_, true) if old.root() == new.root() => ControlFlow::Continue(()),
        (_, true) => comparison.nodes(&old.root_view(objects)?, &new.root_view(objects)?, ty)?,
        (Some(is_list), _) => {
            let sides = [old.container(&options.below, objects)?, new.container(&options.below, objects)?];
            let [old, new] = sides.map(|side| side.unwrap_or_else(|| ContainerView::empty(old.meter())));
            let mut pending = Pending::default();
            comparison.path.steps.pop();
            let field = options.below.steps.last().map_or(0, |step| step.field);
            match comparison.containers(field, is_list, &old, &new, ty, &mut pending)? {
                ControlFlow::Continue(()) => comparison.announce(pending)?,
                stop => stop,
            }
        }
        (None, _) => {
            let sides = [old.node(&options.below, objects)?, new.node(&options.below, objects)?];
            let [old, new] = sides.map(|side| match side {
                Lookup::Found(view) => Some(view),
                Lookup::Default => Some(NodeView::empty(new.meter())),
                Lookup::Absent { .. } => None,
            });
            match (old, new) {
                (Some(old), Some(new)) if old.hash() == new.hash() => ControlFlow::Continue(()),
                (Some(old), Some(new)) => comparison.nodes(&old, &new, ty)?,
                (None, None) => ControlFlow::Continue(()),
                (old, new) => comparison.top(old, new, ty)?,
            }
        }
    };
    Ok(flow.is_continue())
}

/// The changes as a list, and whether these are all.
pub fn changes<S: Shape>(
    old: &Tree,
    new: &Tree,
    shape: &S,
    options: &Options,
    objects: &dyn Objects,
) -> Result<(Vec<Change>, bool), ObjectsError> {
    let mut found = Vec::new();
    let complete = diff(old, new, shape, options, objects, &mut |difference| {
        found.push(difference.change);
        ControlFlow::Continue(())
    })?;
    Ok((found, complete))
}

struct Comparison<'a, S: Shape> {
    shape: &'a S,
    deep: bool,
    /// How many more may be visited.
    left: usize,
    objects: &'a dyn Objects,
    visit: &'a mut dyn FnMut(Difference) -> ControlFlow<()>,
    path: Path,
}

/// What a node announces after its changed children: field by field the lists, what was added, what was removed.
struct Pending<T>(Vec<(u32, Announced, T)>);

enum Announced {
    List { before: Hash, after: Hash },
    Elements { added: Vec<(Box<[u8]>, NodeView)>, removed: Vec<(Box<[u8]>, NodeView)> },
}

impl<T> Default for Pending<T> {
    fn default() -> Pending<T> {
        Pending(Vec::new())
    }
}

impl<S: Shape> Comparison<'_, S> {
    /// Two nodes of one path that hash differently.
    fn nodes(&mut self, old: &NodeView, new: &NodeView, ty: Option<S::Type>) -> Flow {
        let mut fields: Vec<u32> = old.fields().chain(new.fields()).collect();
        fields.sort_unstable();
        fields.dedup();
        let mut pending = Pending::default();
        for field in fields {
            if old.entry_hash(field) == new.entry_hash(field) {
                continue;
            }
            let flow = match self.child_shape(ty, field, old, new)? {
                ChildShape::Single(ty) => {
                    let (old, new) = (old.child(field, self.objects)?, new.child(field, self.objects)?);
                    self.path.steps.push(Step { field, key: None });
                    let flow = self.nodes(&old, &new, ty)?;
                    self.path.steps.pop();
                    flow
                }
                shape @ (ChildShape::List(ty) | ChildShape::Keyed(ty)) => {
                    let (old, new) = (old.container(field, self.objects)?, new.container(field, self.objects)?);
                    self.containers(field, matches!(shape, ChildShape::List(_)), &old, &new, ty, &mut pending)?
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        if self.announce(pending)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if old.data_hash() == new.data_hash() {
            return Ok(ControlFlow::Continue(()));
        }
        Ok(self.emit(ChangeKind::Updated, Some(old.clone()), Some(new.clone())))
    }

    /// Two containers that differ: visits the elements that are on both sides, and notes the rest.
    fn containers(
        &mut self,
        field: u32,
        is_list: bool,
        old: &ContainerView,
        new: &ContainerView,
        ty: Option<S::Type>,
        pending: &mut Pending<Option<S::Type>>,
    ) -> Flow {
        if old.hash() == new.hash() {
            return Ok(ControlFlow::Continue(()));
        }
        if is_list {
            pending.0.push((field, Announced::List { before: old.hash(), after: new.hash() }, ty));
            return Ok(ControlFlow::Continue(()));
        }
        // Noted first and entered afterwards, so that the stack never holds more than one container's parts.
        let (mut changed, mut added, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        let left = self.left;
        let loaders = [old.loader(self.objects), new.loader(self.objects)];
        let _ = compare(old.part(), new.part(), &loaders, &mut |key, sides| {
            let view = |link: &Link<Node>, side: usize| element(link, &loaders[side], new.memory());
            match sides {
                [Some(old), Some(new)] => changed.push((Box::from(key), view(old, 0)?, view(new, 1)?)),
                [Some(old), None] if removed.len() <= left => removed.push((Box::from(key), view(old, 0)?)),
                [None, Some(new)] if added.len() <= left => added.push((Box::from(key), view(new, 1)?)),
                _ => {}
            }
            // Each of these brings at least one change, before all that was added or removed.
            Ok(if changed.len() > left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        for (key, old, new) in changed {
            self.path.steps.push(Step { field, key: Some(key) });
            let flow = self.nodes(&old, &new, ty)?;
            self.path.steps.pop();
            if flow.is_break() {
                return Ok(flow);
            }
        }
        if !added.is_empty() || !removed.is_empty() {
            pending.0.push((field, Announced::Elements { added, removed }, ty));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn announce(&mut self, pending: Pending<Option<S::Type>>) -> Flow {
        for (field, announced, ty) in pending.0 {
            match announced {
                Announced::List { before, after } => {
                    self.path.steps.push(Step { field, key: None });
                    let flow = self.emit_list(before, after);
                    self.path.steps.pop();
                    if flow.is_break() {
                        return Ok(flow);
                    }
                }
                Announced::Elements { added, removed } => {
                    let added = added.into_iter().map(|(key, node)| (key, None, Some(node)));
                    let removed = removed.into_iter().map(|(key, node)| (key, Some(node), None));
                    for (key, old, new) in added.chain(removed) {
                        self.path.steps.push(Step { field, key: Some(key) });
                        let flow = self.top(old, new, ty)?;
                        self.path.steps.pop();
                        if flow.is_break() {
                            return Ok(flow);
                        }
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A node that is on one side only, where asked for with what is below it.
    fn top(&mut self, old: Option<NodeView>, new: Option<NodeView>, ty: Option<S::Type>) -> Flow {
        let (kind, node) = match (&old, &new) {
            (None, Some(node)) => (ChangeKind::Added, node),
            (Some(node), _) => (ChangeKind::Removed, node),
            (None, None) => return Ok(ControlFlow::Continue(())),
        };
        if self.deep && self.below(node, kind, ty)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(self.emit(kind, old, new))
    }

    /// All descendants of a node that was added or removed: single children and elements alike.
    fn below(&mut self, node: &NodeView, kind: ChangeKind, ty: Option<S::Type>) -> Flow {
        for field in node.fields() {
            let children = match self.child_shape(ty, field, node, node)? {
                ChildShape::Single(ty) => vec![(None, node.child(field, self.objects)?, ty)],
                ChildShape::List(_) => {
                    let hash = node.entry_hash(field).unwrap_or_default();
                    let (before, after) = if kind == ChangeKind::Added { (Hash::ZERO, hash) } else { (hash, Hash::ZERO) };
                    self.path.steps.push(Step { field, key: None });
                    let flow = self.emit_list(before, after);
                    self.path.steps.pop();
                    if flow.is_break() {
                        return Ok(flow);
                    }
                    continue;
                }
                ChildShape::Keyed(ty) => {
                    let elements = node.container(field, self.objects)?.slice(0, u64::MAX, self.objects)?;
                    elements.into_iter().map(|(key, node)| (Some(key), node, ty)).collect()
                }
            };
            for (key, child, ty) in children {
                self.path.steps.push(Step { field, key });
                let (old, new) = if kind == ChangeKind::Added { (None, Some(child)) } else { (Some(child), None) };
                let flow = self.top(old, new, ty)?;
                self.path.steps.pop();
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn emit(&mut self, kind: ChangeKind, old: Option<NodeView>, new: Option<NodeView>) -> ControlFlow<()> {
        let (before, after) = (old.as_ref().map(NodeView::hash), new.as_ref().map(NodeView::hash));
        self.tell(Difference { change: Change { path: self.path.clone(), kind, before, after }, old, new })
    }

    fn emit_list(&mut self, before: Hash, after: Hash) -> ControlFlow<()> {
        let (path, kind) = (self.path.clone(), ChangeKind::ListChanged);
        let change = Change { path, kind, before: Some(before), after: Some(after) };
        self.tell(Difference { change, old: None, new: None })
    }

    fn tell(&mut self, difference: Difference) -> ControlFlow<()> {
        match self.left.checked_sub(1) {
            None => ControlFlow::Break(()),
            Some(left) => {
                self.left = left;
                (self.visit)(difference)
            }
        }
    }

    fn child_shape(
        &self,
        ty: Option<S::Type>,
        field: u32,
        old: &NodeView,
        new: &NodeView,
    ) -> Result<ChildShape<Option<S::Type>>, ObjectsError> {
        Ok(match ty.and_then(|ty| self.shape.child(ty, field)) {
            Some(ChildShape::Single(ty)) => ChildShape::Single(Some(ty)),
            Some(ChildShape::List(ty)) => ChildShape::List(Some(ty)),
            Some(ChildShape::Keyed(ty)) => ChildShape::Keyed(Some(ty)),
            None if old.is_container(field, self.objects)? || new.is_container(field, self.objects)? => ChildShape::Keyed(None),
            None => ChildShape::Single(None),
        })
    }
}

/// Keyed containers everywhere, told from single children by what is stored: enough where no schema is at hand.
pub struct NoSchema;

impl Shape for NoSchema {
    type Type = ();

    fn root(&self) {}

    fn child(&self, (): (), _: u32) -> Option<ChildShape<()>> {
        None
    }
}
