//! Descriptor sets from outside. The library that builds descriptors trusts its input in places; here it is checked first.

use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Builds descriptors, or says what is wrong with the set.
pub(crate) fn pool(descriptor_set: &[u8]) -> Result<DescriptorPool, String> {
    let set = prost_types::FileDescriptorSet::default().descriptor();
    let decoded = DynamicMessage::decode(set, descriptor_set).map_err(|error| error.to_string())?;
    if has_uninterpreted_options(&decoded) {
        return Err("it holds options that are still text: compile it to the end".to_owned());
    }
    // Some wrong sets, one with an unknown syntax for instance, make the library panic where it should refuse.
    catch_unwind(AssertUnwindSafe(|| DescriptorPool::decode(descriptor_set)))
        .map_err(|_| "its descriptors contradict each other".to_owned())?
        .map_err(|error| format!("{error:?}"))
}

/// Such options would be parsed by a recursive parser without a bound.
fn has_uninterpreted_options(message: &DynamicMessage) -> bool {
    message.fields().any(|(field, value)| {
        field.name() == "uninterpreted_option"
            || match value {
                Value::Message(inner) => has_uninterpreted_options(inner),
                Value::List(items) => items
                    .iter()
                    .filter_map(Value::as_message)
                    .any(has_uninterpreted_options),
                _ => false,
            }
    })
}
