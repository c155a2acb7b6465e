//! What clients wish for: random events, each as the record that goes to the log and as what it means.

use super::oracle::{ADMIN, Body as Meant, Meaning, READ, Rule as MeansRule};
use super::plain::{self, Child, Config, Goal, Kind, Plain, Seen, Seg, Value};
use crate::view::View;
use bytes::Bytes;
use confold_model::code::Code;
use confold_model::event::{
    self, Base, Body, Checkpoint, Event, Expect, Guard, Operation, OperationKind, RetentionPolicy,
};
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision};
use confold_model::objects::{Objects, ObjectsError};
use confold_model::path::{Path, Step};
use confold_model::policy::{EVERYBODY, Policy, Right, Rule};
use rand::Rng;
use rand::rngs::SmallRng;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

pub const LOG_ID: [u8; 16] = [0x10; 16];
/// Versions of `sim.proto`; each adds to the one before.
pub const VERSIONS: u32 = 3;
pub const MAX_EVENT_BYTES: usize = 40_000;

/// A replica's view as a client holds it, with the tree that it must show.
#[derive(Clone)]
pub struct Held {
    pub view: Arc<View>,
    pub tree: Rc<Plain>,
    /// The version of the schema that it shows; 0: none.
    pub version: u32,
}

/// A wish: the event's body, and what it means.
pub struct Wish {
    pub body: Body<'static>,
    pub meant: Meant,
}

/// Everything of an event but its body.
pub struct Envelope {
    pub id: Option<EventId>,
    pub intent: u64,
    pub principal: u8,
    pub incarnation: [u8; 16],
    pub reason: String,
}

/// The descriptor set of one version of `sim.proto`.
pub fn schema(version: u32) -> &'static Bytes {
    static SETS: OnceLock<Vec<Bytes>> = OnceLock::new();
    let sets = SETS.get_or_init(|| {
        (1..=VERSIONS)
            .map(|version| compiled(|text| unlocked(text, version)))
            .collect()
    });
    &sets[version as usize - 1]
}

/// A set that compiles and yet may not follow any version.
pub fn incompatible() -> &'static Bytes {
    static SET: OnceLock<Bytes> = OnceLock::new();
    SET.get_or_init(|| compiled(|text| unlocked(text, VERSIONS).replace("int32 speed = 3", "int64 speed = 3")))
}

fn unlocked(text: &str, version: u32) -> String {
    (1..=version).fold(text.to_owned(), |text, version| {
        text.replace(&format!("//{version} "), "")
    })
}

fn compiled(edit: impl Fn(&str) -> String) -> Bytes {
    let folder = tempfile::tempdir().expect("a folder for the schema");
    let file = folder.path().join("sim.proto");
    std::fs::write(&file, edit(include_str!("sim.proto"))).expect("the schema is written");
    confold_wire::schema_source::descriptor_set_of(&file, &[])
        .expect("the schema compiles")
        .descriptor_set
        .into()
}

pub fn record(envelope: &Envelope, body: Body<'_>) -> Bytes {
    let event = Event {
        format: event::FORMAT,
        incarnation: Incarnation(envelope.incarnation),
        intention: envelope.id.map(|id| (id, Hash::of(&envelope.intent.to_be_bytes()))),
        author: "sim".into(),
        principal: name(envelope.principal).into(),
        client_time_ms: 0,
        reason: Cow::Borrowed(&envelope.reason),
        body,
    };
    event.encode().into()
}

/// Number 0 is nobody.
fn name(principal: u8) -> String {
    match principal {
        0 => String::new(),
        number => format!("p{number}"),
    }
}

pub fn meaning(envelope: &Envelope, meant: Meant) -> Meaning {
    Meaning::Event {
        incarnation: envelope.incarnation,
        id: envelope.id,
        intent: envelope.intent,
        principal: envelope.principal,
        body: meant,
    }
}

/// Records that are no events, from one that is.
pub fn junk(rng: &mut SmallRng, good: &Bytes) -> (Bytes, Meaning) {
    let malformed = Meaning::Refused(Code::Malformed);
    match rng.random_range(0..6) {
        0 => (good.slice(..rng.random_range(0..good.len())), malformed),
        1 => ([good, &[0u8, 0][..]].concat().into(), malformed),
        // Field 100, which no event has.
        2 => ([good, &[0xa0u8, 0x06, 0x01][..]].concat().into(), malformed),
        3 => {
            let mut noise = vec![0x07];
            noise.extend((0..rng.random_range(0..200)).map(|_| rng.random::<u8>()));
            (noise.into(), malformed)
        }
        4 => {
            let mut nested = vec![0u8; 0];
            for _ in 0..rng.random_range(2..80) {
                let mut outer = vec![0x8a, 0x01];
                outer.push(nested.len().min(127) as u8);
                outer.extend(nested.iter().take(127));
                nested = outer;
            }
            (nested.into(), malformed)
        }
        _ => {
            // Format 7 comes first in the record.
            (
                [&[0x08u8, 0x07][..], good].concat().into(),
                Meaning::Refused(Code::Unsupported),
            )
        }
    }
}

/// What happens in one history beside commits and upkeep.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Logs are sealed and opened again.
    pub moves: bool,
    /// Policies come and go.
    pub polices: bool,
}

/// A wish for the log as a whole, where habit has one.
pub fn rule_or_move(rng: &mut SmallRng, held: &Held, habits: Habits) -> Option<Wish> {
    if held.view.sealed && rng.random_ratio(1, 2) {
        return Some(open(rng, held));
    }
    match rng.random_range(0..100) {
        0..3 if habits.polices => Some(policy(rng, held)),
        3 if habits.moves => Some(Wish {
            body: Body::Seal,
            meant: Meant::Seal,
        }),
        4 if habits.moves => Some(open(rng, held)),
        _ => None,
    }
}

fn open(rng: &mut SmallRng, held: &Held) -> Wish {
    let incarnation = match rng.random_range(0..10) {
        0 => LOG_ID,
        1 => held.view.incarnation.0,
        _ => rng.random(),
    };
    let transport = if rng.random_ratio(1, 3) {
        rng.random()
    } else {
        held.view.transport_id
    };
    Wish {
        body: Body::Open {
            incarnation: Incarnation(incarnation),
            transport_id: transport,
        },
        meant: Meant::Open { incarnation, transport },
    }
}

/// Mostly one under which p1 may do everything, so that something still happens.
fn policy(rng: &mut SmallRng, held: &Held) -> Wish {
    let present = held.view.policy.as_ref().map_or(0, |row| row.position.0);
    let replaces = if rng.random_ratio(1, 12) { present + 1 } else { present };
    let everything = MeansRule {
        principal: Some(1),
        at: Rc::from(&[][..]),
        rights: [true; 4],
        strict: false,
    };
    let mut rules = match rng.random_range(0..12) {
        0 | 1 => Vec::new(),
        2 => vec![MeansRule {
            rights: [true, true, true, false],
            ..everything
        }],
        _ => vec![everything],
    };
    if !rules.is_empty() {
        for _ in 0..rng.random_range(0..4) {
            let at = match rng.random_range(0..4) {
                0 => Rc::from(&[][..]),
                _ => any_path(rng, &held.tree, held.version),
            };
            let store_wide = at.is_empty() && rng.random_ratio(1, 3);
            let mut rights = [rng.random(), rng.random(), store_wide && rng.random(), store_wide];
            let strict = rng.random_ratio(1, 5);
            rights[READ] |= rights == [false; 4] && !strict;
            let principal = *pick(rng, &[None, Some(1), Some(2), Some(2)]);
            rules.push(MeansRule {
                principal,
                at,
                rights,
                strict,
            });
        }
    }
    let rule = |rule: &MeansRule| Rule {
        principal: rule.principal.map_or_else(|| EVERYBODY.to_owned(), name),
        prefix: path(&rule.at),
        rights: Right::ALL
            .into_iter()
            .zip(rule.rights)
            .filter(|(_, has)| *has)
            .map(|(right, _)| right)
            .collect(),
        strict: rule.strict,
    };
    let policy = Policy {
        rules: rules.iter().map(rule).collect(),
        tokens: Vec::new(),
    };
    let administered = rules.is_empty() || rules.iter().any(|rule| rule.rights[ADMIN]);
    Wish {
        body: Body::Policy {
            policy,
            replaces: Position(replaces),
        },
        meant: Meant::Policy {
            rules: if administered {
                Ok(rules.into())
            } else {
                Err(Code::Malformed)
            },
            replaces,
        },
    }
}

/// A random wish of someone who sees this view.
pub fn wish(rng: &mut SmallRng, held: &Held, objects: &dyn Objects, tags: &[Rc<str>]) -> Result<Wish, ObjectsError> {
    let latest = held.view.revision.0;
    if held.version == 0 && rng.random_ratio(2, 3) {
        return Ok(push_schema(1));
    }
    Ok(match rng.random_range(0..100) {
        0..74 => return commit(rng, held, objects),
        74..77 => match rng.random_range(0..12) {
            // Whatever comes first is compatible.
            0 if held.version > 0 => Wish {
                body: Body::Schema {
                    descriptor_set: incompatible().to_vec().into(),
                    root_message: "sim.Root".into(),
                },
                meant: Meant::Schema(Err(Code::SchemaInvalid)),
            },
            1 => Wish {
                body: Body::Schema {
                    descriptor_set: vec![0x0a, 0x02, 0x08, 0x08].into(),
                    root_message: "sim.Root".into(),
                },
                meant: Meant::Schema(Err(Code::SchemaInvalid)),
            },
            _ => push_schema(rng.random_range(1..=VERSIONS)),
        },
        77..84 => {
            let name: Rc<str> = match rng.random_range(0..12) {
                0 => "latest".into(),
                1 => "7up".into(),
                other => format!("t{}", other % 6).into(),
            };
            let revision = match rng.random_range(0..8) {
                0 => latest + 5,
                1 => 0,
                _ => latest.saturating_sub(rng.random_range(0..20)),
            };
            let body = Body::Tag {
                name: name.to_string().into(),
                revision: Revision(revision),
            };
            Wish {
                body,
                meant: Meant::Tag { name, revision },
            }
        }
        84..86 => {
            let mut names: Vec<Rc<str>> = tags.iter().filter(|_| rng.random_ratio(1, 3)).cloned().collect();
            if rng.random_ratio(1, 5) {
                names.push("nobody".into());
            }
            let body = Body::Untag {
                names: names.iter().map(|name| name.to_string().into()).collect(),
            };
            Wish {
                body,
                meant: Meant::Untag { names },
            }
        }
        86..88 => {
            let keep_revisions = rng.random_range(0..30);
            let keep_age_ms = rng.random_range(-200..4_000);
            let keep_all = rng.random_ratio(1, 6);
            Wish {
                body: Body::Retention(RetentionPolicy {
                    keep_revisions,
                    keep_age_ms,
                    keep_all,
                }),
                meant: Meant::Retention {
                    keep_revisions,
                    keep_age_ms,
                    keep_all,
                },
            }
        }
        88..93 => {
            let floor = match rng.random_range(0..6) {
                0 => Some(latest + 3),
                1 => Some(latest.saturating_sub(rng.random_range(0..40))),
                _ => None,
            };
            Wish {
                body: Body::Prune {
                    floor: floor.map(Revision),
                },
                meant: Meant::Prune { floor },
            }
        }
        93..95 => {
            let id = EventId {
                seen: Position(rng.random_range(0..held.view.position.0 + 40)),
                nonce: rng.random(),
            };
            Wish {
                body: Body::Withdraw { id },
                meant: Meant::Withdraw { id },
            }
        }
        95..96 => {
            let level = rng.random_range(0..4);
            Wish {
                body: Body::Activation { level },
                meant: Meant::Activation { level },
            }
        }
        96..98 => Wish {
            body: Body::Clock,
            meant: Meant::Clock,
        },
        _ => Wish {
            body: Body::Later { name: "trim" },
            meant: Meant::Later,
        },
    })
}

pub fn push_schema(version: u32) -> Wish {
    Wish {
        body: Body::Schema {
            descriptor_set: schema(version).to_vec().into(),
            root_message: "sim.Root".into(),
        },
        meant: Meant::Schema(Ok(version)),
    }
}

/// An announcement; `forged` ones do not say what the replicas computed.
pub fn checkpoint(checkpoint: Checkpoint<'static>, forged: bool) -> Wish {
    let (replica, position, level) = (checkpoint.replica, checkpoint.position.0, checkpoint.level);
    Wish {
        body: Body::Checkpoint(checkpoint),
        meant: Meant::Checkpoint {
            replica,
            position,
            level,
            forged,
        },
    }
}

fn commit(rng: &mut SmallRng, held: &Held, objects: &dyn Objects) -> Result<Wish, ObjectsError> {
    let mut body = event::Commit::default();
    let mut meant = plain::Commit::default();
    let count = *pick(rng, &[0, 1, 1, 1, 1, 1, 1, 2, 2, 3, 5]);
    for _ in 0..rng.random_range(0..4u32).saturating_sub(2) {
        let (guard, means) = guard(rng, held, objects)?;
        body.guards.push(guard);
        meant.guards.push(means);
    }
    for _ in 0..count {
        let (operation, means) = operation(rng, held, objects)?;
        // Most commits are without overlaps; some are not.
        let clash = |other: &plain::Operation| {
            plain::lies_below(&other.at, &means.at) || plain::lies_below(&means.at, &other.at)
        };
        if meant.operations.iter().any(clash) && rng.random_ratio(4, 5) {
            continue;
        }
        body.operations.push(operation);
        meant.operations.push(means);
    }
    Ok(Wish {
        body: Body::Commit(body),
        meant: Meant::Commit(meant),
    })
}

fn guard(rng: &mut SmallRng, held: &Held, objects: &dyn Objects) -> Result<(Guard, plain::Guard), ObjectsError> {
    let at = any_path(rng, &held.tree, held.version);
    let path = path(&at);
    let tree = &held.view.tree;
    let hash = match (plain::goal(&at, held.version), rng.random_range(0..3)) {
        (Ok(Goal::Container { .. }), _) => tree
            .container_hash(&path, objects)?
            .map(|hash| (Expect::Container(hash), 2)),
        (Ok(Goal::Node { .. }), 0) => tree.data_hash(&path, objects)?.map(|hash| (Expect::Data(hash), 1)),
        (Ok(Goal::Node { .. }), _) => tree
            .subtree_hash(&path, objects)?
            .map(|hash| (Expect::Subtree(hash), 0)),
        (Err(_), _) => None,
    };
    let (expect, means) = match hash {
        _ if rng.random_ratio(1, 12) => (Expect::Absent, plain::Expect::Absent),
        None => (Expect::Absent, plain::Expect::Absent),
        Some((expect, 1)) => (
            expect,
            plain::Expect::Data(plain::config(&held.tree, &at).unwrap_or_default()),
        ),
        Some((expect, 2)) => (
            expect,
            plain::Expect::Container(plain::content(&held.tree, &at).unwrap_or_default()),
        ),
        Some((expect, _)) => (
            expect,
            plain::Expect::Subtree(plain::content(&held.tree, &at).unwrap_or_default()),
        ),
    };
    Ok((Guard { path, expect }, plain::Guard { at, expect: means }))
}

fn operation(
    rng: &mut SmallRng,
    held: &Held,
    objects: &dyn Objects,
) -> Result<(Operation<'static>, plain::Operation), ObjectsError> {
    let at = any_path(rng, &held.tree, held.version);
    let goal = plain::goal(&at, held.version);
    let there = plain::exists(&held.tree, &at);
    let key = at.last().and_then(|(_, key)| key.clone());
    let kind = match goal {
        Ok(Goal::Node { kind, keyed }) => node_operation(rng, held, &at, kind, keyed, there, key.as_deref()),
        Ok(Goal::Container { child }) => match rng.random_range(0..12) {
            0 => plain::OperationKind::Remove,
            1 => plain::OperationKind::Update(Config::new()),
            2 => plain::OperationKind::Add(Plain::new()),
            _ => plain::OperationKind::Replace(any_container(rng, at.last().map_or(0, |(field, _)| *field), child)),
        },
        Err(_) => plain::OperationKind::Remove,
    };
    let base = match rng.random_ratio(1, 2) && goal.is_ok() {
        true => base(held, &at, &kind, goal, objects)?,
        false => None,
    };
    let mut bytes = value_bytes(&at, goal, &kind);
    // A note is wrong enough, before version 3.
    let carries = !matches!(kind, plain::OperationKind::Remove) && goal.is_ok() && !plain::has_note(&kind);
    let spoilt = match rng.random_range(0..60) {
        // Field 15, which nothing has; a field of number 0.
        0 if carries => {
            bytes.extend([0x78, 0x01]);
            Some(Code::UnknownField)
        }
        1 if carries => {
            bytes.extend([0x00, 0x00]);
            Some(Code::NotCanonical)
        }
        _ => None,
    };
    let strict = rng.random_ratio(1, 6);
    let wire = Operation {
        path: path(&at),
        strict,
        base: base.as_ref().map(|(base, _)| *base),
        kind: match &kind {
            plain::OperationKind::Update(_) | plain::OperationKind::UpdateWithChildren(_) => OperationKind::Update {
                value: bytes.into(),
                mask: Vec::new(),
            },
            plain::OperationKind::Masked(_, mask) => OperationKind::Update {
                value: bytes.into(),
                mask: mask.clone(),
            },
            plain::OperationKind::Add(_) => OperationKind::Add { value: bytes.into() },
            plain::OperationKind::Put(_) => OperationKind::Put { value: bytes.into() },
            plain::OperationKind::Replace(_) => OperationKind::Replace { value: bytes.into() },
            plain::OperationKind::Remove => OperationKind::Remove,
        },
    };
    Ok((
        wire,
        plain::Operation {
            at,
            strict,
            base: base.map(|(_, seen)| seen),
            kind,
            spoilt,
        },
    ))
}

fn node_operation(
    rng: &mut SmallRng,
    held: &Held,
    at: &[Seg],
    kind: Kind,
    keyed: bool,
    there: bool,
    key: Option<&[u8]>,
) -> plain::OperationKind {
    use plain::OperationKind::*;
    if !there && rng.random_ratio(4, 5) {
        let piece = any_piece(rng, kind, key, 2);
        return if keyed && rng.random_ratio(2, 3) {
            Add(piece)
        } else {
            Put(piece)
        };
    }
    match rng.random_range(0..20) {
        0..6 => Update(changed_config(rng, held, at, kind, key)),
        6..11 => {
            let mask = any_mask(rng, kind);
            let value = plain::masked(&changed_config(rng, held, at, kind, key), &mask);
            if mask.is_empty() {
                Update(changed_config(rng, held, at, kind, key))
            } else {
                Masked(value, mask)
            }
        }
        11 => match kind.children().is_empty() {
            true => Update(Config::new()),
            false => with_children(rng, kind, key),
        },
        12 if keyed => Add(any_piece(rng, kind, key, 2)),
        13..15 => Put(any_piece(rng, kind, key, 2)),
        15..17 => Replace(any_piece(rng, kind, key, 2)),
        17..20 if keyed || rng.random_ratio(1, 20) => Remove,
        _ => Update(any_config(rng, kind, key)),
    }
}

/// An update with children, unless none came up.
fn with_children(rng: &mut SmallRng, kind: Kind, key: Option<&[u8]>) -> plain::OperationKind {
    let piece = any_piece(rng, kind, key, 2);
    match piece.keys().any(|path| !path.is_empty()) {
        true => plain::OperationKind::UpdateWithChildren(piece),
        false => plain::OperationKind::Put(piece),
    }
}

fn base(
    held: &Held,
    at: &Rc<[Seg]>,
    kind: &plain::OperationKind,
    goal: Result<Goal, Code>,
    objects: &dyn Objects,
) -> Result<Option<(Base, Seen)>, ObjectsError> {
    use plain::OperationKind::*;
    let (path, tree) = (path(at), &held.view.tree);
    let hash =
        |found: Option<Hash>, seen: Seen| found.map_or((Base::Absent, Seen::Absent), |hash| (Base::Hash(hash), seen));
    let saw = plain::config(&held.tree, at).map(|config| (*config).clone());
    Ok(match kind {
        // Nobody updates what they saw is not there, and a container has no data.
        Update(_) | UpdateWithChildren(_) | Masked(..) if !matches!(goal, Ok(Goal::Node { .. })) => None,
        Update(_) | UpdateWithChildren(_) => saw
            .zip(tree.data_hash(&path, objects)?)
            .map(|(config, found)| hash(Some(found), Seen::Config(config))),
        Masked(_, mask) => saw.map(|config| {
            let shown = plain::masked(&config, mask);
            hash(
                Some(Hash::of(&[&[4][..], &plain::config_bytes(&shown)].concat())),
                Seen::Config(shown),
            )
        }),
        _ => {
            let content = Seen::Content(plain::content(&held.tree, at).unwrap_or_default());
            let found = match goal {
                Ok(Goal::Container { .. }) => tree.container_hash(&path, objects)?,
                _ => tree.subtree_hash(&path, objects)?,
            };
            Some(hash(found, content))
        }
    })
}

fn value_bytes(at: &[Seg], goal: Result<Goal, Code>, kind: &plain::OperationKind) -> Vec<u8> {
    use plain::OperationKind::*;
    match (kind, goal) {
        (Update(config) | Masked(config, _), _) => plain::config_bytes(config),
        (UpdateWithChildren(piece) | Add(piece) | Put(piece) | Replace(piece), Ok(Goal::Node { kind, .. })) => {
            plain::message_bytes(kind, piece)
        }
        (Replace(piece), Ok(Goal::Container { child })) => {
            plain::container_bytes(at.last().map_or(0, |(field, _)| *field), child, piece)
        }
        _ => Vec::new(),
    }
}

pub fn path(at: &[Seg]) -> Path {
    let step = |(field, key): &Seg| Step {
        field: *field,
        key: key.as_deref().map(Into::into),
    };
    Path {
        steps: at.iter().map(step).collect(),
    }
}

/// Mostly what is there, its children and containers; now and then what is not.
fn any_path(rng: &mut SmallRng, tree: &Plain, version: u32) -> Rc<[Seg]> {
    let mut at: Vec<Seg> = match tree.len() {
        0 => Vec::new(),
        count => match rng.random_range(0..count + 3).checked_sub(3) {
            Some(index) => tree.keys().nth(index).map(|path| path.to_vec()).unwrap_or_default(),
            None => Vec::new(),
        },
    };
    // A list changes as a whole; its elements have no path.
    if at.last().is_some_and(|(field, key)| *field == 5 && key.is_some()) && rng.random_ratio(9, 10) {
        at.pop();
        at.push((5, None));
        return at.into();
    }
    if rng.random_ratio(1, 2) || at.is_empty() {
        let Ok(Goal::Node { kind, .. }) = plain::goal(&at, version.max(1)) else {
            return at.into();
        };
        let children = kind.children();
        if !children.is_empty() {
            let (field, child, _) = *pick(rng, children);
            let key = match child {
                Child::Single(_) => None,
                Child::List(_) => None,
                _ if rng.random_ratio(1, 12) => None,
                keyed => Some(any_key(rng, keyed)),
            };
            at.push((field, key));
        }
    }
    match rng.random_range(0..80) {
        0 => at.push((77, None)),
        1 => at.push((4, Some(Rc::from(&b"k"[..])))),
        2 => at.push((8, Some(any_key(rng, Child::Unsigned(Kind::Port))))),
        _ => {}
    }
    at.into()
}

fn any_key(rng: &mut SmallRng, child: Child) -> Rc<[u8]> {
    match child {
        Child::Text(_) => format!("olt-{}", rng.random_range(0..30)).into_bytes().into(),
        Child::Signed(_) => (rng.random_range(-4..12i32) as u32 ^ 0x8000_0000).to_be_bytes().into(),
        _ => rng.random_range(0..22u32).to_be_bytes().into(),
    }
}

fn key_value(kind: Kind, key: &[u8]) -> Option<Value> {
    let number = || key.try_into().map(u32::from_be_bytes).unwrap_or_default();
    let number = match kind {
        Kind::Device => return Some(Value::Text(String::from_utf8_lossy(key).into_owned())),
        Kind::Group => i64::from((number() ^ 0x8000_0000) as i32),
        _ => i64::from(number()),
    };
    (number != 0).then_some(Value::Number(number))
}

fn any_text(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..40) {
        0 => Value::Text("long ".repeat(230)),
        1 => Value::Text("\u{fc}\u{4e16}".into()),
        other => Value::Text(["a", "b", "c", "d"][other % 4].into()),
    }
}

fn any_config(rng: &mut SmallRng, kind: Kind, key: Option<&[u8]>) -> Config {
    let mut config = Config::new();
    let mut maybe = |rng: &mut SmallRng, way: &[u32], value: Value| {
        if rng.random_ratio(1, 2) {
            config.insert(way.to_vec(), value);
        }
    };
    let text = any_text(rng);
    match kind {
        Kind::Root | Kind::Health | Kind::Server => maybe(rng, &[1], text),
        Kind::Port | Kind::Group => maybe(rng, &[2], text),
        Kind::Device => {
            maybe(rng, &[2], text);
            let speed = *pick(rng, &[1, 10, -1, i64::from(i32::MIN), i64::from(i32::MAX)]);
            maybe(rng, &[3], Value::Number(speed));
            if rng.random_ratio(1, 4) {
                maybe(rng, &[4], Value::Text("serial".into()));
            }
            if rng.random_ratio(1, 3) {
                maybe(rng, &[6], Value::Message);
            }
            let host = any_text(rng);
            maybe(rng, &[6, 1], host);
            let port = rng.random_range(1..4);
            maybe(rng, &[6, 2], Value::Number(port));
            let labels: BTreeMap<String, String> = (0..rng.random_range(1..4))
                .map(|n| (format!("l{n}"), "".into()))
                .collect();
            if rng.random_ratio(1, 3) {
                maybe(rng, &[7], Value::Map(labels));
            }
            if rng.random_ratio(1, 20) {
                maybe(rng, &[20], Value::Text("note".into()));
            }
        }
    }
    if config.keys().any(|way| way.len() > 1) {
        config.insert(vec![6], Value::Message);
    }
    // Now and then a key that is not the path's.
    match key {
        Some(_) if rng.random_ratio(1, 60) => {
            let wrong = if kind == Kind::Device {
                Value::Text("other".into())
            } else {
                Value::Number(99)
            };
            config.insert(vec![1], wrong);
        }
        Some(key) => {
            config.extend(key_value(kind, key).map(|value| (vec![1], value)));
        }
        None => {}
    }
    config
}

/// What stands there with a field or two changed, so that merges find equal parts.
fn changed_config(rng: &mut SmallRng, held: &Held, at: &[Seg], kind: Kind, key: Option<&[u8]>) -> Config {
    let fresh = any_config(rng, kind, key);
    let Some(old) = plain::config(&held.tree, at) else {
        return fresh;
    };
    let mut config = (*old).clone();
    config.extend(fresh.into_iter().filter(|_| rng.random_ratio(1, 2)));
    if config.keys().any(|way| way.len() > 1) {
        config.insert(vec![6], Value::Message);
    }
    config
}

fn any_mask(rng: &mut SmallRng, kind: Kind) -> Vec<Vec<u32>> {
    let all: &[&[u32]] = match kind {
        Kind::Device => &[&[2], &[3], &[4], &[6, 1], &[6, 2], &[7]],
        Kind::Port | Kind::Group => &[&[2]],
        _ => &[&[1]],
    };
    let mut mask: Vec<Vec<u32>> = all
        .iter()
        .filter(|_| rng.random_ratio(1, 2))
        .map(|way| way.to_vec())
        .collect();
    if kind == Kind::Device && rng.random_ratio(1, 10) {
        mask.retain(|way| way[0] != 6);
        mask.push(vec![6]);
        mask.sort();
    }
    mask
}

/// A node with children, relative to itself.
fn any_piece(rng: &mut SmallRng, kind: Kind, key: Option<&[u8]>, depth: u32) -> Plain {
    let mut piece = Plain::new();
    let config = any_config(rng, kind, key);
    if key.is_some() || !config.is_empty() || kind == Kind::Server {
        piece.insert(Rc::from(&[][..]), Rc::new(config));
    }
    if depth == 0 {
        return piece;
    }
    for (field, child, since) in kind.children() {
        if *since > 1 || rng.random_ratio(1, 2) {
            continue;
        }
        piece.extend(match child {
            Child::Single(kind) => {
                let inner = any_piece(rng, *kind, None, depth - 1);
                inner
                    .into_iter()
                    .map(|(path, config)| (below(&(*field, None), &path), config))
                    .collect()
            }
            _ => any_elements(rng, *field, *child, depth - 1),
        });
    }
    piece
}

fn any_container(rng: &mut SmallRng, field: u32, child: Child) -> Plain {
    if rng.random_ratio(1, 5) {
        Plain::new()
    } else {
        any_elements(rng, field, child, 1)
    }
}

fn any_elements(rng: &mut SmallRng, field: u32, child: Child, depth: u32) -> Plain {
    let mut elements = Plain::new();
    let count = *pick(rng, &[0u32, 1, 1, 2, 3, 3, 19]);
    for index in 0..count {
        let key = match child {
            Child::List(_) => Rc::from(&index.to_be_bytes()[..]),
            _ => any_key(rng, child),
        };
        let named = child.is_keyed().then_some(&*key);
        let step = (field, Some(key.clone()));
        if elements.contains_key(std::slice::from_ref(&step)) {
            continue;
        }
        let mut inner = any_piece(rng, child.kind(), named, depth.min(if count > 3 { 0 } else { depth }));
        if child.is_keyed() {
            // Elements in a value keep the key that orders them.
            let own = inner.entry(Rc::from(&[][..])).or_default();
            let own = Rc::make_mut(own);
            own.remove(&[1][..]);
            own.extend(key_value(child.kind(), &key).map(|value| (vec![1], value)));
        }
        elements.extend(inner.into_iter().map(|(path, config)| (below(&step, &path), config)));
    }
    elements
}

fn below(step: &Seg, path: &[Seg]) -> Rc<[Seg]> {
    std::iter::once(step).chain(path).cloned().collect()
}

fn pick<'a, T>(rng: &mut SmallRng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}
