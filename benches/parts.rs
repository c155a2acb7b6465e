//! What the parts cost one by one, measured with criterion: `cargo bench --manifest-path benches/Cargo.toml`, with `-- fold`
//! for some of them.
//!
//! `confold bench` measures the whole; this is for whoever changes one part and wants to see what that did.

use bytes::Bytes;
use confold::bench::{Author, apply, state_in_memory};
use confold_cli::bench::{Load, ROOT, item, scattered, schema};
use confold_log::file::{FileLog, Identity, Options};
use confold_log::{Log, LogError};
use confold_model::diff::{self, NoSchema};
use confold_model::event::Event;
use confold_model::ids::{Hash, Incarnation, Position};
use confold_model::map::Map;
use confold_model::objects::NoObjects;
use confold_model::schema::Schema;
use confold_store::conformance::{Leaf, head_at};
use confold_store::{Batch, Durability, Store};
use confold_store_rocks::RocksStore;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SIZES: [u64; 2] = [1_000, 100_000];

/// Events between two batches of objects, as far behind the log as a replica that keeps up under load.
const BATCH: u64 = 256;

fn load(children: u64) -> Load {
    Load { children, record_bytes: 340, duration: Duration::ZERO, kafka: None }
}

fn author() -> Author {
    Author::new(Incarnation([7; 16]))
}

fn bytes(criterion: &mut Criterion) {
    let load = load(1);
    let record = author().put(2, [item(0, 1, &load)]);
    let event = Event::decode(&record).unwrap();
    let schema = Schema::compile(&schema().unwrap(), ROOT).unwrap();
    let ty = schema.message_by_name("confold.bench.Item").unwrap();
    let config = item(0, 1, &load).1;
    let mut group = criterion.benchmark_group("bytes");
    group.throughput(Throughput::Bytes(record.len() as u64));
    group.bench_function("hash of a record", |bench| bench.iter(|| Hash::of(black_box(&record))));
    group.bench_function("event decoded", |bench| bench.iter(|| drop(black_box(Event::decode(black_box(&record))))));
    group.bench_function("event encoded", |bench| bench.iter(|| black_box(&event).encode()));
    group.throughput(Throughput::Bytes(config.len() as u64));
    group.bench_function("config checked", |bench| bench.iter(|| schema.check_config(ty, black_box(&config), 2).unwrap()));
    group.finish();
}

fn maps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("map");
    for size in SIZES {
        let key = |number: u64| format!("item-{number:07}").into_bytes().into_boxed_slice();
        let map = Map::from_entries((0..size).map(|number| (key(number), Hash::of(&number.to_be_bytes()))));
        map.hash();
        let mut turn = 0;
        group.bench_function(format!("insert and hash, {size} keys"), |bench| {
            bench.iter_batched(
                || {
                    turn += 1;
                    (map.clone(), key(scattered(turn) % size), Hash::of(&scattered(turn).to_be_bytes()))
                },
                |(mut map, key, value)| {
                    map.insert(&key, value);
                    map.hash()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn folds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold");
    for size in SIZES {
        let load = load(size);
        let mut author = author();
        let mut state = state_in_memory(&mut author, &load).unwrap();
        let mut turn = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("one update, {size} children"), |bench| {
            bench.iter_custom(|events| {
                let (mut left, mut took) = (events, Duration::ZERO);
                while left > 0 {
                    let at = state.next_position().0;
                    let update = |_| {
                        turn += 1;
                        author.put(at, [item(scattered(turn) % size, turn, &load)])
                    };
                    let records: Vec<Vec<u8>> = (0..left.min(BATCH)).map(update).collect();
                    let began = Instant::now();
                    records.iter().for_each(|record| apply(&mut state, record).unwrap());
                    state.tree().unpersisted(&mut |_, _| ());
                    state.take_edits();
                    took += began.elapsed();
                    left -= records.len() as u64;
                }
                took
            });
        });
        let before = state.tree().clone();
        let at = state.next_position().0;
        apply(&mut state, &author.put(at, (1..=10).map(|turn| item(scattered(turn) % size, u64::MAX, &load)))).unwrap();
        let after = state.tree().clone();
        group.bench_function(format!("diff of 10 changes, {size} children"), |bench| {
            bench.iter(|| diff::changes(&before, &after, &NoSchema, &diff::Options::default(), &NoObjects).unwrap());
        });
    }
    group.finish();
}

const PATIENCE: Duration = Duration::from_secs(20);

fn logs(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity { log_id: [1; 16], transport_id: [2; 16] };
    let log = FileLog::create(&folder.path().join("log"), identity, Options::default()).unwrap();
    let record = Bytes::from(vec![7; 340]);
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1));
    let mut reader = log.reader(Position(0)).unwrap();
    group.bench_function("append, sync and read", |bench| {
        bench.iter(|| {
            log.append(record.clone()).unwrap();
            reader.read(1, 1 << 20, PATIENCE).unwrap()
        });
    });
    const RECORDS: u64 = 100_000;
    let filled = FileLog::create(&folder.path().join("filled"), identity, Options::default()).unwrap();
    for _ in 0..RECORDS {
        while let Err(error) = filled.append(record.clone()) {
            assert!(matches!(error, LogError::Full { .. }), "{error}");
            std::thread::yield_now();
        }
    }
    filled.close();
    let filled = FileLog::open(&folder.path().join("filled"), Options::default()).unwrap();
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(10);
    group.bench_function(format!("{RECORDS} records read"), |bench| {
        bench.iter(|| {
            let mut reader = filled.reader(Position(0)).unwrap();
            let mut read = 0;
            while read < RECORDS {
                read += reader.read(4_096, 1 << 20, PATIENCE).unwrap().len() as u64;
            }
        });
    });
    group.finish();
}

fn stores(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    for durability in [Durability::Later, Durability::Now] {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksStore::open(&folder.path().join("store"), &confold_store_rocks::Options::default()).unwrap();
        let mut position = 0;
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function(format!("batch of {BATCH} objects, durable {durability:?}"), |bench| {
            bench.iter_batched(
                || {
                    position += 1;
                    let objects = (0..BATCH).map(|number| Leaf::of(position * BATCH + number)).collect();
                    Batch { objects, durability, ..Batch::at(head_at(position)) }
                },
                |batch| store.commit(&batch).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(parts, bytes, maps, folds, logs, stores);
criterion_main!(parts);
