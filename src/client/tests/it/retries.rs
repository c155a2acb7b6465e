use crate::{
    messages::vlan,
    store::{Fault, Mini},
};
use confold_client::{Client, Connection, Error, Retries};
use confold_model::code::Code;
use std::{sync::Arc, time::Duration};

fn client(store: &Mini) -> Client {
    let retries = Retries {
        more: 3,
        first_delay: Duration::ZERO,
        longest_delay: Duration::ZERO,
        give_up_after: None,
    };
    Client::new(Arc::new(store.clone())).retries(retries)
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_under_the_same_id_and_nothing_is_doubled() {
    for fault in [
        Fault::LoseAnswer,
        Fault::LoseRequest,
        Fault::Unknown,
        Fault::NotConnected,
        Fault::DiskFull,
        Fault::OverQuota,
    ] {
        let store = Mini::new();
        store.inner().faults.push_back(fault);
        let decision = client(&store).add("/vlans", &vlan(7, "a")).await.unwrap();
        assert_eq!(store.revisions(), 1, "{fault:?}");
        assert_eq!(
            decision.repeated,
            matches!(fault, Fault::LoseAnswer | Fault::Unknown),
            "{fault:?}"
        );
        let mut ids = store.inner().arrived.clone();
        ids.dedup();
        assert_eq!(ids, [decision.event_id], "{fault:?}");
    }
}

#[tokio::test]
async fn after_the_last_attempt_the_end_is_unknown_unless_nothing_was_sent() {
    let store = Mini::new();
    store.inner().faults.extend([Fault::LoseRequest; 4]);
    let error = client(&store).add("/vlans", &vlan(7, "a")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    store.inner().faults.extend([Fault::NotConnected; 4]);
    let error = client(&store).add("/vlans", &vlan(7, "a")).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unavailable));
    // One attempt that may have arrived is enough for doubt.
    store.inner().faults.extend([
        Fault::LoseAnswer,
        Fault::NotConnected,
        Fault::NotConnected,
        Fault::NotConnected,
    ]);
    let error = client(&store).add("/vlans", &vlan(7, "a")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert_eq!(store.revisions(), 1);
}

#[tokio::test]
async fn a_refusal_is_final_and_not_asked_for_again() {
    let store = Mini::new();
    let error = client(&store).remove("/vlans/7").await.unwrap_err();
    assert_eq!((error.code(), store.inner().arrived.len()), (Some(Code::NotFound), 1));
}

#[tokio::test]
async fn a_refusal_before_the_log_leaves_a_lost_copy_in_doubt() {
    let store = Mini::new();
    store.inner().faults.push_back(Fault::LoseRequest);
    store.inner().refuse = Some(Code::Conflict);
    let error = client(&store).add("/vlans", &vlan(7, "a")).await.unwrap_err();
    let Error::Unknown { last, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(last.code(), Some(Code::Conflict));
}

#[tokio::test]
async fn ids_are_minted_at_a_position_that_was_seen_without_asking_each_time() {
    let store = Mini::new();
    let connection = Connection::new(Arc::new(store.clone()), "");
    let first = connection.mint().await.unwrap();
    let second = connection.mint().await.unwrap();
    assert_ne!(first.nonce, second.nonce);
    assert_eq!((first.seen.0, second.seen.0), (10, 10));
    connection.saw(5);
    assert_eq!(connection.mint().await.unwrap().seen.0, 10);
    connection.saw(99);
    assert_eq!(connection.mint().await.unwrap().seen.0, 99);
    assert_eq!(store.inner().calls, ["status"]);
}

#[tokio::test]
async fn giving_up_after_a_time_is_an_unknown_end() {
    let store = Mini::new();
    store.inner().faults.extend([Fault::LoseRequest; 100]);
    let retries = Retries {
        more: usize::MAX,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(1),
        give_up_after: Some(Duration::from_millis(20)),
    };
    let client = Client::new(Arc::new(store.clone())).retries(retries);
    let error = client.add("/vlans", &vlan(7, "a")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
}
