//! A log in memory, for tests and simulations: it does on command what the others do by misfortune.
//!
//! Nothing here is random and nothing looks at a clock: whoever drives it decides what happens and when, from one thread
//! if they like (reads with a wait of zero return at once). A handle is cheap to clone; all clones are the same log.
//!
//! ```text
//! append --> (refused | swallowed | taken) --> in flight --> delivered: gets position, time, digest --> readers
//!                                              by hand: in any order, twice, or never               until stalled
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_model::ids::{Hash, Position, Time};
use parking_lot::{Condvar, Mutex};

use crate::digest::log_digest;
use crate::{Fence, Log, LogError, Range, Reader, Record, Tip};

/// What becomes of one append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendFault {
    /// Answered with `Full`; not taken.
    Refuse,
    /// Answered with `Ok`, and never seen again.
    Swallow,
    /// Answered with `Unsettled`, and taken all the same.
    TakeAndFail,
    /// Answered with `Unsettled`, and not taken.
    Fail,
}

/// A shared handle to one log.
#[derive(Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    transport_id: [u8; 16],
    clock: Time,
    time_may_go_back: bool,
    /// Of the first record in `records`.
    start: Position,
    /// d(start - 1).
    before_start: Hash,
    records: VecDeque<Record>,
    by_hand: bool,
    in_flight: VecDeque<Bytes>,
    repeats: Vec<Repeat>,
    faults: VecDeque<AppendFault>,
    stalled_from: Option<Position>,
    fence_by_append: bool,
    record_limit: usize,
    /// Digests that callers told, where readers compute theirs from them.
    told: Option<Told>,
    closed: bool,
}

/// What a log that stores no digests knows of them.
struct Told {
    /// d(position - 1) by position.
    anchors: BTreeMap<Position, Hash>,
    reach: u64,
}

/// A copy of these bytes comes when the log has reached `due`.
struct Repeat {
    due: Position,
    bytes: Bytes,
}

impl MemoryLog {
    /// Empty; appends are delivered at once; the clock stands at 0.
    pub fn new(transport_id: [u8; 16]) -> MemoryLog {
        let state = State {
            transport_id,
            clock: Time(0),
            time_may_go_back: false,
            start: Position(0),
            before_start: Hash::ZERO,
            records: VecDeque::new(),
            by_hand: false,
            in_flight: VecDeque::new(),
            repeats: Vec::new(),
            faults: VecDeque::new(),
            stalled_from: None,
            fence_by_append: false,
            record_limit: 16 << 20,
            told: None,
            closed: false,
        };
        MemoryLog {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                moved: Condvar::new(),
            }),
        }
    }

    /// The stamp of records delivered from now on, unless the last one's was later.
    pub fn set_clock(&self, now: Time) {
        self.shared.state.lock().clock = now;
    }

    pub fn clock(&self) -> Time {
        self.shared.state.lock().clock
    }

    /// Stamps the clock as it is, even when it lies before the last stamp: as a broker does after its leader moved.
    pub fn let_time_go_back(&self, may: bool) {
        self.shared.state.lock().time_may_go_back = may;
    }

    /// A record bigger than this is refused.
    pub fn set_record_limit(&self, bytes: usize) {
        self.shared.state.lock().record_limit = bytes;
    }

    /// Answer a fence with `AppendAndWait`, as a log on a broker does.
    pub fn fence_by_append(&self, by_append: bool) {
        self.shared.state.lock().fence_by_append = by_append;
    }

    /// From now on readers compute digests from the nearest that was told below, as on a log that stores none: one that
    /// would have to start more than `reach` positions further down is refused. Digests told before are forgotten.
    pub fn forget_digests(&self, reach: u64) {
        let anchors = BTreeMap::from([(Position(0), Hash::ZERO)]);
        self.shared.state.lock().told = Some(Told { anchors, reach });
    }

    /// From now on appended records wait in flight until they are delivered; with `false` all those waiting are.
    pub fn deliver_by_hand(&self, by_hand: bool) {
        self.change(|state| {
            state.by_hand = by_hand;
            if !by_hand {
                state.deliver_all();
            }
        });
    }

    pub fn in_flight(&self) -> usize {
        self.shared.state.lock().in_flight.len()
    }

    /// Delivers the record in flight at this index (0 is the oldest): another than 0 is a reordering. `None`: there is none.
    pub fn deliver(&self, index: usize) -> Option<Position> {
        self.change(|state| state.in_flight.remove(index).map(|bytes| state.deliver(bytes)))
    }

    /// Delivers everything in flight, oldest first, and says how many records that were.
    pub fn deliver_all(&self) -> usize {
        self.change(State::deliver_all)
    }

    /// Loses the record in flight at this index: its append said `Ok`.
    pub fn lose(&self, index: usize) -> bool {
        self.change(|state| state.in_flight.remove(index).is_some())
    }

    /// Delivers a second copy of the record at `position` once `after` more records were delivered; 0 is now. `false`:
    /// nothing stands there.
    pub fn repeat(&self, position: Position, after: u64) -> bool {
        self.change(|state| {
            let Some(record) = state.index(position).and_then(|index| state.records.get(index)) else {
                return false;
            };
            let repeat = Repeat {
                due: Position(state.end().0 + after),
                bytes: record.bytes.clone(),
            };
            state.repeats.push(repeat);
            state.deliver_repeats();
            true
        })
    }

    /// What happens to the next appends, one each; those after are taken.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = AppendFault>) {
        self.shared.state.lock().faults.extend(faults);
    }

    /// Readers get nothing at or after this position until told otherwise; the range shows all.
    pub fn stall_from(&self, position: Option<Position>) {
        self.change(|state| state.stalled_from = position);
    }

    /// Loses every record from `end` on, and what is in flight or due to be repeated: positions are given out again. Readers beyond get
    /// `BeyondEnd` until the log has grown past them; then they read on, none the wiser.
    pub fn cut(&self, end: Position) {
        self.change(|state| {
            let kept = state.index(end).unwrap_or(0);
            state.records.truncate(kept);
            state.in_flight.clear();
            state.repeats.clear();
        });
    }

    /// Drops the records below `start`.
    pub fn trim(&self, start: Position) {
        self.change(|state| {
            while state.start < start
                && let Some(record) = state.records.pop_front()
            {
                state.start = record.position.next();
                state.before_start = record.digest;
            }
        });
    }

    /// The log was deleted and made anew: empty, with another transport id. Old readers and handles do not notice by themselves.
    pub fn recreate(&self, transport_id: [u8; 16]) {
        self.change(|state| {
            state.transport_id = transport_id;
            state.start = Position(0);
            state.before_start = Hash::ZERO;
            state.records.clear();
            state.in_flight.clear();
            state.repeats.clear();
            if let Some(told) = &mut state.told {
                told.anchors.retain(|at, _| *at == Position(0));
            }
        });
    }

    /// After `close`: the same log again.
    pub fn reopen(&self) {
        self.shared.state.lock().closed = false;
    }

    /// Every record that stands on the log, whatever is stalled.
    pub fn records(&self) -> Vec<Record> {
        self.shared.state.lock().records.iter().cloned().collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.shared.state.lock());
        self.shared.moved.notify_all();
        result
    }
}

impl Log for MemoryLog {
    fn transport_id(&self) -> [u8; 16] {
        self.shared.state.lock().transport_id
    }

    fn range(&self) -> Range {
        let state = self.shared.state.lock();
        Range {
            start: state.start,
            end: state.end(),
        }
    }

    fn append(&self, record: Bytes) -> Result<(), LogError> {
        self.change(|state| {
            if state.closed {
                return Err(LogError::Closed);
            }
            if record.len() > state.record_limit {
                return Err(LogError::TooLarge {
                    size: record.len(),
                    limit: state.record_limit,
                });
            }
            let unsettled = || {
                Err(LogError::Unsettled {
                    cause: "told to fail".to_owned(),
                })
            };
            match state.faults.pop_front() {
                None => {
                    state.take(record);
                    Ok(())
                }
                Some(AppendFault::Refuse) => Err(LogError::Full { queued: 0, limit: 0 }),
                Some(AppendFault::Swallow) => Ok(()),
                Some(AppendFault::Fail) => unsettled(),
                Some(AppendFault::TakeAndFail) => {
                    state.take(record);
                    unsettled()
                }
            }
        })
    }

    fn reader(&self, from: Position) -> Result<Box<dyn Reader>, LogError> {
        let state = self.shared.state.lock();
        state.check(from)?;
        Ok(Box::new(MemoryReader {
            shared: self.shared.clone(),
            next: from,
            computed: state.computed_before(from)?,
        }))
    }

    fn anchor(&self, tip: Tip) {
        if let Some(told) = &mut self.shared.state.lock().told {
            told.anchors.insert(tip.position, tip.digest);
        }
    }

    fn fence(&self) -> Result<Fence, LogError> {
        let state = self.shared.state.lock();
        Ok(if state.fence_by_append {
            Fence::AppendAndWait
        } else {
            Fence::At(state.end())
        })
    }

    fn health(&self) -> Result<(), LogError> {
        if self.shared.state.lock().closed {
            Err(LogError::Closed)
        } else {
            Ok(())
        }
    }

    fn close(&self) {
        self.change(|state| state.closed = true);
    }
}

impl State {
    fn end(&self) -> Position {
        Position(self.start.0 + self.records.len() as u64)
    }

    fn index(&self, position: Position) -> Option<usize> {
        position
            .0
            .checked_sub(self.start.0)
            .and_then(|index| usize::try_from(index).ok())
    }

    fn check(&self, from: Position) -> Result<(), LogError> {
        match from {
            from if from < self.start => Err(LogError::BelowStart {
                asked: from,
                start: self.start,
            }),
            from if from > self.end() => Err(LogError::BeyondEnd {
                asked: from,
                end: self.end(),
            }),
            _ => Ok(()),
        }
    }

    /// d(from - 1) from what was told below; `None` where digests are stored.
    fn computed_before(&self, from: Position) -> Result<Option<Hash>, LogError> {
        let Some(told) = &self.told else { return Ok(None) };
        let nearest = told.anchors.range(self.start..=from).next_back();
        let Some((at, digest)) = nearest.filter(|(at, _)| from.0 - at.0 <= told.reach) else {
            let cause = format!("nobody told a digest within {} positions below {from}", told.reach);
            return Err(LogError::Failed {
                what: "a log without digests cannot be read there".to_owned(),
                cause: Arc::new(std::io::Error::other(cause)),
            });
        };
        let (first, end) = ((at.0 - self.start.0) as usize, (from.0 - self.start.0) as usize);
        let between = self.records.range(first..end);
        Ok(Some(between.fold(*digest, |before, record| {
            log_digest(before, record.position, record.time, &record.bytes)
        })))
    }

    fn take(&mut self, record: Bytes) {
        if self.by_hand {
            self.in_flight.push_back(record);
        } else {
            self.deliver(record);
        }
    }

    fn deliver_all(&mut self) -> usize {
        let waiting = std::mem::take(&mut self.in_flight);
        let count = waiting.len();
        for bytes in waiting {
            self.deliver(bytes);
        }
        count
    }

    fn deliver(&mut self, bytes: Bytes) -> Position {
        let position = self.add(bytes);
        self.deliver_repeats();
        position
    }

    fn deliver_repeats(&mut self) {
        while let Some(index) = self.repeats.iter().position(|repeat| repeat.due <= self.end()) {
            let repeat = self.repeats.remove(index);
            self.add(repeat.bytes);
        }
    }

    fn add(&mut self, bytes: Bytes) -> Position {
        let position = self.end();
        let last = self.records.back();
        let time = match last {
            Some(last) if !self.time_may_go_back => self.clock.max(last.time),
            _ => self.clock,
        };
        let before = last.map_or(self.before_start, |last| last.digest);
        let digest = log_digest(before, position, time, &bytes);
        self.records.push_back(Record {
            position,
            time,
            bytes,
            digest,
        });
        position
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
    next: Position,
    /// d(next - 1), where the log stores no digests.
    computed: Option<Hash>,
}

impl Reader for MemoryReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now().checked_add(wait);
        let mut state = self.shared.state.lock();
        loop {
            state.check(self.next)?;
            let visible = state
                .stalled_from
                .map_or(state.end(), |stalled| stalled.min(state.end()));
            if self.next < visible {
                let from = (self.next.0 - state.start.0) as usize;
                let count = (visible.0 - self.next.0) as usize;
                let stored = state.records.range(from..from + count).cloned();
                let mut records = crate::budget(stored, max_records, max_bytes);
                if let Some(computed) = &mut self.computed {
                    for record in &mut records {
                        *computed = log_digest(*computed, record.position, record.time, &record.bytes);
                        record.digest = *computed;
                    }
                }
                self.next = Position(self.next.0 + records.len() as u64);
                return Ok(records);
            }
            if state.closed {
                return Err(LogError::Closed);
            }
            // An expired deadline is looked at after the state: what came at the last moment still counts.
            match deadline {
                Some(deadline) if Instant::now() >= deadline => return Ok(Vec::new()),
                Some(deadline) => {
                    self.shared.moved.wait_until(&mut state, deadline);
                }
                None => self.shared.moved.wait(&mut state),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(records: &[&'static str]) -> MemoryLog {
        let log = MemoryLog::new([7; 16]);
        for record in records {
            log.append(Bytes::from_static(record.as_bytes())).unwrap();
        }
        log
    }

    fn texts(records: &[Record]) -> String {
        records
            .iter()
            .map(|record| std::str::from_utf8(&record.bytes).unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn read(reader: &mut dyn Reader) -> Result<String, LogError> {
        reader
            .read(usize::MAX, usize::MAX, Duration::ZERO)
            .map(|records| texts(&records))
    }

    #[test]
    fn records_in_flight_are_delivered_in_any_order_or_lost() {
        let log = log_of(&[]);
        log.deliver_by_hand(true);
        for record in ["a", "b", "c", "d"] {
            log.append(Bytes::from_static(record.as_bytes())).unwrap();
        }
        assert_eq!(log.range().end, Position(0));
        assert_eq!(log.deliver(2), Some(Position(0)));
        assert!(log.lose(0));
        assert_eq!(log.in_flight(), 2);
        log.deliver_by_hand(false);
        assert_eq!(texts(&log.records()), "c b d");
        assert_eq!(log.deliver(0), None);
        assert!(!log.lose(0));
    }

    #[test]
    fn a_record_is_repeated_now_or_later() {
        let log = log_of(&["a", "b"]);
        assert!(log.repeat(Position(0), 0));
        assert_eq!(texts(&log.records()), "a b a");
        assert!(log.repeat(Position(1), 2));
        for record in ["c", "d", "e"] {
            log.append(Bytes::from_static(record.as_bytes())).unwrap();
        }
        assert_eq!(texts(&log.records()), "a b a c d b e");
        assert!(!log.repeat(Position(7), 0));
    }

    #[test]
    fn an_append_fails_as_it_is_told_to() {
        let log = log_of(&[]);
        log.fail_next([
            AppendFault::Refuse,
            AppendFault::Swallow,
            AppendFault::TakeAndFail,
            AppendFault::Fail,
        ]);
        let answers = ["a", "b", "c", "d", "e"].map(|record| log.append(Bytes::from_static(record.as_bytes())));
        assert!(matches!(
            answers,
            [
                Err(LogError::Full { .. }),
                Ok(()),
                Err(LogError::Unsettled { .. }),
                Err(LogError::Unsettled { .. }),
                Ok(())
            ]
        ));
        assert_eq!(texts(&log.records()), "c e");
    }

    #[test]
    fn a_stalled_log_shows_its_range_and_hides_its_records() {
        let log = log_of(&["a", "b", "c"]);
        log.stall_from(Some(Position(1)));
        let mut reader = log.reader(Position(0)).unwrap();
        assert_eq!(read(&mut *reader).unwrap(), "a");
        assert_eq!(read(&mut *reader).unwrap(), "");
        assert_eq!(log.range().end, Position(3));
        log.stall_from(None);
        assert_eq!(read(&mut *reader).unwrap(), "b c");
    }

    #[test]
    fn after_a_cut_positions_are_given_out_again_with_other_digests() {
        let log = log_of(&["a", "b", "c"]);
        let old = log.records();
        let mut reader = log.reader(Position(3)).unwrap();
        log.cut(Position(1));
        assert!(matches!(
            reader.read(1, 1, Duration::ZERO),
            Err(LogError::BeyondEnd {
                asked: Position(3),
                end: Position(1)
            })
        ));
        for record in ["B", "c", "d"] {
            log.append(Bytes::from_static(record.as_bytes())).unwrap();
        }
        assert_eq!(read(&mut *reader).unwrap(), "d");
        let new = log.records();
        assert_eq!(new[0], old[0]);
        assert_eq!(new[2].bytes, old[2].bytes);
        assert_ne!(new[2].digest, old[2].digest);
    }

    #[test]
    fn a_log_without_digests_computes_them_from_what_it_was_told_near_by() {
        let log = log_of(&["a", "b", "c", "d", "e"]);
        let stored = log.records();
        log.forget_digests(1);
        let from = |position| log.reader(Position(position)).map(|mut reader| reader.read(9, 99, Duration::ZERO).unwrap());
        assert_eq!(from(1).unwrap(), stored[1..]);
        assert!(matches!(from(3), Err(LogError::Failed { .. })));
        let tip = |position: usize, digest| Tip {
            position: Position(position as u64),
            digest,
            time: Time(0),
        };
        log.anchor(tip(3, stored[2].digest));
        assert_eq!(from(3).unwrap(), stored[3..]);
        assert_eq!(from(4).unwrap(), stored[4..]);
        log.anchor(tip(4, Hash::of(b"a lie")));
        assert_ne!(from(4).unwrap()[0].digest, stored[4].digest, "a wrong one shows");
    }

    #[test]
    fn a_recreated_log_is_empty_and_has_another_id() {
        let log = log_of(&["a", "b"]);
        log.recreate([8; 16]);
        assert_eq!(log.transport_id(), [8; 16]);
        assert_eq!(
            log.range(),
            Range {
                start: Position(0),
                end: Position(0)
            }
        );
        assert!(matches!(log.reader(Position(1)), Err(LogError::BeyondEnd { .. })));
    }

    #[test]
    fn a_trimmed_log_keeps_positions_and_digests() {
        let log = log_of(&["a", "b", "c"]);
        let whole = log.records();
        log.trim(Position(2));
        assert_eq!(log.records(), whole[2..]);
        assert!(matches!(
            log.reader(Position(1)),
            Err(LogError::BelowStart { start: Position(2), .. })
        ));
        log.trim(Position(3));
        log.append(Bytes::from_static(b"d")).unwrap();
        let expected = log_digest(whole[2].digest, Position(3), Time(0), b"d");
        assert_eq!(log.records()[0].digest, expected);
    }

    #[test]
    fn stamps_do_not_go_back_unless_told_to() {
        let log = log_of(&[]);
        for clock in [5, 3, 6] {
            log.set_clock(Time(clock));
            log.append(Bytes::from_static(b"x")).unwrap();
        }
        log.let_time_go_back(true);
        log.set_clock(Time(2));
        log.append(Bytes::from_static(b"x")).unwrap();
        let times: Vec<i64> = log.records().iter().map(|record| record.time.0).collect();
        assert_eq!(times, [5, 5, 6, 2]);
    }
}
