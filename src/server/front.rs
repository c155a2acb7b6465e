//! What every request meets first: gRPC to the right, HTTP to the left.

use crate::{
    HealthSource, Options,
    door::Door,
    echo::EchoServer,
    grpc::{self, Grpc},
    health::{Health, HealthService},
    http::{Hosts, Http},
    is_open,
    metrics::Meters,
};
use confold_wire::{
    FILE_DESCRIPTOR_SET,
    caller::{Caller, Gate},
    pb::store_server::StoreServer,
};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use std::{convert::Infallible, net::SocketAddr, sync::Arc};
use tonic::{body::Body, codegen::Service, service::Routes};
use tonic_health::pb::health_server::HealthServer;

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Face {
    /// Everything, to whom the gate lets in.
    Calls,
    /// Health and metrics, to whoever asks under one of these names.
    Monitoring(Hosts),
}

impl Face {
    pub fn monitoring(address: SocketAddr) -> Face {
        // Whoever gave out an address for other machines gave out what it tells.
        Face::Monitoring(if is_open(address) { Hosts::Any } else { Hosts::Local })
    }
}

/// One for the whole server.
pub(crate) struct Front {
    gate: Arc<dyn Gate>,
    require_token: bool,
    meters: Arc<Meters>,
    message_bytes: usize,
    echo: Option<EchoServer>,
    /// Health and reflection, and the answer that no such service is here.
    others: Routes,
    http: Arc<Http>,
    health: Arc<Health>,
}

impl Front {
    pub fn new(options: &Options, gate: Arc<dyn Gate>, source: Arc<dyn HealthSource>) -> Front {
        let limits = &options.limits;
        let health = Arc::new(Health::new(source, options.ready_lag));
        let mut others = Routes::new(HealthServer::new(HealthService(Arc::clone(&health))));
        if options.reflection {
            others = with_reflection(others);
        }
        let hosts = match (&options.tls, is_open(options.address)) {
            (Some(_), _) => Hosts::Any,
            (None, true) => Hosts::Network,
            (None, false) => Hosts::Local,
        };
        Front {
            gate,
            require_token: options.require_token,
            meters: grpc::meters(limits.max_calls),
            message_bytes: limits.message_bytes(),
            http: Arc::new(Http::new(Arc::clone(&health), hosts, limits)),
            echo: options.echo.then(|| EchoServer {
                message_bytes: limits.message_bytes(),
            }),
            others: others.prepare(),
            health,
        }
    }

    /// No longer ready, so that nobody sends traffic here any more.
    pub fn stop(&self) {
        self.health.stop();
    }

    /// What answers the requests of one connection. Nothing is made anew for a call.
    pub fn for_caller(self: &Arc<Front>, face: Face, caller: Caller) -> Answering {
        let door = Arc::new(Door::new(Arc::clone(&self.gate), self.require_token, caller));
        let grpc = Grpc::new(Arc::clone(&door), Arc::clone(&self.meters), Arc::clone(&self.health));
        let store = StoreServer::new(grpc)
            .max_decoding_message_size(self.message_bytes)
            .max_encoding_message_size(self.message_bytes);
        Answering {
            front: Arc::clone(self),
            face,
            door,
            store,
        }
    }
}

pub(crate) struct Answering {
    front: Arc<Front>,
    face: Face,
    door: Arc<Door>,
    store: StoreServer<Grpc>,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if let Face::Monitoring(hosts) = self.face {
            return Box::pin(std::future::ready(Ok(self.front.http.monitor(hosts, &request))));
        }
        if !is_grpc(request.headers().get(CONTENT_TYPE)) {
            let http = Arc::clone(&self.front.http);
            let (door, store) = (Arc::clone(&self.door), self.store.clone());
            return Box::pin(async move { Ok(http.answer(door, store, request).await) });
        }
        let path = request.uri().path();
        let store = path.starts_with("/confold.v1.Store/");
        let admitted = match path {
            _ if store => self.door.admit(request.headers()),
            // Whether this server lives is for everybody to know; what else there is, is not.
            _ if path.starts_with("/grpc.health.v1.Health/") => Ok(()),
            _ => self.door.may_inspect(request.headers()),
        };
        if let Err(refusal) = admitted {
            return Box::pin(async move { Ok(refusal.into_http()) });
        }
        // The two that are called often do not go through a router.
        if store {
            return self.store.clone().call(request);
        }
        match self.front.echo {
            Some(mut echo) if path == crate::echo::PATH => echo.call(request),
            _ => {
                let mut others = self.front.others.clone();
                Box::pin(async move { others.call(request).await })
            }
        }
    }
}

/// `application/grpc`, also with a suffix or parameters, but not the forms for browsers.
fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let rest = content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        // The descriptors were made by the same build as this code.
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection is not served: its descriptors cannot be read");
            routes
        }
    }
}
