//! The golden log `tests/golden/vectors/state.json`: outcomes, roots, chain and state hashes of its records, computed
//! from docs/formats.md alone by a program of its own.

use confold_model::fold::apply;
use confold_model::ids::Time;
use confold_model::objects::NoObjects;
use confold_model::state::State;

#[test]
fn the_fold_of_the_golden_log_has_the_outcomes_and_hashes_that_the_formats_say() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/vectors/state.json");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(rows.len(), 14);
    let mut state = State::new();
    let mut marks = 0;
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let at = row["position"].as_u64().unwrap();
        let record = hex::decode(text("record")).unwrap();
        let applied = apply(&mut state, Time(row["time_ms"].as_i64().unwrap()), &record, &NoObjects).unwrap();
        assert_eq!(
            u64::from(applied.outcome.number()),
            row["outcome"].as_u64().unwrap(),
            "at {at}: {:?}",
            applied.outcome
        );
        assert_eq!(
            u64::from(applied.outcome.code()),
            row["code"].as_u64().unwrap(),
            "at {at}"
        );
        assert_eq!(
            applied.revision.0,
            row["revision"].as_u64().unwrap(),
            "revision at {at}"
        );
        assert_eq!(applied.root.to_string(), text("root"), "root at {at}");
        assert_eq!(applied.digest.to_string(), text("digest"), "log digest at {at}");
        assert_eq!(applied.chain.to_string(), text("chain"), "chain at {at}");
        let mark = applied.mark.map(|hash| hash.to_string()).unwrap_or_default();
        assert_eq!(mark, text("state"), "state hash at {at}");
        marks += u32::from(applied.mark.is_some());
    }
    assert_eq!(marks, 3);
}
