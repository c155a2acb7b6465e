//! Every call reaches the method of `Api` that has its name, over both faces.

use crate::{
    fake::Fake,
    net::{Raw, start, start_with},
};
use bytes::Bytes;
use confold_wire::{json, pb};
use futures::{StreamExt, stream};
use http::uri::PathAndQuery;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use tokio::{net::TcpStream, sync::mpsc};
use tonic::client::Grpc;

/// Names from the descriptor, so that a call that is added and not served fails here.
pub fn methods() -> Vec<prost_reflect::MethodDescriptor> {
    let service = json::types()
        .unwrap()
        .pool()
        .get_service_by_name("confold.v1.Store")
        .unwrap();
    let methods: Vec<_> = service.methods().collect();
    assert!(methods.len() >= 25, "the descriptor has lost its methods");
    methods
}

#[tokio::test]
async fn every_call_over_grpc_reaches_its_method() {
    let server = start(Fake::new()).await;
    let mut client = Grpc::new(server.channel().await);
    for method in methods() {
        client.ready().await.unwrap();
        let path: PathAndQuery = format!("/confold.v1.Store/{}", method.name()).parse().unwrap();
        let request = tonic::Request::new(stream::iter([Bytes::new()]));
        let mut answers = client.streaming(request, path, Raw).await.unwrap().into_inner();
        let mut count = 0;
        while let Some(answer) = answers.message().await.unwrap() {
            prost_reflect::DynamicMessage::decode(method.output(), answer).unwrap();
            count += 1;
        }
        let expected = if method.is_server_streaming() && !method.is_client_streaming() {
            2
        } else {
            1
        };
        assert_eq!(count, expected, "{}", method.name());
        assert_eq!(server.fake.take_called(), [method.name()]);
    }
}

#[tokio::test]
async fn every_call_over_http_reaches_its_method() {
    let server = start(Fake::new()).await;
    for method in methods() {
        let answer = server.post(&format!("/v1/{}", method.name()), "{}").await;
        assert_eq!(answer.status(), 200, "{}: {}", method.name(), answer.text());
        match (method.is_client_streaming(), method.is_server_streaming()) {
            (true, _) => assert_eq!(answer.lines(), [json!({"decision": {}})]),
            (false, true) => assert_eq!(answer.lines(), [json!({}), json!({})]),
            (false, false) => assert!(answer.json().is_object()),
        }
        assert_eq!(server.fake.take_called(), [method.name()]);
    }
}

#[tokio::test]
async fn reads_have_a_form_with_get() {
    let server = start(Fake::new()).await;
    let cases = [
        ("/v1/get?path=/devices/olt-1&depth=1&at=4182~3&mask=a,b&mask=c", "Get"),
        (
            "/v1/list?path=/devices&after_key=olt-1&reverse&page_size=5&no_values=true",
            "List",
        ),
        (
            "/v1/diff?from=41&to=latest&path=/devices&limit=7&values=1&consistency=linearizable",
            "Diff",
        ),
        (
            "/v1/log?path=/devices/**&author=ada&oldest_first&after=9&brief=false&token=7@00",
            "Log",
        ),
        ("/v1/show?at=tag:v1", "Show"),
        ("/v1/status", "Status"),
        ("/v1/stores", "ListStores"),
        ("/v1/tags?at=17", "ListTags"),
        ("/v1/schema?at=latest", "GetSchema"),
        ("/v1/retention?store=net", "GetRetention"),
        ("/v1/outcome?event_id=7-00&wait_ms=50", "Outcome"),
    ];
    for (address, method) in cases {
        let answer = server.get(address).await;
        assert_eq!(answer.status(), 200, "{address}: {}", answer.text());
        assert_eq!(server.fake.take_called(), [method], "{address}");
    }
    let asked = server.fake.gets.lock().unwrap()[0].clone();
    let read = Some(pb::Read {
        at: "4182~3".to_owned(),
        ..Default::default()
    });
    let mask = ["a", "b", "c"].map(str::to_owned).to_vec();
    let format = pb::Format::Json as i32;
    let expected = pb::GetRequest {
        path: "/devices/olt-1".to_owned(),
        depth: 1,
        read,
        mask,
        format,
        ..Default::default()
    };
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_key_in_a_query_is_unescaped_once() {
    let server = start(Fake::new()).await;
    server
        .get("/v1/get?path=%2Fdevices%2Folt%252F1&store=a+b%2Bc")
        .await
        .json();
    let asked = server.fake.gets.lock().unwrap()[0].clone();
    assert_eq!(
        (asked.path.as_str(), asked.store.as_str()),
        ("/devices/olt%2F1", "a b+c")
    );
}

#[tokio::test]
async fn a_value_that_is_json_stands_in_an_answer_as_it_is() {
    let server = start(Fake::new()).await;
    let answer = server
        .post("/v1/Get", r#"{"path": "/devices/olt-1", "format": "FORMAT_JSON"}"#)
        .await
        .json();
    let value = json!({"json": {"id": "olt-1", "ports": [{"number": 3}]}, "type": "example.Device"});
    assert_eq!(answer["nodes"][0]["value"], value);
    // Without a format it is protobuf's bytes, as over gRPC.
    server.fake.get_bytes.store(3, std::sync::atomic::Ordering::Relaxed);
    let answer = server.post("/v1/Get", "{}").await.json();
    assert_eq!(
        answer["nodes"][0]["value"],
        json!({"proto": "BwcH", "type": "example.Device"})
    );
}

#[tokio::test]
async fn a_value_may_stand_in_a_request_as_it_is_or_as_text() {
    let server = start(Fake::new()).await;
    for value in [json!({"id": "olt-1"}), json!("{\"id\":\"olt-1\"}")] {
        let operation = json!({"path": "/devices", "add": {"json": value}});
        let answer = server
            .post("/v1/Commit", json!({"operations": [operation]}).to_string())
            .await
            .json();
        assert_eq!(answer["outcome"], "COMMITTED");
    }
    let expected = pb::text_operation::Kind::Add(pb::Value {
        form: Some(pb::value::Form::Json("{\"id\":\"olt-1\"}".to_owned())),
        ..Default::default()
    });
    for commit in &*server.fake.commits.lock().unwrap() {
        assert_eq!(commit.operations[0].kind.as_ref(), Some(&expected));
    }
}

#[tokio::test]
async fn commits_on_a_stream_are_answered_one_by_one_over_grpc() {
    let server = start(Fake::new()).await;
    let mut client = server.client().await;
    let (send, mut receive) = mpsc::channel(4);
    let requests = stream::poll_fn(move |cx| receive.poll_recv(cx));
    let mut answers = client.commit_stream(requests).await.unwrap().into_inner();
    for correlation in 1..=3 {
        send.send(pb::CommitStreamRequest {
            correlation,
            commit: None,
        })
        .await
        .unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().correlation, correlation);
    }
    drop(send);
    assert_eq!(answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn commits_on_a_stream_are_answered_one_by_one_over_http() {
    let server = start(Fake::new()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let (send, mut receive) = mpsc::channel::<&'static str>(4);
    let body = stream::poll_fn(move |cx| receive.poll_recv(cx))
        .map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes()))));
    let request = http::Request::post("/v1/CommitStream")
        .header("host", "localhost")
        .header("content-type", "application/x-ndjson")
        .body(StreamBody::new(body))
        .unwrap();
    // Nothing was sent yet, and the answer has begun.
    let mut answers = sender.send_request(request).await.unwrap().into_body();
    let mut next = async || {
        let frame = answers.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
        frame.map(|frame| String::from_utf8(frame.to_vec()).unwrap())
    };
    send.send("{\"correlation\": 1}\n").await.unwrap();
    assert_eq!(next().await.unwrap(), "{\"correlation\":\"1\",\"decision\":{}}\n");
    // Lines do not care how they are cut into pieces, and blank ones do not count.
    send.send("\n{\"corr").await.unwrap();
    send.send("elation\": 2}\r\n{\"correlation\": \"3\"}").await.unwrap();
    assert_eq!(next().await.unwrap(), "{\"correlation\":\"2\",\"decision\":{}}\n");
    drop(send);
    assert_eq!(next().await.unwrap(), "{\"correlation\":\"3\",\"decision\":{}}\n");
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn json_goes_over_http_2_as_well() {
    let server = start(Fake::new()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for (host, status) in [("localhost", 200), ("evil.example", 403)] {
        let request = http::Request::post(format!("http://{host}/v1/Status"))
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(Bytes::from_static(b"{}")))
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn the_echo_is_there_when_asked_for_and_only_then() {
    use confold_server::echo::{Payload, call};
    let payload = Payload {
        data: Bytes::from_static(&[7; 256]),
    };
    let without = start(Fake::new()).await;
    let refused = call(&mut Grpc::new(without.channel().await), payload.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    let with = start_with(Fake::new(), |options| options.echo = true).await;
    assert_eq!(
        call(&mut Grpc::new(with.channel().await), payload.clone())
            .await
            .unwrap(),
        payload
    );
}
