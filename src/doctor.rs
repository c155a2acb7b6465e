//! What `confold doctor` says of a data folder: its log and whoever keeps it, the replicas that spoke there, its own store. Reads, and
//! changes nothing.

use crate::folder::{self, FolderError, Place};
use crate::kafka::Topic;
use confold_cli::local::{Finding, Level};
use confold_log::{Log, LogError, Tip};
use confold_log_kafka::{Preflight, Severity};
use confold_model::ids::{Hash, Position};
use confold_model::objects::Objects;
use confold_model::walk::Walk;
use confold_replica::step::Folder;
use confold_store::{Head, Store, StoreError};
use confold_store_rocks::RocksStore;
use std::path::Path;
use std::time::Duration;

/// A record that a broker is asked for comes in this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A replica that was silent for so long is named: its word on trimming the log no longer counts.
const SILENT_MS: i64 = 7 * 24 * 3600 * 1000;

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn say(&mut self, level: Level, what: &str, detail: impl Into<String>, hint: &str) {
        self.0.push(Finding { level, what: what.to_owned(), detail: detail.into(), hint: hint.to_owned() });
    }
}

/// Looks at every part of a folder.
pub fn examine(data: &Path, deep: bool) -> Vec<Finding> {
    let mut report = Report::default();
    let log = match folder::place(data) {
        Ok(Place::File(_)) => file_log(data, deep, &mut report),
        Ok(Place::Kafka(kafka)) => match Topic::of(data, &kafka) {
            Ok(topic) => topic_log(&topic, deep, &mut report),
            Err(error) => {
                report.say(Level::Damage, "configuration", error.to_string(), error.hint());
                None
            }
        },
        Err(error) => {
            let what = if matches!(error, FolderError::Config(_)) { "configuration" } else { "log" };
            report.say(Level::Damage, what, error.to_string(), error.hint());
            return report.0;
        }
    };
    if let Some(reason) = folder::stopped_for(data) {
        let hint = "look into it first; then `confold store rebuild` sets the store aside and folds the log anew";
        report.say(Level::Damage, "replica", format!("it was stopped: {reason}"), hint);
    }
    if data.join("rebuild").exists() {
        report.say(Level::Warning, "store", "it was found damaged while it was open", "the next start builds it anew");
    }
    if let Some(store) = open_store(data, &mut report) {
        own_store(&store, log.as_deref(), deep, &mut report);
    }
    report.0
}

fn file_log(data: &Path, deep: bool, report: &mut Report) -> Option<Box<dyn Log>> {
    let log = match folder::open_log(data, deep) {
        Ok(log) => log,
        Err(error) => {
            report.say(Level::Damage, "log", error.to_string(), error.hint());
            return None;
        }
    };
    let range = log.range();
    let checked = if deep { "every batch and digest checked" } else { "the last segment checked; --deep checks all" };
    report.say(Level::Ok, "log", format!("positions {} to {}, {checked}", range.start, range.end.0.saturating_sub(1)), "");
    if let Some(cut) = log.cut() {
        let detail = format!("{} bytes at the end of {} are of a write that was cut short", cut.bytes, cut.file);
        report.say(Level::Warning, "log", detail, "the next start cuts them off: they were never acknowledged");
    }
    if log.clock_ahead() > 60_000 {
        let detail = format!("the last record is stamped {} s ahead of this clock", log.clock_ahead() / 1000);
        report.say(Level::Warning, "clock", detail, "set this machine's clock right, then `confold admin set-clock`");
    }
    Some(Box::new(log))
}

fn topic_log(topic: &Topic, deep: bool, report: &mut Report) -> Option<Box<dyn Log>> {
    match topic.preflight() {
        Ok(found) => settings(&found, report),
        Err(error) => {
            report.say(Level::Damage, "brokers", error.to_string(), error.hint());
            return None;
        }
    }
    let log = match topic.open(None) {
        Ok(log) => log,
        Err(error) => {
            let error = FolderError::from(error);
            report.say(Level::Damage, "log", error.to_string(), error.hint());
            return None;
        }
    };
    let range = log.range();
    let read = match deep {
        false => Ok("not read; --deep reads all of it".to_owned()),
        true => read_all(&log),
    };
    let positions = format!("positions {} to {}", range.start, range.end.0.saturating_sub(1));
    match read {
        Ok(read) => report.say(Level::Ok, "log", format!("{positions}, {read}"), ""),
        Err(error) => {
            let hint = "`confold log copy --until POSITION` keeps what stands before it";
            report.say(Level::Damage, "log", format!("{positions}: {error}"), hint);
        }
    }
    if range.start > Position(0) {
        let detail = format!("the topic dropped what stood before position {}", range.start);
        report.say(Level::Warning, "log", detail, "new replicas need a snapshot: `confold snapshot fetch`");
    }
    Some(Box::new(log))
}

/// Every record, without holes.
fn read_all(log: &dyn Log) -> Result<String, LogError> {
    let range = log.range();
    if range.start > Position(0) {
        return Ok("not read: its beginning is gone".to_owned());
    }
    let mut reader = log.reader(range.start)?;
    let (mut at, mut digest) = (range.start, Hash::ZERO);
    while at < range.end {
        let records = reader.read(4_096, 8 << 20, PATIENCE)?;
        let last = records.last().ok_or(LogError::BeyondEnd { asked: at, end: log.range().end })?;
        (at, digest) = (last.position.next(), last.digest);
    }
    Ok(format!("all read without a hole, log digest {}", digest.short()))
}

/// What the brokers say, and what that is worth.
fn settings(found: &Preflight, report: &mut Report) {
    let brokers = found.brokers.join(", ");
    report.say(Level::Ok, "brokers", brokers, "");
    let right: Vec<String> = found
        .findings
        .iter()
        .filter(|one| one.severity == Severity::Fine)
        .map(|one| format!("{} {}", one.setting, one.value))
        .collect();
    if !right.is_empty() {
        report.say(Level::Ok, "topic", format!("{}: {}", found.topic, right.join(", ")), "");
    }
    for problem in found.problems() {
        let level = if problem.severity == Severity::Refuse { Level::Damage } else { Level::Warning };
        let detail = format!("{} is {}, wanted is {}", problem.setting, problem.value, problem.wanted);
        report.say(level, "topic", detail, &problem.what_to_do);
    }
    report.say(Level::Ok, "acknowledgement", found.acknowledgement.clone(), "");
}

fn open_store(data: &Path, report: &mut Report) -> Option<RocksStore> {
    match folder::open_store_read_only(data) {
        Ok(Some(store)) => return Some(store),
        Ok(None) => report.say(Level::Warning, "store", "nothing was folded yet", "the next start folds the log"),
        Err(FolderError::Store(StoreError::Locked { .. })) => {
            report.say(Level::Ok, "store", "a server has it open", "ask it with `confold doctor --server`");
        }
        Err(error) => {
            let hint = "the next start sets it aside and builds it anew from the log";
            report.say(Level::Damage, "store", error.to_string(), hint);
        }
    }
    None
}

fn own_store(store: &RocksStore, log: Option<&dyn Log>, deep: bool, report: &mut Report) {
    let Some(head) = store.head() else {
        report.say(Level::Warning, "store", "nothing was folded yet", "the next start folds the log");
        return;
    };
    let lag = log.map_or_else(String::new, |log| {
        format!(", {} records behind the log", log.range().end.0.saturating_sub(head.applied.0 + 1))
    });
    report.say(Level::Ok, "store", format!("folded up to {}{lag}", head.applied), "");
    if let Some(log) = log {
        identity(log, &head, report);
    }
    replicas(store, &head, report);
    if deep {
        let (objects, wrong) = walk(store, head.root);
        match wrong.first() {
            None => report.say(Level::Ok, "objects", format!("{objects} objects of the latest tree are whole"), ""),
            Some(first) => {
                let detail = format!("{} of {objects} objects are missing or wrong, first {first}", wrong.len());
                report.say(Level::Damage, "objects", detail, "move the store folder away: it is built anew from the log");
            }
        }
    }
}

/// Whether the log is the one that was folded.
fn identity(log: &dyn Log, head: &Head, report: &mut Report) {
    if log.transport_id() != head.transport_id && head.applied.next() > log.copied_to() {
        let detail = format!("the store belongs to log {}, this is log {}", id(head.transport_id), id(log.transport_id()));
        report.say(Level::Damage, "identity", detail, "connect the log that was folded; docs/errors/FENCED.md has every way out");
        return;
    }
    match overlap(log, head) {
        Ok(Some(digest)) if digest == head.digest => {
            report.say(Level::Ok, "identity", "the log is the one that the store was folded from", "");
        }
        Ok(found) => {
            let found = found.map_or("nothing".to_owned(), |digest| digest.short());
            let detail = format!("at {} the store folded {}, the log holds {found}", head.applied, head.digest.short());
            report.say(Level::Damage, "identity", detail, "put the log back that was folded, or move the store folder away");
        }
        Err(error) => report.say(Level::Damage, "identity", error.to_string(), ""),
    }
}

fn overlap(log: &dyn Log, head: &Head) -> Result<Option<Hash>, LogError> {
    if head.applied >= log.range().end {
        return Ok(None);
    }
    log.anchor(Tip { position: head.applied, digest: head.before, time: head.time });
    let records = log.reader(head.applied)?.read(1, 1, PATIENCE)?;
    Ok(records.first().map(|record| record.digest))
}

/// Who announced what, as this store has folded it.
fn replicas(store: &RocksStore, head: &Head, report: &mut Report) {
    let folder = match Folder::restore(store, [0; 16]) {
        Ok(folder) => folder,
        Err(error) => {
            report.say(Level::Damage, "store", error.to_string(), "the next start sets it aside and builds it anew from the log");
            return;
        }
    };
    let own = folder.replica();
    let rows: Vec<_> = folder.state().checkpoints().collect();
    if rows.is_empty() {
        report.say(Level::Ok, "replicas", "none has announced a mark yet", "");
        return;
    }
    let named = |replica: [u8; 16]| format!("{}{}", &id(replica)[..12], if replica == own { " (this)" } else { "" });
    let list = rows.iter().map(|row| format!("{} at mark {}", named(row.checkpoint.replica), row.checkpoint.position));
    report.say(Level::Ok, "replicas", list.collect::<Vec<_>>().join(", "), "");
    for row in rows.iter().filter(|row| head.time.0 - row.time.0 > SILENT_MS) {
        let days = (head.time.0 - row.time.0) / (24 * 3600 * 1000);
        let detail = format!("{} has said nothing for {days} days", named(row.checkpoint.replica));
        report.say(Level::Warning, "replicas", detail, "start it, or forget it: its word no longer counts");
    }
    let differ = folder.disagreements();
    for one in &differ {
        let detail = format!(
            "{} announced state {} at mark {}, here it is {}",
            named(one.replica),
            one.theirs.state.short(),
            one.ours.position,
            one.ours.state.short()
        );
        report.say(Level::Damage, "agreement", detail, "docs/operations.md, Replicas that disagree");
    }
    if differ.is_empty() && rows.len() > 1 {
        report.say(Level::Ok, "agreement", "no replica disagrees with what was computed here", "");
    }
}

fn id(id: [u8; 16]) -> String {
    confold_model::ids::Incarnation(id).to_string()
}

fn walk(store: &dyn Objects, root: Hash) -> (u64, Vec<String>) {
    let mut walk = Walk::new();
    walk.add_root(root);
    let (mut objects, mut wrong) = (0, Vec::new());
    while let Some(object) = walk.next(store) {
        objects += 1;
        if let Err(error) = object {
            wrong.push(error.to_string());
        }
    }
    (objects, wrong)
}
