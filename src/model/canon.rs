//! The canonical check: one message value has exactly one encoding (docs/formats.md 1). One pass over wire bytes, no messages built.
//!
//! This is the fold's hot path. A config is checked without allocating; a subtree is checked and split into nodes in the same pass.

use crate::code::{Code, Rejection};
use crate::keys::MapKey;
use crate::schema::{Access, ChildKind, Field, Kind, MAX_DEPTH, MessageType, Schema, Shape, TypeId};
use crate::subtree::{Children, Subtree};
use crate::wire_bytes::{Cursor, Raw, RawField, WireError};
use std::borrow::Cow;

/// Why a value was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct ValueError {
    pub code: Code,
    /// Field numbers from the message that was handed in to the offending field.
    pub field: Vec<u32>,
    /// For people: the field by name, what stands there, and what should.
    pub text: String,
}

impl From<ValueError> for Rejection {
    fn from(error: ValueError) -> Rejection {
        Rejection::new(error.code, error.text)
    }
}

impl Schema {
    /// Checks that `config` is the canonical config of a node of type `ty`; `depth` is the nesting of that node's message, 1 at the root.
    ///
    /// Child fields are refused with `CHILDREN_IN_UPDATE`, but only where the bytes are canonical otherwise.
    pub fn check_config(&self, ty: TypeId, config: &[u8], depth: u32) -> Result<(), ValueError> {
        let mut check = Check::new(self, ty, depth);
        let subtree = check.node(ty, config, depth)?;
        if let Some(children) = subtree.children.first() {
            check.defer(depth, children.field, Code::ChildrenInUpdate, || {
                "a child node cannot be set by an update of its parent; add, put or replace it under its own path".to_owned()
            });
        }
        check.verdict()
    }

    /// Checks a whole subtree and splits it into nodes.
    ///
    /// The first breach of the encoding is the error. Where there is none, what the encoding cannot show decides, in this order:
    /// keys (`INVALID_PATH` for an empty one), twins (`ALREADY_EXISTS`), then limits (depth, key length).
    pub fn split<'a>(&self, ty: TypeId, bytes: &'a [u8], depth: u32) -> Result<Subtree<'a>, ValueError> {
        let mut check = Check::new(self, ty, depth);
        let subtree = check.node(ty, bytes, depth)?;
        check.verdict()?;
        Ok(subtree)
    }

    /// Checks and splits the elements of the container `field` of `parent`: `bytes` is a message of the parent's type with only
    /// that field, `depth` the nesting of the parent's message.
    pub fn split_container<'a>(
        &self,
        parent: TypeId,
        field: u32,
        bytes: &'a [u8],
        depth: u32,
    ) -> Result<Vec<(Box<[u8]>, Subtree<'a>)>, ValueError> {
        let mut check = Check::new(self, parent, depth);
        let mut subtree = check.node(parent, bytes, depth)?;
        let alone = subtree.config.is_empty() && subtree.children.iter().all(|children| children.field == field);
        if !alone {
            let text = "the elements of a container are sent as its parent's message with that one field; there is another".to_owned();
            return Err(check.error(depth, field, Code::NotCanonical, text));
        }
        check.verdict()?;
        Ok(subtree.children.pop().map(|children| children.entries).unwrap_or_default())
    }
}

/// One check from a message downwards.
struct Check<'s> {
    schema: &'s Schema,
    top: TypeId,
    top_depth: u32,
    /// Field numbers from the top to the field at hand.
    path: [u32; MAX_DEPTH as usize + 1],
    /// The weightiest refusal that is no breach of the encoding.
    deferred: Option<ValueError>,
}

impl<'s> Check<'s> {
    fn new(schema: &'s Schema, top: TypeId, top_depth: u32) -> Check<'s> {
        Check { schema, top, top_depth, path: [0; MAX_DEPTH as usize + 1], deferred: None }
    }

    /// A message as a node: child fields are split off.
    fn node<'a>(&mut self, ty: TypeId, bytes: &'a [u8], depth: u32) -> Result<Subtree<'a>, ValueError> {
        let mut subtree = Subtree::default();
        if self.too_deep(depth) {
            return Ok(subtree);
        }
        let message = self.schema.message(ty);
        let mut config = Config { bytes, run: 0..0, joined: None };
        let mut cursor = Cursor::new(bytes);
        let mut order = Order::default();
        while let Some(raw) = cursor.field::<true>().map_err(|error| self.wire_error(depth, order.last, error))? {
            let field = self.accept(message, &mut order, &raw, depth)?;
            match message.child_of(field) {
                None => {
                    config.take(&raw);
                    self.value(field, raw.value, &mut order, depth)?;
                }
                Some(child) => {
                    let Raw::Bytes(inner) = raw.value else { continue };
                    let element = self.node(child.message, inner, depth + 1)?;
                    self.set_path(depth, raw.number);
                    if subtree.children.last().is_none_or(|last| last.field != raw.number) {
                        subtree.children.push(Children { field: raw.number, entries: Vec::new() });
                    }
                    let Some(last) = subtree.children.last_mut() else { continue };
                    let key = match &child.kind {
                        ChildKind::Single if inner.is_empty() => {
                            let text = "a single child at its defaults is left out".to_owned();
                            return Err(self.error(depth, raw.number, Code::NotCanonical, text));
                        }
                        ChildKind::Single => Box::default(),
                        ChildKind::List => (last.entries.len() as u32).to_be_bytes().into(),
                        ChildKind::Keyed(key) => match self.schema.key_of(child.message, key, inner) {
                            Ok(key) => key,
                            Err(error) => {
                                self.defer(depth, raw.number, error.code, || error.text);
                                // Only what refuses is left to find; the empty key keeps the order comparable.
                                Box::default()
                            }
                        },
                    };
                    if let (ChildKind::Keyed(field), Some((previous, _))) = (&child.kind, last.entries.last()) {
                        let shown = || field.text(&key).unwrap_or_default();
                        if *previous == key && !key.is_empty() {
                            let shown = shown();
                            self.defer(depth, raw.number, Code::AlreadyExists, || format!("two elements have the key \"{shown}\""));
                        } else if *previous > key && !key.is_empty() {
                            let text = format!("the element with the key \"{}\" stands out of key order", shown());
                            return Err(self.error(depth, raw.number, Code::NotCanonical, text));
                        }
                    }
                    last.entries.push((key, element));
                }
            }
        }
        subtree.config = config.finish();
        Ok(subtree)
    }

    /// A message as plain data: child fields are data like any other.
    fn plain(&mut self, ty: TypeId, bytes: &[u8], depth: u32) -> Result<(), ValueError> {
        if self.too_deep(depth) {
            return Ok(());
        }
        let message = self.schema.message(ty);
        let mut cursor = Cursor::new(bytes);
        let mut order = Order::default();
        while let Some(raw) = cursor.field::<true>().map_err(|error| self.wire_error(depth, order.last, error))? {
            let field = self.accept(message, &mut order, &raw, depth)?;
            self.value(field, raw.value, &mut order, depth)?;
        }
        Ok(())
    }

    /// The field's place: known, stored, in order, of the right wire type, the only one of its oneof.
    #[inline]
    fn accept<'m>(
        &mut self,
        message: &'m MessageType,
        order: &mut Order<'_>,
        raw: &RawField<'_>,
        depth: u32,
    ) -> Result<&'m Field, ValueError> {
        let refuse = |check: &Self, code, text: String| Err(check.error(depth, raw.number, code, text));
        self.set_path(depth, raw.number);
        let Some(field) = message.field(raw.number) else {
            return refuse(self, Code::UnknownField, format!("{} has no field {}", message.full_name, raw.number));
        };
        if field.access == Access::RealTime {
            return refuse(self, Code::NotCanonical, "a REAL_TIME field is never stored; leave it out".to_owned());
        }
        if raw.number <= order.last {
            if raw.number < order.last {
                return refuse(self, Code::NotCanonical, format!("stands after field {}; fields stand in ascending order", order.last));
            }
            if matches!(field.shape, Shape::Implicit | Shape::Presence) {
                return refuse(self, Code::NotCanonical, "a singular field stands there twice".to_owned());
            }
            if is_packed(field) {
                return refuse(self, Code::NotCanonical, "a packed field stands there in more than one piece".to_owned());
            }
        } else {
            order.last = raw.number;
            order.key = None;
        }
        let expected = if is_packed(field) { 2 } else { field.kind.wire_type() };
        if wire_type(raw.value) != expected {
            let text = format!("has wire type {}; {} needs {expected}", wire_type(raw.value), describe(field));
            return refuse(self, Code::NotCanonical, text);
        }
        if let Some(oneof) = field.oneof {
            let bit = 1u64 << oneof;
            if order.oneofs & bit != 0 {
                return refuse(self, Code::NotCanonical, "another member of its oneof is set too".to_owned());
            }
            order.oneofs |= bit;
        }
        Ok(field)
    }

    #[inline]
    fn value<'a>(&mut self, field: &Field, raw: Raw<'a>, order: &mut Order<'a>, depth: u32) -> Result<(), ValueError> {
        match (field.shape, field.kind, raw) {
            (Shape::Map, Kind::Message(entry), Raw::Bytes(bytes)) => {
                let key = self.map_entry(self.schema.message(entry), bytes, depth + 1)?;
                self.set_path(depth, field.number);
                match (order.key, key) {
                    (Some(previous), Some(key)) if previous == key => {
                        return Err(self.error(depth, field.number, Code::NotCanonical, "a map key stands there twice".to_owned()));
                    }
                    (Some(previous), Some(key)) if previous > key => {
                        return Err(self.error(depth, field.number, Code::NotCanonical, "map entries stand out of key order".to_owned()));
                    }
                    _ => order.key = key,
                }
                Ok(())
            }
            (_, Kind::Message(ty), Raw::Bytes(bytes)) => self.plain(ty, bytes, depth + 1),
            (Shape::Repeated, kind, Raw::Bytes(bytes)) if kind.wire_type() != 2 => self.packed(field, bytes, depth),
            (shape, kind, raw) => {
                self.scalar(kind, raw).map_err(|text| self.error(depth, field.number, Code::NotCanonical, text))?;
                if shape == Shape::Implicit && is_default(raw) {
                    let text = "is at its default and has no presence; leave it out".to_owned();
                    return Err(self.error(depth, field.number, Code::NotCanonical, text));
                }
                Ok(())
            }
        }
    }

    /// Both key and value, whatever they are. `None` where the entry lies too deep to look at.
    fn map_entry<'a>(&mut self, entry: &MessageType, bytes: &'a [u8], depth: u32) -> Result<Option<MapKey<'a>>, ValueError> {
        if self.too_deep(depth) {
            return Ok(None);
        }
        let mut cursor = Cursor::new(bytes);
        let mut order = Order::default();
        let mut map_key = None;
        for (number, what) in [(1, "key"), (2, "value")] {
            let raw = cursor.field::<true>().map_err(|error| self.wire_error(depth, order.last, error))?;
            let Some(raw) = raw else {
                let text = format!("a map entry without its {what}; entries carry both");
                return Err(self.error(depth, number, Code::NotCanonical, text));
            };
            let field = self.accept(entry, &mut order, &raw, depth)?;
            if raw.number != number {
                let text = format!("a map entry without its {what}; entries carry both");
                return Err(self.error(depth, number, Code::NotCanonical, text));
            }
            match (field.kind, raw.value) {
                (Kind::Message(ty), Raw::Bytes(inner)) => self.plain(ty, inner, depth + 1)?,
                (kind, value) => {
                    self.scalar(kind, value).map_err(|text| self.error(depth, number, Code::NotCanonical, text))?;
                }
            }
            if number == 1 {
                map_key = Some(MapKey::of(field.kind, raw.value));
            }
        }
        if let Some(raw) = cursor.field::<true>().map_err(|error| self.wire_error(depth, order.last, error))? {
            self.accept(entry, &mut order, &raw, depth)?;
        }
        Ok(map_key)
    }

    fn packed(&mut self, field: &Field, bytes: &[u8], depth: u32) -> Result<(), ValueError> {
        if bytes.is_empty() {
            let text = "an empty repeated field is left out".to_owned();
            return Err(self.error(depth, field.number, Code::NotCanonical, text));
        }
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_empty() {
            let raw = packed_item::<true>(&mut cursor, field.kind).map_err(|error| self.wire_error(depth, field.number, error))?;
            self.scalar(field.kind, raw).map_err(|text| self.error(depth, field.number, Code::NotCanonical, text))?;
        }
        Ok(())
    }

    #[inline]
    fn scalar(&self, kind: Kind, raw: Raw<'_>) -> Result<(), String> {
        match (kind, raw) {
            (Kind::String, Raw::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("is not UTF-8 from byte {} on", error.valid_up_to())),
            },
            (Kind::Int32, Raw::Varint(value)) if i32::try_from(value as i64).is_err() => Err(out_of_range(value as i64, kind)),
            (Kind::Uint32 | Kind::Sint32, Raw::Varint(value)) if u32::try_from(value).is_err() => Err(out_of_range(value, kind)),
            (Kind::Bool, Raw::Varint(value)) if value > 1 => Err(out_of_range(value, kind)),
            (Kind::Enum(id), Raw::Varint(value)) => {
                let declared = self.schema.enum_type(id);
                match i32::try_from(value as i64) {
                    Ok(number) if declared.declares(number) => Ok(()),
                    _ => Err(format!("{} does not declare the number {}", declared.full_name, value as i64)),
                }
            }
            _ => Ok(()),
        }
    }

    fn too_deep(&mut self, depth: u32) -> bool {
        if depth <= MAX_DEPTH {
            return false;
        }
        let parent = depth.saturating_sub(1).max(self.top_depth);
        let number = self.path[(parent - self.top_depth).min(MAX_DEPTH) as usize];
        self.defer(parent, number, Code::Limit, || {
            format!("messages are nested {depth} deep here; at most {MAX_DEPTH} levels are allowed, counted from the root message")
        });
        true
    }

    /// Notes a refusal that is weaker than any breach of the encoding still to be found. Of several the one that is checked first
    /// stands, and of those the one that comes first in the bytes.
    fn defer(&mut self, depth: u32, number: u32, code: Code, text: impl FnOnce() -> String) {
        if self.deferred.as_ref().is_none_or(|standing| rank(code) < rank(standing.code)) {
            self.deferred = Some(self.error(depth, number, code, text()));
        }
    }

    fn verdict(self) -> Result<(), ValueError> {
        self.deferred.map_or(Ok(()), Err)
    }

    #[inline]
    fn set_path(&mut self, depth: u32, number: u32) {
        if let Some(place) = self.path.get_mut((depth - self.top_depth) as usize) {
            *place = number;
        }
    }

    #[cold]
    fn wire_error(&self, depth: u32, after: u32, error: WireError) -> ValueError {
        self.error(depth, after, Code::NotCanonical, format!("{error}, at or after this field"))
    }

    #[cold]
    fn error(&self, depth: u32, number: u32, code: Code, text: String) -> ValueError {
        let above = ((depth - self.top_depth) as usize).min(self.path.len());
        let mut field = self.path[..above].to_vec();
        // 0: before the first field of this message.
        if number != 0 {
            field.push(number);
        }
        let text = format!("{}: {text}", self.schema.field_names(self.top, &field));
        ValueError { code, field, text }
    }
}

impl Schema {
    /// A field by name, `voltha.Device.address.port`; what the schema does not know stays a number.
    pub fn field_names(&self, ty: TypeId, numbers: &[u32]) -> String {
        let full_name = &self.message(ty).full_name;
        if numbers.is_empty() { full_name.clone() } else { format!("{full_name}.{}", self.names_below(ty, numbers)) }
    }

    /// The same from the message downwards, `address.port`.
    pub fn names_below(&self, ty: TypeId, numbers: &[u32]) -> String {
        let mut ty = Some(ty);
        let mut names = Vec::with_capacity(numbers.len());
        for number in numbers {
            let field = ty.and_then(|ty| self.message(ty).field(*number));
            names.push(field.map_or_else(|| number.to_string(), |field| field.name.clone()));
            ty = field.and_then(|field| match field.kind {
                Kind::Message(ty) => Some(ty),
                _ => None,
            });
        }
        names.join(".")
    }
}

/// What one pass over a message has to remember.
#[derive(Default)]
struct Order<'a> {
    last: u32,
    oneofs: u64,
    /// The previous key of the map at hand.
    key: Option<MapKey<'a>>,
}

/// Collects a config out of the runs between child fields; borrowed as long as there is one run.
struct Config<'a> {
    bytes: &'a [u8],
    run: std::ops::Range<usize>,
    joined: Option<Vec<u8>>,
}

impl<'a> Config<'a> {
    #[inline]
    fn take(&mut self, raw: &RawField<'a>) {
        if self.run.end == raw.start {
            self.run.end = raw.end;
        } else {
            let before = &self.bytes[self.run.clone()];
            if !before.is_empty() {
                self.joined.get_or_insert_default().extend_from_slice(before);
            }
            self.run = raw.start..raw.end;
        }
    }

    fn finish(self) -> Cow<'a, [u8]> {
        let last = &self.bytes[self.run];
        match self.joined {
            None => Cow::Borrowed(last),
            Some(mut joined) => {
                joined.extend_from_slice(last);
                Cow::Owned(joined)
            }
        }
    }
}

#[inline]
pub(crate) fn is_packed(field: &Field) -> bool {
    field.shape == Shape::Repeated && field.kind.wire_type() != 2
}

#[inline]
pub(crate) fn packed_item<'a, const STRICT: bool>(cursor: &mut Cursor<'a>, kind: Kind) -> Result<Raw<'a>, WireError> {
    Ok(match kind.wire_type() {
        1 => Raw::Fixed64(cursor.fixed64()?),
        5 => Raw::Fixed32(cursor.fixed32()?),
        _ => Raw::Varint(cursor.varint::<STRICT>()?),
    })
}

#[inline]
pub(crate) fn wire_type(raw: Raw<'_>) -> u8 {
    match raw {
        Raw::Varint(_) => 0,
        Raw::Fixed64(_) => 1,
        Raw::Bytes(_) => 2,
        Raw::Fixed32(_) => 5,
    }
}

/// By bits, so that -0.0 is not the default.
#[inline]
pub(crate) fn is_default(raw: Raw<'_>) -> bool {
    matches!(raw, Raw::Varint(0) | Raw::Fixed64(0) | Raw::Fixed32(0) | Raw::Bytes([]))
}

pub(crate) fn describe(field: &Field) -> String {
    let repeated = match field.shape {
        Shape::Repeated => "repeated ",
        Shape::Map => "map ",
        Shape::Implicit | Shape::Presence => "",
    };
    format!("{repeated}{}", field.kind.word())
}

/// The order in which refusals are decided, after the encoding itself (docs/formats.md 4).
fn rank(code: Code) -> u8 {
    match code {
        Code::InvalidPath => 0,
        Code::AlreadyExists => 1,
        Code::ChildrenInUpdate => 2,
        _ => 3,
    }
}

fn out_of_range(value: impl std::fmt::Display, kind: Kind) -> String {
    format!("{value} is out of range for {}", kind.word())
}
