//! F28: a replica that is wrong is found within one mark and stops itself; the good ones alarm and serve on.

use crate::options::{OnDispute, Options};
use crate::step::Mark;
use crate::world::*;
use crate::{Handle, Replica, ReplicaState};
use bytes::Bytes;
use confold_log::memory::MemoryLog;
use confold_log::{Fence, Log, LogError, Range, Reader, Record, Tip};
use confold_model::event::{Body, Checkpoint, Event, LEVEL, OperationKind};
use confold_model::ids::{Hash, Position, Revision};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// How often each is tried; every try has other events, other leaves and another replica.
fn tries() -> u8 {
    std::env::var("CONFOLD_DISPUTES").ok().map_or(5, |count| count.parse().expect("CONFOLD_DISPUTES is a number"))
}

/// Replicas on one log, each with its own store.
struct Fleet {
    worlds: Vec<World>,
    handles: Vec<Handle>,
}

impl Fleet {
    async fn of(count: usize, change: impl Fn(usize, Options) -> Options) -> Fleet {
        let first = World::begun();
        let mut fleet = Fleet { worlds: Vec::new(), handles: Vec::new() };
        for number in 0..count {
            let world = World { log: first.log.clone(), store: Arc::default(), clock: first.clock.clone() };
            let options = change(number, Options { tree_cache_bytes: 0, object_cache_bytes: 0, ..world.options() });
            fleet.handles.push(world.serving_with(options).await);
            fleet.worlds.push(world);
        }
        fleet
    }

    fn now(&self) -> i64 {
        self.worlds[0].clock.load(SeqCst)
    }

    /// A change, a mark behind it, and what each replica says of the mark.
    async fn round(&self, by: usize, device: &str, description: &str) {
        commit(&self.handles[by], put(leak(device), leak(description))).await;
        self.worlds[0].set_time(self.now() + 100_000);
        // One proposes the mark, all announce it, all hear of it.
        for _ in 0..3 {
            for handle in self.handles.iter().filter(|handle| serves(handle)) {
                handle.keep_house();
                let _passed_or_stopped = handle.fence(SOON).await;
            }
        }
        for handle in &self.handles {
            let _passed_or_stopped = handle.fence(SOON).await;
            handle.keep_house();
        }
    }

    fn good(&self, bad: usize) -> impl Iterator<Item = &Handle> {
        self.handles.iter().enumerate().filter(move |(number, _)| *number != bad).map(|(_, handle)| handle)
    }
}

fn serves(handle: &Handle) -> bool {
    handle.status().standing.state == ReplicaState::Serving
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// One leaf of what was folded, in one replica's memory.
fn flip(handle: &Handle, id: &str) {
    let objects = handle.objects();
    let mut folder = handle.core.folder.lock();
    folder.as_mut().unwrap().flip(&device_path(id), &device(id, "flipped"), &*objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_flipped_after_the_fold_is_found_within_one_mark_and_the_good_ones_serve_on() {
    for attempt in 0..tries() {
        let fleet = Fleet::of(3, |_, options| options).await;
        for n in 0..=attempt % 4 {
            fleet.round(0, "a", &format!("a{n}")).await;
            fleet.round(1, "b", &format!("b{n}")).await;
        }
        let bad = usize::from(attempt) % 3;
        flip(&fleet.handles[bad], "a");
        fleet.round(usize::from(attempt + 1) % 3, "c", "c").await;
        assert_ne!(fleet.handles[bad].view().root, fleet.good(bad).next().unwrap().view().root, "the fault fired");
        let mark = fleet.good(bad).next().unwrap().view().mark.unwrap().position;
        let standing = stopped(&fleet.handles[bad]).await;
        assert_eq!(standing.state, ReplicaState::Quarantined, "{}", standing.reason);
        assert!(standing.by_operator);
        for part in [&format!("mark {mark} "), "/devices/a", "root", "chain"] {
            assert!(standing.reason.contains(part), "{part} in: {}", standing.reason);
        }
        for handle in fleet.good(bad) {
            assert!(serves(handle));
            assert_eq!(handle.view().mark.unwrap().position, mark, "within one mark");
        }
        let revision = fleet.good(bad).next().unwrap().view().revision;
        for round in 0..2 {
            fleet.round((bad + 1) % 3, "d", &format!("on {round}")).await;
        }
        for handle in fleet.good(bad) {
            assert!(serves(handle), "{:?}", handle.status().standing);
            assert!(handle.view().revision > revision);
            assert!(!handle.view().agreement.is_disputed(), "later marks agree again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_wrong_the_same_way_every_time_stops_itself_against_two_that_agree() {
    for attempt in 0..tries() {
        let mut fleet = Fleet::of(2, |_, options| options).await;
        let world = World { log: fleet.worlds[0].log.clone(), store: Arc::default(), clock: fleet.worlds[0].clock.clone() };
        let log = Twisted { inner: world.log.clone(), where_it_says: format!("wrong{attempt}") };
        let bad = Replica::open(Arc::new(log), world.store.clone(), world.options()).unwrap();
        serving(&bad).await;
        fleet.handles.push(bad);
        fleet.worlds.push(world);
        for n in 0..2 + attempt % 3 {
            fleet.round(0, "a", &format!("a{n}")).await;
        }
        assert!(fleet.handles.iter().all(|handle| !handle.view().agreement.is_disputed()));
        fleet.round(1, "b", &format!("wrong{attempt}")).await;
        let mark = fleet.handles[0].view().mark.unwrap().position;
        let standing = stopped(&fleet.handles[2]).await;
        assert_eq!(standing.state, ReplicaState::Quarantined, "{}", standing.reason);
        assert!(standing.reason.contains(&format!("mark {mark} ")) && standing.reason.contains("2 others"), "{}", standing.reason);
        fleet.round(0, "c", "on").await;
        for handle in fleet.good(2) {
            assert!(serves(handle));
            assert!(!handle.view().agreement.is_disputed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_checkpoint_stops_nobody_and_the_next_mark_ends_the_dispute() {
    for attempt in 0..tries() {
        let fleet = Fleet::of(3, |_, options| options).await;
        for n in 0..2 {
            fleet.round(0, "a", &format!("a{n}")).await;
        }
        let mark = fleet.handles[0].view().mark.unwrap();
        // In a name that nobody has, or in that of a replica which has not spoken about a later mark yet.
        let names = if attempt % 2 == 0 { vec![[9; 16]] } else { vec![[9; 16], [8; 16]] };
        let position = mark.position;
        for replica in names {
            forge(&fleet.worlds[0].log, &fleet.handles[0], replica, position, Hash::of(&[attempt]));
        }
        for handle in &fleet.handles {
            handle.fence(SOON).await.unwrap();
            handle.keep_house();
            assert!(serves(handle), "{:?}", handle.status().standing);
            assert!(handle.view().agreement.is_disputed());
            assert!(handle.status().counts.0["disagreements"] >= 1);
        }
        fleet.round(1, "b", "on").await;
        for handle in &fleet.handles {
            assert!(serves(handle) && !handle.view().agreement.is_disputed());
        }
    }
}

fn forge(log: &MemoryLog, handle: &Handle, replica: [u8; 16], position: Position, state: Hash) {
    let forged = Checkpoint {
        replica,
        build: "0.0.0".into(),
        level: LEVEL,
        position,
        chain: state,
        state,
        durable: position,
    };
    log.append(record(handle.view().incarnation, None, Body::Checkpoint(forged))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_stop_in_a_dispute_halts_and_says_so() {
    let fleet = Fleet::of(1, |_, options| Options { on_dispute: OnDispute::Stop, ..options }).await;
    fleet.round(0, "a", "1").await;
    let mark = fleet.handles[0].view().mark.unwrap();
    forge(&fleet.worlds[0].log, &fleet.handles[0], [9; 16], mark.position, Hash::of(b"other"));
    fleet.handles[0].fence(SOON).await.unwrap();
    fleet.handles[0].keep_house();
    let standing = stopped(&fleet.handles[0]).await;
    assert_eq!(standing.state, ReplicaState::Halted, "{}", standing.reason);
    assert!(standing.reason.contains("told to stop"), "{}", standing.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_that_was_not_settled_before_a_crash_is_settled_after_it() {
    let fleet = Fleet::of(2, |_, options| options).await;
    fleet.round(0, "a", "a").await;
    fleet.round(0, "b", "b").await;
    flip(&fleet.handles[1], "a");
    commit(&fleet.handles[1], put("c", "c")).await;
    fleet.handles[0].fence(SOON).await.unwrap();
    fleet.worlds[0].set_time(fleet.now() + 100_000);
    // Only the good one keeps house: it proposes the mark and announces it.
    for _ in 0..3 {
        fleet.handles[0].keep_house();
        fleet.handles[0].fence(SOON).await.unwrap();
    }
    fleet.handles[1].fence(SOON).await.unwrap();
    assert!(fleet.handles[1].view().agreement.is_disputed());
    fleet.handles[1].abandon();
    let again = fleet.worlds[1].open();
    serving(&again).await;
    again.keep_house();
    let standing = stopped(&again).await;
    assert_eq!(standing.state, ReplicaState::Quarantined, "{}", standing.reason);
    assert!(standing.reason.contains("/devices/a"), "{}", standing.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_folded_again_over_a_restart_and_across_what_was_tagged_pruned_and_swept_since() {
    let fleet = Fleet::of(2, |_, options| options).await;
    for n in 0..6u64 {
        fleet.round(0, "a", &n.to_string()).await;
        commit(&fleet.handles[0], tag(leak(&format!("t{}", n % 3)), Revision(n + 1))).await;
        if n == 3 {
            commit(&fleet.handles[1], Body::Prune { floor: Some(Revision(2)) }).await;
            fleet.handles[1].fence(SOON).await.unwrap();
            fleet.handles[1].sweep().unwrap();
        }
    }
    fleet.handles[1].shutdown(SOON).await.unwrap();
    let again = fleet.worlds[1].serving().await;
    let kept: Vec<Position> = again.view().kept.iter().map(|mark| mark.position).collect();
    assert!(kept.len() >= 2 && kept.len() < 5, "few are kept where replicas agree: {kept:?}");
    let Mark { position, .. } = again.view().mark.unwrap();
    forge(&fleet.worlds[0].log, &again, [9; 16], position, Hash::of(b"other"));
    again.fence(SOON).await.unwrap();
    again.keep_house();
    assert!(serves(&again), "{:?}", again.status().standing);
    assert_eq!(again.status().counts.0["marks_folded_again"], 1);
}

/// One replica's log, whose records say something else in one place, with digests that fit: a build that reads wrongly.
struct Twisted {
    inner: MemoryLog,
    where_it_says: String,
}

struct TwistedReader {
    inner: Box<dyn Reader>,
    tip: Tip,
    from: Position,
    where_it_says: String,
}

impl Reader for TwistedReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Record>, LogError> {
        while self.tip.position < self.from {
            let [record] = &self.inner.read(1, 1, wait)?[..] else { return Ok(Vec::new()) };
            self.tip.record(record.time, twisted(&record.bytes, &self.where_it_says));
        }
        let records = self.inner.read(max_records, max_bytes, wait)?;
        Ok(records.into_iter().map(|record| self.tip.record(record.time, twisted(&record.bytes, &self.where_it_says))).collect())
    }
}

fn twisted(bytes: &Bytes, where_it_says: &str) -> Bytes {
    let Ok(mut event) = Event::decode(bytes) else { return bytes.clone() };
    let Body::Commit(commit) = &mut event.body else { return bytes.clone() };
    for operation in &mut commit.operations {
        if let OperationKind::Put { value } = &mut operation.kind
            && value.ends_with(where_it_says.as_bytes())
            && let Some(last) = value.to_mut().last_mut()
        {
            *last = b'!';
        }
    }
    event.encode().into()
}

impl Log for Twisted {
    fn transport_id(&self) -> [u8; 16] {
        self.inner.transport_id()
    }

    fn range(&self) -> Range {
        self.inner.range()
    }

    fn append(&self, record: Bytes) -> Result<(), LogError> {
        self.inner.append(record)
    }

    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        let inner = self.inner.reader(Position(0))?;
        Ok(Box::new(TwistedReader { inner, tip: Tip::START, from, where_it_says: self.where_it_says.clone() }))
    }

    fn fence(&self) -> Result<Fence, LogError> {
        self.inner.fence()
    }

    fn health(&self) -> Result<(), LogError> {
        self.inner.health()
    }

    fn close(&self) {
        self.inner.close();
    }
}
