//! What a caller can ask of a store, whether it runs in this process or behind a socket.
//!
//! One method per call of `service Store` in `proto/confold/v1/service.proto`, whose comments are the contract. A refusal
//! is a `tonic::Status` that carries an `ErrorDetail` (`crate::status`), also in process, so that callers handle one kind
//! of error. The replica's service, the embedded store and the remote client implement this trait; the gRPC and HTTP
//! servers and the command line call it.

use crate::pb;
use async_trait::async_trait;
use std::pin::Pin;
use tonic::Status;

/// A stream of answers, or of requests.
pub type Stream<T> = Pin<Box<dyn tokio_stream::Stream<Item = T> + Send>>;

#[async_trait]
pub trait Api: Send + Sync + 'static {
    async fn commit(&self, request: pb::CommitRequest) -> Result<pb::Decision, Status>;

    /// Ends when the requests end and all of them are answered; a request of the stream that fails ends it.
    async fn commit_stream(
        &self,
        requests: Stream<Result<pb::CommitStreamRequest, Status>>,
    ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status>;

    async fn outcome(&self, request: pb::OutcomeRequest) -> Result<pb::Decision, Status>;
    async fn withdraw(&self, request: pb::WithdrawRequest) -> Result<pb::Decision, Status>;

    async fn get(&self, request: pb::GetRequest) -> Result<pb::GetResponse, Status>;
    async fn list(&self, request: pb::ListRequest) -> Result<pb::ListResponse, Status>;
    async fn list_stream(&self, request: pb::ListRequest) -> Result<Stream<Result<pb::ListResponse, Status>>, Status>;
    async fn diff(&self, request: pb::DiffRequest) -> Result<pb::DiffResponse, Status>;
    async fn diff_stream(&self, request: pb::DiffRequest) -> Result<Stream<Result<pb::DiffResponse, Status>>, Status>;

    async fn log(&self, request: pb::LogRequest) -> Result<pb::LogResponse, Status>;
    async fn show(&self, request: pb::ShowRequest) -> Result<pb::ShowResponse, Status>;
    async fn tag(&self, request: pb::TagRequest) -> Result<pb::Decision, Status>;
    async fn untag(&self, request: pb::UntagRequest) -> Result<pb::Decision, Status>;
    async fn list_tags(&self, request: pb::ListTagsRequest) -> Result<pb::ListTagsResponse, Status>;

    async fn push_schema(&self, request: pb::PushSchemaRequest) -> Result<pb::PushSchemaResponse, Status>;
    async fn get_schema(&self, request: pb::GetSchemaRequest) -> Result<pb::GetSchemaResponse, Status>;

    async fn prune(&self, request: pb::PruneRequest) -> Result<pb::Decision, Status>;
    async fn get_retention(&self, request: pb::GetRetentionRequest) -> Result<pb::GetRetentionResponse, Status>;
    async fn set_retention(&self, request: pb::SetRetentionRequest) -> Result<pb::Decision, Status>;
    async fn get_policy(&self, request: pb::GetPolicyRequest) -> Result<pb::GetPolicyResponse, Status>;
    async fn set_policy(&self, request: pb::SetPolicyRequest) -> Result<pb::Decision, Status>;
    async fn activate(&self, request: pb::ActivateRequest) -> Result<pb::Decision, Status>;
    async fn set_clock(&self, request: pb::SetClockRequest) -> Result<pb::Decision, Status>;
    async fn sync(&self, request: pb::SyncRequest) -> Result<pb::SyncResponse, Status>;
    async fn list_stores(&self, request: pb::ListStoresRequest) -> Result<pb::ListStoresResponse, Status>;
    async fn create_store(&self, request: pb::CreateStoreRequest) -> Result<pb::StoreRow, Status>;
    async fn open_store(&self, request: pb::OpenStoreRequest) -> Result<pb::StoreRow, Status>;
    async fn close_store(&self, request: pb::CloseStoreRequest) -> Result<pb::StoreRow, Status>;
    async fn status(&self, request: pb::StatusRequest) -> Result<pb::StatusResponse, Status>;
    async fn export_log(
        &self,
        request: pb::ExportLogRequest,
    ) -> Result<Stream<Result<pb::ExportLogResponse, Status>>, Status>;
    async fn snapshot(
        &self,
        request: pb::SnapshotRequest,
    ) -> Result<Stream<Result<pb::SnapshotResponse, Status>>, Status>;
}
