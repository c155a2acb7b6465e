//! A snapshot fetched from another replica: the store of a new data folder, without the log's past.

use crate::config::{Config, Kafka};
use crate::folder::{self, FolderError, Place};
use crate::kafka::Topic;
use bytes::Bytes;
use confold_log::Log;
use confold_replica::snapshot::{self, Imported, SnapshotError};
use confold_store::StoreError;
use confold_store_rocks::RocksStore;
use confold_wire::api::Api;
use confold_wire::pb;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::Status;

/// Why no snapshot was taken in. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{0} holds no store yet, and no topic was named for it to stand on")]
    NoLog(PathBuf),
    #[error("{0} exists: a snapshot makes a new store, it never changes one")]
    Exists(PathBuf),
    #[error("the other replica: {}", .0.message())]
    Asked(Status),
    #[error(transparent)]
    Refused(#[from] SnapshotError),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// Asks a replica for a snapshot of a store and makes `target`, a store's folder, from it: once every hash in it was checked and the log
/// was found to confirm its state. It is made beside the target, which comes to be at the end and as a whole.
pub async fn fetch(api: &dyn Api, store: &str, log: Arc<dyn Log>, target: &Path) -> Result<Imported, FetchError> {
    if target.exists() {
        return Err(FetchError::Exists(target.to_owned()));
    }
    let request = pb::SnapshotRequest { store: store.to_owned() };
    let mut pieces = api.snapshot(request).await.map_err(FetchError::Asked)?;
    let (sender, mut receiver) = mpsc::channel::<Result<Bytes, String>>(8);
    let place = target.to_owned();
    let taking = tokio::task::spawn_blocking(move || {
        let pieces = std::iter::from_fn(|| receiver.blocking_recv());
        take_in(pieces, &*log, &place)
    });
    while let Some(answer) = pieces.next().await {
        let piece = answer.map(|answer| answer.piece).map_err(|status| status.message().to_owned());
        // Whoever takes it in has found something wrong, and says so below.
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    taking.await.map_err(|error| FetchError::Io(target.to_owned(), io::Error::other(error)))?
}

/// Makes a data folder that goes on from a snapshot, or gives one to a folder that has folded nothing. `kafka`: the topic, where the
/// folder does not say which log it stands on.
pub async fn into_folder(api: &dyn Api, store: &str, kafka: Option<&Kafka>, dir: &Path) -> Result<Imported, FetchError> {
    let is_made = folder::is_data_folder(dir)?;
    let config = match (is_made, kafka) {
        (true, None) => None,
        (true, Some(_)) => return Err(FolderError::Exists(dir.to_owned()).into()),
        (false, None) => return Err(FetchError::NoLog(dir.to_owned())),
        (false, Some(kafka)) => {
            folder::make_room(dir)?;
            // The log may not reach back to its genesis: what that said is known by the replica that is asked, and what comes
            // from there is confirmed by the log.
            let request = pb::StatusRequest { store: store.to_owned() };
            let status = api.status(request).await.map_err(FetchError::Asked)?;
            let kafka = Kafka {
                store: Some(status.store),
                log_id: Some(status.log_id),
                max_event_bytes: status.limits.map(|limits| limits.max_event_bytes),
                ..kafka.clone()
            };
            Some(Config { kafka: Some(kafka), ..Config::of_folder(dir).map_err(FolderError::from)? })
        }
    };
    let (owned, planned) = (dir.to_owned(), config.clone());
    let opened = tokio::task::spawn_blocking(move || open_log(&owned, planned.as_ref())).await;
    let log = opened.map_err(|error| FetchError::Io(dir.to_owned(), io::Error::other(error)))??;
    let imported = fetch(api, store, log, &folder::store_of(dir)).await?;
    if let Some(config) = config {
        config.write(dir).map_err(FolderError::from)?;
    }
    Ok(imported)
}

fn open_log(dir: &Path, config: Option<&Config>) -> Result<Arc<dyn Log>, FolderError> {
    let place = match config.and_then(|config| config.kafka.clone()) {
        Some(kafka) => Place::Kafka(kafka),
        None => folder::place(dir)?,
    };
    Ok(match place {
        Place::File(_) => Arc::new(folder::open_log(dir, false)?),
        Place::Kafka(kafka) => {
            let topic = Topic::of(dir, &kafka)?;
            topic.check()?;
            Arc::new(topic.open(None)?)
        }
    })
}

fn take_in(
    pieces: impl Iterator<Item = Result<Bytes, String>>,
    log: &dyn Log,
    target: &Path,
) -> Result<Imported, FetchError> {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".fetching");
    let beside = target.with_file_name(name);
    let failed = |error| FetchError::Io(beside.clone(), error);
    // Left over from a fetch that was killed.
    if beside.exists() {
        std::fs::remove_dir_all(&beside).map_err(failed)?;
    }
    let taken = (|| -> Result<Imported, SnapshotError> {
        let store = RocksStore::open(&beside, &confold_store_rocks::Options::default())?;
        let imported = snapshot::import(pieces, &store, |header| snapshot::verify(log, header).map(drop))?;
        drop(store);
        // As whoever starts with it will.
        RocksStore::open(&beside, &confold_store_rocks::Options::default()).map(drop)?;
        Ok(imported)
    })();
    let imported = taken.inspect_err(|_| _ = std::fs::remove_dir_all(&beside))?;
    std::fs::rename(&beside, target).map_err(failed)?;
    if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::File::open(parent)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| StoreError::Io { what: format!("syncing {}: {error}", parent.display()) })
            .map_err(SnapshotError::from)?;
    }
    Ok(imported)
}
