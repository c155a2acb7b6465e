//! What is done to replicas, brokers and the wires between them, one thing at a time: cause, proof that it was felt, and how long it
//! took until everybody could read and write again after the cause was gone.

use super::World;
use super::line::Wire;
use super::pass_time;
use super::work::{Reading, put, read};
use confold::wire::pb;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// SIGKILL, and started again.
    ReplicaKilled,
    /// SIGSTOP for a while.
    ReplicaPaused,
    /// Nothing gets through between one replica and the brokers.
    CutOff,
    CutOffOneWay,
    /// Connections between one replica and the brokers break.
    ConnectionsBroken,
    SlowWire,
    BrokerKilled,
    BrokerStopped,
    BrokerPaused,
    /// The partition gets another leader, in order. Needs three brokers.
    LeaderMoved,
}

impl Fault {
    /// All that this many brokers allow, in an order of chance.
    pub fn shuffled(brokers: usize, random: &mut SmallRng) -> Vec<Fault> {
        use Fault::*;
        let mut all = vec![
            ReplicaKilled,
            ReplicaPaused,
            CutOff,
            CutOffOneWay,
            ConnectionsBroken,
            SlowWire,
            BrokerKilled,
            BrokerStopped,
            BrokerPaused,
        ];
        if brokers == 3 {
            all.push(LeaderMoved);
        }
        all.shuffle(random);
        all
    }

    pub fn is_of_wires(self) -> bool {
        matches!(self, Fault::CutOff | Fault::CutOffOneWay | Fault::ConnectionsBroken | Fault::SlowWire)
    }

    /// Whether nothing can be committed while it lasts.
    fn stops_everything(self, world: &World) -> bool {
        world.cluster.setup().brokers == 1
            && matches!(self, Fault::BrokerKilled | Fault::BrokerStopped | Fault::BrokerPaused)
    }
}

/// Lets one fault happen to somebody, undoes it, and gives how long it took until every replica read and wrote.
pub async fn strike(world: &Arc<World>, fault: Fault, longest: Duration, random: &mut SmallRng) -> Duration {
    let replica = random.random_range(0..world.replicas.len());
    let lasts = Duration::from_millis(random.random_range(1_000..=longest.as_millis().max(1_001) as u64));
    let one_way = random.random::<bool>();
    let target = world.clone();
    let broker = match world.cluster.setup().brokers {
        1 => 1,
        // The leader is hit half of the time.
        brokers if random.random() => random.random_range(1..=brokers),
        _ => tokio::task::spawn_blocking(move || target.cluster.leader(&target.topic)).await.unwrap().unwrap_or(1),
    };
    println!("{fault:?}: replica {replica}, broker {broker}, for {lasts:.1?}");
    let felt = world.replicas[replica].line.felt();
    let line = &world.replicas[replica].line;
    match fault {
        Fault::ReplicaKilled => on(world, move |world| world.replicas[replica].kill()).await,
        Fault::ReplicaPaused => world.replicas[replica].pause(),
        Fault::CutOff => line.set(Wire::Silent { to_brokers: true, to_replica: true }),
        Fault::CutOffOneWay => line.set(Wire::Silent { to_brokers: one_way, to_replica: !one_way }),
        Fault::ConnectionsBroken => line.set(Wire::Broken),
        Fault::SlowWire => line.set(Wire::Slow(Duration::from_millis(random.random_range(20..300)))),
        Fault::BrokerKilled => on(world, move |world| world.cluster.kill(broker)).await,
        Fault::BrokerStopped => on(world, move |world| world.cluster.stop(broker)).await,
        Fault::BrokerPaused => on(world, move |world| world.cluster.pause(broker)).await,
        Fault::LeaderMoved => on(world, World::move_leader).await,
    }
    // What was acknowledged on the brokers before may still be on its way to its client.
    pass_time(Duration::from_millis(500)).await;
    let acknowledged = world.acknowledged.load(Relaxed);
    pass_time(lasts).await;

    // It was felt.
    let now = world.replicas[replica].line.felt();
    match fault {
        Fault::ReplicaKilled => assert!(world.replicas[replica].status().await.is_err(), "nobody answers for the dead"),
        Fault::ReplicaPaused => assert_eq!(world.replicas[replica].process_state(), 'T'),
        Fault::CutOff | Fault::CutOffOneWay => assert!(now.0 > felt.0, "nothing was held back"),
        Fault::ConnectionsBroken => assert!(now.1 > felt.1, "nothing was broken"),
        Fault::SlowWire => assert!(now.2 > felt.2, "nothing was late"),
        Fault::BrokerKilled | Fault::BrokerStopped => {
            assert!(TcpStream::connect(world.cluster.address(broker)).is_err(), "the broker still listens");
        }
        Fault::BrokerPaused | Fault::LeaderMoved => {}
    }
    if fault.stops_everything(world) {
        assert_eq!(
            world.acknowledged.load(Relaxed),
            acknowledged,
            "{fault:?}: something was acknowledged without a broker"
        );
    }

    let mut gone = Instant::now();
    match fault {
        Fault::ReplicaKilled => on(world, move |world| world.replicas[replica].restart()).await,
        Fault::ReplicaPaused => world.replicas[replica].resume(),
        Fault::CutOff | Fault::CutOffOneWay | Fault::ConnectionsBroken | Fault::SlowWire => line.set(Wire::Open),
        Fault::BrokerKilled | Fault::BrokerStopped => on(world, move |world| world.cluster.restart(broker)).await,
        Fault::BrokerPaused => on(world, move |world| world.cluster.resume(broker)).await,
        Fault::LeaderMoved => {}
    }
    // A broker is there when it serves.
    if matches!(fault, Fault::BrokerKilled | Fault::BrokerStopped) {
        gone = Instant::now();
    }
    let everybody = (0..world.replicas.len()).map(|replica| tokio::spawn(recovered(world.clone(), replica, gone)));
    let mut slowest = Duration::ZERO;
    for one in everybody.collect::<Vec<_>>() {
        slowest = slowest.max(one.await.unwrap());
    }
    slowest
}

async fn on(world: &Arc<World>, act: impl FnOnce(&World) + Send + 'static) {
    let world = world.clone();
    tokio::task::spawn_blocking(move || act(&world)).await.unwrap();
}

/// Waits until a replica commits something and reads it back for certain.
async fn recovered(world: Arc<World>, replica: usize, gone: Instant) -> Duration {
    let path = format!("/devices/probe-{replica}");
    loop {
        let value = world.next_value.fetch_add(1, Relaxed);
        let proposal = pb::Proposal { deadline_ms: 1_000, ..Default::default() };
        let commit =
            pb::CommitRequest { proposal: Some(proposal), operations: vec![put(&path, value)], ..Default::default() };
        let committed = world.replicas[replica].api.commit(commit).await;
        if committed.is_ok()
            && let Some((found, _)) = read(&world, replica, &path, Reading::Linearizable).await
        {
            assert!(found >= value, "a linearizable read gave {found}, and {value} was acknowledged before");
            return gone.elapsed();
        }
        if gone.elapsed() >= Duration::from_secs(60) {
            panic!("replica {replica} stays stuck: {committed:?}\n{}", world.replicas[replica].describe().await);
        }
        pass_time(Duration::from_millis(50)).await;
    }
}
