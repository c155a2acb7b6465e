//! Clients that are broken or mean harm: the server refuses, closes, and answers the next one.

use crate::{
    authority::Authority,
    fake::Fake,
    net::{Running, read_to_end, start, start_with},
    tls,
};
use confold_server::{Limits, Options};
use http::Request;
use http_body_util::Full;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(60);

async fn answers(server: &Running) {
    assert_eq!(server.get("/livez").await.text(), "alive\n");
    server
        .client()
        .await
        .status(confold_wire::pb::StatusRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_not_http_is_closed() {
    let server = start_with(Fake::new(), |options| options.limits.header_timeout = SHORT).await;
    let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    let large_header = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(17 << 10));
    let cases: [(&[u8], &str); 9] = [
        (b"\0\0\0\0\r\n\r\n", "HTTP/1.1 400"),
        (b"hello\r\n\r\n", "HTTP/1.1 400"),
        (b"GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 400"),
        (b"POST /v1/Get HTTP/1.1\r\ncontent-length: -1\r\n\r\n", "HTTP/1.1 400"),
        (
            b"POST /v1/Get HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 400",
        ),
        (long_line.as_bytes(), "HTTP/1.1 4"),
        (many_headers.as_bytes(), "HTTP/1.1 431"),
        (large_header.as_bytes(), "HTTP/1.1 431"),
        // The preface of HTTP/2 and then no frame of it: told so, and closed.
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "",
        ),
    ];
    for (bytes, expected) in cases {
        let answer = server.raw(bytes).await;
        assert!(
            answer.starts_with(expected),
            "{:?}: {answer}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    answers(&server).await;
}

#[tokio::test]
async fn headers_may_take_as_long_as_the_limit_and_no_longer() {
    let server = start_with(Fake::new(), |options| options.limits.header_timeout = SHORT).await;
    // Nothing, half a preface, half a request line, half a head: each ends by the server's decision.
    for begun in [
        "",
        "PRI * HTTP/2",
        "GET /livez HT",
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, "", "{begun:?}");
    }
    answers(&server).await;
}

#[tokio::test]
async fn a_body_that_dawdles_is_given_up() {
    let server = start_with(Fake::new(), |options| options.limits.body_timeout = SHORT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head =
        "POST /v1/Get HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("nothing more of the body came for 100ms"), "{answer}");
    answers(&server).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let server = start_with(Fake::new(), |options| options.limits.max_connections = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(read_to_end(&mut refused).await, "");
    // Those that are open go on, and when one ends there is room again.
    let mut last = open.pop().unwrap();
    last.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read_to_end(&mut last).await.ends_with("alive\n"));
    loop {
        let mut next = TcpStream::connect(server.address).await.unwrap();
        // It may be closed before it could say anything.
        let _ = next
            .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await;
        if read_to_end(&mut next).await.ends_with("alive\n") {
            break;
        }
    }
}

/// `CONFOLD_SILENT` for more, as far as the limit of open files goes: each takes two.
pub fn silent_connections() -> usize {
    std::env::var("CONFOLD_SILENT").map_or(400, |number| number.parse().unwrap())
}

// Reliability Q16: many idle connections do not keep a probe waiting.
#[tokio::test]
async fn a_probe_is_answered_beside_hundreds_of_silent_connections() {
    let server = start(Fake::new()).await;
    let mut silent = Vec::new();
    for _ in 0..silent_connections() {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let probe = tokio::time::timeout(Duration::from_secs(1), server.get("/livez"))
        .await
        .unwrap();
    assert_eq!(probe.text(), "alive\n");
}

#[tokio::test]
async fn an_old_connection_ends_after_its_calls() {
    let server = start_with(Fake::new(), |options| options.limits.max_connection_age = SHORT).await;
    // Idle, it ends by itself.
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(read_to_end(&mut idle).await, "");
    // With a call in flight it waits for it: the gate opens when the connection is too old already.
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    let body = "{\"store\":\"slow\"}";
    let head = "POST /v1/Sync HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    busy.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
        .await
        .unwrap();
    server
        .fake
        .waiting
        .subscribe()
        .wait_for(|waiting| *waiting == 1)
        .await
        .unwrap();
    let mut older = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(read_to_end(&mut older).await, "");
    server.fake.gate.notify_waiters();
    let answer = read_to_end(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_connection_that_outlives_its_grace_is_cut_off() {
    let server = start_with(Fake::new(), |options| {
        options.limits.max_connection_age = SHORT;
        options.limits.max_connection_age_grace = SHORT;
    })
    .await;
    let mut client = server.client().await;
    let request = confold_wire::pb::SyncRequest {
        store: "slow".to_owned(),
        ..Default::default()
    };
    client.sync(request).await.unwrap_err();
    server
        .fake
        .given_up
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .unwrap();
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused_and_those_in_flight_go_on() {
    let server = start_with(Fake::new(), |options| options.limits.max_calls = 2).await;
    let slow = confold_wire::pb::SyncRequest {
        store: "slow".to_owned(),
        ..Default::default()
    };
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let (slow, client) = (slow.clone(), server.client());
            async move { client.await.sync(slow).await }
        })
        .collect();
    let in_flight = futures::future::join_all(calls);
    let beyond = async {
        server
            .fake
            .waiting
            .subscribe()
            .wait_for(|waiting| *waiting == 2)
            .await
            .unwrap();
        let refused = server.client().await.sync(slow.clone()).await.unwrap_err();
        assert_eq!(refused.message(), "UNAVAILABLE: 2 calls are in flight already");
        assert_eq!(server.post("/v1/Sync", "{}").await.error().0, 503);
        server.fake.gate.notify_waiters();
    };
    let (in_flight, ()) = tokio::join!(in_flight, beyond);
    assert!(in_flight.iter().all(Result::is_ok));
    server
        .client()
        .await
        .sync(confold_wire::pb::SyncRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_tells_how_many_streams_and_headers_it_takes() {
    let server = start(Fake::new()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The preface and empty settings.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[3], 4, "the first frame is settings");
    let mut settings = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let setting = |wanted: u16| {
        let mut pairs = settings.chunks_exact(6);
        let pair = pairs.find(|pair| pair[..2] == wanted.to_be_bytes()).unwrap();
        u32::from_be_bytes(pair[2..].try_into().unwrap())
    };
    assert_eq!((setting(3), setting(6)), (256, 16 << 10));
}

/// What a client can pour into one connection of HTTP/2: resets, headers without end, empty frames, frames that mean
/// nothing.
pub fn floods() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    // POST http://localhost/, by the static table.
    let head = b"\x83\x86\x84\x41\x09localhost";
    // A header `a: bbb…` that is not indexed.
    let header = [b"\x00\x01a\x7e".as_slice(), &[b'b'; 126]].concat();

    let resets = (0..20_000u32).flat_map(|n| {
        [
            frame(HEADERS, END_HEADERS, 2 * n + 1, head),
            frame(RESET, 0, 2 * n + 1, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    let continuations = [
        frame(HEADERS, 0, 1, head),
        frame(CONTINUATION, 0, 1, &header).repeat(20_000),
    ]
    .concat();
    let empty = [
        frame(HEADERS, 0, 1, head),
        frame(CONTINUATION, 0, 1, &[]).repeat(100_000),
    ]
    .concat();
    let unknown = frame(PING, 0, 7, &[0; 8]);
    [resets.collect(), continuations, empty, unknown]
        .into_iter()
        .map(|flood| [preface.clone(), flood].concat())
        .collect()
}

/// Pours all of it in, as far as the server lets it, and reads until the server closes.
pub async fn pour<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, flood: Vec<u8>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let written = tokio::spawn(async move {
        let _ = write.write_all(&flood).await;
        write
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(1..) = read.read(&mut buffer).await {}
    drop(written.await.unwrap());
}

// Reliability Q16: each flood ends with the connection, and the next client is served.
#[tokio::test]
async fn a_flood_on_one_connection_ends_that_connection() {
    let server = start(Fake::new()).await;
    for flood in floods() {
        pour(TcpStream::connect(server.address).await.unwrap(), flood).await;
        answers(&server).await;
    }
    assert!(server.fake.take_called().iter().all(|called| *called == "Status"));
}

// Reliability Q14: what is compressed is never inflated.
#[tokio::test]
async fn compressed_requests_are_refused() {
    let server = start(Fake::new()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://localhost/confold.v1.Store/Status")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .body(Full::new(bytes::Bytes::from_static(&[1, 0, 0, 0, 1, 0])))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let unimplemented = (tonic::Code::Unimplemented as i32).to_string();
    assert_eq!(answer.headers()["grpc-status"], unimplemented.as_str());

    let request = Request::post("/v1/Status")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(Full::new(bytes::Bytes::from_static(&[0x1f, 0x8b])))
        .unwrap();
    let (status, detail) = server.send(request).await.error();
    assert_eq!((status, detail["code"].as_str()), (415, Some("UNSUPPORTED")));
    assert_eq!(server.fake.take_called(), [""; 0]);
}

/// Asks for what is refused by its head alone, and hears why before the body is sent; then sends it and hangs up.
async fn refused_by_its_head<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    const BODY: usize = 8 << 20;
    let head = "POST /v1/Status HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-encoding: gzip";
    let head = format!("{head}\r\ncontent-length: {BODY}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 415") && answer.contains("UNSUPPORTED"), "{answer}");
    stream.write_all(&vec![0; BODY]).await.unwrap();
    stream.shutdown().await.unwrap();
}

// RFC 9112, section 9.6.
#[tokio::test]
async fn a_client_that_still_sends_its_body_sees_why_it_was_refused() {
    let lingering = |options: &mut Options| options.limits.linger_timeout = LONG;
    let server = start_with(Fake::new(), lingering).await;
    refused_by_its_head(TcpStream::connect(server.address).await.unwrap()).await;

    let authority = Authority::new();
    let server = start_with(Fake::new(), |options| {
        lingering(options);
        options.tls = Some(authority.server());
    })
    .await;
    refused_by_its_head(tls::connect(server.address, &authority.pem()).await).await;
}

#[tokio::test]
async fn a_client_that_sends_on_without_end_is_heard_out_for_a_while_and_no_longer() {
    let server = start_with(Fake::new(), |options| options.limits.linger_timeout = SHORT).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/Status HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-length: 1099511627776";
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let sent_on = async { while stream.write_all(&[0; 1 << 16]).await.is_ok() {} };
    tokio::time::timeout(LONG, sent_on).await.unwrap();
    answers(&server).await;
}

#[tokio::test]
async fn a_name_that_is_not_this_machines_is_not_answered_to() {
    let server = start(Fake::new()).await;
    let ask = async |host: &str| {
        let request = Request::get("/v1/status")
            .header("host", host)
            .body(Full::default())
            .unwrap();
        server.send(request).await.status().as_u16()
    };
    for host in [
        "localhost",
        "localhost:7433",
        "LOCALHOST",
        "net.localhost",
        "127.0.0.1:1",
        "127.9.9.9",
        "[::1]:7",
        "[::1]",
    ] {
        assert_eq!(ask(host).await, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:7433",
        "localhost.evil.example",
        "10.0.0.1",
        "[2001:db8::1]:7",
        "",
    ] {
        assert_eq!(ask(host).await, 403, "{host}");
    }
}

#[test]
fn no_limit_is_absent() {
    let limits = Limits::default();
    assert_eq!(limits.message_bytes(), 17 << 20);
    assert_eq!((limits.max_streams, limits.header_bytes), (256, 16 << 10));
}
