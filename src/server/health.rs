//! Whether to send traffic here: `/livez`, `/readyz` and gRPC's health service.

use confold_wire::pb;
use futures::stream::BoxStream;
use std::{fmt::Write, sync::Arc, time::Duration};
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
    stopping: watch::Sender<bool>,
}

impl Health {
    pub fn new(source: Arc<dyn HealthSource>, ready_lag: u64) -> Health {
        Health {
            source,
            ready_lag,
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

    /// One line per store; `Err` where at least one of them is a reason not to send traffic here.
    pub fn ready(&self) -> Result<String, String> {
        if self.is_stopping() {
            return Err("the server is shutting down\n".to_owned());
        }
        let stores = self.stores();
        if stores.is_empty() {
            return Err("no store is open\n".to_owned());
        }
        let mut ready = true;
        let mut text = String::new();
        for store in &stores {
            ready &= self.store_is_ready(store);
            let state = store.state.as_str_name().trim_start_matches("STATE_");
            // Writing to a string does not fail.
            let _ = write!(text, "{}: {state}, {} records behind", store.store, store.lag);
            if store.lag > self.ready_lag {
                let _ = write!(text, " (ready at {} or fewer)", self.ready_lag);
            }
            if !store.reason.is_empty() {
                let _ = write!(text, ": {}", store.reason);
            }
            text.push('\n');
        }
        if ready { Ok(text) } else { Err(text) }
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
