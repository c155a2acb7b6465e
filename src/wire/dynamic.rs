//! Messages whose types are known at run time only: JSON, YAML and protobuf's text format to wire bytes and back.
//!
//! For people at both ends; the fold never comes here. Bytes made here are in a fixed order, but whether they are
//! canonical is for the canonicaliser to say. Nothing is hashed as it comes from here.

mod document;
mod encode;
mod read;
mod write;

use crate::{nesting, pb};
use bytes::Bytes;
use confold_model::code::Code;
use miette::Diagnostic;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value as Json;
use std::fmt;

/// How deep a document may nest: prost decodes no deeper.
pub const MAX_NESTING: u32 = 100;

/// The types of one schema. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Types {
    pool: DescriptorPool,
    /// Shows `confold.v1.Value.json` as the value itself: for the service's own messages over HTTP.
    inline_json: bool,
}

/// A value that does not fit its type, or the other way round.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct DynamicError {
    /// TYPE_MISMATCH, UNKNOWN_FIELD, LIMIT, or NOT_FOUND where the schema has no such type.
    pub code: Code,
    /// Where in the value: `ports[1].number`, or `line 3 column 7`; empty for the whole.
    pub at: String,
    /// What is wrong, and what stands there.
    pub problem: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Types {
    /// From a serialized google.protobuf.FileDescriptorSet.
    pub fn new(descriptor_set: &[u8]) -> Result<Types, DynamicError> {
        let pool = crate::descriptors::pool(descriptor_set).map_err(|problem| {
            DynamicError::new(Code::SchemaInvalid, format!("not a usable descriptor set: {problem}"))
        })?;
        Ok(Types {
            pool,
            inline_json: false,
        })
    }

    /// The service's own messages, with values inline.
    pub(crate) fn of_service(descriptor_set: &[u8]) -> Result<Types, DynamicError> {
        Ok(Types {
            inline_json: true,
            ..Types::new(descriptor_set)?
        })
    }

    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// By full name, e.g. `voltha.Device`.
    pub fn message(&self, name: &str) -> Result<MessageDescriptor, DynamicError> {
        self.pool.get_message_by_name(name).ok_or_else(|| {
            let known = self
                .pool
                .all_messages()
                .map(|message| message.full_name().to_owned())
                .collect::<Vec<_>>();
            DynamicError {
                hint: did_you_mean(name, known.iter().map(String::as_str)),
                ..DynamicError::new(Code::NotFound, format!("the schema has no message {name}"))
            }
        })
    }

    /// Protobuf's JSON mapping. Field names as in the .proto or in lowerCamelCase; no field or key twice.
    pub fn from_json(&self, message: &str, text: &str) -> Result<Vec<u8>, DynamicError> {
        self.from_json_value(message, &document::json(text)?)
    }

    pub fn from_json_value(&self, message: &str, value: &Json) -> Result<Vec<u8>, DynamicError> {
        let read = read::message(&self.reader(), &self.message(message)?, value)?;
        Ok(encode::message(&read))
    }

    /// The JSON mapping, written as YAML.
    pub fn from_yaml(&self, message: &str, text: &str) -> Result<Vec<u8>, DynamicError> {
        self.from_json_value(message, &document::yaml(text)?)
    }

    /// Protobuf's text format.
    pub fn from_text(&self, message: &str, text: &str) -> Result<Vec<u8>, DynamicError> {
        let descriptor = self.message(message)?;
        if let Some(line) = nesting::deeper_than(text, MAX_NESTING, nesting::Comments::Text) {
            return Err(DynamicError {
                at: format!("line {line}"),
                ..too_deep()
            });
        }
        let read = DynamicMessage::parse_text_format(descriptor.clone(), text).map_err(|error| {
            let at = error
                .labels()
                .and_then(|mut labels| labels.next())
                .map(|label| label.offset());
            DynamicError {
                at: at.map(|at| line_and_column(text, at)).unwrap_or_default(),
                ..text_error(&error)
            }
        })?;
        Ok(encode::message(&read))
    }

    /// JSON with field names as in the .proto, fields by number, map keys in order, 64-bit integers as strings. A packed
    /// message of unknown type is shown by its bytes, never a reason to fail.
    pub fn to_json(&self, message: &str, bytes: &[u8]) -> Result<Json, DynamicError> {
        let decoded = self.decode(&self.message(message)?, bytes)?;
        Ok(write::Writer {
            types: self,
            defaults: false,
        }
        .message(&decoded, 1))
    }

    /// The same with fields that are not set, at their defaults.
    pub fn to_json_with_defaults(&self, message: &str, bytes: &[u8]) -> Result<Json, DynamicError> {
        let decoded = self.decode(&self.message(message)?, bytes)?;
        Ok(write::Writer {
            types: self,
            defaults: true,
        }
        .message(&decoded, 1))
    }

    /// Indented JSON text, without a line end.
    pub fn to_json_pretty(&self, message: &str, bytes: &[u8]) -> Result<String, DynamicError> {
        Ok(format!("{:#}", self.to_json(message, bytes)?))
    }

    pub fn to_yaml(&self, message: &str, bytes: &[u8]) -> Result<String, DynamicError> {
        let json = self.to_json(message, bytes)?;
        serde_yaml_ng::to_string(&json).map_err(|error| DynamicError::new(Code::TypeMismatch, error.to_string()))
    }

    /// Protobuf's text format, one field to a line.
    pub fn to_text(&self, message: &str, bytes: &[u8]) -> Result<String, DynamicError> {
        Ok(write::text(&self.decode(&self.message(message)?, bytes)?))
    }

    /// The wire bytes of a value of the API. `message` is what belongs at the path; a value that names another type is
    /// refused. A value without any form is the message with nothing set.
    pub fn from_value(&self, message: &str, value: &pb::Value) -> Result<Bytes, DynamicError> {
        use pb::value::Form;
        if !value.r#type.is_empty() && value.r#type != message {
            let problem = format!("a {message} belongs here, the value is a {}", value.r#type);
            return Err(DynamicError::new(Code::TypeMismatch, problem));
        }
        Ok(match &value.form {
            None => Bytes::new(),
            Some(Form::Proto(bytes)) => bytes.clone(),
            Some(Form::Json(text)) => self.from_json(message, text)?.into(),
            Some(Form::Text(text)) => self.from_text(message, text)?.into(),
            Some(Form::Yaml(text)) => self.from_yaml(message, text)?.into(),
        })
    }

    /// A value of the API from wire bytes.
    pub fn to_value(&self, message: &str, bytes: &Bytes, format: pb::Format) -> Result<pb::Value, DynamicError> {
        use pb::value::Form;
        let form = match format {
            pb::Format::Proto => Form::Proto(bytes.clone()),
            pb::Format::Json => Form::Json(self.to_json(message, bytes)?.to_string()),
            pb::Format::Text => Form::Text(self.to_text(message, bytes)?),
            pb::Format::Yaml => Form::Yaml(self.to_yaml(message, bytes)?),
        };
        Ok(pb::Value {
            form: Some(form),
            r#type: message.to_owned(),
        })
    }

    /// One field set from a word on a command line, as a document of the message: `location.site` and `berlin` give
    /// `{"location": {"site": "berlin"}}`. Lists, maps and messages are written as JSON.
    pub fn assign(&self, message: &str, field: &str, text: &str) -> Result<Json, DynamicError> {
        let (_, last) = self.field(message, field)?;
        let is_json = last.is_list() || last.is_map() || matches!(last.kind(), Kind::Message(_) | Kind::Bool);
        let number = matches!(last.kind(), Kind::Enum(_))
            .then(|| text.parse::<i32>().ok())
            .flatten();
        let value = if is_json {
            document::json(text).map_err(|error| {
                let problem = format!("{text:?} is no JSON value: {}", error.problem);
                DynamicError {
                    at: field.to_owned(),
                    problem,
                    ..error
                }
            })?
        } else {
            number.map_or_else(|| Json::String(text.to_owned()), Json::from)
        };
        let document = field
            .rsplit('.')
            .fold(value, |value, name| Json::from_iter([(name.to_owned(), value)]));
        self.from_json_value(message, &document)?;
        Ok(document)
    }

    /// The field that a dotted name means, and the numbers on the way to it. Steps lead through singular messages only.
    pub fn field(&self, message: &str, field: &str) -> Result<(Vec<u32>, FieldDescriptor), DynamicError> {
        let mut descriptor = self.message(message)?;
        let mut numbers = Vec::new();
        let mut names = field.split('.').peekable();
        let mut walked = String::new();
        while let Some(name) = names.next() {
            let found = read::field(&descriptor, name, &walked)?;
            walked = join(&walked, name);
            numbers.push(found.number());
            if names.peek().is_none() {
                return Ok((numbers, found));
            }
            descriptor = match found.kind() {
                Kind::Message(next) if !found.is_list() && !found.is_map() => next,
                _ => {
                    let problem = "only the fields of a single message have names of their own".to_owned();
                    return Err(DynamicError {
                        at: walked,
                        ..DynamicError::new(Code::TypeMismatch, problem)
                    });
                }
            };
        }
        Err(DynamicError::new(Code::UnknownField, "an empty field name".to_owned()))
    }

    fn reader(&self) -> read::Reader<'_> {
        read::Reader { types: self }
    }

    fn decode(&self, descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<DynamicMessage, DynamicError> {
        DynamicMessage::decode(descriptor.clone(), bytes).map_err(|error| {
            let problem = format!("not the bytes of a {}: {error}", descriptor.full_name());
            DynamicError::new(Code::TypeMismatch, problem)
        })
    }
}

impl DynamicError {
    fn new(code: Code, problem: String) -> DynamicError {
        DynamicError {
            code,
            at: String::new(),
            problem,
            hint: String::new(),
        }
    }
}

impl fmt::Display for DynamicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        f.write_str(&self.problem)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

fn text_error(error: &prost_reflect::text_format::ParseError) -> DynamicError {
    let problem = error.to_string();
    // The parser's errors are told apart by their words only.
    let unknown = problem.starts_with("field '") && problem.contains("not found for message");
    DynamicError::new(
        if unknown {
            Code::UnknownField
        } else {
            Code::TypeMismatch
        },
        problem,
    )
}

fn too_deep() -> DynamicError {
    DynamicError::new(Code::Limit, format!("nested deeper than {MAX_NESTING}"))
}

fn line_and_column(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line} column {column}")
}

fn join(parent: &str, name: &str) -> String {
    match (parent.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => parent.to_owned(),
        _ => format!("{parent}.{name}"),
    }
}

/// A hint with the name that is nearest to the one that was written, if one is near at all.
fn did_you_mean<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = |name: &str| distance(&written.to_lowercase(), &name.to_lowercase());
    let nearest = known.map(|name| (near(name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + written.len() / 4 => format!("did you mean {name}?"),
        _ => String::new(),
    }
}

/// Levenshtein's distance, for words: longer ones are cut.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 100;
    let b: Vec<char> = b.chars().take(LONGEST).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(LONGEST).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
