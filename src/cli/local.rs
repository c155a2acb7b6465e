//! What needs a store on this machine's disk. The command line knows only this trait; the program that it is built into
//! picks the log and the storage.

use crate::{bench, error::Failure};
use async_trait::async_trait;
use confold_wire::{
    api::{Api, Stream},
    pb,
};
use serde::Serialize;
use std::{any::Any, net::SocketAddr, path::Path, path::PathBuf, sync::Arc};
use tonic::Status;

#[async_trait]
pub trait Local: Send + Sync {
    /// Makes a new, empty store: its data folder and its log with the first event. Refuses a folder that holds one.
    async fn init(&self, options: InitOptions) -> Result<Initialised, Failure>;

    /// Serves until it is told to stop (interrupt, terminate). `ready` is called once, with what it listens on.
    async fn serve(
        &self,
        options: ServeOptions,
        ready: &mut (dyn for<'s> FnMut(&'s Serving) + Send),
    ) -> Result<(), Failure>;

    /// Opens the store of a folder that no server has open. The store closes when the last handle is dropped.
    async fn open(&self, data: &Path, access: Access) -> Result<Arc<dyn Api>, Failure>;

    /// Looks for what is wrong with a folder. Problems found are findings, not failures.
    async fn doctor(&self, data: &Path, deep: bool) -> Result<Vec<Finding>, Failure>;

    /// Writes exported records into a new folder, in the format of the embedded log. `progress` hears the records written.
    async fn export(
        &self,
        records: Stream<Result<pb::ExportLogResponse, Status>>,
        file: &Path,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Exported, Failure>;

    /// A server with a new, empty store in this folder, on a free port of this machine; the log is a new topic where the load
    /// names brokers.
    async fn scratch(&self, folder: &Path, load: &bench::Load) -> Result<Scratch, Failure>;

    /// One part of the benchmark that needs what only the program has. `None`: there is no such part here.
    async fn bench(&self, part: bench::Part, load: &bench::Load) -> Result<Option<bench::Measured>, Failure>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Several may read a folder at once.
    Read,
    Write,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitOptions {
    pub data: PathBuf,
    /// The store's name.
    pub store: String,
    /// `None`: the default, 16 MiB.
    pub max_event_bytes: Option<u64>,
    /// How many positions an event id stays usable. `None`: the default.
    pub window: Option<u64>,
    pub retention: Option<pb::RetentionPolicy>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Initialised {
    pub store: String,
    /// In hex.
    pub log_id: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServeOptions {
    pub data: PathBuf,
    /// For gRPC, and JSON over HTTP on the same port.
    pub listen: SocketAddr,
    /// Bytes of memory for what is read again.
    pub cache_bytes: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Serving {
    pub address: SocketAddr,
    pub stores: Vec<String>,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `log`, `state hash`.
    pub what: String,
    /// What was found.
    pub detail: String,
    /// What to do; may be empty.
    pub hint: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    /// Something is lost, wrong, or will be.
    Damage,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Exported {
    pub first: u64,
    pub records: u64,
    pub bytes: u64,
    /// Log digest at the last record, in hex.
    pub digest: String,
}

/// A server for a benchmark. Dropping it stops the server.
pub struct Scratch {
    pub address: String,
    pub guard: Box<dyn Any + Send>,
}
