//! F1: the server is killed at random moments under eight writers. Nothing acknowledged is lost, nothing is applied twice, nothing
//! that is read is wrong.
//!
//! `CONFOLD_KILLS` says how often (40), `CONFOLD_SEED` which moments.

use crate::server::ServerProcess;
use crate::support::{open, repository};
use confold::Embedded;
use confold::client::Remote;
use confold::wire::api::Api;
use confold::wire::{pb, schema_source};
use confold_model::ids::{EventId, Position, Revision};
use confold_store::Order;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 8;

/// What one writer knows for certain, and what it does not know yet.
#[derive(Clone, Default)]
struct Writer {
    /// The last count whose commit was acknowledged.
    acknowledged: u64,
    acknowledgements: u64,
    /// A commit without an answer: its count and its id, to be sent again as it was.
    open: Option<(u64, EventId)>,
}

fn commit(writer: usize, count: u64, id: EventId) -> pb::CommitRequest {
    let json = format!(r#"{{"id": "w{writer}", "description": "{count}"}}"#);
    let value = pb::Value { form: Some(pb::value::Form::Json(json)), ..Default::default() };
    let operation = pb::TextOperation {
        path: format!("/devices/w{writer}"),
        kind: Some(pb::text_operation::Kind::Put(value)),
        ..Default::default()
    };
    let proposal = pb::Proposal { event_id: id.to_string(), author: format!("w{writer}"), ..Default::default() };
    pb::CommitRequest { proposal: Some(proposal), operations: vec![operation], ..Default::default() }
}

/// Writes until the server is gone; what had no answer stays open for the next server.
async fn write(api: Arc<dyn Api>, number: usize, mut writer: Writer, seen: u64, random: u64) -> Writer {
    for turn in 0.. {
        let (count, id) = writer.open.unwrap_or_else(|| {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&(random ^ (number as u64) << 56).to_be_bytes());
            nonce[8..].copy_from_slice(&(turn as u64).to_be_bytes());
            (writer.acknowledged + 1, EventId { seen: Position(seen), nonce })
        });
        writer.open = Some((count, id));
        let Ok(decision) = api.commit(commit(number, count, id)).await else { return writer };
        assert_eq!(decision.event_id, id.to_string());
        writer.acknowledged = count;
        writer.acknowledgements += 1;
        writer.open = None;
    }
    writer
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_eight_writers_loses_nothing_and_doubles_nothing() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = variable("CONFOLD_KILLS").unwrap_or(40);
    let mut random = variable("CONFOLD_SEED").unwrap_or_else(|| Instant::now().elapsed().as_nanos() as u64 | 1);
    let seed = random;
    println!("CONFOLD_SEED={seed} CONFOLD_KILLS={kills}");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    Embedded::create(&data, "crash").unwrap();
    {
        let store = open(&data).await;
        let compiled = schema_source::descriptor_set_of(&repository().join("schemas/examples"), &[]).unwrap();
        let request = pb::PushSchemaRequest {
            descriptor_set: compiled.descriptor_set.into(),
            root_message: "example.Network".into(),
            ..Default::default()
        };
        store.api().push_schema(request).await.unwrap();
        store.close().await.unwrap();
    }
    let mut writers = vec![Writer::default(); WRITERS];
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let began = Instant::now();
        let server = ServerProcess::start(&data);
        slowest = slowest.max(began.elapsed());
        let api: Arc<dyn Api> = Arc::new(Remote::connect(&server.address).unwrap());
        let status = api.status(pb::StatusRequest::default()).await.unwrap();
        for (number, writer) in writers.iter().enumerate() {
            check(&*api, number, writer).await;
        }
        let tasks: Vec<_> = writers
            .iter()
            .enumerate()
            .map(|(number, writer)| tokio::spawn(write(api.clone(), number, writer.clone(), status.position, random)))
            .collect();
        let life = Duration::from_millis(5 + (random >> 33) % 496);
        let killed = Arc::new(AtomicBool::new(false));
        let flag = killed.clone();
        // The moment of death is the only thing here that is a matter of time.
        let killer = tokio::task::spawn_blocking(move || {
            let (_keep, never) = std::sync::mpsc::channel::<()>();
            _ = never.recv_timeout(life);
            server.kill();
            flag.store(true, Ordering::SeqCst);
        });
        for (number, task) in tasks.into_iter().enumerate() {
            writers[number] = task.await.unwrap();
        }
        killer.await.unwrap();
        assert!(killed.load(Ordering::SeqCst), "kill {kill} happened");
    }
    let store = open(&data).await;
    for (number, writer) in writers.iter().enumerate() {
        check(&*store.api(), number, writer).await;
    }
    let all = Revision(1)..=Revision(u64::MAX);
    let rows = store.handle().store().revisions(all, Order::Ascending, usize::MAX).unwrap();
    let ids: Vec<EventId> = rows.iter().filter_map(|row| row.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an event id made two revisions");
    let acknowledged: u64 = writers.iter().map(|writer| writer.acknowledgements).sum();
    assert!(acknowledged >= kills, "{acknowledged} acknowledgements are too few to prove anything");
    println!("{kills} kills, {acknowledged} acknowledged, slowest start {} ms", slowest.as_millis());
}

/// The value is the last that was acknowledged, or the one whose answer is open.
async fn check(api: &dyn Api, number: usize, writer: &Writer) {
    let request = pb::GetRequest { path: format!("/devices/w{number}"), format: pb::Format::Json.into(), ..Default::default() };
    let found = match api.get(request).await {
        Ok(answer) => {
            let Some(pb::value::Form::Json(text)) = answer.nodes[0].value.clone().and_then(|value| value.form) else {
                panic!("no JSON");
            };
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            value["description"].as_str().unwrap().parse::<u64>().unwrap()
        }
        Err(status) => {
            assert_eq!(status.code(), tonic::Code::NotFound, "{status}");
            0
        }
    };
    let open = writer.open.map_or(writer.acknowledged, |(count, _)| count);
    assert!(
        found == writer.acknowledged || found == open,
        "writer {number}: {found} stands there, {} was acknowledged, {open} is open",
        writer.acknowledged
    );
}
