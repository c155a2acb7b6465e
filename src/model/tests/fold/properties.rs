//! Random logs, told by the fold and by the naive model.

use crate::acts::{Writer, steps};
use crate::naive::Naive;
use confold_model::fold::{self, Applied};
use confold_model::ids::{Hash, Time};
use confold_model::objects::NoObjects;
use confold_model::state::State;
use proptest::prelude::*;

/// Both models of one log.
struct Both {
    state: State,
    naive: Naive,
}

impl Both {
    fn append(&mut self, time: i64, record: &[u8]) -> Result<Applied, TestCaseError> {
        let applied = fold::apply(&mut self.state, Time(time), record, &NoObjects).unwrap();
        let verdict = self.naive.apply(time, record);
        let met = (applied.outcome.number(), applied.outcome.code());
        prop_assert_eq!(met, (verdict.outcome, verdict.code), "{:?}", applied.outcome);
        prop_assert_eq!(applied.root, Hash(self.naive.root()));
        prop_assert_eq!(applied.digest, Hash(self.naive.digest));
        prop_assert_eq!(applied.chain, Hash(self.naive.chain));
        prop_assert_eq!(applied.time, Time(self.naive.time));
        prop_assert_eq!(applied.made_revision, verdict.made_revision);
        prop_assert_eq!(applied.revision.0, self.naive.revision);
        prop_assert_eq!(applied.mark.is_some(), verdict.mark);
        prop_assert_eq!(self.state.tree().root(), self.state.root());
        prop_assert_eq!(self.state.hash(), Hash(self.naive.state_hash()));
        let kept: Vec<bool> = (0..=self.naive.revision).map(|revision| self.naive.is_kept(revision)).collect();
        let state_kept = (0..=self.naive.revision).map(|revision| self.state.is_kept(confold_model::ids::Revision(revision)));
        prop_assert_eq!(state_kept.collect::<Vec<_>>(), kept);
        Ok(applied)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_log_has_the_outcomes_roots_and_state_hashes_of_the_naive_model(content in prop::bool::weighted(0.8), steps in steps(1..40)) {
        let mut both = Both { state: State::new(), naive: Naive::default() };
        let mut writer = Writer::new();
        for (time, record) in writer.begin(content) {
            both.append(time, &record)?;
        }
        for step in &steps {
            let (time, record) = writer.next(step, &both.state, &NoObjects);
            both.append(time, &record)?;
        }
    }
}

/// As many as asked for by `PROPTEST_CASES`, else few enough for every day.
fn cases(everyday: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(everyday)
}
