//! Marks and checkpoints, and what they show.

use crate::world::*;
use confold_log::Log;
use confold_model::event::{Body, Checkpoint, LEVEL};
use confold_model::ids::Hash;
use confold_replica::{Handle, Housekeeping, Options};
use confold_store::Store;
use std::sync::Arc;
use std::time::Duration;

async fn keep_house(handle: &Handle) {
    handle.keep_house();
    handle.fence(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_after_the_first_change_comes_a_mark_and_after_it_a_durable_checkpoint() {
    let world = World::begun();
    let handle = world.serving().await;
    // Genesis is a mark by its position; it is announced at once.
    keep_house(&handle).await;
    assert_eq!(handle.view().checkpoints[0].checkpoint.position.0, 0);
    world.set_time(1_000);
    commit(&handle, put("a", "1")).await;
    world.set_time(30_000);
    let end = world.log.range().end;
    keep_house(&handle).await;
    assert_eq!(world.log.range().end, end, "it is too early");
    world.set_time(62_000);
    keep_house(&handle).await;
    let view = handle.view();
    assert_eq!(view.last_mark, end, "the mark is the next event");
    assert_eq!(view.checkpoints[0].checkpoint.position.0, 0);
    keep_house(&handle).await;
    let view = handle.view();
    let [row] = &view.checkpoints[..] else { panic!("one replica has spoken") };
    assert_eq!(row.checkpoint.replica, handle.replica_id());
    assert_eq!((row.checkpoint.position, Some(row.checkpoint.state)), (end, view.mark.map(|mark| mark.state)));
    assert!(row.checkpoint.durable >= end);
    assert!(world.store.durable().unwrap() >= end);
    // Housekeeping alone brings no further mark.
    for n in 2..10 {
        world.set_time(n * 100_000);
        keep_house(&handle).await;
    }
    assert_eq!(handle.view().last_mark, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_agree_raise_no_alarm_and_a_differing_announcement_does() {
    let world = World::begun();
    let other = World { log: world.log.clone(), store: Arc::default(), clock: world.clock.clone() };
    let (one, two) = (world.serving().await, other.serving().await);
    commit(&one, put("a", "1")).await;
    two.fence(SOON).await.unwrap();
    for n in 1..6 {
        world.set_time(n * 100_000);
        for handle in [&one, &two] {
            keep_house(handle).await;
        }
    }
    for handle in [&one, &two] {
        handle.fence(SOON).await.unwrap();
        assert_eq!(handle.view().checkpoints.len(), 2);
        assert_eq!(handle.status().counts.0["disagreements"], 0);
    }
    let mark = one.view().mark.unwrap();
    let forged = Checkpoint {
        replica: [9; 16],
        build: "0.0.0".into(),
        level: LEVEL,
        position: mark.position,
        chain: mark.chain,
        state: Hash::of(b"other"),
        durable: mark.position,
    };
    world.log.append(record(one.view().incarnation, None, Body::Checkpoint(forged))).unwrap();
    for handle in [&one, &two] {
        handle.fence(SOON).await.unwrap();
        assert_eq!(handle.status().counts.0["disagreements"], 1);
        assert!(!handle.status().standing.state.is_final(), "one bad announcement never stops the good ones");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_marks_survive_a_restart_so_that_late_announcements_can_be_compared() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    for n in 1..4 {
        world.set_time(n * 100_000);
        keep_house(&handle).await;
    }
    let mark = handle.view().mark.unwrap();
    let replica = handle.replica_id();
    handle.shutdown(SOON).await.unwrap();
    let handle = world.serving().await;
    assert_eq!((handle.view().mark, handle.replica_id()), (Some(mark), replica));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_background_it_all_happens_by_itself() {
    let world = World::begun();
    let options = Options { housekeeping: Housekeeping::Background, mark_every_ms: 0, ..world.options() };
    let handle = world.serving_with(options).await;
    commit(&handle, put("a", "1")).await;
    let mut views = handle.views();
    let spoken = views.wait_for(|view| !view.checkpoints.is_empty());
    tokio::time::timeout(Duration::from_secs(30), spoken).await.expect("a checkpoint comes").unwrap();
    handle.shutdown(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_floor_is_swept_in_the_background() {
    let world = World::begun();
    let options = Options { housekeeping: Housekeeping::Background, ..world.options() };
    let handle = world.serving_with(options).await;
    for n in 0..20 {
        commit(&handle, put("a", &n.to_string())).await;
    }
    commit(&handle, Body::Prune { floor: Some(confold_model::ids::Revision(15)) }).await;
    let swept = async {
        while handle.status().counts.0["swept_objects"] == 0 {
            tokio::task::yield_now().await;
        }
    };
    let swept = tokio::time::timeout(SOON, swept).await;
    assert!(swept.is_ok(), "{:?} {:?}", handle.status().standing, handle.status().counts);
    handle.shutdown(SOON).await.unwrap();
}
