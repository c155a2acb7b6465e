//! One run: replicas, clients and a log on one thread, everything decided by one seed.

use super::checkers::{Breach, Check, Checkers, Held, breach};
use super::faults::{Odds, Tally, happens};
use super::oracle::{Meaning, Oracle};
use super::plants::{Feed, Plant};
use super::workload::{self, Envelope, Habits, LOG_ID, MAX_EVENT_BYTES};
use super::{Options, Report};
use crate::step::Folder;
use clients::{Answer, Client};
use confold_log::memory::MemoryLog;
use confold_log::{Log, Reader};
use confold_model::code::Code;
use confold_model::event::{self, Body, Genesis, Limits, RetentionPolicy};
use confold_model::ids::{EventId, Hash, Position, Time};
use confold_store::Store;
use confold_store::memory::MemoryStore;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replicas::Site;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

mod clients;
mod replicas;
mod sweeps;

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
    habits: Habits,
    log_stalled: bool,
    intents: u64,
    trace: Hash,
    tally: Tally,
    pub step: u64,
}

impl World {
    pub fn new(seed: u64, options: &Options) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let log = MemoryLog::new(TRANSPORT);
        // As a log does that stores no digests: whoever opens it tells it one near by.
        log.forget_digests(1);
        let window = *[60, 200, 1_000, 4_000, 1 << 20]
            .get(rng.random_range(0..5))
            .unwrap_or(&64);
        let window = options.window.unwrap_or(window);
        let retention = (
            rng.random_range(0..10),
            rng.random_range(0..2_000),
            rng.random_ratio(1, 4),
        );
        // What costs more the longer the log gets comes less often on a long one.
        let scale = u32::try_from(options.events / 500).unwrap_or(u32::MAX).clamp(1, 1_000);
        let mut odds = Odds::any(&mut rng).rarer(scale);
        // Long logs are for what comes again: one record in ten at least.
        if options.events > 5_000 && !(1..=10).contains(&odds.repeat) {
            odds.repeat = 10;
        }
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
        let clients = (0..rng.random_range(2..6)).map(|_| Client {
            home: rng.random_range(0..SITES),
            held: None,
            pending: BTreeMap::new(),
        });
        let clients = clients.collect();
        let upgrading =
            (rng.random_ratio(1, 25) && options.events < 5_000) || options.plant == Some(Plant::FoldsPastHalt);
        // A next level comes where everybody may ask for it. Long logs are for what is the same all along.
        let calm = upgrading || options.events > 5_000;
        let habits = Habits {
            moves: rng.random_ratio(1, 4) && !calm,
            polices: (rng.random_ratio(1, 3) && !calm) || options.plant == Some(Plant::LostPolicy),
        };
        World {
            plant: options.plant,
            events: options.events,
            latest_repeat: options.latest_repeat,
            clients,
            upgrading,
            habits,
            scribe: log.reader(Position(0)).expect("the log starts at 0"),
            oracle: Oracle::new(MAX_EVENT_BYTES, window, retention, (LOG_ID, TRANSPORT)),
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
        self.settle()?;
        for (what, count) in [
            ("race: a right revoked under way", self.oracle.revoked),
            ("race: a right granted under way", self.oracle.granted),
            ("lives of a log", self.oracle.incarnations.len() as u64 - 1),
        ] {
            if count > 0 {
                self.tally.add(&Tally(BTreeMap::from([(what.to_owned(), count)])));
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        let (keep_revisions, keep_age_ms, keep_all) = self.oracle.retention();
        let genesis = Genesis {
            log_id: LOG_ID,
            store_name: "sim".into(),
            limits: Limits {
                max_event_bytes: MAX_EVENT_BYTES as u64,
                ..Limits::default()
            },
            window: self.oracle.window,
            trim_replicas: 2,
            retention: RetentionPolicy {
                keep_revisions,
                keep_age_ms,
                keep_all,
            },
            level: event::LEVEL,
            transport_id: TRANSPORT,
        };
        let envelope = Envelope {
            id: None,
            intent: 0,
            principal: 0,
            incarnation: LOG_ID,
            reason: String::new(),
        };
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
            self.clock += *[-5_000i64, 60_000, 40 * 24 * 3_600_000]
                .get(self.rng.random_range(0..3))
                .unwrap_or(&0);
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
            let index = if happens(&mut self.rng, self.odds.reorder) {
                self.rng.random_range(0..waiting)
            } else {
                0
            };
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
            let records = self
                .scribe
                .read(1_000, usize::MAX, Duration::ZERO)
                .expect("the memory log can be read");
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

    // The end.

    /// Faults stop; then everything must come to an end, and to the same one.
    fn settle(&mut self) -> Held {
        self.odds = Odds::none();
        self.log.stall_from(None);
        self.sites.iter_mut().for_each(|site| site.idle_until = 0);
        for round in 0..40 {
            let _count = self.log.deliver_all();
            self.read_log()?;
            let halted_at = self
                .oracle
                .verdicts
                .iter()
                .position(|verdict| verdict.level > event::LEVEL);
            let end = halted_at.map_or(self.oracle.verdicts.len() as u64, |at| at as u64 + 1);
            for number in 0..SITES {
                for _ in 0..end + 50 {
                    if self.sites[number].folder.is_none() {
                        self.start(number)?;
                    }
                    self.fold(number)?;
                    self.finish(number)?;
                    if self.sites[number]
                        .store
                        .head()
                        .is_some_and(|head| head.applied.0 + 1 >= end)
                    {
                        break;
                    }
                }
                let head = self.sites[number].store.head();
                let there = head.as_ref().is_some_and(|head| head.applied.0 + 1 == end);
                let check = if halted_at.is_some() {
                    Check::Level
                } else {
                    Check::Liveness
                };
                self.checkers.require(check, there, || {
                    format!("replica {number} should end at {end}, it has {head:?}")
                })?;
            }
            while !self.answers.is_empty() {
                self.answer()?;
            }
            let waiting: Vec<(usize, EventId)> = self
                .clients
                .iter()
                .enumerate()
                .flat_map(|(n, client)| client.pending.keys().map(move |id| (n, *id)))
                .collect();
            if waiting.is_empty() || halted_at.is_some() {
                break;
            }
            self.checkers.require(Check::Liveness, round < 39, || {
                let of = |id: EventId| {
                    self.oracle
                        .verdicts
                        .iter()
                        .filter(move |verdict| verdict.id == Some(id))
                        .next_back()
                };
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
        let Some(pending) = self.clients[number].pending.get(&id) else {
            return;
        };
        let record = pending.record.clone();
        let meaning = self.oracle.book[&record].clone();
        self.send(record, (*meaning).clone());
    }

    /// A replica that stands where the oracle stands remembers the same.
    fn finals(&self, number: usize) -> Held {
        let Some(folder) = &self.sites[number].folder else {
            return Ok(());
        };
        let state = folder.state();
        if state.next_position().0 != self.oracle.verdicts.len() as u64 {
            return Ok(());
        }
        let differs = self.oracle.differs_from(state);
        self.checkers.require(Check::Verdicts, differs.is_none(), || {
            format!(
                "replica {number} at the end: {}",
                differs.as_deref().unwrap_or_default()
            )
        })
    }
}
