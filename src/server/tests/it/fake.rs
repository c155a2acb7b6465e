//! An `Api` that remembers which of its methods was called, and answers what it was told to.

use confold_model::code::Code;
use confold_wire::{
    api::{Api, Stream},
    caller::{Caller, Gate},
    pb, status,
};
use futures::{StreamExt, stream};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{Notify, watch};
use tonic::Status;

#[derive(Default)]
pub struct Fake {
    pub called: Mutex<Vec<&'static str>>,
    pub commits: Mutex<Vec<pb::CommitRequest>>,
    pub gets: Mutex<Vec<pb::GetRequest>>,
    /// What all methods fail with, if set.
    pub refusal: Mutex<Option<Status>>,
    /// Bytes of value that `get` answers.
    pub get_bytes: AtomicUsize,
    /// `sync` on the store `slow` waits for this, and `waiting` counts how often.
    pub gate: Notify,
    pub waiting: watch::Sender<usize>,
    /// How many of those were given up before the gate opened.
    pub given_up: Arc<watch::Sender<usize>>,
}

/// Notes for whom a service was asked, and hands out the one that is meant for them.
#[derive(Default)]
pub struct Gatekeeper {
    pub others: Arc<Fake>,
    /// By token.
    pub known: BTreeMap<&'static str, Arc<Fake>>,
    pub callers: Mutex<Vec<Caller>>,
    /// What who wants to see more of the server than its calls is told.
    pub uninspected: Mutex<Option<Status>>,
}

impl Gate for Gatekeeper {
    fn api(&self, caller: &Caller) -> Arc<dyn Api> {
        self.callers.lock().unwrap().push(caller.clone());
        let known = caller.token.as_ref().and_then(|token| self.known.get(token.secret()));
        known.unwrap_or(&self.others).clone()
    }

    fn may_inspect(&self, _: &Caller) -> Result<(), Status> {
        match &*self.uninspected.lock().unwrap() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }
}

impl Gatekeeper {
    pub fn of(fake: &Arc<Fake>) -> Gatekeeper {
        Gatekeeper {
            others: fake.clone(),
            ..Gatekeeper::default()
        }
    }

    /// The names of the certificates for which a service was asked.
    pub fn certificates(&self) -> Vec<String> {
        let callers = self.callers.lock().unwrap();
        callers
            .iter()
            .filter_map(|caller| Some(caller.certificate.as_ref()?.to_string()))
            .collect()
    }
}

/// For commits that bring no event id.
pub const MINTED: &str = "17-000102030405060708090a0b0c0d0e0f";

impl Fake {
    pub fn new() -> Arc<Fake> {
        Arc::new(Fake::default())
    }

    pub fn refusing(refusal: Status) -> Arc<Fake> {
        Arc::new(Fake {
            refusal: Mutex::new(Some(refusal)),
            ..Fake::default()
        })
    }

    pub fn take_called(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.called.lock().unwrap())
    }

    fn call<A: Default>(&self, name: &'static str) -> Result<A, Status> {
        self.called.lock().unwrap().push(name);
        match &*self.refusal.lock().unwrap() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(A::default()),
        }
    }

    fn stream<A: Default + Send + 'static>(&self, name: &'static str) -> Result<Stream<Result<A, Status>>, Status> {
        let answer = self.call(name)?;
        Ok(Box::pin(stream::iter([Ok(answer), Ok(A::default())])))
    }
}

/// A refusal as the store makes them.
pub fn refusal(code: Code, path: &str, detail: &str) -> Status {
    status::status(&pb::ErrorDetail {
        path: path.to_owned(),
        ..status::error_detail(code, detail)
    })
}

#[async_trait::async_trait]
impl Api for Fake {
    async fn commit(&self, request: pb::CommitRequest) -> Result<pb::Decision, Status> {
        let given = request.proposal.clone().unwrap_or_default().event_id;
        let event_id = if given.is_empty() { MINTED.to_owned() } else { given };
        self.commits.lock().unwrap().push(request);
        Ok(pb::Decision {
            event_id,
            outcome: pb::decision::Outcome::Committed as i32,
            ..self.call("Commit")?
        })
    }

    async fn commit_stream(
        &self,
        requests: Stream<Result<pb::CommitStreamRequest, Status>>,
    ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> {
        self.call::<()>("CommitStream")?;
        Ok(Box::pin(requests.map(|request| {
            let request = request?;
            if request.correlation == 13 {
                return Err(refusal(Code::Unavailable, "", "thirteen"));
            }
            Ok(pb::CommitStreamResponse {
                correlation: request.correlation,
                decision: Some(pb::Decision::default()),
            })
        })))
    }

    async fn outcome(&self, _: pb::OutcomeRequest) -> Result<pb::Decision, Status> {
        self.call("Outcome")
    }

    async fn withdraw(&self, _: pb::WithdrawRequest) -> Result<pb::Decision, Status> {
        self.call("Withdraw")
    }

    async fn get(&self, request: pb::GetRequest) -> Result<pb::GetResponse, Status> {
        let form = match request.format() {
            pb::Format::Json => pb::value::Form::Json(r#"{"id":"olt-1","ports":[{"number":3}]}"#.to_owned()),
            _ => pb::value::Form::Proto(vec![7; self.get_bytes.load(Ordering::Relaxed)].into()),
        };
        let value = Some(pb::Value {
            form: Some(form),
            r#type: "example.Device".to_owned(),
        });
        let node = pb::Node {
            path: request.path.clone(),
            value,
            ..Default::default()
        };
        self.gets.lock().unwrap().push(request);
        Ok(pb::GetResponse {
            nodes: vec![node],
            ..self.call("Get")?
        })
    }

    async fn list(&self, _: pb::ListRequest) -> Result<pb::ListResponse, Status> {
        self.call("List")
    }

    async fn list_stream(&self, request: pb::ListRequest) -> Result<Stream<Result<pb::ListResponse, Status>>, Status> {
        if request.path == "/breaks" {
            self.call::<()>("ListStream")?;
            let broken = refusal(Code::Pruned, "/breaks", "gone in the middle");
            return Ok(Box::pin(stream::iter([Ok(pb::ListResponse::default()), Err(broken)])));
        }
        self.stream("ListStream")
    }

    async fn diff(&self, _: pb::DiffRequest) -> Result<pb::DiffResponse, Status> {
        self.call("Diff")
    }

    async fn diff_stream(&self, _: pb::DiffRequest) -> Result<Stream<Result<pb::DiffResponse, Status>>, Status> {
        self.stream("DiffStream")
    }

    async fn log(&self, _: pb::LogRequest) -> Result<pb::LogResponse, Status> {
        self.call("Log")
    }

    async fn show(&self, _: pb::ShowRequest) -> Result<pb::ShowResponse, Status> {
        self.call("Show")
    }

    async fn tag(&self, _: pb::TagRequest) -> Result<pb::Decision, Status> {
        self.call("Tag")
    }

    async fn untag(&self, _: pb::UntagRequest) -> Result<pb::Decision, Status> {
        self.call("Untag")
    }

    async fn list_tags(&self, _: pb::ListTagsRequest) -> Result<pb::ListTagsResponse, Status> {
        self.call("ListTags")
    }

    async fn push_schema(&self, _: pb::PushSchemaRequest) -> Result<pb::PushSchemaResponse, Status> {
        self.call("PushSchema")
    }

    async fn get_schema(&self, _: pb::GetSchemaRequest) -> Result<pb::GetSchemaResponse, Status> {
        self.call("GetSchema")
    }

    async fn prune(&self, _: pb::PruneRequest) -> Result<pb::Decision, Status> {
        self.call("Prune")
    }

    async fn get_retention(&self, _: pb::GetRetentionRequest) -> Result<pb::GetRetentionResponse, Status> {
        self.call("GetRetention")
    }

    async fn set_retention(&self, _: pb::SetRetentionRequest) -> Result<pb::Decision, Status> {
        self.call("SetRetention")
    }

    async fn get_policy(&self, _: pb::GetPolicyRequest) -> Result<pb::GetPolicyResponse, Status> {
        self.call("GetPolicy")
    }

    async fn set_policy(&self, _: pb::SetPolicyRequest) -> Result<pb::Decision, Status> {
        self.call("SetPolicy")
    }

    async fn activate(&self, _: pb::ActivateRequest) -> Result<pb::Decision, Status> {
        self.call("Activate")
    }

    async fn set_clock(&self, _: pb::SetClockRequest) -> Result<pb::Decision, Status> {
        self.call("SetClock")
    }

    async fn sync(&self, request: pb::SyncRequest) -> Result<pb::SyncResponse, Status> {
        assert_ne!(request.store, "panic", "asked to");
        if request.store == "slow" {
            let mut waiting = Waiting {
                given_up: Arc::clone(&self.given_up),
                opened: false,
            };
            let opened = self.gate.notified();
            self.waiting.send_modify(|waiting| *waiting += 1);
            opened.await;
            waiting.opened = true;
        }
        self.call("Sync")
    }

    async fn list_stores(&self, _: pb::ListStoresRequest) -> Result<pb::ListStoresResponse, Status> {
        self.call("ListStores")
    }

    async fn create_store(&self, _: pb::CreateStoreRequest) -> Result<pb::StoreRow, Status> {
        self.call("CreateStore")
    }

    async fn open_store(&self, _: pb::OpenStoreRequest) -> Result<pb::StoreRow, Status> {
        self.call("OpenStore")
    }

    async fn close_store(&self, _: pb::CloseStoreRequest) -> Result<pb::StoreRow, Status> {
        self.call("CloseStore")
    }

    async fn status(&self, _: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
        self.call("Status")
    }

    async fn export_log(
        &self,
        _: pb::ExportLogRequest,
    ) -> Result<Stream<Result<pb::ExportLogResponse, Status>>, Status> {
        self.stream("ExportLog")
    }

    async fn snapshot(
        &self,
        _: pb::SnapshotRequest,
    ) -> Result<Stream<Result<pb::SnapshotResponse, Status>>, Status> {
        self.stream("Snapshot")
    }
}

struct Waiting {
    given_up: Arc<watch::Sender<usize>>,
    opened: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.opened {
            self.given_up.send_modify(|count| *count += 1);
        }
    }
}
