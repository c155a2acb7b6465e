//! The pure core of confold.

pub mod code;
pub mod digest;
pub mod ids;
pub mod objects;
pub mod path;
