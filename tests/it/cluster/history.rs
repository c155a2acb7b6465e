//! What clients asked and were told, written down for a judge that knows nothing of confold: `tests/linearizability`.

use crate::support::repository;
use serde_json::json;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Instant;

#[derive(Clone, Copy, Debug)]
pub enum Asked {
    Get,
    Put { value: u64 },
    CompareAndSet { expect: u64, value: u64 },
}

#[derive(Clone, Copy, Debug)]
pub enum Told {
    Read(u64),
    Done(bool),
    /// No end is known.
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub client: usize,
    pub key: String,
    pub asked: Asked,
    pub told: Told,
    pub call: u64,
    pub end: u64,
}

/// Nanoseconds of one clock for all clients.
pub fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_nanos()).unwrap()
}

pub fn write(path: &Path, entries: &[Entry]) {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    for entry in entries {
        let mut line = json!({ "client": entry.client, "key": entry.key, "call": entry.call });
        match entry.asked {
            Asked::Get => line["op"] = "get".into(),
            Asked::Put { value } => (line["op"], line["value"]) = ("put".into(), value.into()),
            Asked::CompareAndSet { expect, value } => {
                (line["op"], line["expect"], line["value"]) = ("cas".into(), expect.into(), value.into());
            }
        }
        match entry.told {
            Told::Read(value) => line["value"] = value.into(),
            Told::Done(ok) => line["ok"] = ok.into(),
            Told::Nothing => {}
        }
        if !matches!(entry.told, Told::Nothing) {
            line["return"] = entry.end.into();
        }
        writeln!(file, "{line}").unwrap();
    }
    file.flush().unwrap();
}

/// The judge, compiled once.
static JUDGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = std::env::temp_dir().join(format!("confold-linearizability-{}", std::process::id()));
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&built).arg(".").current_dir(repository().join("tests/linearizability"));
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("go is needed to judge histories (tests/run.sh installs it): {error}"));
    assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
    built
});

/// Whether a history is linearizable, and what the judge said.
pub fn judge(path: &Path) -> (bool, String) {
    let Output { status, stdout, .. } = Command::new(&*JUDGE).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&stdout).trim().to_owned();
    match status.code() {
        Some(0) => (true, said),
        Some(1) => (false, said),
        _ => panic!("the judge gave no verdict: {said}"),
    }
}
