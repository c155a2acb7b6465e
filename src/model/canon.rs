//! The canonical check: one message value has exactly one encoding (docs/formats.md 1). One pass over wire bytes, no messages built.
//!
//! This is the fold's hot path. A config is checked without allocating; a subtree is checked and split into nodes in the same pass.

use crate::code::{Code, Rejection};
use crate::keys::MapKey;
use crate::schema::{Access, ChildKind, Field, Kind, MAX_DEPTH, MessageType, Schema, Shape, TypeId};
use crate::subtree::{Children, Subtree};
use crate::wire_bytes::{Cursor, Raw, WireError};
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
        while !cursor.is_empty() {
            let start = cursor.offset();
            let field = self.accept(message, &mut order, &mut cursor, depth)?;
            let number = field.number;
            match message.child_of(field) {
                None => {
                    self.value(field, &mut cursor, &mut order, depth)?;
                    config.take(start..cursor.offset());
                }
                Some(child) => {
                    let inner = cursor.bytes::<true>().map_err(|error| self.wire_error(depth, number, error))?;
                    let element = self.node(child.message, inner, depth + 1)?;
                    self.set_path(depth, number);
                    if subtree.children.last().is_none_or(|last| last.field != number) {
                        subtree.children.push(Children { field: number, entries: Vec::new() });
                    }
                    let Some(last) = subtree.children.last_mut() else { continue };
                    let key = match &child.kind {
                        ChildKind::Single if inner.is_empty() => {
                            let text = "a single child at its defaults is left out".to_owned();
                            return Err(self.error(depth, number, Code::NotCanonical, text));
                        }
                        ChildKind::Single => Box::default(),
                        ChildKind::List => (last.entries.len() as u32).to_be_bytes().into(),
                        ChildKind::Keyed(key) => match self.schema.key_of(child.message, key, inner) {
                            Ok(key) => key,
                            Err(error) => {
                                self.defer(depth, number, error.code, || error.text);
                                // Only what refuses is left to find; the empty key keeps the order comparable.
                                Box::default()
                            }
                        },
                    };
                    if let (ChildKind::Keyed(field), Some((previous, _))) = (&child.kind, last.entries.last()) {
                        let shown = || field.text(&key).unwrap_or_default();
                        if *previous == key && !key.is_empty() {
                            let shown = shown();
                            self.defer(depth, number, Code::AlreadyExists, || format!("two elements have the key \"{shown}\""));
                        } else if *previous > key && !key.is_empty() {
                            let text = format!("the element with the key \"{}\" stands out of key order", shown());
                            return Err(self.error(depth, number, Code::NotCanonical, text));
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
        while !cursor.is_empty() {
            let field = self.accept(message, &mut order, &mut cursor, depth)?;
            self.value(field, &mut cursor, &mut order, depth)?;
        }
        Ok(())
    }

    /// Reads a tag: of a known field, in order, with the right wire type.
    #[inline]
    fn accept<'m>(
        &mut self,
        message: &'m MessageType,
        order: &mut Order<'_>,
        cursor: &mut Cursor<'_>,
        depth: u32,
    ) -> Result<&'m Field, ValueError> {
        let tag = cursor.tag::<true>().map_err(|error| self.wire_error(depth, 0, error))?;
        let number = tag >> 3;
        self.set_path(depth, number);
        match message.field(number) {
            Some(field) if field.tag == tag && number > order.last && field.ordinary => {
                order.last = number;
                order.key = None;
                Ok(field)
            }
            Some(field) => match self.accept_slowly(field, order, tag) {
                Ok(()) => Ok(field),
                Err(text) => Err(self.error(depth, number, Code::NotCanonical, text)),
            },
            None => {
                let text = format!("{} has no field {number}", message.full_name);
                Err(self.error(depth, number, Code::UnknownField, text))
            }
        }
    }

    /// A field that is repeated, a member of a oneof, or wrong.
    fn accept_slowly(&self, field: &Field, order: &mut Order<'_>, tag: u32) -> Result<(), String> {
        if field.access == Access::RealTime {
            return Err("a REAL_TIME field is never stored; leave it out".to_owned());
        }
        if tag != field.tag {
            let expected = field.tag & 7;
            return Err(match tag & 7 {
                3 | 4 => WireError::Group.to_string(),
                other => format!("has wire type {other}; {} needs {expected}", describe(field)),
            });
        }
        if field.number < order.last {
            return Err(format!("stands after field {}; fields stand in ascending order", order.last));
        }
        if field.number == order.last {
            return match field.shape {
                Shape::Implicit | Shape::Presence => Err("a singular field stands there twice".to_owned()),
                _ if is_packed(field) => Err("a packed field stands there in more than one piece".to_owned()),
                _ => Ok(()),
            };
        }
        order.last = field.number;
        order.key = None;
        if let Some(oneof) = field.oneof {
            let bit = 1u64 << oneof;
            if order.oneofs & bit != 0 {
                return Err("another member of its oneof is set too".to_owned());
            }
            order.oneofs |= bit;
        }
        Ok(())
    }

    /// Reads the value of a field whose tag was accepted.
    #[inline]
    fn value<'a>(&mut self, field: &Field, cursor: &mut Cursor<'a>, order: &mut Order<'a>, depth: u32) -> Result<(), ValueError> {
        let number = field.number;
        let default = match field.tag & 7 {
            0 => {
                let value = cursor.varint::<true>().map_err(|error| self.wire_error(depth, number, error))?;
                if !self.number_fits(field.kind, value) {
                    return Err(self.bad_number(depth, field, value));
                }
                value == 0
            }
            1 => cursor.fixed64().map_err(|error| self.wire_error(depth, number, error))? == 0,
            5 => cursor.fixed32().map_err(|error| self.wire_error(depth, number, error))? == 0,
            _ => {
                let bytes = cursor.bytes::<true>().map_err(|error| self.wire_error(depth, number, error))?;
                match field.kind {
                    Kind::String => self.text(bytes, depth, number)?,
                    Kind::Bytes => {}
                    Kind::Message(ty) if field.shape == Shape::Map => return self.map_item(field, ty, bytes, order, depth),
                    Kind::Message(ty) => return self.plain(ty, bytes, depth + 1),
                    _ => return self.packed(field, bytes, depth),
                }
                bytes.is_empty()
            }
        };
        if default && field.shape == Shape::Implicit {
            let text = "is at its default and has no presence; leave it out".to_owned();
            return Err(self.error(depth, number, Code::NotCanonical, text));
        }
        Ok(())
    }

    fn map_item<'a>(&mut self, field: &Field, entry: TypeId, bytes: &'a [u8], order: &mut Order<'a>, depth: u32) -> Result<(), ValueError> {
        let key = self.map_entry(self.schema.message(entry), bytes, depth + 1)?;
        self.set_path(depth, field.number);
        let text = match (order.key, key) {
            (Some(previous), Some(key)) if previous == key => "a map key stands there twice",
            (Some(previous), Some(key)) if previous > key => "map entries stand out of key order",
            _ => {
                order.key = key;
                return Ok(());
            }
        };
        Err(self.error(depth, field.number, Code::NotCanonical, text.to_owned()))
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
            let field = if cursor.is_empty() { None } else { Some(self.accept(entry, &mut order, &mut cursor, depth)?) };
            let Some(field) = field.filter(|field| field.number == number) else {
                let text = format!("a map entry without its {what}; entries carry both");
                return Err(self.error(depth, number, Code::NotCanonical, text));
            };
            let wire = |check: &Self, error| check.wire_error(depth, number, error);
            let value = match field.kind.wire_type() {
                0 => Raw::Varint(cursor.varint::<true>().map_err(|error| wire(self, error))?),
                1 => Raw::Fixed64(cursor.fixed64().map_err(|error| wire(self, error))?),
                5 => Raw::Fixed32(cursor.fixed32().map_err(|error| wire(self, error))?),
                _ => Raw::Bytes(cursor.bytes::<true>().map_err(|error| wire(self, error))?),
            };
            match (field.kind, value) {
                (Kind::Message(ty), Raw::Bytes(inner)) => self.plain(ty, inner, depth + 1)?,
                (Kind::String, Raw::Bytes(text)) => self.text(text, depth, number)?,
                (kind, Raw::Varint(value)) if !self.number_fits(kind, value) => return Err(self.bad_number(depth, field, value)),
                _ => {}
            }
            if number == 1 {
                map_key = Some(MapKey::of(field.kind, value));
            }
        }
        if cursor.is_empty() {
            return Ok(map_key);
        }
        // Nothing can follow: a known field stands there twice, another one is unknown.
        let field = self.accept(entry, &mut order, &mut cursor, depth)?;
        Err(self.error(depth, field.number, Code::NotCanonical, "a map entry goes on after its value".to_owned()))
    }

    fn packed(&mut self, field: &Field, bytes: &[u8], depth: u32) -> Result<(), ValueError> {
        if bytes.is_empty() {
            let text = "an empty repeated field is left out".to_owned();
            return Err(self.error(depth, field.number, Code::NotCanonical, text));
        }
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_empty() {
            let item = packed_item::<true>(&mut cursor, field.kind).map_err(|error| self.wire_error(depth, field.number, error))?;
            if let Raw::Varint(value) = item
                && !self.number_fits(field.kind, value)
            {
                return Err(self.bad_number(depth, field, value));
            }
        }
        Ok(())
    }

    #[inline]
    fn text(&self, bytes: &[u8], depth: u32, number: u32) -> Result<(), ValueError> {
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = format!("is not UTF-8 from byte {} on", error.valid_up_to());
                Err(self.error(depth, number, Code::NotCanonical, text))
            }
        }
    }

    #[inline]
    fn number_fits(&self, kind: Kind, value: u64) -> bool {
        match kind {
            Kind::Int32 => i32::try_from(value as i64).is_ok(),
            Kind::Uint32 | Kind::Sint32 => u32::try_from(value).is_ok(),
            Kind::Bool => value <= 1,
            Kind::Enum(id) => i32::try_from(value as i64).is_ok_and(|number| self.schema.enum_type(id).declares(number)),
            _ => true,
        }
    }

    #[cold]
    fn bad_number(&self, depth: u32, field: &Field, value: u64) -> ValueError {
        let text = match field.kind {
            Kind::Enum(id) => format!("{} does not declare the number {}", self.schema.enum_type(id).full_name, value as i64),
            Kind::Int32 => format!("{} is out of range for int32", value as i64),
            kind => format!("{value} is out of range for {}", kind.word()),
        };
        self.error(depth, field.number, Code::NotCanonical, text)
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
    fn wire_error(&self, depth: u32, number: u32, error: WireError) -> ValueError {
        self.error(depth, number, Code::NotCanonical, error.to_string())
    }

    #[cold]
    fn error(&self, depth: u32, number: u32, code: Code, text: String) -> ValueError {
        let above = ((depth - self.top_depth) as usize).min(self.path.len());
        let mut field = self.path[..above].to_vec();
        // 0: the message as a whole.
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
    fn take(&mut self, field: std::ops::Range<usize>) {
        if self.run.end == field.start {
            self.run.end = field.end;
        } else {
            let before = &self.bytes[self.run.clone()];
            if !before.is_empty() {
                self.joined.get_or_insert_default().extend_from_slice(before);
            }
            self.run = field;
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
