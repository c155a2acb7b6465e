//! One run: replicas, clients and a log on one thread, everything decided by one seed.

use super::checkers::{Breach, Check, Checkers, Held, breach, stored};
use super::faults::{self, Odds, Reads, Tally, happens};
use super::oracle::{Meaning, Oracle, is_kept};
use super::plants::{Feed, Plant};
use super::workload::{self, Envelope, LOG_ID, MAX_EVENT_BYTES, Wish};
use super::{Options, Report};
use crate::step::{Effects, FoldError, Folder, Mark, Next, Settlement};
use crate::view::View;
use bytes::Bytes;
use confold_log::memory::MemoryLog;
use confold_log::{Log, Reader, Record};
use confold_model::code::Code;
use confold_model::digest::intent_mark;
use confold_model::event::{self, Body, Checkpoint, Genesis, Limits, RetentionPolicy};
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::node::EMPTY_NODE;
use confold_model::objects::references;
use confold_store::memory::MemoryStore;
use confold_store::sweep::{Progress, Sweeper};
use confold_store::{Order, PersistedTree, Store};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const SITES: usize = 3;
/// The replica that plants are put into.
const VICTIM: usize = 1;
const TRANSPORT: [u8; 16] = [0x20; 16];
const STRANGER: [u8; 16] = [0x99; 16];

pub struct World {
    plant: Option<Plant>,
    events: u64,
    latest_repeat: u64,
    rng: SmallRng,
    odds: Odds,
    scale: u32,
    log: MemoryLog,
    scribe: Box<dyn Reader>,
    oracle: Oracle,
    checkers: Checkers,
    sites: Vec<Site>,
    clients: Vec<Client>,
    /// Who waits for an id.
    owners: BTreeMap<EventId, usize>,
    answers: Vec<Answer>,
    clock: i64,
    /// Nobody but a stranger announces anything, so that a next level can come.
    upgrading: bool,
    log_stalled: bool,
    intents: u64,
    trace: Hash,
    tally: Tally,
    pub step: u64,
}

struct Site {
    id: [u8; 16],
    /// `None` while it is down.
    folder: Option<Folder>,
    store: Arc<MemoryStore>,
    reader: Box<dyn Reader>,
    queue: VecDeque<Record>,
    feed: Feed,
    view: Option<Arc<View>>,
    /// Copies of the store as it once was.
    copies: Vec<MemoryStore>,
    /// Of the newest batch: what a restart must find.
    last_state: Option<(Position, Hash)>,
    /// What the planted bug holds back or has done.
    planted: bool,
    idle_until: u64,
    batch_limit: u64,
    halted: bool,
    announce: Option<Mark>,
}

struct Client {
    home: usize,
    held: Option<workload::Held>,
    pending: BTreeMap<EventId, Pending>,
}

struct Pending {
    record: Bytes,
    intent: u64,
    principal: u8,
    since: u64,
    attempts: u32,
}

/// On its way to a client.
struct Answer {
    client: usize,
    id: EventId,
    settled: Settled,
}

#[derive(Clone, Debug)]
struct Settled {
    site: usize,
    /// Of the copy that this answers.
    copy: u64,
    /// Of the copy that decided.
    position: u64,
    outcome: u8,
    code: u16,
    revision: u64,
}

impl World {
    pub fn new(seed: u64, options: &Options) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let log = MemoryLog::new(TRANSPORT);
        let window = *[60, 200, 1_000, 4_000, 1 << 20].get(rng.random_range(0..5)).unwrap_or(&64);
        let window = options.window.unwrap_or(window);
        let retention = (rng.random_range(0..10), rng.random_range(0..2_000), rng.random_ratio(1, 4));
        // What costs more the longer the log gets comes less often on a long one.
        let scale = u32::try_from(options.events / 500).unwrap_or(u32::MAX).clamp(1, 1_000);
        let odds = Odds::any(&mut rng).rarer(scale);
        let from = Position(rng.random_range(options.events / 5..=options.events / 2));
        let site = |number: usize, rng: &mut SmallRng| {
            let plant = options.plant.filter(|_| number == VICTIM);
            Site {
                id: [number as u8 + 1; 16],
                folder: Some(Folder::new([number as u8 + 1; 16])),
                store: Arc::new(MemoryStore::new()),
                reader: log.reader(Position(0)).expect("the log starts at 0"),
                queue: VecDeque::new(),
                feed: Feed::new(plant, from),
                view: None,
                copies: Vec::new(),
                last_state: None,
                planted: false,
                idle_until: 0,
                batch_limit: *[1u64, 3, 8, 30, 100].get(rng.random_range(0..5)).unwrap_or(&8),
                halted: false,
                announce: None,
            }
        };
        let sites = (0..SITES).map(|number| site(number, &mut rng)).collect();
        let clients = (0..rng.random_range(2..6)).map(|_| Client { home: rng.random_range(0..SITES), held: None, pending: BTreeMap::new() });
        World {
            plant: options.plant,
            events: options.events,
            latest_repeat: options.latest_repeat,
            clients: clients.collect(),
            upgrading: (rng.random_ratio(1, 25) && options.events < 5_000) || options.plant == Some(Plant::FoldsPastHalt),
            scribe: log.reader(Position(0)).expect("the log starts at 0"),
            oracle: Oracle::new(MAX_EVENT_BYTES, window, retention),
            checkers: Checkers::new(options.plant.map_or(&[], Plant::silenced)),
            rng,
            odds,
            scale,
            log,
            sites,
            owners: BTreeMap::new(),
            answers: Vec::new(),
            clock: 1_000_000,
            log_stalled: false,
            intents: 0,
            trace: Hash::ZERO,
            tally: Tally::default(),
            step: 0,
        }
    }

    pub fn run(mut self) -> Result<Report, (u64, Breach)> {
        match self.live() {
            Ok(()) => Ok(Report {
                events: self.log.range().end.0,
                folded: self.tally.0.get("records folded").copied().unwrap_or_default(),
                trace: self.trace,
                tally: self.tally,
            }),
            Err(breach) => Err((self.step, breach)),
        }
    }

    fn live(&mut self) -> Held {
        self.begin();
        while self.log.range().end.0 < self.events {
            self.step += 1;
            self.turn()?;
        }
        self.settle()
    }

    fn begin(&mut self) {
        let (keep_revisions, keep_age_ms, keep_all) = self.oracle.retention();
        let genesis = Genesis {
            log_id: LOG_ID,
            store_name: "sim".into(),
            limits: Limits { max_event_bytes: MAX_EVENT_BYTES as u64, ..Limits::default() },
            window: self.oracle.window,
            trim_replicas: 2,
            retention: RetentionPolicy { keep_revisions, keep_age_ms, keep_all },
            level: event::LEVEL,
            transport_id: TRANSPORT,
        };
        let envelope = Envelope { id: None, intent: 0, principal: 0, incarnation: LOG_ID, reason: String::new() };
        let record = workload::record(&envelope, Body::Genesis(genesis));
        self.oracle.book.insert(record.clone(), Rc::new(Meaning::Genesis));
        self.log.set_clock(Time(self.clock));
        self.log.append(record).expect("a new log takes its genesis");
        self.log.deliver_by_hand(true);
    }

    fn turn(&mut self) -> Held {
        self.tick();
        for _ in 0..self.rng.random_range(1..4) {
            self.client_turn()?;
        }
        self.deliver()?;
        for site in 0..SITES {
            self.site_turn(site)?;
        }
        self.answer()
    }

    fn tick(&mut self) {
        self.clock += self.rng.random_range(0..50);
        if happens(&mut self.rng, self.odds.clock_jump) {
            self.tally.count("fault: clock jumps");
            self.clock += *[-5_000i64, 60_000, 40 * 24 * 3_600_000].get(self.rng.random_range(0..3)).unwrap_or(&0);
            let back = self.rng.random_bool(0.5);
            self.log.let_time_go_back(back);
        }
        self.log.set_clock(Time(self.clock));
        if self.log_stalled {
            if self.rng.random_ratio(1, 6) {
                self.log_stalled = false;
                self.log.stall_from(None);
            }
        } else if happens(&mut self.rng, self.odds.log_stall) {
            self.tally.count("fault: log stalls");
            self.log_stalled = true;
            self.log.stall_from(Some(self.log.range().end));
        }
    }

    // Clients.

    fn client_turn(&mut self) -> Held {
        let number = self.rng.random_range(0..self.clients.len());
        if self.clients[number].held.is_none() || self.rng.random_ratio(1, 4) {
            self.look(number);
        }
        let step = self.step;
        let late = self.clients[number].pending.iter().find(|(_, pending)| step - pending.since > 12).map(|(id, _)| *id);
        if let Some(id) = late
            && self.rng.random_ratio(2, 3)
        {
            return self.insist(number, id);
        }
        let Some(held) = self.clients[number].held.clone() else { return Ok(()) };
        if happens(&mut self.rng, self.odds.swell) {
            self.tally.count("fault: swell");
            for _ in 0..self.rng.random_range(5..40) {
                self.housekeeping(Wish { body: Body::Fence, meant: super::oracle::Body::Fence });
            }
        }
        match self.rng.random_range(0..100) {
            0..4 => {
                let last_mark = held.view.last_mark;
                self.housekeeping(Wish { body: Body::Mark { last_mark }, meant: super::oracle::Body::Mark { last_mark: last_mark.0 } });
            }
            4..6 => self.housekeeping(Wish { body: Body::Fence, meant: super::oracle::Body::Fence }),
            6..8 => self.stranger(),
            8..11 => {
                let sent: Option<Bytes> = self.clients[number].pending.values().next().map(|pending| pending.record.clone());
                let good = sent.unwrap_or_else(|| self.oracle.records[0].bytes.clone());
                let (bytes, meaning) = workload::junk(&mut self.rng, &good);
                // By chance it may be a record that means something.
                if !self.oracle.book.contains_key(&bytes) {
                    self.tally.count("fault: junk");
                    self.send(bytes, meaning);
                }
            }
            _ => {
                let store = self.sites[self.clients[number].home].store.clone();
                let tags: Vec<Rc<str>> = self.oracle.tags.keys().cloned().collect();
                let wish = match workload::wish(&mut self.rng, &held, &*store, &tags) {
                    Ok(wish) => wish,
                    Err(error) => return breach(Check::Reachable, format!("a held view cannot be read: {error}")),
                };
                self.propose(number, wish, held.view.position)?;
            }
        }
        Ok(())
    }

    /// Takes the newest view of some replica.
    fn look(&mut self, number: usize) {
        let home = if self.rng.random_ratio(1, 3) { self.rng.random_range(0..SITES) } else { self.clients[number].home };
        let Some(view) = self.sites[home].view.clone() else { return };
        let Some(tree) = self.oracle.tree_at(view.revision.0) else { return };
        let version = self.oracle.version_at(view.position.0);
        let client = &mut self.clients[number];
        client.home = home;
        client.held = Some(workload::Held { view, tree, version });
    }

    fn propose(&mut self, number: usize, wish: Wish, seen: Position) -> Held {
        self.intents += 1;
        let seen = match self.rng.random_range(0..60) {
            0 => Position(seen.0 + 500),
            1 => Position(seen.0.saturating_sub(300)),
            _ => seen,
        };
        let mut envelope = Envelope {
            id: Some(EventId { seen, nonce: self.rng.random() }),
            intent: self.intents,
            principal: self.rng.random_range(0..3),
            incarnation: if self.rng.random_ratio(1, 60) { [0x77; 16] } else { LOG_ID },
            reason: String::new(),
        };
        match self.rng.random_range(0..80) {
            0 => envelope.reason = "x".repeat(MAX_EVENT_BYTES),
            // Somebody else's id.
            1 => {
                let others: Vec<EventId> = self.owners.keys().rev().take(20).copied().collect();
                if !others.is_empty() {
                    envelope.id = Some(others[self.rng.random_range(0..others.len())]);
                    let record = workload::record(&envelope, wish.body);
                    self.send(record, workload::meaning(&envelope, wish.meant));
                    return Ok(());
                }
            }
            _ => {}
        }
        let record = workload::record(&envelope, wish.body);
        let meaning = workload::meaning(&envelope, wish.meant);
        let Some(id) = envelope.id else { return Ok(()) };
        let (intent, principal) = (envelope.intent, envelope.principal);
        if record.len() > MAX_EVENT_BYTES {
            // A proper proposer refuses it; nobody waits for what another sends.
            self.send(record, meaning);
            return Ok(());
        }
        self.owners.insert(id, number);
        self.clients[number].pending.insert(id, Pending { record: record.clone(), intent, principal, since: self.step, attempts: 1 });
        self.send(record, meaning);
        if self.plant == Some(Plant::AckOnDelivery) && self.rng.random_ratio(1, 8) {
            let end = self.log.range().end.0;
            let settled = Settled { site: VICTIM, copy: end, position: end, outcome: 0, code: 0, revision: 0 };
            self.tell(number, id, settled)?;
        }
        Ok(())
    }

    /// What became of it is not known: the same event again, or its end.
    fn insist(&mut self, number: usize, id: EventId) -> Held {
        let step = self.step;
        let Some(pending) = self.clients[number].pending.get_mut(&id) else { return Ok(()) };
        pending.since = step;
        pending.attempts += 1;
        let (record, attempts) = (pending.record.clone(), pending.attempts);
        let meaning = self.oracle.book[&record].clone();
        if self.plant == Some(Plant::RetryWithNewId)
            && let Meaning::Event { ours: true, intent, principal, body, .. } = &*meaning
            && let Ok(event) = event::Event::decode(&record)
        {
            let nonce = self.rng.random();
            let seen = self.clients[number].held.as_ref().map_or(id.seen, |held| held.view.position);
            let intention = event.intention.map(|(_, intent)| (EventId { seen, nonce }, intent));
            let id = intention.map(|(id, _)| id);
            let bytes = event::Event { intention, ..event }.encode();
            let meaning = Meaning::Event { ours: true, id, intent: *intent, principal: *principal, body: body.clone() };
            self.send(bytes.into(), meaning);
            return Ok(());
        }
        if attempts > 2 && self.rng.random_ratio(1, 3) {
            self.tally.count("client: withdraws");
            self.intents += 1;
            let seen = self.clients[number].held.as_ref().map_or(id.seen, |held| held.view.position);
            let envelope = Envelope {
                id: Some(EventId { seen, nonce: self.rng.random() }),
                intent: self.intents,
                principal: 0,
                incarnation: LOG_ID,
                reason: String::new(),
            };
            let bytes = workload::record(&envelope, Body::Withdraw { id });
            self.send(bytes, workload::meaning(&envelope, super::oracle::Body::Withdraw { id }));
            return Ok(());
        }
        self.tally.count("client: sends again");
        self.send(record, (*meaning).clone());
        Ok(())
    }

    /// Announces what is not so, or a level that no build has.
    fn stranger(&mut self) {
        let recent = self.oracle.marks.len().saturating_sub(50);
        let known = &self.oracle.marks[recent..];
        if known.is_empty() {
            return;
        }
        let position = Position(known[self.rng.random_range(0..known.len())]);
        let level = if self.upgrading { 2 } else { event::LEVEL };
        let (chain, state) = (Hash(self.rng.random()), Hash(self.rng.random()));
        let announced = Checkpoint { replica: STRANGER, build: "forged".into(), level, position, chain, state, durable: position };
        self.tally.count("fault: forged checkpoint");
        self.housekeeping(workload::checkpoint(announced, true));
    }

    fn housekeeping(&mut self, wish: Wish) {
        let envelope = Envelope { id: None, intent: 0, principal: 0, incarnation: LOG_ID, reason: String::new() };
        let record = workload::record(&envelope, wish.body);
        self.send(record, workload::meaning(&envelope, wish.meant));
    }

    fn send(&mut self, record: Bytes, meaning: Meaning) {
        self.oracle.book.entry(record.clone()).or_insert_with(|| Rc::new(meaning));
        if happens(&mut self.rng, self.odds.append_fault) {
            let (fault, name) = faults::append_fault(&mut self.rng);
            self.tally.count(&format!("fault: {name}"));
            self.log.fail_next([fault]);
        }
        // Whatever the log says, only reading it back counts.
        let _said = self.log.append(record);
    }

    // The log.

    fn deliver(&mut self) -> Held {
        for _ in 0..self.rng.random_range(0..8) {
            let waiting = self.log.in_flight();
            if waiting == 0 {
                break;
            }
            if happens(&mut self.rng, self.odds.lost_in_flight) {
                self.tally.count("fault: lost in flight");
                let _gone = self.log.lose(self.rng.random_range(0..waiting));
                continue;
            }
            let index = if happens(&mut self.rng, self.odds.reorder) { self.rng.random_range(0..waiting) } else { 0 };
            if index > 0 {
                self.tally.count("fault: reordered");
            }
            let Some(position) = self.log.deliver(index) else { break };
            if happens(&mut self.rng, self.odds.repeat) {
                self.tally.count("fault: repeat");
                let after = match self.rng.random_range(0..4) {
                    0 => 0,
                    1 => self.rng.random_range(0..20),
                    2 => self.rng.random_range(0..200),
                    _ => self.rng.random_range(0..=self.latest_repeat),
                };
                let _there = self.log.repeat(position, after);
            }
        }
        self.read_log()
    }

    /// The oracle reads before any replica does.
    fn read_log(&mut self) -> Held {
        loop {
            let records = self.scribe.read(1_000, usize::MAX, Duration::ZERO).expect("the memory log can be read");
            if records.is_empty() {
                return Ok(());
            }
            for record in &records {
                let read = self.oracle.read(record);
                let verdict = self.oracle.verdicts.last().expect("each record has a verdict");
                let code = Code::from_number(verdict.code).map_or("", Code::name);
                let name = ["accepted", "unchanged", "rejected", "duplicate"][usize::from(verdict.outcome)];
                self.tally.count(&format!("outcome: {name} {code}"));
                self.trace = Hash::of(&[&self.trace.0[..], &record.digest.0].concat());
                if let Err(twice) = read {
                    self.checkers.require(Check::Once, false, || twice.0)?;
                }
            }
        }
    }

    // Replicas.

    fn site_turn(&mut self, number: usize) -> Held {
        if self.sites[number].idle_until > self.step {
            return Ok(());
        }
        if happens(&mut self.rng, self.odds.stall) {
            self.tally.count("fault: replica stalls");
            self.sites[number].idle_until = self.step + self.rng.random_range(5..60);
            return Ok(());
        }
        if self.sites[number].folder.is_none() {
            return self.start(number);
        }
        if happens(&mut self.rng, self.odds.snapshot) {
            let copy = self.sites[number].store.snapshot();
            let copies = &mut self.sites[number].copies;
            if copies.len() > 2 {
                copies.remove(0);
            }
            copies.push(copy);
        }
        if happens(&mut self.rng, self.odds.crash) {
            self.crash(number, "fault: replica restarts");
            return Ok(());
        }
        if self.rng.random_ratio(3, 5) {
            self.fold(number)?;
        }
        if happens(&mut self.rng, self.odds.sweep) {
            self.sweep(number)?;
        }
        if happens(&mut self.rng, self.odds.shed)
            && let Some(folder) = &mut self.sites[number].folder
            && folder.collected() == 0
        {
            self.tally.count("fault: tree dropped from memory");
            folder.shed(0);
        }
        if self.rng.random_ratio(1, 40 * self.scale) {
            self.inspect(number)?;
        }
        let announce = self.sites[number].announce.take();
        if let Some(mark) = announce.filter(|_| !self.upgrading && self.rng.random_ratio(3, 4)) {
            let Mark { position, chain, state } = mark;
            let replica = self.sites[number].id;
            let durable = position;
            let announced = Checkpoint { replica, build: "sim".into(), level: event::LEVEL, position, chain, state, durable };
            self.housekeeping(workload::checkpoint(announced, false));
        }
        Ok(())
    }

    fn may_stop(&self, number: usize) -> bool {
        number != VICTIM || !self.plant.is_some_and(Plant::keeps_up)
    }

    /// Everything that is not in the store is gone.
    fn crash(&mut self, number: usize, name: &str) {
        if !self.may_stop(number) {
            return;
        }
        self.tally.count(name);
        let site = &mut self.sites[number];
        site.folder = None;
        site.view = None;
        site.announce = None;
        site.queue.clear();
        self.clients.iter_mut().filter(|client| client.home == number).for_each(|client| client.held = None);
        if !site.copies.is_empty() && happens(&mut self.rng, self.odds.old_store) {
            self.tally.count("fault: restart from an old copy");
            let which = self.rng.random_range(0..site.copies.len());
            site.store = Arc::new(site.copies[which].snapshot());
            site.last_state = None;
        }
        if self.plant == Some(Plant::LogRewritten) && number == VICTIM {
            self.rewrite();
        }
        self.sites[number].idle_until = self.step + self.rng.random_range(0..15);
    }

    /// From what the store holds.
    fn start(&mut self, number: usize) -> Held {
        let site = &mut self.sites[number];
        let mut folder = match Folder::restore(&*site.store, site.id) {
            Ok(folder) => folder,
            Err(error) => return self.checkers.require(Check::OneBatch, false, || format!("replica {number} cannot start: {error}")),
        };
        let head = site.store.head();
        let from = head.as_ref().map_or(Position(0), |head| head.applied.next());
        if let Some(head) = &head {
            // The overlap read: what was folded last is still what the log holds.
            let on_log = record_at(&self.log, head.applied);
            let same = on_log.as_ref().is_some_and(|record| record.digest == head.digest);
            self.checkers.require(Check::Digest, same, || {
                format!("replica {number}: position {} on the log is not the one folded: {on_log:?}", head.applied)
            })?;
            let state = folder.state().clone().hash();
            if let Some((position, hash)) = site.last_state {
                self.checkers.require(Check::OneBatch, position == head.applied, || {
                    format!("replica {number} stood at {position} and starts at {}", head.applied)
                })?;
                self.checkers.require(Check::StateRows, hash == state, || {
                    format!("replica {number} at {position}: state {} before the restart, {} after", hash.short(), state.short())
                })?;
            }
            let view = Arc::new(folder.view());
            site.halted = view.level > event::LEVEL;
            site.view = Some(view);
        }
        site.reader = match self.log.reader(from) {
            Ok(reader) => reader,
            Err(error) => return breach(Check::Digest, format!("replica {number} cannot read on: {error}")),
        };
        site.folder = Some(folder);
        Ok(())
    }

    /// Folds a batch, writes it, lets its effects go; or dies on the way.
    fn fold(&mut self, number: usize) -> Held {
        let deaf = number == VICTIM && self.plant == Some(Plant::DeafReplica) && self.step > 20;
        if self.sites[number].halted || deaf {
            return Ok(());
        }
        let limit = self.rng.random_range(1..=self.sites[number].batch_limit);
        let countdown = if happens(&mut self.rng, self.odds.read_failure) { self.rng.random_range(0..3) } else { -1 };
        let lies = number == VICTIM && self.plant == Some(Plant::WrongObject) && self.rng.random_ratio(1, 10);
        if lies && let Some(folder) = &mut self.sites[number].folder && folder.collected() == 0 {
            folder.shed(0);
        }
        let site = &mut self.sites[number];
        let Some(folder) = &mut site.folder else { return Ok(()) };
        let store = site.store.clone();
        let mut shadow = match folder.collected() == 0 && self.rng.random_ratio(1, 16 * self.scale) {
            true => Some(Folder::restore(&*store, site.id).or_else(|error| breach(Check::OneBatch, format!("replica {number}: {error}")))?),
            false => None,
        };
        if let Some(shadow) = &shadow
            && folder.state().position().is_some()
        {
            let (kept, live) = (shadow.state().clone().hash(), folder.state().clone().hash());
            self.checkers.require(Check::StateRows, kept == live, || {
                format!("replica {number} at {:?}: state {} in memory, {} from its rows", folder.state().position(), live.short(), kept.short())
            })?;
        }
        let reads = Reads::good(&*store).fail_after(countdown).lie(lies);
        let mut folded = 0;
        let mut ends = false;
        while folded < limit && !ends {
            let Some(record) = next_record(&mut *site.reader, &mut site.queue, &mut site.feed) else { break };
            let expected = folder.state().next_position();
            match folder.fold(&record, &reads) {
                Ok(next) => {
                    folded += 1;
                    self.tally.count("records folded");
                    self.checkers.folded(number, folder, &self.oracle)?;
                    ends = next == Next::Ends;
                }
                Err(FoldError::Objects { error, .. }) => {
                    site.queue.push_front(record.clone());
                    self.checkers.require(Check::Objects, reads.has_failed(), || format!("replica {number}: {error}"))?;
                    self.tally.count("fault: store read fails");
                    let unmoved = folder.state().next_position() == expected;
                    self.checkers.require(Check::Pure, unmoved, || format!("a fold that failed moved replica {number} from {expected}"))?;
                    break;
                }
                Err(FoldError::Fenced(what)) => {
                    let check = if record.position == expected { Check::Digest } else { Check::Positions };
                    return breach(check, format!("replica {number}: {what}"));
                }
            }
            if let Some(shadow) = &mut shadow {
                let mut record = record;
                if number == VICTIM && self.plant == Some(Plant::ImpureFold) {
                    record.time = Time(record.time.0 + 5_000_000);
                    let before = shadow.state().digest();
                    record.digest = confold_model::digest::log_digest(before, record.position, record.time, &record.bytes);
                }
                if let Err(error) = shadow.fold(&record, &*store) {
                    self.checkers.require(Check::Pure, false, || format!("replica {number} folds what its double cannot: {error}"))?;
                }
                let (one, other) = (folder.state(), shadow.state());
                let same = (one.chain(), one.root(), one.time(), one.digest()) == (other.chain(), other.root(), other.time(), other.digest());
                self.checkers.require(Check::Pure, same, || {
                    format!("position {}: folding again from the same state gives another result", record.position)
                })?;
            }
        }
        if let Some(shadow) = &shadow {
            let (one, other) = (folder.state().clone().hash(), shadow.state().clone().hash());
            self.checkers.require(Check::Pure, one == other, || format!("replica {number}: its double has another state"))?;
        }
        // Now and then the batch stays open until the next turn.
        if !ends && self.rng.random_ratio(1, 6) {
            return Ok(());
        }
        self.finish(number)
    }

    fn finish(&mut self, number: usize) -> Held {
        if self.odds.crash > 0 && self.rng.random_ratio(1, 60) {
            self.crash(number, "fault: death before a batch is written");
            return Ok(());
        }
        let site = &mut self.sites[number];
        let Some(folder) = &mut site.folder else { return Ok(()) };
        let Some(mut folded) = folder.finish() else { return Ok(()) };
        let victim = self.plant.filter(|_| number == VICTIM);
        // Most plants need something to lose.
        match victim {
            Some(Plant::AckBeforeCommit) if self.rng.random_ratio(1, 3) => {
                self.settle_waiters(number, folded.effects.settlements.clone())?;
            }
            Some(Plant::ViewBeforeCommit) if self.rng.random_ratio(1, 3) => self.publish(number, folded.effects.view.clone())?,
            Some(Plant::MisreportedOutcome) => {
                if let Some(last) = folded.effects.settlements.last_mut() {
                    last.outcome = Outcome::Accepted;
                }
            }
            Some(Plant::LostObject) if !folded.batch.objects.is_empty() && self.rng.random_ratio(1, 4) => {
                let which = self.rng.random_range(0..folded.batch.objects.len());
                folded.batch.objects.remove(which);
            }
            Some(Plant::LostStateRow) if self.rng.random_ratio(1, 4) && folded.batch.state.len() > 1 => {
                // Rows of the fold only: the replica's own are not in the state.
                let fold: Vec<usize> = (0..folded.batch.state.len()).filter(|at| folded.batch.state[*at].table < 0x8000).collect();
                let which = fold[self.rng.random_range(0..fold.len())];
                if folded.batch.state[which].table > 0 {
                    folded.batch.state.remove(which);
                }
            }
            Some(Plant::LostWindow | Plant::LostWindowUnseen) => {
                folded.batch.state.retain(|edit| edit.table != confold_model::state::member::WINDOW);
            }
            Some(Plant::TornBatch) if self.step > 15 => folded.batch.state.clear(),
            Some(Plant::LostIdRow) => folded.batch.ids.truncate(folded.batch.ids.len().saturating_sub(1)),
            Some(Plant::WrongHistoryRow) => folded.batch.revisions.iter_mut().for_each(|row| row.time = Time(row.time.0 + 1)),
            Some(Plant::LostMarkFlag) => folded.batch.mark = false,
            Some(Plant::OldStoreUnderFolder) if self.rng.random_ratio(1, 8) => {
                if let Some(copy) = site.copies.first() {
                    site.store = Arc::new(copy.snapshot());
                }
            }
            _ => {}
        }
        let site = &mut self.sites[number];
        if let Err(error) = site.store.commit(&folded.batch) {
            return breach(Check::OneBatch, format!("replica {number}: {error}"));
        }
        let Some(folder) = &site.folder else { return Ok(()) };
        self.checkers.committed(number, folder, &site.store, &folded.effects, &self.oracle)?;
        let position = folded.effects.view.position;
        site.last_state = match self.rng.random_ratio(1, 4 * self.scale) {
            true => Some((position, self.checkers.state(number, folder)?)),
            false => None,
        };
        let chain = folded.effects.view.chain;
        self.trace = Hash::of(&[&self.trace.0[..], &[number as u8], &position.0.to_be_bytes(), &chain.0].concat());
        self.tally.count("batches");
        if self.odds.crash > 0 && self.rng.random_ratio(1, 60) {
            self.crash(number, "fault: death before a batch is told of");
            return Ok(());
        }
        self.release(number, folded.effects)
    }

    fn release(&mut self, number: usize, effects: Effects) -> Held {
        let site = &mut self.sites[number];
        site.announce = effects.mark.or(site.announce);
        if effects.halt.is_some() {
            self.tally.count("replica halts at an unknown level");
            site.halted = !(self.plant == Some(Plant::FoldsPastHalt) && number == VICTIM);
        }
        self.publish(number, effects.view)?;
        self.settle_waiters(number, effects.settlements)
    }

    fn settle_waiters(&mut self, number: usize, settlements: Vec<Settlement>) -> Held {
        for settlement in settlements {
            let Some(client) = self.owners.get(&settlement.id).copied() else { continue };
            let Some(pending) = self.clients[client].pending.get(&settlement.id) else { continue };
            let store = self.sites[number].store.clone();
            if let Some(settled) = settled(number, &settlement, pending, &store, self.oracle.window) {
                let mut settled = settled;
                if self.plant == Some(Plant::AckAlwaysAccepted) && number == VICTIM {
                    (settled.outcome, settled.code) = (0, 0);
                }
                self.tell(client, settlement.id, settled)?;
            }
        }
        Ok(())
    }

    /// Readers see it from now on.
    fn publish(&mut self, number: usize, view: Arc<View>) -> Held {
        let head = self.sites[number].store.head();
        let stored = head.as_ref().is_some_and(|head| (head.applied, head.chain, head.root) == (view.position, view.chain, view.root));
        self.checkers.require(Check::Views, stored, || {
            format!("replica {number} shows position {} root {}, its store has {head:?}", view.position, view.root.short())
        })?;
        self.sites[number].view = Some(view);
        Ok(())
    }

    /// Answers reach their clients in any order, or not at all.
    fn answer(&mut self) -> Held {
        for _ in 0..self.answers.len() {
            let which = self.rng.random_range(0..self.answers.len());
            if self.rng.random_ratio(1, 4) {
                continue;
            }
            let Answer { client, id, settled } = self.answers.swap_remove(which);
            let verdict = self.oracle.verdicts.get(settled.position as usize);
            let right = verdict.is_some_and(|verdict| {
                (verdict.outcome, verdict.code) == (settled.outcome, settled.code)
                    && (settled.outcome != 0 || verdict.id == Some(id))
                    && (settled.revision == 0 || settled.revision == verdict.revision)
            });
            self.checkers.require(Check::Answers, right, || format!("id {id} was answered {settled:?}, decided was {verdict:?}"))?;
            if happens(&mut self.rng, self.odds.lost_answer) {
                self.tally.count("fault: answer lost");
                continue;
            }
            self.tally.count("client: answered");
            self.clients[client].pending.remove(&id);
        }
        Ok(())
    }

    /// Nobody is told of what the store of the replica that answers does not hold.
    fn tell(&mut self, client: usize, id: EventId, settled: Settled) -> Held {
        let head = self.sites[settled.site].store.head();
        let stored = head.as_ref().is_some_and(|head| head.applied.0 >= settled.copy);
        self.checkers.require(Check::Answers, stored, || {
            format!("id {id} is answered by replica {} for {}, its store has {head:?}", settled.site, settled.copy)
        })?;
        self.answers.push(Answer { client, id, settled });
        Ok(())
    }

    // Sweeps and inspections.

    fn sweep(&mut self, number: usize) -> Held {
        let Some(view) = self.sites[number].view.clone() else { return Ok(()) };
        let store = self.sites[number].store.clone();
        let tags: BTreeMap<Rc<str>, u64> = view.tags.iter().map(|(name, tag)| (name.as_str().into(), tag.revision.0)).collect();
        for tagged in tags.values().filter(|revision| **revision <= view.floor.0) {
            let revision = Revision(*tagged);
            if !store.persisted(revision..=revision, Order::Ascending, 1).unwrap_or_default().is_empty() {
                continue;
            }
            let tree = self.checkers.remade(number, &store, revision, &self.oracle)?;
            let mut objects = Vec::new();
            tree.unpersisted(&mut |hash, bytes| objects.push((hash, bytes)));
            let Some(row) = store.revision(revision).unwrap_or_default() else { continue };
            let made = PersistedTree { revision, position: row.position, root: row.root, mark: false };
            if let Err(error) = store.persist_tree(made, &objects) {
                return breach(Check::Reachable, format!("replica {number}: {error}"));
            }
            self.tally.count("sweep: tagged revision made whole");
        }
        let nearest = store.persisted_at_or_below(view.floor).unwrap_or_default().map(|tree| tree.revision);
        let rows = store.persisted(Revision(0)..=view.revision, Order::Ascending, usize::MAX).unwrap_or_default();
        let mut roots: Vec<Hash> = Vec::new();
        for row in &rows {
            let above = row.revision > view.floor && (row.mark || self.rng.random_ratio(2, 3));
            if above || tags.values().any(|tagged| *tagged == row.revision.0) || nearest == Some(row.revision) {
                roots.push(row.root);
            }
        }
        let held = self.held_roots(number);
        if self.plant != Some(Plant::SweepForgetsHeldViews) || number != VICTIM {
            roots.extend(&held);
        }
        let links = |bytes: &[u8]| references(bytes).map_err(|refused| refused.to_string());
        let begun = Sweeper::begin(&*store, &links, || Ok(roots));
        let mut sweeper = match begun {
            Ok(sweeper) => sweeper,
            Err(error) => return breach(Check::Reachable, format!("replica {number}: {error}")),
        };
        let together = self.rng.random_bool(0.5);
        let mut alone = true;
        loop {
            match sweeper.step(self.rng.random_range(1..80)) {
                Ok(Progress::Done) => break,
                Ok(_) => {}
                Err(error) => return self.checkers.require(Check::Reachable, false, || format!("replica {number}: {error}")),
            }
            if together && self.rng.random_ratio(1, 3) {
                alone = false;
                self.fold(number)?;
            }
            if self.rng.random_ratio(1, 60) || !Arc::ptr_eq(&store, &self.sites[number].store) {
                self.tally.count("fault: sweep cut short");
                return Ok(());
            }
        }
        let report = sweeper.report();
        drop(sweeper);
        self.tally.count(if alone { "sweep: alone" } else { "sweep: while folding" });
        if report.deleted > 0 {
            self.tally.count("sweep: found something");
        }
        if self.plant == Some(Plant::SweepTakesLiveObject) && number == VICTIM {
            let stored = store.object_sizes(&Hash::ZERO, 50).unwrap_or_default();
            if let Some((hash, _)) = stored.last() {
                store.delete_objects(&[*hash]).expect("the memory store deletes");
            }
        }
        // Commits of a sweep's time bring objects that its own roots do not reach; so do stalled heads.
        self.checkers.reachable(number, &store, &held, alone)?;
        self.inspect_views(number)
    }

    fn held_roots(&self, number: usize) -> Vec<Hash> {
        let views = self.clients.iter().filter(|client| client.home == number).filter_map(|client| client.held.as_ref());
        let roots = views.map(|held| held.view.root).chain(self.sites[number].view.iter().map(|view| view.root));
        roots.filter(|root| *root != EMPTY_NODE).collect()
    }

    fn inspect_views(&mut self, number: usize) -> Held {
        for client in self.clients.iter().filter(|client| client.home == number) {
            if let Some(held) = &client.held {
                // As a reader who has nothing of it in memory.
                let cold = View { tree: stored(held.view.root), ..(*held.view).clone() };
                self.checkers.view(number, &cold, &self.sites[number].store, &held.tree)?;
            }
        }
        Ok(())
    }

    fn inspect(&mut self, number: usize) -> Held {
        self.tally.count("inspections");
        let store = self.sites[number].store.clone();
        self.checkers.tree(number, &store, &self.oracle)?;
        self.checkers.history(number, &store, &self.oracle)?;
        self.inspect_views(number)?;
        let Some(head) = store.head() else { return Ok(()) };
        // Any kept revision can be made again.
        let latest = head.revision.0;
        let revision = latest.saturating_sub(self.rng.random_range(0..40)).max(1);
        if revision <= latest && is_kept(revision, latest, head.floor.0, &self.oracle.tags) && self.rng.random_ratio(1, 3) {
            self.tally.count("revisions made again");
            self.checkers.remade(number, &store, Revision(revision), &self.oracle)?;
        }
        Ok(())
    }

    /// The log loses its end and gets another.
    fn rewrite(&mut self) {
        let Some(head) = self.sites[VICTIM].store.head() else { return };
        if head.applied.0 < 5 || self.sites[VICTIM].planted {
            return;
        }
        self.sites[VICTIM].planted = true;
        self.log.cut(Position(head.applied.0 - 2));
        // Long enough that nobody finds the log too short for what they have read.
        while self.log.range().end.0 < self.oracle.records.len() as u64 + 5 {
            let envelope = Envelope { id: None, intent: 0, principal: 0, incarnation: LOG_ID, reason: "another end".into() };
            let record = workload::record(&envelope, Body::Fence);
            self.oracle.book.insert(record.clone(), Rc::new(workload::meaning(&envelope, super::oracle::Body::Fence)));
            let _said = self.log.append(record);
            let _count = self.log.deliver_all();
        }
    }

    // The end.

    /// Faults stop; then everything must come to an end, and to the same one.
    fn settle(&mut self) -> Held {
        self.odds = Odds::none();
        self.log.stall_from(None);
        self.sites.iter_mut().for_each(|site| site.idle_until = 0);
        for round in 0..40 {
            let _count = self.log.deliver_all();
            self.read_log()?;
            let halted_at = self.oracle.verdicts.iter().position(|verdict| verdict.level > event::LEVEL);
            let end = halted_at.map_or(self.oracle.verdicts.len() as u64, |at| at as u64 + 1);
            for number in 0..SITES {
                for _ in 0..end + 50 {
                    if self.sites[number].folder.is_none() {
                        self.start(number)?;
                    }
                    self.fold(number)?;
                    self.finish(number)?;
                    if self.sites[number].store.head().is_some_and(|head| head.applied.0 + 1 >= end) {
                        break;
                    }
                }
                let head = self.sites[number].store.head();
                let there = head.as_ref().is_some_and(|head| head.applied.0 + 1 == end);
                let check = if halted_at.is_some() { Check::Level } else { Check::Liveness };
                self.checkers.require(check, there, || format!("replica {number} should end at {end}, it has {head:?}"))?;
            }
            while !self.answers.is_empty() {
                self.answer()?;
            }
            let waiting: Vec<(usize, EventId)> =
                self.clients.iter().enumerate().flat_map(|(n, client)| client.pending.keys().map(move |id| (n, *id))).collect();
            if waiting.is_empty() || halted_at.is_some() {
                break;
            }
            self.checkers.require(Check::Liveness, round < 39, || {
                let of = |id: EventId| self.oracle.verdicts.iter().filter(move |verdict| verdict.id == Some(id)).next_back();
                let known: Vec<_> = waiting.iter().map(|(_, id)| (id, of(*id))).collect();
                format!("what became of these stays unknown: {known:?}")
            })?;
            for (number, id) in waiting {
                self.resend(number, id);
            }
        }
        for number in 0..SITES {
            self.inspect(number)?;
            let held = self.held_roots(number);
            let store = self.sites[number].store.clone();
            self.checkers.reachable(number, &store, &held, false)?;
            self.sweep(number)?;
            self.finals(number)?;
        }
        Ok(())
    }

    /// The same event again; or a look at the index, where the window is past.
    fn resend(&mut self, number: usize, id: EventId) {
        let Some(pending) = self.clients[number].pending.get(&id) else { return };
        let record = pending.record.clone();
        let meaning = self.oracle.book[&record].clone();
        self.send(record, (*meaning).clone());
    }

    fn finals(&mut self, number: usize) -> Held {
        let Some(view) = self.sites[number].view.clone() else { return Ok(()) };
        let at = view.position.0 as usize;
        if at + 1 != self.oracle.verdicts.len() {
            return Ok(());
        }
        let tags: BTreeMap<Rc<str>, u64> = view.tags.iter().map(|(name, tag)| (name.as_str().into(), tag.revision.0)).collect();
        self.checkers.require(Check::Verdicts, tags == self.oracle.tags, || {
            format!("replica {number} has tags {tags:?}, must have {:?}", self.oracle.tags)
        })?;
        let Some(folder) = &self.sites[number].folder else { return Ok(()) };
        for revision in 1..=view.revision.0 {
            let (ours, theirs) = (folder.state().is_kept(Revision(revision)), self.oracle.is_kept(revision));
            self.checkers.require(Check::Verdicts, ours == theirs, || {
                format!("replica {number}: revision {revision} kept is {ours}, must be {theirs}")
            })?;
        }
        Ok(())
    }
}

fn record_at(log: &MemoryLog, position: Position) -> Option<Record> {
    log.reader(position).ok()?.read(1, usize::MAX, Duration::ZERO).ok()?.pop()
}

/// The next record that the replica is shown.
fn next_record(reader: &mut dyn Reader, queue: &mut VecDeque<Record>, feed: &mut Feed) -> Option<Record> {
    while queue.is_empty() {
        let read = reader.read(64, usize::MAX, Duration::ZERO).expect("the memory log can be read");
        if read.is_empty() {
            return None;
        }
        for record in read {
            queue.extend(feed.give(record));
        }
    }
    queue.pop_front()
}

/// What a client is told of a copy of its event; `None` where this copy says nothing about it. As a replica answers.
fn settled(number: usize, settlement: &Settlement, pending: &Pending, store: &MemoryStore, window: u64) -> Option<Settled> {
    let copy = settlement.position.0;
    let principal = if pending.principal == 0 { String::new() } else { format!("p{}", pending.principal) };
    let mark = intent_mark(&Hash::of(&pending.intent.to_be_bytes()), &principal);
    let answer = |position: u64, outcome: u8, code: u16, revision: u64| Settled { site: number, copy, position, outcome, code, revision };
    if !settlement.answers(&pending.record, &mark) {
        return None;
    }
    Some(match &settlement.outcome {
        Outcome::Duplicate(entry) => answer(entry.position.0, entry.outcome, entry.code, entry.revision.0),
        Outcome::Rejected(rejection) if matches!(rejection.code, Code::Expired | Code::Foreign) => {
            match store.id(&settlement.id, window).ok().flatten() {
                Some(row) => answer(row.position.0, 0, 0, row.revision.0),
                None => answer(copy, 2, rejection.code.number(), 0),
            }
        }
        outcome => answer(copy, outcome.number(), outcome.code(), settlement.revision.map_or(0, |revision| revision.0)),
    })
}
