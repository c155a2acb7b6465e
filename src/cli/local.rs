//! What needs a store on this machine's disk. The command line knows only this trait; the program that it is built into
//! picks the log and the storage.

use crate::{bench, error::Failure};
use async_trait::async_trait;
use confold_wire::{
    api::{Api, Stream},
    pb,
};
use serde::Serialize;
use std::{any::Any, net::SocketAddr, num::NonZeroU32, path::Path, path::PathBuf, sync::Arc};
use tonic::Status;

#[async_trait]
pub trait Local: Send + Sync {
    /// Makes a data folder. Its store is new and empty, or the one that stands on the topic already. Refuses a folder that holds
    /// one.
    async fn init(&self, options: InitOptions) -> Result<Initialised, Failure>;

    /// Serves until it is told to stop (interrupt, terminate). `ready` is called once, with what it listens on.
    async fn serve(
        &self,
        options: ServeOptions,
        ready: &mut (dyn for<'s> FnMut(&'s Serving) + Send),
    ) -> Result<(), Failure>;

    /// Opens the store of a folder that no server has open. The store closes when the last handle is dropped. With a
    /// principal, what is done has its rights; without one everything may be read, as the files may.
    async fn open(&self, data: &Path, access: Access, principal: Option<&str>) -> Result<Arc<dyn Api>, Failure>;

    /// Looks at what a copy would take along; changes nothing.
    async fn survey(&self, options: &CopyOptions) -> Result<Survey, Failure>;

    /// Copies a log and brings the copy to life. `progress` hears the records that are there, and how many there will be.
    async fn copy_log(
        &self,
        options: CopyOptions,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Copied, Failure>;

    /// Ends the seal of a data folder's store.
    async fn unseal(&self, data: &Path, author: &str, principal: &str) -> Result<Reopened, Failure>;

    /// Makes a data folder that goes on from a snapshot of another replica, once the log was found to confirm it.
    async fn fetch_snapshot(&self, api: Arc<dyn Api>, options: FetchOptions) -> Result<Fetched, Failure>;

    /// Sets what a folder has folded aside, so that the next start folds its log anew.
    async fn rebuild(&self, data: &Path) -> Result<Rebuilt, Failure>;

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

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InitOptions {
    pub data: PathBuf,
    /// The store's name. `None`: that of the store to join, `main` for a new one.
    pub store: Option<String>,
    /// `None`: an embedded log.
    pub kafka: Option<KafkaOptions>,
    /// Log id, in hex, of the store that must be on the topic already.
    pub join: Option<String>,
    /// `None`: the default, 16 MiB.
    pub max_event_bytes: Option<u64>,
    /// How many positions an event id stays usable. `None`: the default.
    pub window: Option<u64>,
    pub retention: Option<pb::RetentionPolicy>,
}

/// A topic, and how its brokers are reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KafkaOptions {
    /// HOST:PORT, several separated by commas.
    pub brokers: String,
    pub topic: String,
    /// Make the topic, where it is not there.
    pub create_topic: Option<TopicShape>,
    /// A file of NAME=VALUE lines for the Kafka client.
    pub settings_file: Option<PathBuf>,
    /// The same one by one; no secrets.
    pub settings: Vec<(String, String)>,
    /// Alarm where a topic would be refused, as long as every broker is on this machine.
    pub dev_unsafe: bool,
}

/// `None` is the default, which is safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TopicShape {
    pub replication: Option<u32>,
    pub min_insync: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Initialised {
    pub store: String,
    /// In hex.
    pub log_id: String,
    /// The store was there already, on its topic.
    pub joined: bool,
    /// What somebody should know.
    pub notes: Vec<String>,
}

/// What is not given is as the configuration file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServeOptions {
    /// Data folders, one store each.
    pub data: Vec<PathBuf>,
    /// A folder of data folders, in which stores can be made while it serves.
    pub stores: Option<PathBuf>,
    /// The configuration file, where it is not the one of the folder that is served.
    pub config: Option<PathBuf>,
    /// For gRPC, and JSON over HTTP on the same port.
    pub listen: Option<SocketAddr>,
    /// For health and metrics alone, beside that.
    pub metrics_listen: Option<SocketAddr>,
    /// Bytes of memory for what is read again.
    pub cache_bytes: Option<u64>,
    /// Who may make, open and close stores.
    pub admins: Vec<String>,
    pub on_dispute: Option<OnDispute>,
    pub quota: Quota,
    /// Alarm where a topic would be refused, as long as every broker is on this machine.
    pub dev_unsafe: bool,
    pub protection: Protection,
}

/// What each caller may take of each store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    pub calls_in_flight: Option<NonZeroU32>,
    pub calls_per_second: Option<NonZeroU32>,
    pub bytes_per_second: Option<NonZeroU32>,
}

/// What a replica does while others disagree with it and it is not known who is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum OnDispute {
    /// Serve on, and mark every answer as disputed
    Serve,
    /// Stop, until an operator has looked
    Stop,
}

/// What stands between a server and whoever reaches its address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Protection {
    pub tls: Option<TlsFiles>,
    /// Every call shows a token.
    pub require_token: bool,
    /// Other machines may be let in although one of the two is missing.
    pub insecure: bool,
}

/// Names of PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who must have signed the certificate that every client shows.
    pub client_ca: Option<PathBuf>,
    /// Know clients by common name where their certificates have no other.
    pub client_common_name: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Serving {
    pub address: SocketAddr,
    /// Where health and metrics have an address of their own.
    pub metrics: Option<SocketAddr>,
    /// The stores that are open.
    pub stores: Vec<String>,
    pub tls: bool,
}

/// One end of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyEnd {
    /// A data folder, or, to copy from, the folder of a log.
    Folder(PathBuf),
    Topic(KafkaOptions),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyOptions {
    pub from: CopyEnd,
    pub to: CopyEnd,
    pub create_topic: Option<TopicShape>,
    /// Seal the source first.
    pub is_move: bool,
    /// The last position to copy.
    pub until: Option<u64>,
    pub resume: bool,
    /// Who does it, in its own words, and by whose right where the store has rules.
    pub author: String,
    pub principal: String,
}

/// What there is to copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    pub store: String,
    /// The first position that the source does not have yet.
    pub end: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Copied {
    pub store: String,
    pub log_id: String,
    pub records: u64,
    /// Log digest at the last record that was copied.
    pub digest: String,
    /// The position at which this run began.
    pub resumed_at: u64,
    /// The new life's name.
    pub incarnation: String,
    pub transport_id: String,
    /// Position of the event that began it.
    pub opened: u64,
    /// Where the log lies that the data folder stood on before.
    pub kept: Option<String>,
    pub sealed: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Reopened {
    pub incarnation: String,
    pub position: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchOptions {
    pub data: PathBuf,
    /// Of the replica that is asked; empty for its only one.
    pub store: String,
    /// `None`: the folder says which log it stands on.
    pub kafka: Option<KafkaOptions>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Fetched {
    pub store: String,
    pub log_id: String,
    /// The mark.
    pub position: u64,
    /// The state hash there, in hex.
    pub state: String,
    pub revision: u64,
    /// How many revisions, and objects of the tree, came along.
    pub revisions: u64,
    pub objects: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rebuilt {
    /// Where what was folded lies now. `None`: there was nothing.
    pub aside: Option<String>,
    /// Up to which position, where that could be read.
    pub folded: Option<u64>,
    /// Why the replica had been stopped.
    pub reason: Option<String>,
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
