//! Loads that any store can be given, through the calls that clients make.

use super::{Load, Measured, Part, Recorder};
use crate::{context::Connect, error::Failure};
use confold_client::{Connection, Options, Pipeline, encode_key};
use confold_wire::{
    pb::{self, text_operation::Kind, value::Form},
    schema_source,
};
use futures::StreamExt;
use std::{sync::Arc, time::Instant};

/// The benchmark's own schema: a container of flat nodes.
const SCHEMA: &str = r#"syntax = "proto3";
package confold.bench;
import "confold/options.proto";
message Root { repeated Item items = 1 [(confold.v1.child_node) = {key: "id"}]; }
message Item { string id = 1; uint64 count = 2; string text = 3; }
"#;
/// The benchmark's root message; its only field is the container, number 1.
pub const ROOT: &str = "confold.bench.Root";

/// As many clients share a connection as a busy program would let.
const CLIENTS_PER_CONNECTION: usize = 8;

/// The store that is loaded.
#[derive(Clone)]
pub struct Target {
    pub connect: Connect,
    pub address: String,
    pub store: String,
    pub options: Options,
}

impl Target {
    pub fn connection(&self) -> Result<Connection, Failure> {
        Ok(Connection::new(
            (self.connect)(&self.address, &self.options)?,
            self.store.clone(),
        ))
    }
}

/// Gives an empty store the benchmark's schema and children. Refuses a store that holds something else.
pub async fn prepare(target: &Target, load: &Load) -> Result<(), Failure> {
    let connection = target.connection()?;
    let request = pb::StatusRequest {
        store: target.store.clone(),
    };
    let status = connection.again(|| connection.api.status(request.clone())).await?;
    if !status.root_message.is_empty() && status.root_message != ROOT {
        let failure = Failure::invalid(format!("the store {} holds {}", status.store, status.root_message));
        return Err(failure.hint("the benchmark writes: give it an empty store of its own"));
    }
    let id = connection.mint().await?;
    let request = pb::PushSchemaRequest {
        store: target.store.clone(),
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..Default::default()
        }),
        descriptor_set: schema()?.into(),
        root_message: ROOT.to_owned(),
        dry_run: false,
    };
    connection
        .decide(id, || connection.api.push_schema(request.clone()))
        .await?;
    let mut pipeline = Pipeline::new(connection);
    const AT_ONCE: u64 = 10_000;
    for first in (0..load.children).step_by(AT_ONCE as usize) {
        let last = load.children.min(first + AT_ONCE);
        pipeline
            .send(commit((first..last).map(|index| put(index, 0, load))))
            .await?;
        while pipeline.in_flight() > 2 {
            answered(&mut pipeline).await?;
        }
    }
    while pipeline.in_flight() > 0 {
        answered(&mut pipeline).await?;
    }
    Ok(())
}

/// Runs one part; `None` for a part that is no load on a store.
pub async fn run(part: Part, target: &Target, load: &Load) -> Result<Option<Measured>, Failure> {
    Ok(Some(match part {
        Part::Commits { clients } => many(target, load, clients, 10).await?,
        Part::Mixed { clients } => many(target, load, clients, 1).await?,
        Part::Reads { clients } => many(target, load, clients, 0).await?,
        Part::Stream { in_flight } => stream(target, load, in_flight).await?,
        Part::Listing => listing(target, load).await?,
        Part::Large { entries } => large(target, load, entries).await?,
        Part::HttpReads { .. }
        | Part::Diff
        | Part::OpenAndRead
        | Part::Blake3
        | Part::Fdatasync
        | Part::Fold
        | Part::DurableFold
        | Part::Echo { .. }
        | Part::Bare { .. }
        | Part::InProcess { .. }
        | Part::NewReplica => return Ok(None),
    }))
}

/// So many clients side by side, each one call after the other, of which so many tenths are commits.
async fn many(target: &Target, load: &Load, clients: usize, commits_in_ten: u64) -> Result<Measured, Failure> {
    let mut connections = Vec::new();
    for _ in 0..clients.div_ceil(CLIENTS_PER_CONNECTION) {
        let connection = target.connection()?;
        // The first call connects.
        connection.mint().await?;
        connections.push(connection);
    }
    let load = Arc::new(load.clone());
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let connection = connections[client % connections.len()].clone();
            tokio::spawn(one(
                connection,
                load.clone(),
                client as u64,
                clients as u64,
                commits_in_ten,
                began,
            ))
        })
        .collect();
    let mut all = Recorder::new();
    for task in tasks {
        let recorder = task
            .await
            .map_err(|error| Failure::new(crate::Exit::Damaged, error.to_string()))??;
        all.merge(&recorder);
    }
    Ok(all.measured(began.elapsed()))
}

async fn one(
    connection: Connection,
    load: Arc<Load>,
    client: u64,
    clients: u64,
    commits_in_ten: u64,
    began: Instant,
) -> Result<Recorder, Failure> {
    let mut recorder = Recorder::new();
    let mut turn = 0;
    while began.elapsed() < load.duration {
        // Clients walk over different children, each over all that are its own.
        let index = scattered(turn * clients + client) % load.children.max(1);
        let asked = Instant::now();
        if turn % 10 < commits_in_ten {
            let id = connection.mint().await?;
            connection.commit(id, commit([put(index, turn + 1, &load)])).await?;
        } else {
            let request = pb::GetRequest {
                store: connection.store.clone(),
                path: path(index),
                ..Default::default()
            };
            connection.api.get(request).await?;
        }
        recorder.record(asked);
        turn += 1;
    }
    Ok(recorder)
}

/// One stream, kept full.
async fn stream(target: &Target, load: &Load, in_flight: usize) -> Result<Measured, Failure> {
    let mut pipeline = Pipeline::new(target.connection()?);
    let mut recorder = Recorder::new();
    let began = Instant::now();
    let mut turn = 0;
    while began.elapsed() < load.duration {
        while pipeline.in_flight() < in_flight {
            let index = scattered(turn) % load.children.max(1);
            pipeline.send(commit([put(index, turn + 1, load)])).await?;
            turn += 1;
        }
        answered(&mut pipeline).await?;
        recorder.count(1);
    }
    while pipeline.in_flight() > 0 {
        answered(&mut pipeline).await?;
        recorder.count(1);
    }
    Ok(recorder.measured(began.elapsed()))
}

/// All children, again and again; what is counted is children.
async fn listing(target: &Target, load: &Load) -> Result<Measured, Failure> {
    let connection = target.connection()?;
    let request = pb::ListRequest {
        store: connection.store.clone(),
        path: "/items".to_owned(),
        page_size: 1_000,
        ..Default::default()
    };
    let mut recorder = Recorder::new();
    let began = Instant::now();
    while began.elapsed() < load.duration {
        let mut pages = connection.api.list_stream(request.clone()).await?;
        while let Some(page) = pages.next().await {
            recorder.count(page?.nodes.len() as u64);
        }
    }
    Ok(recorder.measured(began.elapsed()))
}

/// Many puts in one commit, one commit after the other, each over children of its own.
async fn large(target: &Target, load: &Load, entries: u64) -> Result<Measured, Failure> {
    const SMALL: usize = 100;
    let connection = target.connection()?;
    let small = Load {
        record_bytes: SMALL,
        ..load.clone()
    };
    let mut recorder = Recorder::new();
    let began = Instant::now();
    let mut turn = 0;
    while began.elapsed() < load.duration {
        let request = commit((0..entries).map(|index| put(index, turn + 1, &small)));
        let asked = Instant::now();
        let id = connection.mint().await?;
        connection.commit(id, request).await?;
        recorder.record(asked);
        turn += 1;
    }
    Ok(Measured {
        note: format!("records of {SMALL} bytes, 1 client"),
        ..recorder.measured(began.elapsed())
    })
}

async fn answered(pipeline: &mut Pipeline) -> Result<(), Failure> {
    if let Some(answer) = pipeline.answer().await? {
        answer.result?;
    }
    Ok(())
}

fn commit(operations: impl IntoIterator<Item = pb::TextOperation>) -> pb::CommitRequest {
    pb::CommitRequest {
        proposal: Some(pb::Proposal {
            author: "bench".to_owned(),
            ..Default::default()
        }),
        operations: operations.into_iter().collect(),
        ..Default::default()
    }
}

fn put(index: u64, count: u64, load: &Load) -> pb::TextOperation {
    let form = Some(Form::Proto(item(index, count, load).1.into()));
    let value = pb::Value {
        form,
        r#type: String::new(),
    };
    pb::TextOperation {
        path: path(index),
        kind: Some(Kind::Put(value)),
        ..Default::default()
    }
}

/// Key and canonical bytes of one child.
pub fn item(index: u64, count: u64, load: &Load) -> (String, Vec<u8>) {
    let item = Item {
        id: key(index),
        count,
        text: "x".repeat(load.record_bytes.saturating_sub(90)),
    };
    let bytes = prost::Message::encode_to_vec(&item);
    (item.id, bytes)
}

#[derive(Clone, PartialEq, prost::Message)]
struct Item {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint64, tag = "2")]
    count: u64,
    #[prost(string, tag = "3")]
    text: String,
}

/// Where that child is.
pub fn path(index: u64) -> String {
    format!("/items/{}", encode_key(&key(index)))
}

fn key(index: u64) -> String {
    format!("item-{index:07}")
}

/// The same sequence in every run, without order: a multiplication by an odd number walks over everything.
pub fn scattered(turn: u64) -> u64 {
    turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// The benchmark's schema as a descriptor set.
pub fn schema() -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::new(crate::Exit::Damaged, format!("cannot write a file: {error}"));
    let folder = tempfile::tempdir().map_err(failed)?;
    std::fs::write(folder.path().join("bench.proto"), SCHEMA).map_err(failed)?;
    Ok(schema_source::descriptor_set_of(folder.path(), &[])?.descriptor_set)
}
