//! Counting and timing.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What came out of one part.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Measured {
    pub operations: u64,
    pub seconds: f64,
    /// Operations per second.
    pub rate: f64,
    /// Microseconds from asking to the answer; absent where operations overlap and none is timed by itself.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// What the machine or the setting says about the figure; may be empty.
    pub note: String,
    /// What else was counted, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<&'static str, f64>,
}

/// Times operations; one per task, put together at the end.
pub struct Recorder {
    latencies: Histogram<u64>,
    operations: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder::new()
    }
}

impl Recorder {
    pub fn new() -> Recorder {
        // From 1 ns to a minute in three digits; these bounds are valid by construction.
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Recorder {
            latencies: latencies.unwrap_or_else(|_| unreachable!("fixed bounds")),
            operations: 0,
        }
    }

    /// One operation that began then and ends now.
    pub fn record(&mut self, began: Instant) {
        let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanoseconds.max(1));
        self.operations += 1;
    }

    /// Operations that were not timed one by one.
    pub fn count(&mut self, operations: u64) {
        self.operations += operations;
    }

    pub fn merge(&mut self, other: &Recorder) {
        // Same bounds, so nothing can be out of them.
        if self.latencies.add(&other.latencies).is_ok() {
            self.operations += other.operations;
        }
    }

    pub fn measured(&self, took: Duration) -> Measured {
        let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
        let timed = !self.latencies.is_empty();
        let at = |quantile| timed.then(|| self.latencies.value_at_quantile(quantile) as f64 / 1_000.0);
        Measured {
            operations: self.operations,
            seconds,
            rate: self.operations as f64 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            note: String::new(),
            counted: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_recorders_are_one() {
        let began = Instant::now();
        let mut all = Recorder::new();
        for _ in 0..3 {
            let mut one = Recorder::new();
            one.record(began);
            one.count(9);
            all.merge(&one);
        }
        let measured = all.measured(Duration::from_secs(2));
        assert_eq!((measured.operations, measured.rate), (30, 15.0));
        assert!(measured.p50_us.is_some_and(|p50| Some(p50) <= measured.p99_us));
        assert_eq!(Recorder::new().measured(Duration::from_secs(1)).p99_us, None);
    }
}
