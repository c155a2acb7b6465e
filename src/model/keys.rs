//! Keys of containers and maps: key bytes (docs/formats.md 2), whose order is the order of the container, and their text.

use crate::canon::ValueError;
use crate::code::{Code, Rejection};
use crate::schema::{KeyField, Kind, Schema, TypeId};
use crate::wire_bytes::{self, Raw};

pub const MAX_KEY_BYTES: usize = 256;

impl Schema {
    /// The key bytes of an element of type `ty`, read from its canonical config (or whole subtree).
    /// `INVALID_PATH` for an empty key, `LIMIT` for one of more than 256 bytes.
    pub fn key_of(&self, ty: TypeId, key: &KeyField, config: &[u8]) -> Result<Box<[u8]>, ValueError> {
        let raw = wire_bytes::fields(config).take_while(|field| field.number <= key.number).find(|field| field.number == key.number);
        let value = raw.map(|field| field.value).unwrap_or(default_of(key.kind));
        let refuse = |code, text: String| {
            Err(ValueError { code, field: vec![key.number], text: format!("{}.{}: {text}", self.message(ty).full_name, key.name) })
        };
        match check_string_key(key.kind, value) {
            Ok(()) => Ok(key_bytes(key.kind, value)),
            Err((code, text)) => refuse(code, text),
        }
    }
}

impl KeyField {
    /// Key bytes from plain text (not percent-encoded). Integers in canonical decimal only (K5): no sign but `-`, no leading 0.
    pub fn parse(&self, text: &str) -> Result<Box<[u8]>, Rejection> {
        let number = |refused: &str| {
            Rejection::new(Code::InvalidPath, format!("key \"{text}\": {} is {}; {refused}", self.name, self.kind.word()))
        };
        if self.kind == Kind::String {
            check_string_key(Kind::String, Raw::Bytes(text.as_bytes())).map_err(|(code, text)| Rejection::new(code, format!("key: {text}")))?;
            return Ok(text.as_bytes().into());
        }
        let parsed: i128 = text.parse().map_err(|_| number("write a decimal number, like 7"))?;
        if parsed.to_string() != text {
            return Err(number(&format!("write it as {parsed}")));
        }
        let (low, high) = range(self.kind);
        if parsed < low || parsed > high {
            return Err(number(&format!("use {low} to {high}")));
        }
        Ok(match width(self.kind) {
            4 => (signed_offset32(self.kind) ^ parsed as u32).to_be_bytes().into(),
            _ => (signed_offset64(self.kind) ^ parsed as u64).to_be_bytes().into(),
        })
    }

    /// Whether [`KeyField::text`] has a text for these key bytes.
    pub fn is_key(&self, key: &[u8]) -> bool {
        match self.kind {
            Kind::String => check_string_key(Kind::String, Raw::Bytes(key)).is_ok(),
            kind => key.len() == width(kind),
        }
    }

    /// The text of key bytes, not percent-encoded. `None` when they are not a key of this field: wrong width, not UTF-8, empty or too long.
    pub fn text(&self, key: &[u8]) -> Option<String> {
        if self.kind == Kind::String {
            check_string_key(Kind::String, Raw::Bytes(key)).ok()?;
            return String::from_utf8(key.to_vec()).ok();
        }
        Some(match width(self.kind) {
            4 => {
                let bits = u32::from_be_bytes(key.try_into().ok()?) ^ signed_offset32(self.kind);
                if is_signed(self.kind) { (bits as i32).to_string() } else { bits.to_string() }
            }
            _ => {
                let bits = u64::from_be_bytes(key.try_into().ok()?) ^ signed_offset64(self.kind);
                if is_signed(self.kind) { (bits as i64).to_string() } else { bits.to_string() }
            }
        })
    }
}

/// The order of map entries: that of key bytes, false before true. Keys of one map are all of one kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum MapKey<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> MapKey<'a> {
    #[inline]
    pub(crate) fn of(kind: Kind, raw: Raw<'a>) -> MapKey<'a> {
        match raw {
            Raw::Bytes(bytes) => MapKey::Bytes(bytes),
            _ => MapKey::Number(order(kind, raw)),
        }
    }
}

/// For people: the key of a map entry as it would be written.
pub(crate) fn map_key_text(kind: Kind, raw: Raw<'_>) -> String {
    match raw {
        Raw::Bytes(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        _ if kind == Kind::Bool => (integer(kind, raw) != 0).to_string(),
        _ if is_signed(kind) => (integer(kind, raw) as i64).to_string(),
        _ => integer(kind, raw).to_string(),
    }
}

/// What a scalar without presence has when it is absent.
pub(crate) fn default_of(kind: Kind) -> Raw<'static> {
    match kind.wire_type() {
        0 => Raw::Varint(0),
        1 => Raw::Fixed64(0),
        5 => Raw::Fixed32(0),
        _ => Raw::Bytes(&[]),
    }
}

fn check_string_key(kind: Kind, raw: Raw<'_>) -> Result<(), (Code, String)> {
    match raw {
        Raw::Bytes([]) => Err((Code::InvalidPath, "the key is empty; every element needs one".to_owned())),
        Raw::Bytes(bytes) if bytes.len() > MAX_KEY_BYTES => {
            Err((Code::Limit, format!("the key has {} bytes; at most {MAX_KEY_BYTES} are allowed", bytes.len())))
        }
        Raw::Bytes(bytes) if std::str::from_utf8(bytes).is_err() => Err((Code::InvalidPath, "the key is not UTF-8".to_owned())),
        Raw::Bytes(_) if kind != Kind::String => Err((Code::InvalidPath, "the key is not a number".to_owned())),
        _ => Ok(()),
    }
}

fn key_bytes(kind: Kind, raw: Raw<'_>) -> Box<[u8]> {
    match raw {
        Raw::Bytes(bytes) => bytes.into(),
        _ if width(kind) == 4 => (integer(kind, raw) as u32 ^ signed_offset32(kind)).to_be_bytes().into(),
        _ => order(kind, raw).to_be_bytes().into(),
    }
}

/// A number whose unsigned order is the order of values.
#[inline]
fn order(kind: Kind, raw: Raw<'_>) -> u64 {
    integer(kind, raw) ^ if is_signed(kind) { 1 << 63 } else { 0 }
}

/// The value: sign-extended to 64 bits where the type is signed.
#[inline]
fn integer(kind: Kind, raw: Raw<'_>) -> u64 {
    let bits = match raw {
        Raw::Varint(value) | Raw::Fixed64(value) => value,
        Raw::Fixed32(value) => u64::from(value),
        Raw::Bytes(_) => 0,
    };
    match kind {
        Kind::Sint32 | Kind::Sint64 => (bits >> 1) ^ (bits & 1).wrapping_neg(),
        Kind::Sfixed32 => i64::from(bits as i32) as u64,
        _ => bits,
    }
}

#[inline]
fn is_signed(kind: Kind) -> bool {
    matches!(kind, Kind::Int32 | Kind::Int64 | Kind::Sint32 | Kind::Sint64 | Kind::Sfixed32 | Kind::Sfixed64)
}

fn width(kind: Kind) -> usize {
    match kind {
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Fixed32 | Kind::Sfixed32 => 4,
        _ => 8,
    }
}

fn signed_offset32(kind: Kind) -> u32 {
    if is_signed(kind) { 1 << 31 } else { 0 }
}

fn signed_offset64(kind: Kind) -> u64 {
    if is_signed(kind) { 1 << 63 } else { 0 }
}

fn range(kind: Kind) -> (i128, i128) {
    match (width(kind), is_signed(kind)) {
        (4, true) => (i32::MIN.into(), i32::MAX.into()),
        (4, false) => (0, u32::MAX.into()),
        (_, true) => (i64::MIN.into(), i64::MAX.into()),
        (_, false) => (0, u64::MAX.into()),
    }
}
