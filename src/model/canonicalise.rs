//! From what a client sends to canonical bytes, by protobuf's parse rules: the last scalar wins, pieces of a message merge, packed and
//! unpacked lists are one, the last member of a oneof stands. Done once, by the server; the fold only checks.

use crate::canon::{ValueError, describe, is_default, is_packed, packed_item, wire_type};
use crate::code::Code;
use crate::keys::{MapKey, default_of};
use crate::schema::{Access, ChildKind, Field, Kind, MAX_DEPTH, MessageType, Schema, Shape, TypeId};
use crate::wire_bytes::{self, Cursor, Raw, WireError};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Whether child fields may stand in a value: they carry the subtree of an add, put or replace, and never belong in an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildFields {
    Allowed,
    Refused,
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Canonical {
    pub bytes: Vec<u8>,
    /// REAL_TIME fields that were set and are not stored, by name from the value downwards (`copy.clock`), each once, sorted.
    pub cleared: Vec<String>,
}

/// More REAL_TIME fields than this are cleared without being named.
const MAX_CLEARED: usize = 256;

impl Schema {
    /// Canonical bytes of a message of type `ty` whose nesting is `depth` (1 at the root). What comes out passes `split` (or
    /// `check_config` where children were refused); doing it again changes nothing.
    ///
    /// Refused: bytes that are no protobuf message or hold text that is not UTF-8 or an enum number that is not declared (`NOT_CANONICAL`), unknown fields,
    /// keys that are empty or too long, twin keys, too much depth.
    pub fn canonicalise(&self, ty: TypeId, bytes: &[u8], depth: u32, children: ChildFields) -> Result<Canonical, ValueError> {
        let mut canon = Canon { schema: self, top: ty, path: Vec::new(), cleared: BTreeSet::new(), displaced: 0, first_child: None };
        let mut out = Vec::with_capacity(bytes.len());
        canon.message(ty, bytes, depth, Role::Node, &mut out)?;
        if let (ChildFields::Refused, Some(field)) = (children, canon.first_child) {
            let text = "a child node cannot be set by an update of its parent; add, put or replace it under its own path".to_owned();
            return Err(canon.error(field, Code::ChildrenInUpdate, text));
        }
        let mut cleared: Vec<String> = canon.cleared.iter().map(|path| self.names_below(ty, path)).collect();
        cleared.sort();
        Ok(Canonical { bytes: out, cleared })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Node,
    Plain,
}

struct Canon<'s> {
    schema: &'s Schema,
    top: TypeId,
    /// Field numbers from the top to the message at hand.
    path: Vec<u32>,
    /// REAL_TIME fields met, by field numbers from the top.
    cleared: BTreeSet<Vec<u32>>,
    /// Inside a value that a later one displaced: what is cleared there would not have been stored anyway.
    displaced: u32,
    /// The first child field of the top message that was present.
    first_child: Option<u32>,
}

/// What was read of one field so far.
enum Slot<'a> {
    Scalar(Raw<'a>),
    /// Numbers, already in canonical form one after the other.
    Packed(Vec<u8>),
    /// Pieces of one message; parsing their concatenation is merging them.
    Message(Vec<&'a [u8]>),
    /// Items of a repeated field, or entries of a map.
    Items(Vec<&'a [u8]>),
}

impl Canon<'_> {
    fn message(&mut self, ty: TypeId, bytes: &[u8], depth: u32, role: Role, out: &mut Vec<u8>) -> Result<(), ValueError> {
        self.check_depth(depth)?;
        let message = self.schema.message(ty);
        let slots = self.read(message, bytes, depth)?;
        for (number, slot) in slots {
            let Some(field) = message.field(number) else { continue };
            match slot {
                Slot::Scalar(raw) => {
                    self.check_enum(field, raw)?;
                    if field.shape == Shape::Presence || !is_default(raw) {
                        put_raw(out, number, raw);
                    }
                }
                Slot::Packed(packed) => {
                    if !packed.is_empty() {
                        wire_bytes::put_bytes(out, number, &packed);
                    }
                }
                Slot::Message(pieces) => {
                    let child = if role == Role::Node { message.child_of(field) } else { None };
                    self.note_child(child.is_some(), number);
                    let role = if child.is_some() { Role::Node } else { Role::Plain };
                    let inner = self.inner(field, &join(&pieces), depth, role)?;
                    // S5: a single child at its defaults is the same as none.
                    if child.is_none() || !inner.is_empty() {
                        wire_bytes::put_bytes(out, number, &inner);
                    }
                }
                Slot::Items(items) => match field.shape {
                    Shape::Map => self.map(field, &items, depth, out)?,
                    _ => self.items(message, field, &items, depth, role, out)?,
                },
            }
        }
        Ok(())
    }

    /// Sorts the fields of one message into slots.
    fn read<'a>(&mut self, message: &MessageType, bytes: &'a [u8], depth: u32) -> Result<BTreeMap<u32, Slot<'a>>, ValueError> {
        let mut slots: BTreeMap<u32, Slot<'a>> = BTreeMap::new();
        // Which member of each oneof stands now.
        let mut members: BTreeMap<u8, u32> = BTreeMap::new();
        let mut cursor = Cursor::new(bytes);
        while let Some(raw) = cursor.field::<false>().map_err(|error| self.wire_error(error))? {
            let Some(field) = message.field(raw.number) else {
                let text = format!("{} has no field {}", message.full_name, raw.number);
                return Err(self.error(raw.number, Code::UnknownField, text));
            };
            let packed = is_packed(field) && wire_type(raw.value) == 2;
            if wire_type(raw.value) != field.kind.wire_type() && !packed {
                let text =
                    format!("has wire type {}; {} needs {}", wire_type(raw.value), describe(field), field.kind.wire_type());
                return Err(self.error(raw.number, Code::NotCanonical, text));
            }
            if field.access == Access::RealTime {
                self.clear(raw.number);
                continue;
            }
            if let Some(oneof) = field.oneof
                && let Some(before) = members.insert(oneof, raw.number)
                && before != raw.number
                && let Some(Slot::Message(pieces)) = slots.remove(&before)
                && let Some(Kind::Message(ty)) = message.field(before).map(|field| field.kind)
            {
                self.discard(before, ty, &join(&pieces), depth)?;
            }
            if let (Kind::String, Raw::Bytes(text)) = (field.kind, raw.value)
                && let Err(error) = std::str::from_utf8(text)
            {
                let text = format!("is not UTF-8 from byte {} on", error.valid_up_to());
                return Err(self.error(raw.number, Code::NotCanonical, text));
            }
            match (field.shape, raw.value) {
                (Shape::Repeated, Raw::Bytes(run)) if packed => {
                    let Slot::Packed(numbers) = slots.entry(raw.number).or_insert(Slot::Packed(Vec::new())) else { continue };
                    let mut cursor = Cursor::new(run);
                    while !cursor.is_empty() {
                        let item = packed_item::<false>(&mut cursor, field.kind)
                            .map_err(|error| self.error(raw.number, Code::NotCanonical, error.to_string()))?;
                        let item = normal(field.kind, item);
                        self.check_enum(field, item)?;
                        put_value(numbers, item);
                    }
                }
                (Shape::Repeated | Shape::Map, Raw::Bytes(item)) => {
                    if let Slot::Items(items) = slots.entry(raw.number).or_insert(Slot::Items(Vec::new())) {
                        items.push(item);
                    }
                }
                (Shape::Repeated, value) => {
                    let value = normal(field.kind, value);
                    self.check_enum(field, value)?;
                    if let Slot::Packed(numbers) = slots.entry(raw.number).or_insert(Slot::Packed(Vec::new())) {
                        put_value(numbers, value);
                    }
                }
                (_, Raw::Bytes(piece)) if matches!(field.kind, Kind::Message(_)) => {
                    if let Slot::Message(pieces) = slots.entry(raw.number).or_insert(Slot::Message(Vec::new())) {
                        pieces.push(piece);
                    }
                }
                (_, value) => {
                    slots.insert(raw.number, Slot::Scalar(normal(field.kind, value)));
                }
            }
        }
        Ok(slots)
    }

    /// Repeated strings, bytes and messages, the elements of containers among them.
    fn items(
        &mut self,
        message: &MessageType,
        field: &Field,
        items: &[&[u8]],
        depth: u32,
        role: Role,
        out: &mut Vec<u8>,
    ) -> Result<(), ValueError> {
        let child = if role == Role::Node { message.child_of(field) } else { None };
        self.note_child(child.is_some(), field.number);
        let role = if child.is_some() { Role::Node } else { Role::Plain };
        let Kind::Message(_) = field.kind else {
            items.iter().for_each(|item| wire_bytes::put_bytes(out, field.number, item));
            return Ok(());
        };
        let Some((element, ChildKind::Keyed(key))) = child.map(|child| (child.message, &child.kind)) else {
            for item in items {
                let inner = self.inner(field, item, depth, role)?;
                wire_bytes::put_bytes(out, field.number, &inner);
            }
            return Ok(());
        };
        let mut keyed = BTreeMap::new();
        for item in items {
            let inner = self.inner(field, item, depth, role)?;
            let bytes = self.schema.key_of(element, key, &inner).map_err(|error| self.error(field.number, error.code, error.text))?;
            if keyed.contains_key(&bytes) {
                let text = format!("two elements have the key \"{}\"", key.text(&bytes).unwrap_or_default());
                return Err(self.error(field.number, Code::AlreadyExists, text));
            }
            keyed.insert(bytes, inner);
        }
        keyed.values().for_each(|inner| wire_bytes::put_bytes(out, field.number, inner));
        Ok(())
    }

    /// Of entries with one key the last stands; within an entry, the fields merge as in any message.
    fn map(&mut self, field: &Field, entries: &[&[u8]], depth: u32, out: &mut Vec<u8>) -> Result<(), ValueError> {
        let Kind::Message(entry) = field.kind else { return Ok(()) };
        let entry = self.schema.message(entry);
        self.path.push(field.number);
        self.check_depth(depth + 1)?;
        let mut read = Vec::with_capacity(entries.len());
        for bytes in entries {
            let mut slots = self.read(entry, bytes, depth + 1)?;
            let mut canonical = Vec::new();
            let mut key = MapKey::Number(0);
            for part in &entry.fields {
                match (part.kind, slots.remove(&part.number)) {
                    (Kind::Message(_), Some(Slot::Message(pieces))) => {
                        let inner = self.inner(part, &join(&pieces), depth + 1, Role::Plain)?;
                        wire_bytes::put_bytes(&mut canonical, part.number, &inner);
                    }
                    (Kind::Message(_), _) => {
                        // Absent is an empty message, whose nesting counts as well.
                        self.inner(part, &[], depth + 1, Role::Plain)?;
                        wire_bytes::put_bytes(&mut canonical, part.number, &[]);
                    }
                    (kind, slot) => {
                        let raw = match slot {
                            Some(Slot::Scalar(raw)) => raw,
                            _ => default_of(kind),
                        };
                        self.check_enum(part, raw)?;
                        put_raw(&mut canonical, part.number, raw);
                        if part.number == 1 {
                            key = MapKey::of(kind, raw);
                        }
                    }
                }
            }
            read.push((key, canonical));
        }
        self.path.pop();
        // Later entries overwrite earlier ones.
        let by_key: BTreeMap<MapKey<'_>, Vec<u8>> = read.into_iter().collect();
        by_key.values().for_each(|canonical| wire_bytes::put_bytes(out, field.number, canonical));
        Ok(())
    }

    fn inner(&mut self, field: &Field, bytes: &[u8], depth: u32, role: Role) -> Result<Vec<u8>, ValueError> {
        let mut inner = Vec::with_capacity(bytes.len());
        if let Kind::Message(ty) = field.kind {
            self.path.push(field.number);
            self.message(ty, bytes, depth + 1, role, &mut inner)?;
            self.path.pop();
        }
        Ok(inner)
    }

    /// A member of a oneof that a later one displaced: it must be well-formed all the same, and leaves nothing behind.
    fn discard(&mut self, number: u32, ty: TypeId, bytes: &[u8], depth: u32) -> Result<(), ValueError> {
        self.path.push(number);
        self.displaced += 1;
        self.message(ty, bytes, depth + 1, Role::Plain, &mut Vec::new())?;
        self.displaced -= 1;
        self.path.pop();
        Ok(())
    }

    fn note_child(&mut self, is_child: bool, number: u32) {
        if is_child && self.path.is_empty() {
            self.first_child.get_or_insert(number);
        }
    }

    fn clear(&mut self, number: u32) {
        self.path.push(number);
        if self.displaced == 0 && self.cleared.len() < MAX_CLEARED && !self.cleared.contains(self.path.as_slice()) {
            self.cleared.insert(self.path.clone());
        }
        self.path.pop();
    }

    fn check_depth(&self, depth: u32) -> Result<(), ValueError> {
        if depth <= MAX_DEPTH {
            return Ok(());
        }
        let text =
            format!("messages are nested {depth} deep here; at most {MAX_DEPTH} levels are allowed, counted from the root message");
        Err(self.error(0, Code::Limit, text))
    }

    fn check_enum(&self, field: &Field, raw: Raw<'_>) -> Result<(), ValueError> {
        let (Kind::Enum(id), Raw::Varint(value)) = (field.kind, raw) else { return Ok(()) };
        let declared = self.schema.enum_type(id);
        if declared.declares(value as i32) {
            return Ok(());
        }
        let text = format!("{} does not declare the number {}", declared.full_name, value as i32);
        Err(self.error(field.number, Code::NotCanonical, text))
    }

    fn wire_error(&self, error: WireError) -> ValueError {
        self.error(0, Code::NotCanonical, format!("the bytes are no protobuf message: {error}"))
    }

    fn error(&self, number: u32, code: Code, text: String) -> ValueError {
        let mut field = self.path.clone();
        if number != 0 {
            field.push(number);
        }
        let text = format!("{}: {text}", self.schema.field_names(self.top, &field));
        ValueError { code, field, text }
    }
}

/// As protobuf does: 64 bits are cut to the field's width, any number but 0 is true.
fn normal(kind: Kind, raw: Raw<'_>) -> Raw<'_> {
    let Raw::Varint(value) = raw else { return raw };
    Raw::Varint(match kind {
        Kind::Int32 | Kind::Enum(_) => i64::from(value as i32) as u64,
        Kind::Uint32 | Kind::Sint32 => u64::from(value as u32),
        Kind::Bool => u64::from(value != 0),
        _ => value,
    })
}

fn put_raw(out: &mut Vec<u8>, number: u32, raw: Raw<'_>) {
    wire_bytes::put_tag(out, number, wire_type(raw));
    put_value(out, raw);
}

fn put_value(out: &mut Vec<u8>, raw: Raw<'_>) {
    match raw {
        Raw::Varint(value) => wire_bytes::put_varint(out, value),
        Raw::Fixed64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Raw::Fixed32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Raw::Bytes(bytes) => {
            wire_bytes::put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
}

fn join<'a>(pieces: &[&'a [u8]]) -> Cow<'a, [u8]> {
    match pieces {
        [one] => Cow::Borrowed(one),
        several => Cow::Owned(several.concat()),
    }
}
