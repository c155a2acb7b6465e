//! JSON values as messages. Refusals name the place, what belongs there and what stands there.

use super::{DynamicError, MAX_NESTING, Types, did_you_mean, too_deep};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use confold_model::code::Code;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use serde_json::{Map, Number, Value as Json};
use std::collections::HashMap;

pub(super) struct Reader<'a> {
    pub types: &'a Types,
}

pub(super) fn message(
    reader: &Reader<'_>,
    descriptor: &MessageDescriptor,
    value: &Json,
) -> Result<DynamicMessage, DynamicError> {
    reader.message(descriptor, value, &mut Place::default())
}

/// A field by either of its names.
pub(super) fn field(descriptor: &MessageDescriptor, name: &str, at: &str) -> Result<FieldDescriptor, DynamicError> {
    let found = descriptor
        .get_field_by_name(name)
        .or_else(|| descriptor.get_field_by_json_name(name));
    found.ok_or_else(|| {
        let mut fields: Vec<FieldDescriptor> = descriptor.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
        DynamicError {
            at: at.to_owned(),
            hint: near_or_all(name, &names, "no fields"),
            ..DynamicError::new(
                Code::UnknownField,
                format!("{} has no field {name:?}", descriptor.full_name()),
            )
        }
    })
}

pub(super) fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

pub(super) fn is_wrapper(name: &str) -> bool {
    matches!(
        name.strip_prefix("google.protobuf."),
        Some(
            "DoubleValue"
                | "FloatValue"
                | "Int64Value"
                | "UInt64Value"
                | "Int32Value"
                | "UInt32Value"
                | "BoolValue"
                | "StringValue"
                | "BytesValue"
        )
    )
}

/// Whether the JSON mapping has a form for this message that is not its fields: then it stands under `value` in an Any.
pub(super) fn has_short_form(name: &str) -> bool {
    is_wrapper(name)
        || matches!(
            name.strip_prefix("google.protobuf."),
            Some("Any" | "Timestamp" | "Duration" | "FieldMask" | "Struct" | "ListValue" | "Value" | "Empty")
        )
}

pub(super) fn is_inline_json(field: &FieldDescriptor) -> bool {
    field.name() == "json" && field.parent_message().full_name() == "confold.v1.Value"
}

/// Where we are in the document; a step is put on when entered and taken off when left in good order.
#[derive(Default)]
struct Place {
    steps: Vec<String>,
    depth: u32,
}

impl Place {
    fn enter(&mut self, step: String) {
        self.steps.push(step);
    }

    fn leave(&mut self) {
        self.steps.pop();
    }

    fn error(&self, code: Code, problem: String) -> DynamicError {
        let mut at = String::new();
        for step in &self.steps {
            if !at.is_empty() && !step.starts_with('[') {
                at.push('.');
            }
            at.push_str(step);
        }
        DynamicError {
            at,
            ..DynamicError::new(code, problem)
        }
    }

    fn mismatch(&self, expected: &str, found: &Json) -> DynamicError {
        self.error(
            Code::TypeMismatch,
            format!("expected {expected}, found {}", describe(found)),
        )
    }
}

impl Reader<'_> {
    fn message(
        &self,
        descriptor: &MessageDescriptor,
        value: &Json,
        at: &mut Place,
    ) -> Result<DynamicMessage, DynamicError> {
        if at.depth == MAX_NESTING {
            return Err(too_deep());
        }
        at.depth += 1;
        let read = match (descriptor.full_name(), value) {
            ("google.protobuf.Any", Json::Object(map)) => self.any(descriptor, map, at)?,
            (
                "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask",
                Json::String(_),
            ) => DynamicMessage::deserialize(descriptor.clone(), value).map_err(|error| {
                at.error(
                    Code::TypeMismatch,
                    format!("{} is no {}: {error}", describe(value), descriptor.name()),
                )
            })?,
            ("google.protobuf.Struct" | "google.protobuf.ListValue" | "google.protobuf.Value", _) => {
                DynamicMessage::deserialize(descriptor.clone(), value)
                    .map_err(|error| at.error(Code::TypeMismatch, error.to_string()))?
            }
            (name, _) if is_wrapper(name) => {
                let mut message = DynamicMessage::new(descriptor.clone());
                if let Some(field) = descriptor.get_field(1) {
                    let value = self.single(&field.kind(), value, at)?;
                    message.set_field(&field, value);
                }
                message
            }
            (_, Json::Object(map)) => {
                let mut message = DynamicMessage::new(descriptor.clone());
                for (name, value) in map {
                    self.field(&mut message, name, value, at)?;
                }
                message
            }
            (name, found) => return Err(at.mismatch(&format!("the fields of a {name}"), found)),
        };
        at.depth -= 1;
        Ok(read)
    }

    fn field(
        &self,
        message: &mut DynamicMessage,
        name: &str,
        value: &Json,
        at: &mut Place,
    ) -> Result<(), DynamicError> {
        let descriptor = prost_reflect::ReflectMessage::descriptor(message);
        let field = field(&descriptor, name, &at.error(Code::UnknownField, String::new()).at)?;
        at.enter(name.to_owned());
        if value.is_null() && !takes_null(&field) {
            at.leave();
            return Ok(());
        }
        let read = if field.is_map() {
            self.map(&field, value, at)?
        } else if field.is_list() {
            let Json::Array(items) = value else {
                return Err(at.mismatch("a list", value));
            };
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                at.enter(format!("[{index}]"));
                list.push(self.single(&field.kind(), item, at)?);
                at.leave();
            }
            Value::List(list)
        } else if self.types.inline_json && is_inline_json(&field) && !value.is_string() {
            Value::String(value.to_string())
        } else {
            self.single(&field.kind(), value, at)?
        };
        let other = field.containing_oneof().and_then(|oneof| {
            let other = oneof
                .fields()
                .find(|other| *other != field && message.has_field(other))?;
            Some(format!(
                "{} and {} are alternatives of {}: set one",
                other.name(),
                field.name(),
                oneof.name()
            ))
        });
        if let Some(problem) = other {
            return Err(at.error(Code::TypeMismatch, problem));
        }
        if message.has_field(&field) {
            return Err(at.error(
                Code::TypeMismatch,
                format!("{} is set twice, under both of its names", field.name()),
            ));
        }
        message.set_field(&field, read);
        at.leave();
        Ok(())
    }

    fn map(&self, field: &FieldDescriptor, value: &Json, at: &mut Place) -> Result<Value, DynamicError> {
        let Kind::Message(entry) = field.kind() else {
            return Err(at.mismatch("a map", value));
        };
        let Json::Object(entries) = value else {
            return Err(at.mismatch("a map", value));
        };
        let (key_kind, value_kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut map = HashMap::with_capacity(entries.len());
        for (text, value) in entries {
            at.enter(format!("[{text:?}]"));
            let key = map_key(&key_kind, text, at)?;
            let value = self.single(&value_kind, value, at)?;
            if map.insert(key, value).is_some() {
                return Err(at.error(Code::TypeMismatch, "the same key stands here twice".to_owned()));
            }
            at.leave();
        }
        Ok(Value::Map(map))
    }

    fn single(&self, kind: &Kind, value: &Json, at: &mut Place) -> Result<Value, DynamicError> {
        Ok(match kind {
            Kind::Message(descriptor) => Value::Message(self.message(descriptor, value, at)?),
            Kind::Enum(descriptor) => Value::EnumNumber(enumeration(descriptor, value, at)?),
            Kind::Bool => match value {
                Json::Bool(value) => Value::Bool(*value),
                found => return Err(at.mismatch("true or false", found)),
            },
            Kind::String => match value {
                Json::String(value) => Value::String(value.clone()),
                found @ (Json::Number(_) | Json::Bool(_)) => {
                    let hint = "put quotes around it".to_owned();
                    return Err(DynamicError {
                        hint,
                        ..at.mismatch("text", found)
                    });
                }
                found => return Err(at.mismatch("text", found)),
            },
            Kind::Bytes => match value {
                Json::String(text) => Value::Bytes(base64(text, at)?.into()),
                found => return Err(at.mismatch("bytes in base64", found)),
            },
            Kind::Double => Value::F64(float(value, at)?),
            Kind::Float => {
                let wide = float(value, at)?;
                #[allow(clippy::cast_possible_truncation)]
                let narrow = wide as f32;
                if wide.is_finite() && narrow.is_infinite() {
                    return Err(at.error(Code::TypeMismatch, format!("{wide:e} is too big for a float")));
                }
                Value::F32(narrow)
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(value, at)?),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(value, at)?),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(value, at)?),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(value, at)?),
        })
    }

    /// `{"@type": url, fields…}`, or `{"@type": url, "@bytes": base64}` where the type is not known or the bytes matter.
    fn any(
        &self,
        descriptor: &MessageDescriptor,
        map: &Map<String, Json>,
        at: &mut Place,
    ) -> Result<DynamicMessage, DynamicError> {
        let type_url = match map.get("@type") {
            Some(Json::String(url)) => url.clone(),
            Some(found) => return Err(at.mismatch("text for \"@type\"", found)),
            None if map.is_empty() => String::new(),
            None => {
                let hint = "as in \"type.googleapis.com/voltha.Device\"".to_owned();
                let problem = "a packed message needs its \"@type\"".to_owned();
                return Err(DynamicError {
                    hint,
                    ..at.error(Code::TypeMismatch, problem)
                });
            }
        };
        let mut rest = map.clone();
        rest.shift_remove("@type");
        let known = type_url
            .contains('/')
            .then(|| self.types.pool().get_message_by_name(type_name(&type_url)));
        let packed = match (map.get("@bytes"), known.flatten()) {
            (Some(Json::String(text)), _) if rest.len() == 1 => base64(text, at)?,
            (Some(_), _) => {
                let problem = "\"@bytes\" is base64 text and stands beside \"@type\" alone".to_owned();
                return Err(at.error(Code::TypeMismatch, problem));
            }
            (None, None) if rest.is_empty() => Vec::new(),
            (None, None) => {
                let hint = "give its encoded bytes in base64 as \"@bytes\"".to_owned();
                let problem = format!("the schema has no message {:?}", type_name(&type_url));
                return Err(DynamicError {
                    hint,
                    ..at.error(Code::TypeMismatch, problem)
                });
            }
            (None, Some(known)) => {
                let inner = if has_short_form(known.full_name()) {
                    if let Some(stray) = rest.keys().find(|key| *key != "value") {
                        let problem = format!("a packed {} has \"value\" and no {stray:?}", known.full_name());
                        return Err(at.error(Code::UnknownField, problem));
                    }
                    rest.get("value").cloned().unwrap_or_else(|| Json::Object(Map::new()))
                } else {
                    Json::Object(rest)
                };
                super::encode::message(&self.message(&known, &inner, at)?)
            }
        };
        let mut message = DynamicMessage::new(descriptor.clone());
        message.set_field_by_number(1, Value::String(type_url));
        message.set_field_by_number(2, Value::Bytes(packed.into()));
        Ok(message)
    }
}

fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value" && !field.is_list() && !field.is_map(),
        Kind::Enum(kind) => kind.full_name() == "google.protobuf.NullValue" && !field.is_list() && !field.is_map(),
        _ => false,
    }
}

fn enumeration(descriptor: &EnumDescriptor, value: &Json, at: &Place) -> Result<i32, DynamicError> {
    let unknown = |written: &str, problem: String| {
        let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
        DynamicError {
            hint: near_or_all(written, &names, "no values"),
            ..at.error(Code::TypeMismatch, problem)
        }
    };
    match value {
        Json::Null if descriptor.full_name() == "google.protobuf.NullValue" => Ok(0),
        Json::String(name) => match descriptor.get_value_by_name(name) {
            Some(value) => Ok(value.number()),
            None => Err(unknown(
                name,
                format!("{} has no value {name:?}", descriptor.full_name()),
            )),
        },
        Json::Number(_) => {
            let number: i32 = integer(value, at)?;
            match descriptor.get_value(number) {
                Some(_) => Ok(number),
                None => Err(unknown("", format!("{} has no value {number}", descriptor.full_name()))),
            }
        }
        found => Err(at.mismatch(&format!("a value of {}", descriptor.full_name()), found)),
    }
}

/// A whole number, also written as text, and never rounded on the way.
fn integer<T: TryFrom<i128> + Bounds>(value: &Json, at: &Place) -> Result<T, DynamicError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = match value {
        Json::Number(number) => exact(number).or_else(|| {
            let float = number.as_f64()?;
            #[allow(clippy::cast_possible_truncation)]
            (float.fract() == 0.0 && float.abs() < EXACT).then_some(float as i128)
        }),
        Json::String(text) => text.parse().ok(),
        _ => None,
    };
    let Some(number) = number else {
        return Err(at.mismatch("a whole number", value));
    };
    T::try_from(number).map_err(|_| {
        let problem = format!(
            "{number} is out of range: {} has {} to {}",
            T::NAME,
            T::LEAST,
            T::GREATEST
        );
        at.error(Code::TypeMismatch, problem)
    })
}

trait Bounds {
    const NAME: &'static str;
    const LEAST: i128;
    const GREATEST: i128;
}

macro_rules! bounds {
    ($($integer:ty, $name:literal;)*) => {$(
        impl Bounds for $integer {
            const NAME: &'static str = $name;
            const LEAST: i128 = <$integer>::MIN as i128;
            const GREATEST: i128 = <$integer>::MAX as i128;
        }
    )*};
}
bounds! { i32, "an integer of 32 bits"; u32, "an unsigned integer of 32 bits"; i64, "an integer of 64 bits"; u64, "an unsigned integer of 64 bits"; }

fn exact(number: &Number) -> Option<i128> {
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
}

fn float(value: &Json, at: &Place) -> Result<f64, DynamicError> {
    let number = match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            // What Rust reads beyond numbers, such as "inf", has letters only.
            text if text.contains(|char: char| char.is_ascii_digit()) => {
                text.parse().ok().filter(|n: &f64| n.is_finite())
            }
            _ => None,
        },
        _ => None,
    };
    number.ok_or_else(|| at.mismatch("a number", value))
}

fn base64(text: &str, at: &Place) -> Result<Vec<u8>, DynamicError> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    let engine = if text.contains(['-', '_']) {
        &URL_SAFE
    } else {
        &STANDARD
    };
    engine
        .decode(text)
        .map_err(|error| at.error(Code::TypeMismatch, format!("not base64: {error}")))
}

fn map_key(kind: &Kind, text: &str, at: &Place) -> Result<MapKey, DynamicError> {
    let number = Json::String(text.to_owned());
    Ok(match kind {
        Kind::Bool => match text {
            "true" => MapKey::Bool(true),
            "false" => MapKey::Bool(false),
            _ => return Err(at.mismatch("true or false for a key", &number)),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(integer(&number, at)?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(integer(&number, at)?),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(integer(&number, at)?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(integer(&number, at)?),
        _ => MapKey::String(text.to_owned()),
    })
}

/// What stands there, in a few words.
fn describe(value: &Json) -> String {
    const SHOWN: usize = 40;
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Number(value) => format!("the number {value}"),
        Json::String(text) if text.chars().count() > SHOWN => {
            format!("the text {:?}…", text.chars().take(SHOWN).collect::<String>())
        }
        Json::String(text) => format!("the text {text:?}"),
        Json::Array(items) => format!("a list of {}", items.len()),
        Json::Object(map) => match map.keys().next() {
            Some(first) => format!("fields ({first}{})", if map.len() > 1 { ", …" } else { "" }),
            None => "{}".to_owned(),
        },
    }
}

/// The nearest of the names that there are, or the first of all of them.
fn near_or_all(written: &str, names: &[String], none: &str) -> String {
    const SHOWN: usize = 12;
    let near = did_you_mean(written, names.iter().map(String::as_str));
    match names.len() {
        0 => format!("it has {none}"),
        _ if !near.is_empty() => near,
        1..=SHOWN => format!("it has {}", names.join(", ")),
        more => format!("it has {} and {} more", names[..SHOWN].join(", "), more - SHOWN),
    }
}
