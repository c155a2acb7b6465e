//! A log that is sealed and opened again, and a policy, as a replica has them.

use crate::world::*;
use confold_log::Log;
use confold_model::code::Code;
use confold_model::event::Body;
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Incarnation, Position};
use confold_model::policy::{Policy, Right, Rule};
use confold_replica::{Handle, Proposal, ProposeError};

const NEXT: Incarnation = Incarnation([0x42; 16]);

fn code(outcome: &Outcome) -> Option<Code> {
    match outcome {
        Outcome::Rejected(rejection) => Some(rejection.code),
        _ => None,
    }
}

fn open(handle: &Handle) -> Body<'static> {
    let transport_id = handle.view().transport_id;
    Body::Open {
        incarnation: NEXT,
        transport_id,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_log_takes_nothing_and_keeps_no_house_until_it_is_opened() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    assert_eq!(commit(&handle, Body::Seal).await.outcome, Outcome::Accepted);
    assert!(handle.view().sealed);
    let end = world.log.range().end;
    let refused = handle.submit(Proposal::new(put("a", "2")), SOON).err().unwrap();
    assert_eq!((refused.clone(), refused.code()), (ProposeError::Sealed, Code::Sealed));
    for n in 1..10 {
        world.set_time(n * 100_000);
        handle.keep_house();
    }
    assert_eq!(world.log.range().end, end, "nothing is posted on a log that is over");
    commit(&handle, open(&handle)).await;
    assert!(!handle.view().sealed);
    assert_eq!(commit(&handle, put("a", "2")).await.outcome, Outcome::Accepted);
    world.set_time(2_000_000);
    handle.keep_house();
    world.set_time(2_100_000);
    handle.keep_house();
    assert!(world.log.range().end > end, "house is kept again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_before_the_seal_is_still_answered_and_what_raced_with_it_is_refused_by_the_fold() {
    let world = World::begun();
    let handle = world.serving().await;
    let id = EventId {
        seen: handle.view().position,
        nonce: nonce(1),
    };
    let before = Proposal {
        id: Some(id),
        ..Proposal::new(put("a", "1"))
    };
    let first = handle.propose(before.clone(), SOON).await.unwrap();
    // The seal is not folded while the batch before it is being written.
    world.store.hold(true);
    commit(&handle, put("b", "1")).await;
    tokio::task::block_in_place(|| world.store.wait_for_held());
    let seal = handle.submit(Proposal::new(Body::Seal), SOON).unwrap();
    let raced = handle.submit(Proposal::new(put("a", "2")), SOON).unwrap();
    world.store.hold(false);
    assert_eq!(seal.settled().await.unwrap().outcome, Outcome::Accepted);
    assert_eq!(code(&raced.settled().await.unwrap().outcome), Some(Code::Sealed));

    let again = handle.propose(before, SOON).await.unwrap();
    assert!(again.repeated);
    assert_eq!((again.outcome, again.position), (Outcome::Accepted, first.position));
    let other = Proposal {
        id: Some(EventId {
            nonce: nonce(2),
            ..id
        }),
        ..Proposal::new(put("a", "3"))
    };
    assert_eq!(handle.submit(other, SOON).err(), Some(ProposeError::Sealed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intention_of_the_life_before_is_answered_with_its_first_outcome() {
    let world = World::begun();
    let handle = world.serving().await;
    let id = |number| EventId {
        seen: handle.view().position,
        nonce: nonce(number),
    };
    let proposal = Proposal {
        id: Some(id(1)),
        ..Proposal::new(put("a", "1"))
    };
    let first = handle.propose(proposal.clone(), SOON).await.unwrap();
    let opening = Proposal {
        id: Some(id(2)),
        ..Proposal::new(open(&handle))
    };
    let opened = handle.propose(opening.clone(), SOON).await.unwrap();
    // Sent again, both carry the present incarnation: later copies, not foreign ones.
    for (proposal, first) in [(proposal, &first), (opening, &opened)] {
        let again = handle.propose(proposal, SOON).await.unwrap();
        assert!(again.repeated);
        assert_eq!((&again.outcome, again.position), (&Outcome::Accepted, first.position));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_means_something_as_far_as_its_incarnation_got() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    let old = handle.view().incarnation;
    let at = commit(&handle, open(&handle)).await.position;
    let before = Position(at.0 - 1);
    let check = |handle: &Handle| {
        let view = handle.view();
        assert_eq!((view.incarnation, view.log_id), (NEXT, old));
        let lives: Vec<_> = view
            .incarnations
            .iter()
            .map(|row| (row.begin, row.incarnation, row.end))
            .collect();
        assert_eq!(lives, [(Position(0), old, Some(at)), (at, NEXT, None)]);
        assert_eq!(view.position_of(before, old), Some(before));
        assert_eq!(view.position_of(at, old), None);
        assert_eq!(view.position_of(at, NEXT), Some(at));
        assert_eq!(view.position_of(before, Incarnation([9; 16])), None);
    };
    check(&handle);
    handle.shutdown(SOON).await.unwrap();
    check(&world.serving().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_shown_and_is_there_after_a_restart() {
    let world = World::begun();
    let handle = world.serving().await;
    assert!(handle.view().policy.is_none());
    let policy = Policy {
        rules: vec![Rule {
            principal: "root".to_owned(),
            prefix: Default::default(),
            rights: Right::ALL.into_iter().collect(),
            strict: false,
        }],
        tokens: Vec::new(),
    };
    let body = Body::Policy {
        policy: policy.clone(),
        replaces: Position(0),
    };
    let at = commit(&handle, body).await.position;
    handle.shutdown(SOON).await.unwrap();
    let handle = world.serving().await;
    let row = handle.view().policy.clone().unwrap();
    assert_eq!((row.position, &row.policy), (at, &policy));
    assert_eq!(
        code(&commit(&handle, put("a", "1")).await.outcome),
        Some(Code::Permission)
    );
    let by_root = Proposal {
        principal: "root".to_owned(),
        ..Proposal::new(put("a", "1"))
    };
    assert_eq!(handle.propose(by_root, SOON).await.unwrap().outcome, Outcome::Accepted);
}
