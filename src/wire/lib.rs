//! What crosses a process boundary: generated types, and the conversions between them and the model's own types.

pub mod access_token;
pub mod api;
pub mod caller;
pub mod convert;
mod descriptors;
pub mod dynamic;
pub mod json;
mod nesting;
pub mod schema_source;
pub mod status;

/// Generated from proto/confold/v1: messages, `store_client` and `store_server`.
pub mod pb {
    #![allow(clippy::all)]
    tonic::include_proto!("confold.v1");

    /// Generated from proto/google/rpc.
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// The descriptors of everything in `pb`, imports and comments included: for reflection and for JSON over HTTP.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));
