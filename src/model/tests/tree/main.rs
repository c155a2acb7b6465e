//! Objects, map, tree and diff against plain models, golden vectors and bytes from outside.

mod diff;
mod map;
mod model;
mod objects;
mod tree;
