//! The pure core of confold.

pub mod canon;
pub mod canonicalise;
pub mod code;
mod compatible;
mod descriptor;
pub mod ids;
pub mod keys;
pub mod mask;
pub mod objects;
pub mod path;
mod read_only;
pub mod schema;
pub mod wire_bytes;
