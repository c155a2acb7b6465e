//! Whether to send traffic here: `/livez`, `/readyz` and gRPC's health service.

use confold_wire::pb;
use futures::stream::BoxStream;
use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb as grpc;

/// How one store is doing right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    pub store: String,
    pub state: pb::State,
    /// Why, where the state is not SERVING.
    pub reason: String,
    /// Records on the log that are not folded yet.
    pub lag: u64,
}

/// Asked at every probe, so it answers at once and from memory.
pub trait HealthSource: Send + Sync + 'static {
    fn stores(&self) -> Vec<StoreHealth>;
}

impl<F: Fn() -> Vec<StoreHealth> + Send + Sync + 'static> HealthSource for F {
    fn stores(&self) -> Vec<StoreHealth> {
        self()
    }
}

/// The stores' health and the server's own.
pub(crate) struct Health {
    source: Arc<dyn HealthSource>,
    ready_lag: u64,
    /// Every store that was there at the start has been ready, or has stopped for good.
    started: AtomicBool,
    stopping: watch::Sender<bool>,
}

impl Health {
    pub fn new(source: Arc<dyn HealthSource>, ready_lag: u64) -> Health {
        Health {
            source,
            ready_lag,
            started: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        }
    }

    /// From here on the server is not ready, whatever its stores say.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Ready when the server has been told to stop.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.subscribe();
        async move {
            // The sender goes with the server, and then there is nothing left to serve either.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }

    pub fn stores(&self) -> Vec<StoreHealth> {
        self.source.stores()
    }

    /// One line per store; `Err` where no traffic should be sent here.
    ///
    /// A server that starts waits for all of its stores, save those that stopped for good. From then on one store that is
    /// ready is enough: what befalls a store must not take the others out of rotation. Who needs one store in particular asks
    /// for it (`store_ready`).
    pub fn ready(&self) -> Result<String, String> {
        if self.is_stopping() {
            return Err("the server is shutting down\n".to_owned());
        }
        let stores = self.stores();
        if stores.is_empty() {
            return Err("no store is open\n".to_owned());
        }
        let any = stores.iter().any(|store| self.store_is_ready(store));
        let settled = |store: &StoreHealth| self.store_is_ready(store) || has_stopped(store.state);
        if any && stores.iter().all(settled) {
            self.started.store(true, Ordering::Relaxed);
        }
        let text = stores.iter().map(|store| self.line(store)).collect();
        if any && self.started.load(Ordering::Relaxed) {
            Ok(text)
        } else {
            Err(text)
        }
    }

    /// The same for one store. `None`: it is not known here.
    pub fn store_ready(&self, name: &str) -> Option<Result<String, String>> {
        let store = self.stores().into_iter().find(|store| store.store == name)?;
        let line = self.line(&store);
        Some(if self.store_is_ready(&store) && !self.is_stopping() {
            Ok(line)
        } else {
            Err(line)
        })
    }

    fn line(&self, store: &StoreHealth) -> String {
        let state = store.state.as_str_name().trim_start_matches("STATE_");
        let mut text = format!("{}: {state}, {} records behind", store.store, store.lag);
        // Writing to a string does not fail.
        if store.lag > self.ready_lag {
            let _ = write!(text, " (ready at {} or fewer)", self.ready_lag);
        }
        if !store.reason.is_empty() {
            let _ = write!(text, ": {}", store.reason);
        }
        text.push('\n');
        text
    }

    pub fn store_is_ready(&self, store: &StoreHealth) -> bool {
        store.state == pb::State::Serving && store.lag <= self.ready_lag
    }

    fn serving_status(&self) -> grpc::health_check_response::ServingStatus {
        match self.ready() {
            Ok(_) => grpc::health_check_response::ServingStatus::Serving,
            Err(_) => grpc::health_check_response::ServingStatus::NotServing,
        }
    }
}

/// Only an operator leads out of these.
fn has_stopped(state: pb::State) -> bool {
    use pb::State::*;
    matches!(state, Fenced | Quarantined | Halted | SnapshotNeeded | Closed)
}

/// `grpc.health.v1.Health`, for the whole server (an empty name) and for the `Store` service alike.
pub(crate) struct HealthService(pub Arc<Health>);

/// A health service has no way to be told: it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn is_known(service: &str) -> bool {
    service.is_empty() || service == <pb::store_server::StoreServer<()> as tonic::server::NamedService>::NAME
}

#[tonic::async_trait]
impl grpc::health_server::Health for HealthService {
    async fn check(
        &self,
        request: Request<grpc::HealthCheckRequest>,
    ) -> Result<Response<grpc::HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found(
                "this server has the services confold.v1.Store and, for itself, \"\"",
            ));
        }
        Ok(Response::new(grpc::HealthCheckResponse {
            status: self.0.serving_status() as i32,
        }))
    }

    type WatchStream = BoxStream<'static, Result<grpc::HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<grpc::HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = is_known(&request.get_ref().service);
        let changes = futures::stream::unfold((Arc::clone(&self.0), None), move |(health, last)| async move {
            loop {
                let status = match known {
                    true => health.serving_status(),
                    false => grpc::health_check_response::ServingStatus::ServiceUnknown,
                };
                if last != Some(status) {
                    let answer = grpc::HealthCheckResponse { status: status as i32 };
                    return Some((Ok(answer), (health, Some(status))));
                }
                // A watch would hold the end up, and has nothing more to say.
                if health.is_stopping() {
                    return None;
                }
                let _ = tokio::time::timeout(LOOK_EVERY, health.stopped()).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
