//! Changes to bytes.

use rand::{Rng as _, RngCore as _};

pub type Rng = rand::rngs::SmallRng;

/// Numbers at which something ends.
const EDGES: [u64; 19] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x3fff,
    0x4000,
    0x7fff,
    0xffff,
    0x10000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// One of the numbers at which something ends, or one beside it.
pub fn edge(rng: &mut Rng) -> u64 {
    let edge = EDGES[rng.random_range(0..EDGES.len())];
    match rng.random_range(0..4) {
        0 => edge.wrapping_add(1),
        1 => edge.wrapping_sub(1),
        _ => edge,
    }
}

/// A part of `bytes`, seldom a long one.
fn part(rng: &mut Rng, length: usize) -> std::ops::Range<usize> {
    let from = rng.random_range(0..=length);
    let most = if rng.random_ratio(1, 4) {
        length - from
    } else {
        (length - from).min(12)
    };
    from..from + rng.random_range(0..=most)
}

/// One change.
pub fn bytes(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>]) {
    let length = input.len();
    match rng.random_range(0..16) {
        0 | 1 if length > 0 => input[rng.random_range(0..length)] ^= 1 << rng.random_range(0..8),
        2 if length > 0 => input[rng.random_range(0..length)] = edge(rng) as u8,
        3 if length > 0 => input[rng.random_range(0..length)] = rng.random(),
        4 if length > 0 => {
            let at = rng.random_range(0..length);
            input[at] = if rng.random() {
                input[at].wrapping_add(1)
            } else {
                input[at].wrapping_sub(1)
            };
        }
        5 => {
            let mut random = vec![0; rng.random_range(1..9)];
            rng.fill_bytes(&mut random);
            put(rng, input, &random);
        }
        6 => drop(input.drain(part(rng, length))),
        7 => input.truncate(rng.random_range(0..=length)),
        // The same again, sometimes very often: what is nested or repeated goes deep and long this way.
        8 => {
            let range = part(rng, length);
            let times = if rng.random_ratio(1, 8) {
                1 << rng.random_range(2..12)
            } else {
                1
            };
            let more = input[range.clone()].repeat(times);
            if more.len() + length <= super::LONGEST {
                input.splice(range.end..range.end, more);
            }
        }
        9 | 10 if !words.is_empty() => {
            let word = &words[rng.random_range(0..words.len())];
            put(rng, input, word);
        }
        11 => {
            let range = part(rng, other.len());
            put(rng, input, &other[range]);
        }
        // The beginning of one and the end of another.
        12 => {
            input.truncate(rng.random_range(0..=length));
            input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
        13 => fixed(rng, input),
        14 => varint(rng, input),
        _ => digits(rng, input),
    }
}

/// Inserts, or writes over what is there.
fn put(rng: &mut Rng, input: &mut Vec<u8>, piece: &[u8]) {
    let at = rng.random_range(0..=input.len());
    let over = if rng.random() {
        piece.len().min(input.len() - at)
    } else {
        0
    };
    input.splice(at..at + over, piece.iter().copied());
}

/// A number of fixed width.
fn fixed(rng: &mut Rng, input: &mut [u8]) {
    let width = 1 << rng.random_range(0..4);
    if input.len() < width {
        return;
    }
    let at = rng.random_range(0..=input.len() - width);
    let field = &mut input[at..at + width];
    let old = field.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let new = match rng.random_range(0..4) {
        0 => old.wrapping_add(rng.random_range(1..4)),
        1 => old.wrapping_sub(rng.random_range(1..4)),
        _ => edge(rng),
    };
    field.copy_from_slice(&new.to_be_bytes()[8 - width..]);
    if rng.random_ratio(1, 4) {
        field.reverse();
    }
}

/// Whatever stands there as a varint, by another number, at times in more bytes than it needs.
fn varint(rng: &mut Rng, input: &mut Vec<u8>) {
    if input.is_empty() {
        return;
    }
    let at = rng.random_range(0..input.len());
    let length = input[at..].iter().take(9).take_while(|byte| **byte >= 0x80).count() + 1;
    let end = input.len().min(at + length);
    let old = input[at..end]
        .iter()
        .rev()
        .fold(0u64, |number, byte| number << 7 | u64::from(byte & 0x7f));
    let new = match rng.random_range(0..4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => edge(rng),
        _ => rng.random_range(0..64),
    };
    let mut written = Vec::new();
    super::proto::put_varint(&mut written, new);
    if rng.random_ratio(1, 8) {
        *written.last_mut().expect("a varint has a byte") |= 0x80;
        written.push(0);
    }
    input.splice(at..end, written);
}

/// A number in a text.
fn digits(rng: &mut Rng, input: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..input.len())
        .filter(|at| input[*at].is_ascii_digit() && (*at == 0 || !input[at - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let at = starts[rng.random_range(0..starts.len())];
    let end = at + input[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = match rng.random_range(0..8) {
        0 => format!("-{}", edge(rng)),
        1 => format!("{}.5e{}", edge(rng), rng.random_range(0..400)),
        2 => format!("0{}", edge(rng)),
        _ => edge(rng).to_string(),
    };
    input.splice(at..end, number.into_bytes());
}
