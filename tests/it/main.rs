//! The whole thing, from outside: one binary, so that it links RocksDB once.

mod crash;
mod guide;
mod secure;
mod server;
mod snapshot;
mod support;
mod tidy;
mod voltha;
