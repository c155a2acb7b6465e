//! The part of a protobuf descriptor set that a schema needs, read within fixed bounds.

use crate::wire_bytes::{Cursor, Raw};
use prost::Message;

/// Bounds on what is read, so that a hostile descriptor set exhausts neither memory nor stack. Real schemas are far below.
pub const MAX_BYTES: usize = 8 << 20;
pub const MAX_FILES: usize = 4_096;
pub const MAX_MESSAGES: usize = 16_384;
pub const MAX_FIELDS: usize = 262_144;
pub const MAX_ENUM_VALUES: usize = 262_144;
/// Messages declared inside messages.
pub const MAX_NESTING: usize = 32;

/// Decodes a serialized `google.protobuf.FileDescriptorSet`; the error says what is wrong with the set as a whole.
pub fn decode(bytes: &[u8]) -> Result<FileSet, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("the descriptor set has {} bytes; at most {MAX_BYTES} are allowed", bytes.len()));
    }
    Count::default().part(Part::Set, bytes, 0)?;
    FileSet::decode(bytes).map_err(|error| format!("not a descriptor set: {error}"))
}

#[derive(Clone, PartialEq, Message)]
pub struct FileSet {
    #[prost(message, repeated, tag = "1")]
    pub file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
pub struct File {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub package: String,
    #[prost(message, repeated, tag = "4")]
    pub message_type: Vec<MessageDescriptor>,
    #[prost(message, repeated, tag = "5")]
    pub enum_type: Vec<EnumDescriptor>,
    /// "proto3", "editions", or nothing for proto2.
    #[prost(string, tag = "12")]
    pub syntax: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct MessageDescriptor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub field: Vec<FieldDescriptor>,
    #[prost(message, repeated, tag = "3")]
    pub nested_type: Vec<MessageDescriptor>,
    #[prost(message, repeated, tag = "4")]
    pub enum_type: Vec<EnumDescriptor>,
    #[prost(message, optional, tag = "7")]
    pub options: Option<MessageOptions>,
}

#[derive(Clone, PartialEq, Message)]
pub struct MessageOptions {
    #[prost(bool, tag = "7")]
    pub map_entry: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct FieldDescriptor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "3")]
    pub number: i32,
    #[prost(int32, tag = "4")]
    pub label: i32,
    #[prost(int32, tag = "5")]
    pub kind: i32,
    #[prost(string, tag = "6")]
    pub type_name: String,
    #[prost(message, optional, tag = "8")]
    pub options: Option<FieldOptions>,
    #[prost(int32, optional, tag = "9")]
    pub oneof_index: Option<i32>,
    #[prost(bool, tag = "17")]
    pub proto3_optional: bool,
}

/// Of a field's options only the extensions that say where a message splits and who may write.
#[derive(Clone, PartialEq, Message)]
pub struct FieldOptions {
    /// `(confold.v1.child_node)`
    #[prost(message, optional, tag = "50772")]
    pub confold_child: Option<ChildNode>,
    /// `(confold.v1.access)`
    #[prost(int32, optional, tag = "50773")]
    pub confold_access: Option<i32>,
    /// `(voltha.child_node)`
    #[prost(message, optional, tag = "7761772")]
    pub voltha_child: Option<ChildNode>,
    /// `(voltha.access)`
    #[prost(int32, optional, tag = "7761773")]
    pub voltha_access: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ChildNode {
    #[prost(string, tag = "1")]
    pub key: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct EnumDescriptor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub value: Vec<EnumValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EnumValue {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "2")]
    pub number: i32,
}

/// Counts before anything is allocated: two bytes of a set can stand for hundreds in memory.
#[derive(Default)]
struct Count {
    files: usize,
    messages: usize,
    fields: usize,
    values: usize,
}

#[derive(Clone, Copy)]
enum Part {
    Set,
    File,
    Message,
    Enum,
}

impl Count {
    fn part(&mut self, part: Part, bytes: &[u8], nesting: usize) -> Result<(), String> {
        if nesting > MAX_NESTING {
            return Err(format!("messages are declared inside one another more than {MAX_NESTING} deep"));
        }
        let mut cursor = Cursor::new(bytes);
        while let Some(field) = cursor.field::<false>().map_err(|error| format!("not a descriptor set: {error}"))? {
            let Raw::Bytes(inner) = field.value else { continue };
            match (part, field.number) {
                (Part::Set, 1) => {
                    count("files", &mut self.files, MAX_FILES)?;
                    self.part(Part::File, inner, nesting)?;
                }
                (Part::File, 4) => {
                    count("messages", &mut self.messages, MAX_MESSAGES)?;
                    self.part(Part::Message, inner, nesting)?;
                }
                (Part::Message, 3) => {
                    count("messages", &mut self.messages, MAX_MESSAGES)?;
                    self.part(Part::Message, inner, nesting + 1)?;
                }
                (Part::Message, 2) => count("fields", &mut self.fields, MAX_FIELDS)?,
                // An enum costs about as much as a message, so both count as one.
                (Part::File, 5) | (Part::Message, 4) => {
                    count("messages", &mut self.messages, MAX_MESSAGES)?;
                    self.part(Part::Enum, inner, nesting)?;
                }
                (Part::Enum, 2) => count("enum values", &mut self.values, MAX_ENUM_VALUES)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn count(what: &str, counter: &mut usize, limit: usize) -> Result<(), String> {
    *counter += 1;
    if *counter > limit { Err(format!("the descriptor set has more than {limit} {what}")) } else { Ok(()) }
}
