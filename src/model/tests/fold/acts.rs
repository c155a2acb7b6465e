//! Random logs: acts that are turned into records one after the other, each in the light of what stands by then.

use crate::naive::{item, num, text};
use crate::support::{Envelope, LOG_ID, commit, genesis, path, put, schema, schema_body, small_limits};
use confold_model::event::{Base, Body, Checkpoint, Commit, Expect, Guard, Operation, OperationKind, RetentionPolicy};
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision};
use confold_model::node;
use confold_model::objects::Objects;
use confold_model::path::{Path, Target};
use confold_model::policy::{EVERYBODY, Policy, Right, Rule, TokenRow};
use confold_model::state::State;
use confold_model::tree::{Lookup, Tree};
use proptest::prelude::*;

/// W of these stores: small, so that ids expire.
pub const WINDOW: u64 = 12;

/// Few paths, so that acts meet; every kind of node and container is among them.
const PATHS: [&str; 24] = [
    "/",
    "/health",
    "/health/probes/1",
    "/health/probes/0",
    "/health/probes",
    "/devices",
    "/devices/a",
    "/devices/b",
    "/devices/k03",
    "/devices/k17",
    "/devices/a/ports",
    "/devices/a/ports/1",
    "/devices/a/ports/2",
    "/devices/a/health",
    "/devices/a/health/probes/1",
    "/devices/k03/ports/1",
    "/spares",
    "/spares/a",
    "/groups/-1",
    "/groups/5",
    "/groups/5/groups/5",
    "/groups/5/groups",
    "/servers",
    "/groups",
];

#[derive(Clone, Debug)]
pub struct Step {
    /// Record time against the last one's.
    later: i64,
    /// How far `seen` lies behind the last position; negative is the future.
    behind: i64,
    /// Takes the id of an earlier record instead of a new one.
    id_of: Option<prop::sample::Index>,
    intent_of: bool,
    principal: u8,
    foreign: bool,
    /// Opens the log where it is sealed, instead of the act.
    unseal: bool,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    Commit {
        guards: Vec<GuardPick>,
        operations: Vec<Pick>,
    },
    /// Replaces a container by this many elements.
    Fill {
        count: u8,
        spares: bool,
    },
    Tag {
        name: u8,
        revision: u64,
    },
    Untag(Vec<u8>),
    Retention(RetentionPolicy),
    Prune(Option<u64>),
    Policy {
        rules: Vec<RulePick>,
        tokens: u8,
        right: bool,
    },
    Withdraw {
        of: Option<prop::sample::Index>,
        behind: i64,
    },
    Activation(u32),
    Clock,
    Mark {
        right: bool,
    },
    Checkpoint {
        replica: u8,
        behind: i64,
        level: u32,
    },
    Fence,
    Seal,
    Open {
        incarnation: u8,
        transport: u8,
    },
    Later,
    Resend(prop::sample::Index),
    SchemaAgain,
    Garbage(u8),
}

#[derive(Clone, Debug)]
struct RulePick {
    principal: u8,
    path: usize,
    /// Bits of read, write, tag, admin.
    rights: u8,
    strict: bool,
}

#[derive(Clone, Debug)]
struct GuardPick {
    path: usize,
    kind: u8,
    tree: prop::sample::Index,
}

#[derive(Clone, Debug)]
struct Pick {
    path: usize,
    kind: u8,
    strict: bool,
    base: Option<BasePick>,
    mask: u8,
    /// What the fields and children of the value are.
    dice: [u8; 6],
    fault: u8,
}

#[derive(Clone, Debug)]
enum BasePick {
    Absent,
    Nonsense,
    /// Of a tree of the past, the latest included.
    Tree(prop::sample::Index),
}

/// As many cases as `PROPTEST_CASES` asks for, else few enough for every day.
pub fn cases(everyday: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(everyday),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

pub fn steps(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), length)
}

fn step() -> impl Strategy<Value = Step> {
    let rarely = |of: u32| prop::bool::weighted(1.0 / f64::from(of));
    let id_of = prop::option::weighted(0.06, any::<prop::sample::Index>());
    let behind = prop_oneof![40 => 0i64..4, 1 => -1i64..0, 3 => 9i64..15];
    let later = prop_oneof![4 => 0i64..60, 1 => -80i64..0, 1 => Just(40 * 24 * 3_600_000i64)];
    (
        later,
        behind,
        id_of,
        any::<bool>(),
        0u8..6,
        rarely(25),
        rarely(4),
        act(),
    )
        .prop_map(
            |(later, behind, id_of, intent_of, principal, foreign, unseal, act)| Step {
                later,
                behind,
                id_of,
                intent_of,
                principal,
                foreign,
                unseal,
                act,
            },
        )
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    let operations = prop_oneof![1 => prop::collection::vec(pick(), 0..1), 30 => prop::collection::vec(pick(), 1..4)];
    let guards = prop_oneof![5 => prop::collection::vec(guard(), 0..1), 1 => prop::collection::vec(guard(), 1..3)];
    let policy =
        (0u64..4, -1i64..200, any::<bool>()).prop_map(|(keep_revisions, keep_age_ms, keep_all)| RetentionPolicy {
            keep_revisions,
            keep_age_ms: if keep_age_ms % 20 == 0 { 0 } else { keep_age_ms },
            keep_all,
        });
    prop_oneof![
        30 => (guards, operations).prop_map(|(guards, operations)| Act::Commit { guards, operations }),
        3 => (0u8..40, any::<bool>()).prop_map(|(count, spares)| Act::Fill { count, spares }),
        3 => (0u8..4, 0u64..12).prop_map(|(name, revision)| Act::Tag { name, revision }),
        1 => prop::collection::vec(0u8..4, 0..3).prop_map(Act::Untag),
        1 => policy.prop_map(Act::Retention),
        3 => prop::option::of(0u64..10).prop_map(Act::Prune),
        3 => (rules(), 0u8..4, prop::bool::weighted(0.85))
            .prop_map(|(rules, tokens, right)| Act::Policy { rules, tokens, right }),
        2 => (prop::option::of(index()), -1i64..14).prop_map(|(of, behind)| Act::Withdraw { of, behind }),
        1 => (0u32..4).prop_map(Act::Activation),
        1 => Just(Act::Clock),
        3 => prop::bool::weighted(0.8).prop_map(|right| Act::Mark { right }),
        3 => (0u8..3, -1i64..4, 0u32..3).prop_map(|(replica, behind, level)| Act::Checkpoint { replica, behind, level }),
        1 => Just(Act::Fence),
        1 => Just(Act::Seal),
        1 => (0u8..4, 0u8..3).prop_map(|(incarnation, transport)| Act::Open { incarnation, transport }),
        1 => Just(Act::Later),
        2 => index().prop_map(Act::Resend),
        1 => Just(Act::SchemaAgain),
        1 => (0u8..3).prop_map(Act::Garbage),
    ]
}

/// Mostly with somebody who may do everything, so that something still happens.
fn rules() -> impl Strategy<Value = Vec<RulePick>> {
    let rule = |rights: BoxedStrategy<u8>, path: BoxedStrategy<usize>| {
        (0u8..3, path, rights, prop::bool::weighted(0.15)).prop_map(|(principal, path, rights, strict)| RulePick {
            principal,
            path,
            rights,
            strict,
        })
    };
    let any_path = (0..PATHS.len()).boxed();
    let on_data = rule((0u8..4).boxed(), any_path.clone());
    let on_anything = rule((0u8..16).boxed(), any_path);
    let on_root = rule((0u8..16).boxed(), Just(0).boxed());
    let more = prop::collection::vec(prop_oneof![6 => on_data, 2 => on_root, 1 => on_anything], 0..4);
    let first = prop_oneof![6 => Just(15u8), 1 => 0u8..16];
    prop_oneof![
        1 => Just(Vec::new()),
        4 => (first, more).prop_map(|(rights, more)| {
            let first = RulePick { principal: 0, path: 0, rights, strict: false };
            [vec![first], more].concat()
        }),
    ]
}

fn guard() -> impl Strategy<Value = GuardPick> {
    (0..PATHS.len(), 0u8..5, any::<prop::sample::Index>()).prop_map(|(path, kind, tree)| GuardPick { path, kind, tree })
}

fn pick() -> impl Strategy<Value = Pick> {
    let base = prop_oneof![
        1 => Just(BasePick::Absent),
        1 => Just(BasePick::Nonsense),
        5 => any::<prop::sample::Index>().prop_map(BasePick::Tree),
    ];
    let fault = prop_oneof![12 => Just(0u8), 1 => 1u8..6];
    (
        0..PATHS.len(),
        0u8..5,
        prop::bool::weighted(0.15),
        prop::option::weighted(0.35, base),
        0u8..8,
        any::<[u8; 6]>(),
        fault,
    )
        .prop_map(|(path, kind, strict, base, mask, dice, fault)| Pick {
            path,
            kind,
            strict,
            base,
            mask,
            dice,
            fault,
        })
}

/// Turns steps into records.
pub struct Writer {
    time: i64,
    nonce: u64,
    sent: Vec<(EventId, Hash, Vec<u8>)>,
    trees: Vec<Tree>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer {
            time: 1_000,
            nonce: 0,
            sent: Vec::new(),
            trees: vec![Tree::empty()],
        }
    }

    /// The first records of a log: genesis, schema, and content where it is wanted.
    pub fn begin(&mut self, content: bool) -> Vec<(i64, Vec<u8>)> {
        let first = Envelope::without_id().record(Body::Genesis(genesis(WINDOW, small_limits())));
        let mut records = vec![first, Envelope::new(0, 0xee).record(schema_body())];
        if content {
            let health = |field| item(field, &[text(1, b"ok"), item(2, &num(1, 1))].concat());
            let ports = [item(8, &num(1, 1)), item(8, &[num(1, 2), text(3, b"s")].concat())].concat();
            let a = [text(1, b"a"), text(2, b"label"), ports, health(9)].concat();
            let many: Vec<u8> = (0..20)
                .flat_map(|n| item(2, &text(1, format!("k{n:02}").as_bytes())))
                .collect();
            let groups = item(3, &[num(1, 5), item(3, &num(1, 5))].concat());
            let value = [
                item(2, &a),
                many,
                groups,
                health(4),
                item(5, &text(1, b"x")),
                item(6, &text(1, b"a")),
            ]
            .concat();
            records.push(Envelope::new(1, 0xed).record(commit(vec![put("/", value)])));
        }
        records.into_iter().map(|record| (self.time, record)).collect()
    }

    pub fn next(&mut self, step: &Step, state: &State, objects: &dyn Objects) -> (i64, Vec<u8>) {
        if self.trees.last().map(Tree::root) != Some(state.root()) {
            self.trees.push(state.tree().clone());
        }
        self.time += step.later;
        let last = state.position().unwrap().0 as i64;
        let at = |behind: i64| Position((last - behind).max(0) as u64);
        let open = |incarnation: u8, transport: u8| Body::Open {
            // The first of these is the log id.
            incarnation: Incarnation([0x10 + incarnation; 16]),
            transport_id: [0x20 + transport; 16],
        };
        let body = match &step.act {
            _ if step.unseal && state.is_sealed() => open(state.incarnations().count() as u8, 0),
            Act::Commit { guards, operations } => Body::Commit(Commit {
                guards: guards.iter().map(|guard| self.guard(guard, objects)).collect(),
                operations: operations.iter().map(|pick| self.operation(pick, objects)).collect(),
            }),
            Act::Fill { count, spares } => {
                let (field, at) = if *spares { (6, "/spares") } else { (2, "/devices") };
                let elements: Vec<u8> = (0..*count)
                    .flat_map(|n| item(field, &text(1, format!("k{n:02}").as_bytes())))
                    .collect();
                let kind = OperationKind::Replace { value: elements.into() };
                let operation = Operation {
                    path: path(at),
                    strict: false,
                    base: None,
                    kind,
                };
                Body::Commit(Commit {
                    guards: Vec::new(),
                    operations: vec![operation],
                })
            }
            Act::Tag { name, revision } => Body::Tag {
                name: tag_name(*name).into(),
                revision: Revision(*revision),
            },
            Act::Untag(names) => {
                let mut names = names.clone();
                names.dedup();
                Body::Untag {
                    names: names.iter().map(|name| tag_name(*name).into()).collect(),
                }
            }
            Act::Retention(policy) => Body::Retention(*policy),
            Act::Prune(floor) => Body::Prune {
                floor: floor.map(Revision),
            },
            Act::Policy { rules, tokens, right } => {
                let present = state.policy().map(|row| row.position).unwrap_or_default();
                Body::Policy {
                    policy: policy(rules, *tokens),
                    replaces: if *right { present } else { Position(present.0 + 1) },
                }
            }
            Act::Withdraw { of, behind } => {
                let met = of
                    .as_ref()
                    .filter(|_| !self.sent.is_empty())
                    .map(|of| self.sent[of.index(self.sent.len())].0);
                let id = met.unwrap_or_else(|| {
                    let id = EventId {
                        seen: at(*behind),
                        nonce: self.mint(),
                    };
                    // It is on its way, and may come yet.
                    let lost = Envelope {
                        id: Some(id),
                        ..Envelope::new(0, 0)
                    };
                    self.sent.push((id, lost.intent, lost.record(commit(Vec::new()))));
                    id
                });
                Body::Withdraw { id }
            }
            Act::Activation(level) => Body::Activation { level: *level },
            Act::Clock => Body::Clock,
            Act::Mark { right } => {
                let Position(last) = state.last_mark();
                Body::Mark {
                    last_mark: Position(if *right { last } else { last + 1 }),
                }
            }
            Act::Checkpoint { replica, behind, level } => Body::Checkpoint(Checkpoint {
                replica: [*replica; 16],
                build: "build".into(),
                level: *level,
                position: at(*behind),
                chain: Hash::of(&[1]),
                state: Hash::of(&[2]),
                durable: at(*behind),
            }),
            Act::Fence => Body::Fence,
            Act::Seal => Body::Seal,
            Act::Open { incarnation, transport } => open(*incarnation, *transport),
            Act::Later => Body::Later { name: "trim" },
            Act::Resend(_) if self.sent.is_empty() => Body::Fence,
            Act::Resend(which) => return (self.time, self.sent[which.index(self.sent.len())].2.clone()),
            Act::SchemaAgain => schema_body(),
            Act::Garbage(0) => return (self.time, Vec::new()),
            Act::Garbage(1) => return (self.time, vec![0xff, 0xff]),
            Act::Garbage(_) => return (self.time, vec![0; 65_537]),
        };
        let mut envelope = Envelope::without_id();
        if !body.is_housekeeping() {
            let earlier = step
                .id_of
                .as_ref()
                .filter(|_| !self.sent.is_empty())
                .map(|of| self.sent[of.index(self.sent.len())].clone());
            envelope.id = Some(match &earlier {
                Some((id, ..)) => *id,
                None => EventId {
                    seen: at(step.behind),
                    nonce: self.mint(),
                },
            });
            envelope.intent = match earlier {
                Some((_, intent, _)) if step.intent_of => intent,
                _ => Hash::of(&self.nonce.to_be_bytes()),
            };
        }
        let rules = state.policy().is_some_and(|row| !row.policy.rules.is_empty());
        envelope.principal = match (rules, step.principal) {
            (false, 0) | (true, 2..) => "ada".into(),
            (true, 1) => "bob".into(),
            _ => String::new(),
        };
        let Incarnation(present) = state.incarnation();
        envelope.incarnation = match step.foreign {
            false => present,
            true if present == LOG_ID => [9; 16],
            true => LOG_ID,
        };
        let record = envelope.record(body);
        if let Some(id) = envelope.id {
            self.sent.push((id, envelope.intent, record.clone()));
        }
        (self.time, record)
    }

    fn mint(&mut self) -> [u8; 16] {
        self.nonce += 1;
        u128::from(self.nonce).to_be_bytes()
    }

    fn tree(&self, index: &prop::sample::Index) -> &Tree {
        // One of the last few, so that some bases are still what stands there.
        &self.trees[self.trees.len() - 1 - index.index(self.trees.len().min(4))]
    }

    fn guard(&self, pick: &GuardPick, objects: &dyn Objects) -> Guard {
        let path = path(PATHS[pick.path]);
        let tree = self.tree(&pick.tree);
        let container = matches!(schema().resolve(&path), Ok(Target::Container { .. }));
        let expect = match (pick.kind, container) {
            (0, _) => Expect::Absent,
            (1, true) | (4, false) => Expect::Container(Hash::ZERO),
            (_, true) => Expect::Container(tree.container_hash(&path, objects).unwrap().unwrap_or(Hash::ZERO)),
            (1 | 2, _) => Expect::Data(tree.data_hash(&path, objects).unwrap().unwrap_or(Hash::ZERO)),
            _ => Expect::Subtree(tree.subtree_hash(&path, objects).unwrap().unwrap_or(Hash::ZERO)),
        };
        Guard { path, expect }
    }

    fn operation(&self, pick: &Pick, objects: &dyn Objects) -> Operation<'static> {
        let at = path(PATHS[pick.path]);
        // Half of all operations are updates or, on a container, replaces: what else would mostly be refused.
        let container = matches!(schema().resolve(&at), Ok(Target::Container { .. }));
        let value = value(&at, pick, container).into();
        let masks: [&[u32]; 8] = [&[], &[], &[], &[], &[], &[2], &[1, 2], &[2, 3]];
        let mask: Vec<Vec<u32>> = masks[usize::from(pick.mask)].iter().map(|field| vec![*field]).collect();
        let known = |mask: &Vec<Vec<u32>>| {
            let ty = match schema().resolve(&at) {
                Ok(Target::Node { ty, .. }) => ty,
                _ => return false,
            };
            schema().check_mask(ty, mask).is_ok()
        };
        let kind = match (pick.kind, container) {
            (0, false) | (0, true) => OperationKind::Update {
                value,
                mask: if known(&mask) { mask } else { Vec::new() },
            },
            (1, _) => OperationKind::Add { value },
            (2, false) => OperationKind::Put { value },
            (3, _) | (2, true) => OperationKind::Replace { value },
            _ => OperationKind::Remove,
        };
        let base = pick.base.as_ref().map(|base| match base {
            BasePick::Absent => Base::Absent,
            BasePick::Nonsense => Base::Hash(Hash::of(b"nonsense")),
            BasePick::Tree(index) => base_of(self.tree(index), &at, &kind, objects).map_or(Base::Absent, Base::Hash),
        });
        Operation {
            path: at,
            strict: pick.strict,
            base,
            kind,
        }
    }
}

fn policy(rules: &[RulePick], tokens: u8) -> Policy {
    let rule = |pick: &RulePick| Rule {
        principal: ["ada", "bob", EVERYBODY][usize::from(pick.principal)].to_owned(),
        prefix: path(PATHS[pick.path]),
        rights: Right::ALL
            .into_iter()
            .filter(|right| pick.rights & (1 << (*right as u8 - 1)) != 0)
            .collect(),
        strict: pick.strict,
    };
    let token = |number: u8| TokenRow {
        // The third has the id of the first.
        id: [number % 2; 8],
        hash: [number; 32],
        principal: "ada".to_owned(),
        expires_ms: number.into(),
    };
    Policy {
        rules: rules.iter().map(rule).collect(),
        tokens: (0..tokens).map(token).collect(),
    }
}

fn tag_name(pick: u8) -> String {
    ["one", "two/x", "latest", "1st"][usize::from(pick)].to_owned()
}

/// What a proposer that saw `tree` would send.
fn base_of(tree: &Tree, path: &Path, kind: &OperationKind<'_>, objects: &dyn Objects) -> Option<Hash> {
    match (schema().resolve(path).unwrap(), kind) {
        (Target::Container { .. }, _) => tree.container_hash(path, objects).unwrap(),
        (Target::Node { ty, .. }, OperationKind::Update { mask, .. }) if !mask.is_empty() => {
            match tree.node(path, objects).unwrap() {
                Lookup::Found(node) => Some(node::data_hash(&schema().masked(
                    ty,
                    node.config(objects).unwrap(),
                    mask,
                ))),
                Lookup::Default => Some(node::data_hash(&[])),
                Lookup::Absent { .. } => None,
            }
        }
        (_, OperationKind::Update { .. }) => tree.data_hash(path, objects).unwrap(),
        _ => tree.subtree_hash(path, objects).unwrap(),
    }
}

/// A value for the node or container at `path`, with a fault where one is wanted: 1 another key, 2 no key, 3 a field twice,
/// 4 an unknown field, 5 a default that is written out.
fn value(path: &Path, pick: &Pick, container: bool) -> Vec<u8> {
    let mut dice = pick.dice.iter().cycle().copied();
    let mut roll = |limit: u8| dice.next().unwrap() % limit;
    let words = ["", "x", "y", "longer text"];
    let word = |roll: &mut dyn FnMut(u8) -> u8| words[usize::from(roll(4))].as_bytes();
    let fields: Vec<u32> = path.steps.iter().map(|step| step.field).collect();
    let key = |number: bool| -> Vec<u8> {
        let bytes = path.steps.last().and_then(|step| step.key.clone()).unwrap_or_default();
        match (pick.fault, number) {
            (1, false) => text(1, b"other"),
            (1, true) => num(1, 77),
            (2, _) => Vec::new(),
            (_, false) => text(1, &bytes),
            (_, true) => {
                let number = bytes[..].try_into().map_or(0, u32::from_be_bytes);
                let signed = fields.iter().all(|field| *field == 3);
                num(
                    1,
                    if signed {
                        (number ^ 0x8000_0000) as i32 as i64 as u64
                    } else {
                        number.into()
                    },
                )
            }
        }
    };
    let with_children = matches!(pick.kind, 1..=3) || roll(16) == 0;
    let ports = |field: u32, roll: &mut dyn FnMut(u8) -> u8| -> Vec<u8> {
        let numbers: &[u64] = [&[][..], &[1], &[0, 1], &[1, 2, 300], &[1, 1]][usize::from(roll(16).min(4))];
        if with_children {
            numbers
                .iter()
                .flat_map(|number| item(field, &[num(1, *number), text(3, b"s")].concat()))
                .collect()
        } else {
            Vec::new()
        }
    };
    let mut value = match (&fields[..], container) {
        ([], _) => {
            let health = if with_children && roll(3) == 0 {
                item(4, &text(1, b"ok"))
            } else {
                Vec::new()
            };
            [text(1, word(&mut roll)), health].concat()
        }
        ([4] | [2, 9], _) => [text(1, word(&mut roll)), ports(2, &mut roll)].concat(),
        ([2 | 6], false) => {
            let address = if roll(2) == 0 {
                item(6, &text(3, word(&mut roll)))
            } else {
                Vec::new()
            };
            let health = if with_children && roll(3) == 0 {
                item(9, &text(1, b"ok"))
            } else {
                Vec::new()
            };
            let plain = [
                key(false),
                text(2, word(&mut roll)),
                num(3, roll(3).into()),
                text(4, word(&mut roll)),
                address,
            ];
            [plain.concat(), ports(8, &mut roll), health].concat()
        }
        ([.., 3], false) => [key(true), text(2, word(&mut roll))].concat(),
        ([.., 8 | 2], false) => [key(true), text(2, word(&mut roll)), text(3, word(&mut roll))].concat(),
        ([5], _) => (0..roll(4))
            .flat_map(|n| item(5, &text(1, words[usize::from(n)].as_bytes())))
            .collect(),
        ([.., field @ (2 | 6)], true) if fields.len() == 1 => (0..roll(4))
            .flat_map(|n| item(*field, &text(1, [b'a' + n].as_slice())))
            .collect(),
        ([.., field], _) => (1..1 + roll(4)).flat_map(|n| item(*field, &num(1, n.into()))).collect(),
    };
    match pick.fault {
        3 if !value.is_empty() && !container => value.splice(0..0, text(1, b"twice")).for_each(drop),
        4 => value.extend(num(15, 1)),
        5 if !container => value.splice(0..0, item(1, b"")).for_each(drop),
        _ => {}
    }
    value
}
