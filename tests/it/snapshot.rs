//! A snapshot fetched from an open store into a folder, on the real disk.

use crate::support::*;
use confold::fetch::{FetchError, fetch};
use confold::folder;
use confold::replica::{Options, Replica};
use confold::wire::pb;
use confold_log::Log;
use confold_model::ids::Position;
use confold_store::Store;
use confold_store_rocks::RocksStore;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_store_begins_from_a_fetched_snapshot_and_an_unconfirmed_one_leaves_nothing() {
    let world = Fixture::with_schema("schemas/examples/network.proto", "example.Network").await;
    let Fixture { dir, store, api } = world;
    let data = dir.path().join("data");
    drop(api);
    store.close().await.unwrap();
    // Marks as soon as there is something to mark.
    let store = confold::Embedded::open(&data, Options { mark_every_ms: 0, ..Options::default() }).await.unwrap();
    let api = store.api();
    for n in 0..50 {
        let operations = vec![add(format!("/devices/d-{n}"), format!(r#"{{"id": "d-{n}"}}"#))];
        let request = pb::CommitRequest { operations, ..Default::default() };
        let decision = api.commit(request).await.unwrap();
        assert_eq!(decision.error, None);
    }
    let last = store.handle().view().position;
    let mut views = store.handle().views();
    let announced = views.wait_for(|view| view.checkpoints.iter().any(|row| row.checkpoint.position >= last));
    tokio::time::timeout(SOON, announced).await.expect("a checkpoint comes").unwrap();

    let log: Arc<dyn Log> = Arc::new(folder::open_log(&data, false).unwrap());
    let target = dir.path().join("fetched");
    let imported = fetch(&*api, "", log.clone(), &target).await.unwrap();
    assert!(imported.header.position >= last && imported.revisions == 50, "{imported:?}");
    assert!(matches!(fetch(&*api, "", log.clone(), &target).await, Err(FetchError::Exists(_))));
    let fetched = RocksStore::open(&target, &confold_store_rocks::Options::default()).unwrap();
    assert_eq!(fetched.head().unwrap().applied, imported.header.position);
    let options = Options { close_log: false, ..Options::default() };
    let replica = Replica::open(log, Arc::new(fetched), options).unwrap();
    let (end, view) = (store.handle().view().position, store.handle().view());
    let reached = replica.at_least(Position(end.0.min(replica.log().range().end.0 - 1)), SOON).await.unwrap();
    assert_eq!((reached.root, reached.revision), (view.root, view.revision));
    replica.shutdown(SOON).await.unwrap();

    // Of another store's log.
    let other = Fixture::with_schema("schemas/examples/network.proto", "example.Network").await;
    let log: Arc<dyn Log> = Arc::new(folder::open_log(&other.dir.path().join("data"), false).unwrap());
    let elsewhere = dir.path().join("elsewhere");
    let refused = fetch(&*api, "", log, &elsewhere).await.unwrap_err().to_string();
    assert!(refused.contains("this is log"), "{refused}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("elsewhere")), "{left:?}");
    store.close().await.unwrap();
}
