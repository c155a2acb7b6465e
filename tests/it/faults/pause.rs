//! F25: the server is stopped for a while, or has too little memory. What is read from it is never old, and nothing is lost.

use super::writers::{WRITERS, Writers, commit, new_id, read_value, remote, whole};
use super::{Chance, number, store_for_writers};
use crate::server::ServerProcess;
use confold::wire::api::Api;
use confold::wire::pb;
use confold_model::ids::Position;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What writers and readers share.
struct Shared {
    api: Arc<dyn Api>,
    writers: Mutex<Writers>,
    /// By writer, the last count that was acknowledged.
    acknowledged: [AtomicU64; WRITERS],
    reads: AtomicU64,
    over: AtomicBool,
}

/// Writes until it is over; what had no answer is sent again until it has one.
async fn write(shared: Arc<Shared>, number: usize, random: u64) {
    for turn in 0.. {
        if shared.over.load(SeqCst) {
            return;
        }
        let (count, id) = shared.writers.lock().each[number].next(|| new_id(1, number, random, turn));
        if let Ok(decision) = shared.api.commit(commit(number, count, id)).await {
            assert_eq!(decision.outcome(), pb::decision::Outcome::Committed);
            shared
                .writers
                .lock()
                .acknowledge(number, Position(decision.position.unwrap()));
            shared.acknowledged[number].store(count, SeqCst);
        }
    }
}

/// A linearizable read shows everything that was acknowledged before it began.
async fn read(shared: Arc<Shared>, number: usize) {
    while !shared.over.load(SeqCst) {
        let before = shared.acknowledged[number].load(SeqCst);
        let read = pb::Read {
            consistency: pb::Consistency::Linearizable.into(),
            ..Default::default()
        };
        if let Ok(found) = read_value(&*shared.api, number, read).await {
            assert!(
                found >= before,
                "writer {number}: a linearizable read shows {found}, {before} was acknowledged before it"
            );
            shared.reads.fetch_add(1, SeqCst);
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < give_up, "{what}: not in time");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_pause_no_read_is_old_and_no_write_is_lost() {
    let pauses = number("CONFOLD_PAUSES").unwrap_or(8);
    let longest = number("CONFOLD_LONGEST_PAUSE_MS").unwrap_or(1_500);
    let mut chance = Chance::new();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    store_for_writers(&data).await;
    let server = ServerProcess::start(&data);
    let shared = Arc::new(Shared {
        api: remote(&server.address),
        writers: Mutex::new(Writers::new()),
        acknowledged: Default::default(),
        reads: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let random = chance.next();
    let mut tasks = Vec::new();
    for number in 0..WRITERS {
        tasks.push(tokio::spawn(write(shared.clone(), number, random)));
        tasks.push(tokio::spawn(read(shared.clone(), number)));
    }
    let progress = |shared: &Shared| shared.writers.lock().acknowledged.len() as u64 + shared.reads.load(SeqCst);
    let mut slowest = Duration::ZERO;
    for _ in 0..pauses {
        let before = progress(&shared);
        until("it answers", || progress(&shared) > before + 200).await;
        server.signal("STOP");
        until("it is stopped", || server.state() == 'T').await;
        // A pause is a matter of time.
        let pause = Duration::from_millis(chance.between(longest / 3, longest));
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        tokio::task::block_in_place(|| never.recv_timeout(pause)).unwrap_err();
        let before = progress(&shared);
        server.signal("CONT");
        let woken = Instant::now();
        until("it answers again", || progress(&shared) > before + 20).await;
        slowest = slowest.max(woken.elapsed());
    }
    shared.over.store(true, SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    server.kill();
    let reads = shared.reads.load(SeqCst);
    let writers = std::mem::replace(&mut *shared.writers.lock(), Writers::new());
    whole(&data, &writers).await;
    let (acknowledged, slowest) = (writers.acknowledged.len(), slowest.as_millis());
    println!("SOAK pauses={pauses} acknowledged={acknowledged} reads={reads} stale=0 lost=0 slowest_wake_ms={slowest}");
}

/// A server with so much address space, in KiB.
fn limited(data: &Path, kibibytes: u64) -> Result<ServerProcess, String> {
    let line = format!("ulimit -v {kibibytes} && exec \"$0\" serve \"$1\" --listen 127.0.0.1:0");
    ServerProcess::of(
        "sh",
        &["-c", &line, crate::server::CONFOLD, data.to_str().unwrap()],
        &[],
    )
}

/// The greatest address space of a process so far, in KiB.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_out_of_memory_loses_nothing_that_was_acknowledged() {
    let times = number("CONFOLD_MEMORY_LIMITS").unwrap_or(2);
    let mut chance = Chance::new();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    store_for_writers(&data).await;
    let idle = {
        let server = ServerProcess::start(&data);
        peak(server.child.id())
    };
    let mut writers = Writers::new();
    let (mut ended, mut at_start) = (0, 0);
    for _ in 0..times {
        let mut server = match limited(&data, idle + (48 << 10) + chance.below(64 << 10)) {
            Ok(server) => server,
            // What stands on the log by now needs more than there is.
            Err(why) => {
                assert!(!why.contains("exit status: 0"), "{why}");
                at_start += 1;
                continue;
            }
        };
        let api = remote(&server.address);
        writers.check(&*api).await.unwrap();
        let hungry: Vec<_> = (0..24)
            .map(|number| tokio::spawn(devour(api.clone(), number)))
            .collect();
        // They write until it is gone.
        writers.write(&api, chance.next()).await;
        let status = tokio::task::block_in_place(|| server.ended_within(Duration::from_secs(30)));
        assert!(!status.success(), "{status}");
        ended += 1;
        for task in hungry {
            task.await.unwrap();
        }
    }
    assert!(ended > 0 && ended + at_start == times);
    let store = crate::support::open(&data).await;
    let kind = Some(pb::text_operation::Kind::Remove(pb::Absent {}));
    for number in 0..24 {
        let operation = pb::TextOperation {
            path: format!("/devices/large{number}"),
            kind: kind.clone(),
            ..Default::default()
        };
        // Not all of them came to be.
        _ = store
            .api()
            .commit(pb::CommitRequest {
                operations: vec![operation],
                ..Default::default()
            })
            .await;
    }
    store.close().await.unwrap();
    whole(&data, &writers).await;
    let acknowledged = writers.acknowledged.len();
    println!("SOAK times={times} ended={ended} at_start={at_start} acknowledged={acknowledged} lost=0");
}

/// Asks for more memory than there is, until nobody answers.
async fn devour(api: Arc<dyn Api>, number: usize) {
    let json = format!(
        r#"{{"id": "large{number}", "description": "{}"}}"#,
        "x".repeat(12 << 20)
    );
    let value = pb::Value {
        form: Some(pb::value::Form::Json(json)),
        ..Default::default()
    };
    let kind = Some(pb::text_operation::Kind::Put(value));
    let operation = pb::TextOperation {
        path: format!("/devices/large{number}"),
        kind,
        ..Default::default()
    };
    let proposal = pb::Proposal {
        author: "large".into(),
        ..Default::default()
    };
    let request = pb::CommitRequest {
        proposal: Some(proposal),
        operations: vec![operation],
        ..Default::default()
    };
    for _ in 0..100 {
        if api.commit(request.clone()).await.is_err() && api.status(pb::StatusRequest::default()).await.is_err() {
            return;
        }
    }
}
