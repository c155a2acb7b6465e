//! From parts of documents to operations.

use super::document::Part;
use crate::{
    error::Failure,
    types::{StoreTypes, refused},
};
use confold_client::encode_key;
use confold_model::{
    code::Code,
    path::Target,
    schema::{Access, ChildField, ChildKind, TypeId},
};
use confold_wire::pb;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be done at one path.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    pub path: String,
    /// The type of the value: the node's, or the owner's where a list is replaced.
    pub message: String,
    pub kind: StepKind,
    /// In protobuf's wire format.
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum StepKind {
    /// The root's own data.
    Update {
        mask: Vec<String>,
    },
    Put,
    ReplaceList,
    Remove,
    /// Too big for one event: the node's data first, then what is below it, piece by piece.
    Large {
        ty: TypeId,
        value: Json,
    },
}

/// What lies below a node that was taken apart.
#[derive(Default)]
pub struct Below {
    pub steps: Vec<Step>,
    /// The keyed containers, with the paths of the elements that belong there: others have to go.
    pub containers: Vec<(String, BTreeSet<String>)>,
}

pub struct Planner<'t> {
    types: &'t StoreTypes,
    /// An element of more bytes than this is taken apart.
    largest: usize,
    /// The root's own fields of the document at hand.
    root: Map<String, Json>,
    /// The list at hand that is one value: of a list without keys, or a field of the root.
    list: Vec<Json>,
    /// Keys named per keyed container, for pruning; kept only where asked for.
    named: Option<BTreeMap<String, BTreeSet<String>>>,
    pub notes: BTreeSet<String>,
}

impl<'t> Planner<'t> {
    pub fn new(types: &'t StoreTypes, largest: usize, prune: bool) -> Planner<'t> {
        Planner {
            types,
            largest,
            root: Map::new(),
            list: Vec::new(),
            named: prune.then(BTreeMap::new),
            notes: BTreeSet::new(),
        }
    }

    /// Containers that the documents named, with the paths of the elements in them.
    pub fn named(&mut self) -> BTreeMap<String, BTreeSet<String>> {
        self.named.take().unwrap_or_default()
    }

    /// What one part means.
    pub fn part(&mut self, part: Part) -> Result<Option<Step>, Failure> {
        match part {
            Part::Value { key, value } if key.starts_with('/') => self.at_path(&key, value),
            Part::Value { key, value } => match self.child(&key)? {
                None => self.root_field(key, value),
                Some(child) => match child.kind {
                    ChildKind::Single => self.put(format!("/{}", child.name), child.message, value).map(Some),
                    ChildKind::List | ChildKind::Keyed(_) if value.is_null() => Ok(None),
                    ChildKind::List | ChildKind::Keyed(_) => Err(not_a_list(&key)),
                },
            },
            Part::Element { key, index, value } => {
                let container = self.container(&key)?;
                match container.and_then(|(path, _, child)| Some((path, child, child.key()?))) {
                    Some((path, child, _)) => self.element(&path, child, index, value).map(Some),
                    None => {
                        self.list.push(value);
                        Ok(None)
                    }
                }
            }
            Part::ListEnd { key } => {
                let list = std::mem::take(&mut self.list);
                match self.container(&key)? {
                    None => self.root_field(key, Json::Array(list)),
                    Some((path, parent, child)) => Ok(self.list_end(path, parent, child, list)?),
                }
            }
            Part::DocumentEnd => self.root_update(),
        }
    }

    /// What makes up a node that is too big for one event, its own data aside.
    pub fn below(&mut self, path: &str, ty: TypeId, value: Json) -> Result<Below, Failure> {
        let mut below = Below::default();
        let Json::Object(mut fields) = value else {
            return Ok(below);
        };
        let types = self.types;
        let base = if path == "/" { "" } else { path };
        for child in types.schema.message(ty).children() {
            let path = format!("{base}/{}", child.name);
            let value = take_field(types, ty, &mut fields, child.number)?;
            let list = match (&child.kind, value) {
                (ChildKind::Single, value) => {
                    let value = value.unwrap_or_else(|| Json::Object(Map::new()));
                    below.steps.push(self.put(path, child.message, value)?);
                    continue;
                }
                (_, Some(Json::Array(list))) => list,
                (_, None | Some(Json::Null)) => Vec::new(),
                (_, Some(_)) => return Err(not_a_list(&path)),
            };
            if child.key().is_none() {
                below.steps.extend(self.list_end(path, ty, child, list)?);
                continue;
            }
            let mut named = BTreeSet::new();
            for (index, value) in list.into_iter().enumerate() {
                let step = self.element(&path, child, index, value)?;
                named.insert(step.path.clone());
                below.steps.push(step);
            }
            below.containers.push((path, named));
        }
        Ok(below)
    }

    /// The node's own data, without children.
    pub fn own_data(&self, path: &str, ty: TypeId, value: &Json) -> Result<Vec<u8>, Failure> {
        let mut fields = value.as_object().cloned().unwrap_or_default();
        for child in self.types.schema.message(ty).children() {
            take_field(self.types, ty, &mut fields, child.number)?;
        }
        self.encode(path, ty, &Json::Object(fields))
    }

    fn at_path(&mut self, text: &str, value: Json) -> Result<Option<Step>, Failure> {
        let types = self.types;
        let (path, target) = types.target(text)?;
        let text = types.schema.print_path(&path);
        match target {
            Target::Node { .. } if path.is_root() => {
                let text = "the root stands as field names, not as a path; leave out `/:`";
                Err(Failure::invalid(text).at("/"))
            }
            Target::Node { ty, .. } => self.put(text, ty, value).map(Some),
            Target::Container { .. } if value.is_null() => Ok(None),
            Target::Container { .. } => Err(not_a_list(&text)),
        }
    }

    /// The container that a key of a document names; `None` for a field of the root's own data.
    fn container(&self, key: &str) -> Result<Option<(String, TypeId, &'t ChildField)>, Failure> {
        let types = self.types;
        if !key.starts_with('/') {
            let root = types.schema.root();
            return Ok(self.child(key)?.map(|child| (format!("/{}", child.name), root, child)));
        }
        let (path, target) = types.target(key)?;
        match target {
            Target::Container { parent, child } => Ok(Some((types.schema.print_path(&path), parent, child))),
            Target::Node { .. } => Err(Failure::of(Code::TypeMismatch, "a list stands where one node belongs").at(key)),
        }
    }

    /// The child field of the root by either of its names; `None` for a field of its data.
    fn child(&self, name: &str) -> Result<Option<&'t ChildField>, Failure> {
        let types = self.types;
        if name.contains('.') {
            return Err(Failure::of(
                Code::UnknownField,
                format!("the root has no field {name:?}"),
            ));
        }
        let (numbers, _) = types.types.field(&types.root_message, name)?;
        Ok(numbers
            .last()
            .and_then(|number| types.schema.message(types.schema.root()).child(*number)))
    }

    fn root_field(&mut self, name: String, value: Json) -> Result<Option<Step>, Failure> {
        self.root.insert(name, value);
        Ok(None)
    }

    fn root_update(&mut self) -> Result<Option<Step>, Failure> {
        let fields = std::mem::take(&mut self.root);
        if fields.is_empty() {
            return Ok(None);
        }
        let types = self.types;
        let root = types.schema.root();
        let mut mask = Vec::new();
        for name in fields.keys() {
            let (_, field) = types.types.field(&types.root_message, name)?;
            match types
                .schema
                .message(root)
                .field(field.number())
                .map(|field| field.access)
            {
                Some(Access::RealTime) => _ = self.notes.insert(format!("{name} is REAL_TIME and not stored")),
                _ => mask.push(field.name().to_owned()),
            }
        }
        let value = self.encode("/", root, &Json::Object(fields))?;
        let step = Step {
            path: "/".to_owned(),
            message: types.root_message.clone(),
            kind: StepKind::Update { mask },
            value,
        };
        Ok(match &step.kind {
            StepKind::Update { mask } if mask.is_empty() => None,
            _ => Some(step),
        })
    }

    fn element(&mut self, container: &str, child: &ChildField, index: usize, value: Json) -> Result<Step, Failure> {
        let key = key_text(self.types, child, &value)
            .map_err(|text| Failure::of(Code::InvalidPath, text).at(&format!("{container}[{index}]")))?;
        if key.is_empty() {
            return Err(Failure::of(Code::InvalidPath, "its key is empty").at(&format!("{container}[{index}]")));
        }
        let path = format!("{container}/{}", encode_key(&key));
        // Says what is wrong with the key before anything is sent.
        self.types
            .schema
            .parse_path(&path)
            .map_err(|rejection| refused(&path, &rejection))?;
        if let Some(named) = &mut self.named {
            named.entry(container.to_owned()).or_default().insert(path.clone());
        }
        self.put(path, child.message, value)
    }

    fn list_end(
        &mut self,
        path: String,
        parent: TypeId,
        child: &ChildField,
        list: Vec<Json>,
    ) -> Result<Option<Step>, Failure> {
        match child.kind {
            ChildKind::Keyed(_) => {
                if let Some(named) = &mut self.named {
                    named.entry(path).or_default();
                }
                Ok(None)
            }
            ChildKind::Single => Err(Failure::of(Code::TypeMismatch, "a list stands where one node belongs").at(&path)),
            ChildKind::List => {
                let value = self.encode(
                    &path,
                    parent,
                    &Json::from_iter([(child.name.clone(), Json::Array(list))]),
                )?;
                let message = self.types.name(parent).to_owned();
                Ok(Some(Step {
                    path,
                    message,
                    kind: StepKind::ReplaceList,
                    value,
                }))
            }
        }
    }

    fn put(&mut self, path: String, ty: TypeId, value: Json) -> Result<Step, Failure> {
        let bytes = self.encode(&path, ty, &value)?;
        let message = self.types.name(ty).to_owned();
        if bytes.len() > self.largest && self.types.schema.message(ty).children().next().is_some() {
            return Ok(Step {
                path,
                message,
                kind: StepKind::Large { ty, value },
                value: Vec::new(),
            });
        }
        Ok(Step {
            path,
            message,
            kind: StepKind::Put,
            value: bytes,
        })
    }

    fn encode(&self, path: &str, ty: TypeId, value: &Json) -> Result<Vec<u8>, Failure> {
        let encoded = self.types.types.from_json_value(self.types.name(ty), value);
        encoded.map_err(|error| Failure::from(error).at(path))
    }
}

impl Step {
    pub fn operation(&self) -> pb::TextOperation {
        use pb::text_operation::Kind;
        let form = Some(pb::value::Form::Proto(self.value.clone().into()));
        let value = pb::Value {
            form,
            r#type: self.message.clone(),
        };
        let kind = match &self.kind {
            StepKind::Update { mask } => Kind::Update(pb::TextUpdate {
                value: Some(value),
                mask: mask.clone(),
            }),
            StepKind::Put => Kind::Put(value),
            StepKind::ReplaceList => Kind::Replace(value),
            StepKind::Remove | StepKind::Large { .. } => Kind::Remove(pb::Absent {}),
        };
        pb::TextOperation {
            path: self.path.clone(),
            kind: Some(kind),
            ..Default::default()
        }
    }

    /// A generous estimate of what it adds to a record.
    pub fn size(&self) -> usize {
        self.value.len() + self.path.len() + 64
    }

    pub fn remove(path: String) -> Step {
        Step {
            path,
            message: String::new(),
            kind: StepKind::Remove,
            value: Vec::new(),
        }
    }
}

/// The key of an element as its document has it.
fn key_text(types: &StoreTypes, child: &ChildField, value: &Json) -> Result<String, String> {
    let Some(key) = child.key() else {
        return Err(format!("{} has no keys", child.name));
    };
    let Json::Object(fields) = value else {
        return Err(format!(
            "an element of {} is a mapping, with {} as its key",
            child.name, key.name
        ));
    };
    let name = types.name(child.message);
    let json_name = types
        .types
        .field(name, &key.name)
        .map(|(_, field)| field.json_name().to_owned());
    let found = fields
        .get(&key.name)
        .or_else(|| fields.get(json_name.as_deref().unwrap_or_default()));
    match found {
        Some(Json::String(text)) => Ok(text.clone()),
        Some(Json::Number(number)) => Ok(number.to_string()),
        // An integer key of 0 may be left out, as any default.
        None | Some(Json::Null) if key.kind != confold_model::schema::Kind::String => Ok("0".to_owned()),
        None | Some(Json::Null) => Err(format!("the key {} is missing", key.name)),
        Some(other) => Err(format!(
            "the key {} is {other}, which is neither text nor a number",
            key.name
        )),
    }
}

/// A field by either of its names, taken out of the mapping.
fn take_field(
    types: &StoreTypes,
    ty: TypeId,
    fields: &mut Map<String, Json>,
    number: u32,
) -> Result<Option<Json>, Failure> {
    let descriptor = types.types.message(types.name(ty))?;
    let Some(field) = descriptor.get_field(number) else {
        return Ok(None);
    };
    Ok(fields.remove(field.name()).or_else(|| fields.remove(field.json_name())))
}

fn not_a_list(key: &str) -> Failure {
    Failure::of(Code::TypeMismatch, "a container's elements are written as a list").at(key)
}
