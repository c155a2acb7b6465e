//! What only a store on disk can do: survive crashes, notice damage, keep others out.

use crate::keys::{self, OBJECTS, ROWS};
use crate::{Options, RocksStore, folder, pages, set_aside};
use confold_model::ids::{Position, Revision};
use confold_model::objects::{Objects, ObjectsErrorCause};
use confold_store::conformance::{Dice, Fixture, History, Leaf, head_at, object_set, references};
use confold_store::sweep::{Progress, Sweeper};
use confold_store::{Batch, Durability, Order, Store, StoreError};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

confold_store::store_conformance!(|| {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    Fixture {
        store: Arc::new(store),
        keep: Box::new(dir),
    }
});

#[test]
fn a_store_dropped_without_a_sync_has_everything_when_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(1);
    for round in 0..12 {
        let store = open(dir.path()).unwrap();
        history.check(&store).unwrap();
        assert_eq!(
            store.durable(),
            history.head().map(|head| head.applied),
            "opening syncs what it finds"
        );
        for _ in 0..round {
            store.commit(&history.next_batch(9)).unwrap();
        }
    }
}

#[test]
fn a_type_that_rots_in_a_log_of_the_database_is_damage_and_opening_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(3);
    for _ in 0..3 {
        let store = open(dir.path()).unwrap();
        store.commit(&history.next_batch(5)).unwrap();
    }
    let files: Vec<PathBuf> = fs::read_dir(folder::database(dir.path()))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("MANIFEST-") || name.ends_with(".log")
        })
        .collect();
    let mut tried = 0;
    for file in files {
        let sound = fs::read(&file).unwrap();
        let mut at = 0;
        // Shorter than a block, so one record follows the other.
        while let Some(header) = sound.get(at..at + 7) {
            let mut rotten = sound.clone();
            rotten[at + 6] ^= 4;
            fs::write(&file, rotten).unwrap();
            let error = open(dir.path()).err().unwrap();
            assert!(error.is_damage() && error.to_string().contains(&format!("byte {at}:")), "{error}");
            at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]]));
            tried += 1;
        }
        fs::write(&file, sound).unwrap();
    }
    assert!(tried > 5, "{tried}");
    history.check(&open(dir.path()).unwrap()).unwrap();
}

#[test]
fn a_copy_taken_at_any_moment_holds_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    // Memtables large enough that the log alone changes while it is copied, as a crash would cut it.
    let store = RocksStore::open(&dir.path().join("store"), &Options::default()).unwrap();
    let mut history = History::new(2);
    let batches: Vec<Batch> = (0..800).map(|_| history.next_batch(5)).collect();
    let committed = AtomicU64::new(0);
    let copies = std::thread::scope(|scope| {
        scope.spawn(|| {
            for batch in &batches {
                store.commit(batch).unwrap();
                committed.store(batch.head.applied.0, Ordering::Release);
            }
        });
        let mut copies = Vec::new();
        while copies.len() < 15 && committed.load(Ordering::Acquire) < batches[790].head.applied.0 {
            let at_least = committed.load(Ordering::Acquire);
            let copy = dir.path().join(format!("copy-{}", copies.len()));
            copy_dir(&dir.path().join("store"), &copy);
            copies.push((copy, at_least));
        }
        copies
    });
    assert!(copies.len() > 2, "{} copies", copies.len());
    for (copy, at_least) in copies {
        let store = open(&copy).unwrap();
        let head = store.head();
        assert!(
            head.as_ref().map_or(0, |head| head.applied.0) >= at_least,
            "what was handed over before the copy is in it"
        );
        past(&history, &store).check(&store).unwrap();
    }
}

#[test]
fn a_log_cut_anywhere_leaves_a_prefix_of_the_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice(3);
    let (history, original) = aged_store(dir.path(), 3, 30);
    let (mut prefixes, mut refused) = (0, 0);
    for round in 0..60 {
        let copy = dir.path().join(format!("copy-{round}"));
        copy_dir(&original, &copy);
        for log in files(&copy, "log") {
            let length = fs::metadata(&log).unwrap().len();
            let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
            file.set_len(dice.below(length + 1)).unwrap();
        }
        match open(&copy).and_then(|store| past(&history, &store).check(&store).map(|()| store)) {
            Ok(store) => prefixes += u64::from(store.head().as_ref() != history.head()),
            Err(error) => refused += u64::from(expect_damage(error)),
        }
        fs::remove_dir_all(&copy).unwrap();
    }
    assert!(prefixes > 20, "{prefixes} shorter histories, {refused} refused");
}

#[test]
fn damage_is_noticed_or_changes_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice(4);
    let (history, original) = aged_store(dir.path(), 4, 24);
    let (mut noticed, mut harmless) = (0, 0);
    for round in 0..160 {
        let copy = dir.path().join(format!("copy-{round}"));
        copy_dir(&original, &copy);
        let all = files(&copy, "");
        let victim = &all[dice.below(all.len() as u64) as usize];
        let name = victim.file_name().unwrap().to_string_lossy().into_owned();
        let mut bytes = fs::read(victim).unwrap();
        match dice.below(8) {
            0 => fs::remove_file(victim).unwrap(),
            1 => fs::write(victim, &bytes[..dice.below(bytes.len() as u64 + 1) as usize]).unwrap(),
            _ if bytes.is_empty() => fs::write(victim, b"x").unwrap(),
            _ => {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << dice.below(8);
                fs::write(victim, &bytes).unwrap();
            }
        }
        match open(&copy).and_then(|store| past(&history, &store).check(&store).map(|()| store)) {
            // Only a log, or the list of files, may lose its end without a trace: what is left is a prefix.
            Ok(store) if store.head().as_ref() != history.head() => {
                assert!(
                    name.ends_with(".log") || name.starts_with("MANIFEST"),
                    "{name} took batches away unnoticed"
                );
            }
            Ok(_) => harmless += 1,
            // A lost file of the folder's own, not of its content.
            Err(StoreError::Refused { .. } | StoreError::TooNew { .. }) => assert_eq!(name, "FORMAT"),
            Err(error) => noticed += u64::from(expect_damage(error)),
        }
        fs::remove_dir_all(&copy).unwrap();
    }
    assert!(noticed > 40 && harmless > 10, "{noticed} noticed, {harmless} harmless");
}

#[test]
fn every_flipped_bit_of_a_table_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let (history, original) = aged_store(dir.path(), 5, 24);
    let mut noticed = 0;
    for (number, table) in files(&original, "sst").iter().enumerate() {
        let length = fs::metadata(table).unwrap().len() as usize;
        for at in (0..length).step_by(length / 24 + 1) {
            let copy = dir.path().join(format!("copy-{number}-{at}"));
            copy_dir(&original, &copy);
            let victim = copy.join("db").join(table.file_name().unwrap());
            let mut bytes = fs::read(&victim).unwrap();
            bytes[at] ^= 4;
            fs::write(&victim, &bytes).unwrap();
            match open(&copy).and_then(|store| {
                assert_eq!(store.head().as_ref(), history.head());
                history.check(&store)
            }) {
                Ok(()) => {}
                Err(error) => noticed += u64::from(expect_damage(error)),
            }
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(noticed > 24, "{noticed} noticed");
}

#[test]
fn a_newest_batch_whose_parts_disagree_is_damage() {
    // I5
    let spoil: [(&str, fn(&RocksStore, &History)); 6] = [
        ("a head with a wrong checksum", |store, _| {
            let mut head = store.get(&keys::head()).unwrap().unwrap();
            head[3] ^= 1;
            put_row(store, &keys::head(), &head);
        }),
        ("no head", |store, _| {
            store.db.delete_cf(store.family(ROWS).unwrap(), keys::head()).unwrap()
        }),
        ("the head of another batch", |store, history| {
            put_row(store, &keys::head(), &pages::encode_head(&history.heads[2]));
        }),
        ("a head with another root", |store, history| {
            let mut head = history.head().unwrap().clone();
            head.root = history.heads[0].root;
            put_row(store, &keys::head(), &pages::encode_head(&head));
        }),
        ("no root", |store, history| {
            store.delete_objects(&[history.head().unwrap().root]).unwrap()
        }),
        ("authors with a hole", |store, _| {
            store
                .db
                .delete_cf(store.family(ROWS).unwrap(), keys::author(0))
                .unwrap()
        }),
    ];
    for (what, spoil) in spoil {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::new(6);
        let store = open(dir.path()).unwrap();
        for _ in 0..4 {
            store.commit(&history.next_batch(10)).unwrap();
        }
        spoil(&store, &history);
        drop(store);
        let error = open(dir.path()).map(|_| ()).unwrap_err();
        assert!(error.is_damage(), "{what}: {error}");
    }
}

#[test]
fn an_object_that_does_not_hash_to_its_key_is_corrupt() {
    // I9
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let (hash, bytes) = Leaf::of(5);
    store
        .db
        .put_cf(store.family(OBJECTS).unwrap(), hash.0, [&bytes[..], b"!"].concat())
        .unwrap();
    let error = store.object(&hash).unwrap_err();
    assert!(
        matches!(error.cause, ObjectsErrorCause::Corrupt(_)) && error.to_string().contains(&hash.to_string()),
        "{error}"
    );
    let damage = Sweeper::begin(&store, &references, || Ok(vec![hash]))
        .unwrap()
        .run(9)
        .unwrap_err();
    assert!(
        damage.is_damage() && damage.to_string().contains(&hash.to_string()),
        "{damage}"
    );
}

#[test]
fn only_one_process_writes_and_readers_wait_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(7);
    let writer = open(dir.path()).unwrap();
    writer.commit(&history.next_batch(30)).unwrap();
    assert!(matches!(open(dir.path()).map(|_| ()), Err(StoreError::Locked { .. })));
    assert!(matches!(
        open_to_read(dir.path()).map(|_| ()),
        Err(StoreError::Locked { .. })
    ));
    drop(writer);
    let before = files(dir.path(), "sst").len();
    let (one, two) = (open_to_read(dir.path()).unwrap(), open_to_read(dir.path()).unwrap());
    history.check(&one).unwrap();
    history.check(&two).unwrap();
    assert!(matches!(
        one.commit(&history.clone().next_batch(1)),
        Err(StoreError::Refused { .. })
    ));
    history.check(&one).unwrap();
    assert!(matches!(open(dir.path()).map(|_| ()), Err(StoreError::Locked { .. })));
    assert_eq!(files(dir.path(), "sst").len(), before, "a reader writes nothing");
    drop((one, two));
    open(dir.path()).unwrap().commit(&history.next_batch(3)).unwrap();
}

#[test]
fn a_folder_that_is_no_store_of_ours_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        open_to_read(dir.path()).map(|_| ()),
        Err(StoreError::Refused { .. })
    ));
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(open(dir.path()).map(|_| ()), Err(StoreError::Refused { .. })));
    assert_eq!(fs::read_to_string(dir.path().join("letter.txt")).unwrap(), "dear");

    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let format = dir.path().join("FORMAT");
    assert_eq!(fs::read_to_string(&format).unwrap(), "confold store, format 2\n");
    fs::write(&format, "confold store, format 3\n").unwrap();
    assert_eq!(
        open(dir.path()).map(|_| ()),
        Err(StoreError::TooNew { found: 3, known: 2 })
    );
    fs::write(&format, "confold store, format 1\n").unwrap();
    let older = open(dir.path()).map(|_| ()).unwrap_err();
    assert!(older.is_damage() && older.to_string().contains("older build"), "{older}");
    fs::remove_file(&format).unwrap();
    assert!(open(dir.path()).map(|_| ()).unwrap_err().is_damage());
}

#[test]
fn a_damaged_store_is_set_aside_whole_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    for n in 1..=3 {
        let store = open(&place).unwrap();
        assert_eq!(store.head(), None);
        store.commit(&History::new(n).next_batch(9)).unwrap();
        drop(store);
        fs::remove_file(place.join("db/CURRENT")).unwrap();
        assert!(open(&place).map(|_| ()).unwrap_err().is_damage());
        let aside = set_aside(&place).unwrap();
        assert_eq!(aside, dir.path().join(format!("store.damaged-{n}")));
        assert!(aside.join("FORMAT").exists() && !place.exists());
    }
}

#[test]
fn a_checkpoint_is_a_store_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(8);
    let store = open(&dir.path().join("store")).unwrap();
    for _ in 0..5 {
        store.commit(&history.next_batch(20)).unwrap();
    }
    let copy = dir.path().join("backups/copy");
    store.checkpoint(&copy).unwrap();
    assert!(matches!(store.checkpoint(&copy), Err(StoreError::Refused { .. })));
    let then = history.clone();
    store.commit(&history.next_batch(20)).unwrap();
    history.check(&store).unwrap();
    then.check(&open(&copy).unwrap()).unwrap();
}

#[test]
fn a_checkpoint_cut_short_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store")).unwrap();
    store.commit(&History::new(9).next_batch(20)).unwrap();
    let copy = dir.path().join("copy");
    store.checkpoint(&copy).unwrap();
    fs::remove_file(copy.join("FORMAT")).unwrap();
    assert!(open(&copy).map(|_| ()).unwrap_err().is_damage());
    assert!(
        folder::open(&copy, folder::Access::Read)
            .map(|_| ())
            .unwrap_err()
            .is_damage()
    );
}

#[test]
fn a_sweep_killed_at_any_step_leaves_a_store_that_the_next_one_finishes() {
    // F11, I10
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(10);
    let store = open(&dir.path().join("store")).unwrap();
    for _ in 0..12 {
        store.commit(&history.next_batch(6)).unwrap();
    }
    let kept = history.persisted[6].root;
    let live = history.reach([kept, history.head().unwrap().root]);
    let mut sweeper = Sweeper::begin(&store, &references, || Ok(vec![kept])).unwrap();
    let mut copies = Vec::new();
    loop {
        let copy = dir.path().join(format!("copy-{}", copies.len()));
        copy_dir(&dir.path().join("store"), &copy);
        copies.push(copy);
        if sweeper.step(40).unwrap() == Progress::Done {
            break;
        }
    }
    assert!(copies.len() > 8, "{} copies", copies.len());
    for copy in copies {
        let store = open(&copy).unwrap();
        let mut whole = history.clone();
        whole.persisted = store
            .persisted(Revision(0)..=Revision(u64::MAX), Order::Ascending, 99)
            .unwrap();
        whole.check(&store).unwrap();
        Sweeper::begin(&store, &references, || Ok(vec![kept]))
            .unwrap()
            .run(100)
            .unwrap();
        assert_eq!(object_set(&store).unwrap(), live);
    }
}

#[test]
fn rows_of_a_batch_share_their_puts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut history = History::new(11);
    store.commit(&history.next_batch(256)).unwrap();
    let before = store.stats();
    let batch = history.next_batch(256);
    store.commit(&batch).unwrap();
    let after = store.stats();
    let rows = (after.puts - before.puts) - (after.objects_put - before.objects_put) - batch.state.len() as u64;
    // One for each revision's root; 72 paths are touched over and over; the rest are pages.
    let allowed = batch.revisions.len() as u64 + 72 + 24;
    assert!(
        rows <= allowed,
        "{rows} puts for {} revisions, {} touched, {} ids",
        batch.revisions.len(),
        batch.touched.len(),
        batch.ids.len()
    );
    let object_bytes: u64 = batch.objects.iter().map(|(_, bytes)| bytes.len() as u64 + 40).sum();
    let state_bytes: u64 = batch.state.len() as u64 * 64;
    let bytes = after.bytes - before.bytes - object_bytes - state_bytes;
    let allowed = 120 * batch.revisions.len() as u64 + 24 * batch.touched.len() as u64;
    assert!(bytes <= allowed, "{bytes} bytes of rows, {allowed} allowed");
}

#[test]
fn a_synced_batch_is_durable_and_an_unsynced_one_is_not_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut batch = Batch::at(head_at(3));
    batch.durability = Durability::Now;
    store.commit(&batch).unwrap();
    store.commit(&Batch::at(head_at(5))).unwrap();
    assert_eq!((store.durable(), store.stats().syncs), (Some(Position(3)), 1));
    store.sync().unwrap();
    assert_eq!((store.durable(), store.stats().syncs), (Some(Position(5)), 2));
}

fn open(dir: &Path) -> Result<RocksStore, StoreError> {
    RocksStore::open(dir, &small())
}

fn open_to_read(dir: &Path) -> Result<RocksStore, StoreError> {
    RocksStore::open_read_only(dir, &small())
}

fn small() -> Options {
    Options {
        cache_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        max_open_files: 64,
    }
}

/// A closed store with tables of both families, and a log with the newest batches.
fn aged_store(dir: &Path, seed: u64, batches: u64) -> (History, PathBuf) {
    let place = dir.join("original");
    let mut history = History::new(seed);
    let store = open(&place).unwrap();
    for number in 1..=batches {
        store.commit(&history.next_batch(12)).unwrap();
        if number == batches / 3 || number == batches / 2 {
            store.db.flush_cf(store.family(OBJECTS).unwrap()).unwrap();
        }
        if number == batches / 2 {
            store.db.flush_cf(store.family(ROWS).unwrap()).unwrap();
        }
    }
    drop(store);
    assert!(files(&place, "sst").len() >= 3 && !files(&place, "log").is_empty());
    (history, place)
}

/// The history as it was at the store's head, which must be one that the history had.
fn past(history: &History, store: &RocksStore) -> History {
    match store.head() {
        None => History::new(0),
        Some(head) => history.until(&head).expect("a head that no batch had"),
    }
}

fn expect_damage(error: StoreError) -> bool {
    assert!(error.is_damage(), "told as another kind of error: {error:?}");
    true
}

fn put_row(store: &RocksStore, key: &[u8], value: &[u8]) {
    store.db.put_cf(store.family(ROWS).unwrap(), key, value).unwrap();
}

/// Regular files of a store with an extension, or all that its content rests on.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in [dir.to_path_buf(), dir.join("db")] {
        let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
        let wanted = |path: &PathBuf| match extension {
            "" => !path.ends_with("LOCK") && !path.ends_with("LOG") && path.is_file(),
            _ => path.extension().is_some_and(|of| of == extension),
        };
        found.extend(entries.filter(wanted));
    }
    found.sort();
    found
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
