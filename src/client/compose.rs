//! A subtree outside the store, and what one operation makes of it: how a transaction sees its own writes, and how
//! several operations on one path become one.

use confold_model::{
    code::{Code, Rejection},
    path::Step,
    schema::{ChildKind, Schema, TypeId},
    subtree::Subtree,
};
use std::collections::BTreeMap;

/// One node and all that is below it, owned.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Node {
    pub config: Vec<u8>,
    /// By field; a single child has the empty key, and an empty container is left out.
    pub children: BTreeMap<u32, Elements>,
}

pub(crate) type Elements = BTreeMap<Box<[u8]>, Node>;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// An empty mask: the whole config.
    Update {
        config: Vec<u8>,
        mask: Vec<Vec<u32>>,
    },
    Add(Node),
    Put(Node),
    Replace(Node),
    ReplaceContainer(Elements),
    Remove,
}

impl Node {
    pub fn of(subtree: &Subtree<'_>) -> Node {
        let children = subtree
            .children
            .iter()
            .map(|children| (children.field, elements(&children.entries)))
            .collect();
        Node {
            config: subtree.config.to_vec(),
            children,
        }
    }

    /// The message with `depth` levels of children; -1: all.
    pub fn bytes(&self, schema: &Schema, ty: TypeId, depth: i32) -> Vec<u8> {
        let mut children: Vec<(u32, Vec<Vec<u8>>)> = Vec::new();
        if depth != 0 {
            for (field, elements) in &self.children {
                let Some(child) = schema.message(ty).child(*field) else {
                    continue;
                };
                let items = elements
                    .values()
                    .map(|node| node.bytes(schema, child.message, depth.max(0) - 1));
                children.push((*field, items.collect()));
            }
        }
        schema.join(ty, &self.config, &children)
    }

    /// What stands at `steps` below this node; a single child always does.
    pub fn at(&self, schema: &Schema, ty: TypeId, steps: &[Step]) -> Option<Node> {
        let Some((step, rest)) = steps.split_first() else {
            return Some(self.clone());
        };
        let child = schema.message(ty).child(step.field)?;
        let key: &[u8] = step.key.as_deref().unwrap_or_default();
        match self.children.get(&step.field).and_then(|elements| elements.get(key)) {
            Some(node) => node.at(schema, child.message, rest),
            None if child.kind == ChildKind::Single => Node::default().at(schema, child.message, rest),
            None => None,
        }
    }

    /// The elements of the container at `steps`; `None` where its owner is absent.
    pub fn container(&self, schema: &Schema, ty: TypeId, steps: &[Step]) -> Option<Elements> {
        let (last, above) = steps.split_last()?;
        Some(
            self.at(schema, ty, above)?
                .children
                .remove(&last.field)
                .unwrap_or_default(),
        )
    }

    /// Makes one change below this node. On `Err` nothing was changed.
    pub fn change(&mut self, schema: &Schema, ty: TypeId, steps: &[Step], change: Change) -> Result<(), Rejection> {
        let Some((step, rest)) = steps.split_first() else {
            return self.change_here(schema, ty, change);
        };
        let Some(child) = schema.message(ty).child(step.field) else {
            return Err(Rejection::new(Code::NotFound, "no such child field"));
        };
        let single = child.kind == ChildKind::Single;
        let key: Box<[u8]> = step.key.clone().unwrap_or_default();
        if rest.is_empty() && !single {
            match (&step.key, change) {
                (None, Change::ReplaceContainer(elements)) => {
                    self.children.insert(step.field, elements);
                }
                (None, _) => {
                    return Err(Rejection::new(
                        Code::IsAContainer,
                        "it is a container: name one element",
                    ));
                }
                (Some(_), change) => self.change_element(schema, child.message, step.field, key, change)?,
            }
        } else {
            let here = self
                .children
                .get_mut(&step.field)
                .and_then(|elements| elements.get_mut(&key));
            match here {
                Some(node) => node.change(schema, child.message, rest, change)?,
                None if single => {
                    let mut node = Node::default();
                    node.change(schema, child.message, rest, change)?;
                    self.children.entry(step.field).or_default().insert(key, node);
                }
                None => return Err(absent()),
            }
        }
        let empty = |node: &Node| single && *node == Node::default();
        if let Some(elements) = self.children.get_mut(&step.field) {
            elements.retain(|_, node| !empty(node));
            if elements.is_empty() {
                self.children.remove(&step.field);
            }
        }
        Ok(())
    }

    fn change_here(&mut self, schema: &Schema, ty: TypeId, change: Change) -> Result<(), Rejection> {
        match change {
            Change::Update { config, mask } if mask.is_empty() => self.config = config,
            Change::Update { config, mask } => self.config = schema.merge_masked(ty, &self.config, &config, &mask),
            Change::Put(node) | Change::Replace(node) => *self = node,
            Change::Add(_) | Change::Remove | Change::ReplaceContainer(_) => {
                return Err(Rejection::new(
                    Code::NotAContainer,
                    "it is no element of a keyed container",
                ));
            }
        }
        Ok(())
    }

    fn change_element(
        &mut self,
        schema: &Schema,
        ty: TypeId,
        field: u32,
        key: Box<[u8]>,
        change: Change,
    ) -> Result<(), Rejection> {
        let elements = self.children.entry(field).or_default();
        match (elements.get_mut(&key), change) {
            (Some(_), Change::Add(_)) => return Err(present()),
            (None, Change::Add(node) | Change::Put(node)) => {
                elements.insert(key, node);
            }
            (Some(_), Change::Remove) => {
                elements.remove(&key);
            }
            (None, _) => return Err(absent()),
            (Some(node), change) => node.change_here(schema, ty, change)?,
        }
        Ok(())
    }
}

pub(crate) fn elements(entries: &[(Box<[u8]>, Subtree<'_>)]) -> Elements {
    entries
        .iter()
        .map(|(key, subtree)| (key.clone(), Node::of(subtree)))
        .collect()
}

pub(crate) fn present() -> Rejection {
    Rejection::new(Code::AlreadyExists, "an element with this key is there already")
}

pub(crate) fn absent() -> Rejection {
    Rejection::new(Code::NotFound, "nothing is there")
}

/// Two masks as one: ascending, none below another.
pub(crate) fn union(mut mask: Vec<Vec<u32>>, more: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
    mask.extend(more);
    mask.sort();
    mask.dedup();
    let mut kept: Vec<Vec<u32>> = Vec::with_capacity(mask.len());
    for path in mask {
        if kept.last().is_none_or(|last| !path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}
