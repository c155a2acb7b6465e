//! The whole thing, from outside: one binary, so that it links RocksDB once.

mod cluster;
mod crash;
mod fences;
mod guide;
mod server;
mod support;
mod tidy;
mod voltha;
