//! The one function in which state changes.

use crate::code::{Code, Rejection};
use crate::digest::{self, HistoryLeaf};
use crate::event::{self, Body, Checkpoint, Event, Genesis};
use crate::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use crate::merge;
use crate::objects::{Objects, ObjectsError};
use crate::path::Path;
use crate::policy::Policy;
use crate::schema::{Schema, SchemaProblem};
use crate::state::{CheckpointRow, State};
use crate::window::Entry;
use std::sync::Arc;

/// Every position that is a multiple of this is a mark.
pub const MARK_EVERY: u64 = 4096;

/// A checkpoint older than this leaves the state.
const CHECKPOINT_LIFE_MS: i64 = 30 * 24 * 3600 * 1000;

/// Rows of the table of checkpoints, and bytes of a build's name in one: no announcement may swell the state.
pub const MAX_REPLICAS: usize = 1_024;
pub const MAX_BUILD_BYTES: usize = 256;

/// What became of one event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Accepted,
    /// Well formed and allowed, and nothing to do.
    Unchanged,
    Rejected(Rejection),
    /// The id was met before, with the same intent: the first copy's entry is the answer.
    Duplicate(Entry),
}

impl Outcome {
    /// As in the chain: 0 accepted, 1 unchanged, 2 rejected, 3 duplicate.
    pub fn number(&self) -> u8 {
        match self {
            Outcome::Accepted => 0,
            Outcome::Unchanged => 1,
            Outcome::Rejected(_) => 2,
            Outcome::Duplicate(_) => 3,
        }
    }

    pub fn code(&self) -> u16 {
        match self {
            Outcome::Rejected(rejection) => rejection.code.number(),
            _ => 0,
        }
    }
}

/// What applying one record showed; everything a store or a waiter needs to know of it.
#[derive(Clone, Debug)]
pub struct Applied {
    pub position: Position,
    /// t(n).
    pub time: Time,
    pub outcome: Outcome,
    /// The event's id, where the record is an event and has one.
    pub id: Option<EventId>,
    /// Author and body's name, where the record is an event; for history rows and metrics.
    pub author: String,
    pub body: &'static str,
    /// The latest revision after this event, whether or not it made one.
    pub revision: Revision,
    /// Whether this event made `revision`.
    pub made_revision: bool,
    pub root: Hash,
    pub digest: Hash,
    pub chain: Hash,
    /// Paths that the operations of an accepted commit named, each with whether it took a whole subtree.
    pub touched: Vec<(Path, bool)>,
    /// The state hash, at marks.
    pub mark: Option<Hash>,
    /// An activation of a level that this build does not know was accepted: stop before the next event.
    pub halt: Option<u32>,
    /// The floor was raised: a sweep may find something.
    pub floor_raised: bool,
}

/// What the bodies decide; the frame around them adds the rest.
struct Decision {
    outcome: Outcome,
    tree_changed: bool,
    mark: bool,
    halt: Option<u32>,
}

impl From<Rejection> for Decision {
    fn from(rejection: Rejection) -> Decision {
        Decision::of(Outcome::Rejected(rejection))
    }
}

impl Decision {
    fn of(outcome: Outcome) -> Decision {
        Decision { outcome, tree_changed: false, mark: false, halt: None }
    }

    fn rejected(code: Code, detail: impl Into<String>) -> Decision {
        Rejection::new(code, detail).into()
    }

    fn changed(changed: bool) -> Decision {
        Decision::of(if changed { Outcome::Accepted } else { Outcome::Unchanged })
    }
}

/// Applies one record. The same state, time and bytes give the same result on every replica, for ever.
///
/// `time` is the record's own stamp; the record stands at `state.next_position()`. A proposal that does not fit is an
/// outcome, not an error: the log cannot be unwritten. `Err` only says that `objects` could not answer; the caller stops
/// at this position and tries again, it never skips; `state` is then as before.
pub fn apply(state: &mut State, time: Time, record: &[u8], objects: &dyn Objects) -> Result<Applied, ObjectsError> {
    let position = state.next_position();
    let floor_before = state.floor;
    let digest = digest::log_digest(state.digest, position, time, record);
    let event = read(state, position, record);

    let mut author = String::new();
    let mut body = "";
    let mut intention = None;
    let mut new_time = Time(state.time.0.max(time.0));
    let mut fresh = None;
    let mut touched = Vec::new();
    let decision = match event {
        Err(rejection) => rejection.into(),
        Ok(mut event) => {
            body = event.body.name();
            intention = event.intention;
            let decision = match admit(state, position, &event) {
                Err(decision) => *decision,
                Ok(mark) => {
                    fresh = mark;
                    match allow(state, &mut event) {
                        Err(rejection) => rejection.into(),
                        Ok(()) => decide(state, position, new_time, &event, objects)?,
                    }
                }
            };
            author = event.author.into_owned();
            match (event.body, &decision.outcome) {
                (Body::Clock, Outcome::Accepted) => new_time = time,
                (Body::Commit(commit), Outcome::Accepted) => touched = merge::touched(commit),
                _ => {}
            }
            decision
        }
    };

    // From here on nothing can fail: the state moves as one.
    let Decision { outcome, tree_changed, mark, halt } = decision;
    state.position = Some(position);
    state.digest = digest;
    state.time = new_time;
    if tree_changed {
        state.revision = Revision(state.revision.0 + 1);
        let id = intention.map(|(id, _)| id).unwrap_or_default();
        let leaf = HistoryLeaf { revision: state.revision, position, time: new_time, root: state.root, id, digest };
        state.history.append(leaf.hash());
    }
    if let (Some(intent), Some((id, _))) = (fresh, intention) {
        let entry = Entry {
            position,
            id,
            intent,
            outcome: outcome.number(),
            code: outcome.code(),
            revision: if tree_changed { state.revision } else { Revision(0) },
        };
        state.window.insert(entry);
    }
    state.window.advance(position);
    state.chain = digest::chain(state.chain, digest, outcome.number(), outcome.code(), state.root);
    let is_mark = position.0.is_multiple_of(MARK_EVERY) || mark;
    if is_mark {
        state.put_mark(position);
    }
    Ok(Applied {
        position,
        time: new_time,
        outcome,
        id: intention.map(|(id, _)| id),
        author,
        body,
        revision: state.revision,
        made_revision: tree_changed,
        root: state.root,
        digest,
        chain: state.chain,
        touched,
        mark: is_mark.then(|| state.hash()),
        halt,
        floor_raised: state.floor > floor_before,
    })
}

/// Size, canonical record, format: what the bytes alone show.
fn read<'a>(state: &State, position: Position, record: &'a [u8]) -> Result<Event<'a>, Rejection> {
    let limit = state.limits.max_event_bytes;
    if record.len() as u64 > limit {
        let detail = format!("the record has {} bytes, max_event_bytes is {limit}", record.len());
        return Err(Rejection::new(Code::TooLarge, detail));
    }
    let event = Event::decode(record).map_err(|error| Rejection::new(Code::Malformed, error.to_string()))?;
    if event.format != event::FORMAT {
        let detail = format!("record format {}, this store's is {}", event.format, event::FORMAT);
        return Err(Rejection::new(Code::Unsupported, detail));
    }
    match (&event.body, position.0) {
        (Body::Genesis(_), 0) => Ok(event),
        (Body::Genesis(_), _) => Err(Rejection::new(Code::Malformed, "genesis stands at position 0 alone")),
        (_, 0) => Err(Rejection::new(Code::Malformed, "a log begins with its genesis")),
        _ => Ok(event),
    }
}

/// Incarnation, seen, window, seal. What stands for the intent is returned for an id met for the first time.
fn admit(state: &State, position: Position, event: &Event<'_>) -> Result<Option<[u8; 16]>, Box<Decision>> {
    let reject = |code, detail: String| Err(Box::new(Decision::rejected(code, detail)));
    if let Body::Genesis(_) = event.body {
        return Ok(None);
    }
    if event.incarnation != state.incarnation {
        let detail = format!("written for incarnation {}, this is {}", event.incarnation, state.incarnation);
        return reject(Code::Foreign, detail);
    }
    let Some((id, intent)) = &event.intention else {
        return Ok(None);
    };
    if id.seen >= position {
        return reject(Code::Future, format!("the id was minted at {}, after its own position {position}", id.seen));
    }
    let width = state.window.width();
    if position.0 - id.seen.0 > width {
        let detail = format!("the id was minted at {}, more than {width} positions before {position}", id.seen);
        return reject(Code::Expired, detail);
    }
    let intent = digest::intent_mark(intent, &event.principal);
    if let Some(first) = state.window.get(id) {
        if first.rejection() == Some(Code::Withdrawn) {
            return reject(Code::Withdrawn, format!("withdrawn at position {}", first.position));
        }
        if first.intent == intent {
            return Err(Box::new(Decision::of(Outcome::Duplicate(*first))));
        }
        let detail = format!("the id stands at position {} with another intent or principal", first.position);
        return reject(Code::IdReused, detail);
    }
    if state.sealed && !matches!(event.body, Body::Open { .. }) {
        return reject(Code::Sealed, "the log was sealed to be moved; where it goes on, it was opened again".to_owned());
    }
    Ok(Some(intent))
}

/// Rights, under the policy in force before the event. What the policy makes strict is strict from here on.
///
/// The principal is the one that the server stamped: whoever may write the log may stamp any.
fn allow(state: &State, event: &mut Event<'_>) -> Result<(), Rejection> {
    let Some(policy) = state.policy().filter(|policy| !policy.rules.is_open()) else { return Ok(()) };
    let grants = policy.rules.of(&event.principal);
    grants.check(&event.body)?;
    if let Body::Commit(commit) = &mut event.body {
        for operation in &mut commit.operations {
            operation.strict |= grants.is_strict(&operation.path, operation.kind.reach());
        }
    }
    Ok(())
}

fn decide(
    state: &mut State,
    position: Position,
    time: Time,
    event: &Event<'_>,
    objects: &dyn Objects,
) -> Result<Decision, ObjectsError> {
    Ok(match &event.body {
        Body::Genesis(genesis) => begin(state, event, genesis),
        Body::Commit(commit) => {
            let Some(schema) = &state.schema else {
                return Ok(Decision::rejected(Code::SchemaInvalid, "the store has no schema yet"));
            };
            match merge::commit_into(&mut state.tree, schema, &state.limits, commit, objects)? {
                Err(rejection) => rejection.into(),
                Ok(()) => {
                    let root = state.tree.root();
                    let tree_changed = root != state.root;
                    state.root = root;
                    Decision { tree_changed, ..Decision::changed(tree_changed) }
                }
            }
        }
        Body::Schema { descriptor_set, root_message } => push_schema(state, position, descriptor_set, root_message),
        Body::Tag { name, revision } => tag(state, position, name, *revision),
        Body::Untag { names } => untag(state, names),
        Body::Retention(policy) => {
            if policy.keep_age_ms < 0 {
                return Ok(Decision::rejected(Code::Limit, format!("keep_age_ms is {}", policy.keep_age_ms)));
            }
            let changed = state.retention != *policy;
            state.retention = *policy;
            Decision::changed(changed)
        }
        Body::Prune { floor } => prune(state, time, *floor),
        Body::Policy { policy, replaces } => set_policy(state, position, policy, *replaces),
        Body::Withdraw { id } => withdraw(state, position, event, id),
        Body::Activation { level } => activate(state, position, *level),
        Body::Clock => Decision::changed(true),
        Body::Seal => {
            state.sealed = true;
            Decision::changed(true)
        }
        Body::Open { incarnation, transport_id } => open(state, position, *incarnation, *transport_id),
        // A sealed log is over: what it holds is decided, whoever announces what. A copy may end at the seal.
        Body::Mark { .. } | Body::Checkpoint(_) if state.sealed => Decision::of(Outcome::Unchanged),
        Body::Mark { last_mark } => {
            let moved = *last_mark != state.last_mark;
            Decision { mark: !moved, ..Decision::changed(!moved) }
        }
        Body::Checkpoint(checkpoint) => announce(state, position, time, checkpoint),
        Body::Fence => Decision::of(Outcome::Unchanged),
        Body::Later { name } => {
            Decision::rejected(Code::Unsupported, format!("{name} is not yet supported at level {}", state.level))
        }
    })
}

fn begin(state: &mut State, event: &Event<'_>, genesis: &Genesis) -> Decision {
    if event.incarnation.0 != genesis.log_id {
        return Decision::rejected(Code::Foreign, "genesis names another incarnation than its log id");
    }
    if genesis.level != event::LEVEL {
        let detail = format!("genesis at level {}, this build begins stores at {}", genesis.level, event::LEVEL);
        return Decision::rejected(Code::Unsupported, detail);
    }
    let ours = event::Limits::default();
    let limits = &genesis.limits;
    // What is refused here is what the checks could not keep to: the depth is fixed, keys and paths may be shorter.
    let shorter = |value: u32, most: u32| (1..=most).contains(&value);
    if limits.depth != ours.depth || !shorter(limits.key_bytes, ours.key_bytes) || !shorter(limits.path_bytes, ours.path_bytes) {
        let detail = format!(
            "depth {} (must be {}), key_bytes {} (1 to {}), path_bytes {} (1 to {})",
            limits.depth, ours.depth, limits.key_bytes, ours.key_bytes, limits.path_bytes, ours.path_bytes
        );
        return Decision::rejected(Code::Limit, detail);
    }
    if genesis.window == 0 || limits.max_event_bytes == 0 {
        return Decision::rejected(Code::Limit, "window and max_event_bytes must not be 0");
    }
    state.limits = genesis.limits;
    state.window = crate::window::Window::new(genesis.window);
    state.trim_replicas = genesis.trim_replicas;
    state.retention = genesis.retention;
    state.transport_id = genesis.transport_id;
    state.put_incarnation(Position(0), event.incarnation);
    state.put_level(Position(0), genesis.level);
    Decision::of(Outcome::Accepted)
}

/// Another life of the log begins, here or on another transport: what was written for an earlier one is foreign from here
/// on, so no incarnation comes twice.
fn open(state: &mut State, position: Position, incarnation: Incarnation, transport_id: [u8; 16]) -> Decision {
    if let Some(used) = state.incarnations().find(|row| row.incarnation == incarnation) {
        let detail = format!("the incarnation {incarnation} began at position {} and cannot begin again", used.begin);
        return Decision::rejected(Code::IdReused, detail);
    }
    state.put_incarnation(position, incarnation);
    state.transport_id = transport_id;
    state.sealed = false;
    Decision::of(Outcome::Accepted)
}

/// S9: checked whole, additions only afterwards; every offender is named.
fn push_schema(state: &mut State, position: Position, descriptor_set: &[u8], root_message: &str) -> Decision {
    let named = match (state.root_message.is_empty(), root_message.is_empty()) {
        (true, true) => {
            return Decision::rejected(Code::SchemaInvalid, "the first schema must name its root message");
        }
        (true, false) => root_message,
        (false, empty) => {
            if !empty && root_message != state.root_message {
                let detail = format!("the root message is {} and stays so, not {root_message}", state.root_message);
                return Decision::rejected(Code::SchemaInvalid, detail);
            }
            state.root_message.as_str()
        }
    };
    let named = named.to_owned();
    if state.schemas().next_back().is_some_and(|(_, latest)| latest == descriptor_set) {
        return Decision::of(Outcome::Unchanged);
    }
    let schema = match Schema::compile(descriptor_set, &named) {
        Ok(schema) => schema,
        Err(problems) => return SchemaProblem::rejection(&problems).into(),
    };
    if let Some(old) = &state.schema
        && let Err(problems) = old.compatible(&schema)
    {
        return SchemaProblem::rejection(&problems).into();
    }
    state.root_message = named;
    state.put_schema(position, descriptor_set, Arc::new(schema));
    Decision::of(Outcome::Accepted)
}

/// `[A-Za-z][A-Za-z0-9._/-]*`, not `latest`, at most 256 bytes.
pub fn check_tag_name(name: &str) -> Result<(), Rejection> {
    let reason = if name.is_empty() {
        "a tag needs a name"
    } else if name.len() > 256 {
        "a tag's name has at most 256 bytes"
    } else if name == "latest" {
        "`latest` always means the latest revision"
    } else if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "a tag's name begins with a letter"
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c)) {
        "a tag's name has letters, digits and . _ / - only"
    } else {
        return Ok(());
    };
    Err(Rejection::new(Code::InvalidPath, format!("{reason}: {name:?}")))
}

/// T1: on a revision that is still kept; re-tagging moves.
fn tag(state: &mut State, position: Position, name: &str, revision: Revision) -> Decision {
    if let Err(rejection) = check_tag_name(name) {
        return rejection.into();
    }
    if revision > state.revision {
        let detail = format!("revision {revision} is not reached yet, the latest is {}", state.revision);
        return Decision::rejected(Code::Future, detail);
    }
    if revision == Revision(0) {
        return Decision::rejected(Code::NotFound, "revision 0 is the empty tree and cannot be tagged");
    }
    if !state.is_kept(revision) {
        let detail = format!("revision {revision} is pruned, the floor is {}", state.floor);
        return Decision::rejected(Code::Pruned, detail);
    }
    if state.tag(name).is_some_and(|row| row.revision == revision) {
        return Decision::of(Outcome::Unchanged);
    }
    state.put_tag(name, revision, position);
    Decision::of(Outcome::Accepted)
}

/// T2: all or nothing.
fn untag(state: &mut State, names: &[std::borrow::Cow<'_, str>]) -> Decision {
    if let Some(unknown) = names.iter().find(|name| state.tag(name).is_none()) {
        return Decision::rejected(Code::NotFound, format!("no tag is called {unknown:?}"));
    }
    names.iter().for_each(|name| state.remove_tag(name));
    Decision::changed(!names.is_empty())
}

fn prune(state: &mut State, time: Time, floor: Option<Revision>) -> Decision {
    let floor = match floor {
        Some(floor) if floor >= state.revision => {
            let detail = format!("the floor must stay below the latest revision {}, not {floor}", state.revision);
            return Decision::rejected(Code::Future, detail);
        }
        Some(floor) => floor,
        None => policy_floor(state, time),
    };
    let raised = floor > state.floor;
    if raised {
        state.raise_floor(floor);
    }
    Decision::changed(raised)
}

/// The revision of the highest mark that keep-n and keep-age both release: no replica's clock can prune.
pub fn policy_floor(state: &State, time: Time) -> Revision {
    let policy = state.retention;
    if policy.keep_all {
        return state.floor;
    }
    let released = |mark: &crate::state::MarkRow| {
        state.revision.0 - mark.revision.0 >= policy.keep_revisions.max(1)
            && time.0.saturating_sub(mark.time.0) >= policy.keep_age_ms
    };
    state.marks().rev().find(released).map_or(state.floor, |mark| mark.revision.max(state.floor))
}

/// The whole policy at once; an author who has not seen the one in force does not replace it.
fn set_policy(state: &mut State, position: Position, policy: &Policy, replaces: Position) -> Decision {
    if let Err(rejection) = policy.check() {
        return rejection.into();
    }
    let present = state.policy().map(|row| row.position).unwrap_or_default();
    if replaces != present {
        let text = |position: Position| match position {
            Position(0) => "none".to_owned(),
            position => format!("that of position {position}"),
        };
        let detail = format!("the policy in force is {}, this one was made to replace {}", text(present), text(replaces));
        return Decision::rejected(Code::Conflict, detail);
    }
    let differs = match state.policy() {
        Some(row) => row.policy != *policy,
        None => *policy != Policy::default(),
    };
    if differs {
        state.put_policy(position, policy);
    }
    Decision::changed(differs)
}

/// Above that replica's last one alone; rows that nobody renewed for a month leave.
///
/// Nothing of what a replica says of itself can be checked here, so what follows from it is bounded: it speaks of the
/// past, it holds nobody up for longer than a month, and it takes little room.
fn announce(state: &mut State, position: Position, time: Time, checkpoint: &Checkpoint<'_>) -> Decision {
    for (what, of) in [("a checkpoint of", checkpoint.position), ("a checkpoint that is durable up to", checkpoint.durable)] {
        if of >= position {
            return Decision::rejected(Code::Future, format!("{what} {of} cannot stand at {position}"));
        }
    }
    let length = checkpoint.build.len();
    if length > MAX_BUILD_BYTES {
        let detail = format!("the build's name has {length} bytes, the limit is {MAX_BUILD_BYTES}");
        return Decision::rejected(Code::Limit, detail);
    }
    let last = state.checkpoint(&checkpoint.replica).map(|row| row.checkpoint.position);
    if last.is_some_and(|last| checkpoint.position <= last) {
        return Decision::of(Outcome::Unchanged);
    }
    let is_old = |row: &CheckpointRow| time.0.saturating_sub(row.time.0) > CHECKPOINT_LIFE_MS;
    let (old, young): (Vec<CheckpointRow>, Vec<_>) = state.checkpoints().partition(is_old);
    if last.is_none() && young.len() >= MAX_REPLICAS {
        let detail = format!("{} replicas have announced checkpoints within a month, which is the limit", young.len());
        return Decision::rejected(Code::Limit, detail);
    }
    old.iter().for_each(|row| state.remove_checkpoint(&row.checkpoint.replica));
    state.put_checkpoint(checkpoint, position, time);
    Decision::of(Outcome::Accepted)
}

/// Bars an id for good; an id that was met keeps its first outcome.
fn withdraw(state: &mut State, position: Position, event: &Event<'_>, id: &EventId) -> Decision {
    if event.intention.is_some_and(|(own, _)| own == *id) {
        return Decision::rejected(Code::IdReused, "an event cannot withdraw itself");
    }
    if id.seen >= position {
        return Decision::rejected(Code::Future, format!("the id was minted at {}, not before {position}", id.seen));
    }
    if position.0 - id.seen.0 > state.window.width() {
        let detail = format!("an id minted at {} is refused from here on whether or not it is withdrawn", id.seen);
        return Decision::rejected(Code::Expired, detail);
    }
    if state.window.get(id).is_some() {
        return Decision::of(Outcome::Unchanged);
    }
    state.window.insert(Entry {
        position,
        id: *id,
        intent: [0; 16],
        outcome: 2,
        code: Code::Withdrawn.number(),
        revision: Revision(0),
    });
    Decision::of(Outcome::Accepted)
}

/// Accepted only when asked for the next level and every replica that has spoken knows it: no forged number can stop
/// the fleet.
fn activate(state: &mut State, position: Position, level: u32) -> Decision {
    if level != state.level + 1 {
        let detail = format!("level {} is active: the next is {}, not {level}", state.level, state.level + 1);
        return Decision::rejected(Code::Unsupported, detail);
    }
    // Nobody has spoken: nobody knows it.
    let lowest = state.checkpoints().map(|row| row.checkpoint.level).min().unwrap_or(0);
    if lowest < level {
        let detail = format!("not every replica has announced that it knows level {level}");
        return Decision::rejected(Code::Unsupported, detail);
    }
    state.put_level(position, level);
    Decision { halt: (level > event::LEVEL).then_some(level), ..Decision::of(Outcome::Accepted) }
}
