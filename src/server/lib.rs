//! The network face of a store: gRPC, the same calls as JSON over HTTP, health and metrics, all on one port. Health and metrics
//! may have an address of their own beside it, for those who watch and hold no token.
//!
//! Nothing is decided here. A call is bounded, counted, traced and handed to `Api`; what comes back is written down in
//! the form in which the call was made. JSON over HTTP is translated to and from the gRPC service in this process, so
//! both faces have the same methods, limits and errors by construction.
//!
//! Who calls is known from the connection and one header, and the service that a caller gets comes from its `Gate`. An
//! address that other machines can reach needs both TLS and a way to know who calls, or somebody who says "insecure".

mod connections;
mod door;
pub mod echo;
mod front;
mod grpc;
mod handshake;
mod health;
mod http;
mod limits;
pub mod metrics;
mod peer;
mod tls;

pub use health::{HealthSource, StoreHealth};
pub use limits::Limits;
pub use tls::{Tls, TlsError};

use confold_wire::caller::Gate;
use front::Face;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;

/// Where servers listen and clients look, unless told otherwise.
pub const DEFAULT_PORT: u16 = 7411;

#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0: any free one, see `Server::local_addr`.
    pub address: SocketAddr,
    /// Another address that answers `/metrics`, `/livez` and `/readyz` alone, in clear text and to whoever reaches it.
    pub metrics: Option<SocketAddr>,
    pub limits: Limits,
    /// `None`: everybody on the way can read and change what is said.
    pub tls: Option<Tls>,
    /// Refuse every call that shows no token. Whether a token is good is for the gate to say.
    pub require_token: bool,
    /// Listen on an address that other machines can reach although TLS, or a way to know who calls, is missing.
    pub insecure: bool,
    /// `/readyz` says no for a store that has more records than this to fold.
    pub ready_lag: u64,
    /// Serve gRPC's reflection, so that tools need no .proto files.
    pub reflection: bool,
    /// Serve `echo`, for measuring.
    pub echo: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            address: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            metrics: None,
            limits: Limits::default(),
            tls: None,
            require_token: false,
            insecure: false,
            ready_lag: 10_000,
            reflection: true,
            echo: false,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), BindError> {
        if let Some(metrics) = self.metrics.filter(|metrics| meet(*metrics, self.address)) {
            return Err(BindError::Meet {
                metrics,
                address: self.address,
            });
        }
        let known = self.require_token || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let lacks = match (self.tls.is_some(), known) {
            _ if !is_open(self.address) || self.insecure => return Ok(()),
            (true, true) => return Ok(()),
            (true, false) => {
                "nobody would know who calls: ask for certificates (--client-ca) or for tokens (--require-token)"
            }
            (false, true) => "what is said would be open to everybody on the way: give --tls-cert and --tls-key",
            (false, false) => {
                "nothing protects it: give --tls-cert and --tls-key, and --client-ca or --require-token beside them"
            }
        };
        let address = self.address;
        Err(BindError::Unprotected { address, lacks })
    }
}

/// Others than this machine's own processes reach the address.
fn is_open(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Whether two addresses cannot be listened on at once.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let (this, that) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() != 0 && one.port() == other.port() && (this == that || this.is_unspecified() || that.is_unspecified())
}

/// Why a server could not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "{address} can be reached from other machines, and {lacks}, listen on 127.0.0.1 or [::1], or say --insecure"
    )]
    Unprotected { address: SocketAddr, lacks: &'static str },
    #[error(
        "metrics on {metrics} would meet the calls on {address}: choose another port, or leave out --metrics-listen, \
         since {address} has /metrics too, for callers with the right to administer"
    )]
    Meet { metrics: SocketAddr, address: SocketAddr },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0} is taken by another process: stop that one, or listen on another port (port 0 picks a free one)")]
    Taken(SocketAddr),
    #[error("{0} may not be used by this user: choose a port above 1023")]
    NotAllowed(SocketAddr),
    #[error("cannot listen on {address}: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

/// A server that has its port and does not serve yet: connections wait until `run`.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    monitoring: Option<(TcpListener, SocketAddr)>,
    front: Arc<front::Front>,
    tls: Option<(tls::Certificates, tls::Renewal)>,
    limits: Limits,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that still had calls in flight when the time for them was over.
    pub cut_off: usize,
}

impl Server {
    /// Reads the certificates and takes the ports.
    pub async fn bind(
        options: Options,
        gate: Arc<dyn Gate>,
        health: Arc<dyn HealthSource>,
    ) -> Result<Server, BindError> {
        options.check()?;
        let tls = match options.tls.clone() {
            None => None,
            Some(tls) => Some(tls::Certificates::read(tls)?),
        };
        let (listener, address) = listen(options.address).await?;
        let monitoring = match options.metrics {
            None => None,
            Some(address) => Some(listen(address).await?),
        };
        let limits = options.limits.clone();
        Ok(Server {
            listener,
            address,
            monitoring,
            front: Arc::new(front::Front::new(&options, gate, health)),
            tls,
            limits,
        })
    }

    /// The address that was bound, with the port that was picked where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The same for `Options::metrics`.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.monitoring.as_ref().map(|(_, address)| *address)
    }

    /// Serves until `shutdown` is ready: then takes no more connections and calls, and lets those in flight finish as
    /// long as `Limits::shutdown_grace` allows.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Stopped {
        let Server {
            listener,
            front,
            monitoring,
            tls,
            limits,
            ..
        } = self;
        let watched = async {
            match monitoring {
                None => std::future::pending().await,
                Some((listener, address)) => {
                    let limits = Limits {
                        max_connections: limits.max_monitoring_connections,
                        ..limits.clone()
                    };
                    let (face, until) = (Face::monitoring(address), std::future::pending());
                    connections::serve(listener, Arc::clone(&front), face, None, &limits, until).await
                }
            }
        };
        let calls = async {
            let Some((certificates, renewal)) = tls else {
                return connections::serve(listener, Arc::clone(&front), Face::Calls, None, &limits, shutdown).await;
            };
            let certificates = Arc::new(certificates);
            let fresh = tokio::spawn(Arc::clone(&certificates).keep_fresh(renewal, limits.certificate_interval));
            let certificates = Some(certificates);
            let stopped = connections::serve(
                listener,
                Arc::clone(&front),
                Face::Calls,
                certificates,
                &limits,
                shutdown,
            )
            .await;
            fresh.abort();
            stopped
        };
        // Who watches sees the server stop, up to the last call.
        tokio::select! {
            stopped = calls => stopped,
            stopped = watched => stopped,
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken(address),
        io::ErrorKind::PermissionDenied => BindError::NotAllowed(address),
        _ => BindError::Other { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
