//! Events per second of the fold in memory, with a root for every event, and bare BLAKE3 of the same records beside it.
//!
//! `cargo run --release -p confold-model --example fold_speed [events] [children]`: all sizes, or the one asked for.

use confold_model::event::{
    Body, Commit, Event, FORMAT, Genesis, Limits, Operation, OperationKind, RetentionPolicy, WINDOW,
};
use confold_model::fold;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Time};
use confold_model::objects::NoObjects;
use confold_model::path::{Path, Step};
use confold_model::state::State;
use std::time::Instant;

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOG_ID: [u8; 16] = [1; 16];

fn record(body: Body<'_>, at: u64) -> Vec<u8> {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let id = EventId { seen: Position(at.saturating_sub(3)), nonce };
    let intention = (!matches!(body, Body::Genesis(_))).then(|| (id, Hash::of(&nonce)));
    Event {
        format: FORMAT,
        incarnation: Incarnation(LOG_ID),
        intention,
        author: "bench".into(),
        principal: "".into(),
        client_time_ms: 0,
        reason: "".into(),
        body,
    }
    .encode()
}

fn device(key: &str, turn: u64) -> Vec<u8> {
    let mut out = vec![0x0a, key.len() as u8];
    out.extend(key.as_bytes());
    out.extend([0x12, 0xdc, 0x01]);
    out.extend(format!("{turn:0>220}").as_bytes());
    out
}

fn operation(key: &str, kind: OperationKind<'static>) -> Operation<'static> {
    Operation { path: Path { steps: vec![Step { field: 2, key: Some(key.as_bytes().into()) }] }, strict: false, base: None, kind }
}

fn descriptor_set() -> Vec<u8> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([here.join("tests/protos"), here.join("../../schemas")]).unwrap();
    compiler.include_source_info(false).include_imports(true).open_file("script.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn run(children: u64, events: u64, random: bool) {
    let mut state = State::new();
    let mut at = 0;
    let mut apply = |state: &mut State, body: Body<'_>| {
        let bytes = record(body, at);
        at += 1;
        fold::apply(state, Time(at as i64), &bytes, &NoObjects).unwrap()
    };
    let genesis = Genesis {
        log_id: LOG_ID,
        store_name: "bench".into(),
        limits: Limits { max_event_bytes: 1 << 30, ..Limits::default() },
        window: WINDOW,
        trim_replicas: 1,
        retention: RetentionPolicy { keep_all: true, ..RetentionPolicy::default() },
        level: 1,
        transport_id: [2; 16],
    };
    apply(&mut state, Body::Genesis(genesis));
    let schema = Body::Schema { descriptor_set: descriptor_set().into(), root_message: "script.Root".into() };
    apply(&mut state, schema);
    let name = |n: u64| if random { Hash::of(&n.to_be_bytes()).to_string()[..16].to_owned() } else { format!("device-{n:08}") };
    let keys: Vec<String> = (0..children).map(name).collect();
    for chunk in keys.chunks(10_000) {
        let add = |key: &String| operation(key, OperationKind::Add { value: device(key, 0).into() });
        let commit = Commit { guards: vec![], operations: chunk.iter().map(add).collect() };
        assert!(apply(&mut state, Body::Commit(commit)).made_revision);
    }
    let mut random_state = 1u64;
    let mut update = |turn: u64| {
        random_state = random_state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let key = &keys[((random_state >> 33) % children) as usize];
        let kind = OperationKind::Update { value: device(key, turn + 1).into(), mask: vec![] };
        record(Body::Commit(Commit { guards: vec![], operations: vec![operation(key, kind)] }), at + turn)
    };
    let records: Vec<Vec<u8>> = (0..events).map(&mut update).collect();
    let size = records.iter().map(Vec::len).sum::<usize>() / records.len();
    state.tree().unpersisted(&mut |_, _| ());
    state.take_edits();
    let (mut objects, mut bytes) = (0u64, 0u64);
    let started = Instant::now();
    for (index, record) in records.iter().enumerate() {
        let applied = fold::apply(&mut state, Time(index as i64), record, &NoObjects).unwrap();
        assert!(applied.made_revision, "{:?}", applied.outcome);
        if index % 256 == 255 {
            state.tree().unpersisted(&mut |_, object| {
                objects += 1;
                bytes += object.len() as u64;
            });
            state.take_edits();
        }
    }
    let rate = events as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    for record in &records {
        std::hint::black_box(blake3::hash(record));
    }
    let bare = events as f64 / started.elapsed().as_secs_f64();
    let (objects, bytes) = (objects as f64 / events as f64, bytes as f64 / events as f64);
    println!(
        "{children:>8} children, {} keys: {rate:>7.0} events/s of {size} B; {objects:.1} objects and {bytes:.0} B an \
         event in batches of 256; bare BLAKE3 of the records {bare:.0}/s",
        if random { "random" } else { "sequential" },
    );
}

fn main() {
    let number = |index| std::env::args().nth(index).and_then(|text| text.parse().ok());
    let events = number(1).unwrap_or(200_000);
    for (children, random) in
        [(100, false), (1_000, false), (10_000, false), (100_000, false), (1_000_000, false), (1_000_000, true)]
    {
        if number(2).is_none_or(|only| only == children) {
            run(children, events, random);
        }
    }
}
