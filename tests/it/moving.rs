//! A store taken from one log to another, and brought to life there.

use crate::server::{CONFOLD, confold};
use crate::support::{Fixture, add, open, update};
use confold::Embedded;
use confold::moving::{self, End, MoveError, Moved, Plan};
use confold::wire::{pb, status};
use confold_log::file::FileLog;
use confold_log::{Log, Reader};
use confold_model::fold;
use confold_model::ids::{Hash, Position, Revision};
use confold_model::objects::NoObjects;
use confold_model::state::State;
use confold_store::{Order, RevisionRow};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn plan(from: End, to: End) -> Plan {
    Plan {
        from,
        to,
        create_topic: None,
        is_move: false,
        until: None,
        resume: false,
        principal: String::new(),
        author: "ops".to_owned(),
    }
}

fn folder(dir: &Path) -> End {
    End::Folder(dir.to_owned())
}

pub async fn run(plan: Plan) -> Result<Moved, MoveError> {
    tokio::task::spawn_blocking(move || moving::run(&plan, &mut |_, _| ())).await.unwrap()
}

/// A store with a few revisions and a tag, closed; and what it looked like.
pub async fn sample() -> (tempfile::TempDir, PathBuf, Shown) {
    let fixture = Fixture::with_schema("schemas/examples", "example.Network").await;
    fixture.commit(vec![add("/devices", r#"{"id": "a", "ports": [{"number": 1}]}"#)]).await;
    fixture.commit(vec![update("/devices/a", r#"{"id": "a", "description": "x"}"#)]).await;
    fixture.api.tag(pb::TagRequest { name: "v1".to_owned(), at: "1".to_owned(), ..Default::default() }).await.unwrap();
    for number in 0..200 {
        fixture.commit(vec![add("/vlans", format!(r#"{{"number": {number}}}"#))]).await;
    }
    let Fixture { dir, store, api } = fixture;
    drop(api);
    let shown = Shown::of(&store);
    store.close().await.unwrap();
    let data = dir.path().join("data");
    (dir, data, shown)
}

/// What must be the same on every log.
#[derive(PartialEq, Debug)]
pub struct Shown {
    rows: Vec<RevisionRow>,
    tags: Vec<(String, Revision)>,
    pub chain: Hash,
    pub digest: Hash,
    pub position: Position,
}

impl Shown {
    pub fn of(store: &Embedded) -> Shown {
        let view = store.handle().view();
        let all = Revision(1)..=Revision(u64::MAX);
        Shown {
            rows: store.handle().store().unwrap().revisions(all, Order::Ascending, usize::MAX).unwrap(),
            tags: view.tags.iter().map(|(name, row)| (name.to_string(), row.revision)).collect(),
            chain: view.chain,
            digest: view.digest,
            position: view.position,
        }
    }

    /// The store has all this, and what it has besides came later.
    pub fn is_beginning_of(&self, store: &Embedded) {
        let now = Shown::of(store);
        assert_eq!(now.rows[..self.rows.len()], self.rows[..]);
        assert_eq!(now.tags, self.tags);
        let (digest, chain) = folded(store.handle().log(), self.position.next());
        assert_eq!((digest, chain), (self.digest, self.chain));
    }
}

/// Folds a log again, from nothing, and gives digest and chain before a position.
pub fn folded(log: &dyn Log, end: Position) -> (Hash, Hash) {
    let mut reader: Box<dyn Reader> = log.reader(Position(0)).unwrap();
    let mut state = State::new();
    while state.next_position() < end {
        for record in reader.read(256, 1 << 20, Duration::from_secs(20)).unwrap() {
            if state.next_position() < end {
                let applied = fold::apply(&mut state, record.time, &record.bytes, &NoObjects).unwrap();
                assert_eq!(applied.digest, record.digest);
            }
        }
    }
    (state.digest(), state.chain())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_same_revisions_roots_tags_and_chain_and_begins_a_new_life() {
    let (dir, data, shown) = sample().await;
    let copy = dir.path().join("copy");
    let moved = run(plan(folder(&data), folder(&copy))).await.unwrap();
    assert_eq!((moved.digest, moved.sealed, moved.kept), (shown.digest, false, None));
    assert_eq!(Position(moved.records), shown.position.next());
    let copied = open(&copy).await;
    shown.is_beginning_of(&copied);
    let view = copied.handle().view();
    assert_eq!((view.incarnation, view.transport_id), (moved.incarnation, moved.transport_id));
    assert_ne!(view.incarnation, view.log_id);
    // Both live on; they are two stores from here.
    let source = open(&data).await;
    assert_eq!(source.handle().view().log_id, view.log_id);
    for store in [&source, &copied] {
        let operations = vec![add("/devices", r#"{"id": "later"}"#)];
        store.api().commit(pb::CommitRequest { operations, ..Default::default() }).await.unwrap();
    }
    copied.close().await.unwrap();
    source.close().await.unwrap();
    // Into a folder that holds something, and onto itself.
    let again = run(plan(folder(&data), folder(&copy))).await.unwrap_err();
    assert!(matches!(again, MoveError::Occupied(_)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_store_takes_nothing_more_where_it_was_until_the_move_is_given_up() {
    let (dir, data, shown) = sample().await;
    let target = dir.path().join("target");
    let moved = run(Plan { is_move: true, ..plan(folder(&data), folder(&target)) }).await.unwrap();
    assert!(moved.sealed);
    let source = open(&data).await;
    let operations = || vec![add("/devices", r#"{"id": "later"}"#)];
    let refused = source.api().commit(pb::CommitRequest { operations: operations(), ..Default::default() }).await.unwrap_err();
    assert_eq!(status::detail(&refused).unwrap().code, "SEALED");
    source.close().await.unwrap();
    let store = open(&target).await;
    shown.is_beginning_of(&store);
    store.api().commit(pb::CommitRequest { operations: operations(), ..Default::default() }).await.unwrap();
    store.close().await.unwrap();

    let words = ["log", "unseal", data.to_str().unwrap(), "--author", "ops"];
    let unsealed = confold(&words);
    assert_eq!(unsealed.code, 0, "{}", unsealed.err);
    let source = open(&data).await;
    source.api().commit(pb::CommitRequest { operations: operations(), ..Default::default() }).await.unwrap();
    source.close().await.unwrap();
    let twice = confold(&words);
    assert_eq!(twice.code, 2);
    assert!(twice.err.contains("not sealed"), "{}", twice.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_rules_is_moved_by_the_right_of_whoever_may_administer_it() {
    let (dir, data, shown) = sample().await;
    let store = open(&data).await;
    let rules = vec![pb::PolicyRule {
        principal: "ops".to_owned(),
        path: "/".to_owned(),
        rights: vec![pb::Right::Read.into(), pb::Right::Write.into(), pb::Right::Admin.into()],
        strict: false,
    }];
    store.api_as("ops").set_policy(pb::SetPolicyRequest { rules, ..Default::default() }).await.unwrap();
    store.close().await.unwrap();
    let target = dir.path().join("target");
    let words = ["log", "copy", data.to_str().unwrap(), target.to_str().unwrap(), "--move"];
    let refused = confold(&words);
    assert_eq!(refused.code, 1, "{}", refused.all());
    assert!(refused.err.contains("seal was not accepted") && refused.err.contains("--as NAME"), "{}", refused.err);
    assert!(!target.exists());
    let moved = confold(&[&words[..], &["--as", "ops"]].concat());
    assert_eq!(moved.code, 0, "{}", moved.all());
    let store = open(&target).await;
    let rows = Shown::of(&store);
    assert_eq!(rows.rows, shown.rows);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_goes_on_and_comes_out_the_same() {
    let (dir, data, shown) = sample().await;
    let target = dir.path().join("target");
    let words = ["log", "copy", data.to_str().unwrap(), target.to_str().unwrap(), "--resume", "--json"];
    let mut kills = 0;
    for wait in 0.. {
        let mut child = Command::new(CONFOLD).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // When it dies is the only thing here that is a matter of time.
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        _ = never.recv_timeout(Duration::from_millis(2 * wait));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        kills += 1;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0);
    let again = confold(&words);
    assert_eq!(again.code, 0, "{}", again.err);
    let said: serde_json::Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(said["digest"], shown.digest.to_string());
    let store = open(&target).await;
    shown.is_beginning_of(&store);
    // One `open`, however often it was asked for.
    assert_eq!(store.handle().view().incarnations.len(), 2);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_not_opened_is_not_served() {
    let (dir, data, _) = sample().await;
    let copy = dir.path().join("copy");
    std::fs::create_dir_all(&copy).unwrap();
    // By hand, as an impatient operator might do it: a plain copy is the same log, one through the library is another.
    let source = FileLog::open_read_only(&data.join("log"), Default::default()).unwrap();
    let origin = confold_log::file::Origin {
        identity: confold_log::file::Identity { log_id: source.identity().log_id, transport_id: [9; 16] },
        source: source.transport_id(),
        first: confold_log::Tip::START,
        end: Position(0),
        state: Hash::ZERO,
    };
    let mut target = confold_log::file::Copy::create(&copy.join("log"), origin, Default::default()).unwrap();
    confold_log::copy_records(&source, &mut target, source.range().end, Duration::from_secs(20)).unwrap();
    target.finish().unwrap();
    let store = confold::folder::open(&copy, Default::default()).unwrap();
    let mut standing = store.handle.standing();
    let waits = standing.wait_for(|now| now.reason.contains("not brought to life")).await.unwrap().clone();
    assert_eq!(waits.state.name(), "CATCHING_UP");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_copy_says_what_is_lost_and_asks() {
    let (dir, data, shown) = sample().await;
    let cut = dir.path().join("cut");
    let last = shown.position.0;
    let until = (last - 10).to_string();
    let words = ["log", "copy", data.to_str().unwrap(), cut.to_str().unwrap(), "--until", &until];
    let asked = confold(&words);
    assert_eq!(asked.code, 2);
    assert!(asked.err.contains(&format!("kept: {} records", last - 9)), "{}", asked.err);
    assert!(asked.err.contains("lost: 10 records") && asked.err.contains("--yes"), "{}", asked.err);
    assert!(!cut.exists());
    let done = confold(&[&words[..], &["--yes"]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    let store = open(&cut).await;
    assert_eq!(store.handle().view().revision, Revision(202 - 10));
    store.close().await.unwrap();
    let beyond = (last + 5).to_string();
    let far = dir.path().join("far");
    let refused = confold(&["log", "copy", data.to_str().unwrap(), far.to_str().unwrap(), "--until", &beyond, "--yes"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("is not on the log"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_restored_as_a_new_life() {
    let (dir, data, shown) = sample().await;
    let (backup, restored) = (dir.path().join("backup"), dir.path().join("restored"));
    let exported = confold(&["export", "log", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    assert_eq!(exported.code, 0, "{}", exported.err);
    let done = confold(&["restore", backup.to_str().unwrap(), restored.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("it lives on") && done.err.contains("two are different stores"), "{}", done.err);
    let store = open(&restored).await;
    shown.is_beginning_of(&store);
    store.close().await.unwrap();
    let nowhere = confold(&["restore", dir.path().join("nothing").to_str().unwrap(), dir.path().join("x").to_str().unwrap()]);
    assert_eq!(nowhere.code, 2, "{}", nowhere.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_sets_the_store_aside_and_keeps_the_reason() {
    let (_dir, data, shown) = sample().await;
    std::fs::write(data.join("stopped"), "its state hash differs at mark 4096").unwrap();
    let refused = confold(&["status", "--data", data.to_str().unwrap()]);
    assert_eq!(refused.code, 5);
    assert!(refused.err.contains("state hash differs") && refused.err.contains("rebuild"), "{}", refused.err);
    let asked = confold(&["store", "rebuild", data.to_str().unwrap()]);
    assert_eq!(asked.code, 2);
    let done = confold(&["store", "rebuild", data.to_str().unwrap(), "--yes"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("store.damaged-1"), "{}", done.out);
    let why = std::fs::read_to_string(data.join("store.damaged-1/why")).unwrap();
    assert!(why.contains("differs at mark 4096"));
    let store = open(&data).await;
    shown.is_beginning_of(&store);
    let locked = confold(&["store", "rebuild", data.to_str().unwrap(), "--yes"]);
    assert_eq!(locked.code, 3, "{}", locked.err);
    store.close().await.unwrap();
}
