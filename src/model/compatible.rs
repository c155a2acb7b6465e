//! Whether a new schema may follow an old one: it may only add (S9, docs/formats.md 6), so that every stored node keeps its
//! bytes, its meaning and its path.

use crate::schema::{ChildField, ChildKind, EnumId, Field, Kind, Problems, Schema, SchemaProblem, Shape, TypeId};
use std::collections::{BTreeMap, BTreeSet};

impl Schema {
    /// Compares `self`, the schema in force, with `new`. Types are paired by where they are used, so messages, enums and packages
    /// may be renamed; the root message may not. Every offender is named by its place in the old schema.
    pub fn compatible(&self, new: &Schema) -> Result<(), Vec<SchemaProblem>> {
        let mut comparison = Comparison {
            old: self,
            new,
            problems: Problems::default(),
            messages: Pairs::default(),
            enums: Pairs::default(),
        };
        comparison.compare_root();
        if comparison.problems.is_empty() { Ok(()) } else { Err(comparison.problems.into_list()) }
    }
}

struct Comparison<'s> {
    old: &'s Schema,
    new: &'s Schema,
    problems: Problems,
    messages: Pairs<TypeId>,
    enums: Pairs<EnumId>,
}

/// Pairs of types found in the same place, each to be compared once.
struct Pairs<T> {
    seen: BTreeSet<(T, T)>,
    pending: Vec<(T, T)>,
}

impl<T> Default for Pairs<T> {
    fn default() -> Pairs<T> {
        Pairs { seen: BTreeSet::new(), pending: Vec::new() }
    }
}

impl<T: Ord + Copy> Pairs<T> {
    fn add(&mut self, old: T, new: T) {
        if self.seen.insert((old, new)) {
            self.pending.push((old, new));
        }
    }
}

/// Honest schemas have about as many pairs as types; the product of both is what this keeps away.
const MAX_PAIRS: usize = 131_072;

impl Comparison<'_> {
    fn compare_root(&mut self) {
        let (old, new) = (self.old.root(), self.new.root());
        let (old_name, new_name) = (&self.old.message(old).full_name, &self.new.message(new).full_name);
        if old_name != new_name {
            self.problems.add(old_name, format!("the root message cannot be changed, here to {new_name}"));
        }
        self.messages.add(old, new);
        while let Some((old, new)) = self.messages.pending.pop() {
            if self.messages.seen.len() > MAX_PAIRS {
                self.problems.add("schema", format!("more than {MAX_PAIRS} pairs of messages to compare"));
                return;
            }
            self.compare_messages(old, new);
        }
        while let Some((old, new)) = self.enums.pending.pop() {
            self.compare_enums(old, new);
        }
    }

    fn compare_messages(&mut self, old: TypeId, new: TypeId) {
        let (old, new) = (self.old.message(old), self.new.message(new));
        // Which new oneof each old one became, and back.
        let mut forth = BTreeMap::new();
        let mut back = BTreeMap::new();
        for was in &old.fields {
            let at = format!("{}.{}", old.full_name, was.name);
            let Some(is) = new.field(was.number) else {
                let moved = new.field_by_name(&was.name);
                self.problems.add(
                    at,
                    match moved {
                        Some(field) => format!("renumbered from {} to {}", was.number, field.number),
                        None => format!("field {} removed", was.number),
                    },
                );
                continue;
            };
            if was.name != is.name {
                self.problems.add(&at, format!("field {} renamed to {}", was.number, is.name));
            }
            self.compare_fields(&at, was, is);
            self.compare_children(&at, old.child(was.number), new.child(was.number));
            match (was.oneof, is.oneof) {
                (Some(a), Some(b)) => {
                    if *forth.entry(a).or_insert(b) != b || *back.entry(b).or_insert(a) != a {
                        self.problems.add(&at, "moved to another oneof");
                    }
                }
                (None, Some(_)) => self.problems.add(&at, "moved into a oneof"),
                (Some(_), None) => self.problems.add(&at, "moved out of its oneof"),
                (None, None) => {}
            }
        }
    }

    fn compare_fields(&mut self, at: &str, was: &Field, is: &Field) {
        match (was.kind, is.kind) {
            // Types are told apart by what they hold; what differs is reported where it stands.
            (Kind::Message(was), Kind::Message(is)) => self.messages.add(was, is),
            (Kind::Enum(was), Kind::Enum(is)) => self.enums.add(was, is),
            (a, b) if a != b => self.problems.add(at, format!("retyped from {} to {}", a.word(), b.word())),
            _ => {}
        }
        if was.shape != is.shape {
            self.problems.add(at, format!("changed from {} to {}", shape_words(was.shape), shape_words(is.shape)));
        }
        if was.access != is.access {
            self.problems.add(at, format!("access changed from {} to {}", was.access, is.access));
        }
    }

    fn compare_children(&mut self, at: &str, was: Option<&ChildField>, is: Option<&ChildField>) {
        match (was, is) {
            (Some(was), Some(is)) if was.kind != is.kind => {
                self.problems.add(at, format!("child_node changed from {} to {}", child_words(&was.kind), child_words(&is.kind)));
            }
            (Some(_), None) => self.problems.add(at, "moved out of child_node: its nodes would become data"),
            (None, Some(_)) => self.problems.add(at, "moved into child_node: its data would become nodes"),
            _ => {}
        }
    }

    fn compare_enums(&mut self, old: EnumId, new: EnumId) {
        let (old, new) = (self.old.enum_type(old), self.new.enum_type(new));
        for (number, name) in &old.values {
            if new.values.binary_search_by(|(n, v)| (*n, v.as_str()).cmp(&(*number, name.as_str()))).is_ok() {
                continue;
            }
            let at = format!("{}.{name}", old.full_name);
            let reason = match new.values.iter().find(|(_, other)| other == name) {
                Some((other, _)) => format!("enum value renumbered from {number} to {other}"),
                None if new.declares(*number) => format!("enum value {number} renamed"),
                None => format!("enum value {number} removed"),
            };
            self.problems.add(at, reason);
        }
    }
}

fn shape_words(shape: Shape) -> &'static str {
    match shape {
        Shape::Implicit => "a singular field without presence",
        Shape::Presence => "a singular field with presence",
        Shape::Repeated => "repeated",
        Shape::Map => "a map",
    }
}

fn child_words(kind: &ChildKind) -> String {
    match kind {
        ChildKind::Single => "a single child".to_owned(),
        ChildKind::List => "a list without keys".to_owned(),
        ChildKind::Keyed(key) => format!("a container keyed by {} = {}", key.name, key.number),
    }
}
