//! The parts of `confold bench` that need the log and the store themselves: what a fold does without a server around it,
//! and the bare call that everything over a socket is measured against.

use crate::folder::{self, DEFAULT_RETENTION};
use crate::local::{failure, internal};
use crate::Embedded;
use bytes::Bytes;
use confold_cli::Failure;
use confold_cli::bench::{self, Load, Measured, Part, Recorder};
use confold_log::LogError;
use confold_model::event::{
    Body, Commit, Event, FORMAT, Genesis, LEVEL, Limits, Operation, OperationKind, RetentionPolicy, WINDOW,
};
use confold_model::fold;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Time};
use confold_model::objects::NoObjects;
use confold_model::path::{Path, Step};
use confold_model::state::State;
use confold_replica::{Begin, Options};
use confold_server::echo;
use std::time::{Duration, Instant};

/// `None` for the parts that any server can be asked.
pub async fn run(part: Part, load: &Load) -> Result<Option<Measured>, Failure> {
    Ok(match part {
        Part::Fold => {
            let load = load.clone();
            Some(tokio::task::spawn_blocking(move || fold_in_memory(&load)).await.map_err(internal)??)
        }
        Part::DurableFold => Some(durable_fold(load).await?),
        Part::Echo { clients } => Some(echo_calls(load, clients).await?),
        _ => None,
    })
}

/// Writes records as proposers would, one event id after the other.
struct Author {
    incarnation: Incarnation,
    turn: u64,
}

impl Author {
    fn record(&mut self, at: u64, body: Body<'_>) -> Vec<u8> {
        self.turn += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        nonce[8..].copy_from_slice(&self.turn.to_be_bytes());
        let id = EventId { seen: Position(at.saturating_sub(1)), nonce };
        let without_id = matches!(body, Body::Genesis(_));
        Event {
            format: FORMAT,
            incarnation: self.incarnation,
            intention: (!without_id).then(|| (id, Hash::of(&nonce))),
            author: "bench".into(),
            principal: "".into(),
            client_time_ms: 0,
            reason: "".into(),
            body,
        }
        .encode()
    }

    fn put(&mut self, at: u64, items: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
        let operation = |(key, value): (String, Vec<u8>)| Operation {
            path: Path { steps: vec![Step { field: 1, key: Some(key.into_bytes().into()) }] },
            strict: false,
            base: None,
            kind: OperationKind::Put { value: value.into() },
        };
        let operations = items.into_iter().map(operation).collect();
        self.record(at, Body::Commit(Commit { guards: vec![], operations }))
    }
}

const CHILDREN_AT_ONCE: u64 = 10_000;

/// Records that wait on the log to be folded.
const AHEAD: u64 = 1 << 16;

/// Events of one update each, with a root for every event, on one thread and without any disk.
fn fold_in_memory(load: &Load) -> Result<Measured, Failure> {
    let mut author = Author { incarnation: Incarnation([7; 16]), turn: 0 };
    let mut state = State::new();
    let apply = |state: &mut State, record: &[u8]| {
        fold::apply(state, Time(1), record, &NoObjects).map_err(internal).and_then(|applied| match applied.outcome {
            fold::Outcome::Accepted | fold::Outcome::Unchanged => Ok(()),
            other => Err(internal(format!("the benchmark's own event was refused: {other:?}"))),
        })
    };
    let genesis = Genesis {
        log_id: [7; 16],
        store_name: "bench".into(),
        limits: Limits::default(),
        window: WINDOW,
        trim_replicas: 1,
        retention: RetentionPolicy { keep_all: true, ..RetentionPolicy::default() },
        level: LEVEL,
        transport_id: [8; 16],
    };
    apply(&mut state, &author.record(0, Body::Genesis(genesis)))?;
    let schema = Body::Schema { descriptor_set: bench::schema()?.into(), root_message: bench::ROOT.into() };
    apply(&mut state, &author.record(1, schema))?;
    for first in (0..load.children).step_by(CHILDREN_AT_ONCE as usize) {
        let last = load.children.min(first + CHILDREN_AT_ONCE);
        let at = state.next_position().0;
        apply(&mut state, &author.put(at, (first..last).map(|index| bench::item(index, 0, load))))?;
    }
    state.tree().unpersisted(&mut |_, _| ());
    state.take_edits();
    let mut recorder = Recorder::new();
    let mut took = Duration::ZERO;
    let mut turn = 0;
    while took < load.duration {
        // Records are made outside the measured time.
        let at = state.next_position().0;
        let records: Vec<Vec<u8>> = (0..4_096)
            .map(|_| {
                turn += 1;
                let index = bench::scattered(turn) % load.children;
                author.put(at, [bench::item(index, turn, load)])
            })
            .collect();
        let began = Instant::now();
        for batch in records.chunks(256) {
            for record in batch {
                apply(&mut state, record)?;
            }
            state.tree().unpersisted(&mut |_, _| ());
            state.take_edits();
        }
        took += began.elapsed();
        recorder.count(records.len() as u64);
    }
    Ok(Measured { note: format!("{} children, a root for every event", load.children), ..recorder.measured(took) })
}

/// The same with file log and RocksDB: from the records handed to the log until all of them are folded and in the store.
async fn durable_fold(load: &Load) -> Result<Measured, Failure> {
    let folder = tempfile::tempdir().map_err(internal)?;
    let data = folder.path().join("data");
    let begin = Begin { retention: DEFAULT_RETENTION, ..Begin::default() };
    let log_id = folder::create(&data, "bench", &begin).map_err(failure)?;
    let store = Embedded::open(&data, Options::default()).await.map_err(failure)?;
    let handle = store.handle().clone();
    let mut author = Author { incarnation: Incarnation(log_id), turn: 0 };
    let folded = |revision: u64| {
        let mut views = handle.views();
        async move {
            while views.borrow_and_update().revision.0 < revision {
                views.changed().await.map_err(internal)?;
            }
            Ok::<(), Failure>(())
        }
    };
    let append = |record: Vec<u8>| {
        let record = Bytes::from(record);
        loop {
            match handle.log().append(record.clone()) {
                Ok(()) => return Ok(()),
                Err(LogError::Full { .. }) => std::thread::yield_now(),
                Err(error) => return Err(internal(error)),
            }
        }
    };
    let schema = Body::Schema { descriptor_set: bench::schema()?.into(), root_message: bench::ROOT.into() };
    append(author.record(1, schema))?;
    for first in (0..load.children).step_by(CHILDREN_AT_ONCE as usize) {
        let last = load.children.min(first + CHILDREN_AT_ONCE);
        append(author.put(1, (first..last).map(|index| bench::item(index, 0, load))))?;
    }
    let before = load.children.div_ceil(CHILDREN_AT_ONCE);
    folded(before).await?;
    let mut turn = 0;
    let mut at = handle.view().position.0;
    let mut recorder = Recorder::new();
    let began = Instant::now();
    while began.elapsed() < load.duration {
        for _ in 0..1_024 {
            turn += 1;
            let index = bench::scattered(turn) % load.children;
            append(author.put(at, [bench::item(index, turn, load)]))?;
        }
        recorder.count(1_024);
        // Ids are minted at what is folded, and the log runs ahead of it by less than the window.
        folded(before + turn.saturating_sub(AHEAD)).await?;
        at = handle.view().position.0;
    }
    folded(before + turn).await?;
    let took = began.elapsed();
    store.close().await.map_err(failure)?;
    Ok(Measured { note: format!("{} children, file log and RocksDB", load.children), ..recorder.measured(took) })
}

const CLIENTS_PER_CONNECTION: usize = 8;

/// Empty calls of 256 bytes through tonic's own server.
async fn echo_calls(load: &Load, clients: usize) -> Result<Measured, Failure> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(internal)?;
    let address = listener.local_addr().map_err(internal)?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder().add_service(echo::EchoServer::default());
    let server = tokio::spawn(server.serve_with_incoming_shutdown(incoming, async { _ = stopped.await }));
    let mut channels = Vec::new();
    for _ in 0..clients.div_ceil(CLIENTS_PER_CONNECTION) {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).map_err(internal)?;
        channels.push(endpoint.tcp_nodelay(true).connect().await.map_err(internal)?);
    }
    let duration = load.duration;
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let mut client = tonic::client::Grpc::new(channels[client % channels.len()].clone());
            tokio::spawn(async move {
                let mut recorder = Recorder::new();
                let payload = echo::Payload { data: Bytes::from_static(&[7; 256]) };
                while began.elapsed() < duration {
                    let asked = Instant::now();
                    echo::call(&mut client, payload.clone()).await?;
                    recorder.record(asked);
                }
                Ok::<_, tonic::Status>(recorder)
            })
        })
        .collect();
    let mut all = Recorder::new();
    for task in tasks {
        all.merge(&task.await.map_err(internal)?.map_err(internal)?);
    }
    let took = began.elapsed();
    _ = stop.send(());
    server.await.map_err(internal)?.map_err(internal)?;
    Ok(Measured { note: "256 bytes, tonic's own server".to_owned(), ..all.measured(took) })
}
