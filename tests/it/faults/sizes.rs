//! F20: events around the greatest size. What is too large is refused before the log, with the size and the limit, over every face.

use super::store_for_writers;
use crate::server::ServerProcess;
use crate::support::open;
use confold::client::Remote;
use confold::wire::api::Api;
use confold::wire::{pb, status};
use confold_model::code::Code;
use std::sync::Arc;

/// A commit of one device with a description of this length.
fn sized(id: &str, length: usize) -> pb::CommitRequest {
    let json = format!(r#"{{"id": "{id}", "description": "{}"}}"#, "x".repeat(length));
    let value = pb::Value {
        form: Some(pb::value::Form::Json(json)),
        ..Default::default()
    };
    let kind = Some(pb::text_operation::Kind::Put(value));
    let operation = pb::TextOperation {
        path: format!("/devices/{id}"),
        kind,
        ..Default::default()
    };
    pb::CommitRequest {
        operations: vec![operation],
        ..Default::default()
    }
}

async fn end_of(api: &dyn Api) -> u64 {
    api.status(pb::StatusRequest::default()).await.unwrap().position
}

/// The number in a sentence that comes after these words.
fn number_after(text: &str, words: &str) -> u64 {
    let rest = text
        .split_once(words)
        .unwrap_or_else(|| panic!("{words:?} is not in {text:?}"))
        .1;
    rest.chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap()
}

async fn around_the_limit(api: Arc<dyn Api>, face: &str) {
    // What stands beside the description in an event is told by one that is too large. Lengths as varints are the same from there on.
    let probe = 16 << 20;
    let refused = api.commit(sized("size", probe)).await.unwrap_err();
    let text = refused.message().to_owned();
    let (size, limit) = (
        number_after(&text, "the event has "),
        number_after(&text, "takes at most "),
    );
    assert_eq!(limit, 16 << 20, "{face}: {text}");
    let fitting = probe - (size - limit) as usize;
    for (what, length, taken) in [
        ("max - 1", fitting - 1, true),
        ("max", fitting, true),
        ("max + 1", fitting + 1, false),
        ("max + 1 KiB", fitting + 1024, false),
        ("2 x max", 2 * fitting, false),
    ] {
        let before = end_of(&*api).await;
        let answer = api.commit(sized("size", length)).await;
        let after = end_of(&*api).await;
        match answer {
            Ok(decision) => {
                assert!(taken, "{face}, {what}: it was taken");
                assert_eq!(decision.outcome(), pb::decision::Outcome::Committed, "{face}, {what}");
                assert!(after > before);
            }
            Err(error) => {
                assert!(!taken, "{face}, {what}: {error}");
                assert_eq!(after, before, "{face}, {what}: something reached the log");
                let ours = status::detail(&error).and_then(|detail| status::code_of(&detail)) == Some(Code::TooLarge)
                    && error.code() == tonic::Code::InvalidArgument;
                assert!(ours, "{face}, {what}: {error:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_greatest_size_is_taken_and_one_byte_more_is_refused_before_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    store_for_writers(&data).await;
    let store = open(&data).await;
    around_the_limit(store.api(), "in process").await;
    store.close().await.unwrap();
    let server = ServerProcess::start(&data);
    around_the_limit(Arc::new(Remote::connect(&server.address).unwrap()), "over gRPC").await;
    server.kill();
    // The log holds nothing that the fold rejects.
    let store = open(&data).await;
    let log = store
        .api()
        .log(pb::LogRequest {
            all: true,
            brief: true,
            limit: 100,
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(log.rows.iter().all(|row| row.code.is_empty()), "{:?}", log.rows);
    store.close().await.unwrap();
}
