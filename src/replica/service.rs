use async_trait::async_trait; use confold_wire::{api::{Api,Stream},pb}; use tonic::Status; use crate::Handle;
pub struct Service;
impl Service { pub fn new(_: Vec<Handle>) -> Service { Service } }
pub fn state(_: crate::ReplicaState) -> pb::State { pb::State::Serving }
#[async_trait]
impl Api for Service {
    async fn commit(&self, _request: pb::CommitRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn commit_stream(
        &self,
        _requests: Stream<Result<pb::CommitStreamRequest, Status>>,
    ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> { panic!() }
    async fn outcome(&self, _request: pb::OutcomeRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn withdraw(&self, _request: pb::WithdrawRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn get(&self, _request: pb::GetRequest) -> Result<pb::GetResponse, Status> { panic!() }
    async fn list(&self, _request: pb::ListRequest) -> Result<pb::ListResponse, Status> { panic!() }
    async fn list_stream(&self, _request: pb::ListRequest) -> Result<Stream<Result<pb::ListResponse, Status>>, Status> { panic!() }
    async fn diff(&self, _request: pb::DiffRequest) -> Result<pb::DiffResponse, Status> { panic!() }
    async fn diff_stream(&self, _request: pb::DiffRequest) -> Result<Stream<Result<pb::DiffResponse, Status>>, Status> { panic!() }
    async fn log(&self, _request: pb::LogRequest) -> Result<pb::LogResponse, Status> { panic!() }
    async fn show(&self, _request: pb::ShowRequest) -> Result<pb::ShowResponse, Status> { panic!() }
    async fn tag(&self, _request: pb::TagRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn untag(&self, _request: pb::UntagRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn list_tags(&self, _request: pb::ListTagsRequest) -> Result<pb::ListTagsResponse, Status> { panic!() }
    async fn push_schema(&self, _request: pb::PushSchemaRequest) -> Result<pb::PushSchemaResponse, Status> { panic!() }
    async fn get_schema(&self, _request: pb::GetSchemaRequest) -> Result<pb::GetSchemaResponse, Status> { panic!() }
    async fn prune(&self, _request: pb::PruneRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn get_retention(&self, _request: pb::GetRetentionRequest) -> Result<pb::GetRetentionResponse, Status> { panic!() }
    async fn set_retention(&self, _request: pb::SetRetentionRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn activate(&self, _request: pb::ActivateRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn set_clock(&self, _request: pb::SetClockRequest) -> Result<pb::Decision, Status> { panic!() }
    async fn sync(&self, _request: pb::SyncRequest) -> Result<pb::SyncResponse, Status> { panic!() }
    async fn list_stores(&self, _request: pb::ListStoresRequest) -> Result<pb::ListStoresResponse, Status> { panic!() }
    async fn status(&self, _request: pb::StatusRequest) -> Result<pb::StatusResponse, Status> { panic!() }
    async fn export_log(
        &self,
        _request: pb::ExportLogRequest,
    ) -> Result<Stream<Result<pb::ExportLogResponse, Status>>, Status> { panic!() }
}
