//! How fast one core folds: `cargo run --release -p confold-replica --example replica_speed [children …]`
//!
//! Records of about 340 bytes, each an update of one node of about 250 bytes, in random order; everything in memory. Three
//! rates for each number of children: the bare fold, the fold with its rows and objects in batches of 1,024, and a whole
//! replica on a memory log and store: from empty, then with many proposals in flight.

use bytes::Bytes;
use confold_log::memory::MemoryLog;
use confold_log::{Log, Record};
use confold_model::event::{Body, Commit, Event, FORMAT, Operation, OperationKind};
use confold_model::fold;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Time};
use confold_model::objects::NoObjects;
use confold_model::path::{Path, Step};
use confold_model::state::State;
use confold_replica::step::{FoldError, Folder, Next};
use confold_replica::{Begin, Housekeeping, Options, Proposal, Replica, begin};
use confold_store::memory::MemoryStore;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EVENTS: u64 = 300_000;
const BATCH: u64 = 1_024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Vec<u64> = std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let sizes = if given.is_empty() { vec![1_000, 1_000_000] } else { given };
    for children in sizes {
        let log = log_of(children)?;
        let records = log.records();
        bare(children, &records)?;
        with_rows(children, &records)?;
        proposals(children, log)?;
    }
    Ok(())
}

/// Time by the wall and by the processor: on a busy machine only the second says something.
struct Stopwatch {
    started: Instant,
    cpu: Duration,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch { started: Instant::now(), cpu: cpu_time() }
    }

    fn report(&self, what: &str, children: u64, events: u64) {
        let rate = events as f64 / self.started.elapsed().as_secs_f64();
        let cpu = (cpu_time() - self.cpu).as_secs_f64() * 1e6 / events as f64;
        println!("{what:28} {children:>9} children  {rate:>9.0} events/s  {cpu:>6.2} µs of processor each");
    }
}

/// Of all threads so far, as Linux counts it.
fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let spent = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

/// The last `EVENTS` records are the updates.
fn bare(children: u64, records: &[Record]) -> Result<(), Box<dyn std::error::Error>> {
    let (load, updates) = records.split_at(records.len() - EVENTS as usize);
    let mut state = State::new();
    let mut run = |records: &[Record]| {
        for record in records {
            let applied = fold::apply(&mut state, record.time, &record.bytes, &NoObjects)?;
            assert_eq!(applied.outcome.code(), 0);
        }
        Ok::<_, confold_model::objects::ObjectsError>(())
    };
    run(load)?;
    let watch = Stopwatch::start();
    run(updates)?;
    watch.report("bare fold", children, EVENTS);
    Ok(())
}

fn with_rows(children: u64, records: &[Record]) -> Result<(), Box<dyn std::error::Error>> {
    let mut folder = Folder::new([1; 16]);
    let (load, updates) = records.split_at(records.len() - EVENTS as usize);
    let mut run = |records: &[Record]| {
        let (mut objects, mut bytes) = (0, 0);
        for record in records {
            let next = folder.fold(record, &NoObjects)?;
            let last = records.last().is_some_and(|last| last.position == record.position);
            let ends = last || next == Next::Ends || folder.collected() >= BATCH;
            if let Some(folded) = ends.then(|| folder.finish()).flatten() {
                objects += folded.batch.objects.len();
                bytes += folded.batch.objects.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            }
        }
        Ok::<_, FoldError>((objects, bytes))
    };
    run(load)?;
    let watch = Stopwatch::start();
    let (objects, bytes) = run(updates)?;
    watch.report("with rows and objects", children, EVENTS);
    println!(
        "    {:.2} objects and {:.0} bytes of objects per event in batches of {BATCH}",
        objects as f64 / EVENTS as f64,
        bytes as f64 / EVENTS as f64
    );
    Ok(())
}

fn proposals(children: u64, log: MemoryLog) -> Result<(), Box<dyn std::error::Error>> {
    let options = Options { housekeeping: Housekeeping::ByHand, tree_cache_bytes: 4 << 30, ..Options::default() };
    // The children came in by the thousand: what counts is how many operations there are.
    let total = children + EVENTS;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let watch = Stopwatch::start();
    let handle = Replica::open(Arc::new(log), Arc::new(MemoryStore::new()), options)?;
    runtime.block_on(handle.ready());
    watch.report("whole replica, from empty", children, total);
    let bodies = EVENTS / 3;
    runtime.block_on(async {
        let watch = Stopwatch::start();
        let mut waiting = VecDeque::new();
        for number in 0..bodies {
            let body = update(scattered(number, children), number);
            let submission = handle.submit(Proposal::new(body), Duration::from_secs(60));
            waiting.push_back(tokio::spawn(submission.map_err(|error| error.to_string())?.settled()));
            if waiting.len() >= 4_096
                && let Some(oldest) = waiting.pop_front()
            {
                oldest.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            }
        }
        for submission in waiting {
            submission.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        watch.report("proposals, 4,096 in flight", children, bodies);
        Ok::<_, String>(())
    })?;
    runtime.block_on(handle.shutdown(Duration::from_secs(5)))?;
    Ok(())
}

/// Genesis, the schema, all children in commits of 1,000, then the updates.
fn log_of(children: u64) -> Result<MemoryLog, Box<dyn std::error::Error>> {
    let log = MemoryLog::new([7; 16]);
    begin(&log, "speed", &Begin::default())?;
    let genesis = log.records()[0].bytes.clone();
    let incarnation = Event::decode(&genesis)?.incarnation;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/examples/network.proto");
    let set = confold_wire::schema_source::descriptor_set_of(file.as_ref(), &[])?.descriptor_set;
    let schema = Body::Schema { descriptor_set: set.into(), root_message: "example.Network".into() };
    log.append(record(incarnation, 0, schema))?;
    let all: Vec<u64> = (0..children).collect();
    for (number, some) in all.chunks(1_000).enumerate() {
        let add = |child: &u64| operation(*child, OperationKind::Put { value: device(*child, 0).into() });
        let commit = Commit { guards: vec![], operations: some.iter().map(add).collect() };
        log.append(record(incarnation, 1 + number as u64, Body::Commit(commit)))?;
    }
    let first = log.range().end.0;
    for number in 0..EVENTS {
        log.append(record(incarnation, first + number - 1, update(scattered(number, children), number + 1)))?;
    }
    Ok(log)
}

fn scattered(number: u64, children: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % children
}

fn update(child: u64, number: u64) -> Body<'static> {
    let kind = OperationKind::Update { value: device(child, number).into(), mask: vec![] };
    Body::Commit(Commit { guards: vec![], operations: vec![operation(child, kind)] })
}

fn operation(child: u64, kind: OperationKind<'static>) -> Operation<'static> {
    let path = Path { steps: vec![Step::keyed(3, format!("device-{child:07}").into_bytes())] };
    Operation { path, strict: false, base: None, kind }
}

/// About 250 bytes of a Device.
fn device(child: u64, number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(260);
    let description = format!("{number:016} {}", "d".repeat(180));
    for (field, text) in [(1u8, format!("device-{child:07}")), (2, format!("10.{}.0.1", child % 250)), (4, description)] {
        out.push(field << 3 | 2);
        let mut length = text.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

fn record(incarnation: Incarnation, seen: u64, body: Body<'_>) -> Bytes {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&seen.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    nonce[8..].copy_from_slice(&seen.to_be_bytes());
    let id = EventId { seen: Position(seen), nonce };
    let event = Event {
        format: FORMAT,
        incarnation,
        intention: Some((id, Hash::of(&nonce))),
        author: "speed".into(),
        principal: "".into(),
        client_time_ms: Time::default().0,
        reason: "".into(),
        body,
    };
    event.encode().into()
}
