//! The parts of `confold bench` that need the log and the store themselves: what a fold does without a server around it,
//! and the bare call that everything over a socket is measured against.

use crate::Embedded;
use crate::config::Kafka;
use crate::folder::{self, DEFAULT_RETENTION, OnKafka};
use crate::local::{failure, internal, serve_here};
use bytes::Bytes;
use confold_cli::Failure;
use confold_cli::bench::{self, Load, Measured, Part, Recorder};
use confold_log::LogError;
use confold_log_kafka::{Admin, Bare, ClientSettings, NewTopic, TopicError};
use confold_model::event::{
    Body, Commit, Event, FORMAT, Genesis, LEVEL, Limits, Operation, OperationKind, RetentionPolicy, WINDOW,
};
use confold_model::diff::{self, NoSchema};
use confold_model::fold;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Time};
use confold_model::objects::NoObjects;
use confold_model::path::{Path, Step};
use confold_model::state::State;
use confold_replica::{Begin, Options, Proposal};
use confold_server::echo;
use confold_wire::pb;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// `None` for the parts that any server can be asked.
pub async fn run(part: Part, load: &Load) -> Result<Option<Measured>, Failure> {
    Ok(match part {
        Part::Fold => {
            let load = load.clone();
            Some(tokio::task::spawn_blocking(move || fold_in_memory(&load)).await.map_err(internal)??)
        }
        Part::DurableFold => Some(durable_fold(load).await?),
        Part::Echo { clients } => Some(echo_calls(load, clients).await?),
        Part::Bare { in_flight } => Some(bare_kafka(load, in_flight).await?),
        Part::InProcess { in_flight } => Some(commits_in_process(load, in_flight).await?),
        Part::NewReplica => Some(new_replica(load).await?),
        Part::HttpReads { clients } => Some(http_reads(load, clients).await?),
        Part::OpenAndRead => Some(open_and_read(load).await?),
        Part::Diff => {
            let load = load.clone();
            Some(tokio::task::spawn_blocking(move || diff_in_memory(&load)).await.map_err(internal)??)
        }
        _ => None,
    })
}

/// Writes records as proposers would, one event id after the other.
pub struct Author {
    incarnation: Incarnation,
    turn: u64,
}

impl Author {
    /// Records for the log of this life.
    pub fn new(incarnation: Incarnation) -> Author {
        Author { incarnation, turn: 0 }
    }

    fn record(&mut self, at: u64, body: Body<'_>) -> Vec<u8> {
        let intention = self.mint(at);
        let without_id = matches!(body, Body::Genesis(_));
        Event {
            format: FORMAT,
            incarnation: self.incarnation,
            intention: (!without_id).then_some(intention),
            author: "bench".into(),
            principal: "".into(),
            client_time_ms: 0,
            reason: "".into(),
            body,
        }
        .encode()
    }

    /// The same as a proposal to a replica.
    fn proposal(&mut self, at: u64, item: (String, Vec<u8>)) -> Proposal {
        let (id, intent) = self.mint(at);
        Proposal { id: Some(id), intent, author: "bench".into(), ..Proposal::new(puts([item])) }
    }

    /// One commit that puts these children, proposed with everything before position `at` seen.
    pub fn put(&mut self, at: u64, items: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
        self.record(at, puts(items))
    }

    fn mint(&mut self, at: u64) -> (EventId, Hash) {
        self.turn += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        nonce[8..].copy_from_slice(&self.turn.to_be_bytes());
        (EventId { seen: Position(at.saturating_sub(1)), nonce }, Hash::of(&nonce))
    }
}

/// One commit that puts these children.
pub fn puts(items: impl IntoIterator<Item = (String, Vec<u8>)>) -> Body<'static> {
    let operation = |(key, value): (String, Vec<u8>)| Operation {
        path: Path { steps: vec![Step { field: 1, key: Some(key.into_bytes().into()) }] },
        strict: false,
        base: None,
        kind: OperationKind::Put { value: value.into() },
    };
    let operations = items.into_iter().map(operation).collect();
    Body::Commit(Commit { guards: vec![], operations })
}

const CHILDREN_AT_ONCE: u64 = 10_000;

/// Records that wait on the log to be folded.
const AHEAD: u64 = 1 << 16;

/// Folds a record that must not be refused.
pub fn apply(state: &mut State, record: &[u8]) -> Result<(), Failure> {
    match fold::apply(state, Time(1), record, &NoObjects).map_err(internal)?.outcome {
        fold::Outcome::Accepted | fold::Outcome::Unchanged => Ok(()),
        other => Err(internal(format!("the benchmark's own event was refused: {other:?}"))),
    }
}

/// A store's state in memory, with the load's children.
pub fn state_in_memory(author: &mut Author, load: &Load) -> Result<State, Failure> {
    let mut state = State::new();
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
    Ok(state)
}

/// Events of one update each, with a root for every event, on one thread and without any disk.
fn fold_in_memory(load: &Load) -> Result<Measured, Failure> {
    let mut author = Author::new(Incarnation([7; 16]));
    let mut state = state_in_memory(&mut author, load)?;
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

/// What ten scattered updates changed, found by comparing the tree before with the tree after.
fn diff_in_memory(load: &Load) -> Result<Measured, Failure> {
    let mut author = Author::new(Incarnation([7; 16]));
    let mut state = state_in_memory(&mut author, load)?;
    let before = state.tree().clone();
    let touched: BTreeSet<u64> = (1..=10).map(|turn| bench::scattered(turn) % load.children).collect();
    let at = state.next_position().0;
    apply(&mut state, &author.put(at, touched.iter().map(|index| bench::item(*index, 1, load))))?;
    let after = state.tree();
    let mut recorder = Recorder::new();
    let began = Instant::now();
    while began.elapsed() < load.duration {
        let asked = Instant::now();
        let (changes, _) = diff::changes(&before, after, &NoSchema, &diff::Options::default(), &NoObjects).map_err(internal)?;
        recorder.record(asked);
        if changes.len() != touched.len() {
            return Err(internal(format!("{} changes were found, and {} made", changes.len(), touched.len())));
        }
    }
    Ok(Measured { note: format!("{} children", load.children), ..recorder.measured(began.elapsed()) })
}

/// A new store in a folder, with the load's children and nothing more.
async fn filled(data: &FilePath, load: &Load) -> Result<Embedded, Failure> {
    let begin = Begin { retention: DEFAULT_RETENTION, ..Begin::default() };
    let log_id = folder::create(data, "bench", &begin).map_err(failure)?;
    let store = Embedded::open(data, Options::default()).await.map_err(failure)?;
    write_through(&store, log_id, &Load { duration: Duration::ZERO, ..load.clone() }).await?;
    Ok(store)
}

fn get(index: u64) -> pb::GetRequest {
    pb::GetRequest { path: bench::path(index), ..Default::default() }
}

/// From the call that opens a data folder, closed in order before, to the first leaf read from it.
async fn open_and_read(load: &Load) -> Result<Measured, Failure> {
    let dir = tempfile::tempdir().map_err(internal)?;
    let data = dir.path().join("data");
    filled(&data, load).await?.close().await.map_err(failure)?;
    let mut recorder = Recorder::new();
    let mut took = Duration::ZERO;
    let mut turn = 0;
    while took < load.duration {
        turn += 1;
        let asked = Instant::now();
        let store = Embedded::open(&data, Options::default()).await.map_err(failure)?;
        store.api().get(get(bench::scattered(turn) % load.children)).await?;
        recorder.record(asked);
        took += asked.elapsed();
        store.close().await.map_err(failure)?;
    }
    Ok(Measured { note: format!("{} children", load.children), ..recorder.measured(took) })
}

/// Leaves read with GET, each client on a connection of its own, against a server in this process.
async fn http_reads(load: &Load, clients: usize) -> Result<Measured, Failure> {
    let dir = tempfile::tempdir().map_err(internal)?;
    let store = filled(&dir.path().join("data"), load).await?;
    let (address, stop) = serve_here(&store).await?;
    let (load, began) = (load.clone(), Instant::now());
    let tasks: Vec<_> = (0..clients as u64)
        .map(|client| {
            let load = load.clone();
            tokio::spawn(async move {
                let mut requests = http_connection(address).await?;
                let mut recorder = Recorder::new();
                for turn in 0.. {
                    if began.elapsed() >= load.duration {
                        break;
                    }
                    let index = bench::scattered(turn * clients as u64 + client) % load.children;
                    let asked = Instant::now();
                    http_get(&mut requests, &format!("/v1/get?path={}", bench::path(index))).await?;
                    recorder.record(asked);
                }
                Ok::<_, Failure>(recorder)
            })
        })
        .collect();
    let mut all = Recorder::new();
    for task in tasks {
        all.merge(&task.await.map_err(internal)??);
    }
    let took = began.elapsed();
    drop(stop);
    store.close().await.map_err(failure)?;
    Ok(all.measured(took))
}

/// A connection over which one request after the other is made.
async fn http_connection(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await.map_err(internal)?;
    stream.set_nodelay(true).map_err(internal)?;
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(internal)?;
    tokio::spawn(connection);
    Ok(requests)
}

/// One request, and its answer read whole.
async fn http_get(requests: &mut SendRequest<Empty<Bytes>>, path: &str) -> Result<(), Failure> {
    let request = Request::get(path).header(HOST, "localhost").body(Empty::new()).map_err(internal)?;
    requests.ready().await.map_err(internal)?;
    let answer = requests.send_request(request).await.map_err(internal)?;
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(internal(format!("GET {path} is answered with {status}")));
    }
    answer.into_body().collect().await.map_err(internal)?;
    Ok(())
}

/// The same with file log and RocksDB: from the records handed to the log until all of them are folded and in the store.
async fn durable_fold(load: &Load) -> Result<Measured, Failure> {
    let folder = tempfile::tempdir().map_err(internal)?;
    let data = folder.path().join("data");
    let begin = Begin { retention: DEFAULT_RETENTION, ..Begin::default() };
    let log_id = folder::create(&data, "bench", &begin).map_err(failure)?;
    let store = Embedded::open(&data, Options::default()).await.map_err(failure)?;
    let measured = write_through(&store, log_id, load).await?;
    store.close().await.map_err(failure)?;
    let of = |name: &str| measured.counted.get(name).copied().unwrap_or_default();
    let note = format!(
        "{} children, file log and RocksDB; {:.0} bytes in {:.1} puts an event",
        load.children,
        of("store_bytes_per_event"),
        of("store_puts_per_event")
    );
    Ok(Measured { note, ..measured })
}

/// Hands records to the log of a new store for the load's time, and waits until all of them are folded.
async fn write_through(store: &Embedded, log_id: [u8; 16], load: &Load) -> Result<Measured, Failure> {
    let handle = store.handle().clone();
    let mut author = Author::new(Incarnation(log_id));
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
    let handed_down = handle.store().map_err(internal)?.stats();
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
    let stats = handle.store().map_err(internal)?.stats();
    let per_event = |now: u64, then: u64| (now - then) as f64 / turn.max(1) as f64;
    let counted = [
        ("store_puts_per_event", per_event(stats.puts, handed_down.puts)),
        ("store_bytes_per_event", per_event(stats.bytes, handed_down.bytes)),
    ];
    Ok(Measured { counted: counted.into(), ..recorder.measured(took) })
}

/// A topic for one measurement, removed when dropped.
pub struct ScratchTopic {
    admin: Admin,
    settings: ClientSettings,
    name: String,
    kafka: Kafka,
}

impl ScratchTopic {
    /// As strong as the brokers allow.
    pub fn make(brokers: &str) -> Result<ScratchTopic, Failure> {
        let settings = ClientSettings::new(brokers);
        let admin = Admin::new(&settings, KAFKA_PATIENCE).map_err(|error| failure(error.into()))?;
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(internal)?;
        let name = format!("confold-bench-{:016x}", u64::from_be_bytes(nonce));
        let strong = NewTopic::new(&name, usize::try_from(Limits::default().max_event_bytes).map_err(internal)?);
        let weak = NewTopic { replication: 1, min_insync: 1, ..strong.clone() };
        let mut kafka = Kafka { brokers: brokers.to_owned(), topic: Some(name.clone()), ..Kafka::default() };
        match admin.create_topic(&strong) {
            Ok(()) => {}
            Err(TopicError::TooFewBrokers { .. }) => {
                admin.create_topic(&weak).map_err(|error| failure(error.into()))?;
                kafka.dev_unsafe = true;
            }
            Err(error) => return Err(failure(error.into())),
        }
        Ok(ScratchTopic { admin, settings, name, kafka })
    }

    /// A data folder on it; the store is begun by the first.
    pub fn folder(&self, dir: &FilePath) -> Result<[u8; 16], Failure> {
        let on = OnKafka { kafka: self.kafka.clone(), ..OnKafka::default() };
        let begin = Begin { retention: DEFAULT_RETENTION, ..Begin::default() };
        Ok(folder::create_on_kafka(dir, &on, &begin).map_err(failure)?.begun.log_id)
    }
}

impl Drop for ScratchTopic {
    fn drop(&mut self) {
        if let Err(error) = self.admin.delete_topic(&self.name) {
            tracing::warn!(%error, topic = self.name, "a topic of the benchmark is left behind");
        }
    }
}

const KAFKA_PATIENCE: Duration = Duration::from_secs(20);

/// The topic of a part that needs one.
fn scratch_topic(load: &Load) -> Result<ScratchTopic, Failure> {
    match &load.kafka {
        Some(brokers) => ScratchTopic::make(brokers),
        None => Err(internal("this part needs brokers")),
    }
}

async fn bare_kafka(load: &Load, in_flight: usize) -> Result<Measured, Failure> {
    let load = load.clone();
    let run = move || {
        let topic = scratch_topic(&load)?;
        let mut bare = Bare::new(&topic.settings, &topic.name).map_err(internal)?;
        // Connections, metadata and caches are warm before anything counts.
        bare.run(in_flight, load.record_bytes, load.duration / 4, |_| ()).map_err(internal)?;
        let mut recorder = Recorder::new();
        let began = Instant::now();
        let done = |produced| if in_flight == 1 { recorder.record(produced) } else { recorder.count(1) };
        bare.run(in_flight, load.record_bytes, load.duration, done).map_err(internal)?;
        let note = format!("{} bytes, produced and consumed", load.record_bytes);
        Ok(Measured { note, ..recorder.measured(began.elapsed()) })
    };
    tokio::task::spawn_blocking(run).await.map_err(internal)?
}

/// A store on a topic of its own, in a folder of its own.
async fn open_on(topic: &ScratchTopic, dir: &FilePath) -> Result<(Embedded, [u8; 16]), Failure> {
    let log_id = tokio::task::block_in_place(|| topic.folder(dir))?;
    Ok((Embedded::open(dir, Options::default()).await.map_err(failure)?, log_id))
}

/// Commits of one put each, proposed to a replica in this process; each ends when its event came back from the brokers and is in
/// the store.
async fn commits_in_process(load: &Load, in_flight: usize) -> Result<Measured, Failure> {
    let dir = tempfile::tempdir().map_err(internal)?;
    let topic = tokio::task::block_in_place(|| scratch_topic(load))?;
    let (store, log_id) = open_on(&topic, &dir.path().join("data")).await?;
    // Children, and everything warm.
    write_through(&store, log_id, &Load { duration: load.duration / 4, ..load.clone() }).await?;
    let handle = store.handle();
    let mut author = Author { incarnation: Incarnation(log_id), turn: u64::from(u32::MAX) };
    let mut under_way = VecDeque::new();
    let mut recorder = Recorder::new();
    let began = Instant::now();
    let mut turn = 0;
    loop {
        while began.elapsed() < load.duration && under_way.len() < in_flight {
            turn += 1;
            let index = bench::scattered(turn) % load.children;
            let proposed = Instant::now();
            let proposal = author.proposal(handle.view().position.0, bench::item(index, turn, load));
            under_way.push_back((proposed, handle.submit(proposal, KAFKA_PATIENCE).map_err(internal)?));
        }
        let Some((proposed, submission)) = under_way.pop_front() else { break };
        submission.settled().await.map_err(internal)?;
        if in_flight == 1 { recorder.record(proposed) } else { recorder.count(1) }
    }
    let took = began.elapsed();
    store.close().await.map_err(failure)?;
    Ok(recorder.measured(took))
}

/// From an empty folder until everything on a long topic is folded and in the store.
async fn new_replica(load: &Load) -> Result<Measured, Failure> {
    let dir = tempfile::tempdir().map_err(internal)?;
    let topic = tokio::task::block_in_place(|| scratch_topic(load))?;
    let (first, log_id) = open_on(&topic, &dir.path().join("first")).await?;
    write_through(&first, log_id, load).await?;
    let wanted = first.handle().view().position;
    first.close().await.map_err(failure)?;
    let second = dir.path().join("second");
    tokio::task::block_in_place(|| topic.folder(&second))?;
    let began = Instant::now();
    let store = Embedded::open(&second, Options::default()).await.map_err(failure)?;
    store.handle().at_least(wanted, 30 * load.duration).await.map_err(internal)?;
    let took = began.elapsed();
    store.close().await.map_err(failure)?;
    let mut recorder = Recorder::new();
    recorder.count(wanted.0);
    Ok(Measured { note: format!("{} records, brokers beside it", wanted.0), ..recorder.measured(took) })
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
