//! The seed's own tests at our hands: VOLTHA's schema unmodified, its tree, and the numbers of its history (voltha-semantics 18).

use crate::support::{Fixture, add, update};
use confold::wire::pb;
use confold_model::ids::{Hash, Revision};
use confold_model::walk::Walk;
use confold_store::Order;
use std::collections::BTreeSet;

const ROOT: &str = "voltha.VolthaInstance";

async fn voltha() -> Fixture {
    Fixture::with_schema("schemas/voltha", ROOT).await
}

fn adapter(n: usize, version: &str) -> String {
    format!(r#"{{"id": "adapter-{n}", "vendor": "cord", "version": "{version}", "config": {{"log_level": "INFO"}}}}"#)
}

fn logical_device(n: usize) -> String {
    format!(
        r#"{{"id": "ld-{n}", "datapath_id": "{n}", "root_device_id": "olt-{n}", "desc": {{"mfr_desc": "cord", "serial_num": "sn-{n}"}}}}"#
    )
}

async fn tag(fixture: &Fixture, name: &str, at: &str) {
    let request = pb::TagRequest { name: name.into(), at: at.into(), ..Default::default() };
    fixture.api.tag(request).await.unwrap();
}

async fn prune(fixture: &Fixture, floor: &str) {
    fixture.api.prune(pb::PruneRequest { floor: floor.into(), ..Default::default() }).await.unwrap();
}

async fn latest(fixture: &Fixture) -> u64 {
    fixture.api.status(pb::StatusRequest::default()).await.unwrap().revision
}

// S1, S8: the schema as it stands upstream, with the cluster's message for a root, and its sample.
#[tokio::test(flavor = "multi_thread")]
async fn the_unmodified_schema_loads_with_the_whole_cluster_for_a_root() {
    let fixture = Fixture::with_schema("schemas/voltha", "voltha.Voltha").await;
    let status = fixture.api.status(pb::StatusRequest::default()).await.unwrap();
    assert_eq!(status.root_message, "voltha.Voltha");
    fixture.commit(vec![add("/adapters", adapter(1, "1"))]).await;
}

/// Every root since the empty tree, in order.
fn roots(fixture: &Fixture) -> Vec<Hash> {
    let store = fixture.store.handle().store().unwrap();
    let all = Revision(1)..=Revision(u64::MAX);
    let rows = store.revisions(all, Order::Ascending, usize::MAX).unwrap();
    rows.into_iter().map(|row| row.root).collect()
}

/// Root, health and five adapters: seven nodes; health is there because a single child always is.
async fn base_tree(fixture: &Fixture) {
    let mut operations = vec![update("/", r#"{"version": "1"}"#), update("/health", r#"{"state": "HEALTHY"}"#)];
    operations.extend((1..=5).map(|n| add("/adapters", adapter(n, "1"))));
    assert_eq!(fixture.commit(operations).await.revision, Some(1));
    let tree = fixture.get_json("latest", "/", -1).await.unwrap();
    let tree: serde_json::Value = serde_json::from_str(&tree[0]).unwrap();
    assert_eq!(tree["adapters"].as_array().unwrap().len(), 5);
}

// R1, R3: a thousand updates between two versions make a thousand revisions and three distinct roots.
#[tokio::test(flavor = "multi_thread")]
async fn alternating_between_two_versions_gives_three_distinct_roots() {
    let fixture = voltha().await;
    base_tree(&fixture).await;
    for turn in 0..1_000 {
        let version = if turn % 2 == 0 { "2" } else { "3" };
        fixture.commit(vec![update("/adapters/adapter-3", adapter(3, version))]).await;
    }
    let roots = roots(&fixture);
    assert_eq!(roots.len(), 1_001, "a revision for each change (R1)");
    assert_eq!(roots.iter().collect::<BTreeSet<_>>().len(), 3, "distinct roots");
}

// R1, T1, T3, R4: a thousand distinct values plus one; the eleventh root is the tenth update's.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_distinct_values_and_one_more_give_1002_distinct_roots() {
    let fixture = voltha().await;
    base_tree(&fixture).await;
    for turn in 1..=1_001 {
        fixture.commit(vec![update("/adapters/adapter-3", adapter(3, &format!("v{turn}")))]).await;
    }
    let roots = roots(&fixture);
    assert_eq!(roots.iter().collect::<BTreeSet<_>>().len(), 1_002);
    let eleventh = fixture.get_json(&format!("root:{}", roots[10]), "/adapters/adapter-3", 0).await.unwrap();
    assert!(eleventh[0].contains("\"v10\""), "{eleventh:?}");

    tag(&fixture, "third", "3").await;
    tag(&fixture, "tenth", "10").await;
    prune(&fixture, "1001").await;
    for (at, readable) in [("third", true), ("tenth", true), ("latest", true), ("11", false), ("1001", false)] {
        assert_eq!(fixture.get_json(at, "/", 0).await.is_ok(), readable, "{at} after the prune");
    }
    fixture.store.handle().sweep().unwrap();
    assert_objects_are_what_roots_reach(&fixture);
}

// R4, T3, T6: applied, changed, tagged, pruned, crashed, opened again: every kept revision reads back equal.
async fn device_tree_survives(n: usize, changes: usize) {
    let fixture = voltha().await;
    for chunk in (0..n).collect::<Vec<_>>().chunks(500) {
        let mut operations: Vec<_> = chunk.iter().map(|n| add("/adapters", adapter(*n, "1"))).collect();
        operations.extend(chunk.iter().map(|n| add("/logical_devices", logical_device(*n))));
        fixture.commit(operations).await;
    }
    let applied = latest(&fixture).await;
    tag(&fixture, "applied", "latest").await;
    for turn in 0..changes {
        let n = turn * 7 % n;
        fixture.commit(vec![update(format!("/adapters/adapter-{n}"), adapter(n, &format!("c{turn}")))]).await;
        if turn == changes / 2 {
            tag(&fixture, "half", "latest").await;
        }
    }
    let end = latest(&fixture).await;
    assert_eq!(end, applied + changes as u64, "U10: one revision a change");
    prune(&fixture, &(end - 20).to_string()).await;
    let kept: Vec<String> = ["applied", "half", "latest"]
        .into_iter()
        .map(str::to_owned)
        .chain((end - 19..=end).map(|revision| revision.to_string()))
        .collect();
    let mut before = Vec::new();
    for at in &kept {
        before.push(fixture.get_json(at, "/", -1).await.unwrap());
    }

    let fixture = fixture.crash_and_reopen().await;
    for (at, before) in kept.iter().zip(&before) {
        assert!(fixture.get_json(at, "/", -1).await.unwrap() == *before, "{at} reads back equal");
    }
    for gone in [applied + 1, end - 20] {
        let status = fixture.get_json(&gone.to_string(), "/", 0).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    }
    fixture.store.handle().sweep().unwrap();
    assert_objects_are_what_roots_reach(&fixture);
    for (at, before) in kept.iter().zip(&before) {
        assert!(fixture.get_json(at, "/", -1).await.unwrap() == *before, "{at} reads back equal after the sweep");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_100_adapters_and_100_logical_devices_survives() {
    device_tree_survives(100, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_1000_adapters_and_1000_logical_devices_survives() {
    device_tree_survives(1_000, 1_000).await;
}

/// R2, R5: what is stored is what the persisted trees reach, no less and no more.
fn assert_objects_are_what_roots_reach(fixture: &Fixture) {
    let store = fixture.store.handle().store().unwrap();
    let mut walk = Walk::new();
    for tree in store.persisted(Revision(0)..=Revision(u64::MAX), Order::Ascending, usize::MAX).unwrap() {
        walk.add_root(tree.root);
    }
    let mut reached = BTreeSet::new();
    while let Some(object) = walk.next(store) {
        reached.insert(object.unwrap().0);
    }
    let mut stored = BTreeSet::new();
    let mut from = Hash::ZERO;
    loop {
        let page = store.object_sizes(&from, 1_000).unwrap();
        let fresh = page.iter().filter(|(hash, _)| stored.insert(*hash)).count();
        match page.last() {
            Some((last, _)) if fresh > 0 => from = *last,
            _ => break,
        }
    }
    assert_eq!(stored.difference(&reached).count(), 0, "objects that nothing reaches");
    assert_eq!(reached.difference(&stored).count(), 0, "objects that are missing");
}
