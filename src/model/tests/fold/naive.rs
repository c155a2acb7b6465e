//! The fold once more, as plainly as docs/formats.md can be followed: one flat ordered map from path to config, every hash
//! made anew from the bytes on the page, records taken apart by hand. Nothing of the crate is used here, so that the
//! two agree only where both follow the page.
//!
//! It knows the schema of `script.proto` alone, one schema event, and of the faults in bytes only those that the tests make.

use std::collections::BTreeMap;

pub type Hash = [u8; 32];
/// Child field, and key bytes where an element is meant (the index for an element of a list).
pub type Steps = Vec<(u32, Option<Vec<u8>>)>;
pub type Tree = BTreeMap<Steps, Vec<u8>>;

pub const ACCEPTED: u8 = 0;
pub const UNCHANGED: u8 = 1;
pub const REJECTED: u8 = 2;
pub const DUPLICATE: u8 = 3;

const NOT_FOUND: u16 = 1;
const INVALID_PATH: u16 = 2;
const ALREADY_EXISTS: u16 = 4;
const KEY_CHANGE: u16 = 5;
const READ_ONLY_FIELD: u16 = 6;
const CHILDREN_IN_UPDATE: u16 = 7;
const NOT_A_CONTAINER: u16 = 8;
const NOT_KEYED: u16 = 9;
const IS_A_CONTAINER: u16 = 10;
const SCHEMA_INVALID: u16 = 11;
const CONFLICT: u16 = 12;
const GUARD_FAILED: u16 = 17;
const NOT_CANONICAL: u16 = 18;
const UNKNOWN_FIELD: u16 = 19;
const MALFORMED: u16 = 20;
const FOREIGN: u16 = 21;
const OVERLAP: u16 = 22;
const TOO_LARGE: u16 = 23;
const LIMIT: u16 = 24;
const EXPIRED: u16 = 25;
const ID_REUSED: u16 = 26;
const WITHDRAWN: u16 = 27;
const PRUNED: u16 = 28;
const FUTURE: u16 = 29;
const PERMISSION: u16 = 30;
const SEALED: u16 = 31;
const UNSUPPORTED: u16 = 36;

const READ: u8 = 1;
const WRITE: u8 = 2;
const TAG: u8 = 3;
const ADMIN: u8 = 4;

const MONTH_MS: i64 = 30 * 24 * 3600 * 1000;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Type {
    Root,
    Device,
    Group,
    Health,
    Port,
    Server,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Single,
    Keyed,
    List,
}

/// The child fields of `script.proto`.
fn children(ty: Type) -> &'static [(u32, Kind, Type)] {
    match ty {
        Type::Root => &[
            (2, Kind::Keyed, Type::Device),
            (3, Kind::Keyed, Type::Group),
            (4, Kind::Single, Type::Health),
            (5, Kind::List, Type::Server),
            (6, Kind::Keyed, Type::Device),
        ],
        Type::Device => &[(8, Kind::Keyed, Type::Port), (9, Kind::Single, Type::Health)],
        Type::Group => &[(3, Kind::Keyed, Type::Group)],
        Type::Health => &[(2, Kind::Keyed, Type::Port)],
        Type::Port | Type::Server => &[],
    }
}

fn child(ty: Type, field: u32) -> Option<(Kind, Type)> {
    children(ty)
        .iter()
        .find(|(number, ..)| *number == field)
        .map(|(_, kind, ty)| (*kind, *ty))
}

/// The wire type of a plain field, where there is one.
fn plain_field(ty: Type, field: u32) -> Option<u64> {
    match (ty, field) {
        (Type::Root | Type::Health | Type::Server, 1) => Some(2),
        (Type::Device, 3) | (Type::Group | Type::Port, 1) => Some(0),
        (Type::Device, 1 | 2 | 4 | 6) | (Type::Group, 2) | (Type::Port, 2 | 3) => Some(2),
        _ => None,
    }
}

pub fn hash(parts: &[&[u8]]) -> Hash {
    *blake3::hash(&parts.concat()).as_bytes()
}

// Protobuf bytes, by hand.

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 127 {
        out.push((value % 128) as u8 + 128);
        value /= 128;
    }
    out.push(value as u8);
    out
}

/// A number, absent when it is 0.
pub fn num(field: u32, value: u64) -> Vec<u8> {
    if value == 0 {
        Vec::new()
    } else {
        [varint(u64::from(field) * 8), varint(value)].concat()
    }
}

/// Bytes, present also when empty.
pub fn item(field: u32, bytes: &[u8]) -> Vec<u8> {
    [
        varint(u64::from(field) * 8 + 2),
        varint(bytes.len() as u64),
        bytes.to_vec(),
    ]
    .concat()
}

/// Bytes, absent when empty.
pub fn text(field: u32, bytes: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        Vec::new()
    } else {
        item(field, bytes)
    }
}

struct Field<'a> {
    number: u32,
    wire_type: u64,
    value: u64,
    bytes: &'a [u8],
    /// Tag and all.
    record: &'a [u8],
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (first, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(first & 127).checked_shl(shift)?;
        shift += 7;
        if first & 128 == 0 {
            return Some(value);
        }
    }
}

/// The fields of a message; `None` where it is none.
fn fields(mut rest: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let start = rest;
        let tag = take_varint(&mut rest)?;
        let (mut value, mut bytes) = (0, &[][..]);
        match tag % 8 {
            0 => value = take_varint(&mut rest)?,
            2 => {
                let length = take_varint(&mut rest)? as usize;
                (bytes, rest) = rest.split_at_checked(length)?;
            }
            _ => return None,
        }
        let record = &start[..start.len() - rest.len()];
        fields.push(Field {
            number: (tag / 8) as u32,
            wire_type: tag % 8,
            value,
            bytes,
            record,
        });
    }
    Some(fields)
}

fn number_of(message: &[u8], field: u32) -> u64 {
    let fields = fields(message).unwrap();
    fields
        .iter()
        .find(|found| found.number == field)
        .map_or(0, |found| found.value)
}

fn bytes_of(message: &[u8], field: u32) -> &[u8] {
    let fields = fields(message).unwrap();
    fields
        .iter()
        .find(|found| found.number == field)
        .map_or(&[], |found| found.bytes)
}

fn has(message: &[u8], field: u32) -> bool {
    fields(message).unwrap().iter().any(|found| found.number == field)
}

// Section 3: objects.

pub fn data_hash(config: &[u8]) -> Hash {
    hash(&[&[4], config])
}

fn empty_node() -> Hash {
    hash(&[&[1, 0, 0, 0]])
}

/// The node at `path`, whether or not it is there.
fn node_hash(tree: &Tree, ty: Type, path: &Steps) -> Hash {
    let empty = Vec::new();
    let config = tree.get(path).unwrap_or(&empty);
    let mut entries = Vec::new();
    for (field, kind, ty) in children(ty) {
        let below = match kind {
            Kind::Single => node_hash(tree, *ty, &extended(path, *field, None)),
            _ => container_hash(tree, *ty, path, *field),
        };
        if below != empty_node() && below != [0; 32] {
            entries.push((*field, below));
        }
    }
    let mut object = vec![1];
    if config.len() <= 1024 {
        object.push(0);
        object.extend(varint(config.len() as u64));
        object.extend(config);
    } else {
        object.push(1);
        object.extend(data_hash(config));
    }
    object.extend(varint(entries.len() as u64));
    for (field, below) in entries {
        object.extend(varint(field.into()));
        object.extend(below);
    }
    hash(&[&object])
}

fn container_hash(tree: &Tree, ty: Type, owner: &Steps, field: u32) -> Hash {
    let elements: Vec<(Vec<u8>, Hash)> = tree
        .keys()
        .filter(|path| path.len() == owner.len() + 1 && path.starts_with(owner) && path[owner.len()].0 == field)
        .filter_map(|path| Some((path[owner.len()].1.clone()?, node_hash(tree, ty, path))))
        .collect();
    map_hash(&elements)
}

/// Keys ascend; an empty map has 32 zero bytes.
pub fn map_hash(elements: &[(Vec<u8>, Hash)]) -> Hash {
    let nibbles = |key: &Vec<u8>| key.iter().flat_map(|byte| [byte / 16, byte % 16]).collect::<Vec<u8>>();
    let with_nibbles: Vec<_> = elements
        .iter()
        .map(|(key, value)| (nibbles(key), key.clone(), *value))
        .collect();
    if elements.is_empty() {
        [0; 32]
    } else {
        part_hash(&with_nibbles, 0)
    }
}

fn part_hash(elements: &[(Vec<u8>, Vec<u8>, Hash)], consumed: usize) -> Hash {
    if elements.len() <= 16 {
        let mut bucket = [vec![3], varint(elements.len() as u64)].concat();
        for (_, key, value) in elements {
            bucket.extend([varint(key.len() as u64), key.clone(), value.to_vec()].concat());
        }
        return hash(&[&bucket]);
    }
    let (first, last) = (&elements[0].0[consumed..], &elements[elements.len() - 1].0[consumed..]);
    let skipped: Vec<u8> = first
        .iter()
        .zip(last)
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| *a)
        .collect();
    let mut inner = [vec![2], varint(skipped.len() as u64)].concat();
    inner.extend(skipped.chunks(2).map(|pair| pair[0] * 16 + pair.get(1).unwrap_or(&0)));
    let at = consumed + skipped.len();
    match elements.iter().find(|(nibbles, ..)| nibbles.len() == at) {
        Some((_, _, own)) => inner.extend([vec![1], own.to_vec()].concat()),
        None => inner.push(0),
    }
    let branches: Vec<(u8, Vec<_>)> = (0..16)
        .map(|nibble| {
            (
                nibble,
                elements
                    .iter()
                    .filter(|(nibbles, ..)| nibbles.get(at) == Some(&nibble))
                    .cloned()
                    .collect(),
            )
        })
        .filter(|(_, below): &(u8, Vec<_>)| !below.is_empty())
        .collect();
    let bitmap = branches.iter().map(|(nibble, _)| 1u16 << nibble).sum::<u16>();
    inner.extend(bitmap.to_be_bytes());
    branches
        .iter()
        .for_each(|(_, below)| inner.extend(varint(below.len() as u64)));
    branches
        .iter()
        .for_each(|(_, below)| inner.extend(part_hash(below, at + 1)));
    hash(&[&inner])
}

fn extended(path: &Steps, field: u32, key: Option<Vec<u8>>) -> Steps {
    [path.clone(), vec![(field, key)]].concat()
}

// Section 1: taking a message apart.

/// The nodes of a subtree, by path from `at` on; or the code that its bytes deserve.
fn split(ty: Type, value: &[u8], at: &Steps) -> Result<Tree, u16> {
    let mut tree = Tree::new();
    let mut weaker = None;
    split_into(ty, value, at, &mut tree, &mut weaker)?;
    weaker.map_or(Ok(tree), Err)
}

fn split_into(ty: Type, value: &[u8], at: &Steps, tree: &mut Tree, weaker: &mut Option<u16>) -> Result<(), u16> {
    let mut config = Vec::new();
    let (mut last_field, mut last_key, mut index) = (0, None, 0u32);
    for field in fields(value).ok_or(NOT_CANONICAL)? {
        let repeated = matches!(child(ty, field.number), Some((Kind::Keyed | Kind::List, _)));
        let wire_type = if child(ty, field.number).is_some() {
            2
        } else {
            plain_field(ty, field.number).ok_or(UNKNOWN_FIELD)?
        };
        if field.wire_type != wire_type {
            return Err(NOT_CANONICAL);
        }
        if field.number < last_field || (field.number == last_field && !repeated) {
            return Err(NOT_CANONICAL);
        }
        if field.number > last_field {
            (last_key, index) = (None, 0);
        }
        last_field = field.number;
        let Some((kind, inner)) = child(ty, field.number) else {
            let is_address = ty == Type::Device && field.number == 6;
            if field.value == 0 && field.bytes.is_empty() && !is_address {
                return Err(NOT_CANONICAL);
            }
            config.extend(field.record);
            continue;
        };
        if kind == Kind::Single && field.bytes.is_empty() {
            return Err(NOT_CANONICAL);
        }
        let key = match kind {
            Kind::Single => None,
            Kind::Keyed => Some(key_of(inner, field.bytes)),
            Kind::List => Some(index.to_be_bytes().to_vec()),
        };
        index += 1;
        if kind == Kind::Keyed {
            if key.as_deref() == Some(&[]) {
                *weaker = Some(INVALID_PATH);
            }
            if key == last_key && *weaker != Some(INVALID_PATH) {
                *weaker = Some(ALREADY_EXISTS);
            }
            if key < last_key {
                return Err(NOT_CANONICAL);
            }
            last_key = key.clone();
        }
        split_into(inner, field.bytes, &extended(at, field.number, key), tree, weaker)?;
    }
    tree.insert(at.clone(), config);
    Ok(())
}

/// Section 2. Every key of this schema is field 1.
fn key_of(ty: Type, value: &[u8]) -> Vec<u8> {
    match ty {
        Type::Port => (number_of(value, 1) as u32).to_be_bytes().to_vec(),
        Type::Group => (number_of(value, 1) as u32 ^ 0x8000_0000).to_be_bytes().to_vec(),
        _ => bytes_of(value, 1).to_vec(),
    }
}

/// The fields that a strict operation compares (U7).
fn read_only(ty: Type, config: &[u8]) -> Vec<Vec<u8>> {
    match ty {
        Type::Device => vec![bytes_of(config, 4).to_vec(), bytes_of(bytes_of(config, 6), 3).to_vec()],
        Type::Port => vec![bytes_of(config, 3).to_vec()],
        _ => Vec::new(),
    }
}

/// Masks of this model name fields of the message itself.
fn masked(config: &[u8], mask: &[u32]) -> Vec<u8> {
    fields(config)
        .unwrap()
        .iter()
        .filter(|field| mask.contains(&field.number))
        .flat_map(|field| field.record)
        .copied()
        .collect()
}

fn merge_masked(old: &[u8], new: &[u8], mask: &[u32]) -> Vec<u8> {
    let (old, new) = (fields(old).unwrap(), fields(new).unwrap());
    let mut all: Vec<&Field<'_>> = old
        .iter()
        .filter(|field| !mask.contains(&field.number))
        .chain(new.iter().filter(|field| mask.contains(&field.number)))
        .collect();
    all.sort_by_key(|field| field.number);
    all.iter().flat_map(|field| field.record).copied().collect()
}

// Section 4: what an event does.

enum Target {
    Node {
        ty: Type,
        keyed: bool,
    },
    Container {
        parent: Type,
        kind: Kind,
        ty: Type,
        field: u32,
    },
}

fn resolve(path: &Steps) -> Result<Target, u16> {
    let mut target = Target::Node {
        ty: Type::Root,
        keyed: false,
    };
    for (field, key) in path {
        let Target::Node { ty, .. } = target else {
            return Err(IS_A_CONTAINER);
        };
        let (kind, inner) = child(ty, *field).ok_or(NOT_FOUND)?;
        target = match (kind, key) {
            (Kind::Single, None) => Target::Node {
                ty: inner,
                keyed: false,
            },
            (Kind::Single, Some(_)) => return Err(NOT_A_CONTAINER),
            (Kind::List, Some(_)) => return Err(NOT_KEYED),
            (Kind::Keyed, Some(_)) => Target::Node { ty: inner, keyed: true },
            (_, None) => Target::Container {
                parent: ty,
                kind,
                ty: inner,
                field: *field,
            },
        };
    }
    Ok(target)
}

fn steps(message: &[u8]) -> Steps {
    steps_of(message, 1)
}

fn steps_of(message: &[u8], number: u32) -> Steps {
    let steps = fields(message).unwrap();
    let steps = steps.iter().filter(|field| field.number == number);
    steps
        .map(|step| {
            (
                number_of(step.bytes, 1) as u32,
                has(step.bytes, 2).then(|| bytes_of(step.bytes, 2).to_vec()),
            )
        })
        .collect()
}

/// Whether what `above` names takes `below` with it.
fn covers(above: &Steps, below: &Steps) -> bool {
    let Some((last, owner)) = above.split_last() else {
        return true;
    };
    below.starts_with(owner)
        && below
            .get(owner.len())
            .is_some_and(|step| step == last || (last.1.is_none() && step.0 == last.0))
}

// Section 4.8: rights.

/// One rule, as its bytes say it.
struct Rule {
    principal: Vec<u8>,
    prefix: Steps,
    rights: Vec<u8>,
    strict: bool,
}

fn rules(policy: &[u8]) -> Vec<Rule> {
    let fields = fields(policy).unwrap();
    let rules = fields.iter().filter(|field| field.number == 1);
    rules
        .map(|rule| Rule {
            principal: bytes_of(rule.bytes, 1).to_vec(),
            prefix: steps_of(rule.bytes, 2),
            rights: bytes_of(rule.bytes, 3).to_vec(),
            strict: number_of(rule.bytes, 4) == 1,
        })
        .collect()
}

/// The rules that speak of a principal; who has no name is nobody.
fn rules_for(policy: &[u8], principal: &[u8]) -> Vec<Rule> {
    let speaks = |rule: &Rule| !principal.is_empty() && (rule.principal == principal || rule.principal == b"*");
    rules(policy).into_iter().filter(speaks).collect()
}

fn check_policy(policy: &[u8]) -> Result<(), u16> {
    for rule in rules(policy) {
        let store_wide = rule.rights.contains(&TAG) || rule.rights.contains(&ADMIN);
        if (store_wide && !rule.prefix.is_empty()) || (rule.rights.is_empty() && !rule.strict) {
            return Err(MALFORMED);
        }
    }
    let parts = fields(policy).unwrap();
    let ids: Vec<&[u8]> = parts
        .iter()
        .filter(|part| part.number == 2)
        .map(|token| bytes_of(token.bytes, 1))
        .collect();
    let twice = ids.iter().any(|id| ids.iter().filter(|other| *other == id).count() > 1);
    let rules = rules(policy);
    if twice || (!rules.is_empty() && !rules.iter().any(|rule| rule.rights.contains(&ADMIN))) {
        return Err(MALFORMED);
    }
    Ok(())
}

/// What a body needs, under a policy with rules.
fn check_rights(policy: &[u8], principal: &[u8], body: &Field<'_>) -> Result<(), u16> {
    let rules = rules_for(policy, principal);
    let has = |right: u8, path: &Steps| {
        rules
            .iter()
            .any(|rule| rule.rights.contains(&right) && covers(&rule.prefix, path))
    };
    let somewhere = |right: u8| rules.iter().any(|rule| rule.rights.contains(&right));
    let root = Steps::new();
    let allowed = match body.number {
        17 => fields(body.bytes).unwrap().iter().all(|part| match part.number {
            1 => has(READ, &steps(part.bytes)),
            _ => {
                let path = steps(part.bytes);
                has(WRITE, &path) && (!self::has(part.bytes, 3) || has(READ, &path))
            }
        }),
        19 | 20 => has(TAG, &root),
        22 if !self::has(body.bytes, 1) => true,
        25 => somewhere(WRITE) || somewhere(TAG) || somewhere(ADMIN),
        16 | 30..=32 => true,
        _ => has(ADMIN, &root),
    };
    if allowed { Ok(()) } else { Err(PERMISSION) }
}

/// Whether the policy makes an operation strict.
fn is_forced(policy: &[u8], principal: &[u8], operation: &[u8]) -> bool {
    let path = steps(operation);
    let deep = !has(operation, 4);
    rules_for(policy, principal)
        .iter()
        .any(|rule| rule.strict && (covers(&rule.prefix, &path) || (deep && covers(&path, &rule.prefix))))
}

fn exists(tree: &Tree, path: &[(u32, Option<Vec<u8>>)]) -> bool {
    (1..=path.len()).all(|length| path[length - 1].1.is_none() || tree.contains_key(&path[..length]))
}

fn commit(before: &Tree, commit: &[u8], forced: &dyn Fn(&[u8]) -> bool) -> Result<Tree, u16> {
    let parts = fields(commit).unwrap();
    let operations: Vec<&[u8]> = parts
        .iter()
        .filter(|part| part.number == 2)
        .map(|part| part.bytes)
        .collect();
    let paths: Vec<Steps> = operations.iter().map(|operation| steps(operation)).collect();
    for (index, path) in paths.iter().enumerate() {
        for (other_index, other) in paths.iter().enumerate() {
            let takes_all = !has(operations[index], 4);
            if index != other_index && (path == other || (takes_all && covers(path, other))) {
                return Err(OVERLAP);
            }
        }
    }
    for guard in parts.iter().filter(|part| part.number == 1) {
        check_guard(before, guard.bytes)?;
    }
    let mut after = before.clone();
    for (operation, path) in operations.iter().zip(&paths) {
        operate(before, &mut after, operation, path, forced(operation))?;
    }
    Ok(after)
}

fn check_guard(tree: &Tree, guard: &[u8]) -> Result<(), u16> {
    let path = steps(guard);
    let there = exists(tree, &path);
    let (expected, found) = match resolve(&path)? {
        Target::Container { ty, field, .. } => {
            if !has(guard, 4) {
                return Err(IS_A_CONTAINER);
            }
            let owner = path[..path.len() - 1].to_vec();
            let owner_there = exists(tree, &owner);
            (
                bytes_of(guard, 4),
                owner_there.then(|| container_hash(tree, ty, &owner, field)),
            )
        }
        Target::Node { .. } if has(guard, 4) => return Err(NOT_A_CONTAINER),
        Target::Node { ty, .. } if has(guard, 2) => (bytes_of(guard, 2), there.then(|| node_hash(tree, ty, &path))),
        Target::Node { .. } if has(guard, 3) => {
            let empty = Vec::new();
            (
                bytes_of(guard, 3),
                there.then(|| data_hash(tree.get(&path).unwrap_or(&empty))),
            )
        }
        Target::Node { ty, .. } => (&[][..], there.then(|| node_hash(tree, ty, &path))),
    };
    match found {
        Some(found) if found == expected => Ok(()),
        None if expected.is_empty() => Ok(()),
        _ => Err(GUARD_FAILED),
    }
}

/// Whether a merge has to apply anything; `None` is absence.
fn must_apply(base: Option<Hash>, current: Option<Hash>, result: Option<Hash>) -> Result<bool, u16> {
    if current == base {
        Ok(true)
    } else if current == result {
        Ok(false)
    } else {
        Err(CONFLICT)
    }
}

fn operate(before: &Tree, after: &mut Tree, operation: &[u8], path: &Steps, forced: bool) -> Result<(), u16> {
    let strict = forced || number_of(operation, 2) == 1;
    let base = has(operation, 3).then(|| {
        let base = bytes_of(operation, 3);
        has(base, 1).then(|| Hash::try_from(bytes_of(base, 1)).unwrap())
    });
    let kind = [4, 5, 6, 7, 8].into_iter().find(|kind| has(operation, *kind)).unwrap();
    let (update, add, put, replace, remove) = (kind == 4, kind == 5, kind == 6, kind == 7, kind == 8);
    let value = bytes_of(bytes_of(operation, kind), 1);
    let there = exists(before, path);
    let (ty, keyed) = match resolve(path)? {
        Target::Container {
            parent,
            kind,
            ty,
            field,
        } if replace => {
            return replace_container(before, after, path, (parent, kind, ty, field), value, strict, base);
        }
        Target::Container { .. } if update => return Err(IS_A_CONTAINER),
        Target::Container { kind: Kind::List, .. } => return Err(NOT_KEYED),
        Target::Container { .. } => return Err(IS_A_CONTAINER),
        Target::Node { keyed: false, .. } if add || remove => return Err(NOT_A_CONTAINER),
        Target::Node { ty, keyed } => (ty, keyed),
    };
    let own_key = || path.last().and_then(|(_, key)| key.clone()).unwrap_or_default();
    if remove {
        return match base {
            None if there => Ok(after.retain(|other, _| !other.starts_with(path))),
            None => Err(NOT_FOUND),
            Some(base) => {
                if must_apply(base, there.then(|| node_hash(before, ty, path)), None)? {
                    after.retain(|other, _| !other.starts_with(path));
                }
                Ok(())
            }
        };
    }
    let new = split(ty, value, path)?;
    let config = &new[path];
    if update {
        let masks: Vec<u32> = fields(bytes_of(operation, 4))
            .unwrap()
            .iter()
            .filter(|field| field.number == 2)
            .map(|field| u32::from(bytes_of(field.bytes, 1)[0]))
            .collect();
        let whole = masks.is_empty();
        if !whole && masked(config, &masks) != *config {
            return Err(NOT_CANONICAL);
        }
        if keyed && (whole || masks.contains(&1)) {
            let key = key_of(ty, config);
            if key.is_empty() {
                return Err(INVALID_PATH);
            }
            if key != own_key() {
                return Err(KEY_CHANGE);
            }
        }
        if !there && !matches!(base, Some(Some(_))) {
            return Err(NOT_FOUND);
        }
        if new.len() > 1 {
            return Err(CHILDREN_IN_UPDATE);
        }
        let empty = Vec::new();
        let old = before.get(path).unwrap_or(&empty);
        let result = if whole || !there {
            config.clone()
        } else {
            merge_masked(old, config, &masks)
        };
        if strict && there && read_only(ty, old) != read_only(ty, &result) {
            return Err(READ_ONLY_FIELD);
        }
        let compared = |config: &[u8]| data_hash(&if whole { config.to_vec() } else { masked(config, &masks) });
        let apply = match base {
            None => true,
            Some(base) => must_apply(base, there.then(|| compared(old)), Some(compared(&result)))?,
        };
        if apply {
            after.insert(path.clone(), result);
        }
        return Ok(());
    }
    if keyed {
        let key = key_of(ty, config);
        if key.is_empty() {
            return Err(INVALID_PATH);
        }
        if key != own_key() {
            return Err(KEY_CHANGE);
        }
    }
    // A single child is there when its parent is: what is absent of its path is a parent.
    let parent_there = path.is_empty() || exists(before, &path[..path.len() - 1]);
    if base.is_none() {
        if !parent_there || (replace && !there) {
            return Err(NOT_FOUND);
        }
        if add && there {
            return Err(ALREADY_EXISTS);
        }
    }
    check_strict(before, strict, ty, path, &new)?;
    if let Some(base) = base {
        let current = there.then(|| node_hash(before, ty, path));
        if !must_apply(base, current, Some(node_hash(&new, ty, path)))? {
            return Ok(());
        }
        if !parent_there {
            return Err(CONFLICT);
        }
    }
    assert!(add || put || replace);
    after.retain(|other, _| !other.starts_with(path));
    after.extend(new);
    Ok(())
}

fn replace_container(
    before: &Tree,
    after: &mut Tree,
    path: &Steps,
    (parent, kind, ty, field): (Type, Kind, Type, u32),
    value: &[u8],
    strict: bool,
    base: Option<Option<Hash>>,
) -> Result<(), u16> {
    let owner = path[..path.len() - 1].to_vec();
    let mut new = split(parent, value, &owner)?;
    let config = new.remove(&owner).unwrap();
    if !config.is_empty() || new.keys().any(|path| path[owner.len()].0 != field) {
        return Err(NOT_CANONICAL);
    }
    if !exists(before, &owner) {
        return Err(if base.is_some() { CONFLICT } else { NOT_FOUND });
    }
    if kind == Kind::Keyed {
        for element in new.keys().filter(|element| element.len() == path.len()) {
            let alone = new
                .iter()
                .filter(|(path, _)| path.starts_with(element))
                .map(|(path, config)| (path.clone(), config.clone()));
            check_strict(before, strict, ty, element, &alone.collect())?;
        }
    }
    if let Some(base) = base {
        let current = container_hash(before, ty, &owner, field);
        if !must_apply(base, Some(current), Some(container_hash(&new, ty, &owner, field)))? {
            return Ok(());
        }
    }
    after.retain(|other, _| !covers(path, other));
    after.extend(new);
    Ok(())
}

fn check_strict(before: &Tree, strict: bool, top: Type, top_path: &Steps, new: &Tree) -> Result<(), u16> {
    for (path, config) in new {
        let ty = path[top_path.len()..]
            .iter()
            .fold(top, |ty, (field, _)| child(ty, *field).unwrap().1);
        let empty = Vec::new();
        let old = if exists(before, path) {
            before.get(path).unwrap_or(&empty)
        } else {
            &empty
        };
        if strict && read_only(ty, old) != read_only(ty, config) {
            return Err(READ_ONLY_FIELD);
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Entry {
    position: u64,
    id: Vec<u8>,
    mark: Vec<u8>,
    outcome: u8,
    code: u16,
    revision: u64,
}

#[derive(Clone)]
struct Checkpoint {
    message: Vec<u8>,
    position: u64,
    time: i64,
}

/// The whole state, as rows.
#[derive(Clone, Default)]
pub struct Naive {
    pub next: u64,
    pub digest: Hash,
    pub chain: Hash,
    pub tree: Tree,
    pub time: i64,
    pub revision: u64,
    pub floor: u64,
    pub last_mark: u64,
    limits: Vec<u8>,
    retention: Vec<u8>,
    width: u64,
    trim_replicas: u64,
    transport: Vec<u8>,
    root_message: Vec<u8>,
    leaves: Vec<Hash>,
    schemas: BTreeMap<u64, Vec<u8>>,
    levels: BTreeMap<u64, u64>,
    tags: BTreeMap<Vec<u8>, (u64, u64)>,
    marks: BTreeMap<u64, (i64, u64)>,
    checkpoints: BTreeMap<Vec<u8>, Checkpoint>,
    incarnations: BTreeMap<u64, Vec<u8>>,
    sealed: bool,
    /// Rules and tokens, and where the event stands.
    policy: Option<(u64, Vec<u8>)>,
    window: Vec<Entry>,
}

/// What one record met with.
pub struct Verdict {
    pub outcome: u8,
    pub code: u16,
    pub made_revision: bool,
    pub mark: bool,
}

impl Naive {
    pub fn root(&self) -> Hash {
        node_hash(&self.tree, Type::Root, &Vec::new())
    }

    pub fn apply(&mut self, record_time: i64, record: &[u8]) -> Verdict {
        let position = self.next;
        self.digest = hash(&[
            &[0x10],
            &self.digest,
            &position.to_be_bytes(),
            &record_time.to_be_bytes(),
            record,
        ]);
        let root_before = self.root();
        let mut fresh = None;
        let mut marked = false;
        self.time = self.time.max(record_time);
        let (outcome, code) = match self.decide(position, record_time, record, &mut fresh, &mut marked) {
            Ok(outcome) => (outcome, 0),
            Err(code) => (REJECTED, code),
        };
        self.next = position + 1;
        let root = self.root();
        let made_revision = root != root_before;
        let nothing = [0; 24];
        if made_revision {
            self.revision += 1;
            let id = fresh.as_ref().map_or(&nothing[..], |(id, _): &(Vec<u8>, Vec<u8>)| id);
            let leaf = [
                &[0x13][..],
                &self.revision.to_be_bytes(),
                &position.to_be_bytes(),
                &self.time.to_be_bytes(),
                &root,
                id,
                &self.digest,
            ];
            self.leaves.push(hash(&leaf));
        }
        if let Some((id, mark)) = fresh {
            let revision = if made_revision { self.revision } else { 0 };
            self.window.push(Entry {
                position,
                id,
                mark,
                outcome,
                code,
                revision,
            });
        }
        self.chain = hash(&[
            &[0x11],
            &self.chain,
            &self.digest,
            &[outcome],
            &code.to_be_bytes(),
            &root,
        ]);
        let mark = marked || position % 4096 == 0;
        if mark {
            self.last_mark = position;
            if self.revision > self.floor {
                self.marks.insert(position, (self.time, self.revision));
            }
        }
        Verdict {
            outcome,
            code,
            made_revision,
            mark,
        }
    }

    /// Steps 1 to 9, then the body. `Ok` is the outcome's number.
    fn decide(
        &mut self,
        position: u64,
        record_time: i64,
        record: &[u8],
        fresh: &mut Option<(Vec<u8>, Vec<u8>)>,
        marked: &mut bool,
    ) -> Result<u8, u16> {
        let max = if position == 0 {
            16 << 20
        } else {
            number_of(&self.limits, 1)
        };
        if record.len() as u64 > max {
            return Err(TOO_LARGE);
        }
        let parts = fields(record).ok_or(MALFORMED)?;
        let body = parts.last().filter(|part| part.number >= 16).ok_or(MALFORMED)?;
        if number_of(record, 1) != 0 {
            return Err(UNSUPPORTED);
        }
        if (body.number == 16) != (position == 0) {
            return Err(MALFORMED);
        }
        if body.number == 16 {
            return self.begin(body.bytes, bytes_of(record, 2));
        }
        if Some(bytes_of(record, 2)) != self.incarnations.values().last().map(|id| &id[..]) {
            return Err(FOREIGN);
        }
        let id = id_bytes(bytes_of(record, 3));
        if has(record, 3) {
            let seen = number_of(bytes_of(record, 3), 1);
            if seen >= position {
                return Err(FUTURE);
            }
            if position - seen > self.width {
                return Err(EXPIRED);
            }
            let (intent, principal) = (bytes_of(record, 4), bytes_of(record, 6));
            let mark = intent_mark(intent, principal);
            if let Some(first) = self.window.iter().find(|entry| entry.id == id) {
                return match first {
                    first if first.code == WITHDRAWN => Err(WITHDRAWN),
                    first if first.mark == mark => Ok(DUPLICATE),
                    _ => Err(ID_REUSED),
                };
            }
            if self.sealed && body.number != 29 {
                return Err(SEALED);
            }
            *fresh = Some((id.clone(), mark));
        }
        let policy = self.policy.clone().map_or(Vec::new(), |(_, policy)| policy);
        let principal = bytes_of(record, 6);
        if !rules(&policy).is_empty() {
            check_rights(&policy, principal, body)?;
        }
        let changed = match body.number {
            17 => {
                if self.schemas.is_empty() {
                    return Err(SCHEMA_INVALID);
                }
                let before = self.root();
                self.tree = commit(&self.tree, body.bytes, &|operation| {
                    is_forced(&policy, principal, operation)
                })?;
                self.root() != before
            }
            18 => {
                let set = bytes_of(body.bytes, 1).to_vec();
                let known = self.schemas.values().last() == Some(&set);
                if !known {
                    assert!(self.schemas.is_empty(), "this model knows one schema");
                    self.root_message = bytes_of(body.bytes, 2).to_vec();
                    self.schemas.insert(position, set);
                }
                !known
            }
            19 => self.tag(position, bytes_of(body.bytes, 1), number_of(body.bytes, 2))?,
            20 => {
                let names = fields(body.bytes).unwrap();
                if names.iter().any(|name| !self.tags.contains_key(name.bytes)) {
                    return Err(NOT_FOUND);
                }
                names
                    .iter()
                    .for_each(|name| self.tags.retain(|other, _| other != name.bytes));
                !names.is_empty()
            }
            21 => {
                let policy = bytes_of(body.bytes, 1).to_vec();
                if (number_of(&policy, 2) as i64) < 0 {
                    return Err(LIMIT);
                }
                let changed = policy != self.retention;
                self.retention = policy;
                changed
            }
            22 => self.prune(has(body.bytes, 1).then(|| number_of(body.bytes, 1)))?,
            24 => {
                check_policy(body.bytes)?;
                let rest = fields(body.bytes).unwrap();
                let rest = rest.iter().filter(|part| part.number != 3);
                let new: Vec<u8> = rest.flat_map(|part| part.record).copied().collect();
                let (at, old) = self.policy.clone().unwrap_or_default();
                if number_of(body.bytes, 3) != at {
                    return Err(CONFLICT);
                }
                let changed = new != old;
                if changed {
                    self.policy = Some((position, new));
                }
                changed
            }
            25 => {
                let (barred, seen) = (id_bytes(bytes_of(body.bytes, 1)), number_of(bytes_of(body.bytes, 1), 1));
                if barred == id {
                    return Err(ID_REUSED);
                }
                if seen >= position {
                    return Err(FUTURE);
                }
                if position - seen > self.width {
                    return Err(EXPIRED);
                }
                let known = self.window.iter().any(|entry| entry.id == barred);
                if !known {
                    let entry = Entry {
                        position,
                        id: barred,
                        mark: vec![0; 16],
                        outcome: REJECTED,
                        code: WITHDRAWN,
                        revision: 0,
                    };
                    self.window.push(entry);
                }
                !known
            }
            26 => {
                let level = number_of(body.bytes, 1);
                let lowest = self
                    .checkpoints
                    .values()
                    .map(|row| number_of(&row.message, 3))
                    .min()
                    .unwrap_or(0);
                if level != self.levels.values().last().unwrap() + 1 || lowest < level {
                    return Err(UNSUPPORTED);
                }
                self.levels.insert(position, level);
                true
            }
            27 => {
                self.time = record_time;
                true
            }
            28 => {
                self.sealed = true;
                true
            }
            29 => {
                let (incarnation, transport) = (bytes_of(body.bytes, 1), bytes_of(body.bytes, 2));
                if self.incarnations.values().any(|used| used == incarnation) {
                    return Err(ID_REUSED);
                }
                self.incarnations.insert(position, incarnation.to_vec());
                self.transport = transport.to_vec();
                self.sealed = false;
                true
            }
            30 | 31 if self.sealed => false,
            30 => {
                *marked = number_of(body.bytes, 1) == self.last_mark;
                *marked
            }
            31 => self.checkpoint(position, body.bytes)?,
            32 => false,
            _ => return Err(UNSUPPORTED),
        };
        Ok(if changed { ACCEPTED } else { UNCHANGED })
    }

    fn begin(&mut self, genesis: &[u8], incarnation: &[u8]) -> Result<u8, u16> {
        if bytes_of(genesis, 1) != incarnation {
            return Err(FOREIGN);
        }
        self.limits = bytes_of(genesis, 3).to_vec();
        self.width = number_of(genesis, 4);
        self.trim_replicas = number_of(genesis, 5);
        self.retention = bytes_of(genesis, 6).to_vec();
        self.transport = bytes_of(genesis, 8).to_vec();
        self.levels.insert(0, number_of(genesis, 7));
        self.incarnations.insert(0, incarnation.to_vec());
        Ok(ACCEPTED)
    }

    pub fn is_kept(&self, revision: u64) -> bool {
        revision <= self.revision
            && (revision > self.floor
                || revision == self.revision
                || self.tags.values().any(|(tagged, _)| *tagged == revision))
    }

    fn tag(&mut self, position: u64, name: &[u8], revision: u64) -> Result<bool, u16> {
        let name_fits = name.first().is_some_and(u8::is_ascii_alphabetic) && name != b"latest";
        if !name_fits {
            return Err(INVALID_PATH);
        }
        if revision > self.revision {
            return Err(FUTURE);
        }
        if revision == 0 {
            return Err(NOT_FOUND);
        }
        if !self.is_kept(revision) {
            return Err(PRUNED);
        }
        if self.tags.get(name).is_some_and(|(tagged, _)| *tagged == revision) {
            return Ok(false);
        }
        self.tags.insert(name.to_vec(), (revision, position));
        Ok(true)
    }

    fn prune(&mut self, floor: Option<u64>) -> Result<bool, u16> {
        let (keep_n, keep_age) = (
            number_of(&self.retention, 1).max(1),
            number_of(&self.retention, 2) as i64,
        );
        let floor = match floor {
            Some(floor) if floor >= self.revision => return Err(FUTURE),
            Some(floor) => floor,
            None if number_of(&self.retention, 3) == 1 => 0,
            None => {
                let released = self
                    .marks
                    .values()
                    .filter(|(time, revision)| self.revision - revision >= keep_n && self.time - time >= keep_age);
                released.last().map_or(0, |(_, revision)| *revision)
            }
        };
        if floor <= self.floor {
            return Ok(false);
        }
        self.floor = floor;
        self.marks.retain(|_, (_, revision)| *revision > floor);
        Ok(true)
    }

    fn checkpoint(&mut self, position: u64, message: &[u8]) -> Result<bool, u16> {
        let (replica, at) = (bytes_of(message, 1).to_vec(), number_of(message, 4));
        if at >= position || number_of(message, 7) >= position {
            return Err(FUTURE);
        }
        if bytes_of(message, 2).len() > 256 {
            return Err(LIMIT);
        }
        if self
            .checkpoints
            .get(&replica)
            .is_some_and(|row| number_of(&row.message, 4) >= at)
        {
            return Ok(false);
        }
        let now = self.time;
        self.checkpoints.retain(|_, row| now - row.time <= MONTH_MS);
        self.checkpoints.insert(
            replica,
            Checkpoint {
                message: message.to_vec(),
                position,
                time: now,
            },
        );
        Ok(true)
    }

    /// Section 5.4: the canonical message of each scalar member, from number 1 on.
    pub fn scalars(&self) -> Vec<Vec<u8>> {
        let mut history = num(1, self.leaves.len() as u64);
        peaks(&self.leaves)
            .iter()
            .for_each(|peak| history.extend(item(2, peak)));
        vec![
            num(1, self.next - 1),
            item(2, &self.digest),
            item(2, &self.chain),
            item(2, &self.root()),
            text(4, &self.root_message),
            item(5, &self.limits),
            num(1, self.width),
            num(1, self.trim_replicas),
            num(3, self.time as u64),
            num(1, self.revision),
            num(1, self.floor),
            item(6, &self.retention),
            num(1, self.last_mark),
            text(2, &self.transport),
            num(1, self.sealed.into()),
            item(7, &history),
        ]
    }

    /// Section 5.4: the rows of each table, keys ascending, from number 32 on; those of the window are its segments;
    /// the policy's table is a member only where there is one.
    pub fn tables(&self) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
        let be = |number: &u64| number.to_be_bytes().to_vec();
        let pair = |one: u64, two: u64| [num(1, one), num(2, two)].concat();
        let checkpoint =
            |row: &Checkpoint| [item(1, &row.message), num(2, row.position), num(3, row.time as u64)].concat();
        let mut segments: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for entry in self
            .window
            .iter()
            .filter(|entry| entry.position + self.width >= self.next)
        {
            let segment = segments.entry(be(&(entry.position / 4096))).or_default();
            segment.extend(entry.position.to_be_bytes());
            segment.extend([&entry.id[..], &entry.mark, &[entry.outcome], &entry.code.to_be_bytes()].concat());
            segment.extend(entry.revision.to_be_bytes());
        }
        let mut tables: Vec<Vec<_>> = vec![
            self.schemas.iter().map(|(at, set)| (be(at), item(1, set))).collect(),
            self.levels.iter().map(|(at, level)| (be(at), num(1, *level))).collect(),
            self.tags
                .iter()
                .map(|(name, (one, two))| (name.clone(), pair(*one, *two)))
                .collect(),
            self.marks
                .iter()
                .map(|(at, (time, two))| (be(at), pair(*time as u64, *two)))
                .collect(),
            self.checkpoints
                .iter()
                .map(|(replica, row)| (replica.clone(), checkpoint(row)))
                .collect(),
            self.incarnations
                .iter()
                .map(|(at, id)| {
                    let next = self.incarnations.keys().find(|begin| *begin > at);
                    (be(at), [item(1, id), num(2, next.copied().unwrap_or(0))].concat())
                })
                .collect(),
            segments.into_iter().collect(),
        ];
        if let Some((at, policy)) = &self.policy {
            tables.push(vec![(be(at), item(1, policy))]);
        }
        tables
    }

    /// Number and hash of every member.
    pub fn members(&self) -> Vec<(u16, Hash)> {
        let mut members: Vec<(u16, Hash)> = (1..)
            .zip(self.scalars().iter().map(|scalar| hash(&[&[0x15], scalar])))
            .collect();
        for (number, rows) in (32..).zip(self.tables()) {
            let kind = if number == 38 { 0x16 } else { 0x15 };
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(key, row)| (key, hash(&[&[kind], &row])))
                .collect();
            members.push((number, map_hash(&rows)));
        }
        members
    }

    pub fn state_hash(&self) -> Hash {
        let members = self.members();
        let mut preimage = vec![0x12];
        preimage.extend((members.len() as u16).to_be_bytes());
        members
            .iter()
            .for_each(|(number, hash)| preimage.extend([&number.to_be_bytes()[..], hash].concat()));
        hash(&[&preimage])
    }
}

/// Section 4.5.
pub fn intent_mark(intent: &[u8], principal: &[u8]) -> Vec<u8> {
    let whole = if principal.is_empty() {
        intent.to_vec()
    } else {
        hash(&[&[0x17], intent, principal]).to_vec()
    };
    whole[..16].to_vec()
}

/// u64 seen and nonce.
fn id_bytes(id: &[u8]) -> Vec<u8> {
    [&number_of(id, 1).to_be_bytes()[..], bytes_of(id, 2)].concat()
}

/// Of a mountain range: the largest full binary tree at the left, then those of the rest.
fn peaks(leaves: &[Hash]) -> Vec<Hash> {
    if leaves.is_empty() {
        return Vec::new();
    }
    let size = 1 << leaves.len().ilog2();
    [vec![full_tree(&leaves[..size])], peaks(&leaves[size..])].concat()
}

fn full_tree(leaves: &[Hash]) -> Hash {
    match leaves {
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len() / 2);
            hash(&[&[0x14], &full_tree(left), &full_tree(right)])
        }
    }
}
