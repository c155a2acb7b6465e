//! Proposals and their answers.

use crate::world::*;
use confold_log::Log;
use confold_log::memory::AppendFault;
use confold_model::code::Code;
use confold_model::event::Body;
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Hash, Position, Revision};
use confold_replica::{Begin, Fate, Handle, Options, Proposal, ProposeError, ReplicaState};
use confold_store::{Order, Store};
use std::time::Duration;

const AT_ONCE: Duration = Duration::from_millis(30);

fn with_id(handle: &Handle, number: u64, body: Body<'static>) -> Proposal {
    let id = EventId { seen: handle.view().position, nonce: nonce(number) };
    Proposal { id: Some(id), ..Proposal::new(body) }
}

fn code(outcome: &Outcome) -> Option<Code> {
    match outcome {
        Outcome::Rejected(rejection) => Some(rejection.code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_answered_with_revision_root_and_position_and_is_visible_by_then() {
    let world = World::begun();
    let handle = world.serving().await;
    let first = commit(&handle, add("olt-1", "one")).await;
    assert_eq!((first.outcome, first.revision, first.repeated), (Outcome::Accepted, Some(Revision(1)), false));
    let view = handle.view();
    assert!(view.position >= first.position);
    assert_eq!(view.root, first.root);
    assert_eq!(description(&view.tree, "olt-1", &*handle.objects()).as_deref(), Some("one"));
    // A1: add of a present key.
    let twice = commit(&handle, add("olt-1", "two")).await;
    assert_eq!(code(&twice.outcome), Some(Code::AlreadyExists));
    assert_eq!((twice.revision, twice.root), (None, first.root));
    let equal = commit(&handle, put("olt-1", "one")).await;
    assert_eq!((equal.outcome, equal.revision), (Outcome::Unchanged, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_answered_with_the_first_outcome() {
    let world = World::begun();
    let handle = world.serving().await;
    let proposal = with_id(&handle, 1, add("olt-1", "one"));
    let first = handle.propose(proposal.clone(), SOON).await.unwrap();
    commit(&handle, put("olt-1", "later")).await;
    let again = handle.propose(proposal.clone(), SOON).await.unwrap();
    assert!(again.repeated);
    assert_eq!((again.position, again.revision, again.root), (first.position, first.revision, first.root));
    assert_eq!(again.outcome, Outcome::Accepted);
    assert_eq!(description(&handle.view().tree, "olt-1", &*handle.objects()).as_deref(), Some("later"));
    // A refusal is repeated too.
    let refused = with_id(&handle, 2, add("olt-1", "again"));
    let first = handle.propose(refused.clone(), SOON).await.unwrap();
    commit(&handle, remove("olt-1")).await;
    let again = handle.propose(refused, SOON).await.unwrap();
    assert_eq!(code(&again.outcome), Some(Code::AlreadyExists));
    assert_eq!((again.position, again.root), (first.position, first.root));
    // Another request under a used id, by intent or by principal.
    let other = Proposal { intent: Hash::of(b"other"), ..proposal.clone() };
    assert_eq!(code(&handle.propose(other, SOON).await.unwrap().outcome), Some(Code::IdReused));
    let other = Proposal { principal: "eve".to_owned(), ..proposal };
    assert_eq!(code(&handle.propose(other, SOON).await.unwrap().outcome), Some(Code::IdReused));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_under_way_at_once_are_answered_each_for_its_own_intent() {
    let world = World::begun();
    let handle = world.serving().await;
    world.log.deliver_by_hand(true);
    let one = with_id(&handle, 1, put("olt-1", "one"));
    let other = Proposal { intent: Hash::of(b"other"), body: put("olt-1", "other"), ..one.clone() };
    let waiting = [one.clone(), other, one].map(|proposal| handle.submit(proposal, SOON).unwrap());
    let settled = tokio::spawn(async move {
        let [a, b, c] = waiting;
        tokio::join!(a.settled(), b.settled(), c.settled())
    });
    world.log.deliver_by_hand(false);
    let (first, other, copy) = settled.await.unwrap();
    let first = first.unwrap();
    assert_eq!((&first.outcome, first.revision), (&Outcome::Accepted, Some(Revision(1))));
    assert_eq!(code(&other.unwrap().outcome), Some(Code::IdReused));
    assert_eq!(copy.unwrap().position, first.position);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_event_ends_as_unknown_and_a_withdrawal_bars_it_for_good() {
    let world = World::begun();
    let handle = world.serving().await;
    world.log.fail_next([AppendFault::Swallow]);
    let lost = with_id(&handle, 1, put("olt-1", "one"));
    let id = lost.id.unwrap();
    let error = handle.propose(lost.clone(), AT_ONCE).await.unwrap_err();
    assert!(matches!(&error, ProposeError::Unknown { id: named, .. } if *named == id), "{error}");
    assert_eq!(error.code(), Code::Unknown);
    assert!(matches!(handle.outcome_of(id).unwrap(), Fate::NotSeen { .. }));
    let fate = handle.withdraw(id, Proposal::new(Body::Fence), SOON).await.unwrap();
    assert!(matches!(fate, Fate::NeverApplied { .. }), "{fate:?}");
    assert!(matches!(handle.outcome_of(id).unwrap(), Fate::NeverApplied { .. }));
    let late = handle.propose(lost, SOON).await.unwrap();
    assert_eq!(code(&late.outcome), Some(Code::Withdrawn));
    assert_eq!(handle.view().revision, Revision(0));
    // A second withdrawal says the same.
    let fate = handle.withdraw(id, Proposal::new(Body::Fence), SOON).await.unwrap();
    assert!(matches!(fate, Fate::NeverApplied { .. }), "{fate:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_event_that_stands_after_all_keeps_its_outcome() {
    let world = World::begun();
    let handle = world.serving().await;
    world.log.deliver_by_hand(true);
    let slow = with_id(&handle, 1, put("olt-1", "one"));
    let id = slow.id.unwrap();
    handle.propose(slow.clone(), AT_ONCE).await.unwrap_err();
    world.log.deliver_by_hand(false);
    handle.fence(SOON).await.unwrap();
    let Fate::Settled(settled) = handle.outcome_of(id).unwrap() else { panic!("it stands on the log") };
    assert_eq!((settled.outcome.clone(), settled.revision), (Outcome::Accepted, Some(Revision(1))));
    let withdrawn = handle.withdraw(id, Proposal::new(Body::Fence), SOON).await.unwrap();
    assert_eq!(withdrawn, Fate::Settled(settled.clone()));
    let again = handle.propose(slow, SOON).await.unwrap();
    assert_eq!((again.position, again.revision), (settled.position, settled.revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_of_unknown_end_is_settled_by_the_fold() {
    let world = World::begun();
    let handle = world.serving().await;
    world.log.fail_next([AppendFault::TakeAndFail, AppendFault::Fail, AppendFault::Refuse]);
    assert_eq!(commit(&handle, put("a", "1")).await.outcome, Outcome::Accepted);
    let error = handle.propose(Proposal::new(put("b", "1")), AT_ONCE).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown { .. }), "{error}");
    let error = handle.propose(Proposal::new(put("c", "1")), AT_ONCE).await.unwrap_err();
    assert!(matches!(error, ProposeError::Busy { .. }), "a full log certainly did not take it: {error}");
    assert_eq!(handle.status().counts.0["in_flight"], 0);
    assert_eq!(devices(&handle.view().tree, &*handle.objects()), [("a".to_owned(), "1".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_and_late_copies_are_applied_once() {
    let world = World::begun();
    let handle = world.serving().await;
    let first = commit(&handle, add("olt-1", "one")).await;
    world.log.repeat(first.position, 0);
    world.log.repeat(first.position, 3);
    for n in 0..5 {
        commit(&handle, put("olt-2", &n.to_string())).await;
    }
    assert_eq!(handle.view().revision, Revision(6));
    assert_eq!(handle.status().counts.0["events_duplicate"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_stand_in_the_order_they_were_made_in() {
    let world = World::begun();
    let handle = world.serving().await;
    let mut waiting = Vec::new();
    for n in 0..2_000 {
        let body = put(&format!("d-{}", n % 50), &n.to_string());
        waiting.push(handle.submit(Proposal::new(body), SOON).unwrap());
    }
    let mut last = Position(0);
    for (n, submission) in waiting.into_iter().enumerate() {
        let settled = submission.settled().await.unwrap();
        assert!(settled.position > last);
        assert_eq!(settled.revision, Some(Revision(n as u64 + 1)));
        last = settled.position;
    }
    assert_eq!(handle.status().counts.0["in_flight"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_under_way_is_refused_and_there_is_room_again_when_it_settles() {
    let world = World::begun();
    let options = Options { in_flight: 3, ..world.options() };
    let handle = world.serving_with(options).await;
    world.log.deliver_by_hand(true);
    let waiting: Vec<_> =
        (0..3).map(|n| handle.submit(Proposal::new(put("a", &n.to_string())), SOON).unwrap()).collect();
    let Err(error) = handle.submit(Proposal::new(put("b", "1")), SOON) else { panic!("it was taken") };
    assert!(matches!(error, ProposeError::Busy { .. }), "{error}");
    assert_eq!(world.log.in_flight(), 3, "the refused one never reached the log");
    let room = tokio::spawn({
        let handle = handle.clone();
        async move { handle.room().await }
    });
    assert!(!room.is_finished());
    world.log.deliver(0);
    tokio::time::timeout(SOON, room).await.unwrap().unwrap();
    let more = handle.submit(Proposal::new(put("b", "1")), SOON).unwrap();
    world.log.deliver_by_hand(false);
    for submission in waiting.into_iter().chain([more]) {
        assert_eq!(submission.settled().await.unwrap().outcome, Outcome::Accepted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_submission_gives_up_its_place_and_nothing_else() {
    let world = World::begun();
    let handle = world.serving().await;
    world.log.deliver_by_hand(true);
    drop(handle.submit(Proposal::new(put("a", "1")), SOON).unwrap());
    assert_eq!(handle.status().counts.0["in_flight"], 0);
    world.log.deliver_by_hand(false);
    handle.fence(SOON).await.unwrap();
    assert_eq!(handle.view().revision, Revision(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_the_limit_never_reaches_the_log() {
    let mut options = Begin::default();
    options.limits.max_event_bytes = 20_000;
    let world = World::begun_with(&options);
    let handle = world.serving().await;
    let end = world.log.range().end;
    let many: Vec<(String, String)> = (0..200).map(|n| (format!("d-{n}"), "x".repeat(100))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
    let error = handle.propose(Proposal::new(puts(&many)), SOON).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { limit: 20_000, .. }), "{error}");
    assert_eq!(error.code(), Code::TooLarge);
    assert_eq!(world.log.range().end, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_copy_is_answered_from_the_index_of_all_ids() {
    let world = World::begun_with(&Begin { window: 8, ..Begin::default() });
    let handle = world.serving().await;
    let (kept, never) = (with_id(&handle, 1, put("a", "1")), with_id(&handle, 2, put("b", "1")));
    let first = handle.propose(kept.clone(), SOON).await.unwrap();
    // Segments of the window are forgotten as a whole, so its edge is what `seen` says.
    for n in 0..20 {
        commit(&handle, put("c", &n.to_string())).await;
    }
    let again = handle.propose(kept.clone(), SOON).await.unwrap();
    assert_eq!((again.outcome, again.position, again.repeated), (Outcome::Accepted, first.position, true));
    assert_eq!((again.revision, again.root), (first.revision, first.root));
    assert!(matches!(handle.outcome_of(kept.id.unwrap()).unwrap(), Fate::Settled(found) if found.position == first.position));
    let expired = handle.propose(never.clone(), SOON).await.unwrap();
    assert_eq!(code(&expired.outcome), Some(Code::Expired));
    for fate in [handle.outcome_of(never.id.unwrap()), handle.withdraw(never.id.unwrap(), Proposal::new(Body::Fence), SOON).await] {
        assert!(matches!(fate.unwrap(), Fate::NeverApplied { .. }));
    }
    let withdrawn = handle.withdraw(kept.id.unwrap(), Proposal::new(Body::Fence), SOON).await.unwrap();
    assert!(matches!(withdrawn, Fate::Settled(found) if found.revision == Some(Revision(1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_from_the_future_is_refused_and_decides_nothing() {
    let world = World::begun();
    let handle = world.serving().await;
    let id = EventId { seen: Position(1_000), nonce: nonce(1) };
    let error = handle.withdraw(id, Proposal::new(Body::Fence), SOON).await.unwrap_err();
    assert_eq!(error.code(), Code::Future);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_folded_is_answered_and_shown_while_the_store_writes_and_its_rows_are_waited_for() {
    let world = World::begun();
    let handle = world.serving().await;
    let before = handle.view();
    written(&handle);
    world.store.hold(true);
    let settled = handle.propose(Proposal::new(put("a", "1")), SOON).await.unwrap();
    assert_eq!(settled.outcome, Outcome::Accepted);
    let view = handle.view();
    assert_eq!((view.position, view.root), (settled.position, settled.root));
    tokio::task::block_in_place(|| world.store.wait_for_held());
    assert_eq!(world.store.head().unwrap().applied, before.position);

    let revision = settled.revision.unwrap();
    let asked = [
        tokio::task::spawn_blocking({
            let handle = handle.clone();
            move || handle.store().unwrap().revision(revision).unwrap().unwrap().root
        }),
        tokio::task::spawn_blocking({
            let handle = handle.clone();
            move || handle.past(revision).unwrap().root
        }),
        tokio::task::spawn_blocking({
            let (handle, id) = (handle.clone(), settled.id);
            move || match handle.outcome_of(id).unwrap() {
                Fate::Settled(again) => again.root,
                other => panic!("{other:?}"),
            }
        }),
    ];
    let mut asked = futures::future::join_all(asked);
    assert!(futures::poll!(&mut asked).is_pending());
    world.store.hold(false);
    for root in asked.await {
        assert_eq!(root.unwrap(), settled.root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_come_close_together_share_a_batch_and_are_all_in_the_history() {
    let world = World::begun();
    let handle = world.serving().await;
    let batches = || handle.status().counts.0["batches"];
    written(&handle);
    world.store.hold(true);
    // The first batch is being written; the others gather behind it.
    let first = handle.propose(Proposal::new(put("a", "0")), SOON).await.unwrap();
    tokio::task::block_in_place(|| world.store.wait_for_held());
    let before = batches();
    let rest: Vec<_> = (1..=200).map(|n| handle.submit(Proposal::new(put("a", &n.to_string())), SOON).unwrap()).collect();
    world.store.hold(false);
    let mut roots = vec![first.root];
    for submission in rest {
        roots.push(submission.settled().await.unwrap().root);
    }
    let rows = handle.store().unwrap().revisions(Revision(1)..=Revision(201), Order::Ascending, 999).unwrap();
    assert_eq!(rows.iter().map(|row| row.root).collect::<Vec<_>>(), roots);
    assert!(batches() - before < 100, "{} batches", batches() - before);
    for (row, root) in rows.iter().zip(&roots) {
        assert_eq!(handle.past(row.revision).unwrap().root, *root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_stops_the_replica_and_what_it_had_not_written_is_folded_again() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    written(&handle);
    world.store.faults.lock().commit = Some(confold_store::StoreError::Io { what: "told to fail".to_owned() });
    let folded = handle.propose(Proposal::new(put("b", "1")), SOON).await.unwrap();
    let standing = stopped(&handle).await;
    assert_eq!(standing.state, ReplicaState::Halted);
    assert!(standing.reason.contains("told to fail"), "{}", standing.reason);
    assert_eq!(handle.view().position, folded.position, "reads go on with what was folded");
    let rows = tokio::task::block_in_place(|| handle.store().err().unwrap());
    assert!(matches!(&rows, confold_store::StoreError::Io { what } if what == "told to fail"), "{rows}");
    let error = handle.propose(Proposal::new(put("c", "1")), SOON).await.unwrap_err();
    assert_eq!(error.code(), Code::Halted);
    // The event stands on the log: a restart finds it.
    handle.abandon();
    world.store.faults.lock().commit = None;
    let handle = world.serving().await;
    assert_eq!((handle.view().revision, handle.view().root), (Revision(2), folded.root));
}
