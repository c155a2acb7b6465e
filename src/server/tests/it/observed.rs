//! What is counted and logged.

use crate::{
    fake::{Fake, MINTED, refusal},
    net::start,
};
use confold_model::code::Code;
use confold_wire::pb;
use std::{
    io,
    sync::{Arc, Mutex},
};

/// All servers of a process count on one page, so only methods that no other test of this file calls are looked at, and
/// only how much they grew.
fn value(page: &str, line: &str) -> f64 {
    let found = page
        .lines()
        .find_map(|text| text.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or(0.0)
}

#[tokio::test]
async fn calls_are_counted_by_method_face_and_code_and_their_time_is_taken() {
    let server = start(Fake::new()).await;
    let page = async || {
        let answer = server.get("/metrics").await;
        assert_eq!(
            answer.header("content-type"),
            "text/plain; version=0.0.4; charset=utf-8"
        );
        answer.text()
    };
    let ok = "confold_server_calls_total{method=\"Untag\",transport=\"grpc\",code=\"Ok\"}";
    let refused = "confold_server_calls_total{method=\"Untag\",transport=\"http\",code=\"NotFound\"}";
    let count = "confold_server_call_seconds_count{method=\"Untag\",transport=\"grpc\"}";
    let before = page().await;

    server.client().await.untag(pb::UntagRequest::default()).await.unwrap();
    *server.fake.refusal.lock().unwrap() = Some(refusal(Code::NotFound, "", "no such tag"));
    assert_eq!(server.post("/v1/Untag", "{}").await.status(), 404);

    let after = page().await;
    for line in [ok, refused, count] {
        assert!(value(&after, line) >= value(&before, line) + 1.0, "{line} in\n{after}");
    }
    assert!(after.contains("confold_server_call_seconds_bucket{method=\"Untag\",transport=\"grpc\",le=\"0.001\"}"));
    assert!(after.contains("# HELP confold_server_calls_total Calls that ended, by gRPC code."));
    assert!(value(&after, "confold_server_connections ") >= 1.0);
    assert!(after.contains("confold_store_lag_records{store=\"net\"} 0"));
}

#[tokio::test]
async fn a_call_whose_client_is_gone_is_counted_as_cancelled() {
    let server = start(Fake::new()).await;
    let mut client = server.client().await;
    let slow = pb::SyncRequest {
        store: "slow".to_owned(),
        ..Default::default()
    };
    let call = tokio::spawn(async move { client.sync(slow).await });
    server
        .fake
        .waiting
        .subscribe()
        .wait_for(|waiting| *waiting == 1)
        .await
        .unwrap();
    call.abort();
    server
        .fake
        .given_up
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .unwrap();
    let line = "confold_server_calls_total{method=\"Sync\",transport=\"grpc\",code=\"Cancelled\"}";
    while value(&server.get("/metrics").await.text(), line) < 1.0 {}
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// Reliability Q25: no values in logs.
#[tokio::test]
async fn a_call_is_traced_with_its_method_and_event_id_and_without_values() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("confold_server=trace")
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // One thread runs the server and its client.
    let _here = tracing::subscriber::set_default(subscriber);

    let server = start(Fake::new()).await;
    let event_id = format!("4182-{}", "0f".repeat(16));
    let commit = |event_id: &str| {
        let value = pb::Value {
            form: Some(pb::value::Form::Json("{\"password\":\"hunter2\"}".into())),
            ..Default::default()
        };
        let put = Some(pb::text_operation::Kind::Put(value));
        pb::CommitRequest {
            proposal: Some(pb::Proposal {
                event_id: event_id.to_owned(),
                ..Default::default()
            }),
            operations: vec![pb::TextOperation {
                path: "/hunter2".into(),
                kind: put,
                ..Default::default()
            }],
            ..Default::default()
        }
    };
    let mut client = server.client().await;
    client.commit(commit(&event_id)).await.unwrap();
    client.commit(pb::CommitRequest::default()).await.unwrap();
    client.commit(commit("hunter2\nforged line")).await.unwrap();
    *server.fake.refusal.lock().unwrap() = Some(refusal(Code::Conflict, "/hunter2", "hunter2 stands there"));
    client.commit(commit(&event_id)).await.unwrap_err();
    *server.fake.refusal.lock().unwrap() = Some(tonic::Status::internal("hunter2 broke"));
    client
        .get(pb::GetRequest {
            path: "/hunter2".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let span = format!("call{{method=\"Commit\" event_id={event_id}}}: ");
    assert_eq!(log.matches(&span).count(), 3, "{log}");
    assert!(
        log.contains(&format!("call{{method=\"Commit\" event_id={MINTED}}}")),
        "{log}"
    );
    assert!(
        log.contains("a call was refused code=Aborted detail=\"CONFLICT\""),
        "{log}"
    );
    assert!(
        log.contains("ERROR call{method=\"Get\"}: confold_server::grpc: a call failed code=Internal"),
        "{log}"
    );
    assert!(!log.contains("hunter2") && !log.contains("forged"), "{log}");
}
