//! Changes to protobuf messages as trees of fields: lengths stay right, so the change is seen by whoever reads that field.

use crate::mutate::{Rng, edge};
use rand::Rng as _;

/// Messages inside messages, as far as they are told from text.
const DEEPEST: u32 = 24;

#[derive(Clone)]
enum Content {
    /// Varint and fixed widths, as they are written.
    Scalar(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

#[derive(Clone)]
struct Field {
    number: u64,
    wire_type: u8,
    content: Content,
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn parse(bytes: &[u8], depth: u32) -> Option<Vec<Field>> {
    let (mut at, mut fields) = (0, Vec::new());
    while at < bytes.len() {
        let tag = take_varint(bytes, &mut at)?;
        let (number, wire_type) = (tag >> 3, (tag & 7) as u8);
        if number == 0 {
            return None;
        }
        let from = at;
        let content = match wire_type {
            0 => {
                take_varint(bytes, &mut at)?;
                Content::Scalar(bytes[from..at].to_vec())
            }
            1 | 5 => {
                at += if wire_type == 1 { 8 } else { 4 };
                Content::Scalar(bytes.get(from..at)?.to_vec())
            }
            2 => {
                let length = usize::try_from(take_varint(bytes, &mut at)?).ok()?;
                let part = bytes.get(at..at.checked_add(length)?)?;
                at += length;
                match parse(part, depth + 1) {
                    Some(inner) if !inner.is_empty() && depth < DEEPEST => Content::Message(inner),
                    _ => Content::Bytes(part.to_vec()),
                }
            }
            _ => return None,
        };
        fields.push(Field {
            number,
            wire_type,
            content,
        });
    }
    Some(fields)
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for field in fields {
        put_varint(out, field.number << 3 | u64::from(field.wire_type));
        let mut sized = |bytes: &[u8]| {
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        match &field.content {
            Content::Scalar(bytes) => out.extend_from_slice(bytes),
            Content::Bytes(bytes) => sized(bytes),
            Content::Message(inner) => {
                let mut bytes = Vec::new();
                write(inner, &mut bytes);
                sized(&bytes);
            }
        }
    }
}

/// One change to a field somewhere in the message; none where the input is no message.
pub fn mutate(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let Some(mut fields) = parse(input, 0) else { return };
    let other = parse(other, 0).unwrap_or_default();
    change(rng, &mut fields, &other);
    input.clear();
    write(&fields, input);
}

/// Goes down at random, and changes something where it stops.
fn change(rng: &mut Rng, fields: &mut Vec<Field>, other: &[Field]) {
    if fields.is_empty() {
        fields.extend(pick(rng, other));
        return;
    }
    let at = rng.random_range(0..fields.len());
    if let Content::Message(inner) = &mut fields[at].content
        && rng.random_ratio(3, 4)
    {
        return change(rng, inner, other);
    }
    match rng.random_range(0..10) {
        0 => drop(fields.remove(at)),
        1 => fields.insert(at, fields[at].clone()),
        2 => {
            let to = rng.random_range(0..fields.len());
            fields.swap(at, to);
        }
        3 => {
            fields[at].number = if rng.random() {
                rng.random_range(1..40)
            } else {
                (edge(rng) & 0x1fff_ffff).max(1)
            }
        }
        4 => {
            if let Some(field) = pick(rng, other) {
                fields.insert(at, field);
            }
        }
        // The message inside itself.
        5 => {
            if let Content::Message(inner) = &mut fields[at].content {
                let copy = inner.clone();
                let last = inner.len() - 1;
                inner[last] = Field {
                    number: inner[last].number,
                    wire_type: 2,
                    content: Content::Message(copy),
                };
            }
        }
        6 => {
            let text: &[u8] = [
                &b""[..],
                b"/",
                b"a",
                b"\xff\xfe",
                b"\0",
                "ü".as_bytes(),
                b"0123456789abcdef",
            ][rng.random_range(0..7)];
            fields[at] = Field {
                number: fields[at].number,
                wire_type: 2,
                content: Content::Bytes(text.to_vec()),
            };
        }
        _ => change_content(rng, &mut fields[at]),
    }
}

fn change_content(rng: &mut Rng, field: &mut Field) {
    match &mut field.content {
        Content::Scalar(bytes) => {
            let mut written = Vec::new();
            let small = rng.random_ratio(1, 3);
            put_varint(&mut written, if small { rng.random_range(0..20) } else { edge(rng) });
            if field.wire_type == 0 {
                *bytes = written;
            } else if let Some(last) = bytes.last_mut() {
                *last ^= 0x80;
            }
        }
        Content::Bytes(bytes) if bytes.is_empty() => bytes.push(rng.random()),
        Content::Bytes(bytes) => {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, bytes[at]),
                2 => bytes[at] ^= 1 << rng.random_range(0..8),
                _ => bytes[at] = rng.random(),
            }
        }
        Content::Message(inner) => inner.reverse(),
    }
}

/// A field of the other message, from any depth.
fn pick(rng: &mut Rng, other: &[Field]) -> Option<Field> {
    let mut fields = other;
    loop {
        let field = fields.get(rng.random_range(0..fields.len().max(1)))?;
        match &field.content {
            Content::Message(inner) if rng.random() => fields = inner,
            _ => return Some(field.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn a_message_is_taken_apart_and_put_together_and_stays_one_whatever_is_changed() {
        let message = b"\x08\x96\x01\x12\x0a\x0a\x03abc\x15\x01\x02\x03\x04\x1a\x00";
        let mut whole = Vec::new();
        write(&parse(message, 0).unwrap(), &mut whole);
        assert_eq!(whole, message);
        assert!(parse(b"\x08", 0).is_none());
        let mut rng = Rng::seed_from_u64(1);
        let mut changed = 0;
        for _ in 0..1000 {
            let mut input = message.to_vec();
            mutate(&mut rng, &mut input, message);
            assert!(parse(&input, 0).is_some(), "{}", input.escape_ascii());
            changed += usize::from(input != message);
        }
        assert!(changed > 800, "{changed}");
    }
}
