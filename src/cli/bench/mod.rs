//! How fast a store is, and how fast it could be: every load is printed beside a limit that was measured in the same run
//! on the same machine.
//!
//! A load here works through any [`Api`](confold_wire::api::Api); parts that only the program has (folding without a
//! server, a bare echo) are asked of [`Local`](crate::local::Local).

mod limits;
mod loads;
mod measure;

pub use limits::{blake3, fdatasync};
pub use loads::{ROOT, Target, item, path, prepare, run, scattered, schema};
pub use measure::{Measured, Recorder};

use std::time::Duration;

/// As many records on their way as brokers and client library can use.
const FULL: usize = 16_384;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// BLAKE3 of records, one after the other: the limit of folding.
    Blake3,
    /// Appending records to a file, each synced: the limit of one durable commit after the other.
    Fdatasync,
    /// The fold alone, in memory.
    Fold,
    /// Fold, log and store on disk.
    DurableFold,
    /// An empty call over gRPC: the limit of unary calls.
    Echo { clients: usize },
    /// Records produced to brokers and consumed again, without a log on top: the limit of everything on Kafka.
    Bare { in_flight: usize },
    /// One commit after the other per client.
    Commits { clients: usize },
    /// Many commits in flight on one stream.
    Stream { in_flight: usize },
    /// One read of a leaf after the other per client.
    Reads { clients: usize },
    /// The same as JSON over HTTP.
    HttpReads { clients: usize },
    /// Nine reads to a commit.
    Mixed { clients: usize },
    /// All children of the container, asked for once, one stream of pages.
    Listing,
    /// The difference of ten changes, between two trees in memory.
    Diff,
    /// A data folder opened, and one leaf read.
    OpenAndRead,
    /// One commit after the other, each of so many puts of 100 bytes.
    Large { entries: u64 },
    /// Commits in process, on a log on Kafka.
    InProcess { in_flight: usize },
    /// A new replica folds a long topic.
    NewReplica,
}

/// What a measurement works with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Load {
    /// Children of the container that is worked on.
    pub children: u64,
    /// Bytes of one record, about.
    pub record_bytes: usize,
    /// How long each part runs.
    pub duration: Duration,
    /// Brokers, as HOST:PORT with commas: the log is a topic there.
    pub kafka: Option<String>,
}

impl Part {
    /// As it is printed.
    pub fn name(self) -> String {
        match self {
            Part::Blake3 => "limit: blake3".to_owned(),
            Part::Fdatasync => "limit: append and fdatasync".to_owned(),
            Part::Fold => "fold in memory".to_owned(),
            Part::DurableFold => "fold, durable".to_owned(),
            Part::Echo { clients } => format!("limit: gRPC echo, {}", clients_text(clients)),
            Part::Commits { clients } => format!("commits, {}", clients_text(clients)),
            Part::Stream { in_flight } => format!("commits, one stream, {in_flight} in flight"),
            Part::Reads { clients } => format!("reads, {}", clients_text(clients)),
            Part::HttpReads { clients } => format!("reads over HTTP, {}", clients_text(clients)),
            Part::Mixed { clients } => format!("9 reads to a commit, {}", clients_text(clients)),
            Part::Listing => "children listed, pages of 1,000".to_owned(),
            Part::Diff => "diff of 10 changes, in process".to_owned(),
            Part::OpenAndRead => "open and first read".to_owned(),
            Part::Large { entries } => format!("commits of {} puts", crate::output::grouped(entries)),
            Part::Bare { in_flight } => format!("limit: bare Kafka, {in_flight} in flight"),
            Part::InProcess { in_flight } => format!("commits in process, {in_flight} in flight"),
            Part::NewReplica => "a new replica folds the topic".to_owned(),
        }
    }

    /// What bounds it, where that is measured too.
    pub fn limit(self, load: &Load) -> Option<Part> {
        match self {
            Part::Commits { clients: 1 } if load.kafka.is_some() => Some(Part::Bare { in_flight: 1 }),
            Part::Stream { .. } if load.kafka.is_some() => Some(Part::Bare { in_flight: FULL }),
            Part::InProcess { in_flight: 1 } => Some(Part::Bare { in_flight: 1 }),
            Part::InProcess { .. } => Some(Part::Bare { in_flight: FULL }),
            Part::NewReplica => Some(Part::DurableFold),
            Part::Fold => Some(Part::Blake3),
            Part::DurableFold => Some(Part::Fold),
            Part::Commits { clients: 1 } => Some(Part::Fdatasync),
            Part::Commits { clients }
            | Part::Reads { clients }
            | Part::HttpReads { clients }
            | Part::Mixed { clients } => Some(Part::Echo { clients }),
            Part::Stream { .. } => Some(Part::DurableFold),
            Part::Blake3
            | Part::Fdatasync
            | Part::Echo { .. }
            | Part::Bare { .. }
            | Part::Listing
            | Part::Diff
            | Part::OpenAndRead
            | Part::Large { .. } => None,
        }
    }

    /// The whole benchmark, limits before what they bound.
    pub fn all() -> Vec<Part> {
        let clients = [1, 16, 64];
        let mut parts = vec![Part::Blake3, Part::Fdatasync, Part::Fold, Part::DurableFold];
        parts.extend(clients.map(|clients| Part::Echo { clients }));
        parts.extend(clients.map(|clients| Part::Commits { clients }));
        parts.push(Part::Stream { in_flight: 1_024 });
        parts.extend(clients.map(|clients| Part::Reads { clients }));
        parts.extend(clients.map(|clients| Part::HttpReads { clients }));
        parts.push(Part::Mixed { clients: 16 });
        parts.extend([Part::Listing, Part::Diff, Part::OpenAndRead]);
        // The last ones, since the largest adds children of its own.
        parts.extend([100, 1_000, 100_000].map(|entries| Part::Large { entries }));
        parts
    }

    /// What a log on Kafka adds to it.
    pub fn on_kafka() -> Vec<Part> {
        vec![
            Part::DurableFold,
            Part::Bare { in_flight: 1 },
            Part::Bare { in_flight: 256 },
            Part::Bare { in_flight: FULL },
            Part::InProcess { in_flight: 1 },
            Part::InProcess { in_flight: 256 },
            Part::Commits { clients: 1 },
            Part::Stream { in_flight: 256 },
            Part::NewReplica,
        ]
    }
}

fn clients_text(clients: usize) -> String {
    if clients == 1 {
        "1 client".to_owned()
    } else {
        format!("{clients} clients")
    }
}
