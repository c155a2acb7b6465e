//! Stores that come and go while others are served.

use crate::world::{SOON, World, open, refusal};
use async_trait::async_trait;
use confold_log::memory::MemoryLog;
use confold_replica::service::{Keeper, Options, Refusal, Service, Stores};
use confold_replica::{ReplicaState, Standing};
use confold_wire::api::Api;
use confold_wire::pb;
use std::sync::Arc;

fn ask(store: &str) -> pb::StatusRequest {
    pb::StatusRequest {
        store: store.to_owned(),
    }
}

#[tokio::test]
async fn a_store_that_is_shut_is_listed_and_refused_and_the_others_go_on() {
    let world = World::sample().await;
    let stores = Arc::new(Stores::new(Options::default()));
    let service = Service::over(stores.clone());
    assert_eq!(
        refusal(&service.status(ask("")).await.unwrap_err()),
        "NOT_FOUND: this server has no store"
    );
    stores.add(world.handle.clone(), "memory").unwrap();
    assert_eq!(service.status(ask("")).await.unwrap().log, "memory");
    assert_eq!(
        stores.add(world.handle.clone(), "file").unwrap_err().to_string(),
        r#"a store called "network" is open here already"#
    );
    let standing = Standing::new(ReplicaState::Halted, "its disk is gone");
    assert!(stores.shut("lab", standing.clone()).is_none());
    assert_eq!(
        refusal(&service.status(ask("lab")).await.unwrap_err()),
        r#"UNAVAILABLE: the store "lab" is not open here: its disk is gone"#
    );
    assert_eq!(
        service.status(ask("network")).await.unwrap().state(),
        pb::State::Serving
    );
    let rows = service.list_stores(pb::ListStoresRequest {}).await.unwrap().stores;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.name.as_str(), row.state(), row.reason.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("lab", pb::State::Halted, "its disk is gone"),
            ("network", pb::State::Serving, "")
        ]
    );
    let handle = stores.shut("network", standing).expect("it was open");
    handle.shutdown(SOON).await.unwrap();
    assert!(stores.handle("network").is_none());
    assert!(service.status(ask("network")).await.is_err());
}

/// Opens what it is asked for on a log in memory.
struct InMemory(Arc<Stores>);

#[async_trait]
impl Keeper for InMemory {
    async fn create(&self, request: pb::CreateStoreRequest) -> Result<(), Refusal> {
        let log = MemoryLog::new([8; 16]);
        confold_replica::begin(&log, &request.name, &Default::default()).unwrap();
        let handle = open(&log, &Default::default()).await;
        self.0.add(handle, "memory").unwrap();
        Ok(())
    }

    async fn open(&self, _: &str) -> Result<(), Refusal> {
        Ok(())
    }

    async fn close(&self, name: &str) -> Result<(), Refusal> {
        self.0.shut(name, ReplicaState::Stopped.into()).unwrap().shutdown(SOON).await.unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn stores_are_made_and_closed_by_those_who_may() {
    let stores = Arc::new(Stores::new(Options {
        admins: vec!["ops".to_owned()],
        ..Options::default()
    }));
    let fixed = Service::over(stores.clone());
    let create = || pb::CreateStoreRequest {
        name: "lab".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        refusal(&fixed.create_store(create()).await.unwrap_err()),
        "UNSUPPORTED: the stores of this server were fixed when it was started"
    );
    let service = fixed.kept_by(Arc::new(InMemory(stores)));
    assert_eq!(
        refusal(&service.acting_as("eve").create_store(create()).await.unwrap_err()),
        r#"PERMISSION: "eve" may not make, open or close stores of this server"#
    );
    // An admin, and anybody where nobody asked who calls.
    for service in [service.acting_as("ops"), service.clone()] {
        let made = service.create_store(create()).await.unwrap();
        assert_eq!(
            (made.name.as_str(), made.state(), made.log.as_str()),
            ("lab", pb::State::Serving, "memory")
        );
        let close = pb::CloseStoreRequest { name: "lab".to_owned() };
        assert!(service.acting_as("eve").close_store(close.clone()).await.is_err());
        assert_eq!(service.close_store(close).await.unwrap().state(), pb::State::Closed);
        let open = pb::OpenStoreRequest { name: "lab".to_owned() };
        assert!(service.acting_as("eve").open_store(open).await.is_err());
        let nothing = service
            .open_store(pb::OpenStoreRequest {
                name: "nothing".to_owned(),
            })
            .await;
        assert_eq!(
            refusal(&nothing.unwrap_err()),
            r#"NOT_FOUND: no store is called "nothing""#
        );
    }
}
