//! Which READ_ONLY fields a change touches (U7): in the message itself and in plain data below it, items of a list one by one, maps by key.
//! Children are other nodes and not looked at.

use crate::keys::map_key_text;
use crate::schema::{Access, KeyField, Kind, MAX_DEPTH, Schema, Shape, TypeId};
use crate::wire_bytes::{self, Raw, RawField};
use std::collections::BTreeMap;

/// Violations beyond this many are counted, not listed.
const MAX_NAMED: usize = 256;

impl Schema {
    /// Names, like `address.port`, `ports[2].serial` or `labels["a"].owner`, of all READ_ONLY fields whose value differs between two
    /// canonical configs of type `ty`. A READ_ONLY message that is unset equals an empty one. Empty: the change is allowed.
    pub fn read_only_changes(&self, ty: TypeId, old: &[u8], new: &[u8]) -> Vec<String> {
        let mut changes = Changes { schema: self, names: Vec::new(), more: 0 };
        changes.message(ty, old, new, "", 1);
        if changes.more > 0 {
            changes.names.push(format!("and {} more", changes.more));
        }
        changes.names
    }

    /// Names of the READ_ONLY fields that a strict add may not set: all that are not at their defaults, except the key.
    pub fn read_only_set(&self, ty: TypeId, key: Option<&KeyField>, config: &[u8]) -> Vec<String> {
        let mut names = self.read_only_changes(ty, &[], config);
        if let Some(key) = key {
            names.retain(|name| *name != key.name);
        }
        names
    }
}

struct Changes<'s> {
    schema: &'s Schema,
    names: Vec<String>,
    more: usize,
}

impl Changes<'_> {
    fn message(&mut self, ty: TypeId, old: &[u8], new: &[u8], prefix: &str, depth: u32) {
        let message = self.schema.message(ty);
        if !message.has_read_only || old == new || depth > MAX_DEPTH {
            return;
        }
        let (old_fields, new_fields) = (by_number(old), by_number(new));
        for field in &message.fields {
            // Children of a node do not occur in configs; in plain data they are data.
            let was = old_fields.get(&field.number).map_or(&[][..], Vec::as_slice);
            let is = new_fields.get(&field.number).map_or(&[][..], Vec::as_slice);
            if was.is_empty() && is.is_empty() {
                continue;
            }
            let name = format!("{prefix}{}", field.name);
            match (field.access, field.kind, field.shape) {
                (Access::ReadOnly, kind, shape) => {
                    let singular_message = matches!(kind, Kind::Message(_)) && shape == Shape::Presence;
                    let equal = if singular_message { bytes_of(was) == bytes_of(is) } else { values(was).eq(values(is)) };
                    if !equal {
                        self.add(name);
                    }
                }
                (_, Kind::Message(inner), Shape::Map) => self.map(inner, was, is, &name, depth + 1),
                (_, Kind::Message(inner), Shape::Repeated) => {
                    for index in 0..was.len().max(is.len()) {
                        // Beyond the shorter list there are empty messages to compare with.
                        let [was, is] = [was, is].map(|fields| bytes_of(fields.get(index..).unwrap_or_default()));
                        self.message(inner, was, is, &format!("{name}[{index}]."), depth + 1);
                    }
                }
                (_, Kind::Message(inner), _) => self.message(inner, bytes_of(was), bytes_of(is), &format!("{name}."), depth + 1),
                _ => {}
            }
        }
    }

    fn map(&mut self, entry: TypeId, was: &[RawField<'_>], is: &[RawField<'_>], name: &str, depth: u32) {
        let entry = self.schema.message(entry);
        let [key, value] = &entry.fields[..] else { return };
        let Kind::Message(inner) = value.kind else { return };
        let mut entries: BTreeMap<String, (&[u8], &[u8])> = BTreeMap::new();
        for (side, fields) in [(0, was), (1, is)] {
            for field in fields {
                let Raw::Bytes(bytes) = field.value else { continue };
                let mut text = String::new();
                let mut content: &[u8] = &[];
                for part in wire_bytes::fields(bytes) {
                    match (part.number, part.value) {
                        (1, raw) => text = map_key_text(key.kind, raw),
                        (2, Raw::Bytes(bytes)) => content = bytes,
                        _ => {}
                    }
                }
                let pair = entries.entry(text).or_default();
                if side == 0 { pair.0 = content } else { pair.1 = content }
            }
        }
        for (text, (was, is)) in entries {
            self.message(inner, was, is, &format!("{name}[{text}]."), depth + 1);
        }
    }

    fn add(&mut self, name: String) {
        if self.names.len() < MAX_NAMED { self.names.push(name) } else { self.more += 1 }
    }
}

fn by_number(message: &[u8]) -> BTreeMap<u32, Vec<RawField<'_>>> {
    let mut grouped: BTreeMap<u32, Vec<RawField<'_>>> = BTreeMap::new();
    for field in wire_bytes::fields(message) {
        grouped.entry(field.number).or_default().push(field);
    }
    grouped
}

fn values<'f, 'a: 'f>(fields: &'f [RawField<'a>]) -> impl Iterator<Item = Raw<'a>> + 'f {
    fields.iter().map(|field| field.value)
}

/// The bytes of a singular message; absent is empty.
fn bytes_of<'a>(fields: &[RawField<'a>]) -> &'a [u8] {
    match fields.first().map(|field| field.value) {
        Some(Raw::Bytes(bytes)) => bytes,
        _ => &[],
    }
}
