//! The log must be the one that was folded: anything else stops the replica before it shows any of it.

use crate::world::*;
use confold_log::Log;
use confold_log::memory::MemoryLog;
use confold_model::ids::{Hash, Incarnation, Position, Revision};
use confold_replica::{Begin, OpenError, PastError, ProposeError, Proposal, Replica, ReplicaState, begin};
use confold_store::Store;
use std::sync::Arc;

/// A store with some revisions, stopped in order.
async fn stopped_world() -> World {
    let world = World::begun();
    let handle = world.serving().await;
    for n in 0..5 {
        commit(&handle, put("a", &n.to_string())).await;
    }
    handle.shutdown(SOON).await.unwrap();
    world
}

async fn fenced(world: &World) -> String {
    let handle = world.open();
    let standing = stopped(&handle).await;
    assert_eq!(standing.state, ReplicaState::Fenced, "{}", standing.reason);
    let view = handle.view();
    assert_eq!(view.revision, Revision(5), "what was folded stays readable");
    assert_eq!(description(&view.tree, "a", &*handle.objects()).as_deref(), Some("4"));
    let Err(error) = handle.submit(Proposal::new(put("b", "1")), SOON) else { panic!("it was taken") };
    assert!(matches!(error, ProposeError::Unavailable { state: ReplicaState::Fenced, .. }), "{error}");
    assert!(!handle.status().hint().is_empty());
    standing.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_is_fenced() {
    let world = stopped_world().await;
    let applied = world.store.head().unwrap().applied;
    world.log.cut(applied);
    let reason = fenced(&world).await;
    assert!(reason.contains("lost records"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_cut_and_grown_again_past_our_position_is_fenced() {
    let world = stopped_world().await;
    let applied = world.store.head().unwrap().applied;
    world.log.cut(applied);
    for n in 0..3 {
        world.log.append(record(Incarnation::default(), None, put("x", &n.to_string()))).unwrap();
    }
    let reason = fenced(&world).await;
    let head = world.store.head().unwrap();
    let found = world.log.records()[applied.0 as usize].digest;
    assert!(reason.contains(&head.digest.to_string()) && reason.contains(&found.to_string()), "both digests: {reason}");
    assert!(reason.contains("truncated") && reason.contains("rebuild"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_made_anew_is_fenced_whatever_it_holds() {
    let world = stopped_world().await;
    world.log.recreate([8; 16]);
    begin(&world.log, "network", &Begin::default()).unwrap();
    let reason = fenced(&world).await;
    assert!(reason.contains("0808") && reason.contains("0707"), "both ids: {reason}");
    assert!(reason.contains("made anew") && reason.contains("restore"), "{reason}");
    let head = world.store.head().unwrap();
    assert!(reason.contains(&head.digest.to_string()), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_store_and_a_copy_of_this_one_are_told_apart() {
    let world = stopped_world().await;
    let records = world.log.records();
    world.log.recreate([8; 16]);
    begin(&world.log, "another", &Begin::default()).unwrap();
    let reason = fenced(&world).await;
    assert!(reason.contains("foreign") && reason.contains("\"another\"") && reason.contains("\"network\""), "{reason}");
    world.log.recreate([9; 16]);
    for record in &records {
        world.log.append(record.bytes.clone()).unwrap();
    }
    let reason = fenced(&world).await;
    assert!(reason.contains("is a copy") && reason.contains("0909"), "{reason}");
    let digest = records.last().unwrap().digest.to_string();
    assert_eq!(reason.matches(&digest).count(), 2, "both digests, which are the same here: {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_missing_in_the_middle_are_a_gap() {
    let world = stopped_world().await;
    let mut folder = confold_replica::step::Folder::restore(&*world.store, [1; 16]).unwrap();
    let (tip, digest) = (folder.tip(), folder.state().digest());
    world.log.append(record(Incarnation::default(), None, put("x", "1"))).unwrap();
    world.log.append(record(Incarnation::default(), None, put("x", "2"))).unwrap();
    let behind = world.log.records().pop().unwrap();
    let Err(error) = folder.fold(&behind, &*world.store) else { panic!("it was folded") };
    let reason = error.to_string();
    assert!(reason.contains("gap") && reason.contains(&digest.to_string()), "{reason}");
    assert!(reason.contains(&tip.position.to_string()) && reason.contains("--until"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_while_running_is_fenced_before_a_record_of_the_new_branch_is_shown() {
    for grow in [false, true] {
        // A log that stores no digests must notice by itself that it was cut, as it computes them on.
        let world = World::with_digests(&Begin::default());
        let handle = world.serving().await;
        commit(&handle, put("a", "1")).await;
        let (before, incarnation) = (handle.view(), handle.view().incarnation);
        world.log.stall_from(Some(before.position.next()));
        world.log.cut(Position(2));
        if grow {
            for n in 0..5 {
                world.log.append(record(incarnation, None, put("x", &n.to_string()))).unwrap();
            }
        }
        world.log.stall_from(None);
        let standing = stopped(&handle).await;
        assert_eq!(standing.state, ReplicaState::Fenced, "{}", standing.reason);
        assert_eq!(handle.view().digest, before.digest);
        assert_eq!(world.store.head().unwrap().digest, before.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_below_the_start_of_the_log_needs_a_snapshot() {
    let world = stopped_world().await;
    let applied = world.store.head().unwrap().applied;
    let log = world.log.clone();
    for n in 0..4 {
        log.append(record(Incarnation::default(), None, put("x", &n.to_string()))).unwrap();
    }
    log.trim(Position(applied.0 + 2));
    let handle = world.open();
    assert_eq!(stopped(&handle).await.state, ReplicaState::SnapshotNeeded);
    let empty = Arc::new(confold_store::memory::MemoryStore::new());
    let opened = Replica::open(Arc::new(log), empty, world.options());
    assert!(matches!(opened, Err(OpenError::SnapshotNeeded { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_trimmed_exactly_up_to_our_position_goes_on() {
    let world = stopped_world().await;
    let applied = world.store.head().unwrap().applied;
    world.log.trim(applied.next());
    let handle = world.serving().await;
    assert_eq!(commit(&handle, put("a", "new")).await.revision, Some(Revision(6)));
    // What would have to be read from the log is not there any more, and is not made up.
    let view = handle.view();
    assert!(view.is_kept(Revision(3)));
    world.store.inner.forget_persisted(&[1, 2, 3].map(Revision)).unwrap();
    assert!(matches!(handle.past(Revision(3)), Err(PastError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_and_a_log_of_something_else_are_not_opened() {
    let store = Arc::new(confold_store::memory::MemoryStore::new());
    let world = World::begun();
    let log = MemoryLog::new([1; 16]);
    let opened = Replica::open(Arc::new(log.clone()), store.clone(), world.options());
    assert!(matches!(opened, Err(OpenError::Empty)));
    log.append(bytes::Bytes::from_static(b"a letter")).unwrap();
    let opened = Replica::open(Arc::new(log.clone()), store.clone(), world.options());
    assert!(matches!(opened, Err(OpenError::NoStore(_))));
    assert!(!begin(&log, "network", &Begin::default()).unwrap(), "it is not empty");
    // A copy of the log's records under another identity.
    let copy = MemoryLog::new([2; 16]);
    for record in world.log.records() {
        copy.append(record.bytes).unwrap();
    }
    let opened = Replica::open(Arc::new(copy), store.clone(), world.options());
    assert!(matches!(opened, Err(OpenError::NoStore(what)) if what.contains("0707")));
    assert_eq!(store.head(), None, "nothing of it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_no_store_can_have_are_refused_before_they_stand_on_the_log() {
    let log = MemoryLog::new([1; 16]);
    let error = begin(&log, "network", &Begin { window: 0, ..Begin::default() }).unwrap_err();
    assert!(error.to_string().contains("window"), "{error}");
    assert_eq!(log.range().end, Position(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_state_does_not_fit_its_head_is_not_opened() {
    let world = stopped_world().await;
    let mut head = world.store.head().unwrap();
    head.applied = head.applied.next();
    head.digest = Hash::of(b"other");
    world.store.inner.commit(&confold_store::Batch::at(head)).unwrap();
    let opened = Replica::open(Arc::new(world.log.clone()), world.store.clone(), world.options());
    assert!(matches!(opened, Err(OpenError::Store(error)) if error.is_damage()));
}
