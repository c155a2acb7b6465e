//! Golden refusals, written by hand from docs/formats.md 1, 3.6, 4.1 and 4.2: what each case is, its bytes, what becomes of it.

use crate::naive::{data_hash, hash, item, num, text, varint};
use crate::support::{Envelope, LOG_ID};
use confold_model::event::Body;
use serde_json::{Value, json};

const H: [u8; 32] = [7; 32];

fn fixed64(field: u32, bits: u64) -> Vec<u8> {
    [varint(u64::from(field) * 8 + 1), bits.to_le_bytes().to_vec()].concat()
}

fn fixed32(field: u32, bits: u32) -> Vec<u8> {
    [varint(u64::from(field) * 8 + 5), bits.to_le_bytes().to_vec()].concat()
}

/// A number that is written whether or not it is 0.
fn raw(field: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(field) * 8), varint(value)].concat()
}

/// Values of `vectors.Root` from `vectors.proto`: the code, or the hashes of one that is taken.
pub fn values() -> Value {
    let negative = -1i64 as u64;
    let entry = |key: &[u8], value: &[u8]| item(23, &[key, value].concat());
    let element = |id: &str| item(100, &text(1, id.as_bytes()));
    let nested = |levels: usize| (0..levels).fold(Vec::new(), |inner, _| item(3, &inner));
    // Root is 1, `plain` 2: 62 more below it are 64.
    let deep = |levels: usize| item(17, &nested(levels));
    let sound: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("float NaN", fixed32(11, 0x7fc0_0000)),
        ("float NaN, other bits", fixed32(11, 0x7fc0_0001)),
        ("float NaN, signalling and negative", fixed32(11, 0xff80_0001)),
        ("float -0.0", fixed32(11, 0x8000_0000)),
        ("float, the smallest above 0", fixed32(11, 1)),
        ("double NaN", fixed64(12, 0x7ff8_0000_0000_0000)),
        ("double NaN, other bits", fixed64(12, 0x7ff8_0000_dead_beef)),
        (
            "double NaN, signalling and negative",
            fixed64(12, 0xfff0_0000_0000_0001),
        ),
        ("double -0.0", fixed64(12, 0x8000_0000_0000_0000)),
        ("double infinity", fixed64(12, 0x7ff0_0000_0000_0000)),
        ("int32 -1 has ten bytes", raw(3, negative)),
        ("enum -3 has ten bytes", raw(14, -3i64 as u64)),
        ("optional at its default", raw(15, 0)),
        ("optional text, empty", item(16, b"")),
        ("message, empty", item(17, b"")),
        ("oneof member at its default", item(25, b"")),
        (
            "map with the empty key first",
            [
                entry(&item(1, b""), &item(2, b"v")),
                entry(&item(1, b"a"), &item(2, b"")),
            ]
            .concat(),
        ),
        (
            "map, false before true",
            [
                item(24, &[raw(1, 0), raw(2, 5)].concat()),
                item(24, &[raw(1, 1), raw(2, 0)].concat()),
            ]
            .concat(),
        ),
        (
            "map, -1 before 0",
            [
                item(22, &[raw(1, negative), item(2, b"")].concat()),
                item(22, &[raw(1, 0), item(2, b"")].concat()),
            ]
            .concat(),
        ),
        ("packed numbers, default ones among them", item(20, &[0, 1, 0])),
        ("packed, whatever the option says", item(21, &[3, 4])),
        (
            "repeated text, empty and twice",
            [item(19, b""), item(19, b"")].concat(),
        ),
        (
            "Any, its bytes opaque",
            item(28, &[text(1, b"t"), text(2, &[0xff])].concat()),
        ),
        ("a tag of two bytes", text(2047, b"far")),
        ("64 messages deep", deep(62)),
    ];
    let refused: Vec<(&str, Vec<u8>, &str)> = vec![
        ("field number 0", vec![0x02, 0], "NOT_CANONICAL"),
        ("a group", vec![0x0b, 0x0c], "NOT_CANONICAL"),
        ("wrong wire type", raw(1, 5), "NOT_CANONICAL"),
        ("unknown field", raw(99, 5), "UNKNOWN_FIELD"),
        ("unknown field below", item(17, &raw(9, 1)), "UNKNOWN_FIELD"),
        ("cut short", vec![0x0a, 5, b'a'], "NOT_CANONICAL"),
        ("cut in a tag", vec![0x80], "NOT_CANONICAL"),
        ("tag that is not minimal", vec![0x8a, 0x00, 1, b'a'], "NOT_CANONICAL"),
        (
            "length that is not minimal",
            vec![0x0a, 0x81, 0x00, b'a'],
            "NOT_CANONICAL",
        ),
        ("value that is not minimal", vec![0x18, 0x81, 0x00], "NOT_CANONICAL"),
        (
            "varint of more than 64 bits",
            [vec![0x20], vec![0xff; 9], vec![0x02]].concat(),
            "NOT_CANONICAL",
        ),
        (
            "fields out of order",
            [raw(3, 1), text(1, b"a")].concat(),
            "NOT_CANONICAL",
        ),
        ("field twice", [text(1, b"a"), text(1, b"b")].concat(), "NOT_CANONICAL"),
        ("default written out: text", item(1, b""), "NOT_CANONICAL"),
        ("default written out: number", raw(3, 0), "NOT_CANONICAL"),
        ("default written out: +0.0", fixed64(12, 0), "NOT_CANONICAL"),
        ("bool 2", raw(2, 2), "NOT_CANONICAL"),
        ("int32 of 2^31", raw(3, 1 << 31), "NOT_CANONICAL"),
        ("int32 -1 in five bytes", raw(3, 0xffff_ffff), "NOT_CANONICAL"),
        ("uint32 of 2^32", raw(5, 1 << 32), "NOT_CANONICAL"),
        ("sint32 of 33 bits", raw(7, 1 << 32), "NOT_CANONICAL"),
        ("enum number that is not declared", raw(14, 2), "NOT_CANONICAL"),
        ("text that is not UTF-8", item(1, &[0xff]), "NOT_CANONICAL"),
        ("text with a surrogate", item(1, &[0xed, 0xa0, 0x80]), "NOT_CANONICAL"),
        (
            "two members of a oneof",
            [text(25, b"a"), raw(26, 1)].concat(),
            "NOT_CANONICAL",
        ),
        ("repeated numbers, not packed", raw(20, 1), "NOT_CANONICAL"),
        (
            "repeated numbers, packed in two pieces",
            [item(20, &[1]), item(20, &[2])].concat(),
            "NOT_CANONICAL",
        ),
        ("repeated numbers, packed and empty", item(20, b""), "NOT_CANONICAL"),
        ("map entry without its key", entry(b"", &item(2, b"v")), "NOT_CANONICAL"),
        (
            "map entry without its value",
            entry(&item(1, b"a"), b""),
            "NOT_CANONICAL",
        ),
        (
            "map entry, value before key",
            entry(&item(2, b"v"), &item(1, b"a")),
            "NOT_CANONICAL",
        ),
        (
            "map key twice",
            [
                entry(&item(1, b"a"), &item(2, b"")),
                entry(&item(1, b"a"), &item(2, b"")),
            ]
            .concat(),
            "NOT_CANONICAL",
        ),
        (
            "map keys out of order",
            [
                entry(&item(1, b"b"), &item(2, b"")),
                entry(&item(1, b"a"), &item(2, b"")),
            ]
            .concat(),
            "NOT_CANONICAL",
        ),
        (
            "a third field in a map entry",
            entry(&item(1, b"a"), &[item(2, b"v"), raw(3, 1)].concat()),
            "UNKNOWN_FIELD",
        ),
        ("REAL_TIME field", text(29, b"now"), "NOT_CANONICAL"),
        (
            "REAL_TIME field of an element",
            item(100, &[text(1, b"a"), text(6, b"now")].concat()),
            "NOT_CANONICAL",
        ),
        ("single child at its defaults", item(105, b""), "NOT_CANONICAL"),
        ("element without a key", item(100, &text(2, b"text")), "INVALID_PATH"),
        ("key of 257 bytes", element(&"k".repeat(257)), "LIMIT"),
        (
            "two elements with one key",
            [element("a"), element("a")].concat(),
            "ALREADY_EXISTS",
        ),
        (
            "elements out of key order",
            [element("b"), element("a")].concat(),
            "NOT_CANONICAL",
        ),
        (
            "twin keys, then a breach of the encoding",
            [element("a"), element("a"), element("")].concat(),
            "INVALID_PATH",
        ),
        (
            "twin keys, then bytes that end too early",
            [element("a"), element("a"), vec![0xa2]].concat(),
            "NOT_CANONICAL",
        ),
        ("65 messages deep", deep(63), "LIMIT"),
        (
            "65 messages deep, then a breach of the encoding",
            [deep(63), text(1, b"a")].concat(),
            "NOT_CANONICAL",
        ),
    ];
    let sound = sound.into_iter().map(|(name, value)| {
        let node = [&[1, 0][..], &varint(value.len() as u64), &value, &[0]].concat();
        json!({
            "name": name,
            "value": hex::encode(&value),
            "code": null,
            "data_hash": hex::encode(data_hash(&value)),
            "root": hex::encode(hash(&[&node])),
        })
    });
    let refused = refused
        .into_iter()
        .map(|(name, value, code)| json!({ "name": name, "value": hex::encode(value), "code": code }));
    sound.chain(refused).collect()
}

/// Stored objects, looked at alone.
pub fn objects() -> Value {
    let bucket = |keys: &[&[u8]]| {
        let entries: Vec<u8> = keys
            .iter()
            .flat_map(|key| [varint(key.len() as u64), key.to_vec(), H.to_vec()].concat())
            .collect();
        [vec![3], varint(keys.len() as u64), entries].concat()
    };
    // Without prefix, branches for the first nibbles.
    let inner = |own: bool, counts: &[u8]| {
        let own = if own { [vec![1], H.to_vec()].concat() } else { vec![0] };
        let bitmap = ((1u32 << counts.len()) - 1) as u16;
        [
            vec![2, 0],
            own,
            bitmap.to_be_bytes().to_vec(),
            counts.to_vec(),
            H.repeat(counts.len()),
        ]
        .concat()
    };
    let inline = |length: usize| [vec![1, 0], varint(length as u64), vec![9; length], vec![0]].concat();
    let seventeen: Vec<[u8; 1]> = (0..17).map(|key| [key]).collect();
    let seventeen: Vec<&[u8]> = seventeen.iter().map(|key| &key[..]).collect();
    let empty_node = hash(&[&[1, 0, 0, 0]]);
    let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("the empty node", vec![1, 0, 0, 0], None),
        ("node with a child", [vec![1, 0, 0, 1, 5], H.to_vec()].concat(), None),
        (
            "node with its config in a blob",
            [vec![1, 1], H.to_vec(), vec![0]].concat(),
            None,
        ),
        ("node, config of 1,024 bytes", inline(1024), None),
        ("smallest blob", [vec![4], vec![9; 1025]].concat(), None),
        ("bucket of one", bucket(&[b"a"]), None),
        ("bucket of sixteen", bucket(&seventeen[..16]), None),
        ("key of 256 bytes", bucket(&[&[1; 256]]), None),
        ("inner of seventeen", inner(false, &[16, 1]), None),
        ("inner, its own entry counts", inner(true, &[16]), None),
        ("no bytes", vec![], Some("Empty")),
        ("kind 0", vec![0], Some("Kind")),
        ("kind of a log digest", vec![0x10], Some("Kind")),
        (
            "blob of 1,024 bytes",
            [vec![4], vec![9; 1024]].concat(),
            Some("SmallBlob"),
        ),
        ("node, config of 1,025 bytes", inline(1025), Some("LargeConfig")),
        ("node, tag byte 2", vec![1, 2, 0, 0], Some("Tag")),
        ("node, config cut", vec![1, 0, 3, 1, 2], Some("Truncated")),
        ("node, a byte after its end", vec![1, 0, 0, 0, 0], Some("Trailing")),
        (
            "node, length that is not minimal",
            vec![1, 0, 0x80, 0, 0],
            Some("Varint"),
        ),
        (
            "node, field number 0",
            [vec![1, 0, 0, 1, 0], H.to_vec()].concat(),
            Some("FieldNumber"),
        ),
        (
            "node, field number 2^29",
            [vec![1, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 2], H.to_vec()].concat(),
            Some("FieldNumber"),
        ),
        (
            "node, a field twice",
            [vec![1, 0, 0, 2, 5], H.to_vec(), vec![5], H.to_vec()].concat(),
            Some("EntryOrder"),
        ),
        (
            "node, fields descending",
            [vec![1, 0, 0, 2, 5], H.to_vec(), vec![4], H.to_vec()].concat(),
            Some("EntryOrder"),
        ),
        (
            "node, a default child",
            [vec![1, 0, 0, 1, 5], empty_node.to_vec()].concat(),
            Some("DefaultEntry"),
        ),
        ("bucket of none", bucket(&[]), Some("BucketKeys")),
        ("bucket of seventeen", bucket(&seventeen), Some("BucketKeys")),
        ("bucket, empty key", bucket(&[b""]), Some("KeyLength")),
        ("bucket, key of 257 bytes", bucket(&[&[1; 257]]), Some("KeyLength")),
        ("bucket, a key twice", bucket(&[b"a", b"a"]), Some("KeyOrder")),
        ("bucket, keys descending", bucket(&[b"b", b"a"]), Some("KeyOrder")),
        ("inner of sixteen", inner(false, &[15, 1]), Some("InnerKeys")),
        (
            "inner of sixteen with its own entry",
            inner(true, &[15]),
            Some("InnerKeys"),
        ),
        ("inner with one branch alone", inner(false, &[17]), Some("OneBranch")),
        ("inner, a count of 0", inner(false, &[0, 17]), Some("ZeroCount")),
        (
            "inner, padding that is not 0",
            [vec![2, 1, 0x51, 0, 0, 3, 16, 1], H.to_vec(), H.to_vec()].concat(),
            Some("Padding"),
        ),
        ("inner, 513 skipped nibbles", vec![2, 0x81, 4], Some("PrefixLength")),
        (
            "inner, counts of more than 64 bits",
            [vec![2, 0, 0, 0, 3], vec![0xff; 9], vec![1, 1], H.to_vec(), H.to_vec()].concat(),
            Some("CountOverflow"),
        ),
    ];
    cases
        .into_iter()
        .map(|(name, object, refused)| json!({ "name": name, "object": hex::encode(object), "refused": refused }))
        .collect()
}

/// Records: one event in canonical form, or `MALFORMED`.
pub fn records() -> Value {
    let incarnation = item(2, &LOG_ID);
    let id = item(3, &[num(1, 5), item(2, &[6; 16])].concat());
    let intent = item(4, &H);
    let fence = item(32, b"");
    let clock = item(27, b"");
    let head = [incarnation.clone(), id.clone(), intent.clone()].concat();
    let with = |body: Vec<u8>| [head.clone(), body].concat();
    let commit = |part: Vec<u8>| with(item(17, &part));
    let hash = |field: u32| item(field, &H);
    let checkpoint = |fields: Vec<u8>| [incarnation.clone(), item(31, &fields)].concat();
    let genesis = |fields: Vec<u8>| [incarnation.clone(), item(16, &fields)].concat();
    let open = |fields: &[Vec<u8>]| item(29, &fields.concat());
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("a fence", [incarnation.clone(), fence.clone()].concat(), false),
        ("a clock", with(clock.clone()), false),
        ("an empty commit", commit(vec![]), false),
        (
            "the fence of the crate",
            Envelope::without_id().record(Body::Fence),
            false,
        ),
        ("a guard", commit(item(1, &hash(2))), false),
        (
            "a remove with a base",
            commit(item(
                2,
                &[item(1, &num(1, 2)), item(3, &item(2, b"")), item(8, b"")].concat(),
            )),
            false,
        ),
        (
            "an update under a mask",
            commit(item(2, &item(4, &item(2, &item(1, &[2, 3]))))),
            false,
        ),
        ("prune to floor 0", with(item(22, &raw(1, 0))), false),
        ("a body of a later level", with(item(23, b"")), false),
        ("a seal", with(item(28, b"")), false),
        ("an open", with(open(&[item(1, &[1; 16]), item(2, &[2; 16])])), false),
        (
            "a checkpoint",
            checkpoint([item(1, &[1; 16]), hash(5), hash(6)].concat()),
            false,
        ),
        (
            "a genesis",
            genesis([item(1, &LOG_ID), item(3, b""), item(6, b""), item(8, &[2; 16])].concat()),
            false,
        ),
        ("nothing", vec![], true),
        ("no body", incarnation.clone(), true),
        ("no incarnation", fence.clone(), true),
        (
            "an incarnation of 15 bytes",
            [item(2, &[1; 15]), fence.clone()].concat(),
            true,
        ),
        (
            "an incarnation of 17 bytes",
            [item(2, &[1; 17]), fence.clone()].concat(),
            true,
        ),
        (
            "an unknown field",
            [incarnation.clone(), fence.clone(), num(40, 1)].concat(),
            true,
        ),
        (
            "an unknown field of the body",
            [incarnation.clone(), item(32, &num(1, 1))].concat(),
            true,
        ),
        ("an unknown body", [incarnation.clone(), item(33, b"")].concat(), true),
        ("two bodies", with([clock.clone(), item(28, b"")].concat()), true),
        (
            "a body twice",
            [incarnation.clone(), fence.clone(), fence.clone()].concat(),
            true,
        ),
        (
            "a byte after the end",
            [incarnation.clone(), fence.clone(), vec![0]].concat(),
            true,
        ),
        (
            "format written out as 0",
            [raw(1, 0), incarnation.clone(), fence.clone()].concat(),
            true,
        ),
        (
            "fields out of order",
            [id.clone(), incarnation.clone(), intent.clone(), clock.clone()].concat(),
            true,
        ),
        (
            "a length that is not minimal",
            [incarnation.clone(), vec![0x82, 0x02, 0x80, 0x00]].concat(),
            true,
        ),
        (
            "an author that is not UTF-8",
            [incarnation.clone(), item(5, &[0xff]), fence.clone()].concat(),
            true,
        ),
        (
            "a signature",
            [head.clone(), item(9, b"s"), clock.clone()].concat(),
            true,
        ),
        (
            "an id without an intent",
            [incarnation.clone(), id.clone(), clock.clone()].concat(),
            true,
        ),
        (
            "an intent without an id",
            [incarnation.clone(), intent.clone(), clock.clone()].concat(),
            true,
        ),
        (
            "no id where one is needed",
            [incarnation.clone(), clock.clone()].concat(),
            true,
        ),
        ("an id on housekeeping", with(fence), true),
        (
            "an id on a genesis",
            with(item(16, &[item(1, &LOG_ID), item(3, b""), item(8, &[2; 16])].concat())),
            true,
        ),
        (
            "a nonce of 15 bytes",
            [
                incarnation.clone(),
                item(3, &item(2, &[6; 15])),
                intent.clone(),
                clock.clone(),
            ]
            .concat(),
            true,
        ),
        (
            "an id without a nonce",
            [incarnation.clone(), item(3, &num(1, 5)), intent, clock.clone()].concat(),
            true,
        ),
        (
            "an intent of 31 bytes",
            [incarnation.clone(), id, item(4, &[7; 31]), clock].concat(),
            true,
        ),
        ("a guard that expects nothing", commit(item(1, b"")), true),
        (
            "a guard with a hash of 31 bytes",
            commit(item(1, &item(2, &[7; 31]))),
            true,
        ),
        (
            "a guard that expects two things",
            commit(item(1, &[hash(2), hash(3)].concat())),
            true,
        ),
        ("an operation without a kind", commit(item(2, b"")), true),
        (
            "an operation of two kinds",
            commit(item(2, &[item(7, b""), item(8, b"")].concat())),
            true,
        ),
        (
            "a base that says nothing",
            commit(item(2, &[item(3, b""), item(8, b"")].concat())),
            true,
        ),
        (
            "a base of 33 bytes",
            commit(item(2, &[item(3, &item(1, &[7; 33])), item(8, b"")].concat())),
            true,
        ),
        (
            "strict that is 2",
            commit(item(2, &[raw(2, 2), item(8, b"")].concat())),
            true,
        ),
        (
            "a mask path without numbers",
            commit(item(2, &item(4, &item(2, b"")))),
            true,
        ),
        (
            "a mask path that is not packed",
            commit(item(2, &item(4, &item(2, &raw(1, 2))))),
            true,
        ),
        (
            "guards after operations",
            commit([item(2, &item(8, b"")), item(1, &hash(2))].concat()),
            true,
        ),
        ("a withdraw without an id", with(item(25, b"")), true),
        ("a retention without a policy", with(item(21, b"")), true),
        (
            "a checkpoint without a replica",
            checkpoint([hash(5), hash(6)].concat()),
            true,
        ),
        (
            "a checkpoint without a chain",
            checkpoint([item(1, &[1; 16]), hash(6)].concat()),
            true,
        ),
        (
            "a checkpoint without a state",
            checkpoint([item(1, &[1; 16]), hash(5)].concat()),
            true,
        ),
        (
            "a genesis without limits",
            genesis([item(1, &LOG_ID), item(8, &[2; 16])].concat()),
            true,
        ),
        (
            "a genesis without a log id",
            genesis([item(3, b""), item(8, &[2; 16])].concat()),
            true,
        ),
        (
            "a genesis without a transport id",
            genesis([item(1, &LOG_ID), item(3, b"")].concat()),
            true,
        ),
        (
            "a right that is not declared",
            with(item(24, &item(1, &item(3, &[9])))),
            true,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, record, malformed)| json!({ "name": name, "record": hex::encode(record), "malformed": malformed }))
        .collect()
}
