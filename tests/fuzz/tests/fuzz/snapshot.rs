//! A snapshot of another replica. An input is the stream itself, or its parts as a protobuf message, which are then framed with every
//! checksum right, and with the header that goes with its state: what is left is whatever a liar cannot make right.

use crate::support::*;
use bytes::Bytes;
use confold_log::memory::MemoryLog;
use confold_model::event::{Body, RetentionPolicy};
use confold_model::ids::{Hash, Time};
use confold_model::state::State;
use confold_replica::snapshot::{export, import};
use confold_replica::{Begin, Housekeeping, Options, Proposal, Replica, begin};
use confold_store::Store;
use confold_store::memory::MemoryStore;
use confold_test_fuzz::proto::put_varint;
use confold_test_fuzz::{Answer, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const MAGIC: &[u8] = b"CONFOLDS\0\0";
const HEADER: u8 = 1;
const STATE: u8 = 2;
const OBJECTS: u8 = 4;

/// A small store with history, as a replica gives it away.
fn taken() -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let log = MemoryLog::new([7; 16]);
        let clock = Arc::new(AtomicI64::new(1_000));
        log.set_clock(Time(1_000));
        let begun = Begin {
            log_id: Some([5; 16]),
            ..Begin::default()
        };
        assert!(begin(&log, "network", &begun).unwrap());
        let now = clock.clone();
        let options = Options {
            housekeeping: Housekeeping::ByHand,
            clock: Arc::new(move || Time(now.load(SeqCst))),
            read_wait: Duration::from_millis(20),
            close_log: false,
            ..Options::default()
        };
        let handle = Replica::open(Arc::new(log.clone()), Arc::new(MemoryStore::new()), options).unwrap();
        tokio::time::timeout(SOON, handle.ready()).await.unwrap();
        let small = crate::model::small_schema();
        let bodies = [
            Body::Retention(RetentionPolicy {
                keep_all: true,
                ..RetentionPolicy::default()
            }),
            Body::Schema {
                descriptor_set: small.into(),
                root_message: "t.Root".into(),
            },
            crate::model::put(b"\x0a\x01a\x12\x06\x0a\x01b\x12\x01c"),
            Body::Tag {
                name: "one".into(),
                revision: confold_model::ids::Revision(1),
            },
            crate::model::put(b"\x0a\x01b"),
        ];
        for body in bodies {
            handle.propose(Proposal::new(body), SOON).await.unwrap();
        }
        for time in 1..5 {
            clock.store(time * 10_000_000, SeqCst);
            log.set_clock(Time(time * 10_000_000));
            handle.keep_house();
            handle.fence(SOON).await.unwrap();
        }
        let bytes: Vec<u8> = export(&handle)
            .unwrap()
            .map(|piece| piece.unwrap())
            .collect::<Vec<_>>()
            .concat();
        handle.shutdown(SOON).await.unwrap();
        bytes
    })
}

/// Kind and bytes of each part but the last.
fn parts(stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut parts, mut rest) = (Vec::new(), &stream[MAGIC.len()..]);
    while let [kind, a, b, c, d, tail @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if *kind != 0xff {
            parts.push((*kind, tail[..length].to_vec()));
        }
        rest = &tail[length + 16..];
    }
    parts
}

fn framed(parts: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut all = Hash::ZERO;
    let mut out = Vec::new();
    let mut add = |all: &mut Hash, piece: &[u8]| {
        *all = Hash::of(&[all.0, Hash::of(piece).0].concat());
        out.extend_from_slice(piece);
    };
    let part = |kind: u8, bytes: &[u8]| {
        let head = [&[kind][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat();
        let check = Hash::of(&head);
        [&head[..], &check.0[..16]].concat()
    };
    add(&mut all, MAGIC);
    for (kind, bytes) in parts {
        add(&mut all, &part(*kind, bytes));
    }
    let end = part(0xff, &all.0);
    add(&mut all, &end);
    out
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn take_sized<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (length, tail) = rest.split_first_chunk().unwrap();
    let (bytes, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
    *rest = tail;
    bytes
}

fn field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The parts as a message: field number is the kind; rows of the state and objects are fields in it.
fn message(parts: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, bytes) in parts {
        let (mut inner, mut rest) = (Vec::new(), &bytes[..]);
        match *kind {
            STATE => {
                while let Some((table, tail)) = rest.split_first_chunk::<2>() {
                    rest = tail;
                    let mut row = Vec::new();
                    field(&mut row, 1, table);
                    field(&mut row, 2, take_sized(&mut rest));
                    field(&mut row, 3, take_sized(&mut rest));
                    field(&mut inner, 1, &row);
                }
            }
            OBJECTS => {
                while !rest.is_empty() {
                    field(&mut inner, 1, take_sized(&mut rest));
                }
            }
            _ => inner = bytes.clone(),
        }
        field(&mut out, u64::from(*kind), &inner);
    }
    out
}

/// Fields of bytes, as far as there are any.
fn fields(bytes: &[u8]) -> Vec<(u32, &[u8])> {
    use confold_model::wire_bytes::{Cursor, Raw};
    let (mut cursor, mut fields) = (Cursor::new(bytes), Vec::new());
    while let Ok(Some(field)) = cursor.field::<false>() {
        if let Raw::Bytes(bytes) = field.value {
            fields.push((field.number, bytes));
        }
    }
    fields
}

fn stream(input: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    for (kind, bytes) in fields(input) {
        let kind = u8::try_from(kind).unwrap_or(0xff);
        let body = match kind {
            STATE => fields(bytes)
                .into_iter()
                .flat_map(|(_, row)| {
                    let row = fields(row);
                    let of = |number: u32| {
                        row.iter()
                            .find(|(found, _)| *found == number)
                            .map_or(&b""[..], |(_, bytes)| bytes)
                    };
                    let table: [u8; 2] = of(1).try_into().unwrap_or([0, 1]);
                    [&table[..], &sized(of(2)), &sized(of(3))].concat()
                })
                .collect(),
            OBJECTS => fields(bytes)
                .into_iter()
                .flat_map(|(_, object)| sized(object))
                .collect(),
            _ => bytes.to_vec(),
        };
        parts.push((kind, body));
    }
    if let Some(state) = parts
        .iter()
        .find(|(kind, _)| *kind == STATE)
        .and_then(|(_, rows)| state(rows))
    {
        parts
            .iter_mut()
            .filter(|(kind, _)| *kind == HEADER)
            .for_each(|(_, header)| agree(header, state.clone()));
    }
    framed(&parts)
}

fn state(mut rows: &[u8]) -> Option<State> {
    let mut read = Vec::new();
    while let Some((table, tail)) = rows.split_first_chunk::<2>() {
        rows = tail;
        read.push((
            u16::from_be_bytes(*table),
            take_sized(&mut rows).to_vec(),
            take_sized(&mut rows).to_vec(),
        ));
    }
    State::load(read).ok()
}

/// What a header says of the state, made true.
fn agree(header: &mut [u8], mut state: State) {
    let Some(at) = header.len().checked_sub(8 + 8 + 5 * 32 + 8 + 8) else {
        return;
    };
    let said = &mut header[at..];
    let position = state.position().unwrap_or_default();
    said[..8].copy_from_slice(&position.0.to_be_bytes());
    said[8..16].copy_from_slice(&state.time().0.to_be_bytes());
    for (index, hash) in [
        (1, state.digest()),
        (2, state.chain()),
        (3, state.hash()),
        (4, state.root()),
    ] {
        said[16 + 32 * index..][..32].copy_from_slice(&hash.0);
    }
    said[176..184].copy_from_slice(&state.revision().0.to_be_bytes());
    said[184..192].copy_from_slice(&state.floor().0.to_be_bytes());
}

// A refused one leaves no store behind.
#[test]
fn a_snapshot_is_taken_in_whole_or_is_refused() {
    let check = |input: &[u8]| {
        let bytes = if input.starts_with(b"CONFOLDS") {
            input.to_vec()
        } else {
            stream(input)
        };
        let store = MemoryStore::new();
        let pieces = bytes.chunks(700).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        // Nobody asks a log here, which would refuse all but the true header.
        let taken = import(pieces, &store, |_| Ok(()));
        match &taken {
            Ok(imported) => assert_eq!(store.head().map(|head| head.applied), Some(imported.header.position)),
            Err(_) => assert_eq!(store.head(), None),
        }
        Answer::of(taken, |_| "taken in".to_owned())
    };
    let whole = taken();
    let seeds = vec![whole.clone(), message(&parts(&whole))];
    assert_eq!(stream(&seeds[1]), whole);
    let target = Target {
        seeds,
        proto: true,
        memory: (8 << 20, 512),
        short: 4_000,
        ..Target::new("snapshot", &check)
    };
    fuzz(&target, 20);
}
