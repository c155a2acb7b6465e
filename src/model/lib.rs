//! The pure core of confold.

pub mod canon;
pub mod canonicalise;
pub mod code;
mod compatible;
mod descriptor;
pub mod diff;
pub mod digest;
pub mod event;
pub mod fold;
pub mod ids;
pub mod keys;
mod link;
pub mod map;
pub mod mask;
pub mod merge;
pub mod node;
pub mod objects;
pub mod path;
pub mod proto;
mod read_only;
pub mod schema;
pub mod state;
pub mod subtree;
pub mod tree;
pub mod walk;
pub mod window;
pub mod wire_bytes;
