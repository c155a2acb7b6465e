//! A schema: protobuf descriptors compiled into tables that check, split and mask wire bytes without building messages.
//!
//! Only what is reachable from the root message is compiled and checked; all of it, when the schema is loaded. A field marked
//! `child_node` splits off a node (singular) or a container of nodes (repeated, keyed where the option names a key). Everything
//! else is plain data, part of its node's config. A message type can be used both ways; inside plain data `child_node` says nothing.

use crate::code::{Code, Rejection};
use crate::descriptor::{self, EnumDescriptor, FieldDescriptor, MessageDescriptor};
use crate::wire_bytes::MAX_FIELD_NUMBER;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How deep messages may be nested, the root message being 1; children, plain data and map entries alike.
pub const MAX_DEPTH: u32 = 64;
/// Problems beyond this many are counted, not listed.
pub(crate) const MAX_PROBLEMS: usize = 1_000;

/// Compiled tables. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<MessageType>,
    enums: Vec<EnumType>,
    names: BTreeMap<String, TypeId>,
}

/// A message type of one schema. Its number means nothing to another schema.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TypeId(pub(crate) u32);

/// An enum type of one schema.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EnumId(pub(crate) u32);

#[derive(Debug)]
pub struct MessageType {
    /// With the package, without a leading dot: `voltha.Device`.
    pub full_name: String,
    /// Ascending by number.
    pub fields: Vec<Field>,
    /// Whether this is the entry type behind a map field; then the fields are `key` = 1 and `value` = 2.
    pub map_entry: bool,
    /// Whether a READ_ONLY field stands in this message or in plain data below it.
    pub(crate) has_read_only: bool,
    children: Vec<ChildField>,
    /// For small field numbers: index into `fields` plus one, or 0.
    dense: Vec<u16>,
}

#[derive(Debug)]
pub struct Field {
    pub number: u32,
    pub name: String,
    pub kind: Kind,
    pub shape: Shape,
    pub access: Access,
    /// Which oneof of its message the field belongs to. A proto3 `optional` field belongs to none.
    pub oneof: Option<u8>,
    /// The one tag with which the field stands in canonical bytes.
    pub(crate) tag: u32,
    /// Neither REAL_TIME nor a member of a oneof: its tag and its place in the order say all.
    pub(crate) ordinary: bool,
    /// Index into the message's children.
    child: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message(TypeId),
    Bytes,
    Uint32,
    Enum(EnumId),
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A singular scalar without presence: omitted when default.
    Implicit,
    /// A singular field with presence: `optional`, a message, a oneof member.
    Presence,
    Repeated,
    /// Repeated entries; the kind is the entry's message.
    Map,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Config,
    ReadOnly,
    RealTime,
}

#[derive(Debug)]
pub struct EnumType {
    pub full_name: String,
    /// Ascending by number, then by name; one number may have several names.
    pub values: Vec<(i32, String)>,
    /// The declared numbers, ascending.
    numbers: Vec<i32>,
}

/// A field that splits off nodes.
#[derive(Debug)]
pub struct ChildField {
    pub number: u32,
    pub name: String,
    pub kind: ChildKind,
    /// The type of the child, or of each element.
    pub message: TypeId,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChildKind {
    /// Exactly one child, which always exists (S5).
    Single,
    /// A container without keys, changed only as a whole.
    List,
    /// A container whose elements are told apart by one of their fields.
    Keyed(KeyField),
}

/// The field of an element that is its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyField {
    pub number: u32,
    pub name: String,
    /// String or an integer type.
    pub kind: Kind,
}

/// What is wrong with a schema, and where: `voltha.Device.ports: …`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
#[error("{element}: {reason}")]
pub struct SchemaProblem {
    /// Full name of the message, field, enum or enum value; or what the set as a whole is called.
    pub element: String,
    pub reason: String,
}

impl SchemaProblem {
    pub fn new(element: impl Into<String>, reason: impl Into<String>) -> SchemaProblem {
        SchemaProblem { element: element.into(), reason: reason.into() }
    }

    /// All problems as one `SCHEMA_INVALID`.
    pub fn rejection(problems: &[SchemaProblem]) -> Rejection {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Rejection::new(Code::SchemaInvalid, lines.join("; "))
    }
}

impl Schema {
    /// Compiles a serialized `FileDescriptorSet`. `root_message` is the full name of the message of the root node.
    /// Every message reachable from it is checked, and every offender is named (beyond a thousand they are counted).
    pub fn compile(descriptor_set: &[u8], root_message: &str) -> Result<Schema, Vec<SchemaProblem>> {
        let set = descriptor::decode(descriptor_set).map_err(|reason| vec![SchemaProblem::new("descriptor set", reason)])?;
        let declared = Declared::collect(&set);
        let mut compiler = Compiler::new(&declared);
        compiler.message_named(root_message, "root message");
        while let Some(next) = compiler.pending.pop() {
            compiler.compile_message(next);
        }
        compiler.finish()
    }

    /// The type of the root node.
    pub fn root(&self) -> TypeId {
        TypeId(0)
    }

    pub fn message(&self, ty: TypeId) -> &MessageType {
        &self.messages[ty.0 as usize]
    }

    /// A reachable message by its full name.
    pub fn message_by_name(&self, full_name: &str) -> Option<TypeId> {
        self.names.get(full_name).copied()
    }

    pub fn enum_type(&self, id: EnumId) -> &EnumType {
        &self.enums[id.0 as usize]
    }

    /// All reachable message types, map entries among them; the root message first.
    pub fn types(&self) -> impl Iterator<Item = TypeId> + use<> {
        (0..self.messages.len() as u32).map(TypeId)
    }
}

impl MessageType {
    #[inline]
    pub fn field(&self, number: u32) -> Option<&Field> {
        match self.dense.get(number as usize) {
            Some(&index) => self.fields.get(usize::from(index).checked_sub(1)?),
            None => self.fields.binary_search_by_key(&number, |field| field.number).ok().map(|index| &self.fields[index]),
        }
    }

    pub fn field_by_name(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    pub fn child(&self, number: u32) -> Option<&ChildField> {
        self.child_of(self.field(number)?)
    }

    pub fn child_by_name(&self, name: &str) -> Option<&ChildField> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The fields that split off nodes, ascending by number.
    pub fn children(&self) -> impl Iterator<Item = &ChildField> {
        self.children.iter()
    }

    #[inline]
    pub(crate) fn child_of(&self, field: &Field) -> Option<&ChildField> {
        self.children.get(usize::from(field.child?))
    }
}

impl Field {
    pub fn is_child(&self) -> bool {
        self.child.is_some()
    }
}

impl ChildField {
    pub fn is_container(&self) -> bool {
        self.kind != ChildKind::Single
    }

    pub fn key(&self) -> Option<&KeyField> {
        match &self.kind {
            ChildKind::Keyed(key) => Some(key),
            ChildKind::Single | ChildKind::List => None,
        }
    }
}

impl EnumType {
    #[inline]
    pub fn declares(&self, number: i32) -> bool {
        // Most enums count from 0 without holes.
        self.numbers.get(number as usize) == Some(&number) || self.numbers.binary_search(&number).is_ok()
    }
}

impl Kind {
    /// The type in the words of a `.proto` file.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Double => "double",
            Kind::Float => "float",
            Kind::Int64 => "int64",
            Kind::Uint64 => "uint64",
            Kind::Int32 => "int32",
            Kind::Fixed64 => "fixed64",
            Kind::Fixed32 => "fixed32",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Message(_) => "message",
            Kind::Bytes => "bytes",
            Kind::Uint32 => "uint32",
            Kind::Enum(_) => "enum",
            Kind::Sfixed32 => "sfixed32",
            Kind::Sfixed64 => "sfixed64",
            Kind::Sint32 => "sint32",
            Kind::Sint64 => "sint64",
        }
    }

    /// 0 varint, 1 fixed 64, 2 length-delimited, 5 fixed 32.
    #[inline]
    pub fn wire_type(self) -> u8 {
        match self {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
            Kind::String | Kind::Message(_) | Kind::Bytes => 2,
            _ => 0,
        }
    }

    /// Legal as the key of a container (S4).
    pub fn is_key(self) -> bool {
        self == Kind::String || self.is_integer()
    }

    fn is_integer(self) -> bool {
        use Kind::*;
        matches!(self, Int32 | Int64 | Uint32 | Uint64 | Sint32 | Sint64 | Fixed32 | Fixed64 | Sfixed32 | Sfixed64)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Config => "CONFIG",
            Access::ReadOnly => "READ_ONLY",
            Access::RealTime => "REAL_TIME",
        })
    }
}

/// Everything the set declares, by full name.
struct Declared<'d> {
    messages: BTreeMap<String, Declaration<'d, MessageDescriptor>>,
    enums: BTreeMap<String, Declaration<'d, EnumDescriptor>>,
    duplicates: BTreeSet<String>,
}

struct Declaration<'d, D> {
    descriptor: &'d D,
    syntax: &'d str,
}

impl<'d> Declared<'d> {
    fn collect(set: &'d descriptor::FileSet) -> Declared<'d> {
        let mut declared = Declared { messages: BTreeMap::new(), enums: BTreeMap::new(), duplicates: BTreeSet::new() };
        for file in &set.file {
            declared.scope(&file.package, &file.message_type, &file.enum_type, &file.syntax);
        }
        declared
    }

    // Nesting was bounded when the set was read.
    fn scope(&mut self, scope: &str, messages: &'d [MessageDescriptor], enums: &'d [EnumDescriptor], syntax: &'d str) {
        let within = |name: &str| if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        for descriptor in enums {
            let name = within(&descriptor.name);
            if self.messages.contains_key(&name) || self.enums.insert(name.clone(), Declaration { descriptor, syntax }).is_some() {
                self.duplicates.insert(name);
            }
        }
        for descriptor in messages {
            let name = within(&descriptor.name);
            self.scope(&name, &descriptor.nested_type, &descriptor.enum_type, syntax);
            if self.enums.contains_key(&name) || self.messages.insert(name.clone(), Declaration { descriptor, syntax }).is_some() {
                self.duplicates.insert(name);
            }
        }
    }
}

struct Compiler<'d> {
    declared: &'d Declared<'d>,
    /// By type id; `None` until compiled.
    messages: Vec<(&'d str, Option<MessageType>)>,
    message_ids: BTreeMap<&'d str, TypeId>,
    enums: Vec<EnumType>,
    enum_ids: BTreeMap<&'d str, EnumId>,
    pending: Vec<TypeId>,
    problems: Problems,
}

impl<'d> Compiler<'d> {
    fn new(declared: &'d Declared<'d>) -> Compiler<'d> {
        Compiler {
            declared,
            messages: Vec::new(),
            message_ids: BTreeMap::new(),
            enums: Vec::new(),
            enum_ids: BTreeMap::new(),
            pending: Vec::new(),
            problems: Problems::default(),
        }
    }

    fn message_named(&mut self, name: &str, user: &str) -> Option<TypeId> {
        if let Some(&id) = self.message_ids.get(name) {
            return Some(id);
        }
        let Some((name, declaration)) = self.declared.messages.get_key_value(name) else {
            self.problems.add(user, format!("no message \"{name}\" in the descriptor set"));
            return None;
        };
        self.check_type(name, declaration.syntax);
        let id = TypeId(self.messages.len() as u32);
        self.messages.push((name, None));
        self.message_ids.insert(name, id);
        self.pending.push(id);
        Some(id)
    }

    fn enum_named(&mut self, name: &str, user: &str) -> Option<EnumId> {
        if let Some(&id) = self.enum_ids.get(name) {
            return Some(id);
        }
        let Some((name, declaration)) = self.declared.enums.get_key_value(name) else {
            self.problems.add(user, format!("no enum \"{name}\" in the descriptor set"));
            return None;
        };
        self.check_type(name, declaration.syntax);
        let mut values: Vec<(i32, String)> =
            declaration.descriptor.value.iter().map(|value| (value.number, value.name.clone())).collect();
        values.sort();
        let mut numbers: Vec<i32> = values.iter().map(|(number, _)| *number).collect();
        numbers.dedup();
        if numbers.binary_search(&0).is_err() {
            self.problems.add(name, "an enum must declare the number 0, which is its default");
        }
        let mut names = BTreeSet::new();
        for (_, value) in &values {
            if !is_identifier(value) || !names.insert(value) {
                self.problems.add(format!("{name}.{value}"), "value names must be identifiers, and each occur once");
            }
        }
        let id = EnumId(self.enums.len() as u32);
        self.enums.push(EnumType { full_name: name.clone(), values, numbers });
        self.enum_ids.insert(name, id);
        Some(id)
    }

    fn check_type(&mut self, name: &str, syntax: &str) {
        if syntax != "proto3" {
            let syntax = if syntax.is_empty() { "proto2" } else { syntax };
            self.problems.add(name, format!("declared with syntax {syntax}; everything reachable from the root must be proto3"));
        }
        if self.declared.duplicates.contains(name) {
            self.problems.add(name, "declared more than once");
        }
        if !name.split('.').all(is_identifier) {
            self.problems.add(name, "not a valid name");
        }
    }

    fn compile_message(&mut self, id: TypeId) {
        let full_name = self.messages[id.0 as usize].0;
        let descriptor = self.declared.messages[full_name].descriptor;
        let map_entry = descriptor.options.as_ref().is_some_and(|options| options.map_entry);
        let mut message = MessageType {
            full_name: full_name.to_owned(),
            fields: Vec::new(),
            map_entry,
            has_read_only: false,
            children: Vec::new(),
            dense: Vec::new(),
        };
        let mut sorted: Vec<&FieldDescriptor> = descriptor.field.iter().collect();
        sorted.sort_by_key(|field| field.number);
        let mut names = BTreeSet::new();
        let mut oneofs = Oneofs::of(descriptor);
        for (index, field) in sorted.iter().enumerate() {
            let at = format!("{full_name}.{}", field.name);
            if !is_identifier(&field.name) || !names.insert(&field.name) {
                self.problems.add(&at, "field names must be identifiers, and each occur once in its message");
            }
            if index > 0 && sorted[index - 1].number == field.number {
                self.problems.add(&at, format!("field number {} occurs twice", field.number));
            }
            if let Some((mut field, child)) = self.compile_field(&at, field, map_entry, &mut oneofs) {
                if let Some(child) = child {
                    field.child = u16::try_from(message.children.len()).ok();
                    if field.child.is_none() {
                        self.problems.add(&at, "a message has at most 65,536 child fields");
                    }
                    message.children.push(child);
                }
                message.fields.push(field);
            }
        }
        if map_entry {
            self.check_map_entry(&message, descriptor);
        }
        // Field numbers below 1,024 are looked up directly.
        if let Some(last) = message.fields.iter().rev().find(|field| field.number < 1_024) {
            message.dense = vec![0; last.number as usize + 1];
            for (index, field) in message.fields.iter().take_while(|field| field.number < 1_024).enumerate() {
                message.dense[field.number as usize] = (index as u16).saturating_add(1);
            }
        }
        self.messages[id.0 as usize].1 = Some(message);
    }

    fn compile_field(
        &mut self,
        at: &str,
        descriptor: &FieldDescriptor,
        in_map_entry: bool,
        oneofs: &mut Oneofs,
    ) -> Option<(Field, Option<ChildField>)> {
        let number = match u32::try_from(descriptor.number) {
            Ok(number @ 1..=MAX_FIELD_NUMBER) => number,
            _ => {
                self.problems.add(at, format!("field number {} is not within 1 to {MAX_FIELD_NUMBER}", descriptor.number));
                return None;
            }
        };
        let kind = self.kind(at, descriptor)?;
        let repeated = match descriptor.label {
            1 => false,
            3 => true,
            2 => {
                self.problems.add(at, "required fields are not supported");
                return None;
            }
            other => {
                self.problems.add(at, format!("unknown label {other}"));
                return None;
            }
        };
        let entry = match kind {
            Kind::Message(ty) => self.is_map_entry(ty),
            _ => false,
        };
        let shape = match (repeated, entry) {
            (true, true) => Shape::Map,
            (false, true) => {
                self.problems.add(at, "a map entry can only be a repeated field");
                Shape::Presence
            }
            (true, false) => Shape::Repeated,
            (false, false) if matches!(kind, Kind::Message(_)) || descriptor.proto3_optional || descriptor.oneof_index.is_some() => {
                Shape::Presence
            }
            (false, false) => Shape::Implicit,
        };
        let oneof = oneofs.index(descriptor).unwrap_or_else(|reason| {
            self.problems.add(at, reason);
            None
        });
        if repeated && (descriptor.oneof_index.is_some() || descriptor.proto3_optional) {
            self.problems.add(at, "a repeated field can be neither optional nor a member of a oneof");
        }
        let options = descriptor.options.clone().unwrap_or_default();
        let access = self.access(at, &options);
        if in_map_entry && options != descriptor::FieldOptions::default() {
            self.problems.add(at, "the key and value of a map cannot be annotated; annotate the map field");
        }
        let child = self.child(at, descriptor, &options, number, kind, shape, access);
        let wire_type = if shape == Shape::Repeated { 2 } else { kind.wire_type() };
        let tag = number << 3 | u32::from(wire_type);
        let ordinary = access != Access::RealTime && oneof.is_none();
        let field = Field { number, name: descriptor.name.clone(), kind, shape, access, oneof, tag, ordinary, child: None };
        Some((field, child))
    }

    fn kind(&mut self, at: &str, descriptor: &FieldDescriptor) -> Option<Kind> {
        Some(match descriptor.kind {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => {
                let name = self.absolute(at, descriptor)?;
                Kind::Message(self.message_named(name, at)?)
            }
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => {
                let name = self.absolute(at, descriptor)?;
                Kind::Enum(self.enum_named(name, at)?)
            }
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            10 => {
                self.problems.add(at, "groups are not supported");
                return None;
            }
            other => {
                self.problems.add(at, format!("unknown field type {other}"));
                return None;
            }
        })
    }

    fn absolute<'f>(&mut self, at: &str, descriptor: &'f FieldDescriptor) -> Option<&'f str> {
        let name = descriptor.type_name.strip_prefix('.');
        if name.is_none() {
            self.problems.add(at, format!("type name \"{}\" is not resolved: it does not begin with a dot", descriptor.type_name));
        }
        name
    }

    fn is_map_entry(&self, ty: TypeId) -> bool {
        let descriptor = self.declared.messages[self.messages[ty.0 as usize].0].descriptor;
        descriptor.options.as_ref().is_some_and(|options| options.map_entry)
    }

    fn access(&mut self, at: &str, options: &descriptor::FieldOptions) -> Access {
        if let (Some(confold), Some(voltha)) = (options.confold_access, options.voltha_access)
            && confold != voltha
        {
            self.problems.add(at, "(confold.v1.access) and (voltha.access) disagree; keep one of them");
        }
        match options.confold_access.or(options.voltha_access).unwrap_or(0) {
            0 => Access::Config,
            1 => Access::ReadOnly,
            2 => Access::RealTime,
            other => {
                self.problems.add(at, format!("access {other} does not exist; use CONFIG, READ_ONLY or REAL_TIME"));
                Access::Config
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn child(
        &mut self,
        at: &str,
        descriptor: &FieldDescriptor,
        options: &descriptor::FieldOptions,
        number: u32,
        kind: Kind,
        shape: Shape,
        access: Access,
    ) -> Option<ChildField> {
        if let (Some(confold), Some(voltha)) = (&options.confold_child, &options.voltha_child)
            && confold != voltha
        {
            self.problems.add(at, "(confold.v1.child_node) and (voltha.child_node) disagree; keep one of them");
        }
        let option = options.confold_child.as_ref().or(options.voltha_child.as_ref())?;
        let refused = match (kind, shape) {
            (_, Shape::Map) => Some("child_node on a map field; use a repeated message with a key"),
            (Kind::Message(_), _) if descriptor.oneof_index.is_some() && !descriptor.proto3_optional => {
                Some("child_node on a member of a oneof: a single child always exists")
            }
            (Kind::Message(_), _) if access == Access::RealTime => Some("child_node on a REAL_TIME field, which is never stored"),
            (Kind::Message(_), Shape::Presence) if !option.key.is_empty() => {
                Some("child_node with a key on a singular field; drop the key or make the field repeated")
            }
            (Kind::Message(_), _) => None,
            _ => Some("child_node on a field that is not a message"),
        };
        if let Some(reason) = refused {
            self.problems.add(at, reason);
            return None;
        }
        let Kind::Message(message) = kind else { return None };
        let child_kind = match shape {
            Shape::Repeated if option.key.is_empty() => ChildKind::List,
            Shape::Repeated => ChildKind::Keyed(self.key_field(at, message, &option.key)?),
            Shape::Presence | Shape::Implicit | Shape::Map => ChildKind::Single,
        };
        Some(ChildField { number, name: descriptor.name.clone(), kind: child_kind, message })
    }

    fn key_field(&mut self, at: &str, element: TypeId, key: &str) -> Option<KeyField> {
        let element_name = self.messages[element.0 as usize].0;
        let descriptor = self.declared.messages[element_name].descriptor;
        let Some(field) = descriptor.field.iter().find(|field| field.name == key) else {
            self.problems.add(at, format!("the key \"{key}\" is not a field of {element_name}"));
            return None;
        };
        let refused = |reason: &str| format!("the key {element_name}.{key} {reason}");
        let options = field.options.clone().unwrap_or_default();
        let is_key = matches!(field.kind, 3..=7 | 9 | 13 | 15..=18);
        let reason = if field.label != 1 {
            Some("is not singular")
        } else if !is_key {
            Some("is neither a string nor an integer")
        } else if field.proto3_optional {
            Some("is optional; a key has no presence")
        } else if field.oneof_index.is_some() {
            Some("is a member of a oneof")
        } else if options.confold_access.or(options.voltha_access) == Some(2) {
            Some("is REAL_TIME and so never stored")
        } else {
            None
        };
        if let Some(reason) = reason {
            self.problems.add(at, refused(reason));
            return None;
        }
        let number = u32::try_from(field.number).ok()?;
        Some(KeyField { number, name: key.to_owned(), kind: self.kind(at, field)? })
    }

    fn check_map_entry(&mut self, message: &MessageType, descriptor: &MessageDescriptor) {
        let well_formed = match &message.fields[..] {
            [key, value] => {
                (key.number, value.number) == (1, 2)
                    && key.shape == Shape::Implicit
                    && (key.kind.is_key() || key.kind == Kind::Bool)
                    && matches!(value.shape, Shape::Implicit | Shape::Presence)
                    && value.oneof.is_none()
                    && descriptor.field.iter().all(|field| field.oneof_index.is_none() && !field.proto3_optional)
            }
            _ => false,
        };
        if !well_formed {
            self.problems.add(&message.full_name, "not a well-formed map entry: it needs a key = 1 and a value = 2, both singular");
        }
    }

    fn finish(mut self) -> Result<Schema, Vec<SchemaProblem>> {
        let mut messages: Vec<MessageType> = self.messages.into_iter().filter_map(|(_, message)| message).collect();
        single_child_cycles(&messages, &mut self.problems);
        if !self.problems.is_empty() {
            return Err(self.problems.into_list());
        }
        mark_read_only(&mut messages);
        let names =
            messages.iter().enumerate().map(|(index, message)| (message.full_name.clone(), TypeId(index as u32))).collect();
        Ok(Schema { messages, enums: self.enums, names })
    }
}

/// Numbers the oneofs of one message, leaving out those that only stand behind an `optional`.
struct Oneofs {
    members: BTreeMap<i32, usize>,
    numbered: BTreeMap<i32, u8>,
}

impl Oneofs {
    fn of(message: &MessageDescriptor) -> Oneofs {
        let mut members = BTreeMap::new();
        for index in message.field.iter().filter_map(|field| field.oneof_index) {
            *members.entry(index).or_insert(0) += 1;
        }
        Oneofs { members, numbered: BTreeMap::new() }
    }

    fn index(&mut self, field: &FieldDescriptor) -> Result<Option<u8>, &'static str> {
        let Some(declared) = field.oneof_index else { return Ok(None) };
        if field.proto3_optional {
            let alone = self.members.get(&declared) == Some(&1);
            return if alone { Ok(None) } else { Err("an optional field cannot share a oneof with others") };
        }
        let next = self.numbered.len();
        // One bit per oneof while checking.
        let number = *self.numbered.entry(declared).or_insert(u8::try_from(next).unwrap_or(u8::MAX));
        if number < 64 { Ok(Some(number)) } else { Err("a message can have at most 64 oneofs") }
    }
}

/// S6: a cycle made only of single children would never end, since each of them always exists.
fn single_child_cycles(messages: &[MessageType], problems: &mut Problems) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let singles = |index: usize| -> Vec<&ChildField> {
        messages.get(index).map(|message| message.children.iter().filter(|child| !child.is_container()).collect()).unwrap_or_default()
    };
    let mut marks = vec![Mark::New; messages.len()];
    for start in 0..messages.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // Depth first without recursion: a chain of types can be as long as the set.
        marks[start] = Mark::Open;
        let mut stack = vec![(start, singles(start).into_iter())];
        while let Some((index, rest)) = stack.last_mut() {
            let index = *index;
            let Some(child) = rest.next() else {
                marks[index] = Mark::Done;
                stack.pop();
                continue;
            };
            let target = child.message.0 as usize;
            match marks.get(target) {
                Some(Mark::New) => {
                    marks[target] = Mark::Open;
                    stack.push((target, singles(target).into_iter()));
                }
                Some(Mark::Open) => problems.add(
                    format!("{}.{}", messages[index].full_name, child.name),
                    format!(
                        "closes a cycle made only of single children, back to {}; a single child always exists, so this never ends",
                        messages[target].full_name
                    ),
                ),
                _ => {}
            }
        }
    }
}

fn mark_read_only(messages: &mut [MessageType]) {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); messages.len()];
    let mut marked = Vec::new();
    for (index, message) in messages.iter_mut().enumerate() {
        for field in &message.fields {
            if let Kind::Message(ty) = field.kind {
                users[ty.0 as usize].push(index);
            }
            message.has_read_only |= field.access == Access::ReadOnly;
        }
        if message.has_read_only {
            marked.push(index);
        }
    }
    while let Some(index) = marked.pop() {
        for &user in &users[index] {
            if !messages[user].has_read_only {
                messages[user].has_read_only = true;
                marked.push(user);
            }
        }
    }
}

/// Collects offenders; a hostile set cannot make the list endless.
#[derive(Default)]
pub(crate) struct Problems {
    list: BTreeSet<SchemaProblem>,
    more: usize,
}

impl Problems {
    pub(crate) fn add(&mut self, element: impl Into<String>, reason: impl Into<String>) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.insert(SchemaProblem::new(element, reason));
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn into_list(self) -> Vec<SchemaProblem> {
        let mut list: Vec<SchemaProblem> = self.list.into_iter().collect();
        if self.more > 0 {
            list.push(SchemaProblem::new("schema", format!("and {} more problems", self.more)));
        }
        list
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl crate::diff::Shape for Schema {
    type Type = TypeId;

    fn root(&self) -> TypeId {
        Schema::root(self)
    }

    fn child(&self, of: TypeId, field: u32) -> Option<crate::diff::ChildShape<TypeId>> {
        let child = self.message(of).child(field)?;
        Some(match child.kind {
            ChildKind::Single => crate::diff::ChildShape::Single(child.message),
            ChildKind::List => crate::diff::ChildShape::List(child.message),
            ChildKind::Keyed(_) => crate::diff::ChildShape::Keyed(child.message),
        })
    }
}
