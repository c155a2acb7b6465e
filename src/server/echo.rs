//! The limit to measure against: a call that does nothing, through the same sockets, limits and codec as all others.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use std::convert::Infallible;
use tonic::{Request, Response, Status, body::Body, client, codegen::Service, server};
use tonic_prost::ProstCodec;

pub const PATH: &str = "/confold.v1.Echo/Echo";

/// Sent and answered as it is. On the wire a message with one field of bytes, number 1.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

/// Calls an echo server over any client channel.
pub async fn call<T>(client: &mut client::Grpc<T>, payload: Payload) -> Result<Payload, Status>
where
    T: client::GrpcService<Body>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.into().to_string()))?;
    let codec = ProstCodec::<Payload, Payload>::default();
    client
        .unary(Request::new(payload), PathAndQuery::from_static(PATH), codec)
        .await
        .map(Response::into_inner)
}

/// The service itself, as a tower service for tonic's own server or for ours.
#[derive(Clone, Copy, Debug, Default)]
pub struct EchoServer {
    /// Largest payload, in bytes; 0: tonic's default.
    pub message_bytes: usize,
}

impl server::NamedService for EchoServer {
    const NAME: &'static str = "confold.v1.Echo";
}

impl<B> Service<http::Request<B>> for EchoServer
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let limit = (self.message_bytes > 0).then_some(self.message_bytes);
        Box::pin(async move {
            let mut grpc = server::Grpc::new(ProstCodec::<Payload, Payload>::default())
                .apply_max_message_size_config(limit, limit);
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

struct Echo;

impl server::UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = BoxFuture<'static, Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}
