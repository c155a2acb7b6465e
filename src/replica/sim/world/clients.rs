//! Clients: what they wish, how they insist, what they are told.

use super::super::faults::{self, happens};
use super::super::oracle::{self, Meaning};
use super::super::plants::Plant;
use super::super::workload::{self, Envelope, LOG_ID, MAX_EVENT_BYTES, Wish};
use super::{Check, Held, SITES, STRANGER, VICTIM, World, breach};
use crate::step::Settlement;
use bytes::Bytes;
use confold_log::Log;
use confold_model::event::{self, Body, Checkpoint};
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Hash, Position};
use confold_store::Store;
use confold_store::memory::MemoryStore;
use rand::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) struct Client {
    pub(super) home: usize,
    pub(super) held: Option<workload::Held>,
    pub(super) pending: BTreeMap<EventId, Pending>,
}

pub(super) struct Pending {
    pub(super) record: Bytes,
    pub(super) since: u64,
    pub(super) attempts: u32,
}

/// On its way to a client.
pub(super) struct Answer {
    pub(super) client: usize,
    pub(super) id: EventId,
    pub(super) settled: Settled,
}

#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) site: usize,
    /// Of the copy that this answers.
    pub(super) copy: u64,
    /// Of the copy that decided.
    pub(super) position: u64,
    pub(super) outcome: u8,
    pub(super) code: u16,
    pub(super) revision: u64,
}

impl World {
    pub(super) fn client_turn(&mut self) -> Held {
        let number = self.rng.random_range(0..self.clients.len());
        if self.clients[number].held.is_none() || self.rng.random_ratio(1, 4) {
            self.look(number);
        }
        let step = self.step;
        let late = self.clients[number]
            .pending
            .iter()
            .find(|(_, pending)| step - pending.since > 12)
            .map(|(id, _)| *id);
        if let Some(id) = late
            && self.rng.random_ratio(2, 3)
        {
            return self.insist(number, id);
        }
        let Some(held) = self.clients[number].held.clone() else {
            return Ok(());
        };
        if happens(&mut self.rng, self.odds.swell) {
            self.tally.count("fault: swell");
            for _ in 0..self.rng.random_range(5..40) {
                self.housekeeping(Wish {
                    body: Body::Fence,
                    meant: oracle::Body::Fence,
                });
            }
        }
        match self.rng.random_range(0..100) {
            0..4 => {
                let last_mark = held.view.last_mark;
                self.housekeeping(Wish {
                    body: Body::Mark { last_mark },
                    meant: oracle::Body::Mark { last_mark: last_mark.0 },
                });
            }
            4..6 => self.housekeeping(Wish {
                body: Body::Fence,
                meant: oracle::Body::Fence,
            }),
            6..8 => self.stranger(),
            8..11 => {
                let sent: Option<Bytes> = self.clients[number]
                    .pending
                    .values()
                    .next()
                    .map(|pending| pending.record.clone());
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
                let whole = workload::rule_or_move(&mut self.rng, &held, self.habits);
                let wish = match whole.map_or_else(|| workload::wish(&mut self.rng, &held, &*store, &tags), Ok) {
                    Ok(wish) => wish,
                    Err(error) => return breach(Check::Reachable, format!("a held view cannot be read: {error}")),
                };
                self.propose(number, wish, held.view.position, held.view.incarnation.0)?;
            }
        }
        Ok(())
    }

    /// Takes the newest view of some replica.
    pub(super) fn look(&mut self, number: usize) {
        let home = if self.rng.random_ratio(1, 3) {
            self.rng.random_range(0..SITES)
        } else {
            self.clients[number].home
        };
        let Some(view) = self.sites[home].view.clone() else {
            return;
        };
        let Some(tree) = self.oracle.tree_at(view.revision.0) else {
            return;
        };
        let version = self.oracle.version_at(view.position.0);
        let client = &mut self.clients[number];
        client.home = home;
        client.held = Some(workload::Held { view, tree, version });
    }

    pub(super) fn propose(&mut self, number: usize, wish: Wish, seen: Position, incarnation: [u8; 16]) -> Held {
        self.intents += 1;
        let seen = match self.rng.random_range(0..60) {
            0 => Position(seen.0 + 500),
            1 => Position(seen.0.saturating_sub(300)),
            _ => seen,
        };
        // Where there is a policy, most who come are those who may.
        let ruled = self.oracle.policies.last().is_some_and(|(_, rules)| !rules.is_empty());
        let principal = match self.rng.random_range(0..8) {
            0..5 if ruled => 1,
            number => number % 3,
        };
        let mut envelope = Envelope {
            id: Some(EventId {
                seen,
                nonce: self.rng.random(),
            }),
            intent: self.intents,
            principal,
            incarnation: match self.rng.random_range(0..120) {
                0 => [0x77; 16],
                1 => LOG_ID,
                _ => incarnation,
            },
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
        if record.len() > MAX_EVENT_BYTES {
            // A proper proposer refuses it; nobody waits for what another sends.
            self.send(record, meaning);
            return Ok(());
        }
        self.owners.insert(id, number);
        self.clients[number].pending.insert(
            id,
            Pending {
                record: record.clone(),
                since: self.step,
                attempts: 1,
            },
        );
        self.send(record, meaning);
        if self.plant == Some(Plant::AckOnDelivery) && self.rng.random_ratio(1, 8) {
            let end = self.log.range().end.0;
            let settled = Settled {
                site: VICTIM,
                copy: end,
                position: end,
                outcome: 0,
                code: 0,
                revision: 0,
            };
            self.tell(number, id, settled)?;
        }
        Ok(())
    }

    /// What became of it is not known: the same event again, or its end.
    pub(super) fn insist(&mut self, number: usize, id: EventId) -> Held {
        let step = self.step;
        let Some(pending) = self.clients[number].pending.get_mut(&id) else {
            return Ok(());
        };
        pending.since = step;
        pending.attempts += 1;
        let (record, attempts) = (pending.record.clone(), pending.attempts);
        let meaning = self.oracle.book[&record].clone();
        if self.plant == Some(Plant::RetryWithNewId)
            && let Meaning::Event {
                incarnation,
                intent,
                principal,
                body,
                ..
            } = &*meaning
            && *incarnation == self.oracle.incarnation()
            && let Ok(event) = event::Event::decode(&record)
        {
            let nonce = self.rng.random();
            let seen = self.clients[number]
                .held
                .as_ref()
                .map_or(id.seen, |held| held.view.position);
            let intention = event.intention.map(|(_, intent)| (EventId { seen, nonce }, intent));
            let id = intention.map(|(id, _)| id);
            let bytes = event::Event { intention, ..event }.encode();
            let meaning = Meaning::Event {
                incarnation: *incarnation,
                id,
                intent: *intent,
                principal: *principal,
                body: body.clone(),
            };
            self.send(bytes.into(), meaning);
            return Ok(());
        }
        if attempts > 2 && self.rng.random_ratio(1, 3) {
            self.tally.count("client: withdraws");
            self.intents += 1;
            let seen = self.clients[number]
                .held
                .as_ref()
                .map_or(id.seen, |held| held.view.position);
            let envelope = Envelope {
                id: Some(EventId {
                    seen,
                    nonce: self.rng.random(),
                }),
                intent: self.intents,
                principal: 1,
                incarnation: self.oracle.incarnation(),
                reason: String::new(),
            };
            let bytes = workload::record(&envelope, Body::Withdraw { id });
            self.send(bytes, workload::meaning(&envelope, oracle::Body::Withdraw { id }));
            return Ok(());
        }
        self.tally.count("client: sends again");
        self.send(record, (*meaning).clone());
        Ok(())
    }

    /// Announces what is not so, or a level that no build has.
    pub(super) fn stranger(&mut self) {
        let recent = self.oracle.marks.len().saturating_sub(50);
        let known = &self.oracle.marks[recent..];
        if known.is_empty() {
            return;
        }
        let position = Position(known[self.rng.random_range(0..known.len())]);
        let level = if self.upgrading { 2 } else { event::LEVEL };
        let (chain, state) = (Hash(self.rng.random()), Hash(self.rng.random()));
        let announced = Checkpoint {
            replica: STRANGER,
            build: "forged".into(),
            level,
            position,
            chain,
            state,
            durable: position,
        };
        self.tally.count("fault: forged checkpoint");
        self.housekeeping(workload::checkpoint(announced, true));
    }

    pub(super) fn housekeeping(&mut self, wish: Wish) {
        let envelope = Envelope {
            id: None,
            intent: 0,
            principal: 0,
            // Whoever keeps house may have missed that a new life has begun.
            incarnation: match self.rng.random_range(0..40) {
                0 => LOG_ID,
                _ => self.oracle.incarnation(),
            },
            reason: String::new(),
        };
        let record = workload::record(&envelope, wish.body);
        self.send(record, workload::meaning(&envelope, wish.meant));
    }

    pub(super) fn send(&mut self, record: Bytes, meaning: Meaning) {
        self.oracle
            .book
            .entry(record.clone())
            .or_insert_with(|| Rc::new(meaning));
        if happens(&mut self.rng, self.odds.append_fault) {
            let (fault, name) = faults::append_fault(&mut self.rng);
            self.tally.count(&format!("fault: {name}"));
            self.log.fail_next([fault]);
        }
        // Whatever the log says, only reading it back counts.
        let _said = self.log.append(record);
    }

    pub(super) fn settle_waiters(&mut self, number: usize, settlements: Vec<Settlement>) -> Held {
        for settlement in settlements {
            let Some(client) = self.owners.get(&settlement.id).copied() else {
                continue;
            };
            let Some(pending) = self.clients[client].pending.get(&settlement.id) else {
                continue;
            };
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

    /// Answers reach their clients in any order, or not at all.
    pub(super) fn answer(&mut self) -> Held {
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
            self.checkers.require(Check::Answers, right, || {
                format!("id {id} was answered {settled:?}, decided was {verdict:?}")
            })?;
            if happens(&mut self.rng, self.odds.lost_answer) {
                self.tally.count("fault: answer lost");
                continue;
            }
            self.tally.count("client: answered");
            self.clients[client].pending.remove(&id);
        }
        Ok(())
    }

    /// Nobody is told of what the replica that answers has not folded.
    pub(super) fn tell(&mut self, client: usize, id: EventId, settled: Settled) -> Held {
        let folder = self.sites[settled.site].folder.as_ref();
        let folded = folder.and_then(|folder| folder.state().position());
        self.checkers.require(Check::Answers, folded.is_some_and(|folded| folded.0 >= settled.copy), || {
            format!(
                "id {id} is answered by replica {} for {}, it has folded up to {folded:?}",
                settled.site, settled.copy
            )
        })?;
        self.answers.push(Answer { client, id, settled });
        Ok(())
    }
}

/// What a client is told of its event; `None` where another copy of the id says nothing about it. As a replica answers.
fn settled(
    number: usize,
    settlement: &Settlement,
    pending: &Pending,
    store: &MemoryStore,
    window: u64,
) -> Option<Settled> {
    // An attempt is the same bytes as the one before; who took the same id for something else is somebody else.
    if settlement.record != pending.record {
        return None;
    }
    let copy = settlement.position.0;
    let answer = |position: u64, outcome: u8, code: u16, revision: u64| Settled {
        site: number,
        copy,
        position,
        outcome,
        code,
        revision,
    };
    Some(match &settlement.outcome {
        Outcome::Duplicate(entry) => answer(entry.position.0, entry.outcome, entry.code, entry.revision.0),
        Outcome::Rejected(rejection) if settlement.asks_index() => {
            match store.id(&settlement.id, window).ok().flatten() {
                Some(row) => answer(row.position.0, 0, 0, row.revision.0),
                None => answer(copy, 2, rejection.code.number(), 0),
            }
        }
        outcome => answer(
            copy,
            outcome.number(),
            outcome.code(),
            settlement.revision.map_or(0, |revision| revision.0),
        ),
    })
}
