//! The whole thing, from outside: one binary, so that it links RocksDB once.

mod support;
mod tidy;
mod voltha;
