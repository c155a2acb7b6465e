//! The service as JSON over HTTP, for curl, scripts and browsers' tools.
//!
//! * `POST /v1/Get` with the request in protobuf's JSON mapping calls the method of that name, whichever it is.
//! * `GET /v1/get?path=/devices&depth=1` is the same for reads, with friendlier names (`query`).
//! * Methods that stream answer newline-delimited JSON; where the client streams too, it sends the same (`lines`). A
//!   stream that fails ends with a line `{"error": status}`.
//! * An error is a google.rpc.Status in JSON, its `ErrorDetail` among the details, under the HTTP status that goes with
//!   it.

mod lines;
mod query;
mod refusal;

use crate::{Limits, door::Door, grpc::Grpc, health::Health, metrics, metrics::Transport};
use bytes::{Buf, BufMut, Bytes};
use confold_model::code::Code;
use confold_wire::{dynamic::Types, json, pb::store_server::StoreServer};
use futures::Stream;
use http::{
    HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode,
    header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use refusal::Refusal;
use std::{collections::BTreeMap, net::IpAddr, str, sync::Arc, time::Duration};
use tonic::{
    Status, Streaming,
    body::Body,
    client,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};

const SERVICE: &str = "confold.v1.Store";

/// Work on more bytes than this is not done between other people's calls.
const HEAVY_BYTES: usize = 256 << 10;

pub(crate) struct Http {
    types: &'static Types,
    /// By name, e.g. `Get`.
    methods: BTreeMap<String, Method>,
    health: Arc<Health>,
    hosts: Hosts,
    message_bytes: usize,
    body_timeout: Duration,
}

/// One method of the service, as its descriptor tells.
struct Method {
    path: PathAndQuery,
    request: prost_reflect::MessageDescriptor,
    answer: String,
    client_streams: bool,
    server_streams: bool,
}

impl Http {
    pub fn new(health: Arc<Health>, hosts: Hosts, limits: &Limits) -> Http {
        let types = match json::types() {
            Ok(types) => types,
            // Made by the same build as this code.
            Err(error) => panic!("the service's own descriptors cannot be read: {error}"),
        };
        Http {
            types,
            methods: methods(types),
            health,
            hosts,
            message_bytes: limits.message_bytes(),
            body_timeout: limits.body_timeout,
        }
    }

    pub async fn answer(
        self: Arc<Self>,
        door: Arc<Door>,
        store: StoreServer<Grpc>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let called = Called::new(store, request.headers());
        self.route(&door, &called, request)
            .await
            .unwrap_or_else(|refusal| refusal.into_response(self.types))
    }

    async fn route(
        self: &Arc<Self>,
        door: &Door,
        called: &Called,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        self.hosts.check(&request)?;
        if let Some(answer) = self.about_server(&request, || door.may_inspect(request.headers())) {
            return answer;
        }
        match request.uri().path().strip_prefix("/v1/").map(str::to_owned) {
            Some(name) => {
                door.admit(request.headers())?;
                self.call_named(called, &name, request).await
            }
            None => Err(nothing_here(
                "the calls are at /v1/, beside them are /livez, /readyz and /metrics",
            )),
        }
    }

    /// Whatever concerns the server as a whole, and nothing else.
    pub fn monitor(&self, hosts: Hosts, request: &Request<Incoming>) -> Response<Body> {
        let elsewhere = || {
            Err(nothing_here(
                "this address has /metrics, /livez and /readyz; the calls have another",
            ))
        };
        let answer = hosts
            .check(request)
            .and_then(|()| self.about_server(request, || Ok(())).unwrap_or_else(elsewhere));
        answer.unwrap_or_else(|refusal| refusal.into_response(self.types))
    }

    /// `/livez`, `/readyz` and `/metrics`; `None` for any other path.
    fn about_server(
        &self,
        request: &Request<Incoming>,
        may_inspect: impl FnOnce() -> Result<(), Status>,
    ) -> Option<Result<Response<Body>, Refusal>> {
        let path = request.uri().path();
        Some(match path {
            "/livez" | "/readyz" | "/metrics" if !is_read(request) => Err(Refusal::verb("GET")),
            "/livez" => Ok(text(StatusCode::OK, "alive\n".to_owned())),
            "/readyz" => self.ready(request.uri().query().unwrap_or_default(), may_inspect().is_ok()),
            "/metrics" => may_inspect().map_err(Refusal::from).and_then(|()| self.metrics()),
            _ => return None,
        })
    }

    fn ready(&self, query: &str, detail: bool) -> Result<Response<Body>, Refusal> {
        let asked = query::one(query, "store")?;
        let ready = match &asked {
            None => Some(self.health.ready()),
            Some(name) => self.health.store_ready(name),
        };
        // Whether to send traffic here is for everybody to know; which stores are here, and what ails them, is not.
        match (ready, detail) {
            (Some(Ok(lines)), true) => Ok(text(StatusCode::OK, lines)),
            (Some(Err(lines)), true) => Ok(text(StatusCode::SERVICE_UNAVAILABLE, lines)),
            (None, true) => Err(no_store(&asked.unwrap_or_default())),
            (Some(Ok(_)), false) => Ok(text(StatusCode::OK, "ready\n".to_owned())),
            (_, false) => Ok(text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())),
        }
    }

    fn metrics(&self) -> Result<Response<Body>, Refusal> {
        match metrics::page(&self.health) {
            Some(page) => Ok(typed(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                page.into(),
            )),
            None => Err(Refusal::new(
                Code::Unavailable,
                "this process records its metrics elsewhere",
            )),
        }
    }

    async fn call_named(
        self: &Arc<Self>,
        called: &Called,
        name: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let reads = is_read(&request);
        match (query::method_of(name), self.methods.get(name)) {
            (Some(_), _) if !reads => Err(Refusal::verb("GET")),
            (Some(form), _) => self.get(called, form, request).await,
            (None, Some(_)) if *request.method() != Verb::POST => Err(Refusal::verb("POST")),
            (None, Some(method)) => self.post(called, method, request).await,
            (None, None) => Err(self.no_method(name)),
        }
    }

    /// A read, asked for by its friendlier name.
    async fn get(
        self: &Arc<Self>,
        called: &Called,
        form: &query::Form,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let Some(method) = self.methods.get(form.method) else {
            return Err(self.no_method(form.method));
        };
        let request = query::request(form, &method.request, request.uri().query().unwrap_or_default())?;
        let request = self.types.from_json_value(method.request.full_name(), &request)?;
        let answer = one(called, method, request.into()).await?;
        let types = self.types;
        let message = method.answer.clone();
        let answer = heavy(answer.len(), move || types.to_json_pretty(&message, &answer)).await??;
        Ok(typed(StatusCode::OK, "application/json", format!("{answer}\n").into()))
    }

    async fn post(
        self: &Arc<Self>,
        called: &Called,
        method: &Method,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        if method.client_streams {
            check_type(
                request.headers(),
                &["application/x-ndjson", "application/jsonl", "application/json"],
            )?;
            return self.both_stream(called, method, request.into_body()).await;
        }
        if !request.body().is_end_stream() {
            check_type(request.headers(), &["application/json"])?;
        }
        let body = self.collect(request.into_body()).await?;
        let (types, message) = (self.types, method.request.full_name().to_owned());
        let request: Bytes = heavy(body.len(), move || decode(types, &message, &body)).await??;
        if method.server_streams {
            return self.server_streams(called, method, request).await;
        }
        let answer = one(called, method, request).await?;
        let message = method.answer.clone();
        let answer = heavy(answer.len(), move || types.to_json(&message, &answer)).await??;
        Ok(typed(StatusCode::OK, "application/json", format!("{answer}\n").into()))
    }

    /// A body as a whole, if it is not too large and does not dawdle.
    async fn collect(&self, mut body: Incoming) -> Result<Bytes, Refusal> {
        if body.size_hint().lower() > self.message_bytes as u64 {
            return Err(self.too_large("the body"));
        }
        let mut collected = Vec::new();
        while let Some(chunk) = self.chunk(&mut body).await? {
            if collected.len() + chunk.len() > self.message_bytes {
                return Err(self.too_large("the body"));
            }
            collected.extend_from_slice(&chunk);
        }
        Ok(collected.into())
    }

    /// The next piece of a body; trailers are passed over.
    async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = tokio::time::timeout(self.body_timeout, body.frame())
                .await
                .map_err(|_| {
                    let detail = format!("nothing more of the body came for {:?}", self.body_timeout);
                    Refusal::new(Code::Unavailable, detail).http(StatusCode::REQUEST_TIMEOUT)
                })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let detail = format!("the body cannot be read: {error}");
                    return Err(Refusal::new(Code::Malformed, detail).http(StatusCode::BAD_REQUEST));
                }
            }
        }
    }

    fn too_large(&self, what: &str) -> Refusal {
        Refusal::new(
            Code::TooLarge,
            format!("{what} is larger than {} bytes", self.message_bytes),
        )
        .http(StatusCode::PAYLOAD_TOO_LARGE)
    }

    fn no_method(&self, name: &str) -> Refusal {
        let similar = self.methods.keys().find(|known| known.eq_ignore_ascii_case(name));
        let hint = match similar {
            Some(known) => format!("it is POST /v1/{known}"),
            None => format!(
                "POST /v1/ with one of {}; or GET /v1/ with one of {}",
                self.methods.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
                query::FORMS.iter().map(|form| form.name).collect::<Vec<_>>().join(", "),
            ),
        };
        let shown: String = name.chars().take(40).collect();
        Refusal::new(Code::NotFound, format!("there is no call {shown:?}"))
            .hint(hint)
            .http(StatusCode::NOT_FOUND)
    }
}

/// How a request becomes a call: through the gRPC service of this very process, by the same caller.
struct Called {
    store: StoreServer<Grpc>,
    /// Of the request's headers only those that say who calls.
    headers: HeaderMap,
}

impl Called {
    fn new(store: StoreServer<Grpc>, given: &HeaderMap) -> Called {
        let mut headers = HeaderMap::new();
        for value in given.get_all(AUTHORIZATION) {
            headers.append(AUTHORIZATION, value.clone());
        }
        Called { store, headers }
    }

    async fn call(
        &self,
        method: &Method,
        requests: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        // What comes back was bounded where it was encoded.
        let mut client = client::Grpc::new(self.store.clone()).max_decoding_message_size(usize::MAX);
        let mut request = tonic::Request::new(requests);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        request.extensions_mut().insert(Transport::Http);
        client
            .streaming(request, method.path.clone(), Raw)
            .await
            .map(tonic::Response::into_inner)
    }
}

async fn one(called: &Called, method: &Method, request: Bytes) -> Result<Bytes, Refusal> {
    let mut answers = called.call(method, futures::stream::iter([request])).await?;
    match answers.message().await? {
        Some(answer) => Ok(answer),
        None => Err(Refusal::from(Status::internal("the call ended without an answer"))),
    }
}

fn is_read(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Verb::GET | Verb::HEAD)
}

fn methods(types: &Types) -> BTreeMap<String, Method> {
    let service = types.pool().services().find(|service| service.full_name() == SERVICE);
    let methods = service.iter().flat_map(|service| service.methods());
    methods
        .filter_map(|method| {
            let described = Method {
                path: format!("/{SERVICE}/{}", method.name()).parse().ok()?,
                request: method.input(),
                answer: method.output().full_name().to_owned(),
                client_streams: method.is_client_streaming(),
                server_streams: method.is_server_streaming(),
            };
            Some((method.name().to_owned(), described))
        })
        .collect()
}

fn nothing_here(hint: &str) -> Refusal {
    Refusal::new(Code::NotFound, "there is nothing at this address")
        .hint(hint)
        .http(StatusCode::NOT_FOUND)
}

fn no_store(name: &str) -> Refusal {
    let shown: String = name.chars().take(64).collect();
    Refusal::new(Code::NotFound, format!("no store is called {shown:?} here")).hint("/readyz lists them")
}

/// The names under which this server may be addressed over HTTP.
///
/// A web page of another origin can make a browser send requests here. Two things keep it out: requests that change
/// something need a content type for which browsers ask first, and a name that was bent to point here is not answered
/// to. Nobody can bend an address, nor a name without a dot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hosts {
    /// Those of this machine.
    Local,
    /// Also addresses, and names of one word: for those who listen for other machines without TLS.
    Network,
    /// All: with TLS a client has made sure that it reached the one it asked for.
    Any,
}

impl Hosts {
    fn check(self, request: &Request<Incoming>) -> Result<(), Refusal> {
        if self == Hosts::Any {
            return Ok(());
        }
        let header = request
            .headers()
            .get(HOST)
            .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        let Some(host) = request
            .uri()
            .authority()
            .map(|authority| authority.as_str().to_owned())
            .or(header)
        else {
            return Ok(());
        };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let network = self == Hosts::Network;
        let known = match address {
            Ok(address) => network || address.to_canonical().is_loopback(),
            Err(_) if network && !name.is_empty() && !name.contains('.') => true,
            Err(_) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
        };
        if known {
            return Ok(());
        }
        let shown: String = host.chars().take(80).collect();
        Err(Refusal::new(
            Code::Permission,
            format!("this server does not answer to the name {shown:?}"),
        )
        .hint(if network {
            "address it by its IP address, or serve with TLS"
        } else {
            "address it as localhost or 127.0.0.1"
        }))
    }
}

fn check_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Refusal> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(
            Refusal::new(Code::Unsupported, "a compressed body is not understood here")
                .hint("send it as it is, without content-encoding")
                .http(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        );
    }
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if accepted.iter().any(|accepted| essence.eq_ignore_ascii_case(accepted)) {
        return Ok(());
    }
    let shown: String = essence.chars().take(80).collect();
    let detail = format!("a body of type {shown:?} is not understood here");
    Err(Refusal::new(Code::Unsupported, detail)
        .hint(match accepted {
            [only] => format!("send content-type: {only}, as `curl --json` does"),
            several => format!("send content-type: {}", several.join(" or ")),
        })
        .http(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// Wire bytes of a request; an empty body is a request with nothing set.
fn decode(types: &Types, message: &str, body: &[u8]) -> Result<Bytes, Refusal> {
    let text = str::from_utf8(body).map_err(|error| {
        let place = refusal::line_and_column(&body[..error.valid_up_to()]);
        Refusal::new(Code::TypeMismatch, format!("{place}: not UTF-8"))
    })?;
    if text.trim().is_empty() {
        return Ok(Bytes::new());
    }
    Ok(types.from_json(message, text)?.into())
}

/// Runs beside the calls where there is much to do.
async fn heavy<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    if bytes < HEAVY_BYTES {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Refusal::from(Status::internal("the translation of a message was broken off")))
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", text.into())
}

fn typed(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    with_headers(code, content_type, Body::new(Full::new(body)))
}

fn with_headers(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn allowing(mut response: Response<Body>, verb: &'static str) -> Response<Body> {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(verb));
    response
}

/// Messages as bytes: they are translated by their descriptors, so nobody here needs their types.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
