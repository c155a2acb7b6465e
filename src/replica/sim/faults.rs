//! What goes wrong, how often, and how often it did.

use confold_log::memory::AppendFault;
use confold_model::ids::Hash;
use confold_model::objects::{Objects, ObjectsError, ObjectsErrorCause};
use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// One in so many; 0 is never. Drawn anew for every seed, so that some runs are calm and others are not.
#[derive(Clone, Debug)]
pub struct Odds {
    /// For each append.
    pub append_fault: u32,
    pub lost_in_flight: u32,
    /// For each delivery.
    pub repeat: u32,
    pub reorder: u32,
    /// For each replica and turn.
    pub stall: u32,
    pub crash: u32,
    pub old_store: u32,
    pub snapshot: u32,
    pub sweep: u32,
    pub shed: u32,
    /// For each batch.
    pub read_failure: u32,
    /// For each answer.
    pub lost_answer: u32,
    /// For each turn.
    pub log_stall: u32,
    pub clock_jump: u32,
    /// Records at once that mean nothing, as when a log is used by somebody busy.
    pub swell: u32,
}

impl Odds {
    pub fn none() -> Odds {
        Odds {
            append_fault: 0,
            lost_in_flight: 0,
            repeat: 0,
            reorder: 0,
            stall: 0,
            crash: 0,
            old_store: 0,
            snapshot: 0,
            sweep: 0,
            shed: 0,
            read_failure: 0,
            lost_answer: 0,
            log_stall: 0,
            clock_jump: 0,
            swell: 0,
        }
    }

    pub fn any(rng: &mut SmallRng) -> Odds {
        let mut one_in = |low: u32, high: u32| if rng.random_ratio(1, 6) { 0 } else { rng.random_range(low..high) };
        Odds {
            append_fault: one_in(4, 40),
            lost_in_flight: one_in(10, 60),
            repeat: one_in(3, 20),
            reorder: one_in(1, 6),
            stall: one_in(40, 200),
            crash: one_in(40, 200),
            old_store: one_in(1, 4),
            snapshot: one_in(30, 100),
            sweep: one_in(40, 120),
            shed: one_in(4, 30),
            read_failure: one_in(3, 20),
            lost_answer: one_in(5, 40),
            log_stall: one_in(40, 200),
            clock_jump: one_in(30, 200),
            swell: one_in(60, 400),
        }
    }

    /// The same, with everything that copies or walks a whole store this many times as rare.
    pub fn rarer(self, times: u32) -> Odds {
        Odds { crash: self.crash * times.div_ceil(8), snapshot: self.snapshot * times, sweep: self.sweep * times, ..self }
    }
}

pub fn happens(rng: &mut SmallRng, one_in: u32) -> bool {
    one_in > 0 && rng.random_ratio(1, one_in)
}

pub fn append_fault(rng: &mut SmallRng) -> (AppendFault, &'static str) {
    match rng.random_range(0..4) {
        0 => (AppendFault::Refuse, "append refused"),
        1 => (AppendFault::Swallow, "append swallowed"),
        2 => (AppendFault::TakeAndFail, "append taken, said to be unsettled"),
        _ => (AppendFault::Fail, "append lost, said to be unsettled"),
    }
}

/// A store's objects that fail on command.
pub struct Reads<'a> {
    objects: &'a dyn Objects,
    /// Reads until the one that fails; negative: none does.
    countdown: AtomicI64,
    failed: AtomicI64,
    /// Answers with other bytes than those asked for.
    lies: bool,
}

impl<'a> Reads<'a> {
    pub fn good(objects: &'a dyn Objects) -> Reads<'a> {
        Reads { objects, countdown: AtomicI64::new(-1), failed: AtomicI64::new(0), lies: false }
    }

    pub fn fail_after(self, reads: i64) -> Reads<'a> {
        self.countdown.store(reads, Relaxed);
        self
    }

    pub fn lie(self, lies: bool) -> Reads<'a> {
        Reads { lies, ..self }
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed) > 0
    }
}

impl Objects for Reads<'_> {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        if self.countdown.fetch_sub(1, Relaxed) == 0 {
            self.failed.fetch_add(1, Relaxed);
            return Err(ObjectsError { hash: *hash, cause: ObjectsErrorCause::Unavailable("told to fail".into()) });
        }
        let bytes = self.objects.object(hash)?;
        if self.lies {
            let mut other = bytes.to_vec();
            if let Some(last) = other.last_mut() {
                *last ^= 1;
            }
            return Ok(other.into());
        }
        Ok(bytes)
    }
}

/// What happened, by name.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally(pub BTreeMap<String, u64>);

impl Tally {
    pub fn count(&mut self, what: &str) {
        match self.0.get_mut(what) {
            Some(count) => *count += 1,
            None => _ = self.0.insert(what.to_owned(), 1),
        }
    }

    pub fn add(&mut self, other: &Tally) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }
}
