//! The network face of a store: gRPC, the same calls as JSON over HTTP, health and metrics, all on one port.
//!
//! Nothing is decided here. A call is bounded, counted, traced and handed to `Api`; what comes back is written down in
//! the form in which the call was made. JSON over HTTP is translated to and from the gRPC service in this process, so
//! both faces have the same methods, limits and errors by construction.
//!
//! This version listens on loopback only, since it knows neither TLS nor who is calling.

mod connections;
pub mod echo;
mod front;
mod grpc;
mod health;
mod http;
mod limits;
pub mod metrics;

pub use health::{HealthSource, StoreHealth};
pub use limits::Limits;

use confold_wire::api::Api;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;

/// Where servers listen and clients look, unless told otherwise.
pub const DEFAULT_PORT: u16 = 7411;

#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0: any free one, see `Server::local_addr`.
    pub address: SocketAddr,
    pub limits: Limits,
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
            limits: Limits::default(),
            ready_lag: 10_000,
            reflection: true,
            echo: false,
        }
    }
}

/// Why a server could not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "{0} can be reached from other machines, and this version knows neither TLS nor who is calling: listen on \
         127.0.0.1 or [::1], and let others in through a tunnel or a proxy that authenticates them"
    )]
    NotLoopback(SocketAddr),
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
    front: front::Front,
    limits: Limits,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that still had calls in flight when the time for them was over.
    pub cut_off: usize,
}

impl Server {
    /// Takes the port, and nothing but the port.
    pub async fn bind(options: Options, api: Arc<dyn Api>, health: Arc<dyn HealthSource>) -> Result<Server, BindError> {
        let address = options.address;
        if !address.ip().to_canonical().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken(address),
            io::ErrorKind::PermissionDenied => BindError::NotAllowed(address),
            _ => BindError::Other { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let limits = options.limits.clone();
        Ok(Server {
            listener,
            address,
            front: front::Front::new(&options, api, health),
            limits,
        })
    }

    /// The address that was bound, with the port that was picked where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready: then takes no more connections and calls, and lets those in flight finish as
    /// long as `Limits::shutdown_grace` allows.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Stopped {
        connections::serve(self.listener, self.front, &self.limits, shutdown).await
    }
}
