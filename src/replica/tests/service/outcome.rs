use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb::{self, decision};
use expect_test::expect;

fn commit(id: &str, operation: pb::TextOperation) -> pb::CommitRequest {
    pb::CommitRequest {
        proposal: proposal(id),
        operations: vec![operation],
        ..Default::default()
    }
}

// X4: commit sent again with the same event id returns the first outcome.
#[tokio::test]
async fn the_same_event_again_has_the_first_outcome() {
    let world = World::sample().await;
    let id = event_id(world.position(), 1);
    let request = commit(&id, add("/vlans", r#"{"number": 7}"#));
    let first = world.service.commit(request.clone()).await.unwrap();
    let mut lines = vec![decision_line(&first)];
    // Something else happens in between.
    world.commit(remove("/vlans/7")).await.unwrap();
    lines.push(decided(&world.service.commit(request.clone()).await));
    // Under another deadline, clock and spelling of the store it is the same intention.
    let again = pb::CommitRequest {
        store: "network".into(),
        proposal: Some(pb::Proposal {
            deadline_ms: 5_000,
            client_time_ms: 77,
            ..request.proposal.clone().unwrap()
        }),
        ..request.clone()
    };
    lines.push(decided(&world.service.commit(again).await));
    // Another intention under the same id, another reason, another principal.
    lines.push(decided(
        &world
            .service
            .commit(commit(&id, add("/vlans", r#"{"number": 8}"#)))
            .await,
    ));
    lines.push(decided(
        &world.service.acting_as("mallory").commit(request.clone()).await,
    ));
    // A rejected event stays rejected, whatever has become possible since.
    let early = commit(&event_id(world.position(), 2), remove("/vlans/9"));
    lines.push(decided(&world.service.commit(early.clone()).await));
    world.commit(add("/vlans", r#"{"number": 9}"#)).await.unwrap();
    lines.push(decided(&world.service.commit(early).await));
    expect![[r#"
        committed r5 p6
        committed r5 p6 repeated
        committed r5 p6 repeated
        ID_REUSED: the id stands at position 6 with another intent or principal
        ID_REUSED: the id stands at position 6 with another intent or principal
        NOT_FOUND at /vlans/9: no such key: /vlans/9
        NOT_FOUND: decided at position 12"#]]
    .assert_eq(&lines.join("\n"));
    assert_eq!(first.event_id, id);
}

#[tokio::test]
async fn an_id_that_the_server_minted_can_be_sent_back() {
    let world = World::sample().await;
    let mut request = commit("", add("/vlans", r#"{"number": 7}"#));
    let first = world.service.commit(request.clone()).await.unwrap();
    request.proposal = proposal(&first.event_id);
    let again = world.service.commit(request).await.unwrap();
    assert!(again.repeated);
    assert_eq!(
        (again.position, again.revision, again.root),
        (first.position, first.revision, first.root)
    );
}

#[tokio::test]
async fn a_retry_whose_body_can_no_longer_be_made_still_has_the_first_outcome() {
    let world = World::sample().await;
    let id = event_id(world.position(), 3);
    let base = pb::TextBase {
        was: Some(pb::text_base::Was::AsOf("1".into())),
    };
    let operation = pb::TextOperation {
        base: Some(base),
        ..remove("/devices/olt-1")
    };
    let first = world.service.commit(commit(&id, operation.clone())).await.unwrap();
    world
        .service
        .prune(pb::PruneRequest {
            floor: "latest~1".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let again = world.service.commit(commit(&id, operation.clone())).await;
    assert_eq!(decided(&again), format!("{} repeated", decision_line(&first)));
    // Another intention in the same place is told so, and without an id it is what it is: too late.
    let other = pb::TextOperation {
        strict: true,
        ..operation.clone()
    };
    let lines = [
        decided(&world.service.commit(commit(&id, other)).await),
        decided(&world.service.commit(commit("", operation.clone())).await),
        decided(
            &world
                .service
                .commit(commit(&event_id(world.position(), 4), operation))
                .await,
        ),
    ];
    expect![[r#"
        ID_REUSED: the id stands at position 6 with another intent or principal
        PRUNED: "1": revision 1 is gone: everything untagged up to 4 was pruned; the nearest that is kept is 5
        PRUNED: "1": revision 1 is gone: everything untagged up to 4 was pruned; the nearest that is kept is 5"#]]
    .assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn what_became_of_an_id_and_the_other_end_of_not_knowing() {
    let world = World::sample().await;
    let (done, open, never) = (
        event_id(world.position(), 1),
        event_id(world.position(), 2),
        event_id(3, 9),
    );
    world
        .service
        .commit(commit(&done, add("/vlans", r#"{"number": 7}"#)))
        .await
        .unwrap();
    let ask = |id: &str| pb::OutcomeRequest {
        event_id: id.to_owned(),
        ..Default::default()
    };
    let withdraw = |id: &str| pb::WithdrawRequest {
        event_id: id.to_owned(),
        ..Default::default()
    };
    let lines = [
        decided(&world.service.outcome(ask(&done)).await),
        decided(&world.service.outcome(ask(&open)).await),
        decided(&world.service.withdraw(withdraw(&done)).await),
        decided(&world.service.withdraw(withdraw(&open)).await),
        decided(&world.service.withdraw(withdraw(&open)).await),
        decided(&world.service.outcome(ask(&open)).await),
        // The withdrawn event comes late: it is barred.
        decided(
            &world
                .service
                .commit(commit(&open, add("/vlans", r#"{"number": 8}"#)))
                .await,
        ),
        decided(&world.service.outcome(ask(&never)).await),
        decided(&world.service.outcome(ask("nonsense")).await),
        decided(&world.service.withdraw(withdraw(&event_id(9_999, 1))).await),
    ];
    expect![[r#"
        committed r5 p6 repeated
        not_seen p6
        committed r5 p6 repeated
        rejected WITHDRAWN: it was withdrawn at position 8
        rejected WITHDRAWN: it was withdrawn at position 8
        never_applied [it was withdrawn at position 8]
        WITHDRAWN: withdrawn at position 8
        not_seen p10
        INVALID_PATH: "nonsense" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…
        FUTURE: the withdrawal was refused: the id was minted at 9999, not before 11"#]].assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn asking_with_patience_waits_for_the_event() {
    let world = World::sample().await;
    let id = event_id(world.position(), 5);
    let asked = {
        let (service, id) = (world.service.clone(), id.clone());
        tokio::spawn(async move {
            service
                .outcome(pb::OutcomeRequest {
                    event_id: id,
                    wait_ms: 20_000,
                    ..Default::default()
                })
                .await
        })
    };
    world
        .service
        .commit(commit(&id, add("/vlans", r#"{"number": 7}"#)))
        .await
        .unwrap();
    assert_eq!(asked.await.unwrap().unwrap().outcome(), decision::Outcome::Committed);
}

// D11: writes fail after a deadline, and say how to go on.
#[tokio::test]
async fn no_timeout_is_a_success() {
    let world = World::sample().await;
    world.log.deliver_by_hand(true);
    let id = event_id(world.position(), 6);
    let mut request = commit(&id, add("/vlans", r#"{"number": 7}"#));
    request.proposal.as_mut().unwrap().deadline_ms = 30;
    let status = world.service.commit(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    let detail = confold_wire::status::detail(&status).unwrap();
    assert_eq!((detail.code.as_str(), &detail.event_id), ("UNKNOWN", &id));
    assert!(detail.hint.contains("same event id"), "{}", detail.hint);
    world.log.deliver_by_hand(false);
    world.log.deliver_all();
    request.proposal.as_mut().unwrap().deadline_ms = 0;
    let again = world.service.commit(request).await.unwrap();
    assert_eq!(again.outcome(), decision::Outcome::Committed);
}
