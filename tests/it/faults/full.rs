//! F6: the disk is full, on a real file system. Writes are refused with DISK_FULL (RESOURCE_EXHAUSTED), reads go on, and when there is space the server goes on by itself.

use super::disk::LoopDisk;
use super::writers::{Writers, commit, new_id, remote, value_of, whole};
use super::{Chance, number, store_for_writers};
use crate::server::ServerProcess;
use confold::wire::api::Api;
use confold::wire::{pb, status};
use confold_model::code::Code;
use confold_model::ids::Position;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MEGABYTES: u64 = 64;
const DEADLINE: Duration = Duration::from_secs(60);

/// What lies on the small disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Log,
    Store,
    Both,
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_reads_go_on_and_writes_come_back_by_themselves() {
    let fills = number("CONFOLD_FILLS").unwrap_or(3);
    let mut chance = Chance::new();
    let (mut slowest, mut acknowledged) = (Duration::ZERO, 0);
    for fill in 0..fills {
        let Some(disk) = LoopDisk::or_skip("F6", MEGABYTES) else {
            return;
        };
        let part = [Part::Both, Part::Store, Part::Log][fill as usize % 3];
        let (writable, count) = fill_up(&disk, part, &mut chance).await;
        println!("{part:?}: writable {} ms after there was space", writable.as_millis());
        slowest = slowest.max(writable);
        acknowledged += count;
    }
    assert!(slowest <= Duration::from_secs(10), "{slowest:?}");
    let slowest = slowest.as_millis();
    println!("SOAK fills={fills} acknowledged={acknowledged} lost=0 crash_loops=0 slowest_writable_ms={slowest}");
}

/// Gives how long it took from the first free byte to the first acknowledgement, and how many there were in all.
async fn fill_up(disk: &LoopDisk, part: Part, chance: &mut Chance) -> (Duration, usize) {
    let dir = tempfile::tempdir().unwrap();
    let data = if part == Part::Both {
        disk.root().join("data")
    } else {
        dir.path().join("data")
    };
    store_for_writers(&data).await;
    for (name, moves) in [("log", part == Part::Log), ("store", part == Part::Store)] {
        if moves {
            let (from, to) = (data.join(name), disk.root().join(name));
            assert!(
                std::process::Command::new("mv")
                    .args([&from, &to])
                    .status()
                    .unwrap()
                    .success()
            );
            std::os::unix::fs::symlink(to, from).unwrap();
        }
    }
    let mut server = ServerProcess::start(&data);
    let mut api = remote(&server.address);
    let mut writers = Writers::new();
    let seen = api.status(pb::StatusRequest::default()).await.unwrap().position;
    let random = chance.next();
    for turn in 0..20 {
        let (count, id) = writers.each[0].next(|| new_id(seen, 0, random, turn));
        let decision = api.commit(commit(0, count, id)).await.unwrap();
        writers.acknowledge(0, Position(decision.position.unwrap()));
    }
    let ballast = disk.root().join("ballast");
    fill(&ballast);
    // What was laid out beforehand is used up first.
    let give_up = Instant::now() + DEADLINE;
    for size in 0.. {
        assert!(Instant::now() < give_up, "{part:?}: it does not refuse for want of space");
        let Err(refused) = api.commit(large(size)).await else { continue };
        match status::detail(&refused).as_ref().and_then(status::code_of) {
            // The commit that found the disk full may still come to be.
            Some(Code::Unknown) => {}
            Some(Code::DiskFull) => {
                assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{part:?}: {refused:?}");
                break;
            }
            _ => panic!("{part:?}: {refused:?}"),
        }
    }
    let status = loop {
        assert!(
            Instant::now() < give_up,
            "{part:?}: it does not say that the disk is full"
        );
        let status = api.status(pb::StatusRequest::default()).await.unwrap();
        if status.state() != pb::State::Serving {
            break status;
        }
    };
    assert_eq!(status.state(), pb::State::Degraded, "{part:?}: {}", status.reason);
    assert!(status.reason.contains("No space left"), "{part:?}: {}", status.reason);
    assert_eq!(
        value_of(&*api, 0).await.unwrap(),
        writers.each[0].acknowledged,
        "{part:?}: reads go on"
    );
    assert!(server.child.try_wait().unwrap().is_none(), "{part:?}: the server ended");
    let free;
    if part == Part::Both {
        // A start on a full disk says what is missing, or serves what it has; in neither case is anything to be mended later.
        server.kill();
        let serve = ["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let restarted = ServerProcess::try_run(&serve, &[]);
        if let Err(why) = &restarted {
            assert!(why.to_lowercase().contains("no space"), "{why}");
        }
        drop(restarted);
        std::fs::remove_file(&ballast).unwrap();
        free = Instant::now();
        server = ServerProcess::start(&data);
        api = remote(&server.address);
    } else {
        std::fs::remove_file(&ballast).unwrap();
        free = Instant::now();
    }
    let (count, id) = writers.each[0].next(|| new_id(seen, 0, random, 1_000));
    let position = loop {
        assert!(
            free.elapsed() < DEADLINE,
            "{part:?}: it takes nothing, though there is space"
        );
        match api.commit(commit(0, count, id)).await {
            Ok(decision) => break decision.position.unwrap(),
            Err(_) => assert!(server.child.try_wait().unwrap().is_none(), "{part:?}: the server ended"),
        }
    };
    let writable = free.elapsed();
    writers.acknowledge(0, Position(position));
    server.kill();
    remove_large(&data).await;
    whole(&data, &writers).await;
    (writable, writers.acknowledged.len())
}

/// Takes all the space there is.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    let piece = vec![7; 1 << 16];
    let error = loop {
        if let Err(error) = file.write_all(&piece) {
            break error;
        }
    };
    assert_eq!(error.raw_os_error(), Some(28), "{error}");
}

fn large(size: usize) -> pb::CommitRequest {
    let json = format!(r#"{{"id": "large", "description": "{size} {}"}}"#, "x".repeat(300_000));
    let value = pb::Value {
        form: Some(pb::value::Form::Json(json)),
        ..Default::default()
    };
    let kind = Some(pb::text_operation::Kind::Put(value));
    let operation = pb::TextOperation {
        path: "/devices/large".into(),
        kind,
        ..Default::default()
    };
    let proposal = pb::Proposal {
        author: "large".into(),
        deadline_ms: 2_000,
        ..Default::default()
    };
    pb::CommitRequest {
        proposal: Some(proposal),
        operations: vec![operation],
        ..Default::default()
    }
}

/// The tree is to hold the writers' devices alone when it is compared.
async fn remove_large(data: &Path) {
    let store = crate::support::open(data).await;
    let api: Arc<dyn Api> = store.api();
    let kind = Some(pb::text_operation::Kind::Remove(pb::Absent {}));
    let operation = pb::TextOperation {
        path: "/devices/large".into(),
        kind,
        ..Default::default()
    };
    // It may never have come to be.
    _ = api
        .commit(pb::CommitRequest {
            operations: vec![operation],
            ..Default::default()
        })
        .await;
    store.close().await.unwrap();
}
