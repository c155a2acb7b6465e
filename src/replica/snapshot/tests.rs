//! Taken from a replica that serves, taken in by a new one, which folds on; and refused where anything is wrong with it.

use super::{SnapshotError, export, import, verify};
use crate::step::Folder;
use crate::world::*;
use crate::{Handle, Replica};
use bytes::Bytes;
use confold_log::Log;
use confold_log::memory::MemoryLog;
use confold_model::event::{Body, Checkpoint, LEVEL, RetentionPolicy};
use confold_model::ids::{EventId, Hash, Position, Revision};
use confold_store::memory::MemoryStore;
use confold_store::{Order, RevisionRow, Store};
use std::sync::Arc;

/// A store with history, tags, a floor and two replicas that agree.
async fn two() -> (World, [Handle; 2]) {
    let world = World::begun();
    let other = World { log: world.log.clone(), store: Arc::default(), clock: world.clock.clone() };
    let handles = [world.serving().await, other.serving().await];
    let keep = RetentionPolicy { keep_all: true, ..RetentionPolicy::default() };
    commit(&handles[0], Body::Retention(keep)).await;
    for n in 0..40u64 {
        let name: &'static str = Box::leak(format!("d{}", n % 23).into_boxed_str());
        commit(&handles[0], put(name, Box::leak(n.to_string().into_boxed_str()))).await;
        if n == 9 {
            commit(&handles[0], tag("nine", Revision(9))).await;
        }
        if n == 20 {
            commit(&handles[0], Body::Prune { floor: Some(Revision(15)) }).await;
            handles[0].sweep().unwrap();
        }
        if n % 10 == 5 {
            world.set_time(i64::try_from(n).unwrap() * 100_000);
            agree(&handles).await;
        }
    }
    (world, handles)
}

async fn agree(handles: &[Handle]) {
    for _ in 0..3 {
        for handle in handles {
            handle.keep_house();
            handle.fence(SOON).await.unwrap();
        }
    }
    for handle in handles {
        handle.fence(SOON).await.unwrap();
    }
}

fn taken(handle: &Handle) -> Vec<u8> {
    export(handle).unwrap().map(|piece| piece.unwrap()).collect::<Vec<_>>().concat()
}

fn take_in(bytes: &[u8], store: &dyn Store, log: &MemoryLog) -> Result<super::Imported, SnapshotError> {
    let pieces = bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    import(pieces, store, |header| verify(log, header).map(drop))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_replica_begins_from_the_snapshot_of_a_serving_one_and_folds_on() {
    let (world, handles) = two().await;
    let mut stream = export(&handles[0]).unwrap();
    let mark = stream.header().position;
    // The fold goes on while it is taken: what comes later is not in it.
    let mut bytes = Vec::new();
    for n in 0.. {
        let Some(piece) = stream.next() else { break };
        bytes.extend_from_slice(&piece.unwrap());
        commit(&handles[0], put("later", Box::leak(n.to_string().into_boxed_str()))).await;
        if n == 2 {
            commit(&handles[0], tag("later", Revision(30))).await;
            world.set_time(10_000_000);
            agree(&handles).await;
            handles[0].sweep().unwrap();
        }
    }
    drop(stream);
    // The past is not needed any more.
    world.log.trim(mark.next());
    let store = Arc::new(MemoryStore::new());
    let imported = take_in(&bytes, &*store, &world.log).unwrap();
    assert_eq!(imported.header.position, mark);
    assert!(imported.objects > 20 && imported.revisions > 30, "{imported:?}");
    let new = Replica::open(Arc::new(world.log.clone()), store.clone(), world.options()).unwrap();
    serving(&new).await;
    let (view, old) = (new.view(), handles[0].fence(SOON).await.unwrap());
    let view = if view.position < old.position { new.at_least(old.position, SOON).await.unwrap() } else { view };
    assert_eq!((view.root, view.chain, view.revision), (old.root, old.chain, old.revision));
    assert_eq!(devices(&view.tree, &*new.objects()), devices(&old.tree, &*handles[0].objects()));
    assert_ne!(new.replica_id(), handles[0].replica_id());
    // What is kept of the past answers alike: history rows, a tagged tree below the floor, ids, touched paths.
    let rows = |handle: &Handle| handle.store().unwrap().revisions(Revision(1)..=Revision(30), Order::Ascending, 99).unwrap();
    assert_eq!(rows(&new), rows(&handles[0]));
    let past = |handle: &Handle| handle.past(Revision(9)).map(|past| past.root);
    assert_eq!(past(&new).unwrap(), past(&handles[0]).unwrap());
    for row in rows(&new) {
        assert_eq!(new.store().unwrap().id(&row.id.unwrap(), 1 << 20).unwrap().unwrap().revision, row.revision);
    }
    // It agrees from its first mark on.
    world.set_time(20_000_000);
    let all = [handles[0].clone(), handles[1].clone(), new.clone()];
    commit(&all[2], put("more", "1")).await;
    agree(&all).await;
    for handle in &all {
        assert_eq!(handle.status().counts.0["disagreements"], 0);
        assert_eq!(handle.view().checkpoints.len(), 3);
    }
    // And gives a snapshot itself.
    let third = MemoryStore::new();
    take_in(&taken(&new), &third, &world.log).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_cut_short_or_bent_anywhere_is_refused_and_leaves_no_store() {
    let (world, handles) = two().await;
    let bytes = taken(&handles[0]);
    let store = MemoryStore::new();
    assert!(take_in(&bytes, &store, &world.log).is_ok());
    for length in 0..bytes.len() {
        let store = MemoryStore::new();
        let error = take_in(&bytes[..length], &store, &world.log).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged { .. }), "cut to {length}: {error}");
        assert_eq!(store.head(), None);
    }
    for at in 0..bytes.len() {
        let mut bent = bytes.clone();
        bent[at] ^= 1 << (at % 8);
        let store = MemoryStore::new();
        let error = take_in(&bent, &store, &world.log).unwrap_err();
        let known = matches!(error, SnapshotError::Damaged { .. } | SnapshotError::TooNew { .. });
        assert!(known, "bent at {at}: {error}");
        assert_eq!(store.head(), None);
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(take_in(&longer, &MemoryStore::new(), &world.log), Err(SnapshotError::Damaged { .. })));
}

/// As above, with every checksum made right again: what is left are the hashes that mean something.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_snapshot_is_refused_whatever_it_says() {
    let (world, handles) = two().await;
    let bytes = taken(&handles[0]);
    let parts = super::bytes::take_apart(&bytes);
    let whole = super::bytes::put_together(&parts);
    assert_eq!(whole, bytes);
    let header = export(&handles[0]).unwrap().header().clone();
    let history = handles[0].store().unwrap().revisions(Revision(0)..=header.revision, Order::Ascending, 999).unwrap();
    let mut refused = 0;
    for (number, (kind, part)) in parts.iter().enumerate() {
        for at in 0..part.len() {
            let mut forged = parts.clone();
            forged[number].1[at] ^= 1 << (at % 8);
            let store = MemoryStore::new();
            match take_in(&super::bytes::put_together(&forged), &store, &world.log) {
                Err(_) => {
                    assert_eq!(store.head(), None);
                    refused += 1;
                }
                // What no hash on the log covers (docs/formats.md names it) changes neither the state nor the history.
                Ok(_) => {
                    let mut state = Folder::restore(&store, [0; 16]).unwrap().state().clone();
                    assert_eq!(state.hash(), header.state, "{kind:?} bent at {at}");
                    let rows = store.revisions(Revision(0)..=header.revision, Order::Ascending, 999).unwrap();
                    let said = |row: &RevisionRow| (row.revision, row.position, row.time, row.root, row.id, row.digest);
                    assert!(rows.iter().map(said).eq(history.iter().map(said)), "{kind:?} bent at {at}");
                }
            }
        }
    }
    assert!(refused > bytes.len() * 2 / 3, "{refused} of {}", bytes.len());
    // Leaving out or repeating a part.
    for number in 0..parts.len() {
        let mut without = parts.clone();
        without.remove(number);
        let twice = [&parts[..=number], &parts[number..]].concat();
        // An index that is not there is only missed.
        let forged = if parts[number].0 == super::bytes::Kind::Touched { vec![twice] } else { vec![without, twice] };
        for forged in forged {
            let taken = take_in(&super::bytes::put_together(&forged), &MemoryStore::new(), &world.log);
            assert!(taken.is_err(), "{:?}", parts[number].0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_log_does_not_confirm_is_refused() {
    let (world, handles) = two().await;
    let bytes = taken(&handles[0]);
    let refused = |log: &MemoryLog| {
        let store = MemoryStore::new();
        let error = take_in(&bytes, &store, log).unwrap_err();
        assert_eq!(store.head(), None);
        error.to_string()
    };
    let mark = export(&handles[0]).unwrap().header().position;
    // Another log, one that lost its end, one with another past, one that begins later.
    assert!(refused(&MemoryLog::new([1; 16])).contains("0101"));
    let copy = |upto: u64, change: Option<u64>| {
        let log = MemoryLog::new([7; 16]);
        log.forget_digests(64);
        for record in world.log.records().into_iter().take(upto as usize) {
            log.set_clock(record.time);
            let other = change == Some(record.position.0);
            log.append(if other { Bytes::from_static(b"other") } else { record.bytes }).unwrap();
        }
        log
    };
    assert!(refused(&copy(mark.0, None)).contains("ends before"));
    let other = refused(&copy(mark.0 + 2, Some(mark.0)));
    assert!(other.contains("digest"), "{other}");
    assert!(refused(&copy(mark.0 + 1, None)).contains("no other replica has announced"), "nothing is said of the mark yet");
    let log = copy(u64::MAX, None);
    log.trim(Position(mark.0 + 2));
    assert!(refused(&log).contains("begins at"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_replica_confirms_its_own_snapshot_until_another_speaks() {
    let world = World::begun();
    let handle = world.serving().await;
    commit(&handle, put("a", "1")).await;
    world.set_time(100_000);
    agree(std::slice::from_ref(&handle)).await;
    let bytes = taken(&handle);
    take_in(&bytes, &MemoryStore::new(), &world.log).unwrap();
    let mark = handle.view().mark.unwrap();
    let differs = Checkpoint {
        replica: [9; 16],
        build: "".into(),
        level: LEVEL,
        position: mark.position,
        chain: mark.chain,
        state: Hash::of(b"other"),
        durable: mark.position,
    };
    let id: Option<EventId> = None;
    world.log.append(record(handle.view().incarnation, id, Body::Checkpoint(differs))).unwrap();
    let error = take_in(&bytes, &MemoryStore::new(), &world.log).unwrap_err().to_string();
    assert!(error.contains("0909"), "{error}");
}
