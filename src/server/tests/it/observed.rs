//! What is counted and logged.

use crate::{
    fake::{Fake, refusal},
    net::start,
};
use confold_model::code::Code;
use confold_wire::pb;

/// All servers of a process count on one page, so only methods that no other test of this file calls are looked at, and
/// only how much they grew.
fn value(page: &str, line: &str) -> f64 {
    let found = page.lines().find_map(|text| text.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or(0.0)
}

#[tokio::test]
async fn calls_are_counted_by_method_face_and_code_and_their_time_is_taken() {
    let server = start(Fake::new()).await;
    let page = async || {
        let answer = server.get("/metrics").await;
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
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
    let slow = pb::SyncRequest { store: "slow".to_owned(), ..Default::default() };
    let call = tokio::spawn(async move { client.sync(slow).await });
    server.fake.waiting.subscribe().wait_for(|waiting| *waiting == 1).await.unwrap();
    call.abort();
    server.fake.given_up.subscribe().wait_for(|count| *count == 1).await.unwrap();
    let line = "confold_server_calls_total{method=\"Sync\",transport=\"grpc\",code=\"Cancelled\"}";
    while value(&server.get("/metrics").await.text(), line) < 1.0 {}
}
