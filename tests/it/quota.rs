//! Q17: a caller that floods the server gets its share, and another is served beside it.

use crate::server::{ServerProcess, confold, confold_with};
use crate::support::number;
use confold::Embedded;
use confold::client::{self, Connection, Pipeline, Remote};
use confold::wire::api::Api;
use confold::wire::caller::BearerToken;
use confold::wire::pb::{self, text_operation::Kind, value::Form};
use confold::wire::{schema_source, status};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SCHEMA: &str = r#"
syntax = "proto3";
package quota;
import "confold/options.proto";
message Root { repeated Row rows = 1 [(confold.v1.child_node) = {key: "id"}]; }
message Row { string id = 1; uint64 number = 2; }
"#;

const CALLS_PER_SECOND: u64 = 200;
const CALLS_IN_FLIGHT: usize = 64;

struct World {
    server: ServerProcess,
    /// Tokens by name.
    ann: BearerToken,
    bob: BearerToken,
}

impl World {
    async fn new(folder: &Path) -> World {
        let data = folder.join("data");
        Embedded::create(&data, "net").unwrap();
        std::fs::write(data.join("confold.toml"), format!("[server]\ncalls_per_second = {CALLS_PER_SECOND}\n")).unwrap();
        let server = ServerProcess::start_with(&data, &["--calls-in-flight", &CALLS_IN_FLIGHT.to_string()]);
        std::fs::write(folder.join("quota.proto"), SCHEMA).unwrap();
        let compiled = schema_source::descriptor_set_of(&folder.join("quota.proto"), &[]).unwrap();
        let push = pb::PushSchemaRequest {
            descriptor_set: compiled.descriptor_set.into(),
            root_message: "quota.Root".to_owned(),
            ..Default::default()
        };
        Remote::connect(&server.address).unwrap().push_schema(push).await.unwrap();
        let token = |name: &str| {
            let made = confold(&["token", "create", name, "--server", &server.address]);
            assert_eq!(made.code, 0, "{}", made.all());
            BearerToken::new(made.out.trim()).unwrap()
        };
        let tokens = ["ops", "ann", "bob"].map(token);
        // The first rule takes every right from those that have none by a rule.
        let ops = [("CONFOLD_TOKEN", tokens[0].secret())];
        for (name, rights, environment) in [("ops", "read,write,admin", &[][..]), ("ann", "read,write", &ops), ("bob", "read,write", &ops)] {
            let allowed = confold_with(&["policy", "allow", name, rights, "/", "--server", &server.address], environment);
            assert_eq!(allowed.code, 0, "{}", allowed.all());
        }
        let [_, ann, bob] = tokens;
        World { server, ann, bob }
    }

    fn remote(&self, token: &BearerToken) -> Remote {
        let options = client::Options { token: Some(token.clone()), ..Default::default() };
        Remote::with_options(&self.server.address, &options).unwrap()
    }
}

fn put(id: &str, number: u64) -> pb::CommitRequest {
    let value = pb::Value { form: Some(Form::Json(format!(r#"{{"id": "{id}", "number": "{number}"}}"#))), ..Default::default() };
    let operation = pb::TextOperation { path: format!("/rows/{id}"), kind: Some(Kind::Put(value)), ..Default::default() };
    pb::CommitRequest { operations: vec![operation], ..Default::default() }
}

/// `clients` that call as fast as they are answered, over a few connections, until told to stop.
struct Flood {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    clients: JoinSet<()>,
    began: Instant,
}

impl Flood {
    fn begin(world: &World, clients: usize) -> Flood {
        let (stop, done, refused) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let remotes: Vec<Arc<Remote>> = (0..4).map(|_| Arc::new(world.remote(&world.ann))).collect();
        let mut set = JoinSet::new();
        for client in 0..clients {
            let (remote, stop, done, refused) = (remotes[client % remotes.len()].clone(), stop.clone(), done.clone(), refused.clone());
            set.spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match remote.commit(put(&format!("ann{client}"), number)).await {
                        Ok(_) => _ = done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            assert_eq!(status::detail(&error).map(|detail| detail.code), Some("QUOTA".to_owned()), "{error}");
                            assert_eq!(error.code(), tonic::Code::ResourceExhausted);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        Flood { stop, done, refused, clients: set, began: Instant::now() }
    }

    /// Commits, refusals, and the most commits that the quota allows for the time it took.
    async fn end(mut self) -> (u64, u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let most = CALLS_PER_SECOND as f64 * (self.began.elapsed().as_secs_f64() + 1.0);
        (self.done.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed), most.ceil() as u64)
    }
}

/// The middle and the slowest but one of a hundred of commits, one every 20 ms, in microseconds.
async fn paced(remote: &Remote, commits: u64) -> (u64, u64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut took = Vec::new();
    for number in 0..commits {
        ticks.tick().await;
        let began = Instant::now();
        remote.commit(put("bob", number)).await.unwrap();
        took.push(began.elapsed().as_micros() as u64);
    }
    took.sort_unstable();
    (took[took.len() / 2], took[(took.len() * 99).div_ceil(100) - 1])
}

/// `CONFOLD_QUOTA_COMMITS`: how many commits of the one beside the flood.
// Q17
#[tokio::test(flavor = "multi_thread")]
async fn who_floods_gets_its_share_and_another_caller_is_served_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path()).await;
    let bob = world.remote(&world.bob);
    let commits = number("CONFOLD_QUOTA_COMMITS").unwrap_or(100);
    let (idle_p50, idle_p99) = paced(&bob, commits).await;

    // As many as may be under way at once: they wait for their turns, and none is refused.
    let flood = Flood::begin(&world, CALLS_IN_FLIGHT);
    let (beside_p50, beside_p99) = paced(&bob, commits).await;
    let (done, refused, most) = flood.end().await;
    assert_eq!(refused, 0);
    assert!((CALLS_PER_SECOND..=most).contains(&done), "{done} commits, and {most} are allowed");

    // More than that: what is too much is refused, and again it is no other caller that pays.
    let flood = Flood::begin(&world, 3 * CALLS_IN_FLIGHT);
    let (over_p50, over_p99) = paced(&bob, commits).await;
    let (done, refused, most) = flood.end().await;
    assert!(refused > 0 && done <= most, "{refused} refused, {done} commits, and {most} are allowed");
    println!(
        "SOAK commits={} p50: idle {idle_p50} us, beside a flood {beside_p50} us, beside one that is refused {over_p50} us; \
         p99: {idle_p99} us, {beside_p99} us, {over_p99} us",
        3 * commits
    );
}

// Q17
#[tokio::test(flavor = "multi_thread")]
async fn commits_of_a_stream_count_one_by_one_and_a_stream_is_a_call_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path()).await;
    let remote: Arc<dyn Api> = Arc::new(world.remote(&world.ann));
    let commits = 2 * CALLS_PER_SECOND;
    let began = Instant::now();
    let mut pipeline = Pipeline::new(Connection::new(remote.clone(), ""));
    for number in 0..commits {
        pipeline.send(put("ann", number)).await.unwrap();
    }
    let mut answered = 0;
    while answered < commits {
        let answer = pipeline.answer().await.unwrap().unwrap();
        answer.result.unwrap();
        answered += 1;
    }
    // A second's worth at once, and the others at the rate.
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());

    // Streams that stay open take places; the other caller has its own.
    let mut streams = vec![pipeline];
    for _ in 1..CALLS_IN_FLIGHT {
        let mut pipeline = Pipeline::new(Connection::new(remote.clone(), ""));
        pipeline.send(put("ann", 0)).await.unwrap();
        pipeline.answer().await.unwrap().unwrap().result.unwrap();
        streams.push(pipeline);
    }
    let refused = remote.status(pb::StatusRequest::default()).await.unwrap_err();
    assert_eq!(status::detail(&refused).unwrap().code, "QUOTA");
    world.remote(&world.bob).status(pb::StatusRequest::default()).await.unwrap();
    drop(streams);
    let give_up = Instant::now() + Duration::from_secs(60);
    while remote.status(pb::StatusRequest::default()).await.is_err() {
        assert!(Instant::now() < give_up, "streams that ended still have their places");
    }
}
