//! Clients that ask for too much, against a real server on the embedded log: every limit of a store from both sides and over both faces,
//! and nesting without end.

use crate::server::{ServerProcess, confold_with};
use confold::Embedded;
use confold::client::Remote;
use confold::wire::api::Api;
use confold::wire::pb::{self, text_operation::Kind, value::Form};
use confold::wire::{json, schema_source, status};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
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

// Reliability Q5: whatever is logged, measured, stored or given away, a secret is not in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_in_no_log_metric_file_snapshot_or_export() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Embedded::create(&data, "net").unwrap();
    let mut child = Command::new(crate::server::CONFOLD)
        .args(["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"])
        .env("CONFOLD_LOG", "trace")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let logged = Arc::new(Mutex::new(Vec::new()));
    let (mut stderr, into) = (child.stderr.take().unwrap(), logged.clone());
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
    });
    let begun = Instant::now();
    let address = loop {
        let text = String::from_utf8_lossy(&logged.lock().unwrap()).into_owned();
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("serving "))
            && text.contains(&format!("{line}\n"))
        {
            break line.split_once("://").unwrap().1.trim().to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{text}");
    };

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
    child.kill().unwrap();
    child.wait().unwrap();
    reading.join().unwrap();
    seen.extend_from_slice(&logged.lock().unwrap());
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
