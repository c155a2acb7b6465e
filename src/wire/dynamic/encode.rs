//! Wire bytes in a fixed order: fields by number, map entries by key, numbers packed, defaults left out. What the library
//! writes has maps in random order and loses a minus zero.

use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};
use std::{borrow::Cow, collections::BTreeMap};

pub(super) fn message(message: &DynamicMessage) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, value) in present(message) {
        let number = field.number();
        match &*value {
            Value::List(items) if packable(&field.kind()) => {
                let mut packed = Vec::new();
                items.iter().for_each(|item| bare(&field.kind(), item, &mut packed));
                delimited(number, &packed, &mut out);
            }
            Value::List(items) => items
                .iter()
                .for_each(|item| tagged(number, &field.kind(), item, &mut out)),
            Value::Map(entries) => {
                let Kind::Message(entry) = field.kind() else { continue };
                let (key_kind, value_kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
                for (key, value) in entries.iter().collect::<BTreeMap<_, _>>() {
                    let mut pair = Vec::new();
                    tagged(1, &key_kind, &key.clone().into(), &mut pair);
                    tagged(2, &value_kind, value, &mut pair);
                    delimited(number, &pair, &mut out);
                }
            }
            value => tagged(number, &field.kind(), value, &mut out),
        }
    }
    out
}

/// The fields that are set, by number. Without presence that is: not default, compared by bits.
pub(super) fn present(message: &DynamicMessage) -> Vec<(FieldDescriptor, Cow<'_, Value>)> {
    let mut fields: Vec<_> = message
        .descriptor()
        .fields()
        .filter(|field| message.has_field(field) || (!field.supports_presence() && is_minus_zero(message, field)))
        .map(|field| (message.get_field(&field), field))
        .map(|(value, field)| (field, value))
        .collect();
    fields.sort_by_key(|(field, _)| field.number());
    fields
}

fn is_minus_zero(message: &DynamicMessage, field: &FieldDescriptor) -> bool {
    match *message.get_field(field) {
        Value::F32(value) => value == 0.0 && value.is_sign_negative(),
        Value::F64(value) => value == 0.0 && value.is_sign_negative(),
        _ => false,
    }
}

fn packable(kind: &Kind) -> bool {
    !matches!(kind, Kind::String | Kind::Bytes | Kind::Message(_))
}

fn tagged(number: u32, kind: &Kind, value: &Value, out: &mut Vec<u8>) {
    encode_key(number, wire_type(kind), out);
    bare(kind, value, out);
}

fn delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn wire_type(kind: &Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

fn bare(kind: &Kind, value: &Value, out: &mut Vec<u8>) {
    match (value, kind) {
        (Value::Bool(value), _) => out.push(u8::from(*value)),
        (Value::I32(value), Kind::Sint32) => {
            encode_varint(u64::from(((value << 1) ^ (value >> 31)).cast_unsigned()), out);
        }
        (Value::I64(value), Kind::Sint64) => encode_varint(((value << 1) ^ (value >> 63)).cast_unsigned(), out),
        (Value::I32(value), Kind::Sfixed32) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::I64(value), Kind::Sfixed64) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::U32(value), Kind::Fixed32) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::U64(value), Kind::Fixed64) => out.extend_from_slice(&value.to_le_bytes()),
        // A negative number of 32 bits takes the same ten bytes as one of 64.
        (Value::I32(value) | Value::EnumNumber(value), _) => {
            encode_varint(i64::from(*value).cast_unsigned(), out);
        }
        (Value::I64(value), _) => encode_varint(value.cast_unsigned(), out),
        (Value::U32(value), _) => encode_varint(u64::from(*value), out),
        (Value::U64(value), _) => encode_varint(*value, out),
        (Value::F32(value), _) => out.extend_from_slice(&value.to_bits().to_le_bytes()),
        (Value::F64(value), _) => out.extend_from_slice(&value.to_bits().to_le_bytes()),
        (Value::String(value), _) => lengthed(value.as_bytes(), out),
        (Value::Bytes(value), _) => lengthed(value, out),
        (Value::Message(value), _) => lengthed(&message(value), out),
        // Lists and maps never stand inside a list or a map.
        (Value::List(_) | Value::Map(_), _) => {}
    }
}

fn lengthed(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
