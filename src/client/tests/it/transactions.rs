use crate::{
    messages::{Clock, Device, NtpServer, Port, Vlan, device, port, vlan},
    store::{Fault, Mini},
};
use confold_client::{Client, Error, Retries};
use confold_model::code::Code;
use confold_wire::pb::decision::Outcome;
use std::{sync::Arc, time::Duration};

async fn world() -> (Mini, Client) {
    let store = Mini::new();
    let mut retries = Retries {
        more: 2,
        ..Retries::default()
    };
    (retries.first_delay, retries.longest_delay) = (Duration::ZERO, Duration::ZERO);
    let client = Client::new(Arc::new(store.clone())).retries(retries);
    let mut olt = device("olt-1", "192.0.2.1");
    olt.ports = vec![port(1, "a"), port(2, "b")];
    client.add("/devices", &olt).await.unwrap();
    client.add("/vlans", &vlan(7, "seven")).await.unwrap();
    (store, client)
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.unwrap_err().code().unwrap()
}

// X3, X6
#[tokio::test]
async fn all_operations_are_one_revision_and_unseen_before_the_commit() {
    let (store, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    tx.update("/devices/olt-1", &device("olt-1", "new")).await.unwrap();
    tx.put("/vlans/8", &vlan(8, "eight")).await.unwrap();
    tx.remove("/vlans/7").await.unwrap();
    assert_eq!(
        tx.get::<Device>("/devices/olt-1").await.unwrap(),
        device("olt-1", "new")
    );
    assert_eq!(tx.list::<Vlan>("/vlans", 0).await.unwrap(), [vlan(8, "eight")]);
    assert_eq!(tx.find_at::<Vlan>("/vlans/7", 0).await.unwrap(), None);
    assert_eq!(client.list::<Vlan>("/vlans", 0).await.unwrap().len(), 1);
    let before = store.revisions();
    let decision = tx.commit().await.unwrap();
    assert_eq!(
        (store.revisions(), decision.revision),
        (before + 1, Some(before as u64 + 1))
    );
    // U1: the children of an updated node stay.
    assert_eq!(
        client.get_deep::<Device>("/devices/olt-1").await.unwrap().ports.len(),
        2
    );
}

// X6
#[tokio::test]
async fn an_empty_or_net_zero_transaction_moves_nothing() {
    let (store, client) = world().await;
    let before = store.revisions();
    let mut tx = client.transaction().await.unwrap();
    assert_eq!(tx.commit().await.unwrap().outcome(), Outcome::Unchanged);
    let mut tx = client.transaction().await.unwrap();
    tx.add("/vlans/9", &vlan(9, "")).await.unwrap();
    tx.remove("/vlans/9").await.unwrap();
    assert_eq!(tx.commit().await.unwrap().outcome(), Outcome::Unchanged);
    let last = store.inner().calls.last().copied();
    assert_ne!(last, Some("commit"));
    let mut tx = client.transaction().await.unwrap();
    tx.remove("/vlans/7").await.unwrap();
    tx.add("/vlans/7", &vlan(7, "seven")).await.unwrap();
    assert_eq!(tx.commit().await.unwrap().outcome(), Outcome::Unchanged);
    assert_eq!(store.revisions(), before);
}

// X4
#[tokio::test]
async fn a_finished_transaction_is_closed_and_cancelling_it_again_is_nothing() {
    let (store, client) = world().await;
    let before = store.revisions();
    let mut tx = client.transaction().await.unwrap();
    tx.remove("/vlans/7").await.unwrap();
    tx.cancel();
    tx.cancel();
    assert_eq!(code(tx.commit().await), Code::TxClosed);
    assert_eq!(code(tx.get::<Vlan>("/vlans/7").await), Code::TxClosed);
    assert_eq!(store.revisions(), before);
    let mut tx = client.transaction().await.unwrap();
    tx.remove("/vlans/7").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(code(tx.commit().await), Code::TxClosed);
    assert_eq!(code(tx.remove("/vlans/7").await), Code::TxClosed);
    assert_eq!(code(tx.put("/vlans/7", &vlan(7, "")).await), Code::TxClosed);
    tx.cancel();
    assert_eq!(store.revisions(), before + 1);
}

// X4: a commit sent again is the same event, and gets the first outcome.
#[tokio::test]
async fn a_commit_of_unknown_end_can_be_sent_again() {
    let (store, client) = world().await;
    let before = store.revisions();
    let mut tx = client.transaction().await.unwrap();
    tx.remove("/vlans/7").await.unwrap();
    store
        .inner()
        .faults
        .extend([Fault::LoseAnswer, Fault::LoseRequest, Fault::Unknown]);
    let Err(Error::Unknown { event_id, .. }) = tx.commit().await else {
        panic!("the answers were lost")
    };
    let decision = tx.commit().await.unwrap();
    assert!(decision.repeated);
    assert_eq!(decision.event_id, event_id.to_string());
    assert_eq!(code(tx.commit().await), Code::TxClosed);
    assert_eq!(store.revisions(), before + 1);
}

// X7, A2
#[tokio::test]
async fn adding_and_then_changing_what_was_added_is_one_add() {
    let (store, client) = world().await;
    let before = store.revisions();
    let mut tx = client.transaction().await.unwrap();
    tx.add("/devices/olt-2", &device("olt-2", "a")).await.unwrap();
    tx.update("/devices/olt-2", &device("olt-2", "b")).await.unwrap();
    tx.add("/devices/olt-2/ports/2", &port(2, "two")).await.unwrap();
    tx.add("/devices/olt-2/ports/1", &port(1, "one")).await.unwrap();
    tx.update_fields("/devices/olt-2/ports/1", &port(0, "uno"), &["label"])
        .await
        .unwrap();
    tx.remove("/devices/olt-2/ports/2").await.unwrap();
    assert_eq!(
        code(tx.add("/devices/olt-2/ports/1", &port(1, "")).await),
        Code::AlreadyExists
    );
    assert_eq!(code(tx.remove("/devices/olt-2/ports/7").await), Code::NotFound);
    let mut expected = device("olt-2", "b");
    expected.ports = vec![port(1, "uno")];
    assert_eq!(tx.get_deep::<Device>("/devices/olt-2").await.unwrap(), expected);
    assert_eq!(tx.get::<Port>("/devices/olt-2/ports/1").await.unwrap(), port(1, "uno"));
    assert_eq!(
        tx.list::<Port>("/devices/olt-2/ports", 0).await.unwrap(),
        [port(1, "uno")]
    );
    tx.commit().await.unwrap();
    assert_eq!(client.get_deep::<Device>("/devices/olt-2").await.unwrap(), expected);
    assert_eq!(store.revisions(), before + 1);
}

// M14: removing and adding again is a change.
#[tokio::test]
async fn removing_and_adding_again_is_a_change() {
    let (_, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    tx.remove("/devices/olt-1").await.unwrap();
    assert_eq!(
        code(tx.update("/devices/olt-1", &device("olt-1", "")).await),
        Code::NotFound
    );
    assert_eq!(
        code(tx.put("/devices/olt-1/ports/1", &port(1, "")).await),
        Code::NotFound
    );
    tx.add("/devices/olt-1", &device("olt-1", "again")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        client.get_deep::<Device>("/devices/olt-1").await.unwrap(),
        device("olt-1", "again")
    );
}

#[tokio::test]
async fn updates_of_one_node_become_one_update() {
    let (_, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    let value = |address: &str, description: &str| Device {
        address: address.to_owned(),
        description: description.to_owned(),
        ..Default::default()
    };
    tx.update_fields("/devices/olt-1", &value("x", ""), &["address"])
        .await
        .unwrap();
    tx.update_fields("/devices/olt-1", &value("", "y"), &["description"])
        .await
        .unwrap();
    tx.update_fields("/devices/olt-1", &value("z", ""), &["address"])
        .await
        .unwrap();
    // A child's change stands beside its parent's update.
    tx.update("/devices/olt-1/ports/1", &port(1, "changed")).await.unwrap();
    let mut expected = Device {
        id: "olt-1".to_owned(),
        ..value("z", "y")
    };
    assert_eq!(tx.get::<Device>("/devices/olt-1").await.unwrap(), expected);
    expected.ports = vec![port(1, "changed"), port(2, "b")];
    assert_eq!(tx.get_deep::<Device>("/devices/olt-1").await.unwrap(), expected);
    tx.commit().await.unwrap();
    assert_eq!(client.get_deep::<Device>("/devices/olt-1").await.unwrap(), expected);
}

#[tokio::test]
async fn a_put_above_takes_in_what_was_done_below() {
    let (_, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    tx.update("/devices/olt-1/ports/1", &port(1, "lost")).await.unwrap();
    let mut whole = device("olt-1", "put");
    whole.ports = vec![port(5, "five")];
    tx.put("/devices/olt-1", &whole).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(client.get_deep::<Device>("/devices/olt-1").await.unwrap(), whole);
}

#[tokio::test]
async fn a_list_is_replaced_and_read_back() {
    let (_, client) = world().await;
    let server = |address: &str| NtpServer {
        address: address.to_owned(),
        prefer: false,
    };
    let servers = |list: &[&str]| Clock {
        ntp_servers: list.iter().map(|name| server(name)).collect(),
        ..Default::default()
    };
    let mut tx = client.transaction().await.unwrap();
    assert!(tx.list::<NtpServer>("/clock/ntp_servers", 0).await.unwrap().is_empty());
    tx.replace("/clock/ntp_servers", &servers(&["a", "b"])).await.unwrap();
    assert_eq!(
        tx.list::<NtpServer>("/clock/ntp_servers", 0).await.unwrap(),
        [server("a"), server("b")]
    );
    tx.commit().await.unwrap();
    // M5: one atomic value.
    let mut tx = client.transaction().await.unwrap();
    tx.replace("/clock/ntp_servers", &servers(&["a"])).await.unwrap();
    client.replace("/clock/ntp_servers", &servers(&["c"])).await.unwrap();
    assert_eq!(code(tx.commit().await), Code::Conflict);
}

// X8
#[tokio::test]
async fn a_refused_operation_leaves_the_transaction_usable() {
    let (_, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    assert_eq!(code(tx.add("/vlans/7", &vlan(7, "")).await), Code::AlreadyExists);
    assert_eq!(code(tx.update("/vlans/99", &vlan(99, "")).await), Code::NotFound);
    assert_eq!(code(tx.remove("/clock").await), Code::NotAContainer);
    assert_eq!(code(tx.remove("/vlans").await), Code::IsAContainer);
    assert_eq!(code(tx.put("/nothing", &vlan(1, "")).await), Code::NotFound);
    // U3
    let mut deep = device("olt-1", "");
    deep.ports = vec![port(1, "")];
    assert_eq!(code(tx.update("/devices/olt-1", &deep).await), Code::ChildrenInUpdate);
    // U5
    assert_eq!(code(tx.update("/vlans/7", &vlan(8, "")).await), Code::KeyChange);
    assert_eq!(code(tx.put("/vlans/7", &vlan(8, "")).await), Code::KeyChange);
    // K4
    assert_eq!(code(tx.add("/devices/", &device("", "")).await), Code::IsAContainer);
    tx.update("/vlans/7", &vlan(7, "still")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(client.get::<Vlan>("/vlans/7").await.unwrap(), vlan(7, "still"));
}

// X2: a stale read written back over a newer value conflicts, at any depth.
#[tokio::test]
async fn a_lost_update_below_the_root_is_a_conflict() {
    let (_, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    let mut stale = tx.get::<Port>("/devices/olt-1/ports/1").await.unwrap();
    client
        .update("/devices/olt-1/ports/1", &port(1, "newer"))
        .await
        .unwrap();
    stale.label.push_str(" and mine");
    tx.update("/devices/olt-1/ports/1", &stale).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(error.is_conflict());
    let Error::Refused(detail) = error else {
        panic!("a conflict is a refusal")
    };
    assert_eq!(detail.conflicts[0].path, "/devices/olt-1/ports/1");
    assert_eq!(
        client.get::<Port>("/devices/olt-1/ports/1").await.unwrap(),
        port(1, "newer")
    );
}

// X2, G7: every read of a transaction sees one revision, so an add is checked against what its reads show.
#[tokio::test]
async fn every_read_sees_the_revision_at_the_opening() {
    let (_, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    client.add("/vlans", &vlan(9, "theirs")).await.unwrap();
    client
        .update("/devices/olt-1", &device("olt-1", "theirs"))
        .await
        .unwrap();
    assert_eq!(tx.list::<Vlan>("/vlans", 0).await.unwrap(), [vlan(7, "seven")]);
    assert_eq!(tx.get::<Device>("/devices/olt-1").await.unwrap().address, "192.0.2.1");
    tx.add("/vlans/9", &vlan(9, "mine")).await.unwrap();
    // M6: both added, and not the same.
    assert_eq!(code(tx.commit().await), Code::Conflict);
    let mut tx = client.transaction().await.unwrap();
    client.add("/vlans", &vlan(10, "same")).await.unwrap();
    assert_eq!(tx.find_at::<Vlan>("/vlans/10", 0).await.unwrap(), None);
    tx.add("/vlans/10", &vlan(10, "same")).await.unwrap();
    assert_eq!(tx.commit().await.unwrap().outcome(), Outcome::Unchanged);
}

// M17, M1: what others did elsewhere does not matter.
#[tokio::test]
async fn disjoint_changes_merge() {
    let (_, client) = world().await;
    let mut tx = client.transaction().await.unwrap();
    tx.update("/devices/olt-1/ports/1", &port(1, "mine")).await.unwrap();
    tx.update_fields(
        "/devices/olt-1",
        &Device {
            description: "mine".to_owned(),
            ..Default::default()
        },
        &["description"],
    )
    .await
    .unwrap();
    client
        .update("/devices/olt-1/ports/2", &port(2, "theirs"))
        .await
        .unwrap();
    client
        .update_fields("/devices/olt-1", &device("", "theirs"), &["address"])
        .await
        .unwrap();
    client.remove("/vlans/7").await.unwrap();
    tx.commit().await.unwrap();
    let merged = client.get_deep::<Device>("/devices/olt-1").await.unwrap();
    assert_eq!(
        (merged.address.as_str(), merged.description.as_str()),
        ("theirs", "mine")
    );
    assert_eq!(merged.ports, [port(1, "mine"), port(2, "theirs")]);
}

// X9
#[tokio::test]
async fn write_skew_is_possible_unless_reads_are_guarded() {
    for serializable in [false, true] {
        let (_, client) = world().await;
        let mut tx = client.transaction().await.unwrap();
        if serializable {
            tx.serializable();
        }
        tx.get::<Vlan>("/vlans/7").await.unwrap();
        tx.find_at::<Vlan>("/vlans/8", 0).await.unwrap();
        tx.list::<Port>("/devices/olt-1/ports", 0).await.unwrap();
        client.update("/vlans/7", &vlan(7, "theirs")).await.unwrap();
        tx.put("/vlans/20", &vlan(20, "mine")).await.unwrap();
        let result = tx.commit().await;
        assert_eq!(result.is_err(), serializable);
        if serializable {
            assert_eq!(code(result), Code::GuardFailed);
        }
    }
}

#[tokio::test]
async fn guards_hold_where_nothing_changed() {
    let (_, client) = world().await;
    for path in ["/vlans/7", "/vlans", "/vlans/8", "/clock", "/"] {
        let mut tx = client.transaction().await.unwrap();
        tx.guard(path).unwrap();
        tx.put("/devices/olt-9", &device("olt-9", path)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = client.transaction().await.unwrap();
    tx.guard("/vlans").unwrap();
    tx.put("/devices/olt-9", &device("olt-9", "")).await.unwrap();
    client.put("/vlans/30", &vlan(30, "")).await.unwrap();
    assert_eq!(code(tx.commit().await), Code::GuardFailed);
}

// X5
#[tokio::test]
async fn run_works_again_on_the_new_base_so_many_times() {
    let (store, client) = world().await;
    let other = client.clone();
    let mut runs = 0;
    let (label, decision) = client
        .run(5, async |tx| {
            runs += 1;
            let mut value: Port = tx.get("/devices/olt-1/ports/1").await?;
            if runs < 3 {
                other
                    .update("/devices/olt-1/ports/1", &port(1, &format!("theirs {runs}")))
                    .await?;
            }
            value.label.push_str(" and mine");
            tx.update("/devices/olt-1/ports/1", &value).await?;
            Ok(value.label)
        })
        .await
        .unwrap();
    assert_eq!((runs, label.as_str()), (3, "theirs 2 and mine"));
    assert_eq!(decision.revision, Some(store.revisions() as u64));

    let mut runs = 0;
    let result = client
        .run(2, async |tx| {
            runs += 1;
            other.update("/vlans/7", &vlan(7, &format!("theirs {runs}"))).await?;
            tx.update("/vlans/7", &vlan(7, "mine")).await
        })
        .await;
    assert_eq!((code(result), runs), (Code::Conflict, 2));
}

#[tokio::test]
async fn an_error_of_the_function_cancels_and_is_returned() {
    let (store, client) = world().await;
    let before = store.revisions();
    let mut runs = 0;
    let result = client
        .run(5, async |tx| {
            runs += 1;
            tx.remove("/vlans/7").await?;
            tx.remove("/vlans/99").await
        })
        .await;
    assert_eq!((code(result), runs, store.revisions()), (Code::NotFound, 1, before));
}

// R5: opening and dropping leaves nothing behind.
#[tokio::test]
async fn ten_thousand_dropped_transactions_change_nothing() {
    let (store, client) = world().await;
    let before = (store.revisions(), store.root());
    for _ in 0..10_000 {
        let mut tx = client.transaction().await.unwrap();
        tx.put("/vlans/8", &vlan(8, "")).await.unwrap();
        tx.cancel();
    }
    assert_eq!((store.revisions(), store.root()), before);
}

#[tokio::test]
async fn many_puts_ask_for_nothing_and_are_one_commit() {
    let (store, client) = world().await;
    store.inner().calls.clear();
    let mut tx = client.transaction().await.unwrap();
    for number in 100..5_100 {
        tx.put(format!("/vlans/{number}"), &vlan(number, "")).await.unwrap();
    }
    tx.remove("/vlans/100").await.unwrap();
    let before = store.revisions();
    tx.commit().await.unwrap();
    assert_eq!(store.revisions(), before + 1);
    let calls = store.inner().calls.clone();
    assert!(calls.len() <= 3, "{calls:?}");
    assert_eq!(client.list::<Vlan>("/vlans", 0).await.unwrap().len(), 5_000);
}
