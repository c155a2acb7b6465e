//! Starting, being ready, and stopping.

use crate::{
    fake::Fake,
    net::{read_to_end, serving, start, start_with},
};
use confold_server::{BindError, Options, Server, StoreHealth};
use confold_wire::{caller::Open, pb};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

async fn bind(address: &str) -> Result<Server, BindError> {
    let options = Options {
        address: address.parse().unwrap(),
        ..Options::default()
    };
    Server::bind(options, Arc::new(Open(Fake::new())), Arc::new(Vec::<StoreHealth>::new)).await
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let refused = bind(&address.to_string()).await.err().unwrap();
    let said = "is taken by another process: stop that one, or listen on another port (port 0 picks a free one)";
    assert_eq!(refused.to_string(), format!("{address} {said}"));
}

#[tokio::test]
async fn port_zero_is_answered_with_the_port_that_was_picked() {
    let server = bind("127.0.0.1:0").await.unwrap();
    assert_ne!(server.local_addr().port(), 0);
    assert_eq!(server.local_addr().ip(), SocketAddr::from(([127, 0, 0, 1], 0)).ip());
}

#[tokio::test]
async fn ready_is_who_serves_and_is_not_behind() {
    let server = start_with(Fake::new(), |options| options.ready_lag = 10).await;
    let behind = |lag| StoreHealth { lag, ..serving("net") };
    let degraded = StoreHealth {
        state: pb::State::Degraded,
        reason: "the disk is full".to_owned(),
        ..serving("lab")
    };
    let cases = [
        (vec![serving("net")], 200, "net: SERVING, 0 records behind\n"),
        (vec![behind(10)], 200, "net: SERVING, 10 records behind\n"),
        (
            vec![behind(11)],
            503,
            "net: SERVING, 11 records behind (ready at 10 or fewer)\n",
        ),
        (
            vec![degraded],
            503,
            "lab: DEGRADED, 0 records behind: the disk is full\n",
        ),
        (vec![], 503, "no store is open\n"),
    ];
    let mut client = HealthClient::new(server.channel().await);
    for (stores, status, text) in cases {
        *server.health.lock().unwrap() = stores;
        let answer = server.get("/readyz").await;
        assert_eq!((answer.status().as_u16(), answer.text().as_str()), (status, text));
        assert_eq!(server.get("/livez").await.status(), 200);
        let expected = if status == 200 {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in ["", "confold.v1.Store"] {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            assert_eq!(client.check(request).await.unwrap().into_inner().status(), expected);
        }
    }
    let unknown = client
        .check(HealthCheckRequest {
            service: "nothing".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_server_waits_for_its_stores_at_the_start_and_then_goes_on_with_those_that_are_ready() {
    let server = start(Fake::new()).await;
    let as_of = |store: &str, state| StoreHealth {
        state,
        ..serving(store)
    };
    let ready = async |stores| {
        *server.health.lock().unwrap() = stores;
        server.get("/readyz").await.status().as_u16()
    };
    use pb::State::*;
    assert_eq!(ready(vec![serving("a"), as_of("b", CatchingUp)]).await, 503);
    assert_eq!(ready(vec![serving("a"), as_of("b", Degraded)]).await, 503);
    assert_eq!(ready(vec![as_of("b", Fenced)]).await, 503);
    // A store that stopped for good is not waited for.
    assert_eq!(ready(vec![serving("a"), as_of("b", Fenced)]).await, 200);
    // From here on one is enough.
    for state in [
        CatchingUp,
        Degraded,
        Fenced,
        Quarantined,
        Halted,
        SnapshotNeeded,
        Closed,
    ] {
        assert_eq!(ready(vec![serving("a"), as_of("b", state)]).await, 200, "{state:?}");
        assert_eq!(ready(vec![as_of("b", state)]).await, 503, "{state:?}");
    }
    *server.health.lock().unwrap() = vec![serving("a"), as_of("b", Fenced)];
    let answer = server.get("/readyz").await;
    assert_eq!(
        answer.text(),
        "a: SERVING, 0 records behind\nb: FENCED, 0 records behind\n"
    );
    for (query, status) in [
        ("store=a", 200),
        ("store=b", 503),
        ("store=c", 404),
        ("stare=a", 400),
        ("store=a&store=b", 400),
    ] {
        assert_eq!(
            server.get(&format!("/readyz?{query}")).await.status().as_u16(),
            status,
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_watch_of_the_health_is_told_what_changes() {
    let server = start(Fake::new()).await;
    let mut client = HealthClient::new(server.channel().await);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.health.lock().unwrap()[0].state = pb::State::CatchingUp;
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    let request = HealthCheckRequest {
        service: "nothing".to_owned(),
    };
    let mut unknown = client.watch(request).await.unwrap().into_inner();
    assert_eq!(
        unknown.message().await.unwrap().unwrap().status(),
        ServingStatus::ServiceUnknown
    );
    // A watch does not hold the end up.
    assert_eq!(server.ended().await.cut_off, 0);
}

#[tokio::test]
async fn reflection_tells_of_the_service_unless_it_is_off() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let request = || {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        futures::stream::iter([ServerReflectionRequest {
            host: String::new(),
            message_request,
        }])
    };
    let server = start(Fake::new()).await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(request()).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        services
            .service
            .iter()
            .any(|service| service.name == "confold.v1.Store")
    );

    let without = start_with(Fake::new(), |options| options.reflection = false).await;
    let mut client = ServerReflectionClient::new(without.channel().await);
    let refused = client.server_reflection_info(request()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn stopping_lets_calls_in_flight_finish_and_takes_no_more() {
    let metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut server = start_with(Fake::new(), |options| options.metrics = metrics).await;
    let mut probe = TcpStream::connect(server.address).await.unwrap();
    probe
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    probe.read_exact(&mut [0; 1]).await.unwrap();

    let mut over_grpc = server.client().await;
    let slow = pb::SyncRequest {
        store: "slow".to_owned(),
        ..Default::default()
    };
    let over_grpc = tokio::spawn(async move { over_grpc.sync(slow).await });
    let mut over_http = TcpStream::connect(server.address).await.unwrap();
    let body = "{\"store\":\"slow\"}";
    let head = "POST /v1/Sync HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    over_http
        .write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
        .await
        .unwrap();
    server
        .fake
        .waiting
        .subscribe()
        .wait_for(|waiting| *waiting == 2)
        .await
        .unwrap();

    server.stop();
    // The idle connection ends first, which says that the server has begun to stop.
    read_to_end(&mut probe).await;
    let refused = TcpStream::connect(server.address).await;
    assert!(refused.is_err(), "nobody listens any more");
    // Whoever watches sees it stop.
    let ready = server.watched("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("the server is shutting down\n"), "{ready}");
    server.fake.gate.notify_waiters();
    over_grpc.await.unwrap().unwrap();
    let answer = read_to_end(&mut over_http).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.ended().await.cut_off, 0);
}

#[tokio::test]
async fn stopping_ends_a_stream_of_commits_and_says_so() {
    let server = start(Fake::new()).await;
    let (send, mut receive) = tokio::sync::mpsc::channel(1);
    let requests = futures::stream::poll_fn(move |cx| receive.poll_recv(cx));
    let mut answers = server
        .client()
        .await
        .commit_stream(requests)
        .await
        .unwrap()
        .into_inner();
    send.send(pb::CommitStreamRequest {
        correlation: 7,
        commit: None,
    })
    .await
    .unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().correlation, 7);
    let ended = tokio::spawn(server.ended());
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.message().contains("the server is stopping"), "{refused}");
    assert_eq!(ended.await.unwrap().cut_off, 0);
}

#[tokio::test]
async fn stopping_does_not_wait_longer_than_its_grace() {
    let grace = Duration::from_millis(50);
    let server = start_with(Fake::new(), |options| options.limits.shutdown_grace = grace).await;
    let mut client = server.client().await;
    let slow = pb::SyncRequest {
        store: "slow".to_owned(),
        ..Default::default()
    };
    let call = tokio::spawn(async move { client.sync(slow).await });
    let fake = Arc::clone(&server.fake);
    fake.waiting
        .subscribe()
        .wait_for(|waiting| *waiting == 1)
        .await
        .unwrap();
    assert_eq!(server.ended().await.cut_off, 1);
    call.await.unwrap().unwrap_err();
}
