//! A plain model of message values, random values of a schema, their one canonical encoding, and some of their many other ones.

use confold_model::schema::{Access, ChildField, ChildKind, Field, Kind, MessageType, Schema, Shape, TypeId};
use confold_model::wire_bytes;
use std::collections::{BTreeMap, VecDeque};

/// Fields that are set, by number; defaults without presence are not.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Value(pub BTreeMap<u32, Item>);

#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// A number as it stands in canonical bytes.
    Number(u64),
    Bytes(Vec<u8>),
    Message(Value),
    Numbers(Vec<u64>),
    Many(Vec<Item>),
    /// Ascending by key.
    Map(Vec<(Item, Item)>),
}

/// Whether a message stands there as a node or as plain data.
#[derive(Clone, Copy, PartialEq)]
pub enum Role {
    Node,
    Plain,
}

/// SplitMix64: enough to choose test data, and the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A random value of type `ty`, at most `levels` messages deep.
pub fn value(schema: &Schema, ty: TypeId, role: Role, levels: u32, dice: &mut Dice) -> Value {
    let message = schema.message(ty);
    let mut value = Value::default();
    let mut oneofs = Vec::new();
    let mut fields: Vec<&Field> = message.fields.iter().collect();
    shuffle(&mut fields, dice);
    for field in fields {
        if field.access == Access::RealTime || !dice.one_in(3) {
            continue;
        }
        if levels == 0 && matches!(field.kind, Kind::Message(_)) {
            continue;
        }
        if let Some(oneof) = field.oneof {
            if oneofs.contains(&oneof) {
                continue;
            }
            oneofs.push(oneof);
        }
        if let Some(item) = item(schema, message, field, role, levels, dice) {
            value.0.insert(field.number, item);
        }
    }
    value
}

/// The one canonical encoding.
pub fn canonical(schema: &Schema, ty: TypeId, value: &Value) -> Vec<u8> {
    let message = schema.message(ty);
    let mut out = Vec::new();
    for (number, item) in &value.0 {
        let kind = message.field(*number).expect("a field of the schema").kind;
        put_canonical(schema, *number, kind, item, &mut out);
    }
    out
}

/// One of the other encodings that protobuf's parse rules take for the same value.
pub fn messy(schema: &Schema, ty: TypeId, value: &Value, role: Role, dice: &mut Dice) -> Vec<u8> {
    messy_records(schema, ty, value, role, dice).concat()
}

fn item(schema: &Schema, message: &MessageType, field: &Field, role: Role, levels: u32, dice: &mut Dice) -> Option<Item> {
    let child = if role == Role::Node { message.child(field.number) } else { None };
    let inner_role = if child.is_some() { Role::Node } else { Role::Plain };
    match (field.shape, field.kind) {
        (Shape::Map, Kind::Message(entry)) => {
            let entry = schema.message(entry);
            let (key_kind, value_kind) = (entry.fields[0].kind, entry.fields[1].kind);
            let mut entries: BTreeMap<(u64, Vec<u8>), (Item, Item)> = BTreeMap::new();
            for _ in 0..1 + dice.below(4) {
                let key = scalar(schema, key_kind, dice);
                let value = match value_kind {
                    Kind::Message(ty) => Item::Message(self::value(schema, ty, Role::Plain, levels.saturating_sub(2), dice)),
                    kind => scalar(schema, kind, dice),
                };
                entries.insert(sort_key(key_kind, &key), (key, value));
            }
            Some(Item::Map(entries.into_values().collect()))
        }
        (Shape::Repeated, Kind::Message(ty)) => {
            let mut items: Vec<Value> = (0..1 + dice.below(4)).map(|_| value(schema, ty, inner_role, levels - 1, dice)).collect();
            if let Some(ChildField { kind: ChildKind::Keyed(key), .. }) = child {
                let mut keyed: BTreeMap<(u64, Vec<u8>), Value> = BTreeMap::new();
                for mut item in items {
                    let mut value = scalar(schema, key.kind, dice);
                    if value == Item::Bytes(Vec::new()) {
                        value = Item::Bytes(b"k".to_vec());
                    }
                    let sorted = sort_key(key.kind, &value);
                    item.0.remove(&key.number);
                    if !is_default(&value) {
                        item.0.insert(key.number, value);
                    }
                    keyed.insert(sorted, item);
                }
                items = keyed.into_values().collect();
            }
            Some(Item::Many(items.into_iter().map(Item::Message).collect()))
        }
        (Shape::Repeated, kind) if kind.wire_type() == 2 => {
            Some(Item::Many((0..1 + dice.below(3)).map(|_| scalar(schema, kind, dice)).collect()))
        }
        (Shape::Repeated, kind) => {
            let number = |item| match item {
                Item::Number(number) => number,
                other => panic!("{other:?} is no number"),
            };
            Some(Item::Numbers((0..1 + dice.below(4)).map(|_| number(scalar(schema, kind, dice))).collect()))
        }
        (_, Kind::Message(ty)) => {
            let inner = value(schema, ty, inner_role, levels - 1, dice);
            if child.is_some() && inner.0.is_empty() { None } else { Some(Item::Message(inner)) }
        }
        (shape, kind) => {
            let item = scalar(schema, kind, dice);
            if shape == Shape::Implicit && is_default(&item) { None } else { Some(item) }
        }
    }
}

fn scalar(schema: &Schema, kind: Kind, dice: &mut Dice) -> Item {
    let wild = match dice.below(4) {
        0 => 0,
        1 => dice.next() % 300,
        2 => (dice.next() % 300).wrapping_neg(),
        _ => dice.next(),
    };
    Item::Number(match kind {
        Kind::String => {
            let texts = ["", "a", "aa", "\u{0}", "é", "長い名", "a/b", "~", "%"];
            return Item::Bytes(texts[dice.below(texts.len())].repeat(dice.below(3)).into_bytes());
        }
        Kind::Bytes => return Item::Bytes((0..dice.below(5)).map(|_| dice.next() as u8).collect()),
        Kind::Bool => wild & 1,
        Kind::Enum(id) => {
            let values = &schema.enum_type(id).values;
            i64::from(values[dice.below(values.len())].0) as u64
        }
        Kind::Int32 => i64::from(wild as i32) as u64,
        // NaN bits, -0.0 and the like must pass through as they are.
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Sint32 => {
            [wild as u32, 0x8000_0000, 0x7fc0_0001, 0xffa0_0000][dice.below(4)].into()
        }
        Kind::Double => [wild, 1 << 63, 0x7ff0_0000_0000_0001][dice.below(3)],
        _ => wild,
    })
}

fn sort_key(kind: Kind, item: &Item) -> (u64, Vec<u8>) {
    match (kind, item) {
        (_, Item::Bytes(bytes)) => (0, bytes.clone()),
        (Kind::Sint32 | Kind::Sint64, Item::Number(n)) => (((n >> 1) ^ (n & 1).wrapping_neg()) ^ 1 << 63, Vec::new()),
        (Kind::Sfixed32, Item::Number(n)) => (i64::from(*n as i32) as u64 ^ 1 << 63, Vec::new()),
        (Kind::Int32 | Kind::Int64 | Kind::Sfixed64, Item::Number(n)) => (n ^ 1 << 63, Vec::new()),
        (_, Item::Number(n)) => (*n, Vec::new()),
        (_, other) => panic!("{other:?} is no key"),
    }
}

fn is_default(item: &Item) -> bool {
    matches!(item, Item::Number(0)) || matches!(item, Item::Bytes(bytes) if bytes.is_empty())
}

fn put_canonical(schema: &Schema, number: u32, kind: Kind, item: &Item, out: &mut Vec<u8>) {
    match (item, kind) {
        (Item::Number(value), _) => {
            wire_bytes::put_tag(out, number, kind.wire_type());
            put_number(kind, *value, out);
        }
        (Item::Bytes(bytes), _) => wire_bytes::put_bytes(out, number, bytes),
        (Item::Message(inner), Kind::Message(ty)) => wire_bytes::put_bytes(out, number, &canonical(schema, ty, inner)),
        (Item::Numbers(values), _) => {
            let mut packed = Vec::new();
            values.iter().for_each(|value| put_number(kind, *value, &mut packed));
            wire_bytes::put_bytes(out, number, &packed);
        }
        (Item::Many(items), _) => items.iter().for_each(|item| put_canonical(schema, number, kind, item, out)),
        (Item::Map(entries), Kind::Message(entry)) => {
            let entry = schema.message(entry);
            for (key, value) in entries {
                let mut bytes = Vec::new();
                put_canonical(schema, 1, entry.fields[0].kind, key, &mut bytes);
                put_canonical(schema, 2, entry.fields[1].kind, value, &mut bytes);
                wire_bytes::put_bytes(out, number, &bytes);
            }
        }
        (item, kind) => panic!("{item:?} as {kind:?}"),
    }
}

fn put_number(kind: Kind, value: u64, out: &mut Vec<u8>) {
    match kind.wire_type() {
        1 => out.extend_from_slice(&value.to_le_bytes()),
        5 => out.extend_from_slice(&(value as u32).to_le_bytes()),
        _ => wire_bytes::put_varint(out, value),
    }
}

/// The records of a message in some order that parsing does not care about.
fn messy_records(schema: &Schema, ty: TypeId, value: &Value, role: Role, dice: &mut Dice) -> Vec<Vec<u8>> {
    let message = schema.message(ty);
    // Records of one group keep their order: one field, or the members of one oneof.
    let mut groups: Vec<VecDeque<Vec<u8>>> = Vec::new();
    for field in &message.fields {
        let child = if role == Role::Node { message.child(field.number) } else { None };
        let mut records = VecDeque::new();
        match value.0.get(&field.number) {
            Some(item) => {
                if let Some(oneof) = field.oneof {
                    // Other members before this one are displaced by it.
                    for other in message.fields.iter().filter(|other| other.oneof == Some(oneof) && other.number != field.number) {
                        if dice.one_in(2) {
                            records.push_back(junk(schema, other, dice));
                        }
                    }
                }
                records.extend(field_records(schema, message, field, item, role, dice));
            }
            None if field.access == Access::RealTime => {
                if dice.one_in(3) {
                    records.push_back(junk(schema, field, dice));
                }
            }
            None if field.shape == Shape::Implicit && dice.one_in(4) => {
                // A default set by hand, after something else.
                records.push_back(junk(schema, field, dice));
                records.push_back(messy_scalar(field.number, field.kind, &default_item(field.kind), dice));
            }
            None if child.is_some_and(|child| !child.is_container()) && dice.one_in(4) => {
                records.push_back(messy_bytes(field.number, &[], dice));
            }
            None if field.shape == Shape::Repeated && field.kind.wire_type() != 2 && dice.one_in(4) => {
                records.push_back(messy_bytes(field.number, &[], dice));
            }
            None => {}
        }
        groups.push(records);
    }
    let mut records = Vec::new();
    while !groups.is_empty() {
        let chosen = dice.below(groups.len());
        match groups[chosen].pop_front() {
            Some(record) => records.push(record),
            None => _ = groups.swap_remove(chosen),
        }
    }
    records
}

fn field_records(schema: &Schema, message: &MessageType, field: &Field, item: &Item, role: Role, dice: &mut Dice) -> Vec<Vec<u8>> {
    let child = if role == Role::Node { message.child(field.number) } else { None };
    let inner_role = if child.is_some() { Role::Node } else { Role::Plain };
    match (item, field.kind) {
        (Item::Number(_) | Item::Bytes(_), kind) => {
            let mut records: Vec<Vec<u8>> = (0..dice.below(2)).map(|_| junk(schema, field, dice)).collect();
            records.push(messy_scalar(field.number, kind, item, dice));
            records
        }
        (Item::Message(inner), Kind::Message(ty)) => {
            // Any piece of it first, the rest later: they merge.
            let records = messy_records(schema, ty, inner, inner_role, dice);
            let cut = dice.below(records.len() + 1);
            match dice.one_in(2) {
                true => vec![
                    messy_bytes(field.number, &records[..cut].concat(), dice),
                    messy_bytes(field.number, &records[cut..].concat(), dice),
                ],
                false => vec![messy_bytes(field.number, &records.concat(), dice)],
            }
        }
        (Item::Numbers(values), kind) => {
            let mut records = Vec::new();
            let mut values = &values[..];
            while !values.is_empty() {
                let (now, later) = values.split_at(1 + dice.below(values.len()));
                values = later;
                if dice.one_in(2) {
                    let mut packed = Vec::new();
                    now.iter().for_each(|value| put_messy_number(kind, *value, dice, &mut packed));
                    records.push(messy_bytes(field.number, &packed, dice));
                } else {
                    records.extend(now.iter().map(|value| messy_scalar(field.number, kind, &Item::Number(*value), dice)));
                }
            }
            records
        }
        (Item::Many(items), kind) => {
            let mut records: Vec<Vec<u8>> = items
                .iter()
                .map(|item| match (item, kind) {
                    (Item::Message(inner), Kind::Message(ty)) => {
                        let bytes = messy(schema, ty, inner, inner_role, dice);
                        messy_bytes(field.number, &bytes, dice)
                    }
                    (item, kind) => messy_scalar(field.number, kind, item, dice),
                })
                .collect();
            if child.is_some_and(|child| child.key().is_some()) {
                shuffle(&mut records, dice);
            }
            records
        }
        (Item::Map(entries), Kind::Message(entry)) => {
            let entry = schema.message(entry);
            let value_kind = entry.fields[1].kind;
            let mut records = Vec::new();
            let mut order: Vec<&(Item, Item)> = entries.iter().collect();
            shuffle(&mut order, dice);
            for (key, value) in order {
                let junk_value = match value_kind {
                    Kind::Message(_) => None,
                    kind => Some(scalar(schema, kind, dice)),
                };
                for value in junk_value.iter().chain([value]) {
                    let mut parts = Vec::new();
                    if !is_default(key) || dice.one_in(2) {
                        parts.push(messy_scalar(1, entry.fields[0].kind, key, dice));
                    }
                    match (value, value_kind) {
                        (Item::Message(inner), Kind::Message(ty)) => {
                            let bytes = messy(schema, ty, inner, Role::Plain, dice);
                            if !bytes.is_empty() || dice.one_in(2) {
                                parts.push(messy_bytes(2, &bytes, dice));
                            }
                        }
                        (value, _) if is_default(value) && dice.one_in(2) => {}
                        (value, kind) => parts.push(messy_scalar(2, kind, value, dice)),
                    }
                    shuffle(&mut parts, dice);
                    records.push(messy_bytes(field.number, &parts.concat(), dice));
                }
            }
            records
        }
        (item, kind) => panic!("{item:?} as {kind:?}"),
    }
}

/// A well-formed record of the field with any value.
fn junk(schema: &Schema, field: &Field, dice: &mut Dice) -> Vec<u8> {
    match field.kind {
        Kind::Message(ty) => {
            let inner = value(schema, ty, Role::Plain, 1, dice);
            messy_bytes(field.number, &canonical(schema, ty, &inner), dice)
        }
        kind => {
            let item = scalar(schema, kind, dice);
            messy_scalar(field.number, kind, &item, dice)
        }
    }
}

fn default_item(kind: Kind) -> Item {
    if kind.wire_type() == 2 { Item::Bytes(Vec::new()) } else { Item::Number(0) }
}

fn messy_scalar(number: u32, kind: Kind, item: &Item, dice: &mut Dice) -> Vec<u8> {
    match item {
        Item::Number(value) => {
            let mut out = Vec::new();
            put_messy_varint(u64::from(number) << 3 | u64::from(kind.wire_type()), 5, dice, &mut out);
            put_messy_number(kind, *value, dice, &mut out);
            out
        }
        Item::Bytes(bytes) => messy_bytes(number, bytes, dice),
        other => panic!("{other:?} is no scalar"),
    }
}

fn messy_bytes(number: u32, bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    put_messy_varint(u64::from(number) << 3 | 2, 5, dice, &mut out);
    put_messy_varint(bytes.len() as u64, 5, dice, &mut out);
    out.extend_from_slice(bytes);
    out
}

fn put_messy_number(kind: Kind, value: u64, dice: &mut Dice, out: &mut Vec<u8>) {
    if kind.wire_type() != 0 {
        return put_number(kind, value, out);
    }
    let value = match kind {
        Kind::Bool if value == 1 => [1, 2, 1 << 40, u64::MAX][dice.below(4)],
        // Bits above the 32nd are cut off.
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Enum(_) if dice.one_in(2) => value & 0xffff_ffff | dice.next() << 32,
        _ => value,
    };
    put_messy_varint(value, 10, dice, out);
}

/// Perhaps longer than needed.
fn put_messy_varint(value: u64, most: usize, dice: &mut Dice, out: &mut Vec<u8>) {
    let start = out.len();
    wire_bytes::put_varint(out, value);
    if dice.one_in(4) && out.len() - start < most {
        if let Some(last) = out.last_mut() {
            *last |= 0x80;
        }
        out.push(0);
    }
}

fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for index in (1..items.len()).rev() {
        items.swap(index, dice.below(index + 1));
    }
}
