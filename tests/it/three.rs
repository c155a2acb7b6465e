//! What three brokers can do to a replica that one cannot: take no writes although they answer, and elect a leader that has not
//! everything (F16).
//!
//! `CONFOLD_SOAK_ROUNDS` says how often an unclean leader is elected.

use crate::cluster::work::put;
use crate::cluster::{ALONE, LOG};
use crate::fences::{Folder, PATIENCE, commit, digests, status, until};
use crate::support::{number, push_schema};
use confold::Embedded;
use confold::replica::ReplicaState;
use confold::wire::{pb, status as answers};
use confold_model::code::Code;
use confold_test_brokers::{Cluster, Setup, fresh_name};
use std::sync::LazyLock;

/// Brokers that whoever holds `ALONE` may stop and pause. A broker that is gone is missed soon, and one that has little of a crowded
/// machine is not.
async fn three_brokers() -> &'static Cluster {
    static THREE: LazyLock<Cluster> = LazyLock::new(|| {
        let settings = [("broker.session.timeout.ms", "6000"), ("broker.heartbeat.interval.ms", "500")];
        Cluster::start(Setup {
            brokers: 3,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Setup::default()
        })
    });
    // A test that failed may have left some of them stopped.
    blocking(|| {
        THREE.restart_all();
        &*THREE
    })
    .await
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Waits until a commit is refused, and gives the error's text. Commits before that are answered or not.
async fn refused(store: &Embedded) -> String {
    let stopped = async {
        for value in 0.. {
            let operations = vec![put("/devices/refused", value)];
            let proposal = Some(pb::Proposal { deadline_ms: 500, ..Default::default() });
            match store.api().commit(pb::CommitRequest { proposal, operations, ..Default::default() }).await {
                Err(error) if answers::detail(&error).and_then(|why| answers::code_of(&why)) == Some(Code::Unavailable) => {
                    return error.message().to_owned();
                }
                _ => {}
            }
        }
        unreachable!("numbers do not end")
    };
    tokio::time::timeout(2 * PATIENCE, stopped).await.expect("a commit is refused")
}

// F12: fewer copies in sync than min.insync.replicas wants.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_refuses_writes_early_while_brokers_answer_and_take_none_and_serves_again_by_itself() {
    let _alone = ALONE.lock().await;
    let cluster = three_brokers().await;
    let topic = blocking(|| cluster.new_topic(&[&LOG[..], &[("min.insync.replicas", "3")]].concat())).await;
    let folder = Folder::on(cluster, &topic).await;
    let store = folder.serve().await;
    push_schema(&*store.api(), "").await;
    commit(&store, 1..4).await;
    let name = topic.clone();
    let leader = blocking(move || cluster.leader(&name)).await.unwrap();
    let others: Vec<usize> = (1..=3).filter(|node| *node != leader).collect();

    let missing = others[0];
    blocking(move || cluster.kill(missing)).await;
    let degraded = until(&store, ReplicaState::Degraded).await;
    let said = refused(&store).await;
    let words =
        ["2 of 3 copies in sync", "min.insync.replicas is 3", "NOT_ENOUGH_REPLICAS", &format!("broker {missing}")];
    for reason in [&said, &status(&store).await.reason] {
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}; at first {}", degraded.reason);
    }
    let read = store.api().list(pb::ListRequest { path: "/devices".into(), ..Default::default() }).await;
    assert!(read.is_ok(), "reads go on: {read:?}");
    // Nothing that is refused was handed over: no end is unknown, however long this lasts.
    let unknown = |status: pb::StatusResponse| {
        let counter = status.counters.into_iter().find(|counter| counter.name == "proposals_unknown");
        counter.map_or(0, |counter| counter.value)
    };
    let before = unknown(status(&store).await);
    for _ in 0..20 {
        refused(&store).await;
    }
    assert_eq!(unknown(status(&store).await), before);
    blocking(move || cluster.restart(missing)).await;
    until(&store, ReplicaState::Serving).await;
    commit(&store, 4..6).await;
}

// F16: the leader alone took writes and died; one that has not got them is elected, and others write on.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_folds_nothing_of_a_branch_that_an_unclean_leader_began() {
    let _alone = ALONE.lock().await;
    let cluster = three_brokers().await;
    let times = number("CONFOLD_SOAK_ROUNDS").unwrap_or(1);
    for _ in 0..times {
        elect_unclean(cluster).await;
    }
    println!("SOAK times={times} unclean leader under two replicas, one running: FENCED with both digests, 0 folded");
}

async fn elect_unclean(cluster: &'static Cluster) {
    let topic = fresh_name("unclean");
    let name = topic.clone();
    // The third broker keeps no copy: with it the controllers are enough whichever of the two is away.
    blocking(move || {
        let mut words = vec!["--create", "--topic", &name, "--replica-assignment", "1:2"];
        let settings: Vec<String> = LOG
            .iter()
            .chain(&[("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")])
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        settings.iter().for_each(|setting| words.extend(["--config", setting]));
        cluster.tool("topics", &words);
        confold_test_brokers::until("broker 1 leads", || cluster.leader(&name) == Some(1));
    })
    .await;
    let (down, up) = (Folder::on(cluster, &topic).await, Folder::on(cluster, &topic).await);
    let store = down.serve().await;
    push_schema(&*store.api(), "").await;
    commit(&store, 1..6).await;

    let name = topic.clone();
    blocking(move || {
        cluster.kill(2);
        confold_test_brokers::until("the leader is alone", || cluster.in_sync(&name) == [1]);
    })
    .await;
    let common = status(&store).await.position;
    commit(&store, 6..11).await;
    store.close().await.unwrap();
    let store = down.serve().await;
    let before = status(&store).await;
    store.close().await.unwrap();
    assert!(before.position >= common + 5, "the leader alone takes writes");
    let running = up.serve().await;
    assert_eq!(status(&running).await.root, before.root, "it folded what will be lost");

    let name = topic.clone();
    blocking(move || {
        cluster.kill(1);
        cluster.restart(2);
        confold_test_brokers::until("broker 2 leads", || cluster.leader(&name) == Some(2));
    })
    .await;
    let new = Folder::on(cluster, &topic).await;
    let others = new.serve().await;
    commit(&others, 100..130).await;
    assert!(status(&others).await.position > before.position, "the new branch is longer");

    let fenced = until(&running, ReplicaState::Fenced).await;
    assert_eq!(fenced.root, before.root, "it folded something");
    let store = down.open().await.unwrap();
    let fenced = until(&store, ReplicaState::Fenced).await;
    assert_eq!(
        (fenced.position, &fenced.root, &fenced.chain),
        (before.position, &before.root, &before.chain),
        "it folded something"
    );
    let named = digests(&fenced.reason);
    assert!(
        fenced.reason.contains("truncated") && named.contains(&before.log_digest.as_str()) && named.len() >= 2,
        "both digests: {}",
        fenced.reason
    );
    let name = topic.clone();
    blocking(move || {
        cluster.restart(1);
        confold_test_brokers::until("both are in sync", || cluster.in_sync(&name).len() == 2);
    })
    .await;
    // The old leader gave its branch up for the new one.
    commit(&others, 130..132).await;
    tokio::time::timeout(PATIENCE, others.close()).await.expect("it closes").unwrap();
}
