//! Digests that are known: where a reader can begin to compute on.

use std::collections::BTreeMap;

use confold_log::{LogError, Tip};
use confold_model::ids::{Hash, Position};

/// Kept at most; beyond it every second one goes.
const LIMIT: usize = 4096;

pub struct Anchors {
    known: BTreeMap<Position, Hash>,
    /// Readers leave one in so many positions.
    stride: u64,
    /// What the caller told, newest last: two of them stay whatever goes.
    told: Vec<Position>,
}

impl Anchors {
    pub fn new(first: Tip) -> Anchors {
        Anchors {
            known: [(first.position, first.digest)].into(),
            stride: 1024,
            told: Vec::new(),
        }
    }

    pub fn tell(&mut self, tip: Tip) {
        self.known.insert(tip.position, tip.digest);
        self.told.retain(|told| *told != tip.position);
        self.told.push(tip.position);
        if self.told.len() > 8 {
            self.told.remove(0);
        }
    }

    /// Where to begin so that `from` can be read: the nearest known one below that is not below `start`, so that what stands
    /// before `from` is compared where it is known.
    pub fn below(&self, from: Position, start: Position) -> Option<Tip> {
        let at = |(position, digest): (&Position, &Hash)| Tip {
            position: *position,
            digest: *digest,
            time: Default::default(),
        };
        let nearest = self.known.range(start..=from).next_back().map(at)?;
        let before = Position(nearest.position.0.saturating_sub(1));
        let compared = self.known.get_key_value(&before).filter(|_| before >= start).map(at);
        Some(compared.unwrap_or(nearest))
    }

    /// The lowest of all: what to name when nothing serves.
    pub fn lowest(&self) -> Position {
        self.known.keys().next().copied().unwrap_or_default()
    }

    /// Notes what a reader has computed from `before` on, up to and including `tips`; where another value was known for one of
    /// them, the log is not what it was.
    pub fn pass(&mut self, tips: &[Tip]) -> Result<(), LogError> {
        let (Some(first), Some(last)) = (tips.first(), tips.last()) else {
            return Ok(());
        };
        for (position, known) in self.known.range(first.position..=last.position) {
            let found = &tips[(position.0 - first.position.0) as usize];
            if found.digest != *known {
                let before = position.0.saturating_sub(1);
                return Err(LogError::Fenced {
                    what: format!(
                        "the log digest of position {before} was {known} when it was read before, and is {} now: records were \
                         replaced",
                        found.digest
                    ),
                });
            }
        }
        let kept = |tip: &&Tip| tip.position.0.is_multiple_of(self.stride);
        let keep: Vec<(Position, Hash)> = tips.iter().filter(kept).map(|tip| (tip.position, tip.digest)).collect();
        self.known.extend(keep);
        while self.known.len() > LIMIT {
            self.stride *= 2;
            let (stride, told, lowest) = (self.stride, &self.told, self.lowest());
            self.known.retain(|position, _| {
                position.0.is_multiple_of(stride) || told.contains(position) || *position == lowest
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tips(from: u64, to: u64) -> Vec<Tip> {
        let tip = |n: u64| Tip {
            position: Position(n),
            digest: Hash::of(&n.to_be_bytes()),
            time: Default::default(),
        };
        (from..=to).map(tip).collect()
    }

    #[test]
    fn a_reader_begins_at_the_nearest_digest_below() {
        let mut anchors = Anchors::new(Tip::START);
        anchors.pass(&tips(1, 5000)).unwrap();
        let below = |from, start| anchors.below(Position(from), Position(start)).map(|tip| tip.position.0);
        assert_eq!(below(500, 0), Some(0));
        assert_eq!(below(1024, 0), Some(1024));
        assert_eq!(below(5000, 0), Some(4096));
        assert_eq!(below(500, 1), None);
    }

    #[test]
    fn with_two_digests_side_by_side_a_reader_compares_the_record_between() {
        let mut anchors = Anchors::new(Tip::START);
        for tip in tips(40, 41) {
            anchors.tell(tip);
        }
        assert_eq!(anchors.below(Position(41), Position(0)).unwrap().position, Position(40));
        assert!(anchors.pass(&tips(40, 60)).is_ok());
        let mut other = tips(40, 60);
        other[1].digest = Hash::ZERO;
        let fenced = anchors.pass(&other).unwrap_err().to_string();
        assert!(
            fenced.contains("position 40") && fenced.contains(&Hash::ZERO.to_string()),
            "{fenced}"
        );
    }

    #[test]
    fn the_index_stays_bounded_and_keeps_what_was_told() {
        let mut anchors = Anchors::new(Tip::START);
        anchors.tell(tips(7, 7)[0]);
        for block in 0..3000 {
            anchors.pass(&tips(block * 5000 + 8, block * 5000 + 5007)).unwrap();
        }
        assert!(anchors.known.len() <= LIMIT);
        assert!(anchors.known.contains_key(&Position(7)) && anchors.known.contains_key(&Position(0)));
    }
}
