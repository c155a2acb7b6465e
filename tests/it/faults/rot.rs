//! F9: files of the database rot or go missing. It is noticed and the store built anew from the log, or it changes no answer.

use super::writers::{WRITERS, commit, new_id, read_value};
use super::{Chance, copy_folder, number, store_for_writers};
use crate::support::open;
use confold::Embedded;
use confold::replica::{Options, ReplicaState};
use confold::wire::pb;
use confold_model::ids::Hash;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything that is asked of a copy.
#[derive(PartialEq, Eq, Debug)]
struct Truth {
    root: Hash,
    /// By revision and writer.
    values: BTreeMap<(u64, usize), u64>,
    history: Vec<(u64, String)>,
}

async fn read(store: &Embedded) -> Result<Truth, tonic::Status> {
    let api = store.api();
    let view = store.handle().view();
    let mut values = BTreeMap::new();
    for revision in [3, 20, 41, view.revision.0] {
        for number in 0..WRITERS {
            let read = pb::Read {
                at: format!("rev:{revision}"),
                ..Default::default()
            };
            values.insert((revision, number), read_value(&*api, number, read).await?);
        }
    }
    let log = api
        .log(pb::LogRequest {
            oldest_first: true,
            limit: 200,
            ..Default::default()
        })
        .await?;
    let history = log
        .rows
        .iter()
        .map(|row| (row.position, row.event_id.clone()))
        .collect();
    Ok(Truth {
        root: view.root,
        values,
        history,
    })
}

/// A small store with tables of both families, a list of them, and a write-ahead log with the newest batches.
async fn tiny(data: &Path) -> Truth {
    store_for_writers(data).await;
    let mut turn = 0;
    for part in 0..3 {
        let store = open(data).await;
        let seen = store.handle().view().position.0;
        for _ in 0..20 {
            turn += 1;
            let number = turn as usize % WRITERS;
            store
                .api()
                .commit(commit(number, turn, new_id(seen, number, 1, turn)))
                .await
                .unwrap();
        }
        if part < 2 {
            store.close().await.unwrap();
        }
    }
    let store = open(data).await;
    for number in 0..WRITERS {
        turn += 1;
        let seen = store.handle().view().position.0;
        store
            .api()
            .commit(commit(number, turn, new_id(seen, number, 1, turn)))
            .await
            .unwrap();
    }
    read(&store).await.unwrap()
}

/// What was done to which kind of file.
fn damage(db: &Path, chance: &mut Chance) -> (String, &'static str) {
    let kinds: [fn(&str) -> bool; 5] = [
        |name| name.ends_with(".sst"),
        |name| name.ends_with(".log"),
        |name| name.starts_with("MANIFEST"),
        |name| name == "CURRENT",
        |name| name.starts_with("OPTIONS") || name == "IDENTITY",
    ];
    let names = std::fs::read_dir(db)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.collect();
    loop {
        // Tables and logs are most of what there is.
        let kind = kinds[[0, 0, 0, 1, 1, 2, 2, 3, 4][chance.below(9) as usize]];
        let some: Vec<&String> = names.iter().filter(|name| kind(name)).collect();
        if some.is_empty() {
            continue;
        }
        let name = some[chance.below(some.len() as u64) as usize];
        let path = db.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let how = match chance.below(8) {
            0 => {
                std::fs::remove_file(&path).unwrap();
                "missing"
            }
            1 => {
                std::fs::write(&path, &bytes[..chance.below(bytes.len() as u64) as usize]).unwrap();
                "cut short"
            }
            _ => {
                let at = chance.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << chance.below(8);
                std::fs::write(&path, &bytes).unwrap();
                "a flipped bit"
            }
        };
        let kind = name
            .split_once('.')
            .map_or(name.split('-').next().unwrap(), |(_, kind)| kind);
        return (kind.to_owned(), how);
    }
}

/// What came of one damaged copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    /// Every answer was right at once.
    Harmless,
    /// It was noticed on opening, and the store was built anew.
    Opening,
    /// It was noticed on reading; the next start built the store anew.
    Reading,
}

async fn look(data: PathBuf, truth: &Truth, what: &str) -> End {
    let mut end = End::Harmless;
    for _ in 0..3 {
        let mut refused = String::new();
        let opened = Embedded::open(&data, Options::default()).await;
        let store = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        if !store.notes().is_empty() {
            end = end.max(End::Opening);
        }
        match read(&store).await {
            Ok(found) if store.handle().status().standing.state == ReplicaState::Serving => {
                assert!(found == *truth, "{what}: another answer");
                store.close().await.unwrap();
                return end;
            }
            Ok(found) => {
                assert!(
                    found
                        .values
                        .iter()
                        .all(|(at, value)| truth.values.get(at) == Some(value)),
                    "{what}: {found:?}"
                );
            }
            Err(status) => refused = status.to_string(),
        }
        let standing = store.handle().status().standing;
        assert_eq!(
            standing.state,
            ReplicaState::Quarantined,
            "{what}: {}, {refused}",
            standing.reason
        );
        end = End::Reading;
        drop(store);
        wait_for(&data).await;
    }
    panic!("{what}: still damaged after it was built anew");
}

/// Until the store that was just dropped has let go of its folder.
async fn wait_for(data: &Path) {
    let lock = std::fs::File::open(data.join("log/lock")).unwrap();
    tokio::task::block_in_place(|| lock.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_rots_is_built_anew_or_gives_the_right_answers() {
    let copies = number("CONFOLD_ROTTEN_COPIES").unwrap_or(250);
    let mut chance = Chance::new();
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let truth = tiny(&original).await;
    wait_for(&original).await;
    let mut ends: BTreeMap<(String, &str, End), u64> = BTreeMap::new();
    for copy in 0..copies {
        let data = dir.path().join(format!("copy-{copy}"));
        copy_folder(&original, &data);
        let (kind, how) = damage(&data.join("store/db"), &mut chance);
        let end = look(data.clone(), &truth, &format!("copy {copy}, {kind}, {how}")).await;
        *ends.entry((kind, how, end)).or_default() += 1;
        std::fs::remove_dir_all(data).unwrap();
    }
    for ((kind, how, end), count) in &ends {
        println!("{count:>5}  {kind}: {how}: {end:?}");
    }
    let count = |wanted: End| {
        ends.iter()
            .filter(|((_, _, end), _)| *end == wanted)
            .map(|(_, count)| count)
            .sum::<u64>()
    };
    let (harmless, opening, reading) = (count(End::Harmless), count(End::Opening), count(End::Reading));
    assert!(
        opening + reading > copies / 5,
        "{opening} noticed on opening, {reading} on reading, {harmless} harmless"
    );
    println!("SOAK copies={copies} on_opening={opening} on_reading={reading} harmless={harmless} wrong=0");
}
