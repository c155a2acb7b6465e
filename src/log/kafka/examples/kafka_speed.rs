//! The log on a topic beside a bare produce-then-consume loop on the same broker, with the client library set up alike.
//!
//! `cargo run --release -p confold-log-kafka --example kafka_speed` starts a broker of its own; `confold bench --kafka` measures
//! everything above it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::{Log, LogError};
use confold_log_kafka::{Bare, ClientSettings, KafkaLog, Options};
use confold_test_brokers::{Cluster, Setup};

const RECORD: usize = 300;
const TIME: Duration = Duration::from_secs(3);
const IN_FLIGHT: [usize; 3] = [1, 256, 16_384];
const TOPIC: [(&str, &str); 2] = [("retention.ms", "-1"), ("message.timestamp.type", "LogAppendTime")];

fn main() -> Result<(), LogError> {
    let cluster = Cluster::start(Setup { speed: true, ..Setup::default() });
    let settings = ClientSettings::new(cluster.bootstrap());
    // The broker's code is compiled while it works.
    Bare::new(&settings, &cluster.new_topic(&TOPIC))?.run(16_384, RECORD, 2 * TIME, |_| ())?;
    for round in 1..=3 {
        for in_flight in IN_FLIGHT {
            let mut times = Vec::new();
            let mut bare = Bare::new(&settings, &cluster.new_topic(&TOPIC))?;
            bare.run(in_flight, RECORD, TIME / 4, |_| ())?;
            bare.run(in_flight, RECORD, TIME, |began| times.push(began.elapsed()))?;
            print(round, "bare", in_flight, times);
            let log = KafkaLog::open(Options::new(settings.clone(), cluster.new_topic(&TOPIC)))?;
            print(round, "log", in_flight, through(&log, in_flight)?);
        }
    }
    Ok(())
}

/// Appends and reads back.
fn through(log: &KafkaLog, in_flight: usize) -> Result<Vec<Duration>, LogError> {
    let mut reader = log.reader(log.range().end)?;
    let (mut under_way, mut times) = (VecDeque::new(), Vec::new());
    let record = Bytes::from(vec![0x5a; RECORD]);
    let began = Instant::now();
    loop {
        while began.elapsed() < TIME && under_way.len() < in_flight {
            log.append(record.clone())?;
            under_way.push_back(Instant::now());
        }
        if under_way.is_empty() {
            return Ok(times);
        }
        let came = reader.read(4096, 8 << 20, TIME)?.len();
        times.extend(under_way.drain(..came).map(|began| began.elapsed()));
    }
}

fn print(round: usize, what: &str, in_flight: usize, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_micros();
    let rate = times.len() as f64 / TIME.as_secs_f64();
    println!("round {round}: {what:4} {in_flight:6} in flight {rate:9.0}/s, p50 {} us, p99 {} us", at(50), at(99));
}
