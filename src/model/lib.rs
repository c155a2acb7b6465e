//! The pure core of confold.

pub mod code;
mod compare;
mod content;
pub mod diff;
pub mod ids;
mod link;
pub mod map;
pub mod node;
pub mod objects;
pub mod path;
pub mod subtree;
pub mod tree;
pub mod walk;
