//! One node, or all elements of a container.

use super::at::{Reading, is_latest};
use super::refusal::{hex, refusal};
use super::rights::{Asked, Rights};
use super::write::mask;
use super::{Refusal, blocking};
use bytes::Bytes;
use confold_model::code::{Code, Rejection};
use confold_model::ids::Hash;
use confold_model::objects::{Objects, ObjectsError};
use confold_model::path::{Path, Step, Target};
use confold_model::policy::{Place, Visible};
use confold_model::schema::{ChildField, ChildKind, KeyField, MessageType, Schema, TypeId};
use confold_model::tree::{ContainerView, Element, Lookup, NodeView, Tree};
use confold_wire::dynamic::Types;
use confold_wire::pb::{self, container};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Elements of a container that are read on the calling thread, and at once from the tree.
const FEW: u64 = 32;
pub(super) const SLICE: u64 = 256;

pub(super) async fn get(served: Asked, mut request: pb::GetRequest) -> Result<pb::GetResponse, Refusal> {
    let read = request.read.take().unwrap_or_default();
    let view = served.view(&read).await?;
    if request.depth == 0
        && is_latest(&read.at)
        && let Some(answer) = get_now(&served, &Reading::latest(view.clone()), &request, FEW)?
    {
        return Ok(answer);
    }
    blocking(move || {
        let reading = served.open(&view, &read.at, read.schema_of_its_time)?;
        let answer = get_now(&served, &reading, &request, u64::MAX)?;
        answer.ok_or_else(|| Refusal::new(Code::Unavailable, "the container grew while it was read"))
    })
    .await
}

/// `None`: there are more than `few` elements.
fn get_now(
    served: &Asked,
    reading: &Reading,
    request: &pb::GetRequest,
    few: u64,
) -> Result<Option<pb::GetResponse>, Refusal> {
    let schema = reading.schema()?;
    let path = schema
        .parse_path(&request.path)
        .map_err(|rejection| refusal(rejection, Some(schema)))?;
    let rights = served.now()?;
    let target = schema
        .resolve(&path)
        .map_err(|rejection| refusal(rejection, Some(schema)))?;
    let ty = match target {
        Target::Node { ty, .. } => ty,
        Target::Container { child, .. } => child.message,
    };
    let shown = Shown {
        depth: request.depth,
        mask: &request.mask,
        format: request.format,
        values: true,
    };
    let place = place(reading, &rights, &path)?;
    let mut render = Render::new(served, reading, ty, shown, request.max_bytes)?;
    let mut answer = pb::GetResponse {
        read_at: Some(reading.read_at(&rights)),
        r#type: schema.message(ty).full_name.clone(),
        ..pb::GetResponse::default()
    };
    match target {
        Target::Node { keyed, .. } => {
            let node = found(reading, served, &path)?;
            let key = keyed.map_or_else(String::new, |child| key_text(child, &path));
            let index = index(reading, served, &rights, &path)?;
            answer.nodes.push(render.node(
                schema.print_path(&path),
                key,
                index,
                &node,
                Seen {
                    place,
                    key: keyed.and_then(ChildField::key),
                },
            )?);
        }
        Target::Container { child, .. } => {
            let elements = Elements::open(reading, served, &rights, &path)?;
            if elements.len() > few {
                return Ok(None);
            }
            let mut index = 0;
            while index < elements.len() {
                for (key, node) in elements.slice(index, SLICE, served.objects())? {
                    let place = elements.place(&rights, &path, &key);
                    answer
                        .nodes
                        .push(render.element(&path, child, &key, index, &node, place)?);
                    index += 1;
                }
            }
            answer.container = Some(container_row(
                schema.print_path(&path),
                child,
                elements.len(),
                elements.hash().as_ref().map(hex).unwrap_or_default(),
            ));
        }
    }
    Ok(Some(answer))
}

/// What the caller may see at a path. Where that is nothing, the answer is that of a path at which nothing is, whatever is
/// there: it is made before anything is looked up.
pub(super) fn place<'r>(reading: &Reading, rights: &'r Rights, path: &Path) -> Result<Place<'r>, Refusal> {
    let mut place = rights.grants().root();
    for (index, step) in path.steps.iter().enumerate() {
        place = place.step(step.field, step.key.as_deref());
        if place.visible() == Visible::Hidden {
            return Err(absent(reading, path, index));
        }
    }
    match place.visible() {
        Visible::Hidden => Err(absent(reading, path, 0)),
        _ => Ok(place),
    }
}

/// The elements of a container that a caller may see.
pub(super) enum Elements {
    All(ContainerView),
    /// Some elements are hidden, or may be: those that are not, by key. As many as the policy names and as are there.
    Some(Vec<Element>),
}

impl Elements {
    pub fn open(reading: &Reading, served: &Asked, rights: &Rights, path: &Path) -> Result<Elements, Refusal> {
        let place = place(reading, rights, path)?;
        if place.visible() == Visible::Full {
            return Ok(Elements::All(elements(reading, served, path)?));
        }
        let container = match reading.tree().container(path, served.objects())? {
            Some(container) => container,
            // The node that holds it is not there: no element of it can be.
            None => return Ok(Elements::Some(Vec::new())),
        };
        Elements::some(&container, readable_keys(rights, path), served).map(Elements::Some)
    }

    fn some<'k>(
        container: &ContainerView,
        keys: impl IntoIterator<Item = &'k [u8]>,
        served: &Asked,
    ) -> Result<Vec<Element>, Refusal> {
        let mut found = Vec::new();
        for key in keys {
            if let Some(node) = container.get(key, served.objects())? {
                found.push((key.into(), node));
            }
        }
        Ok(found)
    }

    /// Whether the caller may still see these elements. `NOT_FOUND`, as from the start, where the rights have become fewer
    /// since they were opened.
    pub fn check(&self, reading: &Reading, rights: &Rights, path: &Path) -> Result<(), Refusal> {
        let visible = place(reading, rights, path)?.visible();
        let fewer = match self {
            Elements::All(_) => visible != Visible::Full,
            Elements::Some(found) => {
                let hidden = |key: &[u8]| rights.grants().visible(&element_path(path, key)) == Visible::Hidden;
                found.iter().any(|(key, _)| hidden(key))
            }
        };
        if fewer {
            Err(absent(reading, path, path.steps.len()))
        } else {
            Ok(())
        }
    }

    pub fn len(&self) -> u64 {
        match self {
            Elements::All(elements) => elements.len(),
            Elements::Some(found) => found.len() as u64,
        }
    }

    /// `None` where elements are hidden, or may be.
    pub fn hash(&self) -> Option<Hash> {
        match self {
            Elements::All(elements) => Some(elements.hash()),
            Elements::Some(_) => None,
        }
    }

    /// How many stand before a key, and whether it is there.
    pub fn rank(&self, key: &[u8], objects: &dyn Objects) -> Result<(u64, bool), ObjectsError> {
        match self {
            Elements::All(elements) => elements.rank(key, objects),
            Elements::Some(found) => Ok(match found.binary_search_by(|(other, _)| (**other).cmp(key)) {
                Ok(index) => (index as u64, true),
                Err(index) => (index as u64, false),
            }),
        }
    }

    pub fn slice(&self, start: u64, limit: u64, objects: &dyn Objects) -> Result<Vec<Element>, ObjectsError> {
        match self {
            Elements::All(elements) => elements.slice(start, limit, objects),
            Elements::Some(found) => {
                let start = usize::try_from(start).unwrap_or(usize::MAX).min(found.len());
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Ok(found[start..].iter().take(limit).cloned().collect())
            }
        }
    }

    /// Where an element stands in the caller's rights.
    pub fn place<'r>(&self, rights: &'r Rights, container: &Path, key: &[u8]) -> Place<'r> {
        match self {
            Elements::All(_) => rights.grants().at(container),
            Elements::Some(_) => rights.grants().at(&element_path(container, key)),
        }
    }
}

/// The keys of a container of which the caller may see something, while the container itself may not be read.
fn readable_keys<'r>(rights: &'r Rights, container: &Path) -> BTreeSet<&'r [u8]> {
    let Some((Step { field, .. }, above)) = container.steps.split_last() else {
        return BTreeSet::new();
    };
    rights
        .grants()
        .at(&Path { steps: above.to_vec() })
        .readable_keys(*field)
}

fn element_path(container: &Path, key: &[u8]) -> Path {
    let mut path = container.clone();
    if let Some(last) = path.steps.last_mut() {
        last.key = Some(key.into());
    }
    path
}

/// The node at a path: S5, a single child always exists.
pub(super) fn found(reading: &Reading, served: &Asked, path: &Path) -> Result<NodeView, Refusal> {
    match reading.tree().node(path, served.objects())? {
        Lookup::Found(node) => Ok(node),
        Lookup::Default => default_node(served),
        Lookup::Absent { step } => Err(absent(reading, path, step)),
    }
}

/// Where an element stands in its container; `None` for a node that is no element, and where that would tell of others
/// that are hidden.
fn index(reading: &Reading, served: &Asked, rights: &Rights, path: &Path) -> Result<Option<u64>, Refusal> {
    let Some((Step { field, key: Some(key) }, above)) = path.steps.split_last() else {
        return Ok(None);
    };
    let container = Path {
        steps: above.iter().cloned().chain([Step::single(*field)]).collect(),
    };
    if rights.grants().visible(&container) != Visible::Full {
        return Ok(None);
    }
    match reading.tree().container(&container, served.objects())? {
        Some(elements) => Ok(Some(elements.rank(key, served.objects())?.0)),
        None => Ok(None),
    }
}

/// The container at a path.
pub(super) fn elements(reading: &Reading, served: &Asked, path: &Path) -> Result<ContainerView, Refusal> {
    if let Some(elements) = reading.tree().container(path, served.objects())? {
        return Ok(elements);
    }
    let owner = path.parent().unwrap_or_default();
    match reading.tree().node(&owner, served.objects())? {
        Lookup::Absent { step } => Err(absent(reading, path, step)),
        _ => Err(absent(reading, path, path.steps.len())),
    }
}

fn default_node(served: &Asked) -> Result<NodeView, Refusal> {
    match Tree::empty().node(&Path::root(), served.objects())? {
        Lookup::Found(node) => Ok(node),
        _ => Err(Refusal::new(Code::Unavailable, "the empty tree has no root node")),
    }
}

/// K3: no such key, told apart from no such field.
fn absent(reading: &Reading, path: &Path, step: usize) -> Refusal {
    let schema = reading.schema().ok().map(|schema| &**schema);
    let upto = Path {
        steps: path.steps.iter().take(step + 1).cloned().collect(),
    };
    let missing = schema.map(|schema| schema.print_path(&upto)).unwrap_or_default();
    let detail = format!("no such key: {missing} at revision {}", reading.revision());
    refusal(Rejection::new(Code::NotFound, detail).at(path.clone()), schema)
}

/// The key of the element that a path names, as text without percent signs.
pub(super) fn key_text(child: &ChildField, path: &Path) -> String {
    let key = path.steps.last().and_then(|step| step.key.as_deref());
    child
        .key()
        .zip(key)
        .and_then(|(field, key)| field.text(key))
        .unwrap_or_default()
}

/// Of an empty hash: some of the container is hidden.
pub(super) fn container_row(path: String, child: &ChildField, count: u64, hash: String) -> pb::Container {
    let kind = match child.kind {
        ChildKind::Single => container::Kind::Single,
        ChildKind::List => container::Kind::List,
        ChildKind::Keyed(_) => container::Kind::Keyed,
    };
    pb::Container {
        path,
        field: child.name.clone(),
        kind: kind.into(),
        count,
        restricted: hash.is_empty(),
        hash,
        hidden: false,
    }
}

/// What of a node is shown, and how.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub depth: i32,
    pub mask: &'a [String],
    pub format: i32,
    pub values: bool,
}

/// Turns nodes of one type into answers, up to a size.
pub(super) struct Render<'a> {
    served: &'a Asked,
    schema: &'a Schema,
    ty: TypeId,
    /// Levels of children; `None`: all.
    depth: Option<u32>,
    mask: Vec<Vec<u32>>,
    values: bool,
    form: Form,
    limit: usize,
    used: usize,
}

/// A format, with the types where it needs them.
#[derive(Clone)]
pub(super) struct Form(pb::Format, Option<Types>);

impl Form {
    pub fn of(format: i32, reading: &Reading, served: &Asked) -> Result<Form, Refusal> {
        match pb::Format::try_from(format) {
            Ok(pb::Format::Proto) => Ok(Form(pb::Format::Proto, None)),
            Ok(format) => Ok(Form(format, Some(reading.types(served)?))),
            Err(_) => {
                let hint = "use FORMAT_PROTO, FORMAT_JSON, FORMAT_TEXT or FORMAT_YAML";
                Err(Refusal::argument(format!("format {format} does not exist"), hint))
            }
        }
    }

    pub fn value(&self, ty: &MessageType, bytes: Vec<u8>) -> Result<pb::Value, Refusal> {
        let bytes = Bytes::from(bytes);
        let name = &ty.full_name;
        match &self.1 {
            None => Ok(pb::Value {
                form: Some(pb::value::Form::Proto(bytes)),
                r#type: name.clone(),
            }),
            Some(types) => Ok(types.to_value(name, &bytes, self.0)?),
        }
    }
}

/// Bytes of a value in its form.
pub(super) fn value_bytes(value: &pb::Value) -> usize {
    use pb::value::Form;
    match &value.form {
        None => 0,
        Some(Form::Proto(bytes)) => bytes.len(),
        Some(Form::Json(text) | Form::Text(text) | Form::Yaml(text)) => text.len(),
    }
}

impl<'a> Render<'a> {
    pub fn new(
        served: &'a Asked,
        reading: &'a Reading,
        ty: TypeId,
        shown: Shown<'_>,
        max_bytes: u64,
    ) -> Result<Render<'a>, Refusal> {
        let schema = reading.schema()?;
        let most = served.options.answer_bytes;
        let limit = match usize::try_from(max_bytes) {
            Ok(0) | Err(_) => most,
            Ok(asked) => asked.min(most),
        };
        if shown.depth < -1 {
            let hint = "0 is the node's data alone, n is n more levels, -1 is everything below";
            return Err(Refusal::argument(format!("depth {} does not exist", shown.depth), hint));
        }
        let mask = mask(schema, ty, shown.mask).map_err(|rejection| refusal(rejection, Some(schema)))?;
        let form = match shown.values {
            true => Form::of(shown.format, reading, served)?,
            false => Form(pb::Format::Proto, None),
        };
        let depth = u32::try_from(shown.depth).ok();
        Ok(Render {
            served,
            schema,
            ty,
            depth,
            mask,
            values: shown.values,
            form,
            limit,
            used: 0,
        })
    }

    /// Bytes of what was rendered so far.
    pub fn used(&self) -> usize {
        self.used
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Forgets what was rendered, so that the next node has the whole limit to itself.
    pub fn restart(&mut self) {
        self.used = 0;
    }

    /// Counts bytes that were rendered before.
    pub fn add(&mut self, bytes: usize) {
        self.used += bytes;
    }

    pub fn node(
        &mut self,
        path: String,
        key: String,
        index: Option<u64>,
        node: &NodeView,
        seen: Seen<'_>,
    ) -> Result<pb::Node, Refusal> {
        let value = match self.values {
            true => Some(self.value(node, seen)?),
            false => None,
        };
        let children = self.children(&path, node, seen.place)?;
        self.used += path.len() + key.len() + NODE_BYTES + children.len() * NODE_BYTES;
        self.spend(value.as_ref().map_or(0, value_bytes))?;
        // A hash tells what it is made of to whoever can guess it.
        let (hash, data_hash) = match seen.place.visible() {
            Visible::Full => (hex(&node.hash()), hex(&node.data_hash())),
            _ => Default::default(),
        };
        Ok(pb::Node {
            path,
            key,
            index,
            hash,
            data_hash,
            value,
            children,
            restricted: !seen.is_full(),
        })
    }

    /// An element of a container whose path is `container`.
    pub fn element(
        &mut self,
        container: &Path,
        child: &ChildField,
        key: &[u8],
        index: u64,
        node: &NodeView,
        place: Place<'_>,
    ) -> Result<pb::Node, Refusal> {
        let Some(field) = child.key() else {
            // The elements of a list have no paths of their own.
            return self.node(
                self.schema.print_path(container),
                String::new(),
                Some(index),
                node,
                Seen { place, key: None },
            );
        };
        self.node(
            self.schema.print_path(&element_path(container, key)),
            field.text(key).unwrap_or_default(),
            Some(index),
            node,
            Seen {
                place,
                key: Some(field),
            },
        )
    }

    fn value(&self, node: &NodeView, seen: Seen<'_>) -> Result<pb::Value, Refusal> {
        let mut left = self.limit.saturating_sub(self.used);
        let message = self.schema.message(self.ty);
        let deep = Deep {
            schema: self.schema,
            objects: self.served.objects(),
        };
        let bytes = if self.mask.is_empty() {
            deep.assemble(node, self.ty, self.depth, &mut left, Some(seen))?
        } else {
            let config = deep.config(node, self.ty, Some(seen))?;
            let config = self.schema.masked(self.ty, &config, &self.mask);
            deep.with_children(node, self.ty, &config, self.depth, &mut left, Some(seen))?
        };
        self.form.value(message, bytes.ok_or_else(|| self.too_large())?)
    }

    /// The child fields that hold something, as far as the caller may see it.
    fn children(&self, path: &str, node: &NodeView, place: Place<'_>) -> Result<Vec<pb::Container>, Refusal> {
        let objects = self.served.objects();
        let message = self.schema.message(self.ty);
        let mut rows = Vec::new();
        for field in node.fields() {
            let Some(child) = message.child(field) else { continue };
            let visible = place.step(field, None).visible();
            let is_full = visible == Visible::Full;
            let (count, hash) = match (child.is_container(), visible) {
                (_, Visible::Hidden) => continue,
                (true, Visible::Full) => {
                    let elements = node.container(field, objects)?;
                    (elements.len(), elements.hash())
                }
                (true, Visible::Partial) => {
                    let elements = node.container(field, objects)?;
                    let found = Elements::some(&elements, place.readable_keys(field), self.served)?;
                    (found.len() as u64, Hash::ZERO)
                }
                (false, _) => (1, node.child(field, objects)?.hash()),
            };
            if count == 0 {
                continue;
            }
            let path = format!("{}/{}", path.trim_end_matches('/'), child.name);
            let row = container_row(path, child, count, if is_full { hex(&hash) } else { String::new() });
            rows.push(pb::Container {
                hidden: self.depth == Some(0) || !self.values,
                ..row
            });
        }
        Ok(rows)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.used += bytes;
        if self.used > self.limit {
            Err(self.too_large())
        } else {
            Ok(())
        }
    }

    fn too_large(&self) -> Refusal {
        let detail = format!("the answer would have more than {} bytes", self.limit);
        Refusal::new(Code::TooLarge, detail)
            .hint("ask for less depth or for some fields, or list the container page by page")
    }
}

/// What of a node a caller may see.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub place: Place<'a>,
    /// Of which field the node's key is, where it is an element of a keyed container.
    pub key: Option<&'a KeyField>,
}

impl Seen<'_> {
    fn is_full(&self) -> bool {
        self.place.visible() == Visible::Full
    }
}

/// Puts nodes together again to the messages that they were split from.
pub(super) struct Deep<'a> {
    pub schema: &'a Schema,
    pub objects: &'a dyn Objects,
}

impl Deep<'_> {
    /// The bytes of a node with so many levels of children, all of them for `None`, as far as they may be seen. No bytes:
    /// they are more than `left`.
    pub fn assemble(
        &self,
        node: &NodeView,
        ty: TypeId,
        depth: Option<u32>,
        left: &mut usize,
        seen: Option<Seen<'_>>,
    ) -> Result<Option<Vec<u8>>, ObjectsError> {
        let config = self.config(node, ty, seen)?;
        self.with_children(node, ty, &config, depth, left, seen)
    }

    /// A node's own data. Where that may not be read, its key alone, which the path says anyway.
    fn config<'n>(
        &self,
        node: &'n NodeView,
        ty: TypeId,
        seen: Option<Seen<'_>>,
    ) -> Result<Cow<'n, [u8]>, ObjectsError> {
        let config = node.config(self.objects)?;
        Ok(match seen {
            Some(seen) if !seen.is_full() => match seen.key {
                Some(key) => Cow::Owned(self.schema.masked(ty, config, &[vec![key.number]])),
                None => Cow::Borrowed(&[]),
            },
            _ => Cow::Borrowed(config),
        })
    }

    // As deep as messages nest, which the fold has bounded.
    fn with_children(
        &self,
        node: &NodeView,
        ty: TypeId,
        config: &[u8],
        depth: Option<u32>,
        left: &mut usize,
        seen: Option<Seen<'_>>,
    ) -> Result<Option<Vec<u8>>, ObjectsError> {
        let Some(rest) = left.checked_sub(config.len()) else {
            return Ok(None);
        };
        *left = rest;
        if depth == Some(0) {
            return Ok(Some(config.to_vec()));
        }
        let below = depth.map(|depth| depth - 1);
        let mut children = Vec::new();
        for field in node.fields() {
            let Some(child) = self.schema.message(ty).child(field) else {
                continue;
            };
            let place = seen.map(|seen| seen.place.step(field, None));
            let visible = place.map_or(Visible::Full, |place| place.visible());
            let mut items = Vec::new();
            if visible == Visible::Hidden {
                continue;
            } else if let (true, Visible::Partial, Some(seen)) = (child.is_container(), visible, seen) {
                let elements = node.container(field, self.objects)?;
                for key in seen.place.readable_keys(field) {
                    let Some(element) = elements.get(key, self.objects)? else {
                        continue;
                    };
                    let seen = Seen {
                        place: seen.place.step(field, Some(key)),
                        key: child.key(),
                    };
                    let Some(item) = self.assemble(&element, child.message, below, left, Some(seen))? else {
                        return Ok(None);
                    };
                    items.push(item);
                }
            } else if !child.is_container() {
                let seen = place.map(|place| Seen { place, key: None });
                let child_node = node.child(field, self.objects)?;
                let Some(item) = self.assemble(&child_node, child.message, below, left, seen)? else {
                    return Ok(None);
                };
                items.push(item);
            } else {
                let elements = node.container(field, self.objects)?;
                while (items.len() as u64) < elements.len() {
                    for (_, element) in elements.slice(items.len() as u64, SLICE, self.objects)? {
                        let Some(item) = self.assemble(&element, child.message, below, left, None)? else {
                            return Ok(None);
                        };
                        items.push(item);
                    }
                }
            }
            children.push((field, items));
        }
        Ok(Some(self.schema.join(ty, config, &children)))
    }
}

/// What stands in an answer for each node beside its value and path: two hashes in hex, names, lengths.
const NODE_BYTES: usize = 192;
