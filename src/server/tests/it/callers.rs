//! Who calls: told by the connection and one header, asked for before anything else.

use crate::{
    calls::methods,
    fake::{Fake, Gatekeeper, refusal},
    net::{Raw, Running, read_to_end, start, start_behind, start_with},
};
use bytes::Bytes;
use confold_model::code::Code;
use confold_wire::{pb, status};
use futures::stream;
use http::{Request, uri::PathAndQuery};
use http_body_util::Full;
use std::{collections::BTreeMap, sync::Arc};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tonic::client::Grpc;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

fn with<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

async fn ask(server: &Running, path: &str, headers: &[(&str, &[u8])]) -> crate::net::Answer {
    let mut request = match path.strip_prefix("POST ") {
        Some(path) => Request::post(path).header("content-type", "application/json"),
        None => Request::get(path),
    };
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Full::default()).unwrap()).await
}

#[tokio::test]
async fn each_call_goes_to_the_service_of_its_caller() {
    let known: BTreeMap<_, _> = [("ada", Fake::new()), ("ben", Fake::new())].into();
    let gate = Arc::new(Gatekeeper {
        known: known.clone(),
        ..Gatekeeper::default()
    });
    let server = start_behind(gate, |_| ()).await;
    // One connection, and each call says for itself who makes it.
    let mut client = server.client().await;
    let none = || pb::StatusRequest::default();
    client.status(with("ada", none())).await.unwrap();
    client.sync(with("ben", pb::SyncRequest::default())).await.unwrap();
    client.prune(pb::PruneRequest::default()).await.unwrap();
    assert_eq!(known["ada"].take_called(), ["Status"]);
    assert_eq!(known["ben"].take_called(), ["Sync"]);
    assert_eq!(server.fake.take_called(), ["Prune"]);

    let answer = ask(&server, "/v1/status", &[("authorization", b"Bearer ben")]).await;
    assert_eq!(answer.status(), 200);
    let answer = ask(&server, "POST /v1/ListStream", &[("authorization", b"bearer ada")]).await;
    assert_eq!(answer.status(), 200);
    let answer = ask(&server, "POST /v1/CommitStream", &[("authorization", b"Bearer ada")]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(known["ada"].take_called(), ["ListStream", "CommitStream"]);
    assert_eq!(known["ben"].take_called(), ["Status"]);
    assert_eq!(server.fake.take_called(), [""; 0]);

    let callers = server.gate.callers.lock().unwrap();
    assert!(
        callers
            .iter()
            .all(|caller| caller.local && caller.certificate.is_none())
    );
}

// Reliability Q6, its part before rights: nobody is asked what the request says before it is known who calls.
#[tokio::test]
async fn where_tokens_are_asked_for_a_call_without_one_reaches_nothing() {
    let server = start_with(Fake::new(), |options| options.require_token = true).await;
    let mut client = Grpc::new(server.channel().await);
    let wrong: [&[(&str, &[u8])]; 6] = [
        &[],
        &[("authorization", b"Basic YWRhOnNlY3JldA==")],
        &[("authorization", b"Bearer")],
        &[("authorization", b"Bearer a b")],
        &[("authorization", b"Bearer \xff")],
        &[("authorization", b"Bearer ada"), ("authorization", b"Bearer ben")],
    ];
    for method in methods() {
        client.ready().await.unwrap();
        let path: PathAndQuery = format!("/confold.v1.Store/{}", method.name()).parse().unwrap();
        // Not even a request that never comes is waited for.
        let requests = tonic::Request::new(stream::pending::<Bytes>());
        let refused = client.streaming(requests, path, Raw).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{}", method.name());
        assert_eq!(status::detail(&refused).unwrap().code, "UNAUTHENTICATED");
        for headers in wrong {
            let answer = ask(&server, &format!("POST /v1/{}", method.name()), headers).await;
            let (http, detail) = answer.error();
            assert_eq!((http, &detail["code"]), (401, &"UNAUTHENTICATED".into()), "{headers:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    // An address is written down in too many places to be believed.
    for address in [
        "/v1/status?access_token=ada",
        "/v1/status?token=ada",
        "/v1/status?authorization=Bearer%20ada",
    ] {
        assert_eq!(ask(&server, address, &[]).await.status(), 401, "{address}");
    }
    assert_eq!(server.fake.take_called(), [""; 0]);
    assert_eq!(
        ask(&server, "/v1/status", &[("authorization", b"Bearer ada")])
            .await
            .status(),
        200
    );
    server
        .client()
        .await
        .status(with("ada", pb::StatusRequest::default()))
        .await
        .unwrap();
    assert_eq!(server.fake.take_called(), ["Status", "Status"]);
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    let server = start_with(Fake::new(), |options| options.require_token = true).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/Commit HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close";
    stream
        .write_all(format!("{head}\r\ncontent-length: 9000000\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 401"));
}

/// A header that is there and says nothing is a mistake of whoever believes to be known.
#[tokio::test]
async fn a_token_that_cannot_be_read_is_refused_also_where_none_is_asked_for() {
    let server = start(Fake::new()).await;
    assert_eq!(
        ask(&server, "/v1/status", &[("authorization", b"Basic x")])
            .await
            .status(),
        401
    );
    assert_eq!(ask(&server, "/v1/status", &[]).await.status(), 200);
    assert_eq!(server.fake.take_called(), ["Status"]);
}

// Reliability Q9.
#[tokio::test]
async fn whether_it_lives_is_told_to_everybody_and_how_it_does_is_not() {
    let server = start_with(Fake::new(), |options| options.require_token = true).await;
    let mut health = HealthClient::new(server.channel().await);
    let serving = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(serving.status, 1);
    assert_eq!(ask(&server, "/livez", &[]).await.text(), "alive\n");
    let ada: &[(&str, &[u8])] = &[("authorization", b"Bearer ada")];

    // Without a token; with one that may not; with one that may.
    assert_eq!(ask(&server, "/readyz", &[]).await.text(), "ready\n");
    assert_eq!(ask(&server, "/metrics", &[]).await.error().0, 401);
    *server.gate.uninspected.lock().unwrap() = Some(refusal(Code::Permission, "", "not for you"));
    assert_eq!(ask(&server, "/readyz", ada).await.text(), "ready\n");
    assert_eq!(ask(&server, "/metrics", ada).await.error().0, 403);
    assert_eq!(reflect(&server, None).await, Err(tonic::Code::Unauthenticated));
    assert_eq!(reflect(&server, Some("ada")).await, Err(tonic::Code::PermissionDenied));
    *server.gate.uninspected.lock().unwrap() = None;
    assert_eq!(
        ask(&server, "/readyz", ada).await.text(),
        "net: SERVING, 0 records behind\n"
    );
    assert_eq!(ask(&server, "/metrics", ada).await.status(), 200);
    assert_eq!(reflect(&server, Some("ada")).await, Ok(()));

    server.health.lock().unwrap()[0].state = pb::State::Degraded;
    let answer = ask(&server, "/readyz", &[]).await;
    assert_eq!((answer.status().as_u16(), answer.text().as_str()), (503, "not ready\n"));
}

async fn reflect(server: &Running, token: Option<&str>) -> Result<(), tonic::Code> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let asked = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let requests = stream::iter([asked]);
    let request = match token {
        Some(token) => with(token, requests),
        None => tonic::Request::new(requests),
    };
    let mut client = ServerReflectionClient::new(server.channel().await);
    let answers = client.server_reflection_info(request).await;
    answers.map(drop).map_err(|refused| refused.code())
}
