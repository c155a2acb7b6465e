//! The service's own messages in protobuf's JSON mapping: what HTTP speaks.

use crate::{
    FILE_DESCRIPTOR_SET,
    dynamic::{DynamicError, Types},
};
use confold_model::code::Code;
use prost::Message;
use serde_json::Value as Json;
use std::sync::LazyLock;

/// A message of `pb` from its JSON form. In a `Value`, `json` may be the value itself instead of a string that holds it.
///
/// `name` is the message's full name, e.g. `confold.v1.GetRequest`.
pub fn from_json<M: Message + Default>(name: &str, text: &str) -> Result<M, DynamicError> {
    decode(name, &types()?.from_json(name, text)?)
}

/// The same from a value, for requests that are put together from a query string.
pub fn from_json_value<M: Message + Default>(name: &str, value: &Json) -> Result<M, DynamicError> {
    decode(name, &types()?.from_json_value(name, value)?)
}

/// A message of `pb` in its JSON form, with field names as in the .proto; a value that is JSON stands there as such.
pub fn to_json<M: Message>(name: &str, message: &M) -> Result<Json, DynamicError> {
    types()?.to_json(name, &message.encode_to_vec())
}

/// The types of the service.
pub fn types() -> Result<&'static Types, DynamicError> {
    static TYPES: LazyLock<Result<Types, DynamicError>> = LazyLock::new(|| Types::of_service(FILE_DESCRIPTOR_SET));
    TYPES.as_ref().map_err(Clone::clone)
}

fn decode<M: Message + Default>(name: &str, bytes: &[u8]) -> Result<M, DynamicError> {
    M::decode(bytes).map_err(|error| DynamicError {
        code: Code::TypeMismatch,
        at: String::new(),
        problem: format!("not a {name}: {error}"),
        hint: String::new(),
    })
}
