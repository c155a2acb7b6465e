//! How fast batches go down, beside the same bytes as bare puts.
//!
//! `cargo run --release --example store_speed [BATCHES]`: batches of 256 events that each change one path: six new
//! objects of some 250 bytes, a revision, two touched paths, an id.

use bytes::Bytes;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::objects::Objects;
use confold_store::conformance::{Dice, head_at};
use confold_store::{Batch, IdRow, Order, PathDigest, RevisionRow, Store, Touched};
use confold_store_rocks::{Options, RocksStore};
use std::error::Error;
use std::time::{Duration, Instant};

const EVENTS: u64 = 256;
const OBJECTS: u64 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).map_or(Ok(400), |text| text.parse::<u64>())?;
    let dir = std::env::temp_dir().join(format!("store-speed-{}", std::process::id()));
    let ended = run(&dir, count);
    std::fs::remove_dir_all(&dir)?;
    ended
}

fn run(dir: &std::path::Path, count: u64) -> Result<(), Box<dyn Error>> {
    let store = RocksStore::open(&dir.join("store"), &Options::default())?;
    let mut dice = Dice(1);
    let (mut spent, mut samples) = (Duration::ZERO, Vec::new());
    for number in 0..count {
        let batch = batch(number, &mut dice);
        samples.push((batch.objects[7].0, batch.ids[9].id, batch.touched[3].path));
        let start = Instant::now();
        store.commit(&batch)?;
        spent += start.elapsed();
    }
    let events = count * EVENTS;
    let stats = store.stats();
    let per_event = |amount: u64| amount as f64 / events as f64;
    println!(
        "{events} events in {count} batches: {:.0} events/s, {:.0} puts/s",
        rate(events, spent),
        rate(stats.puts, spent)
    );
    println!(
        "{:.2} puts and {:.0} bytes for each event",
        per_event(stats.puts),
        per_event(stats.bytes)
    );
    println!(
        "  without objects: {:.2} puts",
        per_event(stats.puts - stats.objects_put)
    );
    let start = Instant::now();
    store.sync()?;
    println!("sync after it: {:?}", start.elapsed());

    time("object", &samples, |(hash, _, _)| Ok(drop(store.object(hash)?)))?;
    time("id", &samples, |(_, id, _)| {
        Ok(assert!(store.id(id, 1 << 20)?.is_some()))
    })?;
    time("touched", &samples, |(_, _, path)| {
        Ok(drop(store.touched(
            path,
            Revision(0)..=Revision(u64::MAX),
            Order::Descending,
            10,
        )?))
    })?;
    let numbers: Vec<u64> = (0..1_000).map(|_| dice.below(events)).collect();
    time("revision", &numbers, |number| {
        Ok(drop(store.revision(Revision(*number))?))
    })?;
    time("revision at a position", &numbers, |number| {
        Ok(drop(store.revision_at_position(Position(*number))?))
    })?;
    time("revision at a time", &numbers, |number| {
        Ok(drop(store.revision_at_time(Time(*number as i64))?))
    })?;
    drop(store);
    let start = Instant::now();
    let store = RocksStore::open(&dir.join("store"), &Options::default())?;
    println!(
        "opened in {:?} at position {}",
        start.elapsed(),
        store.head().map_or(0, |head| head.applied.0)
    );
    drop(store);
    bare(&dir.join("bare"), count)
}

/// The same objects, and as many bytes of rows, put one by one into batches of the same size.
fn bare(dir: &std::path::Path, count: u64) -> Result<(), Box<dyn Error>> {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    let db = rocksdb::DB::open(&options, dir)?;
    let mut dice = Dice(1);
    let (mut spent, mut puts) = (Duration::ZERO, 0);
    for number in 0..count {
        let batch = batch(number, &mut dice);
        let start = Instant::now();
        let mut write = rocksdb::WriteBatch::default();
        for (hash, bytes) in &batch.objects {
            write.put(hash.0, bytes);
        }
        for row in &batch.revisions {
            write.put(row.revision.0.to_be_bytes(), [0; 110]);
        }
        puts += write.len() as u64;
        db.write(write)?;
        spent += start.elapsed();
    }
    println!(
        "bare puts with default settings, objects and one row each: {:.0} puts/s",
        rate(puts, spent)
    );
    Ok(())
}

fn batch(number: u64, dice: &mut Dice) -> Batch {
    let first = number * EVENTS;
    let mut batch = Batch::at(head_at(first + EVENTS - 1));
    for event in first..first + EVENTS {
        let objects = (0..OBJECTS).map(|_| {
            let bytes: Vec<u8> = (0..16).flat_map(|_| dice.bytes()).take(250).collect();
            (Hash::of(&bytes), Bytes::from(bytes))
        });
        batch.objects.extend(objects);
        let (revision, position) = (Revision(event + 1), Position(event));
        let id = (event > 0).then(|| EventId {
            seen: Position(event - 1),
            nonce: dice.bytes(),
        });
        let root = batch.objects[batch.objects.len() - 1].0;
        batch.revisions.push(RevisionRow {
            revision,
            position,
            time: Time(event as i64),
            root,
            id,
            author: "ada".into(),
            digest: root,
        });
        batch.ids.extend(id.map(|id| IdRow { id, position, revision }));
        for path in [dice.below(1_000_000), 1_000_000 + dice.below(100)] {
            let mut digest = [0; 12];
            digest.copy_from_slice(&Hash::of(&path.to_be_bytes()).0[..12]);
            batch.touched.push(Touched {
                revision,
                path: PathDigest(digest),
                kind: 1,
            });
        }
        (batch.head.revision, batch.head.root, batch.head.time) = (revision, root, Time(event as i64));
    }
    batch
}

fn time<T>(
    what: &str,
    samples: &[T],
    mut read: impl FnMut(&T) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    samples.iter().try_for_each(&mut read)?;
    println!(
        "{what}: {:.1} microseconds",
        start.elapsed().as_secs_f64() * 1e6 / samples.len() as f64
    );
    Ok(())
}

fn rate(count: u64, spent: Duration) -> f64 {
    count as f64 / spent.as_secs_f64()
}
