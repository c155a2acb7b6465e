use crate::{
    messages::{Vlan, vlan},
    store::Mini,
};
use confold_client::{BearerToken, Client, Connection, Error, Options, Pipeline, Remote, Retries, Tls};
use confold_model::code::Code;
use confold_wire::{
    api::Api,
    pb::{self, store_server::StoreServer},
    status,
};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

/// The calls of the service that these tests make, handed on to a store.
struct Served(Mini);

type Answers<T> = confold_wire::api::Stream<Result<T, Status>>;

macro_rules! serve {
    (unary $($call:ident: $request:ident -> $answer:ident),*; stream $($many:ident: $stream:ident: $ask:ident -> $item:ident),*;) => {
        #[async_trait::async_trait]
        impl pb::store_server::Store for Served {
            $(async fn $call(&self, request: Request<pb::$request>) -> Result<Response<pb::$answer>, Status> {
                self.0.$call(request.into_inner()).await.map(Response::new)
            })*

            $(type $stream = Answers<pb::$item>;

            async fn $many(&self, request: Request<pb::$ask>) -> Result<Response<Self::$stream>, Status> {
                self.0.$many(request.into_inner()).await.map(Response::new)
            })*

            type CommitStreamStream = Answers<pb::CommitStreamResponse>;

            async fn commit_stream(
                &self,
                request: Request<Streaming<pb::CommitStreamRequest>>,
            ) -> Result<Response<Self::CommitStreamStream>, Status> {
                self.0.commit_stream(Box::pin(request.into_inner())).await.map(Response::new)
            }
        }
    };
}

serve! {
    unary
    commit: CommitRequest -> Decision,
    outcome: OutcomeRequest -> Decision,
    withdraw: WithdrawRequest -> Decision,
    get: GetRequest -> GetResponse,
    list: ListRequest -> ListResponse,
    diff: DiffRequest -> DiffResponse,
    log: LogRequest -> LogResponse,
    show: ShowRequest -> ShowResponse,
    tag: TagRequest -> Decision,
    untag: UntagRequest -> Decision,
    list_tags: ListTagsRequest -> ListTagsResponse,
    push_schema: PushSchemaRequest -> PushSchemaResponse,
    get_schema: GetSchemaRequest -> GetSchemaResponse,
    prune: PruneRequest -> Decision,
    get_retention: GetRetentionRequest -> GetRetentionResponse,
    set_retention: SetRetentionRequest -> Decision,
    get_policy: GetPolicyRequest -> GetPolicyResponse,
    set_policy: SetPolicyRequest -> Decision,
    activate: ActivateRequest -> Decision,
    set_clock: SetClockRequest -> Decision,
    sync: SyncRequest -> SyncResponse,
    list_stores: ListStoresRequest -> ListStoresResponse,
    create_store: CreateStoreRequest -> StoreRow,
    open_store: OpenStoreRequest -> StoreRow,
    close_store: CloseStoreRequest -> StoreRow,
    status: StatusRequest -> StatusResponse;
    stream
    list_stream: ListStreamStream: ListRequest -> ListResponse,
    diff_stream: DiffStreamStream: DiffRequest -> DiffResponse,
    export_log: ExportLogStream: ExportLogRequest -> ExportLogResponse,
    snapshot: SnapshotStream: SnapshotRequest -> SnapshotResponse;
}

/// Serves on a free port until the runtime ends.
async fn serve(store: &Mini) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = StoreServer::new(Served(store.clone()))
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    address
}

fn retries() -> Retries {
    Retries {
        more: 1,
        first_delay: Duration::ZERO,
        longest_delay: Duration::ZERO,
        give_up_after: None,
    }
}

#[tokio::test]
async fn the_same_is_done_over_a_socket() {
    let store = Mini::new();
    let options = Options {
        connections: 3,
        ..Options::default()
    };
    let remote = Remote::with_options(&serve(&store).await, &options).unwrap();
    let client = Client::new(Arc::new(remote));
    client.put("/vlans/7", &vlan(7, "a")).await.unwrap();
    assert_eq!(client.get::<Vlan>("/vlans/7").await.unwrap(), vlan(7, "a"));
    assert_eq!(client.list::<Vlan>("/vlans", 0).await.unwrap().len(), 1);
    let error = client.remove("/vlans/9").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    let mut pipeline = Pipeline::new(client.connection().clone());
    for _ in 0..20 {
        let operation = pb::TextOperation {
            path: "/vlans/7".to_owned(),
            kind: Some(pb::text_operation::Kind::Update(pb::TextUpdate {
                value: Some(pb::Value {
                    form: Some(pb::value::Form::Proto(vec![8, 7].into())),
                    ..Default::default()
                }),
                mask: Vec::new(),
            })),
            ..Default::default()
        };
        pipeline
            .send(pb::CommitRequest {
                operations: vec![operation],
                ..Default::default()
            })
            .await
            .unwrap();
    }
    while let Some(answer) = pipeline.answer().await.unwrap() {
        answer.result.unwrap();
    }
    assert_eq!(store.revisions(), 2);
}

#[tokio::test]
async fn a_request_that_fails_ends_its_stream_and_is_told_behind_the_last_answer() {
    let store = Mini::new();
    let remote = Remote::connect(&serve(&store).await).unwrap();
    let connection = Connection::new(Arc::new(store.clone()), "");
    let id = connection.mint().await.unwrap().to_string();
    let proposal = Some(pb::Proposal {
        event_id: id,
        ..Default::default()
    });
    let commit = pb::CommitRequest {
        proposal,
        ..Default::default()
    };
    let first = pb::CommitStreamRequest {
        correlation: 5,
        commit: Some(commit),
    };
    let requests = vec![Ok(first.clone()), Err(Status::cancelled("enough")), Ok(first)];
    let mut answers = remote
        .commit_stream(Box::pin(futures::stream::iter(requests)))
        .await
        .unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().correlation, 5);
    assert_eq!(answers.next().await.unwrap().unwrap_err().message(), "enough");
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let remote = Remote::connect(&address).unwrap();
    let refused = remote.status(pb::StatusRequest::default()).await.unwrap_err();
    let detail = status::detail(&refused).unwrap();
    assert_eq!(detail.code, "UNAVAILABLE");
    assert!(
        detail.detail.starts_with(&format!("no server answers at {address}: ")),
        "{}",
        detail.detail
    );
    assert!(detail.hint.contains("confold serve"));
    let client = Client::new(Arc::new(remote)).retries(retries());
    assert_eq!(
        client.remove("/vlans/7").await.unwrap_err().code(),
        Some(Code::Unavailable)
    );
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    // Accepts and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = Options {
        call_timeout: Some(Duration::from_millis(50)),
        ..Options::default()
    };
    let remote = Remote::with_options(&address, &options).unwrap();
    let refused = remote.status(pb::StatusRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::DeadlineExceeded);
    drop(listener);
}

#[tokio::test]
async fn an_answer_that_is_too_big_is_refused() {
    let store = Mini::new();
    let address = serve(&store).await;
    let client = Client::new(Arc::new(Remote::connect(&address).unwrap()));
    client.put("/vlans/7", &vlan(7, &"x".repeat(10_000))).await.unwrap();
    let options = Options {
        max_message_bytes: 5_000,
        ..Options::default()
    };
    let client = Client::new(Arc::new(Remote::with_options(&address, &options).unwrap())).retries(retries());
    let error = client.get::<Vlan>("/vlans/7").await.unwrap_err();
    assert!(
        matches!(&error, Error::Transport(status) if status.code() == tonic::Code::OutOfRange),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_address_is_refused_at_once() {
    for address in [
        "",
        "127.0.0.1",
        "ftp://127.0.0.1:1",
        "a b:7",
        "host:99999",
        "http://",
        "https://",
        "https://db",
    ] {
        let error = Remote::connect(address)
            .err()
            .unwrap_or_else(|| panic!("{address} is none"));
        assert_eq!(error.code(), Some(Code::Unavailable), "{address}");
        assert!(error.to_string().contains(address), "{error}");
    }
    for address in ["127.0.0.1:7411", "localhost:1", "[::1]:7411", "http://127.0.0.1:7411"] {
        assert!(Remote::connect(address).is_ok(), "{address}");
    }
}

#[tokio::test]
async fn a_token_is_not_sent_to_another_machine_in_plain_text() {
    let with_token = |insecure| Options {
        token: BearerToken::new("s3cr3t"),
        insecure,
        ..Options::default()
    };
    for address in [
        "db.example:7411",
        "http://192.0.2.1:7411",
        "[2001:db8::1]:7411",
        "localhost.example:7411",
    ] {
        let error = Remote::with_options(address, &with_token(false)).err().unwrap();
        assert_eq!(error.code(), Some(Code::Unauthenticated), "{address}");
        assert!(!error.to_string().contains("s3cr3t"));
        assert!(Remote::with_options(address, &with_token(true)).is_ok(), "{address}");
    }
    for address in [
        "127.0.0.1:7411",
        "localhost:7411",
        "net.localhost:7411",
        "http://[::1]:7411",
    ] {
        assert!(Remote::with_options(address, &with_token(false)).is_ok(), "{address}");
    }
}

#[tokio::test]
async fn certificates_without_https_are_a_mistake() {
    let options = Options {
        tls: Tls {
            ca: Some(Vec::new()),
            identity: None,
        },
        ..Options::default()
    };
    let error = Remote::with_options("db.example:7411", &options).err().unwrap();
    assert!(error.to_string().contains("no TLS without https://"), "{error}");
    let error = Remote::with_options("https://db.example:7411", &options).err().unwrap();
    assert!(error.to_string().contains("holds no certificate"), "{error}");
}
