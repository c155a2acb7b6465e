//! What one caller may take of a store, so that the others have the rest of the server.
//!
//! Whoever asks too fast is slowed down: the call waits for its turn, first come, first served, and costs next to nothing
//! meanwhile. Whoever has too much under way at once, or would wait for too long, is refused with QUOTA.
//!
//! Callers are told apart by the name that the store knows them by; those that it knows no name for are one. Code of this process that names
//! nobody has no bounds.

use super::Refusal;
use confold_model::code::Code;
use governor::{DefaultDirectRateLimiter, RateLimiter};
use metrics::{Counter, counter};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bounds of each caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Calls that have not ended, those that are being slowed down and streams among them.
    pub calls_in_flight: usize,
    /// Calls, and commits of a stream, a second; as many may come at once after a second of silence. `None`: no bound.
    pub calls_per_second: Option<NonZeroU32>,
    /// Bytes of requests a second, likewise.
    pub bytes_per_second: Option<NonZeroU32>,
}

impl Default for Quota {
    /// One caller alone cannot fill the server, which takes 16,384 calls at once, with refusals that are held back neither.
    fn default() -> Quota {
        Quota {
            calls_in_flight: 4_096,
            calls_per_second: None,
            bytes_per_second: None,
        }
    }
}

/// Allowances that are kept although nothing of them is in use, since what was spent lately counts.
const CALLERS_KEPT: usize = 1_024;

/// After this nothing that was spent counts any more.
const REFILL: Duration = Duration::from_secs(1);

/// So long after it was asked for a call is refused that finds no place.
const REFUSAL_AFTER: Duration = Duration::from_millis(100);

/// Of one store.
pub(super) struct Quotas {
    quota: Quota,
    meters: Meters,
    callers: Mutex<BTreeMap<Arc<str>, Arc<Allowance>>>,
}

/// Of one caller.
pub(super) struct Allowance {
    in_flight: Arc<Semaphore>,
    most_in_flight: usize,
    /// Refusals that are held back.
    refusals: Semaphore,
    /// Held by the one that waits to be taken from `calls` and `bytes`; those behind it wait for this.
    turn: tokio::sync::Mutex<()>,
    calls: Option<Limiter>,
    bytes: Option<Limiter>,
    meters: Meters,
    last_spent: Mutex<Option<Instant>>,
}

struct Limiter {
    burst: NonZeroU32,
    limiter: DefaultDirectRateLimiter,
}

/// A call under way, for as long as it is held.
pub(super) type Place = Arc<OwnedSemaphorePermit>;

impl Quotas {
    pub fn new(quota: Quota, store: &str) -> Quotas {
        Quotas {
            quota,
            meters: Meters::of(store),
            callers: Mutex::default(),
        }
    }

    pub fn of(&self, caller: &Arc<str>) -> Arc<Allowance> {
        let mut callers = self.callers.lock();
        if let Some(allowance) = callers.get(caller) {
            return allowance.clone();
        }
        if callers.len() >= CALLERS_KEPT {
            callers.retain(|_, allowance| !allowance.is_whole());
        }
        let allowance = Arc::new(Allowance::new(&self.quota, self.meters.clone()));
        callers.insert(caller.clone(), allowance.clone());
        allowance
    }
}

impl Allowance {
    fn new(quota: &Quota, meters: Meters) -> Allowance {
        let most_in_flight = quota.calls_in_flight.min(Semaphore::MAX_PERMITS / 2);
        Allowance {
            in_flight: Arc::new(Semaphore::new(most_in_flight)),
            most_in_flight,
            refusals: Semaphore::new(2 * most_in_flight),
            turn: tokio::sync::Mutex::default(),
            calls: quota.calls_per_second.map(Limiter::new),
            bytes: quota.bytes_per_second.map(Limiter::new),
            meters,
            last_spent: Mutex::default(),
        }
    }

    /// Nothing is under way, and what was spent has come back.
    fn is_whole(&self) -> bool {
        let rested = self.last_spent.lock().is_none_or(|spent| spent.elapsed() > REFILL);
        rested && self.in_flight.available_permits() == self.most_in_flight
    }

    /// A place among the calls under way. A refusal comes late, so that whoever asks again at once does not do so all
    /// the time; those that wait for theirs are bounded too.
    pub async fn place(&self) -> Result<Place, Refusal> {
        if let Ok(place) = self.in_flight.clone().try_acquire_owned() {
            return Ok(Arc::new(place));
        }
        if let Ok(_held) = self.refusals.try_acquire() {
            tokio::time::sleep(REFUSAL_AFTER).await;
        }
        Err(self.refused(format!("{} calls of this caller are under way already", self.most_in_flight)))
    }

    fn refused(&self, what: String) -> Refusal {
        self.meters.refused.increment(1);
        Refusal::new(Code::Quota, what)
    }

    /// Waits until a request of this many bytes may go on, and no longer than `patience`.
    pub async fn spend(&self, bytes: impl FnOnce() -> usize, patience: Duration) -> Result<(), Refusal> {
        if self.calls.is_none() && self.bytes.is_none() {
            return Ok(());
        }
        let bytes = if self.bytes.is_some() { bytes() } else { 0 };
        // Whoever waited for what can never come would ask again and wait again.
        if let Some(limiter) = &self.bytes
            && limiter.takes(bytes) > patience
        {
            let (takes, longest) = (limiter.takes(bytes).as_secs(), patience.as_secs());
            return Err(self.refused(format!(
                "a request of {bytes} bytes waits {takes} s at {} bytes a second, and none waits longer than {longest} s",
                limiter.burst
            )));
        }
        let spent = tokio::time::timeout(patience, async {
            let turn = self.turn.try_lock();
            let mut slowed = turn.is_err();
            let _turn = match turn {
                Ok(turn) => turn,
                Err(_) => self.turn.lock().await,
            };
            for (limiter, cost) in [(&self.calls, 1), (&self.bytes, bytes)] {
                if let Some(limiter) = limiter {
                    slowed |= limiter.spend(cost).await;
                }
            }
            if slowed {
                self.meters.slowed.increment(1);
            }
            *self.last_spent.lock() = Some(Instant::now());
        });
        spent.await.map_err(|_| {
            let what = format!("this caller asks for more than its share: a call waited {} s for its turn", patience.as_secs());
            self.refused(what)
        })
    }
}

impl Limiter {
    fn new(rate: NonZeroU32) -> Limiter {
        Limiter {
            burst: rate,
            limiter: RateLimiter::direct(governor::Quota::per_second(rate)),
        }
    }

    /// How long this waits where nobody else waits and a second's worth is there.
    fn takes(&self, cost: usize) -> Duration {
        Duration::from_millis(1_000 * (cost as u64).saturating_sub(self.burst.get().into()) / u64::from(self.burst.get()))
    }

    /// What costs more than may be spent at once is spent piece by piece. `true` where that took time.
    async fn spend(&self, cost: usize) -> bool {
        let mut left = u32::try_from(cost).unwrap_or(u32::MAX);
        let mut slowed = false;
        while let Some(piece) = NonZeroU32::new(left.min(self.burst.get())) {
            left -= piece.get();
            if !matches!(self.limiter.check_n(piece), Ok(Ok(()))) {
                slowed = true;
                // Cannot fail: no piece is larger than the burst.
                _ = self.limiter.until_n_ready(piece).await;
            }
        }
        slowed
    }
}

/// Of all callers of a store together: who they are is nobody's business who reads metrics.
#[derive(Clone)]
struct Meters {
    slowed: Counter,
    refused: Counter,
}

impl Meters {
    fn of(store: &str) -> Meters {
        let shown = |counter: Counter| {
            counter.increment(0);
            counter
        };
        Meters {
            slowed: shown(counter!("confold_calls_slowed_total", "store" => store.to_owned())),
            refused: shown(counter!("confold_calls_over_quota_total", "store" => store.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(calls_in_flight: usize, calls: u32, bytes: u32) -> Quotas {
        let quota = Quota {
            calls_in_flight,
            calls_per_second: NonZeroU32::new(calls),
            bytes_per_second: NonZeroU32::new(bytes),
        };
        Quotas::new(quota, "test")
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    // Q17
    #[tokio::test]
    async fn one_callers_places_are_no_other_callers() {
        let quotas = quotas(2, 0, 0);
        let (ann, bob) = (quotas.of(&"ann".into()), quotas.of(&"bob".into()));
        let held = (ann.place().await.unwrap(), ann.place().await.unwrap());
        let again = quotas.of(&"ann".into());
        let began = Instant::now();
        let refusals = [again.place(), again.place(), again.place()];
        for refused in futures::future::join_all(refusals).await {
            assert_eq!(refused.map(drop).unwrap_err().code(), Code::Quota);
        }
        assert!(began.elapsed() >= REFUSAL_AFTER, "{:?}", began.elapsed());
        bob.place().await.unwrap();
        drop(held);
        ann.place().await.unwrap();
    }

    /// A lower bound of time holds on any machine.
    // Q17
    #[tokio::test]
    async fn what_is_spent_comes_back_at_the_rate_that_was_given() {
        let quotas = quotas(1, 100, 0);
        let ann = quotas.of(&"ann".into());
        let began = Instant::now();
        for _ in 0..150 {
            ann.spend(|| unreachable!("nobody asks for bytes"), PATIENCE).await.unwrap();
        }
        assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    }

    // Q17
    #[tokio::test]
    async fn a_request_larger_than_a_seconds_share_is_spent_piece_by_piece() {
        let quotas = quotas(1, 0, 1_000);
        let ann = quotas.of(&"ann".into());
        let began = Instant::now();
        ann.spend(|| 1_500, PATIENCE).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
        // One that would never get its turn is told so at once, and spends nothing.
        let began = Instant::now();
        let refused = ann.spend(|| 1_000_000, PATIENCE).await.unwrap_err();
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(
            refused.into_detail().detail,
            "a request of 1000000 bytes waits 999 s at 1000 bytes a second, and none waits longer than 60 s"
        );
        // So is one behind others, when its time is over.
        let refused = ann.spend(|| 1_000, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Quota);
    }

    // Q17
    #[tokio::test]
    async fn callers_that_came_and_went_are_forgotten() {
        let quotas = quotas(1, 10, 0);
        let busy = quotas.of(&"busy".into());
        let held = busy.place().await.unwrap();
        for caller in 0..2 * CALLERS_KEPT {
            quotas.of(&caller.to_string().into());
        }
        assert!(quotas.callers.lock().len() <= CALLERS_KEPT);
        assert!(Arc::ptr_eq(&busy, &quotas.of(&"busy".into())));
        drop(held);
    }
}
