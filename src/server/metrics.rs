//! What is counted, and `/metrics`.
//!
//! The whole process shares one recorder: what replica, log and store count through the `metrics` facade appears on the
//! same page.

use crate::{handshake::Failed, health::Health};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tonic::Code;

/// In seconds: from a read in memory to a transaction of 100,000 entries on a slow disk.
const BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const CODES: usize = 17;

/// Installs Prometheus' recorder for the whole process, if it is not there yet. What is counted before goes nowhere, so
/// whoever runs a server calls this before opening a store; `Server::bind` does it too.
///
/// `false` where a recorder of another kind was installed first: then there is no `/metrics`.
pub fn install() -> bool {
    recorder().is_some()
}

pub(crate) fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS);
        let handle = builder.ok()?.install_recorder().ok()?;
        describe();
        Some(handle)
    };
    HANDLE.get_or_init(install).as_ref()
}

/// The page, with the stores' health as it is now. `None` where there is no recorder to ask.
pub(crate) fn page(health: &Health) -> Option<String> {
    let handle = recorder()?;
    for store in health.stores() {
        gauge!("confold_store_lag_records", "store" => store.store.clone()).set(store.lag as f64);
        let ready = f64::from(u8::from(health.store_is_ready(&store)));
        gauge!("confold_store_ready", "store" => store.store).set(ready);
    }
    handle.run_upkeep();
    Some(handle.render())
}

/// How a call came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Grpc,
    Http,
}

/// Meters of all methods, looked up once.
pub(crate) struct Meters {
    methods: Vec<[Meter; 2]>,
    in_flight: AtomicUsize,
    in_flight_gauge: Gauge,
    max_calls: usize,
}

struct Meter {
    method: &'static str,
    transport: &'static str,
    seconds: Histogram,
    /// Made when the code first occurs, so that the page shows what has happened and nothing else.
    codes: [OnceLock<Counter>; CODES],
}

impl Meters {
    pub fn new(methods: &[&'static str], max_calls: usize) -> Meters {
        recorder();
        Meters {
            methods: methods
                .iter()
                .map(|method| [Meter::new(method, "grpc"), Meter::new(method, "http")])
                .collect(),
            in_flight: AtomicUsize::new(0),
            in_flight_gauge: gauge!("confold_server_calls_in_flight"),
            max_calls,
        }
    }

    /// A call begins. `None` where there are too many in flight already; it is counted as UNAVAILABLE.
    pub fn begin(self: &Arc<Self>, method: usize, transport: Transport) -> Option<Call> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_flight_gauge.increment(1.0);
        let call = Call {
            meters: self.clone(),
            method,
            transport,
            begun: Instant::now(),
            code: Code::Cancelled,
        };
        if before < self.max_calls {
            return Some(call);
        }
        call.end(Code::Unavailable);
        None
    }

    pub fn max_calls(&self) -> usize {
        self.max_calls
    }
}

impl Meter {
    fn new(method: &'static str, transport: &'static str) -> Meter {
        Meter {
            method,
            transport,
            seconds: histogram!("confold_server_call_seconds", "method" => method, "transport" => transport),
            codes: [const { OnceLock::new() }; CODES],
        }
    }

    fn count(&self, code: Code) {
        let index = usize::try_from(code as i32).unwrap_or(0).min(CODES - 1);
        let counter = self.codes[index].get_or_init(|| {
            let code = format!("{code:?}");
            let (method, transport) = (self.method, self.transport);
            counter!("confold_server_calls_total", "method" => method, "transport" => transport, "code" => code)
        });
        counter.increment(1);
    }
}

/// A call in flight. Dropped without an end it was cancelled: the client is gone.
pub(crate) struct Call {
    meters: Arc<Meters>,
    method: usize,
    transport: Transport,
    begun: Instant,
    code: Code,
}

impl Call {
    pub fn end(mut self, code: Code) {
        self.code = code;
    }

    /// What it ends with, unless something else becomes known.
    pub fn will_end(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let meter = &self.meters.methods[self.method][self.transport as usize];
        meter.seconds.record(self.begun.elapsed().as_secs_f64());
        meter.count(self.code);
        self.meters.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.meters.in_flight_gauge.decrement(1.0);
    }
}

/// Open connections, those that were one too many, and those that never got as far as a first request.
pub(crate) struct Connections {
    pub open: Gauge,
    pub accepted: Counter,
    pub refused: Counter,
    failed: [OnceLock<Counter>; Failed::ALL.len()],
}

impl Connections {
    pub fn new() -> Connections {
        recorder();
        Connections {
            open: gauge!("confold_server_connections"),
            accepted: counter!("confold_server_connections_total"),
            refused: counter!("confold_server_connections_refused_total"),
            failed: [const { OnceLock::new() }; Failed::ALL.len()],
        }
    }

    pub fn handshake_failed(&self, why: Failed) {
        let counter = || counter!("confold_server_handshakes_failed_total", "reason" => why.name());
        self.failed[why as usize].get_or_init(counter).increment(1);
    }
}

/// The server's own certificate, and how its renewal goes.
pub(crate) struct Certificates {
    pub not_after: Gauge,
    pub renewed: Counter,
    pub refused: Counter,
}

impl Certificates {
    pub fn new() -> Certificates {
        recorder();
        Certificates {
            not_after: gauge!("confold_server_certificate_valid_until_seconds"),
            renewed: counter!("confold_server_certificates_renewed_total"),
            refused: counter!("confold_server_certificates_refused_total"),
        }
    }
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(
        "confold_server_call_seconds",
        "From a call's arrival to the end of its answer."
    );
    describe_counter!("confold_server_calls_total", "Calls that ended, by gRPC code.");
    describe_gauge!("confold_server_calls_in_flight", "Calls that are being answered.");
    describe_gauge!("confold_server_connections", "Open connections.");
    describe_counter!("confold_server_connections_total", "Connections that were accepted.");
    describe_counter!(
        "confold_server_connections_refused_total",
        "Connections over the limit, closed at once."
    );
    describe_counter!(
        "confold_server_handshakes_failed_total",
        "Connections that ended before TLS stood, by reason."
    );
    describe_counter!(
        "confold_server_unauthenticated_total",
        "Calls that did not say who makes them, where that is asked."
    );
    describe_gauge!(
        "confold_server_certificate_valid_until_seconds",
        "When the certificate in use ends, in seconds since 1970."
    );
    describe_counter!(
        "confold_server_certificates_renewed_total",
        "New certificate files that were taken into use."
    );
    describe_counter!(
        "confold_server_certificates_refused_total",
        "New certificate files that could not be used, so that the old ones stayed."
    );
    describe_gauge!(
        "confold_store_lag_records",
        "Records on the log that are not folded yet."
    );
    describe_gauge!(
        "confold_store_ready",
        "1 where the store serves and is not too far behind."
    );
}
