//! confold in your own process: a replicated, event-sourced configuration store, on the embedded log of one machine or on Kafka.
//!
//! [`Embedded::create`] makes a data folder, [`Embedded::open`] opens it, [`Embedded::client`] reads and writes it with
//! the same [`Client`](confold_client::Client) that talks to a remote server. See `examples/embedded.rs`.

pub mod bench;
pub mod config;
pub mod doctor;
pub mod fetch;
pub mod folder;
pub mod kafka;
pub mod local;
pub mod moving;
pub mod stores;

pub use confold_client as client;
pub use confold_replica as replica;
pub use confold_wire as wire;

use confold_client::Client;
use confold_replica::service::{self, Service, Stores};
use confold_replica::{Begin, Handle, Options};
use confold_wire::api::Api;
use confold_wire::caller::Gate;
use folder::{FolderError, Opened};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a store that closes waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// One store, open in this process. Dropping it stops it; [`Embedded::close`] stops it in order.
pub struct Embedded {
    handle: Handle,
    service: Arc<Service>,
    notes: Vec<String>,
    _watch: Option<kafka::Watch>,
}

impl Embedded {
    /// Makes a data folder with an empty store on an embedded log in it.
    pub fn create(dir: &Path, store_name: &str) -> Result<(), FolderError> {
        folder::create(dir, store_name, &Begin { retention: folder::DEFAULT_RETENTION, ..Begin::default() }).map(|_| ())
    }

    /// Opens the store of a data folder, on whichever log, and waits until it has folded what stood on its log. Needs a tokio
    /// runtime.
    pub async fn open(dir: &Path, options: Options) -> Result<Embedded, FolderError> {
        let owned = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || folder::open(&owned, options)).await;
        let opened = opened.map_err(|error| FolderError::Io(dir.to_owned(), std::io::Error::other(error)))??;
        let report = opened.report();
        let Opened { handle, log, notes, watch } = opened;
        handle.ready().await;
        let stores = Arc::new(Stores::new(service::Options::default()));
        // There is no other of its name.
        stores.add_reported(handle.clone(), log, report).unwrap_or_default();
        Ok(Embedded { handle, service: Arc::new(Service::over(stores)), notes, _watch: watch })
    }

    /// What happened on opening that somebody should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Every call of the service, in process.
    pub fn api(&self) -> Arc<dyn Api> {
        self.service.clone()
    }

    /// The same with the rights of a principal, under its name. Whoever calls this vouches for the name.
    pub fn api_as(&self, principal: &str) -> Arc<dyn Api> {
        Arc::new(self.service.acting_as(principal))
    }

    /// The service for callers from outside, each with their own rights.
    pub fn gate(&self) -> Arc<dyn Gate> {
        self.service.clone()
    }

    /// Typed reads, writes and transactions.
    pub fn client(&self) -> Client {
        Client::new(self.api())
    }

    /// Takes no more proposals, lets those under way end, and writes everything to the disk.
    pub async fn close(self) -> Result<(), FolderError> {
        Ok(self.handle.shutdown(PATIENCE).await?)
    }
}
