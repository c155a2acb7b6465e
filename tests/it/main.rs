//! The whole thing, from outside: one binary, so that it links RocksDB once.

mod cluster;
mod crash;
mod faults;
mod fences;
mod guide;
mod history;
mod hostile;
mod kafka;
mod moving;
mod operations;
mod quota;
mod replicas;
mod secure;
mod server;
mod snapshot;
mod stores;
mod supply;
mod support;
mod tidy;
mod three;
mod voltha;
