//! How fast the log on a topic is beside the client library alone, on the same broker and in the same run:
//! `cargo run --release -p confold-log-kafka --example kafka_speed [HOST:PORT]`.
//!
//! Without an address it starts a broker of its own. Each figure is taken in turns, a round of one and a round of the other,
//! so that whatever else the machine does burdens both.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::{Log, LogError, Reader};
use confold_log_kafka::{Admin, ClientSettings, KafkaLog, NewTopic, Options};
use confold_model::event::{self, Body, Event};
use confold_model::ids::{EventId, Hash, Position};
use confold_test_brokers::{Cluster, Setup};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const RECORD: usize = 300;
const ROUNDS: usize = 5;
const SINGLE: usize = 600;
const IN_FLIGHT: usize = 256;
const IN_FLIGHT_COUNT: usize = 40_000;
const PIPELINED: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let own = std::env::args().nth(1).is_none().then(|| {
        Cluster::start(Setup {
            speed: true,
            ..Setup::default()
        })
    });
    let brokers = match &own {
        Some(cluster) => cluster.bootstrap(),
        None => std::env::args().nth(1).unwrap_or_default(),
    };
    let settings = ClientSettings::new(&brokers);
    let admin = Admin::new(&settings, PATIENCE)?;
    let mut topics = Vec::new();
    for name in ["bare", "ours"] {
        let topic = NewTopic {
            replication: 1,
            min_insync: 1,
            ..NewTopic::new(format!("speed-{name}-{}", std::process::id()), 16 << 20)
        };
        admin.create_topic(&topic)?;
        topics.push(topic.name);
    }
    let mut bare = Bare::new(&brokers, &topics[0])?;
    let mut ours = Ours::new(settings, &topics[1])?;
    println!("records of {RECORD} bytes, {brokers}");

    let all = records(PIPELINED);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        a.extend(one_at_a_time(&mut bare, &all)?);
        b.extend(one_at_a_time(&mut ours, &all)?);
    }
    let (a, b) = (percentiles(a), percentiles(b));
    println!(
        "append to read, one at a time   bare p50 {} p99 {}   ours p50 {} p99 {}",
        ms(a.0),
        ms(a.1),
        ms(b.0),
        ms(b.1)
    );
    println!("  p50: {:.2} x bare", b.0.as_secs_f64() / a.0.as_secs_f64());

    for (what, in_flight, count) in [
        ("256 in flight", IN_FLIGHT, IN_FLIGHT_COUNT),
        ("pipelined", 50_000, PIPELINED),
    ] {
        let (mut a, mut b) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            a += windowed(&mut bare, in_flight, &all[..count])?.as_secs_f64();
            b += windowed(&mut ours, in_flight, &all[..count])?.as_secs_f64();
        }
        compare(what, count * ROUNDS, a, b);
    }

    let (mut a, mut b) = (0.0, 0.0);
    let count = ROUNDS * PIPELINED;
    for _ in 0..2 {
        a += again(&mut bare, count)?.as_secs_f64();
        b += again(&mut ours, count)?.as_secs_f64();
    }
    compare("read alone, from the start", 2 * count, a, b);
    Ok(())
}

fn compare(what: &str, count: usize, bare: f64, ours: f64) {
    let rate = |seconds: f64| count as f64 / seconds;
    println!(
        "{what:<30}  bare {:>9.0} records/s   ours {:>9.0} records/s   {:.0} %",
        rate(bare),
        rate(ours),
        bare / ours * 100.0
    );
}

/// Produces and consumes.
trait Loop {
    /// `false`: the queue is full.
    fn send(&mut self, record: &Bytes) -> Result<bool>;
    /// How many records came, at most so many.
    fn receive(&mut self, most: usize) -> Result<usize>;
    fn from_the_start(&mut self) -> Result<()>;
}

struct Bare {
    topic: String,
    producer: ThreadedProducer<DefaultProducerContext>,
    consumer: BaseConsumer,
}

impl Bare {
    fn new(brokers: &str, topic: &str) -> Result<Bare> {
        let mut common = ClientConfig::new();
        common.set("bootstrap.servers", brokers);
        let producer = common
            .clone()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .create()?;
        let consumer = common
            .set("group.id", "speed")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", "1")
            .create()?;
        let mut bare = Bare {
            topic: topic.to_owned(),
            producer,
            consumer,
        };
        bare.from_the_start()?;
        Ok(bare)
    }
}

impl Loop for Bare {
    fn send(&mut self, record: &Bytes) -> Result<bool> {
        let message = BaseRecord::to(&self.topic)
            .partition(0)
            .key(&record[..8])
            .payload(&record[..]);
        match self.producer.send(message) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => Err(error.into()),
        }
    }

    fn receive(&mut self, most: usize) -> Result<usize> {
        let (mut count, mut wait) = (0, PATIENCE);
        while count < most
            && let Some(message) = self.consumer.poll(wait)
        {
            assert_eq!(message?.payload_len(), RECORD);
            count += 1;
            wait = Duration::ZERO;
        }
        Ok(count)
    }

    fn from_the_start(&mut self) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, Offset::Offset(0))?;
        Ok(self.consumer.assign(&list)?)
    }
}

struct Ours {
    log: KafkaLog,
    reader: Box<dyn Reader>,
}

impl Ours {
    fn new(settings: ClientSettings, topic: &str) -> Result<Ours> {
        let log = KafkaLog::open(Options::new(settings, topic))?;
        let reader = log.reader(Position(0))?;
        Ok(Ours { log, reader })
    }
}

impl Loop for Ours {
    fn send(&mut self, record: &Bytes) -> Result<bool> {
        match self.log.append(record.clone()) {
            Ok(()) => Ok(true),
            Err(LogError::Full { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self, most: usize) -> Result<usize> {
        Ok(self.reader.read(most, usize::MAX, PATIENCE)?.len())
    }

    fn from_the_start(&mut self) -> Result<()> {
        self.reader = self.log.reader(Position(0))?;
        Ok(())
    }
}

fn one_at_a_time(at: &mut dyn Loop, records: &[Bytes]) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for record in &records[..SINGLE] {
        let began = Instant::now();
        at.send(record)?;
        if at.receive(1)? == 0 {
            return Err("a record did not come back".into());
        }
        times.push(began.elapsed());
    }
    Ok(times)
}

fn windowed(at: &mut dyn Loop, in_flight: usize, records: &[Bytes]) -> Result<Duration> {
    let count = records.len();
    let began = Instant::now();
    let (mut sent, mut seen) = (0, 0);
    while seen < count {
        while sent < count && sent - seen < in_flight && at.send(&records[sent])? {
            sent += 1;
        }
        let came = at.receive(1024)?;
        if came == 0 {
            return Err("records did not come back".into());
        }
        seen += came;
    }
    Ok(began.elapsed())
}

fn again(at: &mut dyn Loop, count: usize) -> Result<Duration> {
    at.from_the_start()?;
    let began = Instant::now();
    let mut seen = 0;
    while seen < count {
        let came = at.receive(1024)?;
        if came == 0 {
            return Err("records did not come back".into());
        }
        seen += came;
    }
    Ok(began.elapsed())
}

/// Events with ids of their own, of [`RECORD`] bytes.
fn records(count: usize) -> Vec<Bytes> {
    let event = |n: usize| Event {
        format: event::FORMAT,
        incarnation: Default::default(),
        intention: Some((
            EventId {
                seen: Position(1 << 20),
                nonce: (n as u128).to_be_bytes(),
            },
            Hash::ZERO,
        )),
        author: "".into(),
        principal: "".into(),
        client_time_ms: 0,
        reason: "x".repeat(RECORD - 82).into(),
        body: Body::Fence,
    };
    let records: Vec<Bytes> = (0..count).map(|n| event(n).encode().into()).collect();
    assert_eq!(records[0].len(), RECORD);
    records
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
