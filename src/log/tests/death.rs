//! A process that writes a log and is killed at any time.
//!
//! The child is this same test binary, told by its environment to write instead of to test.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use common::*;
use confold_log::file::{FileLog, Options};
use confold_log::{Log, LogError};

const FOLDER: &str = "CONFOLD_LOG_CHILD_FOLDER";

/// Appends `sample(position)` for ever, and prints what was acknowledged.
fn child(folder: &Path) {
    let small = Options {
        segment_bytes: 2000,
        ..options()
    };
    let log = match FileLog::open(folder, small.clone()) {
        Err(LogError::Missing { .. }) => FileLog::create(folder, IDENTITY, small).unwrap(),
        log => log.unwrap(),
    };
    let mut reader = log.reader(log.range().end).unwrap();
    let mut position = log.range().end.0;
    loop {
        // Two at once, so that there are batches of more than one.
        for n in [position, position + 1] {
            log.append(sample(n, 700).into()).unwrap();
        }
        position = read_some(&mut *reader, 2)[1].position.0 + 1;
        println!("acked {}", position - 1);
    }
}

struct Death {
    status: ExitStatus,
    acked: Option<u64>,
}

/// Runs this test as a child and kills it when it has acknowledged `kill_after` times.
fn run(test: &str, folder: &Path, kill_after: usize) -> Death {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut acked, mut count) = (None, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The test runner writes its own words before ours into the same line.
        if let Some((_, position)) = line.unwrap().split_once("acked ") {
            acked = position.parse().ok();
            count += 1;
            if count == kill_after {
                child.kill().unwrap();
            }
        }
    }
    Death {
        status: child.wait().unwrap(),
        acked,
    }
}

/// Everything acknowledged is there, nothing that was never appended, and the log goes on.
fn check(folder: &Path, acked: Option<u64>, why: &str) {
    let must_have = acked.map(at);
    let log = match FileLog::open(
        folder,
        Options {
            must_have,
            verify_all: true,
            ..options()
        },
    ) {
        Err(LogError::Missing { .. }) if acked.is_none() => return,
        log => log.unwrap_or_else(|error| panic!("{why}: {error}")),
    };
    let records = read_all(&log);
    assert!(acked.is_none_or(|acked| records.len() as u64 > acked), "{why}");
    for record in &records {
        assert_eq!(
            record.bytes,
            sample(record.position.0, 700),
            "{why}: position {}",
            record.position
        );
    }
}

#[test]
fn what_a_killed_process_had_acknowledged_is_there() {
    // reliability F1.
    if let Some(folder) = std::env::var_os(FOLDER) {
        return child(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut last = None;
    for kill_after in [1, 2, 3, 5, 8, 13, 21, 34, 1, 1, 2, 40] {
        let death = run(
            "what_a_killed_process_had_acknowledged_is_there",
            folder.path(),
            kill_after,
        );
        assert_eq!(death.status.signal(), Some(9));
        assert!(death.acked > last, "each life goes on where the one before ended");
        last = death.acked;
        check(folder.path(), last, "after SIGKILL");
    }
}
