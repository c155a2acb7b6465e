//! Clients that ask for too much, against a real server on the embedded log: every limit of a store from both sides and over both faces,
//! and nesting without end.

use crate::server::{CONFOLD, ServerProcess, confold_with};
use bytes::Bytes;
use confold::Embedded;
use confold::client::Remote;
use confold::wire::api::Api;
use confold::wire::pb::{self, text_operation::Kind, value::Form};
use confold::wire::{json, schema_source, status};
use http_body_util::{BodyExt, Full};
use hyper::client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SCHEMA: &str = r#"
syntax = "proto3";
package deep;
import "confold/options.proto";
message Root { repeated Node nodes = 1 [(confold.v1.child_node) = {key: "id"}]; }
message Node {
  string id = 1;
  string text = 2;
  Plain plain = 3;
  repeated Node nodes = 4 [(confold.v1.child_node) = {key: "id"}];
}
message Plain { Plain inner = 1; }
"#;

/// A server with that schema.
async fn serve(folder: &Path) -> ServerProcess {
    Embedded::create(&folder.join("data"), "deep").unwrap();
    let server = ServerProcess::start(&folder.join("data"));
    std::fs::write(folder.join("deep.proto"), SCHEMA).unwrap();
    let compiled = schema_source::descriptor_set_of(&folder.join("deep.proto"), &[]).unwrap();
    let request = pb::PushSchemaRequest {
        descriptor_set: compiled.descriptor_set.into(),
        root_message: "deep.Root".to_owned(),
        ..Default::default()
    };
    Remote::connect(&server.address).unwrap().push_schema(request).await.unwrap();
    server
}

/// `ok`, or the code and the words of a refusal; over HTTP.
fn post(address: &str, call: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("POST /v1/{call} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json");
    // An answer may come, and the connection end, before all of the body is sent.
    _ = stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let mut answer = Vec::new();
    _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer.starts_with("HTTP/1.1 200") {
        return ("ok".to_owned(), String::new());
    }
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no status: {answer:?}"));
    let detail = &status["details"][0];
    let text = |key: &str| detail[key].as_str().unwrap_or_default().to_owned();
    (text("code"), text("detail"))
}

/// The same over gRPC.
fn said<T>(result: Result<T, tonic::Status>) -> (String, String) {
    match result {
        Ok(_) => ("ok".to_owned(), String::new()),
        Err(refused) => match status::detail(&refused) {
            Some(detail) => (detail.code, detail.detail),
            None => (format!("{:?}", refused.code()), refused.message().to_owned()),
        },
    }
}

async fn both(server: &ServerProcess, api: &Remote, request: pb::CommitRequest) -> [(String, String); 2] {
    let body = json::to_json("confold.v1.CommitRequest", &request).unwrap().to_string();
    [said(api.commit(request).await), post(&server.address, "Commit", &body)]
}

fn put(path: &str, value: Form) -> pb::CommitRequest {
    let value = pb::Value { form: Some(value), ..Default::default() };
    let operation = pb::TextOperation { path: path.to_owned(), kind: Some(Kind::Put(value)), ..Default::default() };
    pb::CommitRequest { operations: vec![operation], ..Default::default() }
}

/// Elements inside elements, as JSON.
fn chain(ids: &[String]) -> String {
    let inner = ids.iter().skip(1).rev().fold(String::new(), |inner, id| format!(r#", "nodes": [{{"id": "{id}"{inner}}}]"#));
    format!(r#"{{"id": "{}"{inner}}}"#, ids[0])
}

// Reliability Q13.
#[tokio::test(flavor = "multi_thread")]
async fn every_limit_of_a_store_holds_from_both_sides_over_grpc_and_http() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let api = Remote::connect(&server.address).unwrap();
    let ids = |count: usize, length: usize| vec!["k".repeat(length); count];
    let node = |ids: &[String]| put(&format!("/nodes/{}", ids[0]), Form::Json(chain(ids)));
    let plain = |depth: usize| {
        let inner = format!("{}{{}}{}", "{\"inner\": ".repeat(depth - 1), "}".repeat(depth - 1));
        put("/nodes/p", Form::Json(format!(r#"{{"id": "p", "plain": {inner}}}"#)))
    };
    // 15 steps of 263 bytes, and one that fills up what is left of 4096.
    let path = |length: usize| {
        let mut steps = ids(15, 256);
        steps.push("k".repeat(length - 15 * 263 - 7));
        node(&steps)
    };
    // JSON nests twice for each element, and its own bound is 100: the upper 40 elements are there before.
    let (code, why) = said(api.commit(node(&ids(40, 1))).await);
    assert_eq!(code, "ok", "{why}");
    let below = |count: usize| put(&"/nodes/k".repeat(41), Form::Json(chain(&ids(count - 40, 1))));
    let cases = [
        ("key", node(&ids(1, 256)), node(&ids(1, 257)), "LIMIT"),
        ("path", path(4096), path(4097), "LIMIT"),
        // The root counts.
        ("elements", below(63), below(64), "LIMIT"),
        ("data", plain(62), plain(63), "LIMIT"),
    ];
    for (what, within, beyond, code) in cases {
        for (face, (said, why)) in ["gRPC", "HTTP"].into_iter().zip(both(&server, &api, within).await) {
            assert_eq!(said, "ok", "{what} over {face}: {why}");
        }
        for (face, (said, why)) in ["gRPC", "HTTP"].into_iter().zip(both(&server, &api, beyond).await) {
            assert_eq!(said, code, "{what} over {face}: {why}");
        }
    }

    // An event is as large as its value and something beside it, which the refusal tells.
    const MOST: usize = 16 << 20;
    let sized = |bytes: usize| put("/nodes/t", Form::Json(format!(r#"{{"id": "t", "text": "{}"}}"#, "t".repeat(bytes))));
    let (code, why) = said(api.commit(sized(MOST)).await);
    assert_eq!(code, "TOO_LARGE", "{why}");
    let numbers: Vec<usize> = why.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    let beside = numbers.iter().find(|number| **number > MOST).unwrap_or_else(|| panic!("no size in {why:?}")) - MOST;
    for (face, (said, why)) in ["gRPC", "HTTP"].into_iter().zip(both(&server, &api, sized(MOST - beside)).await) {
        assert_eq!(said, "ok", "event over {face}: {why}");
    }
    for (face, (said, why)) in ["gRPC", "HTTP"].into_iter().zip(both(&server, &api, sized(MOST - beside + 1)).await) {
        assert_eq!(said, "TOO_LARGE", "event over {face}: {why}");
    }
    // What was taken is there after a restart: the log takes the largest event too, and what it wrote can be read at once.
    server.kill();
    let server = ServerProcess::start(&folder.path().join("data"));
    let api = Remote::connect(&server.address).unwrap();
    let get = pb::GetRequest { path: "/nodes/t".to_owned(), ..Default::default() };
    let answer = api.get(get).await.unwrap();
    let size = prost::Message::encoded_len(&answer);
    assert!(size > MOST - beside, "{size}");
}

/// A field of bytes around bytes.
fn nested(tag: u8, levels: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..levels {
        let mut outer = vec![tag];
        let mut length = bytes.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.append(&mut bytes);
        bytes = outer;
    }
    bytes
}

// Reliability Q15.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_levels_are_refused_in_every_form_and_the_server_serves_on() {
    const LEVELS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let api = Remote::connect(&server.address).unwrap();
    let levels = |open: &str, close: &str| format!("{}{}", open.repeat(LEVELS), close.repeat(LEVELS));
    // Field 3 of a node, and in it field 1 of a plain message.
    let bytes = [&[0x0a, 1, b'a'][..], &nested(0x0a, LEVELS)[..]].concat();
    let forms = [
        Form::Json(levels("{\"nodes\": [", "]}")),
        Form::Json(levels("[", "]")),
        Form::Yaml(levels("{plain: ", "}")),
        Form::Yaml((0..LEVELS.min(1_000)).map(|level| format!("{}inner:\n", " ".repeat(level))).collect()),
        Form::Text(levels("plain {", "}")),
        Form::Proto(bytes.into()),
    ];
    for form in forms {
        let shown = format!("{form:?}").chars().take(40).collect::<String>();
        for (code, why) in both(&server, &api, put("/nodes/a", form)).await {
            let known = ["LIMIT", "TYPE_MISMATCH", "UNKNOWN_FIELD", "NOT_CANONICAL"].contains(&code.as_str());
            assert!(known, "{shown}: {code} {why}");
        }
        api.status(pb::StatusRequest::default()).await.unwrap();
    }
    // The body itself, whose values may stand in it as they are.
    for body in [levels("{\"operations\": [", "]}"), levels("[", "]"), format!("{{\"operations\": {}}}", levels("[", "]"))] {
        let (code, why) = post(&server.address, "Commit", &body);
        assert!(["LIMIT", "TYPE_MISMATCH"].contains(&code.as_str()), "{code}: {why}");
    }
    // Messages declared inside messages: field 4 of a file, field 3 of a message.
    let mut file = vec![0x22];
    let messages = nested(0x1a, LEVELS);
    prost::encoding::encode_varint(messages.len() as u64, &mut file);
    file.extend(messages);
    let mut set = vec![0x0a];
    prost::encoding::encode_varint(file.len() as u64, &mut set);
    set.extend(file);
    let push = pb::PushSchemaRequest { descriptor_set: set.into(), root_message: "A".to_owned(), ..Default::default() };
    let (code, why) = said(api.push_schema(push.clone()).await);
    assert_eq!(code, "SCHEMA_INVALID", "{why}");
    let body = json::to_json("confold.v1.PushSchemaRequest", &push).unwrap().to_string();
    assert_eq!(post(&server.address, "PushSchema", &body).0, "SCHEMA_INVALID");
    // It is the same process still, and takes writes.
    let (code, why) = said(api.commit(put("/nodes/a", Form::Json(r#"{"id": "a"}"#.to_owned()))).await);
    assert_eq!(code, "ok", "{why}");
}

/// Sends one request over a connection of its own; what came back of status, headers and body.
async fn send(address: &str, is_grpc: bool, request: http::Request<Full<Bytes>>) -> http::Response<Bytes> {
    let io = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let answer = if is_grpc {
        let (mut sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = answer.into_parts();
    http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

// Reliability Q14.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_would_inflate_to_a_gibibyte_is_refused_and_takes_no_memory() {
    const INFLATED: u64 = 1 << 30;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let made = Command::new("sh").args(["-c", &format!("head -c {INFLATED} /dev/zero | gzip")]).output().unwrap();
    let bomb = Bytes::from(made.stdout);
    assert!(made.status.success() && (1 << 19..1 << 22).contains(&bomb.len()), "{} bytes", bomb.len());
    // In a message over gRPC it is marked as compressed, with its length before it.
    let length = u32::try_from(bomb.len()).unwrap().to_be_bytes();
    let message = Bytes::from([&[1], &length[..], &bomb[..]].concat());

    let (before, _) = server.resident();
    server.forget_peak();
    for coding in ["gzip", "deflate", "zstd", "br"] {
        let request = http::Request::post("http://localhost/confold.v1.Store/Commit")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-encoding", coding)
            .body(Full::new(message.clone()))
            .unwrap();
        let answer = send(&server.address, true, request).await;
        assert_eq!(answer.headers()["grpc-status"], (tonic::Code::Unimplemented as i32).to_string().as_str(), "{coding}");
        let request = http::Request::post("/v1/Commit")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("content-encoding", coding)
            .body(Full::new(bomb.clone()))
            .unwrap();
        let answer = send(&server.address, false, request).await;
        let text = String::from_utf8_lossy(answer.body());
        assert!(answer.status() == 415 && text.contains("UNSUPPORTED"), "{coding}: {} {text}", answer.status());
    }
    // Where nothing says that it is compressed, it is no JSON.
    let request = http::Request::post("/v1/Commit")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(bomb.clone()))
        .unwrap();
    assert_eq!(send(&server.address, false, request).await.status(), 400);
    let (_, peak) = server.resident();
    let grown = peak.saturating_sub(before);
    println!("the server grew by {} KiB", grown >> 10);
    assert!(grown < 64 << 20, "{before} bytes before, {peak} at the most");

    let api = Remote::connect(&server.address).unwrap();
    let (code, why) = said(api.commit(put("/nodes/a", Form::Json(r#"{"id": "a"}"#.to_owned()))).await);
    assert_eq!(code, "ok", "{why}");
}

/// A connection of HTTP/2 that says hello and then nothing, and whether the server took it: it says hello as well.
fn idle(address: &str) -> (TcpStream, bool) {
    let mut stream = TcpStream::connect(address).unwrap();
    // One that was closed at once may not take it any more.
    _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let taken = matches!(stream.read(&mut [0]), Ok(1));
    (stream, taken)
}

async fn commit(api: &Remote, number: usize) {
    let json = format!(r#"{{"id": "{}", "text": "{number}"}}"#, number % 100);
    let (code, why) = said(api.commit(put(&format!("/nodes/{}", number % 100), Form::Json(json))).await);
    assert_eq!(code, "ok", "{why}");
}

// Reliability Q16.
#[tokio::test(flavor = "multi_thread")]
async fn commits_and_probes_go_on_beside_five_thousand_idle_connections() {
    const IDLE: usize = 5_000;
    let limit = getrlimit(Resource::Nofile);
    _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    // The server takes connections for half of its files, and this process holds the other ends.
    let wanted = 2 * IDLE as u64 + 1_000;
    if limit.maximum.is_some_and(|most| most < wanted) {
        println!("SKIPPED Q16: a process may have {limit:?} files open, and this takes {wanted}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let api = Remote::connect(&server.address).unwrap();
    commit(&api, 0).await;
    let (before, _) = server.resident();
    let mut open = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..IDLE {
        let (stream, taken) = idle(&server.address);
        assert!(taken, "connection {number} is refused");
        open.push(stream);
        if number % 50 == 0 {
            commit(&api, number).await;
            let asked = Instant::now();
            assert_eq!(post(&server.address, "Status", "{}").0, "ok");
            slowest = slowest.max(asked.elapsed());
        }
    }
    let (with, _) = server.resident();
    let grown = with.saturating_sub(before);
    println!("{IDLE} idle connections: {} KiB each, the slowest probe {slowest:?}", (grown >> 10) / IDLE as u64);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(grown < 256 << 20, "{before} bytes before, {with} with them");
    // They are still there, so that all of this was beside them.
    for stream in &open {
        stream.set_nonblocking(true).unwrap();
        let mut rest = [0; 1 << 10];
        let mut stream = stream;
        while let Ok(read) = stream.read(&mut rest) {
            assert!(read > 0, "an idle connection was closed");
        }
    }
}

// Reliability Q16: what connections may take is bounded below what log and database need.
#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_are_closed_at_once_and_those_that_are_open_commit_on() {
    const FILES: usize = 600;
    let folder = tempfile::tempdir().unwrap();
    drop(serve(folder.path()).await);
    let data = folder.path().join("data");
    let line = format!("ulimit -n {FILES} && exec \"$0\" serve \"$1\" --listen 127.0.0.1:0");
    let server = ServerProcess::of("sh", &["-c", &line, CONFOLD, data.to_str().unwrap()], &[]).unwrap();
    let api = Remote::connect(&server.address).unwrap();
    commit(&api, 0).await;
    let (open, refused): (Vec<_>, Vec<_>) = (0..FILES).map(|_| idle(&server.address)).partition(|(_, taken)| *taken);
    assert_eq!(open.len(), FILES / 2 - 1, "half of the files, and one is the writer's; {} refused", refused.len());
    for number in 0..500 {
        commit(&api, number).await;
    }
    let status = api.status(pb::StatusRequest::default()).await.unwrap();
    assert_eq!(status.state(), pb::State::Serving, "{}", status.reason);
    // Where some go, others are let in.
    drop(open);
    let give_up = Instant::now() + Duration::from_secs(60);
    while !idle(&server.address).1 {
        assert!(Instant::now() < give_up, "nobody is let in though all have gone");
    }
}

// Reliability Q5: whatever is logged, measured, stored or given away, a secret is not in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_in_no_log_metric_file_snapshot_or_export() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Embedded::create(&data, "net").unwrap();
    let logged = folder.path().join("logged");
    let words = ["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let server = ServerProcess::logging_to(&logged, &words, &[("CONFOLD_LOG", "trace")]);
    let address = server.address.clone();

    let with_token = |token: &str, words: &[&str]| confold_with(&[words, &["--server", &address]].concat(), &[("CONFOLD_TOKEN", token)]);
    let made = confold_with(&["token", "create", "ops", "--server", &address], &[]);
    let token = made.out.trim().to_owned();
    assert!(token.starts_with("cft_") && token.len() == 84, "{}", made.all());
    let mut seen = made.err.into_bytes();
    let ran = confold_with(&["policy", "allow", "ops", "read,write,admin", "/", "--server", &address], &[]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    let wrong = format!("{}{}", &token[..80], if token.ends_with("0000") { "1111" } else { "0000" });
    let export = folder.path().join("export");
    for token in [&token, &wrong] {
        for words in [
            &["status"][..],
            &["policy", "test", "ops", "read", "/"],
            &["log", "--all"],
            &["policy", "show"],
            &["token", "list"],
            &["export", "log", export.to_str().unwrap()],
        ] {
            let ran = with_token(token, words);
            assert_eq!(ran.code == 0, *token != wrong, "{words:?}: {}", ran.all());
            seen.extend(ran.all().into_bytes());
        }
    }
    for path in ["/metrics", "/v1/Status", "/v1/GetPolicy", "/nowhere"] {
        for token in [&token, &wrong] {
            let mut stream = TcpStream::connect(&address).unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            stream.read_to_end(&mut seen).unwrap();
        }
    }
    server.kill();
    files(folder.path(), &mut seen);

    let secret = hex::decode(&token[20..]).unwrap();
    let seen_text = String::from_utf8_lossy(&seen).into_owned();
    for (what, text) in [("token", &token[..]), ("secret", &token[20..]), ("half of it", &token[20..52]), ("a wrong one", &wrong[20..])] {
        assert!(!seen_text.contains(text), "the {what} shows");
    }
    assert!(!seen.windows(32).any(|bytes| bytes == secret), "the secret's bytes show");
    // What may be seen was seen: the token's name in answers and in the log on disk, and what is logged on request.
    assert!(seen_text.contains(&token[4..20]) && seen_text.contains("confold_server"), "nothing was looked at");
}

fn files(folder: &Path, into: &mut Vec<u8>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.extend(std::fs::read(&path).unwrap()),
        }
    }
}
