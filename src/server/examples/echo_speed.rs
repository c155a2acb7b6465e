//! How fast unary calls go through this server's stack, beside tonic's own: `cargo run --release --example echo_speed`.
//!
//! Load and server share the machine. Three targets: tonic's server with the echo service, ours with the same, and ours
//! with reads of a store that answers from a constant, which is what the service itself costs. At the end, commits on
//! one stream with 1,024 in flight, decided at once.
//! Options: `--seconds N` per figure (default 3).

use bytes::Bytes;
use confold_server::{Options, Server, echo};
use confold_wire::{
    api::{Api, Stream},
    caller::Open,
    pb,
};
use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream,
};
use hdrhistogram::Histogram;
use std::{
    error::Error,
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{
    Status,
    client::Grpc,
    transport::{Channel, Endpoint, server::TcpIncoming},
};

const CLIENTS: [usize; 3] = [1, 16, 64];
const PER_CONNECTION: usize = 8;
const IN_FLIGHT: usize = 1_024;
const PAYLOAD: Bytes = Bytes::from_static(&[7; 256]);

type Failed = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--seconds").skip(1);
    let time = Duration::from_secs(arguments.next().map_or(Ok(3), |seconds| seconds.parse())?);
    let (bare, ours) = (bare().await?, ours().await?);
    for clients in CLIENTS {
        let base = measure("tonic, echo", bare, clients, time, echo_once).await?;
        for (name, rate) in [
            (
                "server, echo",
                measure("server, echo", ours, clients, time, echo_once).await?,
            ),
            (
                "server, Get",
                measure("server, Get", ours, clients, time, get_once).await?,
            ),
        ] {
            println!("{:>38} {:.2} of tonic's", name, rate / base);
        }
    }
    println!(
        "{:>14} {:>11} {:>9.0}/s",
        "CommitStream",
        "1 stream",
        stream(ours, time).await?
    );
    Ok(())
}

/// Commits of one update of 256 bytes each.
async fn stream(address: SocketAddr, time: Duration) -> Result<f64, Failed> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    let value = pb::Value {
        form: Some(pb::value::Form::Proto(PAYLOAD)),
        ..Default::default()
    };
    let operation = pb::TextOperation {
        path: "/devices/olt-1".to_owned(),
        kind: Some(pb::text_operation::Kind::Put(value)),
        ..Default::default()
    };
    let commit = pb::CommitRequest {
        operations: vec![operation],
        ..Default::default()
    };
    let (send, mut receive) = mpsc::channel(IN_FLIGHT);
    let requests = stream::poll_fn(move |cx| receive.poll_recv(cx));
    let mut answers = pb::store_client::StoreClient::new(channel)
        .commit_stream(requests)
        .await?
        .into_inner();
    let end = Instant::now() + time;
    let (mut sent, mut answered) = (0u64, 0u64);
    while answered < sent || Instant::now() < end {
        while sent < answered + IN_FLIGHT as u64 && Instant::now() < end {
            send.send(pb::CommitStreamRequest {
                correlation: sent,
                commit: Some(commit.clone()),
            })
            .await?;
            sent += 1;
        }
        if answered < sent && answers.message().await?.is_some() {
            answered += 1;
        }
    }
    Ok(answered as f64 / time.as_secs_f64())
}

async fn measure(
    name: &str,
    address: SocketAddr,
    clients: usize,
    time: Duration,
    call: fn(Channel) -> BoxFuture<'static, Result<(), Status>>,
) -> Result<f64, Failed> {
    let mut channels = Vec::new();
    for _ in 0..clients.div_ceil(PER_CONNECTION) {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        channels.push(endpoint.connect().await?);
    }
    call(channels[0].clone()).await?;
    let (end, worked) = (Instant::now() + time, processor_time()?);
    let run = |client: usize| {
        let channel = channels[client / PER_CONNECTION].clone();
        tokio::spawn(async move {
            let mut took = Histogram::<u64>::new(3)?;
            loop {
                let begun = Instant::now();
                if begun >= end {
                    return Ok::<_, Failed>(took);
                }
                call(channel.clone()).await?;
                took.record(begun.elapsed().as_nanos().try_into()?)?;
            }
        })
    };
    let mut all = Histogram::<u64>::new(3)?;
    for took in join_all((0..clients).map(run)).await {
        all.add(took??)?;
    }
    let rate = all.len() as f64 / time.as_secs_f64();
    let micros = |quantile| all.value_at_quantile(quantile) / 1_000;
    let each = (processor_time()? - worked).as_micros() as f64 / all.len() as f64;
    let (p50, p99) = (micros(0.5), micros(0.99));
    println!(
        "{name:>14} {clients:>3} clients {rate:>8.0}/s  p50 {p50:>5} µs  p99 {p99:>5} µs  {each:>5.1} µs of CPU each"
    );
    Ok(rate)
}

fn echo_once(channel: Channel) -> BoxFuture<'static, Result<(), Status>> {
    Box::pin(async move {
        echo::call(&mut Grpc::new(channel), echo::Payload { data: PAYLOAD })
            .await
            .map(drop)
    })
}

fn get_once(channel: Channel) -> BoxFuture<'static, Result<(), Status>> {
    let request = pb::GetRequest {
        path: "/devices/olt-1".to_owned(),
        ..Default::default()
    };
    Box::pin(async move { pb::store_client::StoreClient::new(channel).get(request).await.map(drop) })
}

/// What client and server together have worked: on a machine with other work the one figure that can be compared.
fn processor_time() -> Result<Duration, Failed> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th word behind it, in 1/100 s.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

async fn bare() -> Result<SocketAddr, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(echo::EchoServer::default());
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

async fn ours() -> Result<SocketAddr, Failed> {
    let options = Options {
        address: ([127, 0, 0, 1], 0).into(),
        echo: true,
        ..Options::default()
    };
    let server = Server::bind(options, Arc::new(Open(Arc::new(Constant))), Arc::new(Vec::new)).await?;
    let address = server.local_addr();
    tokio::spawn(server.run(std::future::pending()));
    Ok(address)
}

/// Answers reads of one node and decides commits, at once.
struct Constant;

macro_rules! refuse {
    ($($method:ident($Request:ident) -> $Answer:ty;)*) => {
        #[async_trait::async_trait]
        impl Api for Constant {
            async fn get(&self, request: pb::GetRequest) -> Result<pb::GetResponse, Status> {
                let value = pb::Value { form: Some(pb::value::Form::Proto(PAYLOAD)), ..Default::default() };
                let node = pb::Node { path: request.path, value: Some(value), ..Default::default() };
                Ok(pb::GetResponse { nodes: vec![node], ..Default::default() })
            }

            async fn commit_stream(
                &self,
                requests: Stream<Result<pb::CommitStreamRequest, Status>>,
            ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> {
                Ok(Box::pin(requests.map(|request| {
                    let decision = Some(pb::Decision::default());
                    Ok(pb::CommitStreamResponse { correlation: request?.correlation, decision })
                })))
            }

            $(async fn $method(&self, _: pb::$Request) -> Result<$Answer, Status> {
                Err(Status::unimplemented("not measured here"))
            })*
        }
    };
}

refuse! {
    commit(CommitRequest) -> pb::Decision;
    outcome(OutcomeRequest) -> pb::Decision;
    withdraw(WithdrawRequest) -> pb::Decision;
    list(ListRequest) -> pb::ListResponse;
    list_stream(ListRequest) -> Stream<Result<pb::ListResponse, Status>>;
    diff(DiffRequest) -> pb::DiffResponse;
    diff_stream(DiffRequest) -> Stream<Result<pb::DiffResponse, Status>>;
    log(LogRequest) -> pb::LogResponse;
    show(ShowRequest) -> pb::ShowResponse;
    tag(TagRequest) -> pb::Decision;
    untag(UntagRequest) -> pb::Decision;
    list_tags(ListTagsRequest) -> pb::ListTagsResponse;
    push_schema(PushSchemaRequest) -> pb::PushSchemaResponse;
    get_schema(GetSchemaRequest) -> pb::GetSchemaResponse;
    prune(PruneRequest) -> pb::Decision;
    get_retention(GetRetentionRequest) -> pb::GetRetentionResponse;
    set_retention(SetRetentionRequest) -> pb::Decision;
    get_policy(GetPolicyRequest) -> pb::GetPolicyResponse;
    set_policy(SetPolicyRequest) -> pb::Decision;
    activate(ActivateRequest) -> pb::Decision;
    set_clock(SetClockRequest) -> pb::Decision;
    sync(SyncRequest) -> pb::SyncResponse;
    list_stores(ListStoresRequest) -> pb::ListStoresResponse;
    create_store(CreateStoreRequest) -> pb::StoreRow;
    open_store(OpenStoreRequest) -> pb::StoreRow;
    close_store(CloseStoreRequest) -> pb::StoreRow;
    status(StatusRequest) -> pb::StatusResponse;
    export_log(ExportLogRequest) -> Stream<Result<pb::ExportLogResponse, Status>>;
    snapshot(SnapshotRequest) -> Stream<Result<pb::SnapshotResponse, Status>>;
}
