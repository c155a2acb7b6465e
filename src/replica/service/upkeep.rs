//! What an operator asks of a store: pruning, retention, levels, time, its state and its log.

use super::at::{Reading, token};
use super::propose::{Intention, propose};
use super::refusal::hex;
use super::rights::{Asked, Rights};
use super::{Refusal, Served, blocking};
use crate::snapshot::{self, SnapshotError};
use crate::status::{ReplicaState, Status};
use confold_log::{Reader, Record};
use confold_model::code::Code;
use confold_model::event::{Body, Limits, RetentionPolicy};
use confold_model::ids::{Hash, Position};
use confold_wire::api::Stream;
use confold_wire::pb;
use std::time::Duration;

pub(super) async fn prune(served: Asked, mut request: pb::PruneRequest) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    let floor = match request.floor.as_str() {
        "" => Ok(None),
        _ => {
            let (served, view) = (served.clone(), served.handle.view());
            blocking(move || Ok(Some(served.resolve(&view, &request.floor)?.revision))).await
        }
    };
    propose(served, intention, floor.map(|floor| Body::Prune { floor }.into())).await
}

pub(super) fn get_retention(served: &Asked) -> pb::GetRetentionResponse {
    let view = served.handle.view();
    pb::GetRetentionResponse {
        policy: Some(policy(&view.retention)),
        floor: view.floor.0,
    }
}

pub(super) async fn set_retention(
    served: Asked,
    mut request: pb::SetRetentionRequest,
) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    let built = match request.policy {
        Some(pb::RetentionPolicy {
            keep_revisions,
            keep_age_ms,
            keep_all,
        }) => Ok(Body::Retention(RetentionPolicy {
            keep_revisions,
            keep_age_ms,
            keep_all,
        })
        .into()),
        // Left out by mistake it would let everything go.
        None => Err(Refusal::argument(
            "no policy is given",
            "set keep_revisions, keep_age_ms or keep_all",
        )),
    };
    propose(served, intention, built).await
}

pub(super) async fn activate(served: Asked, mut request: pb::ActivateRequest) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    propose(served, intention, Ok(Body::Activation { level: request.level }.into())).await
}

pub(super) async fn set_clock(served: Asked, mut request: pb::SetClockRequest) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    propose(served, intention, Ok(Body::Clock.into())).await
}

pub(super) async fn sync(served: Asked, request: pb::SyncRequest) -> Result<pb::SyncResponse, Refusal> {
    let deadline = served.options.deadline(request.deadline_ms);
    let view = served
        .handle
        .fence(deadline)
        .await
        .map_err(|error| served.waited(error))?;
    Ok(pb::SyncResponse {
        read_at: Some(Reading::latest(view).read_at(&served.now()?)),
    })
}

pub(super) fn row(served: &Served) -> pb::StoreRow {
    let view = served.handle.view();
    let standing = served.handle.standing().borrow().clone();
    pb::StoreRow {
        name: served.name.to_string(),
        log_id: hex::encode(view.log_id.0),
        state: state(standing.state).into(),
        revision: view.revision.0,
        reason: standing.reason,
        log: served.log.to_string(),
    }
}

/// A replica's state as clients know it.
pub fn state(state: ReplicaState) -> pb::State {
    match state {
        ReplicaState::Starting => pb::State::Starting,
        ReplicaState::CatchingUp => pb::State::CatchingUp,
        ReplicaState::Serving => pb::State::Serving,
        ReplicaState::Degraded => pb::State::Degraded,
        ReplicaState::Fenced => pb::State::Fenced,
        ReplicaState::Quarantined => pb::State::Quarantined,
        ReplicaState::Halted => pb::State::Halted,
        ReplicaState::SnapshotNeeded => pb::State::SnapshotNeeded,
        ReplicaState::Stopped => pb::State::Closed,
    }
}

/// What anybody may know: whether the store of this server serves.
pub(super) fn bare_status(served: &Served) -> pb::StatusResponse {
    pb::StatusResponse {
        state: state(served.handle.standing().borrow().state).into(),
        ..pb::StatusResponse::default()
    }
}

/// Digests are of everything, so they are for whoever may read everything or administers the store; counters are for
/// the latter, as metrics are.
pub(super) fn status(served: &Served, rights: &Rights) -> pb::StatusResponse {
    let is_inspector = rights.is_inspector();
    let hash = |hash: &Hash| if is_inspector { hex(hash) } else { String::new() };
    let status = served.handle.status();
    let hint = status.hint();
    let Status {
        standing,
        view,
        replica,
        build,
        build_level,
        log,
        lag,
        durable,
        counts,
        uptime,
    } = status;
    let reason = match (standing.reason.is_empty(), hint.is_empty()) {
        (false, false) => format!("{}; {hint}", standing.reason),
        (true, false) => hint.to_owned(),
        _ => standing.reason,
    };
    pb::StatusResponse {
        store: served.name.to_string(),
        state: state(standing.state).into(),
        reason,
        log_id: hex::encode(view.log_id.0),
        incarnation: hex::encode(view.incarnation.0),
        log: served.log.to_string(),
        transport_id: hex::encode(view.transport_id),
        position: view.position.0,
        log_start: log.start.0,
        log_end: log.end.0,
        lag,
        durable: durable.unwrap_or_default().0,
        time_ms: view.time.0,
        revision: view.revision.0,
        root: rights.root(&view.root),
        log_digest: hash(&view.digest),
        chain: hash(&view.chain),
        floor: view.floor.0,
        level: view.level,
        build_level,
        build: build.to_owned(),
        root_message: view.root_message.to_string(),
        last_mark: view.mark.map(|mark| pb::status_response::Mark {
            position: mark.position.0,
            state: hash(&mark.state),
        }),
        replicas: view
            .checkpoints
            .iter()
            .map(|row| pb::ReplicaRow {
                replica: hex::encode(row.checkpoint.replica),
                build: row.checkpoint.build.to_string(),
                level: row.checkpoint.level,
                position: row.checkpoint.position.0,
                state: hash(&row.checkpoint.state),
                durable: row.checkpoint.durable.0,
                time_ms: row.time.0,
                agrees: view
                    .agreement
                    .opinions
                    .iter()
                    .find(|one| one.replica == row.checkpoint.replica)
                    .and_then(|one| one.agrees),
            })
            .collect(),
        limits: Some(limits(&view.limits)),
        window: view.window,
        retention: Some(policy(&view.retention)),
        tags: view.tags.len() as u64,
        counters: counts
            .0
            .into_iter()
            .filter(|_| rights.is_admin())
            .map(|(name, value)| pb::Counter { name, value })
            .collect(),
        token: token(&view, view.position),
        disputed: view.agreement.is_disputed(),
        replica: hex::encode(replica),
        uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        log_report: served.report.as_ref().filter(|_| is_inspector).and_then(|report| report()),
    }
}

fn limits(limits: &Limits) -> pb::Limits {
    let Limits {
        max_event_bytes,
        depth,
        path_bytes,
        key_bytes,
    } = *limits;
    pb::Limits {
        max_event_bytes,
        depth,
        path_bytes,
        key_bytes,
    }
}

fn policy(policy: &RetentionPolicy) -> pb::RetentionPolicy {
    let RetentionPolicy {
        keep_revisions,
        keep_age_ms,
        keep_all,
    } = *policy;
    pb::RetentionPolicy {
        keep_revisions,
        keep_age_ms,
        keep_all,
    }
}

/// Records of one answer.
const RECORDS: usize = 4_096;

/// The log record by record; what was appended after the call is not waited for.
pub(super) async fn export(
    served: Asked,
    request: pb::ExportLogRequest,
) -> Result<Stream<Result<pb::ExportLogResponse, tonic::Status>>, Refusal> {
    let export = blocking(move || Export::open(served, &request)).await?;
    let pieces = futures::stream::try_unfold(Some(export), |export| async {
        let Some(export) = export else { return Ok(None) };
        export.served.now()?;
        Ok::<_, tonic::Status>(Some(blocking(move || export.piece()).await?))
    });
    Ok(Box::pin(pieces))
}

/// Piece by piece, each made when the one before was taken; the fold goes on meanwhile.
pub(super) async fn snapshot(
    served: Asked,
) -> Result<Stream<Result<pb::SnapshotResponse, tonic::Status>>, Refusal> {
    let (handle, begun) = (served.handle.clone(), served);
    let export = blocking(move || Ok(snapshot::export(&handle)?)).await?;
    let pieces = futures::stream::try_unfold((begun, export), |(served, mut export)| async {
        served.now()?;
        let next = blocking(move || Ok(export.next().transpose()?.map(|piece| (piece, export)))).await?;
        Ok::<_, tonic::Status>(next.map(|(piece, export)| (pb::SnapshotResponse { piece }, (served, export))))
    });
    Ok(Box::pin(pieces))
}

impl From<SnapshotError> for Refusal {
    fn from(error: SnapshotError) -> Refusal {
        match error {
            SnapshotError::Log(error) => error.into(),
            SnapshotError::Store(error) => error.into(),
            other => Refusal::new(Code::Unavailable, other.to_string()).hint("try again after the next mark, or ask another replica"),
        }
    }
}

struct Export {
    served: Asked,
    reader: Box<dyn Reader>,
    /// In the first answer only.
    origin: Option<pb::LogOrigin>,
    next: Position,
    /// The first position that is not wanted.
    end: Position,
}

impl Export {
    fn open(served: Asked, request: &pb::ExportLogRequest) -> Result<Export, Refusal> {
        let view = served.handle.view();
        let log = served.handle.log();
        let range = log.range();
        let from = if request.from == 0 {
            range.start
        } else {
            Position(request.from)
        };
        let end = request.to.map_or(range.end, |to| Position(to.saturating_add(1)));
        if end > range.end || from > range.end {
            let detail = format!("the log ends at position {}", range.end.0.saturating_sub(1));
            return Err(Refusal::new(Code::Future, detail).hint("leave `to` out to get what is there"));
        }
        if from > end {
            let detail = format!("the range is empty: from {from} to {}", end.0.saturating_sub(1));
            return Err(Refusal::argument(
                detail,
                "`from` is the first position, `to` the last one",
            ));
        }
        let origin = pb::LogOrigin {
            log_id: hex::encode(view.log_id.0),
            incarnation: hex::encode(view.incarnation.0),
            transport_id: hex::encode(view.transport_id),
            first_position: from.0,
            previous_digest: hex(&digest_before(&served, from)?),
        };
        let reader = served.handle.reader(from)?;
        Ok(Export {
            reader,
            origin: Some(origin),
            next: from,
            end,
            served,
        })
    }

    fn piece(mut self) -> Result<(pb::ExportLogResponse, Option<Export>), Refusal> {
        let mut records = Vec::new();
        if self.next < self.end {
            let wanted = usize::try_from(self.end.0 - self.next.0)
                .unwrap_or(usize::MAX)
                .min(RECORDS);
            records = self
                .reader
                .read(wanted, self.served.options.piece_bytes, Duration::from_secs(5))?;
            let Some(last) = records.last() else {
                let detail = format!("position {} cannot be read from the log", self.next);
                return Err(Refusal::new(Code::Unavailable, detail));
            };
            self.next = last.position.next();
        }
        let record = |record: Record| pb::LogRecord {
            position: record.position.0,
            time_ms: record.time.0,
            record: record.bytes,
            digest: record.digest.0.to_vec().into(),
        };
        let answer = pb::ExportLogResponse {
            origin: self.origin.take(),
            records: records.into_iter().map(record).collect(),
        };
        let more = self.next < self.end;
        Ok((answer, more.then_some(self)))
    }
}

/// d of the position before: what the first record's digest builds on.
fn digest_before(served: &Asked, from: Position) -> Result<Hash, Refusal> {
    let Some(before) = from.0.checked_sub(1).map(Position) else {
        return Ok(Hash::ZERO);
    };
    if before >= served.handle.log().range().start {
        return match served.handle.record_at(before)? {
            Some(record) => Ok(record.digest),
            None => Err(Refusal::new(
                Code::Unavailable,
                format!("position {before} cannot be read from the log"),
            )),
        };
    }
    // Trimmed away: the history may have kept it.
    match served.handle.store()?.revision_at_position(before)? {
        Some(row) if row.position == before => Ok(row.digest),
        _ => {
            let detail = format!("the digest of position {before}, which was trimmed away, is not known here");
            Err(Refusal::new(Code::Pruned, detail).hint("start at a later position"))
        }
    }
}
