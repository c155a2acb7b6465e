//! How fast the file log is on this disk: `cargo run --release -p confold-log --example log_speed [FOLDER]`.
//!
//! Prints the plain cost of the same bytes with fdatasync beside it, so the figures mean something on any machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::file::{FileLog, Identity, Options};
use confold_log::{Log, LogError, Reader};
use confold_model::ids::Position;

const RECORD: usize = 300;
/// A batch of one such record.
const BATCH: usize = 60 + 12 + RECORD;
const SINGLE: usize = 3000;
const IN_FLIGHT: usize = 64;
const IN_FLIGHT_COUNT: usize = 60_000;
const PIPELINED: usize = 600_000;
const IDENTITY: Identity = Identity {
    log_id: [1; 16],
    transport_id: [2; 16],
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("confold-log-speed-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = measure(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn measure(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("records of {RECORD} bytes, in {}", folder.display());
    let raw = raw_sync(folder, BATCH)?;
    println!(
        "raw write + fdatasync of {BATCH} bytes      p50 {:>9}  p99 {:>9}",
        micros(raw.0),
        micros(raw.1)
    );

    let log = FileLog::create(&folder.join("log"), IDENTITY, Options::default())?;
    let mut reader = log.reader(Position(0))?;
    let single = one_at_a_time(&log, &mut *reader)?;
    println!(
        "append to read, one at a time           p50 {:>9}  p99 {:>9}",
        micros(single.0),
        micros(single.1)
    );
    println!("  that is {:.2} x raw", single.0.as_secs_f64() / raw.0.as_secs_f64());

    let took = in_flight(&log, &mut *reader)?;
    println!(
        "{IN_FLIGHT} in flight                            {:>9.0} records/s",
        IN_FLIGHT_COUNT as f64 / took.as_secs_f64()
    );
    println!(
        "  that is {:.1} x raw",
        IN_FLIGHT_COUNT as f64 / took.as_secs_f64() * raw.0.as_secs_f64()
    );

    let took = pipelined(&log, &mut *reader)?;
    let rate = PIPELINED as f64 / took.as_secs_f64();
    println!(
        "pipelined                               {rate:>9.0} records/s, {:.0} MB/s",
        rate * RECORD as f64 / 1e6
    );
    let big = raw_sync(folder, 1 << 20)?;
    println!(
        "  raw write + fdatasync of 1 MiB        {:>9.0} MB/s",
        (1 << 20) as f64 / big.0.as_secs_f64() / 1e6
    );
    log.close();

    let began = Instant::now();
    let log = FileLog::open(&folder.join("log"), Options::default())?;
    println!(
        "open                                    {:>9.1} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    let count = log.range().end.0;
    let began = Instant::now();
    read_count(&mut *log.reader(Position(0))?, count as usize)?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    println!(
        "read from disk, checked                 {rate:>9.0} records/s, {:.0} MB/s",
        rate * RECORD as f64 / 1e6
    );
    Ok(())
}

/// Median and 99th percentile of appending `size` bytes to a file and making them durable.
fn raw_sync(folder: &Path, size: usize) -> std::io::Result<(Duration, Duration)> {
    let file = File::create(folder.join("raw"))?;
    let bytes = vec![7; size];
    let count = if size > 100_000 { 100 } else { SINGLE };
    let mut times = Vec::new();
    for n in 0..count {
        let began = Instant::now();
        file.write_all_at(&bytes, (n * size) as u64)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(percentiles(times))
}

fn one_at_a_time(log: &dyn Log, reader: &mut dyn Reader) -> Result<(Duration, Duration), LogError> {
    let mut times = Vec::new();
    for n in 0..SINGLE {
        let began = Instant::now();
        log.append(record(n))?;
        read_count(reader, 1)?;
        times.push(began.elapsed());
    }
    Ok(percentiles(times))
}

fn in_flight(log: &dyn Log, reader: &mut dyn Reader) -> Result<Duration, LogError> {
    let began = Instant::now();
    let (mut appended, mut seen) = (0, 0);
    while seen < IN_FLIGHT_COUNT {
        while appended < IN_FLIGHT_COUNT && appended - seen < IN_FLIGHT {
            log.append(record(appended))?;
            appended += 1;
        }
        seen += reader.read(IN_FLIGHT, usize::MAX, Duration::from_secs(10))?.len();
    }
    Ok(began.elapsed())
}

fn pipelined(log: &dyn Log, reader: &mut dyn Reader) -> Result<Duration, LogError> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            for n in 0..PIPELINED {
                let bytes = record(n);
                loop {
                    match log.append(bytes.clone()) {
                        Err(LogError::Full { .. }) => std::thread::yield_now(),
                        answer => break answer?,
                    }
                }
            }
            Ok(())
        });
        read_count(reader, PIPELINED)?;
        appending.join().expect("the appender does not panic")
    })?;
    Ok(began.elapsed())
}

fn read_count(reader: &mut dyn Reader, count: usize) -> Result<(), LogError> {
    let mut seen = 0;
    while seen < count {
        seen += reader
            .read((count - seen).min(1024), usize::MAX, Duration::from_secs(10))?
            .len();
    }
    Ok(())
}

fn record(n: usize) -> Bytes {
    let mut bytes = vec![n as u8; RECORD];
    bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
    Bytes::from(bytes)
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn micros(time: Duration) -> String {
    format!("{:.0} us", time.as_secs_f64() * 1e6)
}
