//! Loading trees from files: documents in, operations out, as few commits as fit.
//!
//! Files are read on a thread of their own, element by element, and commits are in flight while reading goes on; so a
//! million nodes need no more memory than a few commits.

pub mod document;
pub mod plan;
pub mod send;
