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

/// Records: from one to the most that is folded at once.
const RECORD_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0];

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
        let of = |suffix: &str| Matcher::Suffix(suffix.to_owned());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(of("_seconds"), &BUCKETS).ok()?;
        let builder = builder.set_buckets_for_metric(of("_records"), &RECORD_BUCKETS).ok()?;
        let handle = builder.install_recorder().ok()?;
        describe();
        gauge!("confold_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
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
    process().collect();
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
    failed: [Counter; Failed::ALL.len()],
}

impl Connections {
    pub fn new() -> Connections {
        recorder();
        // Shown from the start, so that the first one counts as a rise.
        counter!("confold_server_unauthenticated_total").absolute(0);
        Connections {
            open: gauge!("confold_server_connections"),
            accepted: counter!("confold_server_connections_total"),
            refused: counter!("confold_server_connections_refused_total"),
            failed: Failed::ALL
                .map(|why| counter!("confold_server_handshakes_failed_total", "reason" => why.name())),
        }
    }

    /// For an address whose connections are nobody's calls.
    pub fn uncounted() -> Connections {
        Connections {
            open: Gauge::noop(),
            accepted: Counter::noop(),
            refused: Counter::noop(),
            failed: Failed::ALL.map(|_| Counter::noop()),
        }
    }

    pub fn handshake_failed(&self, why: Failed) {
        self.failed[why as usize].increment(1);
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

/// Name, kind and meaning of every metric of a server, those of its process included. docs/operations.md has the same table,
/// with what to do.
pub const METRICS: [(&str, &str, &str); 22] = [
    ("confold_build_info", "gauge", "1, with the version as a label."),
    ("confold_server_call_seconds", "histogram", "From a call's arrival to the end of its answer."),
    ("confold_server_calls_total", "counter", "Calls that ended, by gRPC code."),
    ("confold_server_calls_in_flight", "gauge", "Calls that are being answered."),
    ("confold_server_connections", "gauge", "Open connections, without those to the address for metrics alone."),
    ("confold_server_connections_total", "counter", "Connections that were accepted."),
    ("confold_server_connections_refused_total", "counter", "Connections over the limit, closed at once."),
    ("confold_server_handshakes_failed_total", "counter", "Connections that ended before TLS stood, by reason."),
    (
        "confold_server_unauthenticated_total",
        "counter",
        "Calls that did not say who makes them, where that is asked.",
    ),
    (
        "confold_server_certificate_valid_until_seconds",
        "gauge",
        "When the certificate in use ends, in seconds since 1970.",
    ),
    (
        "confold_server_certificates_renewed_total",
        "counter",
        "New certificate files that were taken into use.",
    ),
    (
        "confold_server_certificates_refused_total",
        "counter",
        "New certificate files that could not be used, so that the old ones stayed.",
    ),
    ("confold_store_lag_records", "gauge", "Records on the log that are not folded yet."),
    ("confold_store_ready", "gauge", "1 where the store serves and is not too far behind."),
    // Named as every program names them.
    ("process_cpu_seconds_total", "counter", "Processor time of this process."),
    ("process_max_fds", "gauge", "Files and connections that it may have open."),
    ("process_open_fds", "gauge", "Files and connections that it has open."),
    ("process_resident_memory_bytes", "gauge", "Its memory."),
    ("process_start_time_seconds", "gauge", "When it started, in seconds since 1970."),
    ("process_threads", "gauge", "Its threads."),
    ("process_virtual_memory_bytes", "gauge", "Its address space."),
    ("process_virtual_memory_max_bytes", "gauge", "How large that may grow."),
];

fn describe() {
    process().describe();
    for (name, kind, meaning) in METRICS {
        match kind {
            "gauge" => metrics::describe_gauge!(name, meaning),
            "counter" => metrics::describe_counter!(name, meaning),
            _ => metrics::describe_histogram!(name, meaning),
        }
    }
}

/// What the system knows of this process.
fn process() -> &'static metrics_process::Collector {
    static PROCESS: OnceLock<metrics_process::Collector> = OnceLock::new();
    PROCESS.get_or_init(metrics_process::Collector::default)
}
