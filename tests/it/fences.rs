//! F16, F17, F18, F21, F28: what a topic can do to a replica, and what strangers can write into it, on a real broker.
//!
//! `CONFOLD_SOAK_ROUNDS` says how often the topic is damaged, `CONFOLD_SOAK_POISON` how many poison records come,
//! `CONFOLD_SOAK_DIVERGENCES` how often replicas are made to differ.

use crate::cluster::replicas::join;
use crate::cluster::work::put;
use crate::cluster::{ALONE, LOG, at_rest, one_broker, pass_time};
use bytes::Bytes;
use crate::support::{number, push_schema};
use confold::Embedded;
use confold::folder::FolderError;
use confold::replica::{Options, Replica, ReplicaState};
use confold::wire::{pb, status as answers};
use confold_log::{Fence, Log, LogError, Range, Reader, Record, Tip};
use confold_log_kafka::{ClientSettings, KafkaLog};
use confold_model::code::Code;
use confold_model::event::{Body, Checkpoint, Event, FORMAT, LEVEL, OperationKind};
use confold_model::ids::{EventId, Hash, Incarnation, Position};
use confold_store::memory::MemoryStore;
use confold_test_brokers::Cluster;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often the topic is damaged.
fn rounds() -> u64 {
    number("CONFOLD_SOAK_ROUNDS").unwrap_or(3)
}

pub struct Folder {
    dir: tempfile::TempDir,
    topic: String,
}

impl Folder {
    /// Of a store on this topic; begins it where it is not there.
    pub async fn on(cluster: &'static Cluster, topic: &str) -> Folder {
        Folder::try_on(cluster, topic).await.unwrap()
    }

    async fn try_on(cluster: &'static Cluster, topic: &str) -> Result<Folder, FolderError> {
        let folder = Folder { dir: tempfile::tempdir().unwrap(), topic: topic.to_owned() };
        let (data, topic) = (folder.data(), folder.topic.clone());
        tokio::task::spawn_blocking(move || join(&data, &cluster.bootstrap(), &topic)).await.unwrap()?;
        Ok(folder)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub async fn open(&self) -> Result<Embedded, FolderError> {
        Embedded::open(&self.data(), Options::default()).await
    }

    pub async fn serve(&self) -> Embedded {
        let store = self.open().await.unwrap();
        assert_eq!(store.handle().standing().borrow().state, ReplicaState::Serving);
        store
    }
}

/// A new topic with a store on it that knows the sample's schema.
async fn begun(cluster: &'static Cluster) -> (Folder, Embedded) {
    let topic = tokio::task::spawn_blocking(|| cluster.new_topic(&LOG)).await.unwrap();
    let folder = Folder::on(cluster, &topic).await;
    let store = folder.serve().await;
    push_schema(&*store.api(), "").await;
    (folder, store)
}

/// Commits one after the other, so that each is a batch of its own on the broker. What is refused while brokers do not answer is
/// not applied, and asked again.
pub async fn commit(store: &Embedded, values: std::ops::Range<u64>) {
    for value in values {
        let began = Instant::now();
        let request = pb::CommitRequest { operations: vec![put("/devices/d", value)], ..Default::default() };
        while let Err(error) = store.api().commit(request.clone()).await {
            let code = answers::detail(&error).and_then(|why| answers::code_of(&why));
            assert!(code == Some(Code::Unavailable) && began.elapsed() < PATIENCE, "{error}");
            pass_time(Duration::from_millis(20)).await;
        }
    }
}

pub async fn status(store: &Embedded) -> pb::StatusResponse {
    store.api().status(pb::StatusRequest::default()).await.unwrap()
}

/// Waits until a replica stands so, and gives its status.
pub async fn until(store: &Embedded, state: ReplicaState) -> pb::StatusResponse {
    let mut standing = store.handle().standing();
    let reached = tokio::time::timeout(PATIENCE, standing.wait_for(|standing| standing.state == state)).await;
    assert!(reached.is_ok(), "{:?} is not {state:?}", store.handle().standing().borrow().state);
    status(store).await
}

/// Every 64 hex digits that stand in a text.
pub fn digests(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).collect()
}

/// Cuts the last batches off a topic whose broker is down.
fn cut_batches(cluster: &Cluster, topic: &str, count: usize) {
    let segment = cluster.data_dir(1).join(format!("{topic}-0/00000000000000000000.log"));
    let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let (mut at, mut starts) = (0, Vec::new());
    let len = file.metadata().unwrap().len();
    while at + 12 <= len {
        let mut length = [0; 4];
        file.read_exact_at(&mut length, at + 8).unwrap();
        match u32::from_be_bytes(length) {
            // A segment may be longer than what was written to it.
            0 => break,
            length => {
                starts.push(at);
                at += 12 + u64::from(length);
            }
        }
    }
    file.set_len(starts[starts.len() - count]).unwrap();
}

// F16: the broker lost the end of the topic while the replica was down, and others wrote on.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_folds_nothing_of_a_topic_that_lost_what_it_had_folded() {
    let _alone = ALONE.lock().await;
    let cluster = one_broker();
    let times = rounds();
    for _ in 0..times {
        let (folder, store) = begun(cluster).await;
        commit(&store, 1..11).await;
        store.close().await.unwrap();
        let before = {
            let store = folder.serve().await;
            let before = status(&store).await;
            store.close().await.unwrap();
            before
        };
        let topic = folder.topic.clone();
        tokio::task::spawn_blocking(move || {
            cluster.stop(1);
            cut_batches(cluster, &topic, 4);
            cluster.restart(1);
        })
        .await
        .unwrap();
        let other = Folder::on(cluster, &folder.topic).await;
        let others = other.serve().await;
        commit(&others, 100..120).await;
        others.close().await.unwrap();

        let store = folder.open().await.unwrap();
        let after = until(&store, ReplicaState::Fenced).await;
        assert_eq!(
            (after.position, &after.root, &after.chain),
            (before.position, &before.root, &before.chain),
            "it folded something"
        );
        assert!(after.reason.contains("truncated"), "{}", after.reason);
        let named = digests(&after.reason);
        assert!(named.contains(&before.log_digest.as_str()) && named.len() >= 2, "both digests: {}", after.reason);
    }
    println!("SOAK times={times} truncated under a replica that was down: FENCED with both digests, 0 folded");
}

// F17: deleted and made anew, and longer than what was folded; while the replica runs, and while it is down.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_folds_nothing_of_a_topic_that_was_made_anew() {
    let _alone = ALONE.lock().await;
    let cluster = one_broker();
    let times = rounds();
    for _ in 0..times {
        let (down, store) = begun(cluster).await;
        commit(&store, 1..6).await;
        let before = status(&store).await;
        store.close().await.unwrap();
        let up = Folder::on(cluster, &down.topic).await;
        let running = up.serve().await;
        let new = made_anew(cluster, &down.topic).await;
        let others = new.serve().await;
        push_schema(&*others.api(), "").await;
        commit(&others, 100..130).await;

        let fenced = until(&running, ReplicaState::Fenced).await;
        assert!(fenced.position <= before.position + 1 && fenced.root == before.root, "it folded something");
        let store = down.open().await.unwrap();
        let fenced = until(&store, ReplicaState::Fenced).await;
        assert_eq!((fenced.position, &fenced.chain), (before.position, &before.chain), "it folded something");
        for id in [&before.transport_id, &status(&others).await.transport_id] {
            assert!(fenced.reason.contains(id.as_str()), "{id}: {}", fenced.reason);
        }
    }
    println!("SOAK times={times} made anew under two replicas, one running: FENCED with both ids, 0 folded");
}

/// Another store on a topic of the same name. A running replica that has a mark to announce may be quicker than the store's first
/// event, and whoever begins a store refuses such a topic: then it is made anew again.
async fn made_anew(cluster: &'static Cluster, topic: &str) -> Folder {
    loop {
        let (anew, topic) = (topic.to_owned(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            cluster.topic_delete(&anew);
            cluster.topic_create(&anew, 1, &LOG);
        })
        .await
        .unwrap();
        match Folder::try_on(cluster, &topic).await {
            Ok(folder) => return folder,
            Err(FolderError::Log(LogError::Fenced { what })) if what.contains("is a checkpoint and not a genesis") => {}
            Err(error) => panic!("{error}"),
        }
    }
}

// F18: what was folded may go; what was not may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_drop_what_was_folded_and_no_more() {
    let _alone = ALONE.lock().await;
    let cluster = one_broker();
    let times = rounds();
    for _ in 0..times {
        drop_records(cluster).await;
    }
    println!("SOAK times={times} dropped below what was folded: served on; above it: SNAPSHOT_NEEDED");
}

async fn drop_records(cluster: &'static Cluster) {
    let (behind, store) = begun(cluster).await;
    commit(&store, 1..6).await;
    let left = status(&store).await.position;
    store.close().await.unwrap();
    let other = Folder::on(cluster, &behind.topic).await;
    let ahead = other.serve().await;
    commit(&ahead, 6..31).await;
    let folded = status(&ahead).await;
    let drop_before = |position: u64| {
        let topic = behind.topic.clone();
        tokio::task::spawn_blocking(move || cluster.delete_records(&topic, position as i64))
    };

    drop_before(left - 2).await.unwrap();
    let store = behind.serve().await;
    commit(&store, 31..33).await;
    let left = status(&store).await.position;
    store.close().await.unwrap();
    commit(&ahead, 33..60).await;

    drop_before(left + 10).await.unwrap();
    commit(&ahead, 60..62).await;
    let now = status(&ahead).await;
    assert_eq!(now.state(), pb::State::Serving);
    assert!(now.position > folded.position);
    let store = behind.open().await.unwrap();
    let stopped = until(&store, ReplicaState::SnapshotNeeded).await;
    assert_eq!(stopped.position, left, "{}", stopped.reason);
}

/// As nobody in particular would write it, and housekeeping does.
fn event(incarnation: Incarnation, body: Body<'static>) -> Event<'static> {
    Event {
        format: FORMAT,
        incarnation,
        intention: None,
        author: "".into(),
        principal: "".into(),
        client_time_ms: 0,
        reason: "".into(),
        body,
    }
}

/// Bytes that stand where an event should, in many ways.
fn poison(random: &mut SmallRng, incarnation: Incarnation) -> Vec<u8> {
    let withdrawn = EventId { seen: Position(1), nonce: random.random() };
    let mut event = event(incarnation, Body::Withdraw { id: withdrawn });
    let nonce = random.random();
    event.intention = Some((EventId { seen: Position(1), nonce }, Hash::of(&nonce)));
    let mut bytes = match random.random_range(0..6) {
        // Nothing at all.
        0 => Vec::new(),
        // Noise.
        1 => {
            let mut noise = vec![0; random.random_range(1..400)];
            random.fill_bytes(&mut noise);
            return noise;
        }
        // Another store's.
        2 => return Event { incarnation: Incarnation(random.random()), ..event }.encode(),
        // A length that promises more than there is, and nesting without an end.
        3 => return [0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f].repeat(random.random_range(1..50)),
        _ => event.encode(),
    };
    // A valid event, damaged: cut, changed, or with a field that nobody knows.
    match random.random_range(0..3) {
        0 => bytes.truncate(bytes.len() / 2),
        1 if !bytes.is_empty() => {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        _ => bytes.extend([0xfa, 0x7f, 1, 1]),
    }
    bytes
}

// F21: what no store wrote is rejected everywhere alike, and nobody stops.
#[tokio::test(flavor = "multi_thread")]
async fn poison_and_foreign_records_are_rejected_alike_by_three_replicas() {
    let _alone = ALONE.lock().await;
    let cluster = one_broker();
    let records = number("CONFOLD_SOAK_POISON").unwrap_or(500);
    let seed = number("CONFOLD_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    println!("CONFOLD_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let (folder, first) = begun(cluster).await;
    let others = [Folder::on(cluster, &folder.topic).await, Folder::on(cluster, &folder.topic).await];
    let replicas = [first, others[0].serve().await, others[1].serve().await];
    let incarnation = replicas[0].handle().view().incarnation;
    for record in 0..records {
        let bytes = poison(&mut random, incarnation);
        replicas[0].handle().log().append(bytes.into()).unwrap();
        if record % 100 == 0 {
            commit(&replicas[record as usize / 100 % 3], record..record + 1).await;
        }
    }
    // Behind everything that was handed over before.
    commit(&replicas[0], records..records + 1).await;
    let mut foreign = event(Incarnation([9; 16]), Body::Withdraw { id: EventId { seen: Position(1), nonce: [8; 16] } });
    foreign.intention = Some((EventId { seen: Position(1), nonce: [9; 16] }, Hash::ZERO));
    replicas[1].handle().log().append(foreign.encode().into()).unwrap();
    commit(&replicas[1], records + 1..records + 2).await;
    let rested = at_rest(&replicas.iter().map(Embedded::api).collect::<Vec<_>>()).await;
    assert_eq!(rested.state(), pb::State::Serving, "{}", rested.reason);
    assert!(rested.position > records);
    let mut counts = BTreeSet::new();
    for replica in &replicas {
        let counters = status(replica).await.counters;
        let count = |code: &str| {
            counters.iter().find(|counter| counter.name.ends_with(code)).map_or(0, |counter| counter.value)
        };
        counts.insert((count("rejected_MALFORMED"), count("rejected_FOREIGN")));
    }
    let counts: Vec<_> = counts.into_iter().collect();
    assert!(matches!(counts[..], [(1.., 1..)]), "rejected as malformed and as foreign: {counts:?}");
    println!("SOAK poison={records} replicas=3 position={} chain={}", rested.position, rested.chain);
}

/// Marks come soon, so that replicas compare themselves often.
fn options() -> Options {
    Options { mark_every_ms: 300, ..Options::default() }
}

/// Two replicas that are right, and where their log is.
async fn two(cluster: &'static Cluster) -> (Folder, Folder, [Embedded; 2]) {
    let (one, first) = begun(cluster).await;
    first.close().await.unwrap();
    let other = Folder::on(cluster, &one.topic).await;
    let open = async |folder: &Folder| Embedded::open(&folder.data(), options()).await.unwrap();
    let stores = [open(&one).await, open(&other).await];
    (one, other, stores)
}

/// How often each divergence is made.
fn divergences() -> u64 {
    number("CONFOLD_SOAK_DIVERGENCES").unwrap_or(1)
}

async fn all_serve(stores: &[Embedded]) {
    let rested = at_rest(&stores.iter().map(Embedded::api).collect::<Vec<_>>()).await;
    assert_eq!(rested.state(), pb::State::Serving, "{}", rested.reason);
}

// F28: somebody claims another state for a mark, in the name of a replica that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_checkpoint_on_the_topic_stops_nobody() {
    let _alone = ALONE.lock().await;
    let times = divergences();
    for _ in 0..times {
        let (_one, _other, stores) = two(one_broker()).await;
        commit(&stores[0], 1..3).await;
        let mut views = stores[0].handle().views();
        let view = tokio::time::timeout(PATIENCE, views.wait_for(|view| view.mark.is_some()))
            .await
            .expect("a mark")
            .unwrap()
            .clone();
        let forged = Checkpoint {
            replica: [9; 16],
            build: "0.0.0".into(),
            level: LEVEL,
            position: view.mark.unwrap().position,
            chain: Hash::of(b"forged"),
            state: Hash::of(b"forged"),
            durable: view.position,
        };
        let event = event(view.incarnation, Body::Checkpoint(forged));
        stores[1].handle().log().append(event.encode().into()).unwrap();
        for store in &stores {
            let mut views = store.handle().views();
            let heard = views.wait_for(|view| view.checkpoints.iter().any(|row| row.checkpoint.replica == [9; 16]));
            tokio::time::timeout(PATIENCE, heard).await.expect("it is folded").unwrap();
        }
        commit(&stores[1], 3..6).await;
        all_serve(&stores).await;
    }
    println!("SOAK forged={times} nobody stopped");
}

/// A third replica, whose log reads one record wrongly; how it stands once it has stopped.
async fn wrong_replica(cluster: &'static Cluster, when: Wrong) -> (confold::replica::Standing, [Embedded; 2]) {
    let (one, other, stores) = two(cluster).await;
    let settings = ClientSettings::new(cluster.bootstrap());
    let log = KafkaLog::open(confold_log_kafka::Options::new(settings, &one.topic)).unwrap();
    let fired = Arc::new(AtomicBool::new(false));
    let twisted = Twisted { log, when, fired: fired.clone() };
    let wrong = Replica::open(Arc::new(twisted), Arc::new(MemoryStore::default()), options()).unwrap();
    commit(&stores[0], 1..10).await;
    // All three agree about a mark before.
    let mut views = wrong.views();
    let agreed = views.wait_for(|view| view.checkpoints.len() == 3);
    tokio::time::timeout(PATIENCE, agreed).await.expect("three checkpoints").unwrap();
    assert!(!fired.load(SeqCst));
    // The record that it reads wrongly.
    commit(&stores[1], 666..667).await;
    let mut standing = wrong.standing();
    let stopped = tokio::time::timeout(PATIENCE, standing.wait_for(|standing| standing.state.is_final())).await;
    assert!(stopped.is_ok(), "{:?}", wrong.status().standing);
    assert!(fired.load(SeqCst), "the fault fired");
    let standing = wrong.status().standing;
    assert_eq!(standing.state, ReplicaState::Quarantined, "{}", standing.reason);
    assert!(standing.reason.contains("mark "), "{}", standing.reason);
    commit(&stores[0], 10..12).await;
    all_serve(&stores).await;
    drop((one, other));
    (standing, stores)
}

// F28: what one replica folded is not what stands on the log, once: folding again shows it, and where.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_wrong_once_stops_itself_and_names_mark_and_path() {
    let _alone = ALONE.lock().await;
    let times = divergences();
    for _ in 0..times {
        let (standing, _stores) = wrong_replica(one_broker(), Wrong::Once).await;
        assert!(standing.reason.contains("/devices/d"), "{}", standing.reason);
    }
    println!("SOAK once={times} stopped itself and named mark and path; the others serve on");
}

// F28: a build that reads one record wrongly, the same way every time, against two that are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_always_wrong_stops_itself_and_the_others_serve_on() {
    let _alone = ALONE.lock().await;
    let times = divergences();
    for _ in 0..times {
        let (standing, _stores) = wrong_replica(one_broker(), Wrong::Always).await;
        assert!(standing.reason.contains("2 others"), "{}", standing.reason);
    }
    println!("SOAK wrong={times} stopped itself and named the mark; the others serve on");
}

/// When a log reads wrongly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// The first time only.
    Once,
    Always,
}

/// A log whose records say something else where they put 666, with digests that fit.
struct Twisted {
    log: KafkaLog,
    when: Wrong,
    /// Something was read wrongly.
    fired: Arc<AtomicBool>,
}

struct TwistedReader {
    inner: Box<dyn Reader>,
    tip: Tip,
    from: Position,
    is_right: bool,
    fired: Arc<AtomicBool>,
}

impl Reader for TwistedReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Record>, LogError> {
        let mut read = Vec::new();
        for record in self.inner.read(max_records, max_bytes, wait)? {
            let bytes = if self.is_right { record.bytes.clone() } else { twisted(&record.bytes) };
            if bytes != record.bytes {
                self.fired.store(true, SeqCst);
            }
            let record = self.tip.record(record.time, bytes);
            if record.position >= self.from {
                read.push(record);
            }
        }
        Ok(read)
    }
}

fn twisted(bytes: &Bytes) -> Bytes {
    let Ok(mut event) = Event::decode(bytes) else { return bytes.clone() };
    let Body::Commit(commit) = &mut event.body else { return bytes.clone() };
    for operation in &mut commit.operations {
        if let OperationKind::Put { value } = &mut operation.kind
            && value.ends_with(b"666")
            && let Some(last) = value.to_mut().last_mut()
        {
            *last = b'7';
        }
    }
    event.encode().into()
}

impl Log for Twisted {
    fn transport_id(&self) -> [u8; 16] {
        self.log.transport_id()
    }

    fn range(&self) -> Range {
        self.log.range()
    }

    fn append(&self, record: Bytes) -> Result<(), LogError> {
        self.log.append(record)
    }

    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        let (is_right, fired) = (self.when == Wrong::Once && self.fired.load(SeqCst), self.fired.clone());
        Ok(Box::new(TwistedReader { inner: self.log.reader(Position(0))?, tip: Tip::START, from, is_right, fired }))
    }

    fn fence(&self) -> Result<Fence, LogError> {
        self.log.fence()
    }

    fn health(&self) -> Result<(), LogError> {
        self.log.health()
    }

    fn close(&self) {
        self.log.close();
    }
}
