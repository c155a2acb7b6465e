//! Past revisions: kept, re-made, refused, swept.

use crate::world::*;
use confold_log::Log;
use confold_model::event::{Body, RetentionPolicy};
use confold_model::fold::Outcome;
use confold_model::ids::Revision;
use confold_model::objects::references;
use confold_replica::{Handle, Options, PastError, Proposal, Thinning, View};
use confold_store::Order;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

type Contents = BTreeMap<Revision, (confold_model::ids::Hash, Vec<(String, String)>)>;

/// Some revisions, and what each of them holds.
async fn with_history(handle: &Handle, count: u64) -> Contents {
    let mut all = BTreeMap::new();
    for n in 0..count {
        let body = if n % 5 == 4 { remove(&format!("d-{}", n % 3)) } else { put(&format!("d-{}", n % 7), &n.to_string()) };
        let settled = commit(handle, body).await;
        // Each revision ends a batch, and so has a tree of its own in the store.
        written(handle);
        if let Some(revision) = settled.revision {
            let view = handle.view();
            assert_eq!(view.root, settled.root);
            all.insert(revision, (settled.root, devices(&view.tree, &*handle.objects())));
        }
        // Refused and unchanged events in between make no revision and no difference.
        commit(handle, remove("nobody")).await;
    }
    all
}

fn check(handle: &Handle, revision: Revision, expected: &Contents) {
    let past = handle.past(revision).unwrap();
    let (root, contents) = &expected[&revision];
    assert_eq!((past.revision, past.root, past.tree.root()), (revision, *root, *root));
    assert_eq!(&devices(&past.tree, &*handle.objects()), contents);
}

/// Forgets every persisted tree but the latest, so that all of the past has to be re-made.
fn forget_all(handle: &Handle) {
    forget_all_but(handle, &[]);
}

fn forget_all_but(handle: &Handle, kept: &[u64]) {
    let latest = handle.view().revision;
    let gone: Vec<Revision> = (1..latest.0).filter(|revision| !kept.contains(revision)).map(Revision).collect();
    handle.store().unwrap().forget_persisted(&gone).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revision_can_be_read_whether_kept_or_re_made() {
    let world = World::begun();
    let handle = world.serving_with(Options { past_trees: 3, ..world.options() }).await;
    let expected = with_history(&handle, 60).await;
    for revision in expected.keys() {
        check(&handle, *revision, &expected);
    }
    assert_eq!(handle.status().counts.0["past_trees_remade"], 0);
    handle.shutdown(SOON).await.unwrap();
    let handle = world.serving_with(Options { past_trees: 3, ..world.options() }).await;
    forget_all_but(&handle, &[10]);
    for revision in expected.keys().rev().chain(expected.keys()) {
        check(&handle, *revision, &expected);
    }
    assert!(handle.status().counts.0["past_trees_remade"] > 0);
    assert_eq!(handle.status().counts.0["open_views"], 3, "what the cache holds, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn revision_0_is_the_empty_tree_and_beyond_the_latest_is_the_future() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    assert!(devices(&handle.past(Revision(0)).unwrap().tree, &*handle.objects()).is_empty());
    let Err(error) = handle.past(Revision(2)) else { panic!("nothing is there") };
    assert_eq!(error, PastError::Future { revision: Revision(2), latest: Revision(1) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_made_tree_that_differs_is_an_error_and_never_an_answer() {
    let world = World::begun();
    let handle = world.serving().await;
    with_history(&handle, 10).await;
    let mut row = handle.store().unwrap().revision(Revision(4)).unwrap().unwrap();
    forget_all(&handle);
    row.root = confold_model::ids::Hash::of(b"other");
    world.store.faults.lock().row = Some(row);
    assert!(matches!(handle.past(Revision(4)), Err(PastError::Differs { revision: Revision(4), .. })));
    assert_eq!(stopped(&handle).await.state, confold_replica::ReplicaState::Quarantined);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_revision_is_re_made_with_the_schema_of_its_time() {
    let world = World::begun();
    let handle = world.serving().await;
    let expected = with_history(&handle, 6).await;
    let first = handle.past(Revision(2)).unwrap().schema.clone().unwrap();
    let mut wider = network().to_vec();
    // A second file beside the first: more messages, all of the old ones as they were.
    wider.extend([0x0a, 0x0d, 0x0a, 0x03]);
    wider.extend(b"b.p");
    wider.extend([0x62, 0x06]);
    wider.extend(b"proto3");
    let pushed = commit(&handle, Body::Schema { descriptor_set: wider.into(), root_message: "".into() }).await;
    assert_eq!(pushed.outcome, Outcome::Accepted);
    commit(&handle, put("new", "1")).await;
    forget_all(&handle);
    check(&handle, Revision(3), &expected);
    let then = handle.past(Revision(3)).unwrap().schema.clone().unwrap();
    let now = handle.view().schema.clone().unwrap();
    assert!(!Arc::ptr_eq(&then, &now));
    assert_eq!(then.types().count(), first.types().count());
}

/// What no kept revision reaches must be gone, and what one reaches must be there.
fn check_objects(handle: &Handle, keep: impl IntoIterator<Item = confold_model::ids::Hash>) {
    let store = handle.store().unwrap();
    let mut reached = BTreeSet::new();
    let mut pending: Vec<_> = keep.into_iter().collect();
    while let Some(hash) = pending.pop() {
        if reached.insert(hash) {
            pending.extend(references(&store.object(&hash).unwrap()).unwrap());
        }
    }
    let found: BTreeSet<_> = store.object_sizes(&confold_model::ids::Hash::ZERO, usize::MAX).unwrap().into_iter().map(|(hash, _)| hash).collect();
    assert_eq!(found, reached);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_floor_lets_go_of_exactly_what_nobody_can_name() {
    let world = World::begun();
    let handle = world.serving().await;
    let expected = with_history(&handle, 40).await;
    commit(&handle, tag("old", Revision(5))).await;
    commit(&handle, tag("older", Revision(3))).await;
    let latest = handle.view().revision;
    let floor = Revision(latest.0 - 6);
    assert_eq!(commit(&handle, Body::Prune { floor: Some(floor) }).await.outcome, Outcome::Accepted);
    handle.shutdown(SOON).await.unwrap();
    // A tagged revision need not be whole in the store yet: the sweep sees to it first.
    let handle = world.serving().await;
    handle.store().unwrap().forget_persisted(&[3, 4, 5, 6].map(Revision)).unwrap();
    let swept = handle.sweep().unwrap();
    assert_eq!(swept.tagged_persisted, 2);
    assert!(swept.report.deleted > 0);
    let kept: Vec<Revision> = (floor.0..=latest.0).chain([3, 5]).map(Revision).collect();
    check_objects(&handle, kept.iter().map(|revision| expected[revision].0));
    for revision in expected.keys() {
        match handle.past(*revision) {
            Ok(_) => {
                assert!(*revision > floor || [3, 5].contains(&revision.0), "{revision} is pruned");
                check(&handle, *revision, &expected);
            }
            Err(PastError::Pruned { revision, floor: named, nearest }) => {
                assert!(revision <= floor && named == floor);
                let kept = [3, 5, floor.0 + 1];
                let distance = |kept: &u64| kept.abs_diff(revision.0);
                assert_eq!(distance(&nearest.0), kept.iter().map(distance).min().unwrap(), "{revision}: {nearest}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    // What is gone is gone for tags too, and untagging lets go.
    let refused = commit(&handle, tag("late", Revision(4))).await;
    assert!(matches!(refused.outcome, Outcome::Rejected(_)));
    commit(&handle, Body::Untag { names: vec!["old".into(), "older".into()] }).await;
    handle.sweep().unwrap();
    check_objects(&handle, (floor.0..=latest.0).map(|revision| expected[&Revision(revision)].0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_holds_stays_readable_through_a_sweep() {
    let world = World::begun();
    let handle = world.serving().await;
    let expected = with_history(&handle, 30).await;
    handle.shutdown(SOON).await.unwrap();
    let handle = world.serving().await;
    // Held and not yet loaded: an old latest view, a kept past tree, and one re-made on top of a kept one.
    let held_view = handle.view();
    let held_revision = held_view.revision;
    handle.store().unwrap().forget_persisted(&[Revision(9)]).unwrap();
    let (kept, remade) = (handle.past(Revision(5)).unwrap(), handle.past(Revision(9)).unwrap());
    for n in 0..10 {
        commit(&handle, put("x", &n.to_string())).await;
    }
    let latest = handle.view().revision;
    commit(&handle, Body::Prune { floor: Some(Revision(latest.0 - 1)) }).await;
    assert!(handle.sweep().unwrap().report.deleted > 0);
    assert!(matches!(handle.past(Revision(5)), Err(PastError::Pruned { .. })), "nobody new gets it");
    assert_eq!(devices(&held_view.tree, &*handle.objects()), expected[&held_revision].1);
    assert_eq!(devices(&kept.tree, &*handle.objects()), expected[&Revision(5)].1);
    assert_eq!(devices(&remade.tree, &*handle.objects()), expected[&Revision(9)].1);
    drop((held_view, kept, remade));
    handle.sweep().unwrap();
    let nearest = handle.store().unwrap().persisted_at_or_below(Revision(latest.0 - 1)).unwrap().unwrap();
    check_objects(&handle, [nearest.root, handle.view().root]);
    assert_eq!(handle.status().counts.0["open_views"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thinned_out_trees_are_re_made_from_those_that_stay() {
    let world = World::begun();
    let thinning = Thinning { all: 10, marks: 40, one_in: 50 };
    let handle = world.serving_with(Options { thinning, past_trees: 1, ..world.options() }).await;
    let expected = with_history(&handle, 80).await;
    let before = handle.store().unwrap().persisted(Revision(0)..=Revision(999), Order::Ascending, usize::MAX).unwrap().len();
    assert!(handle.sweep().unwrap().report.trees_forgotten > 0);
    let after = handle.store().unwrap().persisted(Revision(0)..=Revision(999), Order::Ascending, usize::MAX).unwrap().len();
    assert!(after < before / 4, "{after} of {before}");
    for revision in expected.keys() {
        check(&handle, *revision, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_beside_writers_and_readers_lose_nothing() {
    let world = World::begun();
    let thinning = Thinning { all: 5, marks: 20, one_in: 50 };
    let options = Options { thinning, sweep_step: 3, past_trees: 2, object_cache_bytes: 2_000, ..world.options() };
    let handle = world.serving_with(options).await;
    let sweeper = std::thread::spawn({
        let handle = handle.clone();
        move || {
            let mut deleted = 0;
            while !handle.status().standing.state.is_final() {
                deleted += handle.sweep().unwrap().report.deleted;
            }
            deleted
        }
    });
    let mut expected = Contents::new();
    // Until the two have really met.
    let met = || handle.status().counts.0["swept_objects"] > 0;
    for round in (0..10_000u64).take_while(|round| *round < 60 || !met()) {
        let settled = commit(&handle, put(&format!("d-{}", round % 9), &round.to_string())).await;
        let view = handle.view();
        expected.insert(settled.revision.unwrap(), (view.root, devices(&view.tree, &*handle.objects())));
        let latest = settled.revision.unwrap();
        if round % 10 == 9 {
            commit(&handle, Body::Prune { floor: Some(Revision(latest.0 - 8)) }).await;
        }
        let back = Revision(latest.0 - (round % 8).min(latest.0 - 1));
        if handle.view().is_kept(back) {
            check(&handle, back, &expected);
        }
    }
    handle.shutdown(SOON).await.unwrap();
    assert!(sweeper.join().unwrap() > 0);
    let handle = world.serving().await;
    assert_eq!(devices(&handle.view().tree, &*handle.objects()), expected.last_key_value().unwrap().1.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_an_open_batch_stay_readable_while_all_before_and_behind_them_is_swept() {
    let world = World::begun();
    let thinning = Thinning { all: 1, marks: 1, one_in: 1_000_000 };
    // Nothing stays loaded and little is kept beside it: what a view needs comes from the store.
    let options = Options { thinning, tree_cache_bytes: 1, object_cache_bytes: 2_000, ..world.options() };
    let handle = world.serving_with(options).await;
    let mut model = BTreeMap::new();
    let mut expected = BTreeMap::new();
    let mut put_one = |number: u64| {
        let id = format!("d-{}", number * 7919 % 200);
        model.insert(id.clone(), number.to_string());
        expected.insert(Revision(number), model.clone());
        handle.submit(Proposal::new(put(&id, &number.to_string())), SOON).unwrap()
    };
    let mut held: VecDeque<Arc<View>> = VecDeque::new();
    let mut looked = Vec::new();
    let counts = || handle.status().counts.0;
    let mut revision = 0;
    while revision < 1_000 || counts()["swept_objects"] == 0 {
        let submitted: Vec<_> = (0..10).map(|n| put_one(revision + 1 + n)).collect();
        revision += 10;
        for submission in submitted {
            submission.settled().await.unwrap();
            held.push_back(handle.view());
        }
        if revision % 100 == 0 {
            commit(&handle, Body::Prune { floor: Some(Revision(revision - 1)) }).await;
            handle.sweep().unwrap();
            handle.sweep().unwrap();
            // Far older than the floor by now.
            while held.len() > 50 {
                let view = held.pop_front().unwrap();
                looked.push((view.revision, devices(&view.tree, &*handle.objects())));
            }
        }
    }
    assert!(counts()["batches"] < revision, "no two revisions shared a batch");
    assert!(looked.len() > 900);
    for (revision, found) in looked {
        let wanted: Vec<(String, String)> = expected[&revision].clone().into_iter().collect();
        assert_eq!(found, wanted, "revision {revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_policy_prunes_by_itself_and_the_same_everywhere() {
    let world = World::begun();
    let handle = world.serving().await;
    let policy = RetentionPolicy { keep_revisions: 4, keep_age_ms: 1_000, keep_all: false };
    commit(&handle, Body::Retention(policy)).await;
    for n in 0..20i64 {
        world.set_time(n * 100_000);
        commit(&handle, put("a", &n.to_string())).await;
        handle.keep_house();
        handle.fence(SOON).await.unwrap();
    }
    let view = handle.view();
    assert!(view.floor > Revision(0) && view.floor.0 <= view.revision.0 - 4, "floor {} of {}", view.floor, view.revision);
    // The local clock proposes; what is pruned follows from the log alone.
    let other = World { log: world.log.clone(), store: Arc::default(), clock: Arc::default() };
    let fresh = other.serving().await;
    assert_eq!((fresh.view().floor, fresh.view().chain), (handle.view().floor, handle.view().chain));
    // An idle store stays quiet.
    let mut ends = Vec::new();
    for n in 0..20 {
        world.set_time(10_000_000 + n * 100_000);
        handle.keep_house();
        handle.fence(SOON).await.unwrap();
        ends.push(world.log.range().end);
    }
    assert_eq!(ends[10], ends[19], "{ends:?}");
}
