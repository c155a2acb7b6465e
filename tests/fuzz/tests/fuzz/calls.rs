//! Every call of the service, with requests that nobody meant: whatever comes is answered, and a refusal says nothing of the machine.
//! An input is a protobuf message with one field, whose number names the call and whose bytes are the request.

use crate::support::*;
use confold_log::memory::MemoryLog;
use confold_model::code::Code;
use confold_model::ids::Time;
use confold_replica::service::Service;
use confold_replica::{Begin, Handle, Housekeeping, Options, Replica, begin};
use confold_store::memory::MemoryStore;
use confold_test_fuzz::proto::put_varint;
use confold_test_fuzz::{Answer, Target};
use confold_wire::api::{Api, Stream};
use confold_wire::pb::{self, text_operation, value};
use confold_wire::status;
use prost::Message;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tonic::Status;

const SOON: Duration = Duration::from_secs(20);

/// A store of the example network, served.
struct World {
    service: Service,
    handle: Handle,
    calls: u32,
}

async fn world() -> World {
    let log = MemoryLog::new([7; 16]);
    log.set_clock(Time(1_000));
    assert!(
        begin(
            &log,
            "network",
            &Begin {
                log_id: Some([5; 16]),
                ..Begin::default()
            }
        )
        .unwrap()
    );
    let options = Options {
        housekeeping: Housekeeping::ByHand,
        read_wait: Duration::from_millis(20),
        ..Options::default()
    };
    let handle = Replica::open(Arc::new(log), Arc::new(MemoryStore::new()), options).unwrap();
    tokio::time::timeout(SOON, handle.ready()).await.unwrap();
    let service = Service::new(vec![handle.clone()]);
    let schema = pb::PushSchemaRequest {
        descriptor_set: network().to_vec().into(),
        root_message: "example.Network".to_owned(),
        ..Default::default()
    };
    service.push_schema(schema).await.unwrap();
    service
        .commit(commit(
            "/devices/olt-1",
            r#"{"id": "olt-1", "ports": [{"number": 1, "vlans": [100]}]}"#,
        ))
        .await
        .unwrap();
    service
        .commit(commit("/vlans/100", r#"{"number": 100, "name": "customers"}"#))
        .await
        .unwrap();
    World {
        service,
        handle,
        calls: 0,
    }
}

fn commit(path: &str, json: &str) -> pb::CommitRequest {
    let kind = text_operation::Kind::Put(pb::Value {
        form: Some(value::Form::Json(json.to_owned())),
        r#type: String::new(),
    });
    let operation = pb::TextOperation {
        path: path.to_owned(),
        kind: Some(kind),
        ..Default::default()
    };
    pb::CommitRequest {
        operations: vec![operation],
        ..Default::default()
    }
}

/// How many pieces of a stream are looked at.
const PIECES: usize = 20;

async fn drain<T>(stream: Result<Stream<Result<T, Status>>, Status>) -> Result<String, Status> {
    let mut stream = stream?.take(PIECES);
    let mut pieces = String::new();
    while let Some(piece) = stream.next().await {
        piece?;
        pieces.push('p');
    }
    Ok(pieces)
}

/// The call of this number: its name, and what came of it.
async fn call(service: &Service, number: u64, bytes: &[u8]) -> (&'static str, Result<String, Status>) {
    macro_rules! calls {
        ($($number:literal $name:ident $request:ident)*; $($stream_number:literal $stream:ident $stream_request:ident)*) => {
            match number {
                $($number => (stringify!($name), match pb::$request::decode(bytes) {
                    Ok(request) => service.$name(request).await.map(|_| String::new()),
                    Err(error) => Err(Status::invalid_argument(error.to_string())),
                }),)*
                $($stream_number => (stringify!($stream), match pb::$stream_request::decode(bytes) {
                    Ok(request) => drain(service.$stream(request).await).await,
                    Err(error) => Err(Status::invalid_argument(error.to_string())),
                }),)*
                _ => ("none", Err(Status::unimplemented("no such call"))),
            }
        };
    }
    calls! {
        1 commit CommitRequest
        2 outcome OutcomeRequest
        3 withdraw WithdrawRequest
        4 get GetRequest
        5 list ListRequest
        6 diff DiffRequest
        7 log LogRequest
        8 show ShowRequest
        9 tag TagRequest
        10 untag UntagRequest
        11 list_tags ListTagsRequest
        12 push_schema PushSchemaRequest
        13 get_schema GetSchemaRequest
        14 prune PruneRequest
        15 get_retention GetRetentionRequest
        16 set_retention SetRetentionRequest
        17 get_policy GetPolicyRequest
        18 sync SyncRequest
        19 list_stores ListStoresRequest
        20 create_store CreateStoreRequest
        21 open_store OpenStoreRequest
        22 close_store CloseStoreRequest
        23 status StatusRequest
        24 set_clock SetClockRequest
        ;
        25 list_stream ListRequest
        26 diff_stream DiffRequest
        27 export_log ExportLogRequest
        28 snapshot SnapshotRequest
    }
}

/// A commit that waits for what is far away waits until its deadline: no longer than this here.
async fn answer(world: &World, number: u64, bytes: &[u8]) -> Answer {
    let called = tokio::time::timeout(Duration::from_millis(500), call(&world.service, number, bytes)).await;
    let Ok((name, result)) = called else {
        return Answer::Refused(format!("{number} waits"));
    };
    match result {
        Ok(pieces) => Answer::Taken(format!("{name} {pieces}")),
        Err(status) => {
            // Q25: nothing of the program or the machine shows.
            let message = status.message();
            for word in [".rs:", "src/", "panicked", "unwrap", "RocksDB", "/tmp", "thread '"] {
                assert!(!message.contains(word), "{name}: {message}");
            }
            let known = status::detail(&status).and_then(|detail| status::code_of(&detail));
            // A store that stopped would refuse everything from then on.
            assert!(
                !matches!(known, Some(Code::Halted | Code::Quarantined | Code::Fenced)),
                "{name}: {message}"
            );
            let code = known.map_or("?", Code::name);
            Answer::Refused(format!("{name} {code} {}", status.message()))
        }
    }
}

#[test]
fn every_call_is_answered_whatever_is_asked() {
    let runtime: Runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let world: RefCell<World> = RefCell::new(runtime.block_on(world()));
    let check = |input: &[u8]| {
        let mut now = world.borrow_mut();
        // A new store now and then: what was written must not pile up, nor the schema be gone for good.
        if now.calls == 2_000 {
            let old = std::mem::replace(&mut *now, runtime.block_on(self::world()));
            runtime.block_on(old.handle.shutdown(SOON)).unwrap();
        }
        now.calls += 1;
        let (number, bytes) = request(input);
        runtime.block_on(answer(&now, number, bytes))
    };
    let at = |at: &str| pb::Read {
        at: at.to_owned(),
        ..Default::default()
    };
    let get = pb::GetRequest {
        path: "/devices".to_owned(),
        depth: -1,
        read: Some(at("2")),
        ..Default::default()
    };
    let list = pb::ListRequest {
        path: "/devices".to_owned(),
        read: Some(at("2")),
        ..Default::default()
    };
    let mut seeds = vec![
        input(1, &commit("/devices/olt-2", r#"{"id": "olt-2"}"#)),
        input(1, &commit("/devices/olt-1/ports/2", r#"{"number": 2}"#)),
        input(4, &get),
        input(5, &list),
        input(25, &list),
        input(
            6,
            &pb::DiffRequest {
                from: Some(at("1")),
                to: Some(at("2")),
                ..Default::default()
            },
        ),
        input(
            26,
            &pb::DiffRequest {
                from: Some(at("1")),
                to: Some(at("2")),
                ..Default::default()
            },
        ),
        input(
            9,
            &pb::TagRequest {
                name: "one".to_owned(),
                ..Default::default()
            },
        ),
        input(
            10,
            &pb::UntagRequest {
                names: vec!["one".to_owned()],
                ..Default::default()
            },
        ),
        input(
            12,
            &pb::PushSchemaRequest {
                descriptor_set: crate::model::small_schema().into(),
                root_message: "t.Root".to_owned(),
                ..Default::default()
            },
        ),
    ];
    seeds.extend((1..=28).map(|number| input(number, &pb::StatusRequest::default())));
    let target = Target {
        seeds,
        proto: true,
        stable: false,
        words: words(&[
            b"/devices/olt-1",
            b"/vlans",
            b"network",
            b"olt-1",
            b"{\"id\": \"a\"}",
            b"ports",
            b"tag/one",
            b"1970-01-01",
        ]),
        memory: (16 << 20, 4096),
        short: 10_000,
        ..Target::new("calls", &check)
    };
    fuzz(&target, 60);
}

fn input(number: u64, request: &impl Message) -> Vec<u8> {
    let mut input = Vec::new();
    put_varint(&mut input, number << 3 | 2);
    put_varint(&mut input, request.encoded_len() as u64);
    input.extend(request.encode_to_vec());
    input
}

fn request(input: &[u8]) -> (u64, &[u8]) {
    use confold_model::wire_bytes::{Cursor, Raw};
    match Cursor::new(input).field::<false>() {
        Ok(Some(field)) => match field.value {
            Raw::Bytes(bytes) => (field.number.into(), bytes),
            _ => (0, b""),
        },
        _ => (0, b""),
    }
}
