//! Messages as JSON values and as text. Never fails: what cannot be shown in a nice form is shown in a plain one.

use super::{MAX_NESTING, Types, encode, read};
use base64::{Engine, prelude::BASE64_STANDARD};
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, SerializeOptions, Value};
use serde_json::{Map, Number, Value as Json};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

pub(super) struct Writer<'a> {
    pub types: &'a Types,
    /// Also fields that are not set, unless being absent means something for them.
    pub defaults: bool,
}

impl Writer<'_> {
    pub fn message(&self, message: &DynamicMessage, depth: u32) -> Json {
        match message.descriptor().full_name() {
            "google.protobuf.Any" => self.any(message, depth),
            "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask" => {
                // Out of range, they have no short form.
                message
                    .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
                    .unwrap_or_else(|_| Json::Object(self.fields(message, depth)))
            }
            "google.protobuf.Struct" | "google.protobuf.ListValue" | "google.protobuf.Value" => plain(message),
            name if read::is_wrapper(name) => match message.descriptor().get_field(1) {
                Some(field) => self.single(&field.kind(), &message.get_field(&field), depth),
                None => Json::Null,
            },
            _ => Json::Object(self.fields(message, depth)),
        }
    }

    fn fields(&self, message: &DynamicMessage, depth: u32) -> Map<String, Json> {
        let mut fields = encode::present(message);
        if self.defaults {
            let absent = |field: &FieldDescriptor| !fields.iter().any(|(set, _)| set == field);
            let unset: Vec<_> = message
                .descriptor()
                .fields()
                .filter(|field| !field.supports_presence() && absent(field))
                .map(|field| (field.clone(), message.get_field(&field)))
                .collect();
            fields.extend(unset);
            fields.sort_by_key(|(field, _)| field.number());
        }
        fields
            .into_iter()
            .map(|(field, value)| (field.name().to_owned(), self.field(&field, &value, depth)))
            .collect()
    }

    fn field(&self, field: &FieldDescriptor, value: &Value, depth: u32) -> Json {
        match value {
            Value::List(items) => items
                .iter()
                .map(|item| self.single(&field.kind(), item, depth))
                .collect(),
            Value::Map(entries) => {
                let Kind::Message(entry) = field.kind() else {
                    return Json::Null;
                };
                let kind = entry.map_entry_value_field().kind();
                let entries: BTreeMap<_, _> = entries.iter().collect();
                entries
                    .into_iter()
                    .map(|(key, value)| (map_key(key), self.single(&kind, value, depth)))
                    .collect()
            }
            Value::String(text) if self.types.inline_json && read::is_inline_json(field) => {
                serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.clone()))
            }
            value => self.single(&field.kind(), value, depth),
        }
    }

    fn single(&self, kind: &Kind, value: &Value, depth: u32) -> Json {
        match value {
            Value::Bool(value) => Json::Bool(*value),
            Value::I32(value) => (*value).into(),
            Value::U32(value) => (*value).into(),
            // As strings: many readers of JSON keep 53 bits only.
            Value::I64(value) => Json::String(value.to_string()),
            Value::U64(value) => Json::String(value.to_string()),
            // By way of its shortest text: 0.1, not 0.10000000149011612.
            Value::F32(value) => number(value.to_string().parse().unwrap_or(f64::from(*value))),
            Value::F64(value) => number(*value),
            Value::String(value) => Json::String(value.clone()),
            Value::Bytes(value) => Json::String(BASE64_STANDARD.encode(value)),
            Value::EnumNumber(number) => match kind {
                Kind::Enum(kind) if kind.full_name() == "google.protobuf.NullValue" => Json::Null,
                Kind::Enum(kind) => kind
                    .get_value(*number)
                    .map_or((*number).into(), |value| Json::String(value.name().to_owned())),
                _ => (*number).into(),
            },
            Value::Message(value) => self.message(value, depth + 1),
            // Lists and maps never stand inside a list or a map.
            Value::List(_) | Value::Map(_) => Json::Null,
        }
    }

    /// Opened where its type is known and the opened form leads back to the very same bytes; else shown by its bytes
    /// (E5): they are opaque to the store, and reading a value to edit it must not change them.
    fn any(&self, message: &DynamicMessage, depth: u32) -> Json {
        let Ok(any) = message.transcode_to::<prost_types::Any>() else {
            return Json::Null;
        };
        let mut map = Map::new();
        if any.type_url.is_empty() && any.value.is_empty() {
            return Json::Object(map);
        }
        map.insert("@type".to_owned(), Json::String(any.type_url.clone()));
        if let Some(opened) = self.open(&any, depth) {
            match opened {
                Json::Object(fields) if !read::has_short_form(read::type_name(&any.type_url)) => map.extend(fields),
                value => drop(map.insert("value".to_owned(), value)),
            }
            let shown = Json::Object(map.clone());
            let reader = read::Reader { types: self.types };
            let again = read::message(&reader, &message.descriptor(), &shown);
            if again.is_ok_and(|again| again.transcode_to().is_ok_and(|again: prost_types::Any| again == any)) {
                return shown;
            }
            map.retain(|key, _| key == "@type");
        }
        map.insert("@bytes".to_owned(), Json::String(BASE64_STANDARD.encode(&any.value)));
        Json::Object(map)
    }

    fn open(&self, any: &prost_types::Any, depth: u32) -> Option<Json> {
        // What is packed has a nesting of its own that no decoder has bounded yet.
        if depth >= MAX_NESTING / 4 || !any.type_url.contains('/') {
            return None;
        }
        let descriptor = self.types.pool().get_message_by_name(read::type_name(&any.type_url))?;
        let payload = DynamicMessage::decode(descriptor, any.value.as_slice()).ok()?;
        Some(
            Writer {
                defaults: false,
                ..*self
            }
            .message(&payload, depth + 1),
        )
    }
}

/// The name that the JSON mapping has for a number that JSON has not.
pub(super) fn special(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Protobuf's text format. Packed messages stay packed.
pub(super) fn text(message: &DynamicMessage) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = text_fields(message, 0, &mut out);
    out
}

fn number(value: f64) -> Json {
    Number::from_f64(value).map_or_else(|| Json::String(special(value).to_owned()), Json::Number)
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// JSON inside protobuf is shown as JSON.
fn plain(message: &DynamicMessage) -> Json {
    fn item(value: &prost_types::Value) -> Json {
        use prost_types::value::Kind;
        match &value.kind {
            None | Some(Kind::NullValue(_)) => Json::Null,
            Some(Kind::BoolValue(value)) => Json::Bool(*value),
            Some(Kind::NumberValue(value)) => number(*value),
            Some(Kind::StringValue(value)) => Json::String(value.clone()),
            Some(Kind::StructValue(value)) => fields(value),
            Some(Kind::ListValue(list)) => list.values.iter().map(item).collect(),
        }
    }
    fn fields(map: &prost_types::Struct) -> Json {
        map.fields
            .iter()
            .map(|(key, value)| (key.clone(), item(value)))
            .collect()
    }
    let bytes = encode::message(message);
    match message.descriptor().full_name() {
        "google.protobuf.Struct" => prost_types::Struct::decode(&*bytes).map(|map| fields(&map)),
        "google.protobuf.ListValue" => {
            prost_types::ListValue::decode(&*bytes).map(|list| list.values.iter().map(item).collect())
        }
        _ => prost_types::Value::decode(&*bytes).map(|value| item(&value)),
    }
    .unwrap_or(Json::Null)
}

fn text_fields(message: &DynamicMessage, indent: usize, out: &mut String) -> fmt::Result {
    for (field, value) in encode::present(message) {
        match &*value {
            Value::List(items) => {
                for item in items {
                    text_field(field.name(), &field.kind(), item, indent, out)?;
                }
            }
            Value::Map(entries) => {
                let Kind::Message(entry) = field.kind() else { continue };
                for (key, value) in entries.iter().collect::<BTreeMap<_, _>>() {
                    writeln!(out, "{:indent$}{} {{", "", field.name())?;
                    let key_kind = entry.map_entry_key_field().kind();
                    text_field("key", &key_kind, &key.clone().into(), indent + 2, out)?;
                    text_field("value", &entry.map_entry_value_field().kind(), value, indent + 2, out)?;
                    writeln!(out, "{:indent$}}}", "")?;
                }
            }
            value => text_field(field.name(), &field.kind(), value, indent, out)?,
        }
    }
    Ok(())
}

fn text_field(name: &str, kind: &Kind, value: &Value, indent: usize, out: &mut String) -> fmt::Result {
    write!(out, "{:indent$}{name}", "")?;
    match value {
        Value::Message(message) if encode::present(message).is_empty() => writeln!(out, " {{}}"),
        Value::Message(message) => {
            writeln!(out, " {{")?;
            text_fields(message, indent + 2, out)?;
            writeln!(out, "{:indent$}}}", "")
        }
        Value::Bool(value) => writeln!(out, ": {value}"),
        Value::I32(value) => writeln!(out, ": {value}"),
        Value::I64(value) => writeln!(out, ": {value}"),
        Value::U32(value) => writeln!(out, ": {value}"),
        Value::U64(value) => writeln!(out, ": {value}"),
        Value::F32(value) => text_float(f64::from(*value), format_args!("{value:?}"), out),
        Value::F64(value) => text_float(*value, format_args!("{value:?}"), out),
        Value::String(value) => text_string(value.chars().map(Ok), out),
        Value::Bytes(value) => text_string(value.iter().map(|byte| ascii(*byte)), out),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(kind) if kind.get_value(*number).is_some() => {
                let name = kind
                    .get_value(*number)
                    .map(|value| value.name().to_owned())
                    .unwrap_or_default();
                writeln!(out, ": {name}")
            }
            _ => writeln!(out, ": {number}"),
        },
        // Lists and maps never stand inside a list or a map.
        Value::List(_) | Value::Map(_) => writeln!(out, " {{}}"),
    }
}

fn text_float(value: f64, shortest: fmt::Arguments<'_>, out: &mut String) -> fmt::Result {
    match value {
        _ if value.is_nan() => writeln!(out, ": nan"),
        _ if value.is_infinite() => writeln!(out, ": {}inf", if value < 0.0 { "-" } else { "" }),
        _ => writeln!(out, ": {shortest}"),
    }
}

fn ascii(byte: u8) -> Result<char, u8> {
    if byte.is_ascii() {
        Ok(char::from(byte))
    } else {
        Err(byte)
    }
}

fn text_string(chars: impl Iterator<Item = Result<char, u8>>, out: &mut String) -> fmt::Result {
    out.write_str(": \"")?;
    for char in chars {
        match char {
            Ok('\n') => out.write_str("\\n")?,
            Ok('\r') => out.write_str("\\r")?,
            Ok('\t') => out.write_str("\\t")?,
            Ok(char @ ('"' | '\'' | '\\')) => write!(out, "\\{char}")?,
            Ok(char) if char.is_ascii_control() => write!(out, "\\{:03o}", u32::from(char))?,
            Ok(char) => out.write_char(char)?,
            Err(byte) => write!(out, "\\{byte:03o}")?,
        }
    }
    out.write_str("\"\n")
}
