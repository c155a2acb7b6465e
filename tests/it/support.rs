//! Stores in temporary folders, and calls on them that must succeed.

use confold::Embedded;
use confold::replica::Options;
use confold::wire::api::Api;
use confold::wire::{pb, schema_source};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A number from the environment, by which a run is made longer or played again.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// A file or folder of schemas of the repository, to be pushed.
pub fn schema_request(schema: &str, root_message: &str) -> pb::PushSchemaRequest {
    let compiled = schema_source::descriptor_set_of(&repository().join(schema), &[]).unwrap();
    pb::PushSchemaRequest {
        descriptor_set: compiled.descriptor_set.into(),
        root_message: root_message.to_owned(),
        ..Default::default()
    }
}

/// Gives a store the schema of the example network; its name may be empty where a server has one.
pub async fn push_schema(api: &dyn Api, store: &str) {
    let request = schema_request("schemas/examples", "example.Network");
    api.push_schema(pb::PushSchemaRequest { store: store.to_owned(), ..request }).await.unwrap();
}

/// An open store in a folder of its own.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub store: Embedded,
    pub api: Arc<dyn Api>,
}

impl Fixture {
    /// A new store with a schema folder pushed.
    pub async fn with_schema(schema: &str, root_message: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        Embedded::create(&dir.path().join("data"), "test").unwrap();
        let store = open(&dir.path().join("data")).await;
        let api = store.api();
        let pushed = api.push_schema(schema_request(schema, root_message)).await.unwrap();
        assert_eq!(pushed.problems, Vec::<String>::new());
        Fixture { dir, store, api }
    }

    /// As after a crash of the process: nothing is settled or written in order.
    pub async fn crash_and_reopen(self) -> Fixture {
        let Fixture { dir, store, api } = self;
        drop((store, api));
        let store = open(&dir.path().join("data")).await;
        let api = store.api();
        Fixture { dir, store, api }
    }

    pub async fn commit(&self, operations: Vec<pb::TextOperation>) -> pb::Decision {
        self.api.commit(pb::CommitRequest { operations, ..Default::default() }).await.unwrap()
    }

    pub async fn get_json(&self, at: &str, path: &str, depth: i32) -> Result<Vec<String>, tonic::Status> {
        let read = pb::Read { at: at.to_owned(), ..Default::default() };
        let request = pb::GetRequest {
            read: Some(read),
            path: path.to_owned(),
            depth,
            format: pb::Format::Json.into(),
            ..Default::default()
        };
        let answer = self.api.get(request).await?;
        Ok(answer.nodes.into_iter().map(|node| json_of(node.value)).collect())
    }
}

pub async fn open(data: &Path) -> Embedded {
    let owned = data.to_owned();
    tokio::task::spawn_blocking(move || wait_for_locks(&owned)).await.unwrap();
    Embedded::open(data, Options::default()).await.unwrap()
}

/// A store that was just dropped lets go of its folder when its threads have ended.
fn wait_for_locks(data: &Path) {
    for lock in ["log/lock", "store/LOCK"] {
        if let Ok(file) = std::fs::File::open(data.join(lock)) {
            file.lock().unwrap();
            // Closing alone would leave it with a child process that is just being begun.
            file.unlock().unwrap();
        }
    }
}

fn json_of(value: Option<pb::Value>) -> String {
    match value.and_then(|value| value.form) {
        Some(pb::value::Form::Json(text)) => text,
        other => panic!("a JSON value, not {other:?}"),
    }
}

pub fn json(text: impl Into<String>) -> pb::Value {
    pb::Value { form: Some(pb::value::Form::Json(text.into())), ..Default::default() }
}

pub fn add(path: impl Into<String>, text: impl Into<String>) -> pb::TextOperation {
    operation(path, pb::text_operation::Kind::Add(json(text)))
}

pub fn update(path: impl Into<String>, text: impl Into<String>) -> pb::TextOperation {
    let update = pb::TextUpdate { value: Some(json(text)), mask: Vec::new() };
    operation(path, pb::text_operation::Kind::Update(update))
}

fn operation(path: impl Into<String>, kind: pb::text_operation::Kind) -> pb::TextOperation {
    pb::TextOperation { path: path.into(), kind: Some(kind), ..Default::default() }
}
