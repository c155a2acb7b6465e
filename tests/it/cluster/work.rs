//! What clients do while faults happen: writers that count, and clients of a few registers.

use super::World;
use super::history::{Asked, Entry, Told, now};
use super::pass_time;
use confold::wire::pb::decision::Outcome;
use confold::wire::{pb, status};
use confold_model::code::Code;
use confold_model::ids::{EventId, Position};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A proposal waits so long for its decision before its end is unknown.
const DEADLINE_MS: u32 = 2_000;

/// How an intention ended for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Committed {
        position: u64,
    },
    /// Refused by the fold: a guard did not hold.
    Refused,
    NeverApplied,
}

/// How ends came about that no first answer told.
#[derive(Clone, Copy, Default, Debug)]
pub struct Doubts {
    pub unknown: u64,
    pub found_committed: u64,
    pub never_applied: u64,
}

impl Doubts {
    pub fn add(&mut self, other: Doubts) {
        self.unknown += other.unknown;
        self.found_committed += other.found_committed;
        self.never_applied += other.never_applied;
    }
}

pub fn put(path: &str, value: u64) -> pb::TextOperation {
    let id = path.rsplit('/').next().unwrap();
    let json = format!(r#"{{"id": "{id}", "description": "{value}"}}"#);
    let value = pb::Value { form: Some(pb::value::Form::Json(json)), ..Default::default() };
    pb::TextOperation { path: path.to_owned(), kind: Some(pb::text_operation::Kind::Put(value)), ..Default::default() }
}

fn request(id: EventId, author: &str, path: &str, value: u64, guard: Option<&str>) -> pb::CommitRequest {
    let guards = guard.map(|data| pb::TextGuard {
        path: path.to_owned(),
        expect: Some(pb::text_guard::Expect::Data(data.to_owned())),
    });
    let proposal = pb::Proposal {
        event_id: id.to_string(),
        author: author.to_owned(),
        deadline_ms: DEADLINE_MS,
        ..Default::default()
    };
    pb::CommitRequest {
        proposal: Some(proposal),
        guards: guards.into_iter().collect(),
        operations: vec![put(path, value)],
        ..Default::default()
    }
}

/// What an answer says for good, if it does.
fn end_of(answer: Result<pb::Decision, tonic::Status>) -> Option<End> {
    match answer {
        Ok(decision) => match Outcome::try_from(decision.outcome).unwrap() {
            Outcome::Committed | Outcome::Unchanged => Some(End::Committed { position: decision.position.unwrap() }),
            Outcome::NeverApplied => Some(End::NeverApplied),
            Outcome::Rejected => end_of_refusal(&decision.error.unwrap()),
            Outcome::Unknown | Outcome::NotSeen | Outcome::Unspecified => None,
        },
        Err(refused) => end_of_refusal(&status::detail(&refused)?),
    }
}

fn end_of_refusal(refusal: &pb::ErrorDetail) -> Option<End> {
    match status::code_of(refusal) {
        Some(Code::Withdrawn | Code::Expired) => Some(End::NeverApplied),
        Some(Code::GuardFailed) if refusal.position.is_some() => Some(End::Refused),
        Some(Code::Unknown | Code::Unavailable) => None,
        other => panic!("nothing that is asked here is refused with {other:?}: {refusal:?}"),
    }
}

/// One who asks: proposes at any replica, and asks on until the end is known.
pub struct Client {
    world: Arc<World>,
    random: SmallRng,
    /// The newest position that an answer named.
    seen: u64,
    pub doubts: Doubts,
}

impl Client {
    pub fn new(world: Arc<World>, seed: u64) -> Client {
        let seen = world.seen.load(Relaxed);
        Client { world, random: SmallRng::seed_from_u64(seed), seen, doubts: Doubts::default() }
    }

    fn any_replica(&mut self) -> usize {
        self.random.random_range(0..self.world.replicas.len())
    }

    fn mint(&mut self) -> EventId {
        EventId { seen: Position(self.seen), nonce: self.random.random() }
    }

    /// Sends once.
    async fn try_once(&mut self, wanted: &pb::CommitRequest) -> Option<End> {
        let replica = self.any_replica();
        let end = end_of(self.world.replicas[replica].api.commit(wanted.clone()).await);
        if let Some(End::Committed { position }) = end {
            self.seen = self.seen.max(position);
            self.world.acknowledged.fetch_add(1, Relaxed);
        }
        end
    }

    /// Makes an unknown end definite: sends the same again, or withdraws it, wherever somebody answers.
    async fn settle(&mut self, wanted: &pb::CommitRequest) -> End {
        self.doubts.unknown += 1;
        loop {
            pass_time(Duration::from_millis(20)).await;
            let end = if self.random.random() {
                self.try_once(wanted).await
            } else {
                let replica = self.any_replica();
                let withdraw = pb::WithdrawRequest {
                    event_id: wanted.proposal.as_ref().unwrap().event_id.clone(),
                    proposal: Some(pb::Proposal { deadline_ms: DEADLINE_MS, ..Default::default() }),
                    ..Default::default()
                };
                end_of(self.world.replicas[replica].api.withdraw(withdraw).await)
            };
            match end {
                Some(End::Committed { .. }) => self.doubts.found_committed += 1,
                Some(End::NeverApplied) => self.doubts.never_applied += 1,
                Some(End::Refused) => {}
                None => continue,
            }
            return end.unwrap();
        }
    }
}

/// What a writer knows for certain.
#[derive(Default)]
pub struct Written {
    /// Each intention by its event id.
    pub ends: BTreeMap<String, End>,
    /// The last count that was committed.
    pub last: u64,
    pub doubts: Doubts,
}

/// Counts up one value until told to stop, one commit after the other.
pub async fn write(world: Arc<World>, number: usize, seed: u64) -> Written {
    let mut client = Client::new(world.clone(), seed);
    let (author, path) = (format!("w{number}"), format!("/devices/w{number}"));
    let mut written = Written::default();
    let mut count = 0;
    while !world.stop.load(Relaxed) {
        count += 1;
        let id = client.mint();
        let wanted = request(id, &author, &path, count, None);
        let end = match client.try_once(&wanted).await {
            Some(end) => end,
            None => client.settle(&wanted).await,
        };
        if let End::Committed { .. } = end {
            written.last = count;
        }
        written.ends.insert(id.to_string(), end);
    }
    written.doubts = client.doubts;
    written
}

/// How a client of registers reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    Linearizable,
    /// The planted bug: whatever a replica has, and it is written down as if it were the truth.
    StaleInDisguise,
}

/// What stands in a register, and the hash of its data.
pub async fn read(world: &World, replica: usize, path: &str, reading: Reading) -> Option<(u64, Option<String>)> {
    let consistency = match reading {
        Reading::Linearizable => pb::Consistency::Linearizable,
        Reading::StaleInDisguise => pb::Consistency::Stale,
    };
    let request = pb::GetRequest {
        path: path.to_owned(),
        format: pb::Format::Json.into(),
        read: Some(pb::Read { consistency: consistency.into(), deadline_ms: DEADLINE_MS, ..Default::default() }),
        ..Default::default()
    };
    match world.replicas[replica].api.get(request).await {
        Ok(answer) => {
            let node = &answer.nodes[0];
            let Some(pb::value::Form::Json(text)) = node.value.clone().and_then(|value| value.form) else {
                panic!("no JSON");
            };
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let value = value["description"].as_str().unwrap().parse().unwrap();
            Some((value, Some(node.data_hash.clone())))
        }
        Err(refused) if refused.code() == tonic::Code::NotFound => Some((0, None)),
        Err(_) => None,
    }
}

/// One operation on a register of a round, written down as it went. `None`: a read that had no answer tells nothing.
async fn operate(
    client: &mut Client,
    number: usize,
    key: &str,
    known: &mut BTreeMap<String, (u64, String)>,
) -> Option<Entry> {
    let world = client.world.clone();
    let path = format!("/devices/{key}");
    let guard = known.get(key).cloned();
    let call = now();
    let entry = |asked, told| Entry { client: number, key: key.to_owned(), asked, told, call, end: now() };
    let choice = client.random.random_range(0..10);
    if choice < 4 || (choice < 7 && guard.is_none()) {
        let (value, hash) = read(&world, client.any_replica(), &path, Reading::Linearizable).await?;
        if let Some(hash) = hash {
            known.insert(key.to_owned(), (value, hash));
        }
        return Some(entry(Asked::Get, Told::Read(value)));
    }
    let guard = guard.filter(|_| choice < 7);
    let value = world.next_value.fetch_add(1, Relaxed);
    let asked = match guard {
        Some((expect, _)) => Asked::CompareAndSet { expect, value },
        None => Asked::Put { value },
    };
    let id = client.mint();
    let wanted = request(id, "register", &path, value, guard.as_ref().map(|(_, hash)| hash.as_str()));
    let end = match client.try_once(&wanted).await {
        Some(end) => Some(end),
        // A quarter of what has no answer is left so: then it may still happen, any time.
        None if client.random.random_range(0..4) == 0 => None,
        None => Some(client.settle(&wanted).await),
    };
    match end {
        Some(End::Committed { .. }) => Some(entry(asked, Told::Done(true))),
        Some(End::Refused) => Some(entry(asked, Told::Done(false))),
        Some(End::NeverApplied) => None,
        None => Some(entry(asked, Told::Nothing)),
    }
}

/// Operates on the registers of a round for a time.
pub async fn use_registers(
    world: Arc<World>,
    number: usize,
    seed: u64,
    keys: Vec<String>,
    until: u64,
) -> (Vec<Entry>, Doubts) {
    let mut client = Client::new(world, seed);
    let (mut entries, mut known) = (Vec::new(), BTreeMap::new());
    while now() < until {
        let key = &keys[client.random.random_range(0..keys.len())];
        match operate(&mut client, number, key, &mut known).await {
            Some(entry) => entries.push(entry),
            None => pass_time(Duration::from_millis(5)).await,
        }
    }
    (entries, client.doubts)
}
