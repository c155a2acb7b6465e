//! How much one client, and all of them together, may ask of the server.

use std::time::Duration;

/// What a message may be larger than the event it carries or shows: ids, hashes, paths, hints.
const BESIDE_THE_EVENT: usize = 1 << 20;

/// Every limit has a number, and none of them is "none". Times are of the server's monotonic clock.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The store's `max_event_bytes`; messages and bodies may be 1 MiB larger.
    pub max_event_bytes: usize,
    /// Open connections. One more is closed as soon as it is accepted.
    pub max_connections: usize,
    /// The same for the address of `Options::metrics`.
    pub max_monitoring_connections: usize,
    /// Calls in flight on one HTTP/2 connection.
    pub max_streams: u32,
    /// Calls in flight on all connections. One more is refused with UNAVAILABLE.
    pub max_calls: usize,
    /// All headers of one request together, in bytes.
    pub header_bytes: u32,
    /// From a connection's beginning to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// Handshakes under way. One more, and the one that has taken longest is broken off.
    pub max_handshakes: usize,
    /// How often the certificate files are looked at.
    pub certificate_interval: Duration,
    /// From the first byte of a connection to a known protocol, and from there to a whole request head.
    pub header_timeout: Duration,
    /// The longest pause within a request's JSON body.
    pub body_timeout: Duration,
    /// How long a connection that has ended here may take to end at the client; what it sends meanwhile is dropped.
    pub linger_timeout: Duration,
    /// How often a silent HTTP/2 client is asked whether it still lives, and how long it has to answer.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// After this a connection takes no more calls (clients open a new one by themselves) …
    pub max_connection_age: Duration,
    /// … and after that much more it is cut off.
    pub max_connection_age_grace: Duration,
    /// How long calls in flight may take once the server is told to stop.
    pub shutdown_grace: Duration,
}

impl Limits {
    /// The largest message over gRPC and the largest body over HTTP, in either direction.
    pub fn message_bytes(&self) -> usize {
        self.max_event_bytes.saturating_add(BESIDE_THE_EVENT)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_event_bytes: 16 << 20,
            max_connections: 8_192,
            max_monitoring_connections: 64,
            max_streams: 256,
            max_calls: 16_384,
            header_bytes: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 1_024,
            certificate_interval: Duration::from_secs(1),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            max_connection_age: Duration::from_secs(3_600),
            max_connection_age_grace: Duration::from_secs(3_600),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
