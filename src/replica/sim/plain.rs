//! The tree as one ordered map from path to config, and commits on it: slow, small, and obviously right.
//!
//! Nothing here hashes. Where the fold compares hashes, this compares what they stand for.

use confold_model::code::Code;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

/// A step: field number, and the key where the step goes to an element. Without a key: a single child, or a container.
pub type Seg = (u32, Option<Rc<[u8]>>);

/// What is stored: the root if it has a config, single children that have one, and every element. A piece of a tree
/// has the same form, with paths relative to its top.
pub type Plain = BTreeMap<Rc<[Seg]>, Rc<Config>>;

/// Fields that are set, by their way of numbers.
pub type Config = BTreeMap<Vec<u32>, Value>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    Text(String),
    Number(i64),
    /// A nested message that is there; its fields have ways below it.
    Message,
    Map(BTreeMap<String, String>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Root,
    Device,
    Port,
    Group,
    Health,
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Child {
    Single(Kind),
    List(Kind),
    Text(Kind),
    Unsigned(Kind),
    Signed(Kind),
}

impl Child {
    pub fn kind(self) -> Kind {
        let (Child::Single(kind) | Child::List(kind) | Child::Text(kind) | Child::Unsigned(kind) | Child::Signed(kind)) =
            self;
        kind
    }

    pub fn is_keyed(self) -> bool {
        !matches!(self, Child::Single(_) | Child::List(_))
    }
}

impl Kind {
    /// The child fields of `sim.proto`, from which version on each is there.
    pub fn children(self) -> &'static [(u32, Child, u32)] {
        match self {
            Kind::Root => &[
                (2, Child::Text(Kind::Device), 1),
                (3, Child::Signed(Kind::Group), 1),
                (4, Child::Single(Kind::Health), 1),
                (5, Child::List(Kind::Server), 1),
                (10, Child::Unsigned(Kind::Port), 2),
            ],
            Kind::Device => &[(8, Child::Unsigned(Kind::Port), 1), (9, Child::Single(Kind::Health), 1)],
            Kind::Group => &[(3, Child::Signed(Kind::Group), 1)],
            Kind::Health => &[(2, Child::Unsigned(Kind::Port), 1)],
            Kind::Port | Kind::Server => &[],
        }
    }

    pub fn child(self, field: u32, version: u32) -> Option<Child> {
        let found = self
            .children()
            .iter()
            .find(|(number, _, since)| *number == field && *since <= version);
        found.map(|(_, child, _)| *child)
    }
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    Node { kind: Kind, keyed: bool },
    Container { child: Child },
}

pub fn goal(at: &[Seg], version: u32) -> Result<Goal, Code> {
    let mut goal = Goal::Node {
        kind: Kind::Root,
        keyed: false,
    };
    for (field, key) in at {
        let Goal::Node { kind, .. } = goal else {
            return Err(Code::IsAContainer);
        };
        let child = kind.child(*field, version).ok_or(Code::NotFound)?;
        goal = match (child, key) {
            (Child::Single(kind), None) => Goal::Node { kind, keyed: false },
            (Child::Single(_), Some(_)) => return Err(Code::NotAContainer),
            (Child::List(_), Some(_)) => return Err(Code::NotKeyed),
            (_, None) => Goal::Container { child },
            (_, Some(_)) => Goal::Node {
                kind: child.kind(),
                keyed: true,
            },
        };
    }
    Ok(goal)
}

#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub guards: Vec<Guard>,
    pub operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
pub struct Guard {
    pub at: Rc<[Seg]>,
    pub expect: Expect,
}

#[derive(Clone, Debug)]
pub enum Expect {
    Subtree(Plain),
    Data(Rc<Config>),
    Container(Plain),
    Absent,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub at: Rc<[Seg]>,
    pub strict: bool,
    pub base: Option<Seen>,
    pub kind: OperationKind,
    /// The value's bytes were made wrong on purpose: what reading them must give.
    pub spoilt: Option<Code>,
}

/// What a proposer saw at an operation's path: the config for an update, its masked fields for a masked one, all that is
/// there for the others.
#[derive(Clone, Debug)]
pub enum Seen {
    Absent,
    Config(Config),
    Content(Plain),
}

#[derive(Clone, Debug)]
pub enum OperationKind {
    Update(Config),
    Masked(Config, Vec<Vec<u32>>),
    /// An update whose value carries children.
    UpdateWithChildren(Plain),
    Add(Plain),
    Put(Plain),
    Replace(Plain),
    Remove,
}

/// The tree after a commit, or the code of the first refusal.
pub fn commit(before: &Plain, version: u32, commit: &Commit) -> Result<Plain, Code> {
    for (index, one) in commit.operations.iter().enumerate() {
        for other in &commit.operations[index + 1..] {
            let deep = |operation: &Operation| {
                use OperationKind::*;
                !matches!(operation.kind, Update(_) | Masked(..) | UpdateWithChildren(_))
            };
            if one.at == other.at
                || (deep(one) && lies_below(&other.at, &one.at))
                || (deep(other) && lies_below(&one.at, &other.at))
            {
                return Err(Code::Overlap);
            }
        }
    }
    for guard in &commit.guards {
        check_guard(before, version, guard)?;
    }
    // All are decided on the tree before the commit, then all happen.
    let edits = commit
        .operations
        .iter()
        .map(|operation| decide(before, version, operation))
        .collect::<Result<Vec<_>, _>>()?;
    let mut after = before.clone();
    for (operation, edit) in commit.operations.iter().zip(edits) {
        match edit {
            Edit::Nothing => {}
            Edit::Config(config) => {
                let is_element = operation.at.last().is_some_and(|(_, key)| key.is_some());
                if config.is_empty() && !is_element {
                    after.remove(&operation.at);
                } else {
                    after.insert(operation.at.clone(), Rc::new(config));
                }
            }
            Edit::Content(content) => {
                take_away(&mut after, &operation.at);
                for (below, config) in &content {
                    after.insert(joined(&operation.at, below), config.clone());
                }
            }
        }
    }
    Ok(after)
}

enum Edit {
    Nothing,
    Config(Config),
    Content(Plain),
}

fn check_guard(tree: &Plain, version: u32, guard: &Guard) -> Result<(), Code> {
    let holds = match (&guard.expect, goal(&guard.at, version)?) {
        (Expect::Container(seen), Goal::Container { .. }) => content(tree, &guard.at).as_ref() == Some(seen),
        (Expect::Container(_), Goal::Node { .. }) => return Err(Code::NotAContainer),
        (_, Goal::Container { .. }) => return Err(Code::IsAContainer),
        (Expect::Subtree(seen), _) => content(tree, &guard.at).as_ref() == Some(seen),
        (Expect::Data(seen), _) => config(tree, &guard.at).as_ref() == Some(seen),
        (Expect::Absent, _) => !exists(tree, &guard.at),
    };
    if holds { Ok(()) } else { Err(Code::GuardFailed) }
}

fn decide(tree: &Plain, version: u32, operation: &Operation) -> Result<Edit, Code> {
    use OperationKind::*;
    let at = &operation.at;
    match (&operation.kind, goal(at, version)?) {
        (Update(_) | Masked(..) | UpdateWithChildren(_), Goal::Node { kind, keyed }) => {
            update(tree, version, operation, kind, keyed)
        }
        (Update(_) | Masked(..) | UpdateWithChildren(_), Goal::Container { .. }) => Err(Code::IsAContainer),
        (Add(_), Goal::Node { keyed: false, .. }) => Err(Code::NotAContainer),
        (Add(_) | Put(_) | Remove, Goal::Container { child }) => Err(if matches!(child, Child::List(_)) {
            Code::NotKeyed
        } else {
            Code::IsAContainer
        }),
        (Remove, Goal::Node { keyed: false, .. }) => Err(Code::NotAContainer),
        (Add(value) | Put(value) | Replace(value), Goal::Node { kind, keyed }) => {
            subtree(tree, version, operation, kind, keyed, value)
        }
        (Replace(value), Goal::Container { .. }) => container(tree, version, operation, value),
        (Remove, Goal::Node { keyed: true, .. }) => {
            let there = content(tree, at);
            match &operation.base {
                None if there.is_none() => Err(Code::NotFound),
                None => Ok(Edit::Content(Plain::new())),
                Some(seen) => Ok(
                    match merge(seen, there.clone().map(Seen::Content), None)? || there.is_none() {
                        true => Edit::Nothing,
                        false => Edit::Content(Plain::new()),
                    },
                ),
            }
        }
    }
}

fn update(tree: &Plain, version: u32, operation: &Operation, kind: Kind, keyed: bool) -> Result<Edit, Code> {
    readable(operation, version)?;
    let at = &operation.at;
    let whole = match &operation.kind {
        OperationKind::Update(value) => Some(value.clone()),
        OperationKind::UpdateWithChildren(value) => Some(value.get(&[][..]).map(|c| (**c).clone()).unwrap_or_default()),
        _ => None,
    };
    if let Some(value) = &whole {
        check_key(at, kind, keyed, value)?;
    }
    let old = config(tree, at);
    if old.is_none() && operation.base.is_none() {
        return Err(Code::NotFound);
    }
    if matches!(operation.kind, OperationKind::UpdateWithChildren(_)) {
        return Err(Code::ChildrenInUpdate);
    }
    let (new, mask) = match (&operation.kind, whole) {
        (OperationKind::Masked(value, mask), _) => (
            old.as_deref().map_or(value.clone(), |old| overlaid(old, value, mask)),
            mask.clone(),
        ),
        (_, whole) => (whole.unwrap_or_default(), Vec::new()),
    };
    if old.is_some() && !mask.is_empty() {
        check_key(at, kind, keyed, &new)?;
    }
    if let (true, Some(old)) = (operation.strict, &old)
        && serial(old) != serial(&new)
    {
        return Err(Code::ReadOnlyField);
    }
    if let Some(seen) = &operation.base {
        let shown = |config: &Config| {
            Seen::Config(if mask.is_empty() {
                config.clone()
            } else {
                masked(config, &mask)
            })
        };
        if merge(
            seen,
            old.as_deref().map(&shown),
            Some(if old.is_some() {
                shown(&new)
            } else {
                Seen::Config(new.clone())
            }),
        )? {
            return Ok(Edit::Nothing);
        }
        if old.is_none() {
            return Ok(Edit::Nothing);
        }
    }
    Ok(Edit::Config(new))
}

fn subtree(
    tree: &Plain,
    version: u32,
    operation: &Operation,
    kind: Kind,
    keyed: bool,
    value: &Plain,
) -> Result<Edit, Code> {
    readable(operation, version)?;
    let at = &operation.at;
    check_key(
        at,
        kind,
        keyed,
        value.get(&[][..]).map_or(&Config::new(), |config| config),
    )?;
    let there = content(tree, at);
    let parent = exists(tree, &at[..at.len().saturating_sub(1)]);
    if operation.base.is_none() {
        let present = there.is_some();
        match &operation.kind {
            _ if !parent => return Err(Code::NotFound),
            OperationKind::Replace(_) if !present => return Err(Code::NotFound),
            OperationKind::Add(_) if present => return Err(Code::AlreadyExists),
            _ => {}
        }
    }
    check_strict(tree, operation, value)?;
    if let Some(seen) = &operation.base {
        if merge(seen, there.map(Seen::Content), Some(Seen::Content(value.clone())))? {
            return Ok(Edit::Nothing);
        }
        if !parent {
            return Err(Code::Conflict);
        }
    }
    Ok(Edit::Content(value.clone()))
}

fn container(tree: &Plain, version: u32, operation: &Operation, value: &Plain) -> Result<Edit, Code> {
    readable(operation, version)?;
    let Some(there) = content(tree, &operation.at) else {
        return Err(if operation.base.is_some() {
            Code::Conflict
        } else {
            Code::NotFound
        });
    };
    check_strict(tree, operation, value)?;
    if let Some(seen) = &operation.base
        && merge(seen, Some(Seen::Content(there)), Some(Seen::Content(value.clone())))?
    {
        return Ok(Edit::Nothing);
    }
    Ok(Edit::Content(value.clone()))
}

/// Rules M: as seen: apply (`false`); as wanted: nothing to do (`true`); else a conflict.
fn merge(seen: &Seen, current: Option<Seen>, wanted: Option<Seen>) -> Result<bool, Code> {
    let same = |one: Option<&Seen>, other: Option<&Seen>| match (one, other) {
        (None | Some(Seen::Absent), None | Some(Seen::Absent)) => true,
        (Some(Seen::Config(one)), Some(Seen::Config(other))) => one == other,
        (Some(Seen::Content(one)), Some(Seen::Content(other))) => one == other,
        _ => false,
    };
    if same(Some(seen), current.as_ref()) {
        Ok(false)
    } else if same(current.as_ref(), wanted.as_ref()) {
        Ok(true)
    } else {
        Err(Code::Conflict)
    }
}

/// Whether the value's bytes are canonical under this version of the schema.
fn readable(operation: &Operation, version: u32) -> Result<(), Code> {
    operation.spoilt.map_or(Ok(()), Err)?;
    if version < 3 && has_note(&operation.kind) {
        Err(Code::UnknownField)
    } else {
        Ok(())
    }
}

/// Whether a value sets the one field that only version 3 has: a device's note.
pub fn has_note(kind: &OperationKind) -> bool {
    use OperationKind::*;
    let notes = |config: &Config| config.contains_key(&[20][..]);
    match kind {
        Update(config) | Masked(config, _) => notes(config),
        UpdateWithChildren(piece) | Add(piece) | Put(piece) | Replace(piece) => {
            piece.values().any(|config| notes(config))
        }
        Remove => false,
    }
}

fn check_key(at: &[Seg], kind: Kind, keyed: bool, value: &Config) -> Result<(), Code> {
    let named = at.last().and_then(|(_, key)| key.clone());
    match (keyed, key_of(kind, value)) {
        (false, _) => Ok(()),
        (true, key) if key.is_empty() => Err(Code::InvalidPath),
        (true, key) if named.as_deref() == Some(&*key) => Ok(()),
        (true, _) => Err(Code::KeyChange),
    }
}

/// READ_ONLY: only a device's serial is.
fn check_strict(tree: &Plain, operation: &Operation, value: &Plain) -> Result<(), Code> {
    let changed = |(below, new): (&Rc<[Seg]>, &Rc<Config>)| {
        let old = tree.get(&joined(&operation.at, below));
        serial(new) != old.and_then(|old| serial(old))
    };
    // A node that is no device has no field 4.
    if operation.strict && value.iter().any(changed) {
        Err(Code::ReadOnlyField)
    } else {
        Ok(())
    }
}

fn serial(config: &Config) -> Option<&Value> {
    config.get(&[4][..])
}

/// The key bytes that a config gives its element.
pub fn key_of(kind: Kind, config: &Config) -> Rc<[u8]> {
    let number = match config.get(&[1][..]) {
        Some(Value::Text(text)) => return text.as_bytes().into(),
        Some(Value::Number(number)) => *number,
        _ => 0,
    };
    match kind {
        Kind::Device => Rc::from(&[][..]),
        Kind::Group => (number as i32 as u32 ^ 0x8000_0000).to_be_bytes().into(),
        _ => (number as u32).to_be_bytes().into(),
    }
}

/// Whether the node, or a container's owner, is there.
pub fn exists(tree: &Plain, at: &[Seg]) -> bool {
    let elements = (1..=at.len()).filter(|length| at[length - 1].1.is_some());
    elements.into_iter().all(|length| tree.contains_key(&at[..length]))
}

/// All that is at and below a path, relative to it; of a container its elements. `None`: it is not there.
pub fn content(tree: &Plain, at: &[Seg]) -> Option<Plain> {
    exists(tree, at).then(|| {
        below(tree, at)
            .map(|(path, config)| (relative(path, at), config.clone()))
            .collect()
    })
}

/// A single child that is not stored has the empty config.
pub fn config(tree: &Plain, at: &[Seg]) -> Option<Rc<Config>> {
    exists(tree, at).then(|| tree.get(at).cloned().unwrap_or_default())
}

fn take_away(tree: &mut Plain, at: &[Seg]) {
    let gone: Vec<Rc<[Seg]>> = below(tree, at).map(|(path, _)| path.clone()).collect();
    gone.iter().for_each(|path| _ = tree.remove(path));
}

fn below<'a>(tree: &'a Plain, at: &[Seg]) -> impl Iterator<Item = (&'a Rc<[Seg]>, &'a Rc<Config>)> {
    let range = tree.range::<[Seg], _>((Bound::Included(at), Bound::Unbounded));
    range.take_while(move |(path, _)| lies_below(path, at))
}

/// Whether `path` is `at` or below it; elements lie below their container.
pub fn lies_below(path: &[Seg], at: &[Seg]) -> bool {
    let Some((last, above)) = at.split_last() else {
        return true;
    };
    path.starts_with(above)
        && path
            .get(above.len())
            .is_some_and(|step| step == last || (last.1.is_none() && step.0 == last.0))
}

/// A path below a node without the node's own; below a container the element's step stays.
fn relative(path: &[Seg], at: &[Seg]) -> Rc<[Seg]> {
    let kept = match at.last() {
        Some((_, None)) if path.get(at.len() - 1).is_some_and(|step| step.1.is_some()) => at.len() - 1,
        _ => at.len(),
    };
    path[kept..].into()
}

fn joined(at: &[Seg], below: &[Seg]) -> Rc<[Seg]> {
    let of_container = at.last().zip(below.first()).is_some_and(|(last, first)| {
        // Below a container the first step repeats its field, with a key.
        last.1.is_none()
            && first.1.is_some()
            && last.0 == first.0
            && matches!(goal(at, u32::MAX), Ok(Goal::Container { .. }))
    });
    let above = if of_container { &at[..at.len() - 1] } else { at };
    above.iter().chain(below).cloned().collect()
}

/// The fields that a mask names.
pub fn masked(config: &Config, mask: &[Vec<u32>]) -> Config {
    let named = |way: &[u32]| mask.iter().any(|path| way.starts_with(path));
    let mut found: Config = config
        .iter()
        .filter(|(way, _)| named(way))
        .map(|(way, value)| (way.clone(), value.clone()))
        .collect();
    // A message is there when something in it is.
    let parents: Vec<Vec<u32>> = found
        .keys()
        .filter(|way| way.len() > 1)
        .map(|way| way[..1].to_vec())
        .collect();
    found.extend(parents.into_iter().map(|way| (way, Value::Message)));
    found
}

/// The old config with what a mask names taken from the value.
fn overlaid(old: &Config, value: &Config, mask: &[Vec<u32>]) -> Config {
    let mut new = old.clone();
    new.retain(|way, _| !mask.iter().any(|path| way.starts_with(path)));
    new.extend(value.iter().map(|(way, value)| (way.clone(), value.clone())));
    new
}

// Bytes: a second writer of the canonical form, beside the one under test.

pub fn config_bytes(config: &Config) -> Vec<u8> {
    records(config, &[]).into_iter().flat_map(|(_, bytes)| bytes).collect()
}

/// A node with all below it as one message; `piece` is relative to the node.
pub fn message_bytes(kind: Kind, piece: &Plain) -> Vec<u8> {
    let mut all = piece
        .get(&[][..])
        .map(|config| records(config, &[]))
        .unwrap_or_default();
    for (field, child, _) in kind.children() {
        all.extend(child_records(*field, *child, piece));
    }
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().flat_map(|(_, bytes)| bytes).collect()
}

/// A container as its parent's message with that one field; `piece` is relative to the container.
pub fn container_bytes(field: u32, child: Child, piece: &Plain) -> Vec<u8> {
    child_records(field, child, piece)
        .into_iter()
        .flat_map(|(_, bytes)| bytes)
        .collect()
}

fn child_records(field: u32, child: Child, piece: &Plain) -> Vec<(u32, Vec<u8>)> {
    let mut tops: Vec<Seg> = piece
        .keys()
        .filter_map(|path| path.first())
        .filter(|step| step.0 == field)
        .cloned()
        .collect();
    tops.dedup();
    let one = |top: Seg| {
        let inner = below(piece, std::slice::from_ref(&top))
            .map(|(path, config)| (path[1..].into(), config.clone()))
            .collect();
        (field, delimited(field, &message_bytes(child.kind(), &inner)))
    };
    tops.into_iter().map(one).collect()
}

fn records(config: &Config, above: &[u32]) -> Vec<(u32, Vec<u8>)> {
    let here = config
        .iter()
        .filter(|(way, _)| way.len() == above.len() + 1 && way.starts_with(above));
    here.map(|(way, value)| {
        let number = way[above.len()];
        let bytes = match value {
            Value::Text(text) => delimited(number, text.as_bytes()),
            Value::Number(value) => [varint(u64::from(number) << 3), varint(*value as u64)].concat(),
            Value::Message => {
                let inner: Vec<u8> = records(config, way).into_iter().flat_map(|(_, bytes)| bytes).collect();
                delimited(number, &inner)
            }
            Value::Map(entries) => {
                let entry = |(key, value): (&String, &String)| {
                    [delimited(1, key.as_bytes()), delimited(2, value.as_bytes())].concat()
                };
                entries
                    .iter()
                    .flat_map(|pair| delimited(number, &entry(pair)))
                    .collect()
            }
        };
        (number, bytes)
    })
    .collect()
}

fn delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    [
        varint(u64::from(number) << 3 | 2),
        varint(bytes.len() as u64),
        bytes.to_vec(),
    ]
    .concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}
