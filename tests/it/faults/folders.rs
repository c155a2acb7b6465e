//! F10: folders are put where they do not belong while the server is down. The store replays, or refuses and says why; when everything
//! is put back, it is as it was.

use super::writers::{commit, new_id};
use super::{copy_folder, number, store_for_writers};
use confold::Embedded;
use confold::replica::{Housekeeping, Options, ReplicaState};
use confold_model::ids::{Hash, Position};
use std::path::Path;

/// Nothing is said on the log but what the test says: a minute of a slow disk brings a mark otherwise.
fn quiet() -> Options {
    Options { housekeeping: Housekeeping::ByHand, ..Options::default() }
}

/// So many commits more; gives where the store stands then.
async fn grow(data: &Path, random: u64, commits: u64) -> (Position, Hash, Hash) {
    let store = Embedded::open(data, quiet()).await.unwrap();
    let seen = store.handle().view().position.0;
    for turn in 0..commits {
        let (number, id) = (turn as usize % 8, new_id(seen, turn as usize % 8, random, turn));
        store
            .api()
            .commit(commit(number, random * 1_000 + turn, id))
            .await
            .unwrap();
    }
    let view = store.handle().view();
    let stands = (view.position, view.root, view.chain);
    store.close().await.unwrap();
    stands
}

/// How a folder answers: served and standing there, or refused with these words.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    Serves(Position, Hash, Hash),
    Refuses(String),
}

async fn ask(data: &Path) -> Answer {
    match Embedded::open(data, quiet()).await {
        Err(error) => Answer::Refuses(error.to_string()),
        Ok(store) => {
            let standing = store.handle().status().standing;
            let view = store.handle().view();
            store.close().await.unwrap();
            match standing.state {
                ReplicaState::Serving => Answer::Serves(view.position, view.root, view.chain),
                state => Answer::Refuses(format!("{}: {}", state.name(), standing.reason)),
            }
        }
    }
}

fn swap(one: &Path, other: &Path) {
    let aside = one.with_extension("swapping");
    std::fs::rename(one, &aside).unwrap();
    std::fs::rename(other, one).unwrap();
    std::fs::rename(aside, other).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_the_one_it_was_replays_or_refuses_by_name() {
    let runs = number("CONFOLD_SWAPS").unwrap_or(50);
    let (mut replayed, mut refused) = (0, 0);
    for round in 1..=runs / 5 {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        store_for_writers(&at("data")).await;
        store_for_writers(&at("stranger")).await;
        grow(&at("stranger"), 900 + round, 12).await;
        let old = grow(&at("data"), round, 5 + round % 7).await;
        copy_folder(&at("data"), &at("old"));
        copy_folder(&at("data"), &at("twin"));
        let (position, root, chain) = grow(&at("data"), 100 + round, 7).await;
        let now = Answer::Serves(position, root, chain);
        // Another life of the same log, longer than this one.
        let twin = grow(&at("twin"), 200 + round, 9).await;

        // An old database: what it has not folded is folded.
        copy_folder(&at("old/store"), &at("old-store"));
        swap(&at("data/store"), &at("old-store"));
        assert_eq!(ask(&at("data")).await, now, "an old database");
        swap(&at("data/store"), &at("old-store"));
        replayed += 1;

        let refusals: [(&str, &str, &[&str]); 3] = [
            // An old log: what was applied is not there.
            ("data/log", "old/log", &["was already applied from this log"]),
            // A stranger's database.
            ("data/store", "stranger/store", &["transport id"]),
            // That of a twin which has folded another end.
            (
                "data/store",
                "twin/store",
                &["was already applied from this log", "FENCED"],
            ),
        ];
        for (ours, theirs, words) in refusals {
            swap(&at(ours), &at(theirs));
            match ask(&at("data")).await {
                Answer::Refuses(why) => assert!(words.iter().any(|word| why.contains(word)), "{theirs}: {why}"),
                serves => panic!("{theirs} in the place of {ours}: {serves:?}"),
            }
            swap(&at(ours), &at(theirs));
            assert_eq!(ask(&at("data")).await, now, "after {theirs} was taken away again");
            refused += 1;
        }

        // A whole folder of another time is what it was then.
        swap(&at("data"), &at("old"));
        assert_eq!(ask(&at("data")).await, Answer::Serves(old.0, old.1, old.2));
        swap(&at("data"), &at("twin"));
        assert_eq!(ask(&at("data")).await, Answer::Serves(twin.0, twin.1, twin.2));
        replayed += 1;
    }
    println!(
        "SOAK runs={} replayed={replayed} refused={refused} wrong=0",
        replayed + refused
    );
}
