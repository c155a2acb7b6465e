//! F12, F23, F24, F25, F30: three replicas of one store on a real broker, writers on all of them, and everything between them fails
//! in turn. Nothing acknowledged is lost, nothing is applied twice, every end becomes known, all replicas agree, nobody stays stuck,
//! and what clients saw is linearizable.
//!
//! `CONFOLD_SOAK_SECONDS` makes it last (every fault once), `CONFOLD_BROKERS=3` takes three brokers, `CONFOLD_SEED` says which moments;
//! with `CONFOLD_LONGEST_PARTITION` only wires fail, for up to so many seconds.

mod faults;
mod history;
mod line;
pub mod replicas;
pub mod work;

use crate::support::{number, push_schema};
use confold::wire::api::Api;
use confold::wire::pb;
use confold_test_brokers::{Cluster, Setup};
use faults::{Fault, strike};
use history::Entry;
use line::Wire;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replicas::Replica;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use work::{Doubts, End, Reading, Written};

const REPLICAS: usize = 3;
const WRITERS: usize = 8;
const REGISTER_CLIENTS: usize = 6;
const REGISTERS: usize = 5;

/// So many for each second that a round is meant to last: fewer would prove too little.
const OPERATIONS: u64 = 100;

/// No replica may be stuck longer, once the cause is gone.
const STUCK: Duration = Duration::from_secs(20);

/// Lets time pass: for how long a fault lasts, and between two attempts.
pub async fn pass_time(time: Duration) {
    _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

/// Tests that damage brokers or use the machine to the full, one after the other.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// One broker that whoever holds `ALONE` may stop, kill and damage, as long as it runs again afterwards.
pub fn one_broker() -> &'static Cluster {
    static ONE: LazyLock<Cluster> =
        LazyLock::new(|| Cluster::start(Setup { brokers: 1, fronts: REPLICAS, ..Setup::default() }));
    tokio::task::block_in_place(|| &*ONE)
}

/// Everything that tests do things to.
pub struct World {
    cluster: &'static Cluster,
    topic: String,
    replicas: Vec<Replica>,
    dir: tempfile::TempDir,
    /// A position that the store has reached.
    seen: AtomicU64,
    acknowledged: AtomicU64,
    next_value: AtomicU64,
    /// Of register clients, in this round.
    operations: AtomicU64,
    round_over: AtomicBool,
    stop: AtomicBool,
}

impl World {
    async fn begin(cluster: &'static Cluster, replicas: usize) -> Arc<World> {
        let topic = tokio::task::spawn_blocking(|| cluster.new_topic(&LOG)).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut started = Vec::new();
        for number in 0..replicas {
            started.push(Replica::start(cluster, number, &topic, dir.path()).await);
        }
        push_schema(&*started[0].api, "").await;
        let seen = started[0].status().await.unwrap().position;
        // Who has not folded the schema yet refuses commits before the log.
        for replica in &started {
            while replica.status().await.ok().is_none_or(|status| status.position < seen) {
                pass_time(Duration::from_millis(20)).await;
            }
        }
        Arc::new(World {
            cluster,
            topic,
            replicas: started,
            dir,
            seen: seen.into(),
            acknowledged: 0.into(),
            next_value: 1.into(),
            operations: 0.into(),
            round_over: false.into(),
            stop: false.into(),
        })
    }

    fn move_leader(&self) {
        let before = self.cluster.leader(&self.topic).unwrap();
        let order: Vec<usize> = (0..3).map(|step| (before + step) % 3 + 1).collect();
        let order = order.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let plan = self.dir.path().join("plan.json");
        let topic = &self.topic;
        let text = format!(
            r#"{{"version": 1, "partitions": [{{"topic": "{topic}", "partition": 0, "replicas": [{order}]}}]}}"#
        );
        std::fs::write(&plan, text).unwrap();
        self.cluster.tool("reassign", &["--reassignment-json-file", plan.to_str().unwrap(), "--execute"]);
        let elect = ["--election-type", "preferred", "--topic", topic, "--partition", "0"];
        confold_test_brokers::until("another broker leads", || {
            self.cluster.tool("leader-election", &elect);
            self.cluster.leader(topic).is_some_and(|leader| leader != before)
        });
    }
}

/// What a log needs of its topic.
pub const LOG: [(&str, &str); 5] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("message.timestamp.type", "LogAppendTime"),
    ("max.message.bytes", "20971520"),
];

/// What replicas said of themselves, by position.
#[derive(Default)]
struct Voices {
    /// Root, log digest and chain, and who said so.
    chains: BTreeMap<u64, BTreeMap<(String, String, String), BTreeSet<usize>>>,
    /// State hashes at marks, computed here or announced on the log.
    marks: BTreeMap<u64, BTreeMap<String, BTreeSet<String>>>,
}

impl Voices {
    fn hear(&mut self, replica: usize, status: &pb::StatusResponse) {
        let bad = [pb::State::Fenced, pb::State::Quarantined, pb::State::Halted, pb::State::SnapshotNeeded];
        assert!(!bad.contains(&status.state()), "replica {replica}: {:?}, {}", status.state(), status.reason);
        assert!(!status.disputed, "replica {replica} is disputed");
        let chain = (status.root.clone(), status.log_digest.clone(), status.chain.clone());
        self.chains.entry(status.position).or_default().entry(chain).or_default().insert(replica);
        let own = status.last_mark.iter().map(|mark| (mark.position, &mark.state, &status.replica));
        let told = status.replicas.iter().map(|row| (row.position, &row.state, &row.replica));
        for (position, state, who) in own.chain(told).filter(|(_, state, _)| !state.is_empty()) {
            self.marks.entry(position).or_default().entry(state.clone()).or_default().insert(who.clone());
        }
    }

    /// Everybody said the same of the same position. Gives at how many positions and marks several were heard.
    fn agree(&self) -> (usize, usize) {
        for (position, chains) in &self.chains {
            assert_eq!(chains.len(), 1, "root, digest and chain at position {position}: {chains:?}");
        }
        for (position, states) in &self.marks {
            assert_eq!(states.len(), 1, "state hashes at mark {position}: {states:?}");
        }
        let several = |who: usize| who > 1;
        let positions = self.chains.values().flat_map(BTreeMap::values).filter(|who| several(who.len())).count();
        let marks = self.marks.values().flat_map(BTreeMap::values).filter(|who| several(who.len())).count();
        (positions, marks)
    }
}

async fn listen(world: Arc<World>) -> Voices {
    let mut voices = Voices::default();
    while !world.stop.load(Relaxed) {
        for (number, replica) in world.replicas.iter().enumerate() {
            if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_millis(500), replica.status()).await {
                voices.hear(number, &status);
            }
        }
        pass_time(Duration::from_millis(100)).await;
    }
    voices
}

/// What a strike of each kind was followed by.
type Strikes = BTreeMap<Fault, Vec<Duration>>;

/// Where nothing but wires is to fail.
fn longest_partition() -> Option<Duration> {
    number("CONFOLD_LONGEST_PARTITION").map(Duration::from_secs)
}

/// Every kind once, in an order of chance.
fn turn(world: &World, random: &mut SmallRng) -> Vec<Fault> {
    let mut faults = Fault::shuffled(world.cluster.setup().brokers, random);
    faults.retain(|fault| longest_partition().is_none() || fault.is_of_wires());
    faults
}

/// Every fault at least once, and again until the time is up.
async fn torment(world: Arc<World>, seed: u64, time: Duration, longest: Duration) -> Strikes {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut strikes = Strikes::new();
    let began = Instant::now();
    loop {
        for fault in turn(&world, &mut random) {
            let stuck = strike(&world, fault, longest, &mut random).await;
            println!(
                "{:>6.1} s  {fault:?}: all replicas read and write {:.1} s after it was gone",
                began.elapsed().as_secs_f64(),
                stuck.as_secs_f64()
            );
            assert!(stuck <= STUCK, "{fault:?}: a replica was stuck for {stuck:?}");
            strikes.entry(fault).or_default().push(stuck);
            if began.elapsed() >= time && strikes.len() == turn(&world, &mut random).len() {
                return strikes;
            }
            pass_time(Duration::from_millis(random.random_range(100..600))).await;
        }
    }
}

/// Clients of fresh registers for a time, and longer where most of it passed without a broker. Whoever asked has the history judged.
async fn record(world: &Arc<World>, round: usize, seed: u64, time: Duration) -> (Vec<Entry>, Doubts) {
    let keys: Vec<String> = (0..REGISTERS).map(|number| format!("r{round}-{number}")).collect();
    world.operations.store(0, Relaxed);
    world.round_over.store(false, Relaxed);
    let clients: Vec<_> = (0..REGISTER_CLIENTS)
        .map(|number| tokio::spawn(work::use_registers(world.clone(), number, seed + number as u64, keys.clone())))
        .collect();
    let began = Instant::now();
    let enough = OPERATIONS * time.as_secs();
    while began.elapsed() < time || world.operations.load(Relaxed) < enough && began.elapsed() < 6 * time {
        pass_time(Duration::from_millis(100)).await;
    }
    world.round_over.store(true, Relaxed);
    let (mut history, mut doubts) = (Vec::new(), Doubts::default());
    for client in clients {
        let (entries, own) = client.await.unwrap();
        history.extend(entries);
        doubts.add(own);
    }
    (history, doubts)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_lose_nothing_double_nothing_and_agree_whatever_fails() {
    let _alone = ALONE.lock().await;
    let soak = number("CONFOLD_SOAK_SECONDS").map(Duration::from_secs);
    let brokers = number("CONFOLD_BROKERS").unwrap_or(1) as usize;
    let seed = number("CONFOLD_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    println!("CONFOLD_SEED={seed} CONFOLD_BROKERS={brokers}");
    let (longest, round_time) = match soak {
        None => (Duration::from_millis(2_000), Duration::from_secs(15)),
        Some(_) => (longest_partition().unwrap_or(Duration::from_secs(8)), Duration::from_secs(30)),
    };
    let cluster = match brokers {
        1 => one_broker(),
        brokers => tokio::task::block_in_place(|| {
            Box::leak(Box::new(Cluster::start(Setup { brokers, fronts: REPLICAS, ..Setup::default() })))
        }),
    };
    let world = World::begin(cluster, REPLICAS).await;
    let began = Instant::now();
    let listener = tokio::spawn(listen(world.clone()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| tokio::spawn(work::write(world.clone(), number, seed ^ (number as u64) << 32)))
        .collect();
    let faults = tokio::spawn(torment(world.clone(), seed, soak.unwrap_or_default(), longest));

    // Three rounds at least, and as many as the faults last.
    let mut doubts = Doubts::default();
    let (mut rounds, mut operations, mut smallest) = (0, 0, usize::MAX);
    while rounds < 3 || !faults.is_finished() {
        let (history, own) = record(&world, rounds, seed.wrapping_add(1_000 * rounds as u64), round_time).await;
        doubts.add(own);
        operations += history.len();
        smallest = smallest.min(history.len());
        let path = world.dir.path().join(format!("history-{rounds}.jsonl"));
        let judged = path.clone();
        let (linearizable, said) = tokio::task::spawn_blocking(move || {
            history::write(&judged, &history);
            history::judge(&judged)
        })
        .await
        .unwrap();
        println!("round {rounds}: {said}");
        if !linearizable {
            let kept = std::env::temp_dir().join(format!("confold-history-{seed}.jsonl"));
            std::fs::copy(&path, &kept).unwrap();
            panic!("seed {seed}: not linearizable; the history is kept in {}", kept.display());
        }
        rounds += 1;
    }
    let strikes = faults.await.unwrap();
    world.stop.store(true, Relaxed);
    let mut written = Vec::new();
    for writer in writers {
        written.push(writer.await.unwrap());
    }
    let voices = listener.await.unwrap();
    let seconds = began.elapsed().as_secs_f64();

    let (positions, marks) = voices.agree();
    let revisions = compare_at_rest(&world).await;
    check_written(&world, &written).await;
    written.iter().for_each(|written| doubts.add(written.doubts));
    let committed: usize = written
        .iter()
        .flat_map(|written| written.ends.values())
        .filter(|end| matches!(end, End::Committed { .. }))
        .count();
    let slowest = strikes.values().flatten().max().unwrap();
    let struck: usize = strikes.values().map(Vec::len).sum();
    println!("{strikes:.1?}");
    println!(
        "SOAK brokers={brokers} seconds={seconds:.0} faults={struck} committed={committed} revisions={revisions} unknown={} \
         found={} barred={} marks={marks} positions={positions} rounds={rounds} operations={operations} \
         smallest={smallest} stuck={:.1}s",
        doubts.unknown,
        doubts.found_committed,
        doubts.never_applied,
        slowest.as_secs_f64(),
    );
    assert!(doubts.unknown > 0, "no end was ever unknown: the faults did nothing");
    assert!(marks > 0, "no mark was computed by several replicas");
    let enough = OPERATIONS * round_time.as_secs();
    assert!(smallest as u64 >= enough, "{smallest} operations in a round prove too little");
}

/// Compares all that the replicas say of the same position: state, and every revision of the history.
async fn compare_at_rest(world: &World) -> usize {
    at_rest(&world.replicas.iter().map(|replica| replica.api.clone()).collect::<Vec<_>>()).await;
    let mut histories = Vec::new();
    for replica in &world.replicas {
        histories.push(history_of(replica).await);
    }
    assert!(histories.iter().all(|history| *history == histories[0]), "histories differ");
    histories[0].len()
}

/// Waits until all replicas have folded up to the same position, and compares what they have there.
pub async fn at_rest(replicas: &[Arc<dyn Api>]) -> pb::StatusResponse {
    let began = Instant::now();
    loop {
        let mut statuses = Vec::new();
        for replica in replicas {
            replica.sync(pb::SyncRequest::default()).await.unwrap();
        }
        for replica in replicas {
            statuses.push(replica.status(pb::StatusRequest::default()).await.unwrap());
        }
        let whole = |status: &pb::StatusResponse| {
            let hashes = [&status.root, &status.chain, &status.log_digest].map(String::clone);
            (status.position, status.revision, status.state, status.reason.clone(), hashes)
        };
        if statuses.iter().all(|status| status.position == statuses[0].position) {
            statuses.iter().for_each(|status| assert_eq!(whole(status), whole(&statuses[0])));
            return statuses.remove(0);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the replicas do not come to rest");
    }
}

/// Position, event id, revision and root of every event that made a revision, oldest first.
async fn history_of(replica: &Replica) -> Vec<(u64, String, u64, String)> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let request = pb::LogRequest { oldest_first: true, brief: true, limit: 1_000, after, ..Default::default() };
        let page = replica.api.log(request).await.unwrap();
        rows.extend(page.rows.into_iter().map(|row| (row.position, row.event_id, row.revision.unwrap(), row.root)));
        after = page.next_after;
        if after.is_none() {
            return rows;
        }
    }
}

/// Every intention of every writer stands in the history as its end says: once, or never.
async fn check_written(world: &World, written: &[Written]) {
    let rows = history_of(&world.replicas[0]).await;
    let mut at: BTreeMap<&str, u64> = BTreeMap::new();
    for (position, id, ..) in &rows {
        assert!(at.insert(id, *position).is_none(), "event {id} made two revisions");
    }
    for (number, written) in written.iter().enumerate() {
        assert!(written.last > 0, "writer {number} wrote nothing");
        for (id, end) in &written.ends {
            match end {
                End::Committed { position } => {
                    assert_eq!(at.get(id.as_str()), Some(position), "writer {number}: {id} was acknowledged")
                }
                End::Refused | End::NeverApplied => {
                    assert_eq!(at.get(id.as_str()), None, "writer {number}: {id} ended as {end:?}")
                }
            }
        }
        for replica in 0..world.replicas.len() {
            let (value, _) =
                work::read(world, replica, &format!("/devices/w{number}"), Reading::Linearizable).await.unwrap();
            assert_eq!(value, written.last, "writer {number} at replica {replica}");
        }
    }
}

/// F30: the judge has teeth. A replica that is cut off answers from what it has, and a client takes it for the truth.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_read_in_disguise_is_caught_by_the_judge() {
    let _alone = ALONE.lock().await;
    let world = World::begin(one_broker(), 2).await;
    let path = "/devices/r";
    let mut entries = Vec::new();
    let mut client = SmallRng::seed_from_u64(1);
    let put = async |value: u64, entries: &mut Vec<Entry>| {
        let call = history::now();
        let request = pb::CommitRequest { operations: vec![work::put(path, value)], ..Default::default() };
        world.replicas[0].api.commit(request).await.unwrap();
        let asked = history::Asked::Put { value };
        entries.push(Entry {
            client: 0,
            key: "r".into(),
            asked,
            told: history::Told::Done(true),
            call,
            end: history::now(),
        });
    };
    let get = async |reading: Reading, entries: &mut Vec<Entry>| {
        let call = history::now();
        let (value, _) = work::read(&world, 1, path, reading).await?;
        let told = history::Told::Read(value);
        entries.push(Entry { client: 1, key: "r".into(), asked: history::Asked::Get, told, call, end: history::now() });
        Some(value)
    };
    put(client.random_range(1..1_000), &mut entries).await;
    get(Reading::Linearizable, &mut entries).await.unwrap();
    world.replicas[1].line.set(Wire::Silent { to_brokers: true, to_replica: true });
    put(1_001, &mut entries).await;
    // An honest read says that it cannot: it is never stale.
    assert_eq!(get(Reading::Linearizable, &mut entries).await, None);
    let file = world.dir.path().join("history.jsonl");
    history::write(&file, &entries);
    assert!(history::judge(&file).0, "so far it is linearizable");
    let stale = get(Reading::StaleInDisguise, &mut entries).await.unwrap();
    assert_ne!(stale, 1_001);
    history::write(&file, &entries);
    let (linearizable, said) = history::judge(&file);
    assert!(!linearizable && said.contains("NOT LINEARIZABLE"), "{said}");
}
