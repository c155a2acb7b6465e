use crate::world::*;
use confold_log::Log;
use confold_model::event::{Body, Event, OperationKind};
use confold_wire::api::Api;
use confold_wire::pb::{self, decision};
use expect_test::expect;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

type Requests = Vec<Result<pb::CommitStreamRequest, Status>>;

fn request(correlation: u64, operation: pb::TextOperation) -> Result<pb::CommitStreamRequest, Status> {
    let commit = pb::CommitRequest {
        operations: vec![operation],
        ..Default::default()
    };
    Ok(pb::CommitStreamRequest {
        correlation,
        commit: Some(commit),
    })
}

async fn answers(world: &World, requests: Requests) -> Vec<Result<pb::CommitStreamResponse, Status>> {
    collect(
        world
            .service
            .commit_stream(Box::pin(tokio_stream::iter(requests)))
            .await
            .unwrap(),
    )
    .await
}

#[tokio::test]
async fn commits_enter_the_log_in_the_order_in_which_they_were_sent() {
    let world = World::network().await;
    let zone = |number: u64| update("/clock", &format!(r#"{{"timezone": "{number}"}}"#));
    let answers = answers(
        &world,
        (1..=2_000).map(|number| request(number, zone(number))).collect(),
    )
    .await;
    assert_eq!(answers.len(), 2_000);
    let mut by_position: Vec<(u64, u64)> = answers
        .iter()
        .map(|answer| {
            let answer = answer.as_ref().unwrap();
            let decision = answer.decision.as_ref().unwrap();
            assert_eq!(decision.outcome(), decision::Outcome::Committed);
            (decision.position.unwrap(), answer.correlation)
        })
        .collect();
    by_position.sort_unstable();
    let sent: Vec<u64> = by_position.iter().map(|(_, correlation)| *correlation).collect();
    assert_eq!(sent, (1..=2_000).collect::<Vec<_>>());
    assert_eq!(world.json("/clock", 0, "").await, r#"{"timezone":"2000"}"#);
}

// One commit builds on another that is not decided yet: only the fold can say whether it fits.
#[tokio::test]
async fn a_commit_may_need_the_one_before_it_on_the_stream() {
    let world = World::network().await;
    world.log.deliver_by_hand(true);
    let (sender, receiver) = mpsc::channel(16);
    let mut answers = world
        .service
        .commit_stream(Box::pin(ReceiverStream::new(receiver)))
        .await
        .unwrap();
    for (correlation, operation) in [
        (1, add("/devices", r#"{"id": "a"}"#)),
        (2, add("/devices/a/ports", r#"{"number": 1}"#)),
        (3, update("/devices/a/ports/1", r#"{"number": 1, "label": "x"}"#)),
        (4, remove("/devices/a")),
    ] {
        sender.send(request(correlation, operation)).await.unwrap();
    }
    // Refused before the log: this one overtakes.
    sender.send(request(5, update("/nope", "{}"))).await.unwrap();
    let first = tokio::time::timeout(SOON, answers.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(first.correlation, 5);
    expect![[r#"rejected NOT_FOUND at /: no such child field: example.Network has no child "nope"; it has clock, devices, vlans"#]].assert_eq(&decision_line(first.decision.as_ref().unwrap()));
    assert_eq!(world.log.in_flight(), 4);
    world.log.deliver_by_hand(false);
    world.log.deliver_all();
    drop(sender);
    let mut rest: Vec<(u64, String)> = collect(answers)
        .await
        .into_iter()
        .map(|answer| {
            answer
                .map(|answer| (answer.correlation, decision_line(&answer.decision.unwrap())))
                .unwrap()
        })
        .collect();
    rest.sort();
    expect![[r#"
        committed r1 p2
        committed r2 p3
        committed r3 p4
        committed r4 p5"#]]
    .assert_eq(
        &rest
            .iter()
            .map(|(_, line)| line.as_str())
            .collect::<Vec<_>>()
            .join("\n"),
    );
}

#[tokio::test]
async fn a_refused_commit_is_an_answer_and_the_stream_goes_on() {
    let world = World::sample().await;
    let mut requests: Requests = vec![
        request(1, remove("/vlans/9")),
        Ok(pb::CommitStreamRequest {
            correlation: 2,
            commit: None,
        }),
        request(3, add("/vlans", r#"{"number": 9}"#)),
    ];
    let other = pb::CommitRequest {
        store: "other".into(),
        ..Default::default()
    };
    requests.push(Ok(pb::CommitStreamRequest {
        correlation: 4,
        commit: Some(other),
    }));
    // The store named last stays named.
    requests.push(request(5, add("/vlans", r#"{"number": 10}"#)));
    let back = pb::CommitRequest {
        store: "network".into(),
        operations: vec![remove("/vlans/9")],
        ..Default::default()
    };
    requests.push(Ok(pb::CommitStreamRequest {
        correlation: 6,
        commit: Some(back),
    }));
    let mut lines: Vec<String> = answers(&world, requests)
        .await
        .into_iter()
        .map(|answer| {
            let answer = answer.unwrap();
            format!("{}: {}", answer.correlation, decision_line(&answer.decision.unwrap()))
        })
        .collect();
    lines.sort();
    expect![[r#"
        1: rejected p6 NOT_FOUND at /vlans/9: no such key: /vlans/9
        2: unchanged p7
        3: committed r5 p8
        4: rejected NOT_FOUND: no store is called "other"; there is network
        5: rejected NOT_FOUND: no store is called "other"; there is network
        6: committed r6 p9"#]]
    .assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn requests_that_fail_end_the_stream_when_all_is_answered() {
    let world = World::network().await;
    let requests = vec![
        request(1, add("/vlans", r#"{"number": 1}"#)),
        Err(Status::cancelled("gone")),
    ];
    let answers = answers(&world, requests).await;
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].as_ref().unwrap().correlation, 1);
    assert_eq!(answers[1].as_ref().unwrap_err().code(), tonic::Code::Cancelled);
}

#[tokio::test]
async fn a_stream_takes_no_more_than_it_may_have_in_flight() {
    let options = confold_replica::service::Options {
        stream_in_flight: 3,
        ..Default::default()
    };
    let world = World::network_with(options).await;
    world.log.deliver_by_hand(true);
    let requests: Requests = (1..=10)
        .map(|number| request(number, add("/vlans", &format!(r#"{{"number": {number}}}"#))))
        .collect();
    let answers = world
        .service
        .commit_stream(Box::pin(tokio_stream::iter(requests)))
        .await
        .unwrap();
    let collecting = tokio::spawn(collect(answers));
    let mut delivered = 0;
    while delivered < 10 {
        assert!(world.log.in_flight() <= 3);
        delivered += world.log.deliver_all();
        tokio::task::yield_now().await;
    }
    assert_eq!(collecting.await.unwrap().len(), 10);
}

// A client that goes away leaves what it handed over to be decided.
#[tokio::test]
async fn what_was_handed_over_is_decided_though_nobody_waits() {
    let world = World::network().await;
    world.log.deliver_by_hand(true);
    let (sender, receiver) = mpsc::channel(16);
    let answers = world
        .service
        .commit_stream(Box::pin(ReceiverStream::new(receiver)))
        .await
        .unwrap();
    sender
        .send(request(1, add("/vlans", r#"{"number": 1}"#)))
        .await
        .unwrap();
    while world.log.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    drop(answers);
    sender.closed().await;
    world.log.deliver_by_hand(false);
    world.log.deliver_all();
    let end = world.log.range().end.0 - 1;
    world
        .handle
        .at_least(confold_model::ids::Position(end), SOON)
        .await
        .unwrap();
    assert_eq!(world.json("/vlans/1", 0, "").await, r#"{"number":1}"#);
}

// The principal is stamped by the server; author and reason are the client's words.
#[tokio::test]
async fn an_event_names_author_and_principal() {
    let world = World::network().await;
    let commit = pb::CommitRequest {
        proposal: Some(pb::Proposal {
            author: "ada".into(),
            reason: "why not".into(),
            client_time_ms: 7,
            ..Default::default()
        }),
        operations: vec![add("/vlans", r#"{"number": 1}"#)],
        ..Default::default()
    };
    let service = world.service.acting_as("cn=ada");
    let requests = vec![Ok(pb::CommitStreamRequest {
        correlation: 1,
        commit: Some(commit),
    })];
    let answers = collect(
        service
            .commit_stream(Box::pin(tokio_stream::iter(requests)))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(answers.len(), 1);
    let record = world.log.records().pop().unwrap();
    let event = Event::decode(&record.bytes).unwrap();
    assert_eq!(
        (&*event.author, &*event.principal, &*event.reason, event.client_time_ms),
        ("ada", "cn=ada", "why not", 7)
    );
    let Body::Commit(commit) = event.body else {
        panic!("{:?}", event.body)
    };
    // formats.md 4: the path of an add carries the key that its value has.
    assert!(matches!(&commit.operations[0].kind, OperationKind::Add { value } if value[..] == [8, 1]));
    assert_eq!(
        commit.operations[0].path.steps[0].key.as_deref(),
        Some(&[0, 0, 0, 1][..])
    );
}
