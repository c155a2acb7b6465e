use crate::model::key;
use confold_model::ids::Hash;
use confold_model::map::Map;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn value(key: &[u8]) -> Hash {
    Hash::of(&[&[1], key].concat())
}

fn built(keys: &[Vec<u8>]) -> Map {
    let mut map = Map::empty();
    for key in keys {
        map.insert(key, value(key));
    }
    map
}

#[test]
fn maps_have_the_hashes_of_the_golden_vectors() {
    let text = include_str!("../../../../tests/golden/vectors/vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let maps = vectors["maps"].as_array().unwrap();
    assert_eq!(maps.len(), 13);
    for vector in maps {
        let keys: Vec<Vec<u8>> =
            vector["keys"].as_array().unwrap().iter().map(|key| hex::decode(key.as_str().unwrap()).unwrap()).collect();
        let mut backwards = keys.clone();
        backwards.reverse();
        let all_at_once = Map::from_entries(keys.iter().map(|key| (key.clone().into(), value(key))));
        for map in [built(&keys), built(&backwards), all_at_once] {
            assert_eq!(map.hash().to_string(), vector["root"].as_str().unwrap());
        }
    }
}

#[test]
fn an_empty_map_has_a_zero_hash_and_gets_it_back() {
    let mut map = Map::empty();
    assert_eq!((map.hash(), map.len()), (Hash::ZERO, 0));
    map.insert(b"a", value(b"a"));
    assert_ne!(map.hash(), Hash::ZERO);
    assert_eq!(map.remove(b"a"), Some(value(b"a")));
    assert_eq!((map.hash(), map.is_empty()), (Hash::ZERO, true));
}

#[test]
fn the_longest_chain_of_keys_and_a_comb_go_in_and_out() {
    let chain: Vec<Vec<u8>> = (1..=256).map(|length| vec![b'a'; length]).collect();
    let comb: Vec<Vec<u8>> = (0..255 * 2)
        .flat_map(|at| (1..10u8).map(move |tooth| (at, tooth)))
        .map(|(at, tooth)| {
            let mut key = vec![b'a'; at / 2 + 1];
            key[at / 2] ^= if at % 2 == 0 { tooth << 4 } else { tooth };
            key
        })
        .collect();
    for keys in [chain.clone(), [chain, comb].concat()] {
        let mut map = built(&keys);
        let mut backwards = keys.clone();
        backwards.reverse();
        assert_eq!(map.hash(), built(&backwards).hash());
        for (index, key) in backwards.iter().enumerate() {
            assert!(map.remove(key).is_some() || backwards[..index].contains(key));
        }
        assert_eq!(map.hash(), Hash::ZERO);
    }
}

#[test]
#[should_panic(expected = "a key of 257 bytes was let through")]
fn a_key_that_no_decoder_would_take_never_becomes_an_object() {
    Map::empty().insert(&[1; 257], Hash::ZERO);
}

#[test]
fn a_clone_does_not_see_later_edits() {
    let mut map = built(&(0..200u8).map(|byte| vec![byte]).collect::<Vec<_>>());
    let (before, held) = (map.hash(), map.clone());
    map.insert(&[7], Hash::ZERO);
    map.remove(&[9]);
    assert_eq!((held.hash(), held.len()), (before, 200));
    assert_eq!(held.get(&[9]), Some(&value(&[9])));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // H5, K7: the shape depends on the set of keys alone, and entries come in key order.
    #[test]
    fn any_order_of_edits_gives_the_map_built_from_scratch(
        edits in proptest::collection::vec((key(), any::<bool>(), 0..3u8), 0..200),
        probe in key(),
    ) {
        let (mut map, mut model) = (Map::empty(), BTreeMap::new());
        for (key, is_insert, version) in &edits {
            let value = Hash([*version; 32]);
            if *is_insert || *version == 0 {
                prop_assert_eq!(map.insert(key, value), model.insert(key.clone(), value));
            } else {
                prop_assert_eq!(map.remove(key), model.remove(key));
            }
            if *version == 2 {
                map.hash();
            }
            prop_assert_eq!(map.len(), model.len() as u64);
        }
        let entries: Vec<(Box<[u8]>, Hash)> = model.iter().map(|(key, value)| (key.clone().into(), *value)).collect();
        prop_assert_eq!(map.entries(), entries.clone());
        prop_assert_eq!(map.hash(), Map::from_entries(entries).hash());
        prop_assert_eq!(map.get(&probe), model.get(&probe));
        prop_assert_eq!(map.rank(&probe), (model.range(..probe.clone()).count() as u64, model.contains_key(&probe)));
        for (index, key) in model.keys().enumerate() {
            prop_assert_eq!(map.rank(key), (index as u64, true));
            let mut found = Vec::new();
            map.visit(index as u64, 3, |key, _| found.push(key.to_vec()));
            prop_assert_eq!(found, model.keys().skip(index).take(3).cloned().collect::<Vec<_>>());
        }
        for key in model.keys() {
            prop_assert!(map.remove(key).is_some());
        }
        prop_assert_eq!(map.hash(), Hash::ZERO);
    }
}
