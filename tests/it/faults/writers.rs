//! Eight writers that know for certain what was acknowledged to them, and what must hold of their store whatever fails.

use crate::cluster::work;
use crate::support::{Fixture, open};
use confold::client::Remote;
use confold::replica::Handle;
use confold::wire::api::Api;
use confold::wire::pb;
use confold_model::ids::{EventId, Hash, Position, Revision};
use confold_model::node::EMPTY_NODE;
use confold_model::objects::references;
use confold_store::Order;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

pub const WRITERS: usize = 8;

/// What one writer knows.
#[derive(Clone, Default)]
pub struct Writer {
    /// The last count whose commit was acknowledged.
    pub acknowledged: u64,
    /// A commit without an answer: its count and its id, to be sent again as it was.
    pub open: Option<(u64, EventId)>,
}

impl Writer {
    /// The commit to send next: the one that is open, or a new one.
    pub fn next(&mut self, new: impl FnOnce() -> EventId) -> (u64, EventId) {
        let next = self.open.unwrap_or_else(|| (self.acknowledged + 1, new()));
        self.open = Some(next);
        next
    }
}

/// What all of them know together.
pub struct Writers {
    pub each: Vec<Writer>,
    /// Every event id that was acknowledged, and where.
    pub acknowledged: BTreeMap<EventId, Position>,
    /// The power has failed: nobody hears an answer that comes now.
    pub dark: Arc<AtomicBool>,
}

impl Writers {
    pub fn new() -> Writers {
        Writers {
            each: vec![Writer::default(); WRITERS],
            acknowledged: BTreeMap::new(),
            dark: Arc::default(),
        }
    }

    /// The commit that is open was acknowledged.
    pub fn acknowledge(&mut self, number: usize, position: Position) {
        let writer = &mut self.each[number];
        let (count, id) = writer.open.take().expect("a commit is open");
        writer.acknowledged = count;
        self.acknowledged.insert(id, position);
    }

    /// All write at once, each until a call fails; what failed is in the answer. A commit that had no answer stays open, and is
    /// sent again as it was the next time.
    pub async fn write(&mut self, api: &Arc<dyn Api>, random: u64) -> Vec<tonic::Status> {
        let Ok(status) = api.status(pb::StatusRequest::default()).await else {
            return Vec::new();
        };
        let tasks: Vec<_> = self
            .each
            .iter()
            .enumerate()
            .map(|(number, writer)| tokio::spawn(write(api.clone(), number, writer.clone(), (status.position, random), self.dark.clone())))
            .collect();
        let mut failed = Vec::new();
        for (number, task) in tasks.into_iter().enumerate() {
            let (writer, acknowledged, error) = task.await.unwrap();
            self.each[number] = writer;
            self.acknowledged.extend(acknowledged);
            failed.push(error);
        }
        failed
    }

    /// What stands there is what was acknowledged last, or what is open.
    pub async fn check(&self, api: &dyn Api) -> Result<(), String> {
        for (number, writer) in self.each.iter().enumerate() {
            let found = value_of(api, number).await.map_err(|status| status.to_string())?;
            let open = writer.open.map_or(writer.acknowledged, |(count, _)| count);
            if found != writer.acknowledged && found != open {
                let known = writer.acknowledged;
                return Err(format!(
                    "writer {number}: {found} stands there, {known} was acknowledged, {open} is open"
                ));
            }
        }
        Ok(())
    }
}

/// A new id of an intention, different for every writer, life and turn.
pub fn new_id(seen: u64, number: usize, random: u64, turn: u64) -> EventId {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&(random ^ (number as u64) << 56).to_be_bytes());
    nonce[8..].copy_from_slice(&turn.to_be_bytes());
    EventId {
        seen: Position(seen),
        nonce,
    }
}

pub fn commit(number: usize, count: u64, id: EventId) -> pb::CommitRequest {
    let proposal = pb::Proposal {
        event_id: id.to_string(),
        author: format!("w{number}"),
        ..Default::default()
    };
    pb::CommitRequest {
        proposal: Some(proposal),
        operations: vec![put(number, count)],
        ..Default::default()
    }
}

fn put(number: usize, count: u64) -> pb::TextOperation {
    work::put(&format!("/devices/w{number}"), count)
}

async fn write(
    api: Arc<dyn Api>,
    number: usize,
    mut writer: Writer,
    (seen, random): (u64, u64),
    dark: Arc<AtomicBool>,
) -> (Writer, Vec<(EventId, Position)>, tonic::Status) {
    let mut acknowledged = Vec::new();
    for turn in 0.. {
        let (count, id) = writer.next(|| new_id(seen, number, random, turn));
        match api.commit(commit(number, count, id)).await {
            Ok(_) if dark.load(SeqCst) => return (writer, acknowledged, tonic::Status::unavailable("the power has failed")),
            Ok(decision) => {
                assert_eq!(decision.event_id, id.to_string());
                assert_eq!(decision.outcome(), pb::decision::Outcome::Committed);
                acknowledged.push((id, Position(decision.position.unwrap())));
                writer = Writer {
                    acknowledged: count,
                    open: None,
                };
            }
            Err(error) => return (writer, acknowledged, error),
        }
    }
    unreachable!("a writer writes until it fails")
}

/// The count that a writer's device shows; 0 where it has none.
pub async fn value_of(api: &dyn Api, number: usize) -> Result<u64, tonic::Status> {
    read_value(api, number, pb::Read::default()).await
}

pub async fn read_value(api: &dyn Api, number: usize, read: pb::Read) -> Result<u64, tonic::Status> {
    let path = format!("/devices/w{number}");
    let request = pb::GetRequest {
        path,
        read: Some(read),
        format: pb::Format::Json.into(),
        ..Default::default()
    };
    match api.get(request).await {
        Ok(answer) => {
            let Some(pb::value::Form::Json(text)) = answer.nodes[0].value.clone().and_then(|value| value.form) else {
                panic!("no JSON");
            };
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            Ok(value["description"].as_str().unwrap().parse().unwrap())
        }
        Err(status) if status.code() == tonic::Code::NotFound => Ok(0),
        Err(status) => Err(status),
    }
}

pub fn remote(address: &str) -> Arc<dyn Api> {
    Arc::new(Remote::connect(address).unwrap())
}

/// What a look at everything found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Walked {
    pub trees: usize,
    pub objects: usize,
    pub remade: usize,
}

/// Goes through every object of every tree that the store keeps, and makes kept revisions again: nothing may be missing or wrong.
pub fn walk(handle: &Handle) -> Walked {
    let store = handle.store().unwrap();
    let all = Revision(0)..=Revision(u64::MAX);
    let trees = store.persisted(all.clone(), Order::Ascending, usize::MAX).unwrap();
    let mut seen = BTreeSet::from([Hash::ZERO, EMPTY_NODE]);
    let mut pending: Vec<Hash> = trees.iter().map(|tree| tree.root).collect();
    pending.push(handle.view().root);
    while let Some(hash) = pending.pop() {
        if seen.insert(hash) {
            let bytes = store
                .object(&hash)
                .unwrap_or_else(|error| panic!("a tree is not whole: {error}"));
            pending.extend(references(&bytes).unwrap());
        }
    }
    let view = handle.view();
    let tagged: BTreeSet<Revision> = view.tags.values().map(|tag| tag.revision).collect();
    let rows = store.revisions(all, Order::Ascending, usize::MAX).unwrap();
    let kept: Vec<Revision> = rows
        .iter()
        .map(|row| row.revision)
        .filter(|revision| *revision > view.floor || tagged.contains(revision))
        .collect();
    let mut remade = 0;
    // One that does not come out with the root of its row is an error.
    for revision in kept.iter().rev().step_by(kept.len() / 40 + 1).chain(&tagged) {
        handle
            .past(*revision)
            .unwrap_or_else(|error| panic!("revision {revision}: {error}"));
        remade += 1;
    }
    Walked {
        trees: trees.len(),
        objects: seen.len() - 2,
        remade,
    }
}

/// Opens the folder and looks at everything: values, history, every object, and the root that the same values have in a store
/// that nothing ever happened to.
pub async fn whole(data: &Path, writers: &Writers) -> Walked {
    let store = open(data).await;
    writers.check(&*store.api()).await.unwrap();
    let all = Revision(1)..=Revision(u64::MAX);
    let rows = store
        .handle()
        .store().unwrap()
        .revisions(all, Order::Ascending, usize::MAX)
        .unwrap();
    let mut stands = BTreeMap::new();
    for row in rows.iter().filter(|row| row.author.starts_with('w')) {
        let twice = stands.insert(row.id.unwrap(), row.position);
        assert_eq!(twice, None, "event {} made two revisions", row.id.unwrap());
    }
    for (id, position) in &writers.acknowledged {
        assert_eq!(
            stands.get(id),
            Some(position),
            "event {id} was acknowledged at {position}"
        );
    }
    let open: BTreeSet<EventId> = writers.each.iter().filter_map(|writer| Some(writer.open?.1)).collect();
    for id in stands.keys() {
        assert!(
            writers.acknowledged.contains_key(id) || open.contains(id),
            "nobody knows of event {id}"
        );
    }
    let mut values = Vec::new();
    for number in 0..WRITERS {
        values.push(value_of(&*store.api(), number).await.unwrap());
    }
    let model = Fixture::with_schema("schemas/examples", "example.Network").await;
    let puts = values
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(number, count)| put(number, *count));
    let puts: Vec<pb::TextOperation> = puts.collect();
    if !puts.is_empty() {
        model.commit(puts).await;
    }
    assert_eq!(
        store.handle().view().root,
        model.store.handle().view().root,
        "the root of the same values"
    );
    let walked = tokio::task::block_in_place(|| walk(store.handle()));
    store.close().await.unwrap();
    walked
}
