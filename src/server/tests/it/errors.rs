//! Errors carry the same details over both faces, and say what was wrong where.

use crate::{
    fake::{Fake, refusal},
    net::{detail, start, start_with},
};
use confold_model::code::Code;
use confold_wire::{pb, status};
use expect_test::expect;
use http::Request;
use http_body_util::Full;
use serde_json::json;

#[tokio::test]
async fn a_refusal_carries_its_details_over_both_faces() {
    for code in Code::ALL {
        let refused = refusal(code, "/devices/olt-1", "olt-1 is there already");
        let given = status::detail(&refused).unwrap();
        let server = start(Fake::refusing(refused.clone())).await;

        let over_grpc = server.client().await.tag(pb::TagRequest::default()).await.unwrap_err();
        assert_eq!(
            (over_grpc.code(), over_grpc.message()),
            (refused.code(), refused.message())
        );
        assert_eq!(status::detail(&over_grpc).as_ref(), Some(&given));

        let over_http = server.post("/v1/Tag", "{}").await;
        assert_eq!(over_http.status().as_u16(), status::http_code(refused.code()), "{code}");
        let body = over_http.json();
        assert_eq!(
            (&body["code"], &body["message"]),
            (&json!(refused.code() as i32), &json!(refused.message()))
        );
        let shown = detail(&body);
        assert_eq!(
            (&shown["code"], &shown["number"]),
            (&json!(given.code), &json!(given.number))
        );
        assert_eq!(
            (&shown["path"], &shown["detail"]),
            (&json!(given.path), &json!(given.detail))
        );
        assert_eq!(shown["hint"], json!(given.hint));
    }
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_answer_fails_as_a_whole() {
    let server = start(Fake::refusing(refusal(Code::Pruned, "", "gone"))).await;
    for method in ["ListStream", "DiffStream", "ExportLog", "CommitStream"] {
        let (status, detail) = server.post(&format!("/v1/{method}"), "{}").await.error();
        assert_eq!((status, &detail["code"]), (400, &json!("PRUNED")), "{method}");
    }
}

#[tokio::test]
async fn a_stream_that_fails_later_ends_with_the_error() {
    let server = start(Fake::new()).await;
    let lines = server.post("/v1/ListStream", r#"{"path": "/breaks"}"#).await.lines();
    assert_eq!((lines.len(), &lines[0]), (2, &json!({})));
    assert_eq!(detail(&lines[1]["error"])["code"], "PRUNED");

    let request = pb::ListRequest {
        path: "/breaks".to_owned(),
        ..Default::default()
    };
    let mut answers = server.client().await.list_stream(request).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let refused = answers.message().await.unwrap_err();
    assert_eq!(status::detail(&refused).unwrap().code, "PRUNED");
}

#[tokio::test]
async fn a_stream_of_commits_answers_what_came_before_a_bad_line_and_names_it() {
    let server = start(Fake::new()).await;
    let body = "{\"correlation\":1}\n\n{\"correlation\":2}\n{\"correlation\":}\n{\"correlation\":4}\n";
    let lines = server
        .post_as("application/x-ndjson", "/v1/CommitStream", body)
        .await
        .lines();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[0]["correlation"], &lines[1]["correlation"]),
        (&json!("1"), &json!("2"))
    );
    let text = detail(&lines[2]["error"])["detail"].as_str().unwrap().to_owned();
    expect!["line 4 of the stream: line 1 column 16: expected value"].assert_eq(&text);

    let refused = server
        .post_as("application/x-ndjson", "/v1/CommitStream", "{\"correlation\":13}\n{}\n")
        .await
        .lines();
    assert_eq!(refused.len(), 1);
    assert_eq!(detail(&refused[0]["error"])["code"], "UNAVAILABLE");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_with_its_place() {
    let server = start(Fake::new()).await;
    let nested = format!("{{\"path\": {}", "[".repeat(10_000));
    let value = format!(
        "{{\"operations\":[{{\"add\":{{\"json\":{}{}}}}}]}}",
        "[".repeat(200),
        "]".repeat(200)
    );
    let cases = [
        ("Get", "{\"path\": \"/devices\",\n \"depth\" 1}"),
        ("Get", "{\"path\": \"/devices\""),
        ("Get", "{} {}"),
        ("Get", "[]"),
        ("Get", "{\"path\": 7}"),
        ("Get", "{\"pth\": \"/\"}"),
        ("Get", "{\"read\": {\"consistency\": \"STRONG\"}}"),
        ("Get", "{\"depth\": 99999999999}"),
        ("Get", "{\"depth\": 1, \"depth\": 2}"),
        ("Commit", "{\"operations\": [{}, {\"put\": {\"proto\": \"!\"}}]}"),
        ("Get", nested.as_str()),
        ("Commit", value.as_str()),
        ("Get", "\u{feff}{}"),
    ];
    let mut said = String::new();
    for (method, body) in cases {
        let (status, detail) = server.post(&format!("/v1/{method}"), body.to_owned()).await.error();
        assert_eq!(status, 400);
        said += &format!(
            "{}: {}\n",
            detail["code"].as_str().unwrap(),
            detail["detail"].as_str().unwrap()
        );
    }
    expect![[r#"
        TYPE_MISMATCH: line 2 column 10: expected `:`
        TYPE_MISMATCH: line 1 column 19: EOF while parsing an object
        TYPE_MISMATCH: line 1 column 4: trailing characters
        TYPE_MISMATCH: expected the fields of a confold.v1.GetRequest, found a list of 0
        TYPE_MISMATCH: path: expected text, found the number 7
        UNKNOWN_FIELD: confold.v1.GetRequest has no field "pth"
        TYPE_MISMATCH: read.consistency: confold.v1.Consistency has no value "STRONG"
        TYPE_MISMATCH: depth: 99999999999 is out of range: an integer of 32 bits has -2147483648 to 2147483647
        TYPE_MISMATCH: line 1 column 24: "depth" stands here twice
        TYPE_MISMATCH: operations[1].put.proto: not base64: Invalid symbol 33, offset 0.
        LIMIT: line 1 column 109: nested deeper than 100
        LIMIT: line 1 column 127: nested deeper than 100
        TYPE_MISMATCH: line 1 column 1: expected value
    "#]]
    .assert_eq(&said);
    let (status, detail) = server.post("/v1/Get", &b"{\"path\":\n \"\xff\"}"[..]).await.error();
    assert_eq!((status, &detail["detail"]), (400, &json!("line 2 column 3: not UTF-8")));
    assert_eq!(server.fake.take_called(), [""; 0]);
}

#[tokio::test]
async fn what_is_wrong_with_a_query_is_said() {
    let server = start(Fake::new()).await;
    let cases = [
        "/v1/get?pth=/",
        "/v1/get?read=/",
        "/v1/get?depth=deep",
        "/v1/get?path=/a&path=/b",
        "/v1/get?at=1&at=2",
        "/v1/get?path=%ff",
        "/v1/get?format=xml",
        "/v1/list?reverse=maybe",
        "/v1/list?after_key=a&from_key=b",
        "/v1/diff?from=1&from=2",
        "/v1/status?at=3",
    ];
    let mut said = String::new();
    for address in cases {
        let (status, detail) = server.get(address).await.error();
        assert_eq!(status, 400, "{address}");
        said += &format!(
            "{}: {}\n",
            detail["code"].as_str().unwrap(),
            detail["detail"].as_str().unwrap()
        );
    }
    expect![[r#"
        UNKNOWN_FIELD: get has no parameter "pth"
        UNKNOWN_FIELD: get has no parameter "read"
        TYPE_MISMATCH: depth: expected a whole number, found the text "deep"
        TYPE_MISMATCH: path is given twice
        TYPE_MISMATCH: at is given twice
        TYPE_MISMATCH: "%ff" is not UTF-8
        TYPE_MISMATCH: format: confold.v1.Format has no value "xml"
        TYPE_MISMATCH: reverse is true or false, not "maybe"
        TYPE_MISMATCH: from_key: after_key and from_key are alternatives of start: set one
        TYPE_MISMATCH: from is given twice
        UNKNOWN_FIELD: status has no parameter "at"
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn an_address_that_is_none_says_which_there_are() {
    let server = start(Fake::new()).await;
    let put = Request::put("/v1/Get")
        .header("host", "localhost")
        .body(Full::default())
        .unwrap();
    let answers = [
        server.get("/").await,
        server.get("/v2/get").await,
        server.get("/v1/").await,
        server.get("/v1/got").await,
        server.post("/v1/commit", "{}").await,
        server.post("/v1/Got", "{}").await,
        server.get("/v1/Get").await,
        server.post("/v1/get", "{}").await,
        server.post("/livez", "{}").await,
        server.send(put).await,
        server
            .post_as("application/x-www-form-urlencoded", "/v1/Get", "{}")
            .await,
        server.post_as("text/plain", "/v1/CommitStream", "{}").await,
    ];
    let mut said = String::new();
    for answer in answers {
        let (status, detail) = answer.error();
        said += &format!(
            "{status} {} {}",
            answer.header("allow"),
            detail["detail"].as_str().unwrap()
        );
        said += &format!(" | {:.70}\n", detail["hint"].as_str().unwrap());
    }
    expect![[r#"
        404  there is nothing at this address | the calls are at /v1/, beside them are /livez, /readyz and /metrics
        404  there is nothing at this address | the calls are at /v1/, beside them are /livez, /readyz and /metrics
        404  there is no call "" | POST /v1/ with one of Activate, CloseStore, Commit, CommitStream, Crea
        404  there is no call "got" | POST /v1/ with one of Activate, CloseStore, Commit, CommitStream, Crea
        404  there is no call "commit" | it is POST /v1/Commit
        404  there is no call "Got" | POST /v1/ with one of Activate, CloseStore, Commit, CommitStream, Crea
        405 POST this address takes POST | calls are POST /v1/Name; reads also have a form with GET
        405 GET this address takes GET | calls are POST /v1/Name; reads also have a form with GET
        405 GET this address takes GET | calls are POST /v1/Name; reads also have a form with GET
        405 POST this address takes POST | calls are POST /v1/Name; reads also have a form with GET
        415  a body of type "application/x-www-form-urlencoded" is not understood here | send content-type: application/json, as `curl --json` does
        415  a body of type "text/plain" is not understood here | send content-type: application/x-ndjson or application/jsonl or applic
    "#]].assert_eq(&said);
    assert_eq!(server.fake.take_called(), [""; 0]);
}

#[tokio::test]
async fn a_request_without_a_body_is_one_with_nothing_set() {
    let server = start(Fake::new()).await;
    let request = Request::post("/v1/Status").body(Full::default()).unwrap();
    assert_eq!(server.send(request).await.status(), 200);
    assert_eq!(server.post("/v1/Status", "  \n").await.status(), 200);
    assert_eq!(server.fake.take_called(), ["Status", "Status"]);
}

// Reliability Q13: limits at ±1 on both faces.
#[tokio::test]
async fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    let server = start_with(Fake::new(), |options| options.limits.max_event_bytes = 4 << 10).await;
    let limit = (4 << 10) + (1 << 20);

    let padded = |size: usize| format!("{{{}}}", " ".repeat(size - 2));
    assert_eq!(server.post("/v1/Get", padded(limit)).await.status(), 200);
    let (status, detail) = server.post("/v1/Get", padded(limit + 1)).await.error();
    assert_eq!((status, &detail["code"]), (413, &json!("TOO_LARGE")));
    assert_eq!(
        detail["detail"],
        json!(format!("the body is larger than {limit} bytes"))
    );

    let line = |size: usize| format!("{}\n", padded(size));
    let lines = server
        .post_as("application/x-ndjson", "/v1/CommitStream", line(limit) + &line(limit))
        .await
        .lines();
    assert_eq!(lines.len(), 2);
    let lines = server
        .post_as("application/x-ndjson", "/v1/CommitStream", line(limit + 1))
        .await
        .lines();
    assert_eq!(detail_of_last(&lines)["code"], "TOO_LARGE");

    let mut client = server.client().await;
    let request = |size: usize| {
        let overhead = prost::Message::encoded_len(&list("x".repeat(size))) - size;
        list("x".repeat(size - overhead))
    };
    assert_eq!(prost::Message::encoded_len(&request(limit)), limit);
    client.list(request(limit)).await.unwrap();
    server.fake.take_called();
    let refused = client.list(request(limit + 1)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
    assert_eq!(server.fake.take_called(), [""; 0]);

    let answer = client.get(pb::GetRequest::default()).await.unwrap().into_inner();
    // Five lengths grow from one byte to three or four with the value.
    let most = limit - prost::Message::encoded_len(&answer) - 8;
    server.fake.get_bytes.store(most, std::sync::atomic::Ordering::Relaxed);
    let answer = client.get(pb::GetRequest::default()).await.unwrap().into_inner();
    let size = prost::Message::encoded_len(&answer);
    server
        .fake
        .get_bytes
        .store(most + limit - size, std::sync::atomic::Ordering::Relaxed);
    let answer = client.get(pb::GetRequest::default()).await.unwrap().into_inner();
    assert_eq!(prost::Message::encoded_len(&answer), limit);
    server
        .fake
        .get_bytes
        .store(most + limit - size + 1, std::sync::atomic::Ordering::Relaxed);
    let refused = client.get(pb::GetRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
    assert_eq!(server.post("/v1/Get", "{}").await.status(), 400);
}

fn list(path: String) -> pb::ListRequest {
    pb::ListRequest {
        path,
        ..Default::default()
    }
}

fn detail_of_last(lines: &[serde_json::Value]) -> serde_json::Value {
    detail(&lines.last().unwrap()["error"])
}

#[tokio::test]
async fn a_refusal_with_ten_thousand_conflicts_still_fits_into_the_headers() {
    let row = |number: usize| pb::ConflictRow {
        path: format!("/devices/olt-{number}"),
        ..Default::default()
    };
    let mut given = status::error_detail(Code::Conflict, "x".repeat(100_000));
    given.conflicts = (0..10_000).map(row).collect();
    let server = start(Fake::refusing(status::status(&given))).await;
    let refused = server
        .client()
        .await
        .commit(pb::CommitRequest::default())
        .await
        .unwrap_err();
    let shown = status::detail(&refused).unwrap();
    assert_eq!(shown.code, "CONFLICT");
    assert!(
        shown
            .detail
            .ends_with(&format!("({} of 10000 conflicts are shown)", shown.conflicts.len()))
    );
    assert!(!shown.conflicts.is_empty());
    assert_eq!(shown.conflicts, given.conflicts[..shown.conflicts.len()]);
}

#[tokio::test]
async fn a_call_that_panics_fails_alone() {
    let server = start(Fake::new()).await;
    let mut client = server.client().await;
    let panics = pb::SyncRequest {
        store: "panic".to_owned(),
        ..Default::default()
    };
    assert_eq!(client.sync(panics).await.unwrap_err().code(), tonic::Code::Internal);
    assert_eq!(server.post("/v1/Sync", r#"{"store": "panic"}"#).await.status(), 500);
    client.sync(pb::SyncRequest::default()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_grpc_method_or_service_is_unimplemented() {
    let server = start(Fake::new()).await;
    let mut client = tonic::client::Grpc::new(server.channel().await);
    for path in ["/confold.v1.Store/Nothing", "/confold.v1.Nothing/Get", "/"] {
        client.ready().await.unwrap();
        let request = tonic::Request::new(bytes::Bytes::new());
        let refused = client
            .unary(request, path.parse().unwrap(), crate::net::Raw)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unimplemented, "{path}");
    }
}
