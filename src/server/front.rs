//! What every request meets first: gRPC to the right, HTTP to the left.

use crate::{
    HealthSource, Options,
    echo::EchoServer,
    grpc::Grpc,
    health::{Health, HealthService},
    http::Http,
};
use confold_wire::{FILE_DESCRIPTOR_SET, api::Api, pb::store_server::StoreServer};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use std::{convert::Infallible, sync::Arc};
use tonic::{body::Body, codegen::Service, service::Routes};
use tonic_health::pb::health_server::HealthServer;

/// One for the whole server; cheap to clone, since every connection has one.
#[derive(Clone)]
pub(crate) struct Front {
    store: StoreServer<Grpc>,
    echo: Option<EchoServer>,
    /// Health and reflection, and the answer that no such service is here.
    others: Routes,
    http: Arc<Http>,
    health: Arc<Health>,
}

impl Front {
    pub fn new(options: &Options, api: Arc<dyn Api>, source: Arc<dyn HealthSource>) -> Front {
        let limits = &options.limits;
        let health = Arc::new(Health::new(source, options.ready_lag));
        let store = StoreServer::new(Grpc::new(api, Arc::clone(&health), limits.max_calls))
            .max_decoding_message_size(limits.message_bytes())
            .max_encoding_message_size(limits.message_bytes());
        let mut others = Routes::new(HealthServer::new(HealthService(Arc::clone(&health))));
        if options.reflection {
            others = with_reflection(others);
        }
        Front {
            http: Arc::new(Http::new(store.clone(), Arc::clone(&health), limits)),
            store,
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
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if !is_grpc(request.headers().get(CONTENT_TYPE)) {
            let http = Arc::clone(&self.http);
            return Box::pin(async move { Ok(http.answer(request).await) });
        }
        // The two that are called often do not go through a router.
        let path = request.uri().path();
        if path.starts_with("/confold.v1.Store/") {
            return self.store.clone().call(request);
        }
        match self.echo {
            Some(mut echo) if path == crate::echo::PATH => echo.call(request),
            _ => {
                let mut others = self.others.clone();
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
