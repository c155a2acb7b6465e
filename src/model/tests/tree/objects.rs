use crate::model::{model, stored};
use confold_model::ids::Hash;
use confold_model::node::{self, EMPTY_NODE, EMPTY_NODE_BYTES, ObjectRefused, Place, check_place, decode};
use confold_model::objects::references;
use proptest::prelude::*;

const H: [u8; 32] = [7; 32];

fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// `count` keys of one byte, ascending.
fn bucket(count: u8) -> Vec<u8> {
    let entries: Vec<u8> = (0..count).flat_map(|key| bytes(&[&[1, key], &H])).collect();
    bytes(&[&[3, count], &entries])
}

/// An inner without prefix whose branches have these counts, and an own entry if asked for.
fn inner(own: bool, counts: &[u8]) -> Vec<u8> {
    let own = if own { bytes(&[&[1], &H]) } else { vec![0] };
    let bitmap = ((1u32 << counts.len()) - 1) as u16;
    bytes(&[&[2, 0], &own, &bitmap.to_be_bytes(), counts, &H.repeat(counts.len())])
}

#[test]
fn the_empty_node_is_pinned() {
    assert_eq!(Hash::of(EMPTY_NODE_BYTES), EMPTY_NODE);
    assert_eq!(node::data_hash(&[]), Hash::of(&[4]));
    assert!(decode(EMPTY_NODE_BYTES).is_ok());
}

#[test]
fn a_decoder_refuses_what_the_rules_cannot_have_made() {
    use ObjectRefused::*;
    let blob = |length: usize| bytes(&[&[4], &vec![9; length]]);
    let inline = |length: usize| bytes(&[&[1, 0, (length & 127) as u8 | 128, (length >> 7) as u8], &vec![9; length], &[0]]);
    let cases: Vec<(&str, Vec<u8>, Result<(), ObjectRefused>)> = vec![
        ("nothing", vec![], Err(Empty)),
        ("a log digest is no object", vec![0x10], Err(Kind(0x10))),
        ("kind 0", vec![0], Err(Kind(0))),
        ("smallest blob", blob(1025), Ok(())),
        ("blob too small", blob(1024), Err(SmallBlob(1024))),
        ("largest inline config", inline(1024), Ok(())),
        ("inline config too large", inline(1025), Err(LargeConfig(1025))),
        ("config tag", vec![1, 2, 0, 0], Err(Tag { what: "the config", tag: 2 })),
        ("config by blob", bytes(&[&[1, 1], &H, &[0]]), Ok(())),
        ("config cut", vec![1, 0, 3, 1, 2], Err(Truncated("the config"))),
        ("trailing byte", vec![1, 0, 0, 0, 0], Err(Trailing(1))),
        ("long varint", vec![1, 0, 0x80, 0, 0], Err(Varint("the config's length"))),
        ("varint of 65 bits", bytes(&[&[1, 0, 0], &[0xff; 9], &[2]]), Err(Varint("the number of entries"))),
        ("as many entries as fit no memory", bytes(&[&[1, 0, 0], &[0xff; 9], &[1]]), Err(Truncated("a field number"))),
        ("one entry", bytes(&[&[1, 0, 0, 1, 5], &H]), Ok(())),
        ("field 0", bytes(&[&[1, 0, 0, 1, 0], &H]), Err(FieldNumber(0))),
        ("field 2^29", bytes(&[&[1, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 2], &H]), Err(FieldNumber(1 << 29))),
        ("field twice", bytes(&[&[1, 0, 0, 2, 5], &H, &[5], &H]), Err(EntryOrder(5))),
        ("fields descending", bytes(&[&[1, 0, 0, 2, 5], &H, &[4], &H]), Err(EntryOrder(4))),
        ("default child", bytes(&[&[1, 0, 0, 1, 5], &EMPTY_NODE.0]), Err(DefaultEntry(5))),
        ("bucket of 1", bucket(1), Ok(())),
        ("bucket of 16", bucket(16), Ok(())),
        ("bucket of none", bucket(0), Err(BucketKeys(0))),
        ("bucket of 17", bucket(17), Err(BucketKeys(17))),
        ("empty key", bytes(&[&[3, 1, 0], &H]), Err(KeyLength(0))),
        ("longest key", bytes(&[&[3, 1, 0x80, 2], &[1; 256], &H]), Ok(())),
        ("over-long key", bytes(&[&[3, 1, 0x81, 2], &[1; 257], &H]), Err(KeyLength(257))),
        ("key twice", bytes(&[&[3, 2, 1, 9], &H, &[1, 9], &H]), Err(KeyOrder(1))),
        ("keys descending", bytes(&[&[3, 2, 1, 9], &H, &[1, 8], &H]), Err(KeyOrder(1))),
        ("inner of 17", inner(false, &[16, 1]), Ok(())),
        ("inner of 16", inner(false, &[15, 1]), Err(InnerKeys(16))),
        ("own entry counts", inner(true, &[16]), Ok(())),
        ("own entry counts, but 16", inner(true, &[15]), Err(InnerKeys(16))),
        ("one branch alone", inner(false, &[17]), Err(OneBranch)),
        ("count of 0", inner(false, &[0, 17]), Err(ZeroCount(0))),
        ("own tag", bytes(&[&[2, 0, 9]]), Err(Tag { what: "the own entry", tag: 9 })),
        (
            "counts of more than 64 bits",
            bytes(&[&[2, 0, 0, 0, 3], &[0xff; 9], &[1], &[1], &H, &H]),
            Err(CountOverflow),
        ),
        ("padding", bytes(&[&[2, 1, 0x51, 0, 0, 3, 16, 1], &H, &H]), Err(Padding)),
        ("padded prefix", bytes(&[&[2, 1, 0x50, 0, 0, 3, 16, 1], &H, &H]), Ok(())),
        ("endless prefix", vec![2, 0x81, 4], Err(PrefixLength(513))),
    ];
    for (name, input, expected) in cases {
        assert_eq!(decode(&input).map(|_| ()), expected, "{name}");
        assert_eq!(references(&input).map(|_| ()), expected, "{name}");
    }
}

#[test]
fn a_sound_object_is_refused_where_it_cannot_hang() {
    use ObjectRefused::*;
    // Below the branch 5 behind the nibbles 6 1 6: keys begin with 61 65.
    let below = |count| Place::Below { base: &[0x61, 0x60], len: 3, nibble: 5, count };
    let keys = |keys: &[&[u8]]| {
        let entries: Vec<u8> = keys.iter().flat_map(|key| bytes(&[&[key.len() as u8], key, &H])).collect();
        bytes(&[&[3, keys.len() as u8], &entries])
    };
    let long = bytes(&[&[2, 0x80, 4], &[0; 256], &[0, 0, 3, 16, 1], &H, &H]);
    let longest_own = bytes(&[&[2, 0xff, 3], &[0; 256], &[1], &H, &[0, 3, 16, 1], &H, &H]);
    let cases = [
        ("on the prefix", keys(&[&[0x61, 0x65], &[0x61, 0x65, 9]]), below(2), Ok(())),
        ("first key off", keys(&[&[0x61, 0x64], &[0x61, 0x65, 9]]), below(2), Err(OffPrefix("6164".into()))),
        ("last key off", keys(&[&[0x61, 0x65], &[0x61, 0x66]]), below(2), Err(OffPrefix("6166".into()))),
        ("key ends above", keys(&[&[0x61]]), below(1), Err(OffPrefix("61".into()))),
        ("off in an early byte", keys(&[&[0x60, 0x65]]), below(1), Err(OffPrefix("6065".into()))),
        ("off in the half byte", keys(&[&[0x61, 0x75]]), below(1), Err(OffPrefix("6175".into()))),
        ("one key more", keys(&[&[0x61, 0x65]]), below(2), Err(CountDiffers { expected: 2, found: 1 })),
        ("inner counted", inner(false, &[16, 1]), below(17), Ok(())),
        ("inner miscounted", inner(false, &[16, 1]), below(18), Err(CountDiffers { expected: 18, found: 17 })),
        ("own entry at a whole byte", inner(true, &[16]), below(17), Ok(())),
        (
            "own entry at half a byte",
            inner(true, &[16]),
            Place::Below { base: &[0x61], len: 2, nibble: 5, count: 17 },
            Err(HalfByte),
        ),
        ("own entry of the empty key", inner(true, &[16]), Place::Top, Err(KeyLength(0))),
        ("keys longer than 256 bytes", long, Place::Top, Err(KeyLength(257))),
        ("own entry of 512 nibbles cannot branch", longest_own, below(17), Err(KeyLength(258))),
        ("a node", EMPTY_NODE_BYTES.to_vec(), Place::Top, Err(WrongKind { expected: "container", found: "node" })),
    ];
    for (name, input, place, expected) in cases {
        let object = decode(&input).unwrap();
        assert_eq!(check_place(&object, place), expected, "{name}");
    }
}

/// Writes an object again from what the decoder made of it.
fn encoded(object: &node::Object<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match object {
        node::Object::Blob(config) => out.extend(bytes(&[&[4], config])),
        node::Object::Node(object) => {
            out.push(1);
            match object.config {
                node::ConfigObject::Blob(hash) => out.extend(bytes(&[&[1], &hash.0])),
                node::ConfigObject::Inline(config) => {
                    out.push(0);
                    node::put_varint(&mut out, config.len() as u64);
                    out.extend(config);
                }
            }
            node::put_varint(&mut out, object.entries.len() as u64);
            for (field, hash) in &object.entries {
                node::put_varint(&mut out, u64::from(*field));
                out.extend(hash.0);
            }
        }
        node::Object::Bucket(object) => {
            out.extend([3, object.entries.len() as u8]);
            for (key, hash) in &object.entries {
                node::put_varint(&mut out, key.len() as u64);
                out.extend(bytes(&[key, &hash.0]));
            }
        }
        node::Object::Inner(object) => {
            out.push(2);
            node::put_prefix(&mut out, &object.skipped);
            match object.own {
                None => out.push(0),
                Some(own) => out.extend(bytes(&[&[1], &own.0])),
            }
            let bitmap = object.branches.iter().fold(0u16, |bitmap, branch| bitmap | 1 << branch.nibble);
            out.extend(bitmap.to_be_bytes());
            object.branches.iter().for_each(|branch| node::put_varint(&mut out, branch.count));
            object.branches.iter().for_each(|branch| out.extend(branch.hash.0));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever a decoder takes has exactly that encoding.
    #[test]
    fn arbitrary_bytes_are_refused_or_have_one_encoding(kind in 0..6u8, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        let input = bytes(&[&[kind], &rest]);
        if let Ok(object) = decode(&input) {
            prop_assert_eq!(encoded(&object), input);
        }
    }

    #[test]
    fn mutated_objects_are_refused_or_have_one_encoding(
        model in model(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
    ) {
        for original in stored(&model.tree()).0.values() {
            prop_assert_eq!(&encoded(&decode(original).unwrap()), original);
            let mut mutated = original.to_vec();
            for (at, byte, how) in &edits {
                let index = at.index(mutated.len());
                match how {
                    0 => mutated[index] = *byte,
                    1 => mutated.insert(index, *byte),
                    _ if mutated.len() > 1 => mutated.truncate(index.max(1)),
                    _ => {}
                }
            }
            if let Ok(object) = decode(&mutated) {
                prop_assert_eq!(encoded(&object), mutated.clone());
                drop(check_place(&object, Place::Top));
                drop(check_place(&object, Place::Below { base: &[0x10], len: 1, nibble: 0, count: 17 }));
            }
        }
    }
}
