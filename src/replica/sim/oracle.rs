//! What must become of every record, decided a second time: from what its author meant, with no hash and no window.
//!
//! The oracle reads the log as replicas do, but looks each record up in the book of what was written instead of decoding
//! it, keeps every event id for ever instead of a window, and the tree as a [`Plain`] map.

use super::plain::{self, Plain, Seg};
use bytes::Bytes;
use confold_log::Record;
use confold_model::code::Code;
use confold_model::event::Checkpoint;
use confold_model::ids::{EventId, Revision, Time};
use confold_model::state::{CheckpointRow, State};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

/// Trees of past revisions that stay at hand.
const TREES_KEPT: usize = 3_000;
/// Of so many last marks a replica certainly knows what it computed there; of some more it may.
const MARKS_REMEMBERED: usize = 200;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// What a record's bytes were made to say.
#[derive(Clone, Debug)]
pub enum Meaning {
    Genesis,
    /// Not an event, or one of another format: refused with this code by whoever can read.
    Refused(Code),
    Event {
        incarnation: [u8; 16],
        id: Option<EventId>,
        intent: u64,
        principal: u8,
        body: Body,
    },
}

#[derive(Clone, Debug)]
pub enum Body {
    Commit(plain::Commit),
    /// The version of `sim.proto`, or what is wrong.
    Schema(Result<u32, Code>),
    Tag {
        name: Rc<str>,
        revision: u64,
    },
    Untag {
        names: Vec<Rc<str>>,
    },
    Retention {
        keep_revisions: u64,
        keep_age_ms: i64,
        keep_all: bool,
    },
    Prune {
        floor: Option<u64>,
    },
    /// The rules, and where the policy stands that these replace.
    Policy {
        rules: Result<Rc<Vec<Rule>>, Code>,
        replaces: u64,
    },
    Withdraw {
        id: EventId,
    },
    Activation {
        level: u32,
    },
    Clock,
    Seal,
    Open {
        incarnation: [u8; 16],
        transport: [u8; 16],
    },
    Mark {
        last_mark: u64,
    },
    Checkpoint {
        replica: [u8; 16],
        position: u64,
        level: u32,
        forged: bool,
    },
    Fence,
    Later,
}

/// What one of the rules of a policy says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// `None`: everybody with a name.
    pub principal: Option<u8>,
    pub at: Rc<[Seg]>,
    /// Read, write, tag, admin.
    pub rights: [bool; 4],
    pub strict: bool,
}

pub const READ: usize = 0;
const WRITE: usize = 1;
const TAG: usize = 2;
pub const ADMIN: usize = 3;

/// What one principal may do; number 0 is nobody.
struct Grants<'a> {
    rules: Vec<&'a Rule>,
    /// There are no rules, so everything is allowed.
    open: bool,
}

impl Grants<'_> {
    fn of(rules: &[Rule], principal: u8) -> Grants<'_> {
        let speaks = |rule: &&Rule| principal != 0 && rule.principal.is_none_or(|named| named == principal);
        Grants {
            rules: rules.iter().filter(speaks).collect(),
            open: rules.is_empty(),
        }
    }

    fn has(&self, right: usize, at: &[Seg]) -> bool {
        self.open
            || self
                .rules
                .iter()
                .any(|rule| rule.rights[right] && plain::lies_below(at, &rule.at))
    }

    fn allow(&self, body: &Body) -> bool {
        match body {
            Body::Commit(commit) => {
                let read = |guard: &plain::Guard| self.has(READ, &guard.at);
                let operate = |operation: &plain::Operation| {
                    self.has(WRITE, &operation.at) && (operation.base.is_none() || self.has(READ, &operation.at))
                };
                commit.guards.iter().all(read) && commit.operations.iter().all(operate)
            }
            Body::Tag { .. } | Body::Untag { .. } => self.has(TAG, &[]),
            Body::Withdraw { .. } => self.open || self.rules.iter().any(|rule| rule.rights[WRITE..].contains(&true)),
            Body::Prune { floor: None } | Body::Mark { .. } | Body::Checkpoint { .. } | Body::Fence => true,
            _ => self.has(ADMIN, &[]),
        }
    }

    /// With what the policy makes strict.
    fn stricter(&self, commit: &plain::Commit) -> plain::Commit {
        let mut commit = commit.clone();
        for operation in &mut commit.operations {
            use plain::OperationKind::*;
            let node_alone = matches!(operation.kind, Update(_) | Masked(..) | UpdateWithChildren(_));
            operation.strict |= self.rules.iter().any(|rule| {
                rule.strict
                    && (plain::lies_below(&operation.at, &rule.at)
                        || (!node_alone && plain::lies_below(&rule.at, &operation.at)))
            });
        }
        commit
    }
}

/// What must become of the record at one position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub outcome: u8,
    pub code: u16,
    pub id: Option<EventId>,
    /// Of a duplicate: where the first copy stands.
    pub first: Option<u64>,
    pub made: bool,
    pub revision: u64,
    pub time: i64,
    /// This event set the time by itself.
    pub clock: bool,
    pub level: u32,
    pub floor: u64,
    pub mark: bool,
    /// A forged announcement about a mark that every replica has passed.
    pub alarm: bool,
    /// One about a mark so far back that a replica may have forgotten its own value.
    pub may_alarm: bool,
}

/// The first copy of an id that got as far as being decided, or its withdrawal.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    pub position: u64,
    pub intent: u64,
    pub principal: u8,
    pub withdrawn: bool,
}

pub struct Oracle {
    pub max_event_bytes: usize,
    pub window: u64,
    /// Every record that anybody handed to the log, by its bytes.
    pub book: BTreeMap<Bytes, Rc<Meaning>>,
    pub verdicts: Vec<Verdict>,
    /// The log as it stands.
    pub records: Vec<Record>,
    pub met: BTreeMap<EventId, Met>,
    /// Intentions that changed something or were accepted, each with its id: nobody's wish may come true twice.
    pub applied: BTreeMap<u64, (EventId, u64)>,
    pub schemas: Vec<(u64, u32)>,
    pub tags: BTreeMap<Rc<str>, u64>,
    pub marks: Vec<u64>,
    pub floor: u64,
    pub revision: u64,
    pub level: u32,
    tree: Rc<Plain>,
    trees: VecDeque<(u64, Rc<Plain>)>,
    time: i64,
    last_mark: u64,
    released: Vec<(u64, i64, u64)>,
    retention: (u64, i64, bool),
    checkpoints: BTreeMap<[u8; 16], (u64, i64, u32)>,
    /// Where each life of the log began.
    pub incarnations: Vec<(u64, [u8; 16])>,
    transport: [u8; 16],
    pub sealed: bool,
    /// Every policy that was in force, by its position.
    pub policies: Vec<(u64, Rc<Vec<Rule>>)>,
    /// Events denied that were allowed by what their authors had seen, and the reverse.
    pub revoked: u64,
    pub granted: u64,
}

/// One intention applied twice: broken proposers do that, and it must show.
#[derive(Debug)]
pub struct AppliedTwice(pub String);

impl Oracle {
    pub fn new(
        max_event_bytes: usize,
        window: u64,
        retention: (u64, i64, bool),
        (incarnation, transport): ([u8; 16], [u8; 16]),
    ) -> Oracle {
        Oracle {
            max_event_bytes,
            window,
            book: BTreeMap::new(),
            verdicts: Vec::new(),
            records: Vec::new(),
            met: BTreeMap::new(),
            applied: BTreeMap::new(),
            schemas: Vec::new(),
            tags: BTreeMap::new(),
            marks: Vec::new(),
            floor: 0,
            revision: 0,
            level: 1,
            tree: Rc::default(),
            trees: VecDeque::from([(0, Rc::default())]),
            time: 0,
            last_mark: 0,
            released: Vec::new(),
            retention,
            checkpoints: BTreeMap::new(),
            incarnations: vec![(0, incarnation)],
            transport,
            sealed: false,
            policies: Vec::new(),
            revoked: 0,
            granted: 0,
        }
    }

    pub fn incarnation(&self) -> [u8; 16] {
        self.incarnations
            .last()
            .map_or([0; 16], |(_, incarnation)| *incarnation)
    }

    /// The rules in force after a position, and where their event stands.
    fn policy_at(&self, position: u64) -> (u64, Rc<Vec<Rule>>) {
        let found = self.policies.iter().rev().find(|(at, _)| *at <= position);
        found.cloned().unwrap_or_default()
    }

    /// Keep-n, keep-age, keep-all.
    pub fn retention(&self) -> (u64, i64, bool) {
        self.retention
    }

    /// The tree of a revision, where it is recent.
    pub fn tree_at(&self, revision: u64) -> Option<Rc<Plain>> {
        let oldest = self.trees.front()?.0;
        let (_, tree) = self.trees.get(usize::try_from(revision.checked_sub(oldest)?).ok()?)?;
        Some(tree.clone())
    }

    pub fn is_kept(&self, revision: u64) -> bool {
        is_kept(revision, self.revision, self.floor, &self.tags)
    }

    /// The version of the schema in force after a position; 0 before the first.
    pub fn version_at(&self, position: u64) -> u32 {
        self.schemas
            .iter()
            .rev()
            .find(|(at, _)| *at <= position)
            .map_or(0, |(_, version)| *version)
    }

    /// The first thing in a replica's state that is not as it must be after the last record read; `None`: all is.
    pub fn differs_from(&self, state: &State) -> Option<String> {
        fn compare<T: PartialEq + fmt::Debug>(what: &str, found: T, wanted: T) -> Option<String> {
            (found != wanted).then(|| format!("{what}: {found:?}, must be {wanted:?}"))
        }
        let tags: BTreeMap<Rc<str>, u64> = state.tags().map(|(name, tag)| (name.into(), tag.revision.0)).collect();
        let marks: Vec<_> = state
            .marks()
            .map(|mark| (mark.position.0, mark.time.0, mark.revision.0))
            .collect();
        let row = |row: CheckpointRow| {
            let Checkpoint {
                replica,
                position,
                level,
                ..
            } = row.checkpoint;
            (replica, (position.0, row.time.0, level))
        };
        let checkpoints: BTreeMap<_, _> = state.checkpoints().map(row).collect();
        let schemas: Vec<u64> = state.schemas().map(|(at, _)| at.0).collect();
        let kept = (0..=self.revision).filter(|revision| *revision > 0 && state.is_kept(Revision(*revision)));
        let end = self.verdicts.len() as u64;
        // Ids on the edge leave in whole segments; those inside the window are all there.
        let inside = self.met.iter().filter(|(_, met)| met.position + self.window >= end);
        let forgotten = inside.filter(|(id, met)| {
            state
                .window()
                .get(id)
                .is_none_or(|entry| entry.position.0 != met.position)
        });
        compare("tags", tags, self.tags.clone())
            .or_else(|| compare("marks", marks, self.released.clone()))
            .or_else(|| compare("checkpoints", checkpoints, self.checkpoints.clone()))
            .or_else(|| compare("schemas", schemas, self.schemas.iter().map(|(at, _)| *at).collect()))
            .or_else(|| {
                let policy = state.retention();
                compare(
                    "retention",
                    (policy.keep_revisions, policy.keep_age_ms, policy.keep_all),
                    self.retention,
                )
            })
            .or_else(|| compare("the last mark", state.last_mark().0, self.last_mark))
            .or_else(|| {
                let rows = state.incarnations();
                let found: Vec<_> = rows
                    .map(|row| (row.begin.0, row.incarnation.0, row.end.map(|end| end.0)))
                    .collect();
                let ends = self
                    .incarnations
                    .iter()
                    .skip(1)
                    .map(|(begin, _)| Some(*begin))
                    .chain([None]);
                let wanted = self.incarnations.iter().zip(ends);
                let wanted = wanted
                    .map(|((begin, incarnation), end)| (*begin, *incarnation, end))
                    .collect();
                compare("incarnations", found, wanted)
            })
            .or_else(|| {
                let found = (state.is_sealed(), state.transport_id());
                compare("sealed, transport", found, (self.sealed, self.transport))
            })
            .or_else(|| {
                let found = state.policy().map(|row| (row.position.0, row.policy.rules.len()));
                let wanted = self.policies.last().map(|(at, rules)| (*at, rules.len()));
                compare("the policy", found, wanted)
            })
            .or_else(|| compare("ids forgotten", forgotten.map(|(id, _)| *id).collect(), Vec::new()))
            .or_else(|| {
                let wanted = (1..=self.revision).filter(|revision| self.is_kept(*revision)).collect();
                compare("revisions kept", kept.collect::<Vec<_>>(), wanted)
            })
    }

    /// Takes the next record of the log.
    pub fn read(&mut self, record: &Record) -> Result<(), AppliedTwice> {
        let position = record.position.0;
        let meaning = self
            .book
            .get(&record.bytes)
            .cloned()
            .expect("whatever stands on the log was written down");
        self.records.push(record.clone());
        let mut time = self.time.max(record.time.0);
        let mut clock = false;
        let (mut mark, mut alarm, mut may_alarm) = (position.is_multiple_of(4096), false, false);
        let before = self.revision;
        let mut id_shown = None;
        let mut first = None;
        let mut fresh = None;
        let result = if record.bytes.len() > self.max_event_bytes {
            Err(Code::TooLarge)
        } else {
            match &*meaning {
                Meaning::Genesis => Ok(true),
                Meaning::Refused(code) => Err(*code),
                Meaning::Event {
                    incarnation,
                    id,
                    intent,
                    principal,
                    body,
                } => {
                    id_shown = *id;
                    let opens = matches!(body, Body::Open { .. });
                    match self.admit(position, *incarnation, *id, *intent, *principal, opens) {
                        Admitted::Refused(code) => Err(code),
                        Admitted::Duplicate(at) => {
                            first = Some(at);
                            Ok(false)
                        }
                        Admitted::Fresh => {
                            fresh = id.map(|id| (id, *intent, *principal));
                            let decided = self.decide(position, time, *id, *principal, body);
                            if matches!((body, &decided), (Body::Clock, Ok(true))) {
                                time = record.time.0;
                                clock = true;
                            }
                            mark |= matches!((body, &decided), (Body::Mark { .. }, Ok(true)));
                            if let (Ok(true), Body::Checkpoint { forged: true, position, level: 1, .. }) = (&decided, body) {
                                let back = self.marks.iter().rev().position(|mark| mark == position);
                                alarm = back.is_some_and(|back| back < MARKS_REMEMBERED);
                                may_alarm = back.is_some_and(|back| back >= MARKS_REMEMBERED);
                            }
                            decided
                        }
                    }
                }
            }
        };
        let (outcome, code) = match (&result, first) {
            (_, Some(_)) => (3, 0),
            (Ok(true), _) => (0, 0),
            (Ok(false), _) => (1, 0),
            (Err(code), _) => (2, code.number()),
        };
        self.time = time;
        let made = self.revision > before;
        if let Some((id, intent, principal)) = fresh {
            self.met.insert(
                id,
                Met {
                    position,
                    intent,
                    principal,
                    withdrawn: false,
                },
            );
            // Tags and the like may be wished for again; a changed tree is counted.
            if made && let Some((other, at)) = self.applied.insert(intent, (id, position)) {
                return Err(AppliedTwice(format!(
                    "one intention, applied as {other} at {at} and as {id} at {position}"
                )));
            }
        }
        if mark {
            self.last_mark = position;
            self.marks.push(position);
            if self.revision > self.floor {
                self.released.push((position, time, self.revision));
            }
        }
        let (revision, level, floor) = (self.revision, self.level, self.floor);
        let verdict = Verdict {
            outcome,
            code,
            id: id_shown,
            first,
            made,
            revision,
            time,
            clock: clock && outcome == 0,
            level,
            floor,
            mark,
            alarm,
            may_alarm,
        };
        self.verdicts.push(verdict);
        Ok(())
    }

    fn admit(
        &self,
        position: u64,
        incarnation: [u8; 16],
        id: Option<EventId>,
        intent: u64,
        principal: u8,
        opens: bool,
    ) -> Admitted {
        if incarnation != self.incarnation() {
            return Admitted::Refused(Code::Foreign);
        }
        let Some(id) = id else { return Admitted::Fresh };
        if id.seen.0 >= position {
            return Admitted::Refused(Code::Future);
        }
        if position - id.seen.0 > self.window {
            return Admitted::Refused(Code::Expired);
        }
        match self.met.get(&id) {
            None if self.sealed && !opens => Admitted::Refused(Code::Sealed),
            None => Admitted::Fresh,
            Some(met) if met.withdrawn => Admitted::Refused(Code::Withdrawn),
            Some(met) if (met.intent, met.principal) == (intent, principal) => Admitted::Duplicate(met.position),
            Some(_) => Admitted::Refused(Code::IdReused),
        }
    }

    /// `Ok(true)`: accepted, `Ok(false)`: unchanged.
    fn decide(
        &mut self,
        position: u64,
        time: i64,
        own: Option<EventId>,
        principal: u8,
        body: &Body,
    ) -> Result<bool, Code> {
        let (_, rules) = self.policy_at(position);
        let grants = Grants::of(&rules, principal);
        let allowed = grants.allow(body);
        if let Some(own) = own {
            let (_, seen) = self.policy_at(own.seen.0);
            let expected = Grants::of(&seen, principal).allow(body);
            self.revoked += u64::from(expected && !allowed);
            self.granted += u64::from(!expected && allowed);
        }
        if !allowed {
            return Err(Code::Permission);
        }
        match body {
            Body::Commit(commit) => {
                let commit = &grants.stricter(commit);
                let version = self
                    .schemas
                    .last()
                    .map(|(_, version)| *version)
                    .ok_or(Code::SchemaInvalid)?;
                let after = plain::commit(&self.tree, version, commit)?;
                let changed = after != *self.tree;
                if changed {
                    self.revision += 1;
                    self.tree = Rc::new(after);
                    self.trees.push_back((self.revision, self.tree.clone()));
                    if self.trees.len() > TREES_KEPT {
                        self.trees.pop_front();
                    }
                }
                Ok(changed)
            }
            Body::Schema(version) => {
                let latest = self.schemas.last().map_or(0, |(_, version)| *version);
                match version {
                    Ok(version) if *version == latest => Ok(false),
                    Ok(version) if *version < latest => Err(Code::SchemaInvalid),
                    Ok(version) => {
                        self.schemas.push((position, *version));
                        Ok(true)
                    }
                    Err(code) => Err(*code),
                }
            }
            Body::Tag { name, revision } => {
                if name.is_empty() || &**name == "latest" || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                    return Err(Code::InvalidPath);
                }
                match *revision {
                    revision if revision > self.revision => return Err(Code::Future),
                    0 => return Err(Code::NotFound),
                    revision if !self.is_kept(revision) => return Err(Code::Pruned),
                    _ => {}
                }
                Ok(self.tags.insert(name.clone(), *revision) != Some(*revision))
            }
            Body::Untag { names } => {
                if names.iter().any(|name| !self.tags.contains_key(name)) {
                    return Err(Code::NotFound);
                }
                names.iter().for_each(|name| _ = self.tags.remove(name));
                Ok(!names.is_empty())
            }
            Body::Retention {
                keep_revisions,
                keep_age_ms,
                keep_all,
            } => {
                if *keep_age_ms < 0 {
                    return Err(Code::Limit);
                }
                let policy = (*keep_revisions, *keep_age_ms, *keep_all);
                Ok(std::mem::replace(&mut self.retention, policy) != policy)
            }
            Body::Prune { floor } => {
                let floor = match floor {
                    Some(floor) if *floor >= self.revision => return Err(Code::Future),
                    Some(floor) => *floor,
                    None => self.policy_floor(time),
                };
                let raised = floor > self.floor;
                if raised {
                    self.floor = floor;
                    self.released.retain(|(_, _, revision)| *revision > floor);
                }
                Ok(raised)
            }
            Body::Withdraw { id } => {
                if own == Some(*id) {
                    return Err(Code::IdReused);
                }
                if id.seen.0 >= position {
                    return Err(Code::Future);
                }
                if position - id.seen.0 > self.window {
                    return Err(Code::Expired);
                }
                if self.met.contains_key(id) {
                    return Ok(false);
                }
                self.met.insert(
                    *id,
                    Met {
                        position,
                        intent: 0,
                        principal: 0,
                        withdrawn: true,
                    },
                );
                Ok(true)
            }
            Body::Activation { level } => {
                let known = self.checkpoints.values().map(|(_, _, level)| *level).min().unwrap_or(0);
                if *level != self.level + 1 || known < *level {
                    return Err(Code::Unsupported);
                }
                self.level = *level;
                Ok(true)
            }
            Body::Policy { rules, replaces } => {
                let rules = rules.clone()?;
                let (present, old) = self.policy_at(position);
                if *replaces != present {
                    return Err(Code::Conflict);
                }
                let differs = rules != old;
                if differs {
                    self.policies.push((position, rules));
                }
                Ok(differs)
            }
            Body::Clock => Ok(true),
            Body::Seal => {
                self.sealed = true;
                Ok(true)
            }
            Body::Open { incarnation, transport } => {
                if self.incarnations.iter().any(|(_, used)| used == incarnation) {
                    return Err(Code::IdReused);
                }
                self.incarnations.push((position, *incarnation));
                (self.transport, self.sealed) = (*transport, false);
                Ok(true)
            }
            Body::Mark { .. } | Body::Checkpoint { .. } if self.sealed => Ok(false),
            Body::Mark { last_mark } => Ok(*last_mark == self.last_mark),
            Body::Checkpoint {
                replica,
                position: of,
                level,
                ..
            } => {
                if *of >= position {
                    return Err(Code::Future);
                }
                let newer = self.checkpoints.get(replica).is_none_or(|(last, _, _)| of > last);
                if newer {
                    self.checkpoints.retain(|_, (_, at, _)| time - *at <= 30 * DAY_MS);
                    self.checkpoints.insert(*replica, (*of, time, *level));
                }
                Ok(newer)
            }
            Body::Fence => Ok(false),
            Body::Later => Err(Code::Unsupported),
        }
    }

    fn policy_floor(&self, time: i64) -> u64 {
        let (keep_revisions, keep_age_ms, keep_all) = self.retention;
        let lets_go = |(_, at, revision): &&(u64, i64, u64)| {
            self.revision - revision >= keep_revisions.max(1) && time - at >= keep_age_ms
        };
        match self.released.iter().rev().find(lets_go) {
            Some((_, _, revision)) if !keep_all => (*revision).max(self.floor),
            _ => self.floor,
        }
    }
}

pub fn is_kept(revision: u64, latest: u64, floor: u64, tags: &BTreeMap<Rc<str>, u64>) -> bool {
    revision <= latest && (revision > floor || revision == latest || tags.values().any(|tagged| *tagged == revision))
}

enum Admitted {
    Fresh,
    Duplicate(u64),
    Refused(Code),
}

impl Verdict {
    pub fn time(&self) -> Time {
        Time(self.time)
    }

    pub fn made_revision(&self) -> Option<Revision> {
        self.made.then_some(Revision(self.revision))
    }
}
