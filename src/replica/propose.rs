//! Proposing: hand an event to the log, wait until it is folded.
//!
//! Whoever waits is found by event id, and only the fold's settlements end the wait with an outcome: neither a successful
//! append nor a failed one says what became of the event. So every other end is `Unknown`, and sending the same event
//! again (same id, same intent) is always safe.

use crate::core::Core;
use crate::status::{ReplicaState, Standing};
use crate::step::Settlement;
use crate::view::View;
use bytes::Bytes;
use confold_log::LogError;
use confold_model::code::{Code, Rejection};
use confold_model::digest::intent_mark;
use confold_model::event::{Body, Event, FORMAT};
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::node::EMPTY_NODE;
use confold_model::window::Entry;
use confold_store::StoreError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// An event to propose; what it is not told, the replica fills in.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub body: Body<'static>,
    /// Minted once per intention and the same in every attempt. `None`: one is minted here.
    pub id: Option<EventId>,
    /// BLAKE3 of the request as the client sent it.
    pub intent: Hash,
    /// Who asks, in the client's words, and as the server knows them.
    pub author: String,
    pub principal: String,
    /// The client's clock, for people.
    pub client_time_ms: i64,
    pub reason: String,
}

impl Proposal {
    /// A body proposed by nobody in particular; its intent is the body itself.
    pub fn new(body: Body<'static>) -> Proposal {
        let empty = Event {
            format: FORMAT,
            incarnation: Default::default(),
            intention: None,
            author: "".into(),
            principal: "".into(),
            client_time_ms: 0,
            reason: "".into(),
            body,
        };
        let intent = Hash::of(&empty.encode());
        Proposal {
            body: empty.body,
            id: None,
            intent,
            author: String::new(),
            principal: String::new(),
            client_time_ms: 0,
            reason: String::new(),
        }
    }
}

/// The event stands on the log and is folded: this is what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    pub id: EventId,
    pub position: Position,
    /// t(position); `None` for a first copy that made no revision, long ago.
    pub time: Option<Time>,
    /// Never `Duplicate`: where this was a later copy, the first one's outcome.
    pub outcome: Outcome,
    /// The revision that it made.
    pub revision: Option<Revision>,
    /// The tree's root after it.
    pub root: Hash,
    /// An earlier copy of the same event decided.
    pub repeated: bool,
}

/// Why there is no outcome. In every case but `Unknown` the event did not reach the log by this call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Send the same event again, or withdraw it.
    #[error("what became of event {id} is not known: {reason}")]
    Unknown { id: EventId, reason: String },
    /// Ask another replica, or do as the state's hint says.
    #[error("this replica takes no proposals, it is {}: {reason}", .state.name())]
    Unavailable { state: ReplicaState, reason: String },
    /// Wait until there is space again; the replica then goes on by itself.
    #[error("this replica takes no proposals, its disk is full: {reason}")]
    DiskFull { reason: String },
    /// Wait for answers, then go on.
    #[error("too much is under way: {what}; wait for answers, then send again")]
    Busy { what: String },
    /// Split it into several.
    #[error("the event has {size} bytes, and the store takes at most {limit}: split it into several commits")]
    TooLarge { size: u64, limit: u64 },
    /// Write where the log went. Copies that are on their way already are for the fold to refuse.
    #[error("the log was sealed to be moved; where it goes on, it was opened again")]
    Sealed,
    /// A withdrawal did not fit: the id is as open as before.
    #[error("the withdrawal was refused: {}", .0.detail)]
    Refused(Rejection),
}

impl ProposeError {
    /// The code that clients know it by.
    pub fn code(&self) -> Code {
        match self {
            ProposeError::Unknown { .. } => Code::Unknown,
            ProposeError::TooLarge { .. } => Code::TooLarge,
            ProposeError::Sealed => Code::Sealed,
            ProposeError::Refused(rejection) => rejection.code,
            ProposeError::Busy { .. } => Code::Unavailable,
            ProposeError::DiskFull { .. } => Code::DiskFull,
            ProposeError::Unavailable { state, .. } => match state {
                ReplicaState::Fenced => Code::Fenced,
                ReplicaState::Halted => Code::Halted,
                ReplicaState::Quarantined => Code::Quarantined,
                _ => Code::Unavailable,
            },
        }
    }
}

/// What can be said of an event id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    Settled(Settled),
    /// Definitely not applied, and it never will be.
    NeverApplied { id: EventId, why: String },
    /// Nothing under this id up to `up_to`; a copy may still be on its way.
    NotSeen { id: EventId, up_to: Position },
}

/// An event that was handed to the log. Dropping it gives up waiting and nothing else.
#[must_use = "the outcome comes from waiting"]
pub struct Submission {
    id: EventId,
    deadline: Duration,
    answer: oneshot::Receiver<Settlement>,
    ticket: Ticket,
}

impl Submission {
    pub fn id(&self) -> EventId {
        self.id
    }

    /// Waits for the fold, up to the deadline counted from here. Needs a Tokio runtime with time.
    pub async fn settled(self) -> Result<Settled, ProposeError> {
        let Submission { id, deadline, answer, ticket } = self;
        let core = ticket.core.clone();
        let unknown = |reason: String| {
            core.metrics.tally.unknown.fetch_add(1, Relaxed);
            Err(ProposeError::Unknown { id, reason })
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(settlement)) => match core.settled(settlement) {
                Ok(settled) => Ok(settled),
                Err(error) => unknown(error.to_string()),
            },
            Ok(Err(_)) => unknown(format!("this replica stopped before it was folded: {}", core.stand.get().reason)),
            Err(_) => unknown(format!("it was not folded within {deadline:?}")),
        }
    }
}

/// Everybody who waits for an event of theirs, and how much of that there may be.
pub(crate) struct Desk {
    shards: [Mutex<HashMap<EventId, Vec<Waiter>>>; SHARDS],
    next_ticket: AtomicU64,
    count: AtomicUsize,
    bytes: AtomicUsize,
    count_limit: usize,
    bytes_limit: usize,
    /// Woken when the last waiter left, and whenever there is room while somebody wants it.
    room: Notify,
    wanted: AtomicUsize,
    nonces: Mutex<Nonces>,
}

const SHARDS: usize = 64;

struct Waiter {
    ticket: u64,
    intent: [u8; 16],
    record: Bytes,
    answer: oneshot::Sender<Settlement>,
}

impl Waiter {
    fn is_answered_by(&self, settlement: &Settlement) -> bool {
        settlement.answers(&self.record, &self.intent)
    }
}

/// A place in the desk; leaving it is dropping this.
struct Ticket {
    core: Arc<Core>,
    id: EventId,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.core.desk.leave(&self.id, self.number);
    }
}

impl Desk {
    pub fn new(count_limit: usize, bytes_limit: usize) -> Desk {
        Desk {
            shards: std::array::from_fn(|_| Mutex::default()),
            next_ticket: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            count_limit,
            bytes_limit,
            room: Notify::new(),
            wanted: AtomicUsize::new(0),
            nonces: Mutex::default(),
        }
    }

    pub fn in_flight(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Waits until a proposal of ordinary size would be taken.
    pub async fn room(&self) {
        self.until(|| self.count.load(SeqCst) < self.count_limit && self.bytes.load(SeqCst) < self.bytes_limit).await;
    }

    /// Waits until nobody waits any more.
    pub async fn empty(&self) {
        self.until(|| self.count.load(SeqCst) == 0).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        let _wanted = Wanted::new(&self.wanted);
        loop {
            let woken = self.room.notified();
            tokio::pin!(woken);
            // Whatever leaves from here on wakes, so nothing is missed between looking and waiting.
            woken.as_mut().enable();
            if holds() {
                return;
            }
            woken.await;
        }
    }

    /// Answers those whose event this was.
    pub fn settle(&self, settlement: Settlement) {
        let mut answered = Vec::new();
        {
            let mut shard = self.shard(&settlement.id).lock();
            let Some(waiting) = shard.get_mut(&settlement.id) else { return };
            if waiting.len() == 1 && waiting[0].is_answered_by(&settlement) {
                answered.append(waiting);
            } else {
                answered.extend(waiting.extract_if(.., |waiter| waiter.is_answered_by(&settlement)));
            }
            if waiting.is_empty() {
                shard.remove(&settlement.id);
            }
        }
        for waiter in answered {
            tracing::debug!(id = %settlement.id, position = settlement.position.0, "answered");
            self.release(waiter.record.len());
            // Whoever has gone in the meantime gave up the answer.
            let _ = waiter.answer.send(settlement.clone());
        }
    }

    /// Nothing more will be folded: everybody learns it now instead of at a deadline.
    pub fn dismiss(&self) {
        for shard in &self.shards {
            let all = std::mem::take(&mut *shard.lock());
            all.values().flatten().for_each(|waiter| self.release(waiter.record.len()));
        }
    }

    /// 16 random bytes; the system is asked for many at a time.
    pub fn nonce(&self) -> Result<[u8; 16], getrandom::Error> {
        self.nonces.lock().next()
    }

    fn enter(&self, id: EventId, intent: [u8; 16], record: Bytes) -> Result<(u64, oneshot::Receiver<Settlement>), ProposeError> {
        let size = record.len();
        let count = self.count.fetch_add(1, SeqCst) + 1;
        let bytes = self.bytes.fetch_add(size, SeqCst) + size;
        // A single event is always taken, whatever its size.
        if count > self.count_limit || (bytes > self.bytes_limit && count > 1) {
            self.release(size);
            let (count, bytes) = (count - 1, bytes - size);
            let what = format!("{count} proposals of {bytes} bytes, the limits are {} and {}", self.count_limit, self.bytes_limit);
            return Err(ProposeError::Busy { what });
        }
        let ticket = self.next_ticket.fetch_add(1, Relaxed);
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter { ticket, intent, record, answer: sender };
        self.shard(&id).lock().entry(id).or_default().push(waiter);
        Ok((ticket, receiver))
    }

    fn leave(&self, id: &EventId, ticket: u64) {
        let mut shard = self.shard(id).lock();
        let Some(waiting) = shard.get_mut(id) else { return };
        if let Some(index) = waiting.iter().position(|waiter| waiter.ticket == ticket) {
            let waiter = waiting.swap_remove(index);
            self.release(waiter.record.len());
        }
        if waiting.is_empty() {
            shard.remove(id);
        }
    }

    fn release(&self, size: usize) {
        self.bytes.fetch_sub(size, SeqCst);
        let left = self.count.fetch_sub(1, SeqCst) - 1;
        if self.wanted.load(SeqCst) > 0 && (left == 0 || left < self.count_limit) {
            self.room.notify_waiters();
        }
    }

    fn shard(&self, id: &EventId) -> &Mutex<HashMap<EventId, Vec<Waiter>>> {
        &self.shards[usize::from(id.nonce[15]) % SHARDS]
    }
}

/// Counts somebody who waits, also when they are dropped while waiting.
struct Wanted<'a>(&'a AtomicUsize);

impl Wanted<'_> {
    fn new(count: &AtomicUsize) -> Wanted<'_> {
        count.fetch_add(1, SeqCst);
        Wanted(count)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

struct Nonces {
    pool: Box<[u8; 4096]>,
    used: usize,
}

impl Default for Nonces {
    fn default() -> Nonces {
        Nonces { pool: Box::new([0; 4096]), used: 4096 }
    }
}

impl Nonces {
    fn next(&mut self) -> Result<[u8; 16], getrandom::Error> {
        if self.used == self.pool.len() {
            getrandom::fill(&mut self.pool[..])?;
            self.used = 0;
        }
        let nonce = self.pool[self.used..].first_chunk().copied().unwrap_or_default();
        self.used += 16;
        Ok(nonce)
    }
}

impl Core {
    /// Hands an event to the log; whoever calls twice has both in this order.
    pub fn submit(self: &Arc<Core>, proposal: Proposal, deadline: Duration) -> Result<Submission, ProposeError> {
        let submitted = self.try_submit(proposal, deadline);
        let tally = &self.metrics.tally;
        if submitted.is_ok() { &tally.proposed } else { &tally.refused }.fetch_add(1, Relaxed);
        submitted
    }

    fn try_submit(self: &Arc<Core>, proposal: Proposal, deadline: Duration) -> Result<Submission, ProposeError> {
        let standing = self.stand.get();
        if self.is_closing() {
            return Err(ProposeError::Unavailable { state: ReplicaState::Stopped, reason: "it is shutting down".to_owned() });
        }
        if standing.disk_full {
            return Err(ProposeError::DiskFull { reason: standing.reason });
        }
        if standing.state != ReplicaState::Serving {
            return Err(ProposeError::Unavailable { state: standing.state, reason: standing.reason });
        }
        let view = self.views.latest();
        let opens = matches!(proposal.body, Body::Open { .. });
        if view.sealed && !opens && !self.may_be_decided(proposal.id, &view) {
            return Err(ProposeError::Sealed);
        }
        let id = match proposal.id {
            Some(id) => id,
            None => EventId { seen: view.position, nonce: self.desk.nonce().map_err(|error| self.unavailable(error))? },
        };
        let intent = intent_mark(&proposal.intent, &proposal.principal);
        let event = Event {
            format: FORMAT,
            incarnation: view.incarnation,
            intention: Some((id, proposal.intent)),
            author: proposal.author.into(),
            principal: proposal.principal.into(),
            client_time_ms: proposal.client_time_ms,
            reason: proposal.reason.into(),
            body: proposal.body,
        };
        let record = Bytes::from(event.encode());
        let (size, limit) = (record.len() as u64, view.limits.max_event_bytes);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let (number, answer) = self.desk.enter(id, intent, record.clone())?;
        let ticket = Ticket { core: self.clone(), id, number };
        tracing::debug!(%id, body = event.body.name(), size, "proposed");
        match self.log.append(record) {
            // It may stand on the log: the fold, a second attempt or a withdrawal will tell.
            Ok(()) | Err(LogError::Unsettled { .. }) => Ok(Submission { id, deadline, answer, ticket }),
            Err(LogError::TooLarge { size, limit }) => {
                Err(ProposeError::TooLarge { size: size as u64, limit: limit as u64 })
            }
            Err(error @ LogError::Full { .. }) => Err(ProposeError::Busy { what: error.to_string() }),
            Err(error) => {
                self.stand.change(ReplicaState::Serving, Standing::without_log(&error));
                Err(match error {
                    LogError::DiskFull { .. } => ProposeError::DiskFull { reason: error.to_string() },
                    error => self.unavailable(error),
                })
            }
        }
    }

    /// Whether the fold may have another answer to this id than that the log is over: that of a copy that came before the seal.
    fn may_be_decided(&self, id: Option<EventId>, view: &View) -> bool {
        let Some(id) = id else { return false };
        let expires = view.position.next().0.saturating_sub(id.seen.0) > view.window;
        expires || self.folder.lock().as_ref().is_none_or(|folder| folder.entry(&id).is_some())
    }

    fn unavailable(&self, reason: impl ToString) -> ProposeError {
        ProposeError::Unavailable { state: self.stand.state(), reason: reason.to_string() }
    }

    /// A settlement as its waiter wants it: a later copy is answered with the first outcome, and what came too late for
    /// the window is looked up in the index of all accepted ids.
    fn settled(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        let asks_index = settlement.asks_index();
        let Settlement { id, position, time, outcome, revision, root, .. } = settlement;
        let outcome = match outcome {
            Outcome::Duplicate(entry) => return self.of_entry(&entry, true),
            Outcome::Rejected(rejection) if asks_index => {
                if let Some(first) = self.of_index(&id)? {
                    return Ok(first);
                }
                let detail = format!("{}; no event with this id was ever applied", rejection.detail);
                Outcome::Rejected(Rejection { detail, ..rejection })
            }
            other => other,
        };
        Ok(Settled { id, position, time: Some(time), outcome, revision, root, repeated: false })
    }

    /// What the window says of a first copy.
    pub fn of_entry(&self, entry: &Entry, repeated: bool) -> Result<Settled, StoreError> {
        let Entry { position, id, .. } = *entry;
        let outcome = match (entry.outcome, entry.rejection()) {
            (0, _) => Outcome::Accepted,
            (1, _) => Outcome::Unchanged,
            (_, code) => {
                let detail = format!("decided at position {position}");
                Outcome::Rejected(Rejection::new(code.unwrap_or(Code::Unknown), detail))
            }
        };
        self.written.wait_for(position)?;
        let row = self.store.revision_at_position(position)?;
        let made = row.as_ref().filter(|row| row.position == position);
        Ok(Settled {
            id,
            position,
            time: made.map(|row| row.time),
            outcome,
            revision: made.map(|row| row.revision),
            root: row.map_or(EMPTY_NODE, |row| row.root),
            repeated,
        })
    }

    /// The accepted event of this id, however long ago: the index holds every one since genesis.
    fn of_index(&self, id: &EventId) -> Result<Option<Settled>, StoreError> {
        let store = self.rows()?;
        let Some(found) = store.id(id, self.views.latest().window)? else { return Ok(None) };
        let row = store.revision_at_position(found.position)?;
        let made = row.as_ref().filter(|row| row.position == found.position);
        Ok(Some(Settled {
            id: *id,
            position: found.position,
            time: made.map(|row| row.time),
            outcome: Outcome::Accepted,
            revision: made.map(|row| row.revision),
            root: row.map_or(EMPTY_NODE, |row| row.root),
            repeated: true,
        }))
    }

    /// What is known of an id now: from the window, and beyond it from the index.
    pub fn fate(&self, id: EventId) -> Result<Fate, ProposeError> {
        let unknown = |reason: String| ProposeError::Unknown { id, reason };
        // The fold may be ahead of what is shown. Whatever it knows beyond that is not an answer yet.
        let view = self.views.latest();
        let entry = match self.folder.lock().as_ref() {
            Some(folder) => folder.entry(&id).filter(|entry| entry.position <= view.position),
            None => return Err(self.unavailable(self.stand.get().reason)),
        };
        if let Some(entry) = entry {
            if entry.rejection() == Some(Code::Withdrawn) {
                let why = format!("it was withdrawn at position {}", entry.position);
                return Ok(Fate::NeverApplied { id, why });
            }
            return self.of_entry(&entry, true).map(Fate::Settled).map_err(|error| unknown(error.to_string()));
        }
        if let Some(settled) = self.of_index(&id).map_err(|error| unknown(error.to_string()))? {
            return Ok(Fate::Settled(settled));
        }
        let distance = view.position.0.saturating_sub(id.seen.0);
        if distance >= view.window {
            let why = format!("it expired {distance} positions after it was minted, and was not accepted before");
            return Ok(Fate::NeverApplied { id, why });
        }
        Ok(Fate::NotSeen { id, up_to: view.position })
    }

    /// Makes an unknown outcome definite: the first copy's, or never. `who` proposes the withdrawal.
    pub async fn withdraw(self: &Arc<Core>, id: EventId, who: Proposal, deadline: Duration) -> Result<Fate, ProposeError> {
        let withdrawal = Proposal { body: Body::Withdraw { id }, ..who };
        let settled = self.submit(withdrawal, deadline)?.settled().await?;
        let never = |why: String| Ok(Fate::NeverApplied { id, why });
        match &settled.outcome {
            Outcome::Accepted => never(format!("it was withdrawn at position {}", settled.position)),
            Outcome::Unchanged => self.fate(id),
            Outcome::Rejected(rejection) if rejection.code == Code::Expired => {
                match self.of_index(&id).map_err(|error| self.unavailable(error))? {
                    Some(first) => Ok(Fate::Settled(first)),
                    None => never("it expired, and was not accepted before".to_owned()),
                }
            }
            Outcome::Rejected(rejection) => Err(ProposeError::Refused(rejection.clone())),
            Outcome::Duplicate(_) => self.fate(id),
        }
    }
}
