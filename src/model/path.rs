//! A path names a node or a container: child fields, and keys where a keyed container's element is meant.
//!
//! As text it is `/field/key/field/…`: `/devices/olt-1/ports/3`, and `/` for the root. In a key the letters, digits and `-._~` stand for
//! themselves, every other byte is `%XX` in upper-case hex, and so are the dots of the keys `.` and `..`. A path therefore has one
//! text, and `:` and `*` never occur in it. Reading accepts exactly that text, with any number of leading slashes and one at the end.

use crate::subtree::Subtree;
use crate::code::{Code, Rejection};
use crate::keys::MAX_KEY_BYTES;
use crate::schema::{ChildField, ChildKind, KeyField, Kind, MAX_DEPTH, Schema, TypeId};
use std::fmt::Write;

/// Limit on a path's text.
pub const MAX_PATH_BYTES: usize = 4_096;

/// One step. Without a key it is a single child or, as a last step only, a container itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Step {
    pub field: u32,
    /// Key bytes as in docs/formats.md 2, never empty.
    pub key: Option<Box<[u8]>>,
}

/// Steps from the root node. Ordered as the tree is walked: by field number, then by key bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Path {
    pub steps: Vec<Step>,
}

/// What a path stands for in a schema; whether something is there is the tree's to say.
#[derive(Clone, Copy, Debug)]
pub enum Target<'s> {
    /// `keyed`: the container's field, where the node is an element of one; `None` for the root and for single children.
    Node { ty: TypeId, keyed: Option<&'s ChildField> },
    Container { parent: TypeId, child: &'s ChildField },
}

/// A field of a node's config: `/devices/olt-1:address.port`. Without fields it is the node or container itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldRef {
    pub path: Path,
    /// Field numbers, through singular messages; a mask of one path.
    pub fields: Vec<u32>,
}

impl Path {
    pub fn root() -> Path {
        Path::default()
    }

    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// The path one step up; `None` at the root. Above an element this is the node that holds the container.
    pub fn parent(&self) -> Option<Path> {
        let (_, above) = self.steps.split_last()?;
        Some(Path { steps: above.to_vec() })
    }

    pub fn child(&self, step: Step) -> Path {
        let mut steps = Vec::with_capacity(self.steps.len() + 1);
        steps.extend_from_slice(&self.steps);
        steps.push(step);
        Path { steps }
    }

    /// Whether this path is `other` or lies below it. An element lies below its container.
    pub fn starts_with(&self, other: &Path) -> bool {
        let Some((last, above)) = other.steps.split_last() else { return true };
        self.steps.starts_with(above)
            && self.steps.get(above.len()).is_some_and(|step| step == last || (last.key.is_none() && step.field == last.field))
    }

    /// How deep the node's message is nested, 1 at the root; for a container, its elements' messages.
    pub fn depth(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

impl Step {
    pub fn single(field: u32) -> Step {
        Step { field, key: None }
    }

    pub fn keyed(field: u32, key: impl Into<Box<[u8]>>) -> Step {
        Step { field, key: Some(key.into()) }
    }
}

impl Schema {
    /// Reads a path's text.
    ///
    /// `INVALID_PATH` for text that is not canonical or an integer key that is none, `NOT_FOUND` for a name that is no child field,
    /// `NOT_KEYED` for an index into a list, `LIMIT` for too long a key or path, or one too deep.
    pub fn parse_path(&self, text: &str) -> Result<Path, Rejection> {
        let relative = text.trim_start_matches('/');
        let relative = relative.strip_suffix('/').unwrap_or(relative);
        if relative.len() >= MAX_PATH_BYTES {
            return Err(too_long(relative.len() + 1));
        }
        let mut path = Path::root();
        let mut ty = self.root();
        let mut segments = if relative.is_empty() { None } else { Some(relative.split('/')) };
        while let Some(segment) = segments.as_mut().and_then(Iterator::next) {
            let name = check_segment(text, segment)?;
            let child = self.message(ty).child_by_name(name).ok_or_else(|| self.no_such_child(ty, name).at(path.clone()))?;
            if path.depth() >= MAX_DEPTH {
                return Err(too_deep());
            }
            let key = match &child.kind {
                ChildKind::Single => None,
                ChildKind::List => match segments.as_mut().and_then(Iterator::next) {
                    None => None,
                    Some(_) => return Err(not_keyed(child).at(path.child(Step::single(child.number)))),
                },
                ChildKind::Keyed(key) => match segments.as_mut().and_then(Iterator::next) {
                    None => None,
                    Some(segment) => {
                        let decoded = decode(text, check_segment(text, segment)?)?;
                        Some(key.parse(&decoded).map_err(|rejection| in_path(text, rejection))?)
                    }
                },
            };
            path.steps.push(Step { field: child.number, key });
            ty = child.message;
        }
        Ok(path)
    }

    /// The one text of a path. Steps that this schema does not know are shown as `#17`, and key bytes that are no key of theirs as `%XX`.
    pub fn print_path(&self, path: &Path) -> String {
        let mut text = String::new();
        self.write_path(path, &mut text);
        if text.is_empty() {
            text.push('/');
        }
        text
    }

    /// Checks each step against the schema and the limits. What comes out says whether the path names a node or a container.
    ///
    /// `NOT_FOUND` for a number that is no child field, `NOT_KEYED` for an index into a list, `NOT_A_CONTAINER` for a key on a single
    /// child, `IS_A_CONTAINER` for a step from a container without a key, `INVALID_PATH` for bytes that are no key, `LIMIT` for too long or too deep.
    pub fn resolve(&self, path: &Path) -> Result<Target<'_>, Rejection> {
        let mut ty = self.root();
        let mut target = Target::Node { ty, keyed: None };
        if path.depth() > MAX_DEPTH {
            return Err(too_deep());
        }
        let mut length = 0;
        for (index, step) in path.steps.iter().enumerate() {
            let here = || Path { steps: path.steps[..=index].to_vec() };
            if let Target::Container { child, .. } = target {
                let text = format!("{} is a container; a step further needs the key of an element", child.name);
                return Err(Rejection::new(Code::IsAContainer, text).at(here()));
            }
            let Some(child) = self.message(ty).child(step.field) else {
                return Err(self.no_such_child(ty, &format!("#{}", step.field)).at(here()));
            };
            length += 1 + child.name.len();
            target = match (&child.kind, &step.key) {
                (ChildKind::Single, None) => Target::Node { ty: child.message, keyed: None },
                (ChildKind::Single, Some(_)) => {
                    let text = format!("{} is a single child and has no keys", child.name);
                    return Err(Rejection::new(Code::NotAContainer, text).at(here()));
                }
                (ChildKind::List | ChildKind::Keyed(_), None) => Target::Container { parent: ty, child },
                (ChildKind::List, Some(_)) => return Err(not_keyed(child).at(here())),
                (ChildKind::Keyed(key), Some(bytes)) => {
                    key.check(bytes).map_err(|rejection| rejection.at(here()))?;
                    length += 1 + key.encoded_len(bytes);
                    Target::Node { ty: child.message, keyed: Some(child) }
                }
            };
            ty = child.message;
        }
        if length > MAX_PATH_BYTES { Err(too_long(length)) } else { Ok(target) }
    }

    /// Reads `PATH` or `PATH:field.sub`. The fields are names of the config, through singular messages; the last may be any stored field.
    pub fn parse_field_ref(&self, text: &str) -> Result<FieldRef, Rejection> {
        let Some((path_text, names)) = text.split_once(':') else {
            return Ok(FieldRef { path: self.parse_path(text)?, fields: Vec::new() });
        };
        let path = self.parse_path(path_text)?;
        let Target::Node { ty, .. } = self.resolve(&path)? else {
            return Err(Rejection::new(Code::IsAContainer, format!("{path_text} is a container; only a node has fields")).at(path));
        };
        let mut fields = Vec::new();
        let mut at = Some(ty);
        for name in names.split('.') {
            let Some(message) = at.map(|ty| self.message(ty)) else {
                let text = format!("{names}: {} is no message and has no field \"{name}\"", self.field_names(ty, &fields));
                return Err(Rejection::new(Code::InvalidPath, text).at(path));
            };
            let Some(field) = message.field_by_name(name) else {
                return Err(Rejection::new(Code::NotFound, format!("{} has no field \"{name}\"", message.full_name)).at(path));
            };
            fields.push(field.number);
            at = match field.kind {
                Kind::Message(inner) => Some(inner),
                _ => None,
            };
        }
        match self.check_mask(ty, std::slice::from_ref(&fields)) {
            Ok(()) => Ok(FieldRef { path, fields }),
            Err(error) => Err(Rejection::from(error).at(path)),
        }
    }

    pub fn print_field_ref(&self, field_ref: &FieldRef) -> String {
        let mut text = self.print_path(&field_ref.path);
        if !field_ref.fields.is_empty() {
            let ty = match self.resolve(&field_ref.path) {
                Ok(Target::Node { ty, .. }) => self.names_below(ty, &field_ref.fields),
                _ => field_ref.fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
            };
            text.push(':');
            text.push_str(&ty);
        }
        text
    }

    /// The length of the longest path text in a subtree whose top node's own path text has `above` bytes (0 for the root): what is
    /// added can be addressed only where this is at most [`MAX_PATH_BYTES`].
    pub fn longest_path(&self, ty: TypeId, subtree: &Subtree<'_>, above: usize) -> usize {
        let mut longest = above;
        for children in &subtree.children {
            let Some(child) = self.message(ty).child(children.field) else { continue };
            let container = above + 1 + child.name.len();
            longest = longest.max(container);
            for (key, element) in &children.entries {
                let length = match &child.kind {
                    ChildKind::Keyed(field) => container + 1 + field.encoded_len(key),
                    // The elements of a list have no path of their own.
                    ChildKind::List => continue,
                    ChildKind::Single => container,
                };
                longest = longest.max(self.longest_path(child.message, element, length));
            }
        }
        longest
    }

    /// The length of a path's text, 0 for the root.
    pub fn path_len(&self, path: &Path) -> usize {
        let mut text = String::new();
        self.write_path(path, &mut text);
        text.len()
    }

    fn write_path(&self, path: &Path, text: &mut String) {
        let mut ty = Some(self.root());
        for step in &path.steps {
            let child = ty.and_then(|ty| self.message(ty).child(step.field));
            text.push('/');
            match child {
                Some(child) => text.push_str(&child.name),
                None => _ = write!(text, "#{}", step.field),
            }
            if let Some(key) = &step.key {
                text.push('/');
                match child.and_then(ChildField::key).and_then(|field| field.text(key)) {
                    Some(key) => encode(&key, text),
                    None => key.iter().for_each(|byte| push_hex(*byte, text)),
                }
            }
            ty = child.map(|child| child.message);
        }
    }

    fn no_such_child(&self, ty: TypeId, name: &str) -> Rejection {
        let message = self.message(ty);
        let known: Vec<&str> = message.children().map(|child| child.name.as_str()).collect();
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        Rejection::new(Code::NotFound, format!("no such child field: {} has no child \"{name}\"; {known}", message.full_name))
    }
}

impl KeyField {
    /// Whether key bytes are a key of this field: `INVALID_PATH`, or `LIMIT` for too many bytes.
    fn check(&self, key: &[u8]) -> Result<(), Rejection> {
        if self.is_key(key) {
            return Ok(());
        }
        if self.kind == Kind::String && key.len() > MAX_KEY_BYTES {
            let text = format!("the key {} has {} bytes; at most {} are allowed", self.name, key.len(), MAX_KEY_BYTES);
            return Err(Rejection::new(Code::Limit, text));
        }
        Err(Rejection::new(Code::InvalidPath, format!("{key:02x?} is no key of {}, which is {}", self.name, self.kind.word())))
    }

    fn encoded_len(&self, key: &[u8]) -> usize {
        match self.kind {
            Kind::String if is_dots(key) => 3 * key.len(),
            Kind::String => key.iter().map(|byte| if is_plain(*byte) { 1 } else { 3 }).sum(),
            _ => self.text(key).map_or(0, |text| text.len()),
        }
    }
}

/// Q18: no empty segment, no `.` and `..`.
fn check_segment<'t>(text: &str, segment: &'t str) -> Result<&'t str, Rejection> {
    let reason = match segment {
        "" => "an empty segment",
        "." | ".." => "a segment of dots; a key like that is written %2E",
        _ => return Ok(segment),
    };
    Err(invalid(text, reason))
}

fn encode(key: &str, text: &mut String) {
    let dots = is_dots(key.as_bytes());
    for byte in key.bytes() {
        if is_plain(byte) && !dots { text.push(char::from(byte)) } else { push_hex(byte, text) }
    }
}

/// Accepts exactly what `encode` writes.
fn decode(text: &str, segment: &str) -> Result<String, Rejection> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => match (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(invalid(text, "% without two upper-case hex digits after it")),
            },
            byte => byte,
        });
    }
    let key = String::from_utf8(bytes).map_err(|_| invalid(text, "a key that is not UTF-8"))?;
    let mut canonical = String::with_capacity(segment.len());
    encode(&key, &mut canonical);
    if canonical == segment {
        return Ok(key);
    }
    Err(invalid(text, &format!("the key \"{segment}\", which is written \"{canonical}\"")))
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn push_hex(byte: u8, text: &mut String) {
    _ = write!(text, "%{byte:02X}");
}

/// The unreserved characters of RFC 3986.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_dots(key: &[u8]) -> bool {
    matches!(key, b"." | b"..")
}

fn invalid(text: &str, what: &str) -> Rejection {
    Rejection::new(Code::InvalidPath, format!("path \"{text}\" has {what}"))
}

fn in_path(text: &str, rejection: Rejection) -> Rejection {
    Rejection { detail: format!("path \"{text}\": {}", rejection.detail), ..rejection }
}

fn too_long(length: usize) -> Rejection {
    Rejection::new(Code::Limit, format!("the path has {length} bytes; at most {MAX_PATH_BYTES} are allowed"))
}

fn too_deep() -> Rejection {
    Rejection::new(Code::Limit, format!("the path leads deeper than {MAX_DEPTH} messages, the root counted"))
}

fn not_keyed(child: &ChildField) -> Rejection {
    Rejection::new(Code::NotKeyed, format!("{} is a list without keys; its elements cannot be addressed, only the whole list", child.name))
}
