use crate::store::{Fault, Mini};
use confold_client::{Connection, Error, Pipeline, Retries};
use confold_model::code::Code;
use confold_wire::pb::{self, text_operation::Kind, value::Form};
use std::{sync::Arc, time::Duration};

fn pipeline(store: &Mini) -> Pipeline {
    let mut connection = Connection::new(Arc::new(store.clone()), "");
    connection.retries = Retries {
        more: 3,
        first_delay: Duration::ZERO,
        longest_delay: Duration::ZERO,
        give_up_after: None,
    };
    Pipeline::new(connection)
}

fn put(number: u8) -> pb::CommitRequest {
    let form = Some(Form::Proto(vec![8, number].into()));
    let operation = pb::TextOperation {
        path: format!("/vlans/{number}"),
        kind: Some(Kind::Put(pb::Value {
            form,
            r#type: String::new(),
        })),
        ..Default::default()
    };
    pb::CommitRequest {
        operations: vec![operation],
        ..Default::default()
    }
}

#[tokio::test]
async fn commits_are_answered_by_their_numbers() {
    let store = Mini::new();
    let mut pipeline = pipeline(&store);
    for number in 0..50 {
        assert_eq!(pipeline.send(put(number)).await.unwrap(), u64::from(number));
    }
    for number in 0..50 {
        let answer = pipeline.answer().await.unwrap().unwrap();
        assert_eq!(answer.number, number);
        assert_eq!(answer.result.unwrap().revision, Some(number + 1));
    }
    assert!(pipeline.answer().await.unwrap().is_none());
    assert_eq!(
        store
            .inner()
            .calls
            .iter()
            .filter(|call| **call == "commit_stream")
            .count(),
        1
    );
}

#[tokio::test]
async fn what_a_broken_stream_left_open_is_sent_again_under_its_ids() {
    let store = Mini::new();
    let mut pipeline = pipeline(&store);
    use Fault::{LoseAnswer, LoseRequest, None, Unknown};
    store
        .inner()
        .faults
        .extend([None, LoseAnswer, None, LoseRequest, Unknown]);
    for number in 0..10 {
        pipeline.send(put(number)).await.unwrap();
    }
    let mut ids = pipeline.open_ids();
    let mut answered = Vec::new();
    while let Some(answer) = pipeline.answer().await.unwrap() {
        answer.result.unwrap();
        answered.push(answer.event_id);
    }
    ids.sort();
    answered.sort();
    assert_eq!(answered, ids);
    assert_eq!(store.revisions(), 10);
}

#[tokio::test]
async fn a_refused_commit_is_an_answer_and_the_others_go_on() {
    let store = Mini::new();
    let mut pipeline = pipeline(&store);
    let mut wrong = put(1);
    wrong.operations[0].kind = Some(Kind::Remove(pb::Absent {}));
    pipeline.send(wrong).await.unwrap();
    pipeline.send(put(2)).await.unwrap();
    let first = pipeline.answer().await.unwrap().unwrap();
    assert_eq!(first.result.unwrap_err().code(), Some(Code::NotFound));
    assert!(pipeline.answer().await.unwrap().unwrap().result.is_ok());
}

#[tokio::test]
async fn a_store_that_stays_away_ends_the_waiting() {
    let store = Mini::new();
    let mut pipeline = pipeline(&store);
    store.inner().faults.extend([Fault::LoseRequest; 100]);
    pipeline.send(put(1)).await.unwrap();
    let error = pipeline.answer().await.unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error}");
    assert_eq!(pipeline.in_flight(), 1);
}
