//! confold in your own process: a replicated, event-sourced configuration store on the embedded log of one machine.
//!
//! [`Embedded::create`] makes a data folder, [`Embedded::open`] opens it, [`Embedded::client`] reads and writes it with
//! the same [`Client`](confold_client::Client) that talks to a remote server. See `examples/embedded.rs`.

pub mod bench;
pub mod fetch;
pub mod folder;
pub mod local;

pub use confold_client as client;
pub use confold_replica as replica;
pub use confold_wire as wire;

use confold_client::Client;
use confold_replica::service::{self, Service, Stores};
use confold_replica::{Begin, Handle, Options};
use confold_wire::api::Api;
use confold_wire::caller::Gate;
use folder::FolderError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a store that closes waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// One store, open in this process. Dropping it stops it; [`Embedded::close`] stops it in order.
pub struct Embedded {
    dir: PathBuf,
    handle: Handle,
    service: Arc<Service>,
    notes: Vec<String>,
}

impl Embedded {
    /// Makes a data folder with an empty store in it.
    pub fn create(dir: &Path, store_name: &str) -> Result<(), FolderError> {
        folder::create(dir, store_name, &Begin { retention: folder::DEFAULT_RETENTION, ..Begin::default() }).map(|_| ())
    }

    /// Opens the store of a data folder and waits until it has folded what stood on its log. Needs a tokio runtime.
    pub async fn open(dir: &Path, options: Options) -> Result<Embedded, FolderError> {
        let owned = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || folder::open(&owned, options)).await;
        let opened = opened.map_err(|error| FolderError::Io(dir.to_owned(), std::io::Error::other(error)))??;
        opened.handle.ready().await;
        let stores = Arc::new(Stores::new(service::Options::default()));
        let service = Arc::new(Service::over(stores.clone()));
        // The first of its name.
        stores.add(opened.handle.clone(), "file").unwrap_or_default();
        Ok(Embedded { dir: dir.to_owned(), handle: opened.handle, service, notes: opened.notes })
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
        let closed = self.handle.shutdown(PATIENCE).await;
        folder::mark_damaged(&self.dir, &self.handle);
        Ok(closed?)
    }
}
