//! Three replicas without threads on one log that repeats, reorders and loses: at equal positions they are equal, whatever
//! the cut into batches, the pace and the crashes of each.

use crate::world::*;
use confold_log::Log;
use confold_log::memory::MemoryLog;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_replica::step::{Folder, Next};
use confold_replica::{Begin, begin};
use confold_store::Store;
use confold_store::memory::MemoryStore;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    /// A replica proposes under an id minted at what it has folded.
    Propose { replica: usize, device: u8, value: u8 },
    /// The log takes the record in flight at this index, or loses it.
    Deliver(usize),
    Lose(usize),
    Repeat { back: u64, after: u64 },
    Clock(i64),
    /// A replica folds so many records and commits.
    Fold { replica: usize, records: usize },
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 0..6u8, any::<u8>()).prop_map(|(replica, device, value)| Step::Propose { replica, device, value }),
        6 => (0..4usize).prop_map(Step::Deliver),
        1 => (0..4usize).prop_map(Step::Lose),
        1 => (0..30u64, 0..10u64).prop_map(|(back, after)| Step::Repeat { back, after }),
        1 => (-500..1_000i64).prop_map(Step::Clock),
        6 => (0..3usize, 1..9usize).prop_map(|(replica, records)| Step::Fold { replica, records }),
        1 => (0..3usize).prop_map(Step::Crash),
    ]
}

struct One {
    store: MemoryStore,
    folder: Folder,
}

impl One {
    fn new(name: u8) -> One {
        One { store: MemoryStore::new(), folder: Folder::new([name; 16]) }
    }

    /// Folds up to `limit` records as one batch, shorter where a mark ends it, and says what it came to.
    fn fold(&mut self, log: &MemoryLog, limit: usize) -> Option<(Position, Hash, Hash)> {
        let next = self.folder.state().next_position();
        let records = log.reader(next).unwrap().read(limit, usize::MAX, Duration::ZERO).unwrap();
        for record in records {
            if self.folder.fold(&record, &self.store).unwrap() == Next::Ends {
                break;
            }
        }
        let folded = self.folder.finish()?;
        self.store.commit(&folded.batch).unwrap();
        let view = folded.effects.view;
        Some((view.position, view.chain, view.root))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replicas_at_equal_positions_are_equal(steps in proptest::collection::vec(step(), 1..200)) {
        let log = MemoryLog::new([7; 16]);
        begin(&log, "network", &Begin::default()).unwrap();
        let mut replicas = [One::new(1), One::new(2), One::new(3)];
        replicas[0].fold(&log, 1).unwrap();
        let incarnation = replicas[0].folder.state().incarnation();
        log.append(record(incarnation, Some(EventId { seen: Position(0), nonce: nonce(0) }), schema())).unwrap();
        log.deliver_by_hand(true);
        log.let_time_go_back(true);
        let mut seen: BTreeMap<Position, (Hash, Hash)> = BTreeMap::new();
        let check = |seen: &mut BTreeMap<_, _>, reached: Option<(Position, Hash, Hash)>| {
            if let Some((position, chain, root)) = reached {
                let first = seen.entry(position).or_insert((chain, root));
                assert_eq!(*first, (chain, root), "two replicas differ at {position}");
            }
        };
        let mut number = 0;
        for step in steps {
            match step {
                Step::Propose { replica, device, value } => {
                    number += 1;
                    let at = replicas[replica].folder.state().position().unwrap_or_default();
                    let id = EventId { seen: at, nonce: nonce(number) };
                    let id_text = format!("d-{device}");
                    let body = if value % 5 == 0 { remove(&id_text) } else { put(&id_text, &value.to_string()) };
                    log.append(record(incarnation, Some(id), body)).unwrap();
                }
                Step::Deliver(index) => { log.deliver(index); }
                Step::Lose(index) => { log.lose(index); }
                Step::Repeat { back, after } => { log.repeat(Position(log.range().end.0.saturating_sub(1 + back)), after); }
                Step::Clock(change) => log.set_clock(Time(log.clock().0 + change)),
                Step::Fold { replica, records } => check(&mut seen, replicas[replica].fold(&log, records)),
                Step::Crash(replica) => {
                    let one = &mut replicas[replica];
                    one.folder = Folder::restore(&one.store, [9; 16]).unwrap();
                }
            }
        }
        log.deliver_all();
        for one in &mut replicas {
            while let Some(reached) = one.fold(&log, 7) {
                check(&mut seen, Some(reached));
            }
        }
        let [one, two, three] = &mut replicas;
        let (a, b, c) = (one.folder.view(), two.folder.view(), three.folder.view());
        prop_assert_eq!((a.chain, a.revision, a.time), (b.chain, b.revision, b.time));
        prop_assert_eq!((a.chain, a.revision, a.time), (c.chain, c.revision, c.time));
        prop_assert_eq!(devices(&a.tree, &one.store), devices(&c.tree, &three.store));
        // Each id was applied at most once, and every revision was made by one.
        let rows = one.store.revisions(Revision(0)..=a.revision, confold_store::Order::Ascending, usize::MAX).unwrap();
        let ids: std::collections::BTreeSet<_> = rows.iter().map(|row| row.id).collect();
        prop_assert_eq!(ids.len(), rows.len());
    }
}
