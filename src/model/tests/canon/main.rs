//! Schema tables, canonical bytes, keys and paths, against tables of cases, golden vectors and a plain model.

mod check;
mod compatible;
mod generate;
mod masks;
mod paths;
mod properties;
mod read_only;
mod schema;
mod support;
mod vectors;
