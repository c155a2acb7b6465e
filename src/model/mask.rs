//! Putting wire bytes together and taking them apart by field: joining children into a message, and updates by field mask.
//!
//! A mask is a list of field-number paths, ascending, none a prefix of another, through singular messages only. Configs handed in here
//! are canonical; for bytes that are not, the result means nothing, but nothing panics.

use crate::canon::ValueError;
use crate::code::Code;
use crate::schema::{Access, Field, Kind, MAX_DEPTH, Schema, Shape, TypeId};
use crate::wire_bytes::{self, Raw};
use std::collections::BTreeSet;

impl Schema {
    /// The inverse of one level of `split`: a node's config with the joined bytes of its children, fields ascending. `children` holds
    /// per child field, ascending, the elements in their order. A single child of no bytes is at its defaults and so left out.
    pub fn join<B: AsRef<[u8]>>(&self, ty: TypeId, config: &[u8], children: &[(u32, Vec<B>)]) -> Vec<u8> {
        let message = self.message(ty);
        let size: usize = children.iter().flat_map(|(_, items)| items).map(|item| item.as_ref().len() + 8).sum();
        let mut out = Vec::with_capacity(config.len() + size);
        let mut rest = children.iter().peekable();
        let mut put_before = |limit: u32, out: &mut Vec<u8>| {
            while let Some((number, items)) = rest.next_if(|(number, _)| *number < limit) {
                let single = message.child(*number).is_some_and(|child| !child.is_container());
                for item in items.iter().filter(|item| !single || !item.as_ref().is_empty()) {
                    wire_bytes::put_bytes(out, *number, item.as_ref());
                }
            }
        };
        for field in wire_bytes::fields(config) {
            put_before(field.number, &mut out);
            out.extend_from_slice(&config[field.start..field.end]);
        }
        put_before(u32::MAX, &mut out);
        out
    }

    /// Whether `mask` is one for messages of type `ty`.
    ///
    /// `NOT_CANONICAL` when it is empty, holds an empty path, is out of order, or one path lies at or below another; `NOT_FOUND` for an unknown field;
    /// `CHILDREN_IN_UPDATE` for a child field; `INVALID_PATH` for a step into something that is no singular message, and for a REAL_TIME field.
    pub fn check_mask(&self, ty: TypeId, mask: &[Vec<u32>]) -> Result<(), ValueError> {
        let refuse = |path: &[u32], code, text: String| {
            let text = format!("mask {}: {text}", self.field_names(ty, path));
            Err(ValueError { code, field: path.to_vec(), text })
        };
        if mask.is_empty() {
            return refuse(&[], Code::NotCanonical, "a mask names at least one field".to_owned());
        }
        for (index, path) in mask.iter().enumerate() {
            if path.is_empty() {
                return refuse(path, Code::NotCanonical, "a path of a mask names at least one field".to_owned());
            }
            if let Some(before) = index.checked_sub(1).and_then(|before| mask.get(before)) {
                if path.starts_with(before) {
                    return refuse(path, Code::NotCanonical, format!("{} covers it already", self.names_below(ty, before)));
                }
                if path < before {
                    return refuse(path, Code::NotCanonical, format!("stands after {}; paths ascend", self.names_below(ty, before)));
                }
            }
            if let Err((code, text)) = self.check_mask_path(ty, path) {
                return refuse(path, code, text);
            }
        }
        Ok(())
    }

    /// `config` with only the masked fields. A message that the mask enters and that holds none of them is absent, so that the masked
    /// hash H(`04`, this) is one for all states without the masked fields.
    pub fn masked(&self, ty: TypeId, config: &[u8], mask: &[Vec<u32>]) -> Vec<u8> {
        let mut out = Vec::new();
        self.keep(ty, config, Mask { paths: mask, level: 0 }, &mut out);
        out
    }

    /// Checks the value of a masked update: a canonical config that holds masked fields only, in the form that `masked` gives.
    pub fn check_masked_value(&self, ty: TypeId, value: &[u8], mask: &[Vec<u32>], depth: u32) -> Result<(), ValueError> {
        self.check_config(ty, value, depth)?;
        self.check_only_masked(ty, value, mask)
    }

    /// Of a canonical config: that it holds masked fields only, in the form that `masked` gives.
    pub(crate) fn check_only_masked(&self, ty: TypeId, config: &[u8], mask: &[Vec<u32>]) -> Result<(), ValueError> {
        if self.masked(ty, config, mask) == config {
            return Ok(());
        }
        let text = format!(
            "{}: a masked update carries fields of its mask only, and no message left empty by it",
            self.message(ty).full_name
        );
        Err(ValueError { code: Code::NotCanonical, field: Vec::new(), text })
    }

    /// The config after a masked update: masked fields as in `value`, all others as in `old`. Setting `a.b` creates `a`; clearing it
    /// leaves `a` present. Setting a member of a oneof clears its other members, masked or not.
    pub fn merge_masked(&self, ty: TypeId, old: &[u8], value: &[u8], mask: &[Vec<u32>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(old.len() + value.len());
        self.merge(ty, old, value, Mask { paths: mask, level: 0 }, &mut out);
        out
    }

    fn check_mask_path(&self, ty: TypeId, path: &[u32]) -> Result<(), (Code, String)> {
        if path.len() > MAX_DEPTH as usize {
            return Err((Code::Limit, format!("has {} steps; at most {MAX_DEPTH} are allowed", path.len())));
        }
        let mut ty = ty;
        for (index, number) in path.iter().enumerate() {
            let message = self.message(ty);
            let field = message.field(*number).ok_or_else(|| (Code::NotFound, format!("{} has no field {number}", message.full_name)))?;
            // Inside plain data a child field is data like any other.
            if index == 0 && field.is_child() {
                return Err((Code::ChildrenInUpdate, format!("{} is a child; use its own path", field.name)));
            }
            if field.access == Access::RealTime {
                return Err((Code::InvalidPath, format!("{} is REAL_TIME, which is never stored", field.name)));
            }
            if index + 1 < path.len() {
                match (field.kind, field.shape) {
                    (Kind::Message(inner), Shape::Presence) => ty = inner,
                    _ => return Err((Code::InvalidPath, format!("no step can go into {}, which is no singular message", field.name))),
                }
            }
        }
        Ok(())
    }

    fn keep(&self, ty: TypeId, config: &[u8], mask: Mask<'_>, out: &mut Vec<u8>) {
        for field in wire_bytes::fields(config) {
            match (mask.at(field.number), field.value, self.inner_type(ty, field.number)) {
                (At::Outside, ..) => {}
                (At::Inside(below), Raw::Bytes(bytes), Some(inner)) if mask.level < MAX_DEPTH as usize => {
                    let mut kept = Vec::new();
                    self.keep(inner, bytes, below, &mut kept);
                    if !kept.is_empty() {
                        wire_bytes::put_bytes(out, field.number, &kept);
                    }
                }
                _ => out.extend_from_slice(&config[field.start..field.end]),
            }
        }
    }

    fn merge(&self, ty: TypeId, old: &[u8], value: &[u8], mask: Mask<'_>, out: &mut Vec<u8>) {
        let message = self.message(ty);
        let oneof_of = |number: u32| message.field(number).and_then(|field: &Field| field.oneof);
        let set: BTreeSet<(u8, u32)> =
            wire_bytes::fields(value).filter_map(|field| Some((oneof_of(field.number)?, field.number))).collect();
        let displaced = |number: u32| {
            oneof_of(number).is_some_and(|oneof| set.iter().any(|(other, member)| *other == oneof && *member != number))
        };
        let mut old_fields = wire_bytes::fields(old).peekable();
        let mut new_fields = wire_bytes::fields(value).peekable();
        loop {
            let number = match (old_fields.peek(), new_fields.peek()) {
                (Some(a), Some(b)) => a.number.min(b.number),
                (Some(a), None) => a.number,
                (None, Some(b)) => b.number,
                (None, None) => break,
            };
            let (old_run, old_value) = run(&mut old_fields, number, old);
            let (new_run, new_value) = run(&mut new_fields, number, value);
            match (mask.at(number), self.inner_type(ty, number)) {
                (At::Outside, _) if displaced(number) => {}
                (At::Outside, _) => out.extend_from_slice(old_run),
                (At::Inside(_), _) if new_value.is_none() && displaced(number) => {}
                (At::Inside(below), Some(inner)) if mask.level < MAX_DEPTH as usize => {
                    if old_value.is_some() || new_value.is_some() {
                        let mut merged = Vec::new();
                        self.merge(inner, old_value.unwrap_or_default(), new_value.unwrap_or_default(), below, &mut merged);
                        wire_bytes::put_bytes(out, number, &merged);
                    }
                }
                _ => out.extend_from_slice(new_run),
            }
        }
    }

    fn inner_type(&self, ty: TypeId, number: u32) -> Option<TypeId> {
        match self.message(ty).field(number)?.kind {
            Kind::Message(inner) => Some(inner),
            _ => None,
        }
    }
}

/// The records of one field number, and the last one's bytes where it is length-delimited.
fn run<'a>(
    fields: &mut std::iter::Peekable<impl Iterator<Item = wire_bytes::RawField<'a>>>,
    number: u32,
    message: &'a [u8],
) -> (&'a [u8], Option<&'a [u8]>) {
    let mut span: Option<std::ops::Range<usize>> = None;
    let mut value = None;
    while let Some(field) = fields.next_if(|field| field.number == number) {
        span = Some(span.map_or(field.start, |span| span.start)..field.end);
        if let Raw::Bytes(bytes) = field.value {
            value = Some(bytes);
        }
    }
    (span.map_or(&[], |span| &message[span]), value)
}

/// The paths of a mask that lie below one message, whose first `level` steps are behind us.
#[derive(Clone, Copy)]
struct Mask<'m> {
    paths: &'m [Vec<u32>],
    level: usize,
}

enum At<'m> {
    Outside,
    Whole,
    Inside(Mask<'m>),
}

impl<'m> Mask<'m> {
    fn at(self, number: u32) -> At<'m> {
        let step = |path: &Vec<u32>| path.get(self.level).copied().unwrap_or(0);
        let start = self.paths.partition_point(|path| step(path) < number);
        let end = self.paths.partition_point(|path| step(path) <= number);
        match self.paths.get(start..end) {
            None | Some([]) => At::Outside,
            Some(below) if below.iter().any(|path| path.len() == self.level + 1) => At::Whole,
            Some(below) => At::Inside(Mask { paths: below, level: self.level + 1 }),
        }
    }
}
