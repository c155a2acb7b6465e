//! A server on a port of its own, and small clients for it.

use crate::fake::{Fake, Gatekeeper};
use bytes::{Buf, BufMut, Bytes};
use confold_server::{Options, Server, Stopped, StoreHealth};
use confold_wire::pb;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

pub struct Running {
    pub address: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub fake: Arc<Fake>,
    pub gate: Arc<Gatekeeper>,
    pub health: Arc<Mutex<Vec<StoreHealth>>>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Stopped>,
}

/// With default options.
pub async fn start(fake: Arc<Fake>) -> Running {
    start_with(fake, |_| ()).await
}

pub async fn start_with(fake: Arc<Fake>, change: impl FnOnce(&mut Options)) -> Running {
    let gate = Arc::new(Gatekeeper::of(&fake));
    start_behind(gate, change).await
}

pub async fn start_behind(gate: Arc<Gatekeeper>, change: impl FnOnce(&mut Options)) -> Running {
    let mut options = Options {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..Options::default()
    };
    change(&mut options);
    let health = Arc::new(Mutex::new(vec![serving("net")]));
    let source = Arc::clone(&health);
    let source = move || source.lock().unwrap().clone();
    let server = Server::bind(options, gate.clone(), Arc::new(source)).await.unwrap();
    let (address, metrics) = (server.local_addr(), server.metrics_addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(server.run(async move { drop(stopped.await) }));
    Running {
        address,
        metrics,
        fake: gate.others.clone(),
        gate,
        health,
        stop: Some(stop),
        ended,
    }
}

pub fn serving(store: &str) -> StoreHealth {
    StoreHealth {
        store: store.to_owned(),
        state: pb::State::Serving,
        reason: String::new(),
        lag: 0,
    }
}

impl Running {
    /// Tells it to stop; `ended` says when it has.
    pub fn stop(&mut self) {
        self.stop.take();
    }

    pub async fn ended(mut self) -> Stopped {
        self.stop();
        self.ended.await.unwrap()
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub async fn client(&self) -> pb::store_client::StoreClient<Channel> {
        pb::store_client::StoreClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.post_as("application/json", path, body).await
    }

    pub async fn post_as(&self, content_type: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::post(path).header("content-type", content_type);
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    /// Over a connection of its own.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Answer {
        if !request.headers().contains_key("host") {
            request
                .headers_mut()
                .insert("host", self.address.to_string().parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        Answer(Response::from_parts(parts, body))
    }

    /// The body of an answer that came through TLS.
    pub async fn get_tls(&self, path: &str, ca: &str) -> String {
        let mut stream = crate::tls::connect(self.address, ca).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// What the address for health and metrics answers.
    pub async fn watched(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics.unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// Bytes as they are; answers all that comes back until the server closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }
}

/// What comes until the server closes; a reset is an end too.
pub async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        all.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// A whole answer over HTTP.
#[derive(Debug)]
pub struct Answer(pub Response<Bytes>);

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.body().to_vec()).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.0.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Json {
        assert_eq!(self.header("content-type"), "application/json", "{}", self.text());
        serde_json::from_slice(self.0.body()).unwrap()
    }

    pub fn lines(&self) -> Vec<Json> {
        assert_eq!(self.header("content-type"), "application/x-ndjson", "{}", self.text());
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The error's HTTP status and its `ErrorDetail`.
    pub fn error(&self) -> (u16, Json) {
        assert!(!self.status().is_success(), "{}", self.text());
        (self.status().as_u16(), detail(&self.json()))
    }
}

/// The `ErrorDetail` among the details of a google.rpc.Status.
pub fn detail(status: &Json) -> Json {
    let details = status["details"]
        .as_array()
        .unwrap_or_else(|| panic!("no details in {status}"));
    let found = details
        .iter()
        .find(|detail| detail["@type"] == "type.googleapis.com/confold.v1.ErrorDetail");
    found.unwrap_or_else(|| panic!("no ErrorDetail in {status}")).clone()
}

/// Messages as bytes, for calls by name.
#[derive(Clone, Copy)]
pub struct Raw;

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
