//! One node, or all elements of a container.

use super::at::{Reading, is_latest};
use super::refusal::{hex, refusal};
use super::write::mask;
use super::{Refusal, Served, blocking};
use bytes::Bytes;
use confold_model::code::{Code, Rejection};
use confold_model::objects::{Objects, ObjectsError};
use confold_model::path::{Path, Step, Target};
use confold_model::schema::{ChildField, ChildKind, MessageType, Schema, TypeId};
use confold_model::tree::{ContainerView, Lookup, NodeView, Tree};
use confold_wire::dynamic::Types;
use confold_wire::pb::{self, container};
use std::sync::Arc;

/// Elements of a container that are read on the calling thread, and at once from the tree.
const FEW: u64 = 32;
pub(super) const SLICE: u64 = 256;

pub(super) async fn get(served: Arc<Served>, mut request: pb::GetRequest) -> Result<pb::GetResponse, Refusal> {
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
    served: &Served,
    reading: &Reading,
    request: &pb::GetRequest,
    few: u64,
) -> Result<Option<pb::GetResponse>, Refusal> {
    let schema = reading.schema()?;
    let path = schema
        .parse_path(&request.path)
        .map_err(|rejection| refusal(rejection, Some(schema)))?;
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
    let mut render = Render::new(served, reading, ty, shown, request.max_bytes)?;
    let mut answer = pb::GetResponse {
        read_at: Some(reading.read_at()),
        r#type: schema.message(ty).full_name.clone(),
        ..pb::GetResponse::default()
    };
    match target {
        Target::Node { keyed, .. } => {
            let node = found(reading, served, &path)?;
            let key = keyed.map_or_else(String::new, |child| key_text(child, &path));
            let index = index(reading, served, &path)?;
            answer
                .nodes
                .push(render.node(schema.print_path(&path), key, index, &node)?);
        }
        Target::Container { child, .. } => {
            let elements = elements(reading, served, &path)?;
            if elements.len() > few {
                return Ok(None);
            }
            let mut index = 0;
            while index < elements.len() {
                for (key, node) in elements.slice(index, SLICE, served.objects())? {
                    answer.nodes.push(render.element(&path, child, &key, index, &node)?);
                    index += 1;
                }
            }
            answer.container = Some(container_row(
                schema.print_path(&path),
                child,
                elements.len(),
                hex(&elements.hash()),
            ));
        }
    }
    Ok(Some(answer))
}

/// The node at a path: S5, a single child always exists.
pub(super) fn found(reading: &Reading, served: &Served, path: &Path) -> Result<NodeView, Refusal> {
    match reading.tree().node(path, served.objects())? {
        Lookup::Found(node) => Ok(node),
        Lookup::Default => default_node(served),
        Lookup::Absent { step } => Err(absent(reading, path, step)),
    }
}

/// Where an element stands in its container; `None` for a node that is no element.
fn index(reading: &Reading, served: &Served, path: &Path) -> Result<Option<u64>, Refusal> {
    let Some((Step { field, key: Some(key) }, above)) = path.steps.split_last() else {
        return Ok(None);
    };
    let container = Path {
        steps: above.iter().cloned().chain([Step::single(*field)]).collect(),
    };
    match reading.tree().container(&container, served.objects())? {
        Some(elements) => Ok(Some(elements.rank(key, served.objects())?.0)),
        None => Ok(None),
    }
}

/// The container at a path.
pub(super) fn elements(reading: &Reading, served: &Served, path: &Path) -> Result<ContainerView, Refusal> {
    if let Some(elements) = reading.tree().container(path, served.objects())? {
        return Ok(elements);
    }
    let owner = path.parent().unwrap_or_default();
    match reading.tree().node(&owner, served.objects())? {
        Lookup::Absent { step } => Err(absent(reading, path, step)),
        _ => Err(absent(reading, path, path.steps.len())),
    }
}

fn default_node(served: &Served) -> Result<NodeView, Refusal> {
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
    served: &'a Served,
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
    pub fn of(format: i32, reading: &Reading, served: &Served) -> Result<Form, Refusal> {
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
        served: &'a Served,
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
    ) -> Result<pb::Node, Refusal> {
        let value = match self.values {
            true => Some(self.value(node)?),
            false => None,
        };
        let children = self.children(&path, node)?;
        self.used += path.len() + key.len() + NODE_BYTES + children.len() * NODE_BYTES;
        self.spend(value.as_ref().map_or(0, value_bytes))?;
        let (hash, data_hash) = (hex(&node.hash()), hex(&node.data_hash()));
        Ok(pb::Node {
            path,
            key,
            index,
            hash,
            data_hash,
            value,
            children,
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
    ) -> Result<pb::Node, Refusal> {
        let Some(field) = child.key() else {
            // The elements of a list have no paths of their own.
            return self.node(self.schema.print_path(container), String::new(), Some(index), node);
        };
        let mut path = container.clone();
        path.steps.pop();
        path.steps.push(Step::keyed(child.number, key));
        self.node(
            self.schema.print_path(&path),
            field.text(key).unwrap_or_default(),
            Some(index),
            node,
        )
    }

    fn value(&self, node: &NodeView) -> Result<pb::Value, Refusal> {
        let mut left = self.limit.saturating_sub(self.used);
        let message = self.schema.message(self.ty);
        let deep = Deep {
            schema: self.schema,
            objects: self.served.objects(),
        };
        let bytes = if self.mask.is_empty() {
            deep.assemble(node, self.ty, self.depth, &mut left)?
        } else {
            let config = self.schema.masked(self.ty, node.config(deep.objects)?, &self.mask);
            deep.with_children(node, self.ty, &config, self.depth, &mut left)?
        };
        self.form.value(message, bytes.ok_or_else(|| self.too_large())?)
    }

    /// The child fields that hold something.
    fn children(&self, path: &str, node: &NodeView) -> Result<Vec<pb::Container>, Refusal> {
        let objects = self.served.objects();
        let message = self.schema.message(self.ty);
        let mut rows = Vec::new();
        for field in node.fields() {
            let Some(child) = message.child(field) else { continue };
            let (count, hash) = match child.is_container() {
                true => {
                    let elements = node.container(field, objects)?;
                    (elements.len(), elements.hash())
                }
                false => (1, node.child(field, objects)?.hash()),
            };
            let path = format!("{}/{}", path.trim_end_matches('/'), child.name);
            let row = container_row(path, child, count, hex(&hash));
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

/// Puts nodes together again to the messages that they were split from.
pub(super) struct Deep<'a> {
    pub schema: &'a Schema,
    pub objects: &'a dyn Objects,
}

impl Deep<'_> {
    /// The bytes of a node with so many levels of children, all of them for `None`. No bytes: they are more than `left`.
    pub fn assemble(
        &self,
        node: &NodeView,
        ty: TypeId,
        depth: Option<u32>,
        left: &mut usize,
    ) -> Result<Option<Vec<u8>>, ObjectsError> {
        let config = node.config(self.objects)?;
        self.with_children(node, ty, config, depth, left)
    }

    // As deep as messages nest, which the fold has bounded.
    fn with_children(
        &self,
        node: &NodeView,
        ty: TypeId,
        config: &[u8],
        depth: Option<u32>,
        left: &mut usize,
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
            let mut items = Vec::new();
            if !child.is_container() {
                let Some(item) = self.assemble(&node.child(field, self.objects)?, child.message, below, left)? else {
                    return Ok(None);
                };
                items.push(item);
            } else {
                let elements = node.container(field, self.objects)?;
                while (items.len() as u64) < elements.len() {
                    for (_, element) in elements.slice(items.len() as u64, SLICE, self.objects)? {
                        let Some(item) = self.assemble(&element, child.message, below, left)? else {
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
