//! The loop: crashes, faults, bounds of memory, waiting, shutting down.

use crate::world::*;
use confold_log::Log;
use confold_model::event::{Body, Checkpoint, LEVEL};
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Position, Revision};
use confold_replica::{Options, Proposal, ProposeError, Replica, ReplicaState, WaitError};
use confold_store::{Order, Store, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_dropped_at_any_time_goes_on_where_its_store_stands() {
    let world = World::begun();
    let mut expected = Vec::new();
    for round in 0..12u64 {
        let options = Options { batch_records: 1..=(round as usize % 4 + 1), ..world.options() };
        let handle = world.serving_with(options).await;
        for n in 0..round % 3 {
            expected.push(commit(&handle, put(&format!("d-{n}"), &round.to_string())).await);
        }
        // The last one may or may not be folded by then: it stands on the log either way.
        drop(handle.submit(Proposal::new(put("last", &round.to_string())), SOON).unwrap());
        handle.abandon();
    }
    let handle = world.serving().await;
    for settled in expected {
        let row = handle.store().unwrap().revision(settled.revision.unwrap()).unwrap().unwrap();
        assert_eq!((row.position, row.root), (settled.position, settled.root));
    }
    assert_eq!(description(&handle.view().tree, "last", &*handle.objects()).as_deref(), Some("11"));
    // Another replica, from nothing, in one go, says the same.
    let fresh = World { log: world.log.clone(), store: Arc::default(), clock: Arc::default() };
    let other = fresh.serving().await;
    assert_eq!((other.view().root, other.view().chain), (handle.view().root, handle.view().chain));
    assert_ne!(other.replica_id(), handle.replica_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_is_dropped_leaves_no_thread_behind_that_works_on_its_store() {
    for housekeeping in [confold_replica::Housekeeping::Background, confold_replica::Housekeeping::ByHand] {
        let world = World::begun();
        let handle = world.serving_with(Options { housekeeping, ..world.options() }).await;
        drop(handle.submit(Proposal::new(put("last", "1")), SOON).unwrap());
        let other = handle.clone();
        drop(handle);
        assert!(Arc::strong_count(&world.store) > 1, "another handle holds it");
        drop(other);
        assert_eq!(Arc::strong_count(&world.store), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_only_when_it_has_folded_what_stood_on_the_log_at_its_start() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    drop(handle);
    world.log.stall_from(Some(Position(1)));
    let fresh = World { log: world.log.clone(), store: Arc::default(), clock: Arc::default() };
    let handle = fresh.open();
    assert_eq!(handle.status().standing.state, ReplicaState::CatchingUp);
    assert_eq!(handle.status().lag, 2);
    let Err(error) = handle.submit(Proposal::new(put("b", "1")), SOON) else { panic!("it was taken") };
    assert!(matches!(error, ProposeError::Unavailable { state: ReplicaState::CatchingUp, .. }), "{error}");
    world.log.stall_from(None);
    serving(&handle).await;
    assert_eq!(handle.status().lag, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_for_a_while_is_tried_again_and_one_that_fails_for_good_halts() {
    for (failures, survives) in [(3, true), (1_000, false)] {
        let world = World::begun();
        let handle = world.serving().await;
        commit(&handle, puts(&[("a", "1"), ("b", "1")])).await;
        handle.shutdown(SOON).await.unwrap();
        // A new process has nothing loaded: the next event needs objects.
        let options = Options { object_retries: 5, ..world.options() };
        let handle = world.serving_with(options).await;
        world.store.faults.lock().reads = failures;
        let before = handle.view().position;
        let settled = handle.propose(Proposal::new(put("a", "2")), SOON).await;
        if survives {
            assert_eq!(settled.unwrap().outcome, Outcome::Accepted);
            assert_eq!(world.store.failed_reads.load(SeqCst), failures);
        } else {
            assert!(matches!(settled, Err(ProposeError::Unknown { .. })));
            let standing = stopped(&handle).await;
            assert_eq!(standing.state, ReplicaState::Halted);
            assert!(standing.reason.contains(&format!("position {}", before.next())), "{}", standing.reason);
            assert_eq!(world.store.head().unwrap().applied, before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_fold_halts_at_the_position_and_is_never_an_outcome() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    handle.shutdown(SOON).await.unwrap();
    let handle = world.serving().await;
    let before = handle.view().position;
    world.store.faults.lock().panic_on_read = true;
    let error = handle.propose(Proposal::new(put("a", "2")), SOON).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown { .. }), "{error}");
    let standing = stopped(&handle).await;
    assert_eq!(standing.state, ReplicaState::Halted);
    let at = format!("a bug while folding position {}: told to panic", before.next());
    assert!(standing.reason.starts_with(&at), "{}", standing.reason);
    assert_eq!(world.store.head().unwrap().applied, before);
    // A build without the bug folds it.
    handle.abandon();
    world.store.faults.lock().panic_on_read = false;
    let handle = world.serving().await;
    assert_eq!(handle.view().revision, Revision(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_space_degrades_and_it_serves_again_by_itself() {
    let world = World::begun();
    let ill = Arc::new(parking_lot::Mutex::new(false));
    let log = Arc::new(Unwell { inner: world.log.clone(), ill: ill.clone() });
    let handle = Replica::open(log, world.store.clone(), world.options()).unwrap();
    serving(&handle).await;
    commit(&handle, schema()).await;
    commit(&handle, put("a", "1")).await;
    *ill.lock() = true;
    let Err(error) = handle.submit(Proposal::new(put("a", "2")), SOON) else { panic!("it was taken") };
    assert!(matches!(error, ProposeError::DiskFull { .. }), "{error}");
    assert_eq!(handle.status().standing.state, ReplicaState::Degraded);
    let Err(error) = handle.submit(Proposal::new(put("a", "2")), SOON) else { panic!("it was taken") };
    assert!(matches!(error, ProposeError::DiskFull { .. }), "it asks the log no more, and says the same: {error}");
    assert_eq!(description(&handle.view().tree, "a", &*handle.objects()).as_deref(), Some("1"), "reads go on");
    *ill.lock() = false;
    let again = async {
        while handle.status().standing.state != ReplicaState::Serving {
            handle.keep_house();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, again).await.unwrap();
    assert_eq!(commit(&handle, put("a", "2")).await.revision, Some(Revision(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_waited_for_and_takes_the_same_batch_when_there_is_space() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    written(&handle);
    world.store.faults.lock().commit = Some(StoreError::Full { what: "told to be full".to_owned() });
    let folded = commit(&handle, put("a", "2")).await;
    let mut standing = handle.standing();
    let degraded = standing.wait_for(|now| now.state == ReplicaState::Degraded);
    let reason = tokio::time::timeout(SOON, degraded).await.unwrap().unwrap().reason.clone();
    assert!(reason.contains("told to be full"), "{reason}");
    assert_eq!(description(&handle.view().tree, "a", &*handle.objects()).as_deref(), Some("2"), "reads go on");
    let rows = tokio::task::block_in_place(|| handle.store().err().unwrap());
    assert!(matches!(rows, StoreError::Full { .. }), "{rows}");
    assert!(handle.past(Revision(1)).is_ok(), "reads of what the store has go on");
    let refused = handle.propose(Proposal::new(put("a", "3")), SOON).await.unwrap_err();
    assert!(matches!(refused, ProposeError::DiskFull { .. }), "{refused}");
    world.store.faults.lock().commit = None;
    serving(&handle).await;
    let row = tokio::task::block_in_place(|| handle.store().unwrap().revision(Revision(2)).unwrap().unwrap());
    assert_eq!(row.root, folded.root);
    assert_eq!(commit(&handle, put("a", "3")).await.revision, Some(Revision(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_batch_is_written_halts_and_nobody_waits_for_its_rows_for_ever() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    written(&handle);
    world.store.faults.lock().panic_on_commit = true;
    let folded = commit(&handle, put("a", "2")).await;
    let rows = tokio::task::block_in_place(|| handle.store().err().unwrap());
    assert!(rows.to_string().contains("the replica has stopped"), "{rows}");
    let standing = stopped(&handle).await;
    assert_eq!(standing.state, ReplicaState::Halted);
    assert!(standing.reason.contains("told to panic"), "{}", standing.reason);
    handle.abandon();
    world.store.faults.lock().panic_on_commit = false;
    let handle = world.serving().await;
    assert_eq!((handle.view().revision, handle.view().root), (Revision(2), folded.root));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_reader_meets_stops_the_replica() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    let rows = || handle.store().unwrap().revisions(Revision(0)..=Revision(9), Order::Ascending, 9);
    assert_eq!(rows().unwrap().len(), 1);
    world.store.faults.lock().rows = Some(StoreError::damaged("told to rot"));
    assert!(rows().unwrap_err().is_damage());
    let standing = stopped(&handle).await;
    assert_eq!(standing.state, ReplicaState::Quarantined);
    assert!(standing.reason.contains("told to rot"), "{}", standing.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_position_ends_with_it_or_late_or_when_the_replica_stops() {
    let world = World::begun();
    let handle = world.serving().await;
    let next = handle.view().position.next();
    let late = handle.at_least(next, Duration::from_millis(20)).await;
    assert!(matches!(late, Err(WaitError::Late { wanted, .. }) if wanted == next));
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.at_least(next, SOON).await }
    });
    let settled = commit(&handle, put("a", "1")).await;
    assert_eq!(waiting.await.unwrap().unwrap().root, settled.root);
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.at_least(Position(1_000), SOON).await }
    });
    handle.shutdown(SOON).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(WaitError::Stopped { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_shows_everything_acknowledged_to_anybody_before_it() {
    for by_append in [false, true] {
        let world = World::begun();
        world.log.fence_by_append(by_append);
        let other = World { log: world.log.clone(), store: Arc::default(), clock: Arc::default() };
        let (writer, reader) = (world.serving().await, other.serving().await);
        for n in 0..20 {
            let settled = commit(&writer, put("a", &n.to_string())).await;
            let view = reader.fence(SOON).await.unwrap();
            assert!(view.position >= settled.position);
            assert_eq!(view.root, settled.root);
        }
        // Many readers at once share few events.
        let before = world.log.range().end.0;
        let all = (0..200).map(|_| reader.fence(SOON));
        assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
        assert!(world.log.range().end.0 - before <= 20, "{} events", world.log.range().end.0 - before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_whose_event_is_lost_is_appended_again() {
    let world = World::begun();
    world.log.fence_by_append(true);
    let handle = world.serving().await;
    world.log.fail_next([confold_log::memory::AppendFault::Swallow]);
    handle.fence(SOON).await.unwrap();
    world.log.deliver_by_hand(true);
    let error = handle.fence(Duration::from_millis(30)).await;
    assert!(matches!(error, Err(WaitError::NoFence { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_while_the_log_goes_on_is_replaced() {
    let world = World::begun();
    let handle = world.serving_with(Options { stall: Duration::from_millis(20), ..world.options() }).await;
    let end = world.log.range().end;
    world.log.stall_from(Some(end));
    let waiting = handle.submit(Proposal::new(put("a", "1")), SOON).unwrap();
    let replaced = async {
        while handle.status().counts.0["new_readers"] < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, replaced).await.expect("it reads anew");
    world.log.stall_from(None);
    assert_eq!(waiting.settled().await.unwrap().position, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_this_build_does_not_know_halts_it_behind_the_activation() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    let (incarnation, mark) = (handle.view().incarnation, handle.view().mark.unwrap());
    let newer = Checkpoint {
        replica: [9; 16],
        build: "9.0.0".into(),
        level: LEVEL + 1,
        position: mark.position,
        chain: mark.chain,
        state: mark.state,
        durable: mark.position,
    };
    world.log.deliver_by_hand(true);
    world.log.append(record(incarnation, None, Body::Checkpoint(newer))).unwrap();
    let id = |number| Some(EventId { seen: Position(0), nonce: nonce(number) });
    world.log.append(record(incarnation, id(1), Body::Activation { level: LEVEL + 1 })).unwrap();
    world.log.append(record(incarnation, id(2), put("a", "beyond"))).unwrap();
    let activation = Position(world.log.range().end.0 + 1);
    world.log.deliver_by_hand(false);
    let standing = stopped(&handle).await;
    assert_eq!(standing.state, ReplicaState::Halted);
    assert!(standing.reason.contains(&format!("level {} became active at position {activation}", LEVEL + 1)));
    assert_eq!(world.store.head().unwrap().applied, activation);
    assert_eq!(description(&handle.view().tree, "a", &*handle.objects()).as_deref(), Some("1"));
    // A restart of the same build does not go beyond it either.
    handle.abandon();
    let handle = world.open();
    assert_eq!(stopped(&handle).await.state, ReplicaState::Halted);
    assert_eq!(world.store.head().unwrap().applied, activation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_bound_on_the_tree_changes_no_root_and_no_answer() {
    let world = World::begun();
    let options = Options { tree_cache_bytes: 20_000, object_cache_bytes: 4_000, ..world.options() };
    let handle = world.serving_with(options).await;
    let text = "x".repeat(90);
    let mut waiting = Vec::new();
    for n in 0..1_500u64 {
        let body = put(&format!("d-{}", n * 7 % 400), &format!("{n} {text}"));
        waiting.push(handle.submit(Proposal::new(body), SOON).unwrap());
    }
    for submission in waiting {
        assert_eq!(submission.settled().await.unwrap().outcome, Outcome::Accepted);
    }
    // The loop sheds behind the answers.
    let small = async {
        while handle.view().tree.memory() > 20_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, small).await.expect("the tree shrinks to its bound");
    assert!(handle.status().counts.0["tree_sheds"] > 0);
    let roomy = World { log: world.log.clone(), store: Arc::default(), clock: Arc::default() };
    let other = roomy.serving().await;
    assert_eq!(other.view().chain, handle.view().chain);
    let (ours, theirs) = (handle.view(), other.view());
    assert_eq!(devices(&ours.tree, &*handle.objects()), devices(&theirs.tree, &*other.objects()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_settles_what_is_under_way_and_leaves_a_durable_store() {
    let world = World::begun();
    let handle = world.serving().await;
    let waiting: Vec<_> =
        (0..300).map(|n| handle.submit(Proposal::new(put("a", &n.to_string())), SOON).unwrap()).collect();
    let last = tokio::spawn(async move {
        let mut last = None;
        for submission in waiting {
            last = Some(submission.settled().await.unwrap());
        }
        last.unwrap()
    });
    handle.shutdown(SOON).await.unwrap();
    let last = last.await.unwrap();
    assert_eq!(world.store.durable(), Some(last.position));
    let Err(error) = handle.submit(Proposal::new(put("a", "x")), SOON) else { panic!("it was taken") };
    assert!(matches!(error, ProposeError::Unavailable { state: ReplicaState::Stopped, .. }), "{error}");
    handle.shutdown(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_ever_for_a_log_that_does_not_answer() {
    let world = World::begun();
    let handle = world.serving().await;
    world.log.deliver_by_hand(true);
    let waiting = handle.submit(Proposal::new(put("a", "1")), SOON).unwrap();
    handle.shutdown(Duration::from_millis(20)).await.unwrap();
    assert!(matches!(waiting.settled().await, Err(ProposeError::Unknown { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_follow_how_far_the_log_is_ahead_and_never_cross_a_mark() {
    let world = World::begun();
    let handle = world.serving().await;
    let incarnation = handle.view().incarnation;
    handle.shutdown(SOON).await.unwrap();
    for n in 0..9_000u64 {
        let id = EventId { seen: Position(n), nonce: nonce(n) };
        world.log.append(record(incarnation, Some(id), put(&format!("d-{}", n % 100), &n.to_string()))).unwrap();
    }
    let fresh = World { log: world.log.clone(), store: Arc::default(), clock: Arc::default() };
    let handle = fresh.serving().await;
    let view = handle.view();
    let trees = handle.store().unwrap().persisted(Revision(0)..=view.revision, Order::Ascending, usize::MAX).unwrap();
    let marks: Vec<u64> = trees.iter().filter(|tree| tree.mark).map(|tree| tree.position.0).collect();
    assert_eq!(marks, [4096, 8192]);
    assert!(trees.len() < 40, "{} batches for 9,000 events", trees.len());
    // Record by record it is the same store.
    let slow = World { log: world.log.clone(), store: Arc::default(), clock: Arc::default() };
    let other = slow.serving_with(Options { batch_records: 1..=1, ..slow.options() }).await;
    assert_eq!(other.view().chain, view.chain);
    assert_eq!(other.view().mark, view.mark, "the same state hash at the same mark");
}
