//! F2: the process dies at each named step of the write path. F11: it is killed while it prunes and sweeps.

use super::dying::{self, FOLDER, KNOWN, LIFE, PASSING, STEP, STEPS};
use super::writers::{WRITERS, Writers, commit, new_id, walk, whole};
use super::{Chance, number, store_for_writers};
use crate::support::open;
use confold::wire::pb;
use confold_model::ids::{Position, Revision};
use confold_model::objects::{Objects, references};
use confold_store::Store;
use confold_store_rocks::RocksStore;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is known of a store whose process dies again and again.
struct Lives {
    data: PathBuf,
    _dir: tempfile::TempDir,
    writers: Writers,
    /// Tags that were acknowledged.
    tags: BTreeMap<String, Revision>,
    lives: u64,
    floor: u64,
    swept: u64,
}

impl Lives {
    async fn begin() -> Lives {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        store_for_writers(&data).await;
        let store = open(&data).await;
        // Something to prune at every step of the way.
        let policy = pb::RetentionPolicy {
            keep_revisions: 20,
            ..Default::default()
        };
        store
            .api()
            .set_retention(pb::SetRetentionRequest {
                policy: Some(policy),
                ..Default::default()
            })
            .await
            .unwrap();
        store.close().await.unwrap();
        Lives {
            data,
            _dir: dir,
            writers: Writers::new(),
            tags: BTreeMap::new(),
            lives: 0,
            floor: 0,
            swept: 0,
        }
    }

    /// One life of the process, up to its death; what it said is remembered, and what it found is compared with that.
    fn live(&mut self, test: &str, death: &Death) {
        self.lives += 1;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(FOLDER, &self.data)
            .env(KNOWN, dying::known(&self.writers.each))
            .env(LIFE, self.lives.to_string());
        if let Death::At { step, passing } = death {
            command.env(STEP, step).env(PASSING, passing.to_string());
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut acked, mut died) = (0, None);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let word = |at: usize| -> u64 { words[at].parse().unwrap_or_else(|_| panic!("{line}")) };
            match words[0] {
                "begin" => {
                    let id = confold::wire::convert::parse_event_id(words[3]).unwrap();
                    self.writers.each[word(1) as usize].open = Some((word(2), id));
                }
                "acked" => {
                    self.writers.acknowledge(word(1) as usize, Position(word(3)));
                    acked += 1;
                }
                "found" => {
                    let writer = &self.writers.each[word(1) as usize];
                    let open = writer.open.map_or(writer.acknowledged, |(count, _)| count);
                    assert!(
                        [writer.acknowledged, open].contains(&word(2)),
                        "{line}: {} was acknowledged",
                        writer.acknowledged
                    );
                }
                "tagged" => drop(self.tags.insert(words[1].to_owned(), Revision(word(2)))),
                "house" => {
                    self.floor = word(1);
                    self.swept += word(2);
                }
                "died" => died = Some(words[1].to_owned()),
                _ => {}
            }
            if let Death::Kill { after } = death
                && acked == *after
            {
                child.kill().unwrap();
            }
        }
        let status = child.wait().unwrap();
        let mut said = || std::io::read_to_string(child.stderr.take().unwrap()).unwrap_or_default();
        match death {
            Death::At { step, passing } => {
                let fired = status.signal() == Some(6) && died.as_deref() == Some(*step);
                assert!(
                    fired,
                    "{step}, passing {passing}: {status}, died at {died:?}\n{}",
                    said()
                );
            }
            Death::Kill { .. } => assert_eq!(status.signal(), Some(9), "{}", said()),
        }
    }

    /// Everything acknowledged is there, every tag where it was put, every kept tree whole.
    async fn check(&self) {
        let walked = whole(&self.data, &self.writers).await;
        let store = open(&self.data).await;
        let found = store.handle().view().tags.clone();
        for (name, revision) in &self.tags {
            assert_eq!(found.get(name).map(|tag| tag.revision), Some(*revision), "tag {name}");
        }
        store.close().await.unwrap();
        println!(
            "after {} lives: {walked:?}, {} tags, floor {}",
            self.lives,
            self.tags.len(),
            self.floor
        );
    }
}

/// Whoever looks at everything must see what is missing, or it proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_missing_from_a_kept_tree_is_found_out() {
    let lives = Lives::begin().await;
    let store = open(&lives.data).await;
    for turn in 0..WRITERS {
        store
            .api()
            .commit(commit(turn, 1, new_id(1, turn, 7, 0)))
            .await
            .unwrap();
    }
    walk(store.handle());
    store.close().await.unwrap();
    {
        let folder = lives.data.join("store");
        let rocks = RocksStore::open(&folder, &confold_store_rocks::Options::default()).unwrap();
        let root = rocks.head().unwrap().root;
        let below = references(&rocks.object(&root).unwrap()).unwrap();
        let container = below.iter().find(|hash| rocks.object(hash).is_ok()).unwrap();
        rocks.delete_objects(&[*container]).unwrap();
    }
    let store = open(&lives.data).await;
    let handle = store.handle().clone();
    let walked = tokio::task::spawn_blocking(move || walk(&handle)).await;
    assert!(
        walked.is_err_and(|error| error.is_panic()),
        "nothing seems to be missing"
    );
}

enum Death<'a> {
    At { step: &'a str, passing: u64 },
    Kill { after: u64 },
}

/// A write that did not get far.
fn tear(log: &Path) {
    let files = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let last = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    bytes.extend(b"CFB0 and no more");
    std::fs::write(last, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_at_any_step_loses_nothing_and_doubles_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return dying::live(Path::new(&folder)).await;
    }
    let times = number("CONFOLD_TIMES").unwrap_or(3);
    let mut chance = Chance::new();
    let mut lives = Lives::begin().await;
    let mut hit = BTreeMap::new();
    for time in 0..times {
        for step in STEPS {
            // A torn end is cut once, and synced before it is looked at.
            let passing = match step {
                "log::open::before_cut" | "log::open::after_cut" => 1,
                "log::open::after_sync" => 1 + time % 2,
                _ => chance.between(1, 2 + time),
            };
            if step.starts_with("log::open::") {
                tear(&lives.data.join("log"));
            }
            let test = "faults::steps::a_process_that_dies_at_any_step_loses_nothing_and_doubles_nothing";
            lives.live(test, &Death::At { step, passing });
            *hit.entry(step).or_insert(0) += 1;
        }
        lives.check().await;
    }
    assert!(
        hit.len() == STEPS.len() && hit.values().all(|count| *count == times),
        "{hit:?}"
    );
    let (deaths, acknowledged) = (lives.lives, lives.writers.acknowledged.len());
    let steps = STEPS.len();
    println!(
        "SOAK times={times} steps={steps} hit={} deaths={deaths} acknowledged={acknowledged} lost=0 doubled=0",
        hit.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_prunes_and_sweeps_keeps_every_tree_it_promised_whole() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return dying::live(Path::new(&folder)).await;
    }
    let kills = number("CONFOLD_PRUNE_KILLS").unwrap_or(20);
    let mut chance = Chance::new();
    let mut lives = Lives::begin().await;
    for _ in 0..kills {
        let test = "faults::steps::a_process_killed_while_it_prunes_and_sweeps_keeps_every_tree_it_promised_whole";
        lives.live(
            test,
            &Death::Kill {
                after: chance.between(1, 400),
            },
        );
        lives.check().await;
    }
    assert!(
        lives.floor > 0 && lives.swept > 0,
        "floor {}, {} objects swept: nothing was at stake",
        lives.floor,
        lives.swept
    );
    let (floor, swept, tags) = (lives.floor, lives.swept, lives.tags.len());
    println!("SOAK kills={kills} walks={kills} floor={floor} swept={swept} tags={tags} missing=0");
}
