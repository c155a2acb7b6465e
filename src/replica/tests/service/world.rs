//! What the tests share: the example network behind a service, and answers as lines of text.

use confold_log::memory::MemoryLog;
use confold_model::ids::Time;
use confold_replica::service::{Options as ServiceOptions, Service};
use confold_replica::{Begin, Handle, Housekeeping, Options, Replica, begin};
use confold_store::memory::MemoryStore;
use confold_wire::api::{Api, Stream};
use confold_wire::pb::{self, decision, text_operation, value};
use confold_wire::status;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::Status;

pub const SOON: Duration = Duration::from_secs(20);

/// A store on a memory log, served.
pub struct World {
    pub log: MemoryLog,
    pub store: Arc<MemoryStore>,
    pub handle: Handle,
    pub service: Service,
}

impl World {
    /// Without a schema.
    pub async fn begun() -> World {
        World::begun_with(Begin::default(), ServiceOptions::default()).await
    }

    pub async fn begun_with(begin_as: Begin, options: ServiceOptions) -> World {
        World::begun_as("network", begin_as, options).await
    }

    /// With the schema, and under this name.
    pub async fn called(name: &str) -> World {
        let world = World::begun_as(name, Begin::default(), ServiceOptions::default()).await;
        world.push(network(), "example.Network").await.unwrap();
        world
    }

    async fn begun_as(name: &str, begin_as: Begin, options: ServiceOptions) -> World {
        let log = MemoryLog::new([7; 16]);
        log.forget_digests(64);
        log.set_clock(Time(1_000));
        assert!(begin(&log, name, &begin_as).unwrap());
        let store = Arc::new(MemoryStore::new());
        let handle = open(&log, &store).await;
        let service = Service::with_options(vec![handle.clone()], options);
        World {
            log,
            store,
            handle,
            service,
        }
    }

    /// With the schema of schemas/examples/network.proto.
    pub async fn network() -> World {
        World::network_with(ServiceOptions::default()).await
    }

    pub async fn network_with(options: ServiceOptions) -> World {
        let world = World::begun_with(Begin::default(), options).await;
        world.push(network(), "example.Network").await.unwrap();
        world
    }

    /// Two devices with ports and two VLANs, each put by a revision of its own: 1 to 4.
    pub async fn sample() -> World {
        let world = World::network().await;
        world.commit(put("/devices/olt-1", OLT)).await.unwrap();
        world
            .commit(put(
                "/devices/sw%2Fcore",
                r#"{"id": "sw/core", "labels": {"role": "core"}}"#,
            ))
            .await
            .unwrap();
        world
            .commit(put("/vlans/100", r#"{"number": 100, "name": "customers"}"#))
            .await
            .unwrap();
        world
            .commit(put("/vlans/200", r#"{"number": 200, "name": "management"}"#))
            .await
            .unwrap();
        world
    }

    pub async fn push(&self, descriptor_set: &[u8], root: &str) -> Result<pb::PushSchemaResponse, Status> {
        let descriptor_set = descriptor_set.to_vec().into();
        let root_message = root.to_owned();
        self.service
            .push_schema(pb::PushSchemaRequest {
                descriptor_set,
                root_message,
                ..Default::default()
            })
            .await
    }

    pub async fn commit(&self, operation: pb::TextOperation) -> Result<pb::Decision, Status> {
        self.commit_all(vec![operation]).await
    }

    pub async fn commit_all(&self, operations: Vec<pb::TextOperation>) -> Result<pb::Decision, Status> {
        self.service
            .commit(pb::CommitRequest {
                operations,
                ..Default::default()
            })
            .await
    }

    pub async fn get(&self, path: &str, depth: i32, at: &str) -> Result<pb::GetResponse, Status> {
        self.service
            .get(pb::GetRequest {
                depth,
                read: Some(read(at)),
                ..get(path)
            })
            .await
    }

    /// The value at a path as JSON, or the refusal.
    pub async fn json(&self, path: &str, depth: i32, at: &str) -> String {
        match self.get(path, depth, at).await {
            Ok(answer) => answer
                .nodes
                .iter()
                .map(|node| json(node.value.as_ref()))
                .collect::<Vec<_>>()
                .join("\n"),
            Err(status) => refusal(&status),
        }
    }

    pub async fn hash(&self, path: &str) -> String {
        self.get(path, 0, "").await.unwrap().nodes[0].hash.clone()
    }

    pub async fn data_hash(&self, path: &str) -> String {
        self.get(path, 0, "").await.unwrap().nodes[0].data_hash.clone()
    }

    pub fn revision(&self) -> u64 {
        self.handle.view().revision.0
    }

    pub fn position(&self) -> u64 {
        self.handle.view().position.0
    }
}

pub const OLT: &str = r#"{"id": "olt-1", "address": "192.0.2.10", "serial_number": "ALPHA", "location": {"site": "berlin"},
    "ports": [{"number": 1, "label": "uplink"}, {"number": 2, "vlans": [100]}, {"number": 3}]}"#;

pub async fn open(log: &MemoryLog, store: &Arc<MemoryStore>) -> Handle {
    let options = Options {
        housekeeping: Housekeeping::ByHand,
        read_wait: Duration::from_millis(20),
        close_log: false,
        ..Options::default()
    };
    let handle = Replica::open(Arc::new(log.clone()), store.clone(), options).unwrap();
    tokio::time::timeout(SOON, handle.ready()).await.expect("it settles");
    handle
}

pub fn network() -> &'static [u8] {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    SET.get_or_init(|| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/examples/network.proto");
        confold_wire::schema_source::descriptor_set_of(&file, &[])
            .unwrap()
            .descriptor_set
    })
}

/// The example network with its text changed.
pub fn network_with(change: impl Fn(String) -> String) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/examples/network.proto");
    descriptor_set(&change(std::fs::read_to_string(file).unwrap()))
}

/// Of one `.proto` file.
pub fn descriptor_set(text: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("network.proto"), text).unwrap();
    confold_wire::schema_source::descriptor_set_of(folder.path(), &[])
        .unwrap()
        .descriptor_set
}

pub fn read(at: &str) -> pb::Read {
    pb::Read {
        at: at.to_owned(),
        ..Default::default()
    }
}

pub fn get(path: &str) -> pb::GetRequest {
    pb::GetRequest {
        path: path.to_owned(),
        format: pb::Format::Json.into(),
        ..Default::default()
    }
}

pub fn value(text: &str) -> pb::Value {
    pb::Value {
        form: Some(value::Form::Json(text.to_owned())),
        r#type: String::new(),
    }
}

fn operation(path: &str, kind: text_operation::Kind) -> pb::TextOperation {
    pb::TextOperation {
        path: path.to_owned(),
        kind: Some(kind),
        ..Default::default()
    }
}

pub fn update(path: &str, text: &str) -> pb::TextOperation {
    masked(path, text, &[])
}

pub fn masked(path: &str, text: &str, mask: &[&str]) -> pb::TextOperation {
    let mask = mask.iter().map(|name| (*name).to_owned()).collect();
    operation(
        path,
        text_operation::Kind::Update(pb::TextUpdate {
            value: Some(value(text)),
            mask,
        }),
    )
}

pub fn add(path: &str, text: &str) -> pb::TextOperation {
    operation(path, text_operation::Kind::Add(value(text)))
}

pub fn put(path: &str, text: &str) -> pb::TextOperation {
    operation(path, text_operation::Kind::Put(value(text)))
}

pub fn replace(path: &str, text: &str) -> pb::TextOperation {
    operation(path, text_operation::Kind::Replace(value(text)))
}

pub fn remove(path: &str) -> pb::TextOperation {
    operation(path, text_operation::Kind::Remove(pb::Absent {}))
}

pub fn strict(operation: pb::TextOperation) -> pb::TextOperation {
    pb::TextOperation {
        strict: true,
        ..operation
    }
}

pub fn json(value: Option<&pb::Value>) -> String {
    match value.and_then(|value| value.form.as_ref()) {
        Some(value::Form::Json(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

/// `CODE at /path: detail (hint)`.
pub fn refusal(status: &Status) -> String {
    match status::detail(status) {
        Some(detail) => error_line(&detail),
        None => format!("{:?} without a detail: {}", status.code(), status.message()),
    }
}

pub fn error_line(detail: &pb::ErrorDetail) -> String {
    let at = if detail.path.is_empty() {
        String::new()
    } else {
        format!(" at {}", detail.path)
    };
    format!("{}{at}: {}", detail.code, detail.detail)
}

pub fn code(status: &Status) -> String {
    status::detail(status).map(|detail| detail.code).unwrap_or_default()
}

/// `committed r5 p6`, or the refusal.
pub fn decided(answer: &Result<pb::Decision, Status>) -> String {
    match answer {
        Ok(decision) => decision_line(decision),
        Err(status) => refusal(status),
    }
}

pub fn decision_line(decision: &pb::Decision) -> String {
    let mut line = match decision.outcome() {
        decision::Outcome::Committed => "committed".to_owned(),
        other => other.as_str_name().to_lowercase(),
    };
    if let Some(revision) = decision.revision {
        line += &format!(" r{revision}");
    }
    if let Some(position) = decision.position {
        line += &format!(" p{position}");
    }
    if decision.repeated {
        line += " repeated";
    }
    if let Some(error) = &decision.error {
        line += &format!(" {}", error_line(error));
    }
    for note in &decision.notes {
        line += &format!(" [{note}]");
    }
    line
}

pub async fn collect<T>(mut stream: Stream<Result<T, Status>>) -> Vec<Result<T, Status>> {
    let mut found = Vec::new();
    while let Some(item) = tokio::time::timeout(SOON, stream.next())
        .await
        .expect("the stream goes on")
    {
        found.push(item);
    }
    found
}

/// 32 hex digits of nonce behind a position.
pub fn event_id(seen: u64, nonce: u8) -> String {
    format!("{seen}-{}", format!("{nonce:02x}").repeat(16))
}

pub fn proposal(event_id: &str) -> Option<pb::Proposal> {
    Some(pb::Proposal {
        event_id: event_id.to_owned(),
        author: "ada".to_owned(),
        ..Default::default()
    })
}
