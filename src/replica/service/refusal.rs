//! Refusals as clients are told them: the one place where this crate's errors become codes.

use super::Served;
use crate::past::PastError;
use crate::propose::ProposeError;
use crate::status::ReplicaState;
use crate::view::WaitError;
use confold_log::LogError;
use confold_model::canon::ValueError;
use confold_model::code::{Code, Rejection};
use confold_model::ids::{EventId, Hash, Position};
use confold_model::objects::{ObjectsError, ObjectsErrorCause};
use confold_model::schema::Schema;
use confold_store::StoreError;
use confold_wire::convert::ConvertError;
use confold_wire::dynamic::DynamicError;
use confold_wire::{pb, status};
use tonic::Status;

/// Why a call was refused; becomes a `Status` with the detail packed into it.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal(Box<pb::ErrorDetail>);

/// What the model refused. Paths are printed with the schema; without one they are left out.
pub(super) fn refusal(rejection: Rejection, schema: Option<&Schema>) -> Refusal {
    let print = |path: &_| schema.map(|schema| schema.print_path(path)).unwrap_or_default();
    let mut refusal = Refusal::new(rejection.code, rejection.detail);
    refusal.0.path = rejection.path.as_ref().map(print).unwrap_or_default();
    refusal.0.conflicts = rejection
        .conflicts
        .iter()
        .map(|conflict| pb::ConflictRow {
            path: print(&conflict.path),
            kind: conflict.kind.to_owned(),
            base: hash_or_nothing(conflict.base),
            ours: hash_or_nothing(conflict.ours),
            theirs: hash_or_nothing(conflict.theirs),
        })
        .collect();
    refusal
}

impl Refusal {
    pub fn new(code: Code, detail: impl Into<String>) -> Refusal {
        Refusal(Box::new(status::error_detail(code, detail)))
    }

    /// An argument that cannot be read; the hint says how it is written.
    pub(super) fn argument(detail: impl Into<String>, hint: &str) -> Refusal {
        Refusal::new(Code::InvalidPath, detail).hint(hint)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.0.hint = hint.into();
        self
    }

    pub(super) fn at(mut self, path: impl Into<String>) -> Refusal {
        self.0.path = path.into();
        self
    }

    /// Names what the detail is about, where it does not say so itself.
    pub(super) fn about(mut self, what: &str) -> Refusal {
        self.0.detail = format!("{what}: {}", self.0.detail);
        self
    }

    pub(super) fn event(mut self, id: EventId) -> Refusal {
        self.0.event_id = id.to_string();
        self
    }

    pub(super) fn stands(mut self, position: Position, token: String) -> Refusal {
        self.0.position = Some(position.0);
        self.0.token = token;
        self
    }

    pub fn code(&self) -> Code {
        status::code_of(&self.0).unwrap_or(Code::Unknown)
    }

    pub fn detail(&self) -> &pb::ErrorDetail {
        &self.0
    }

    pub(super) fn into_detail(self) -> pb::ErrorDetail {
        *self.0
    }
}

impl From<pb::ErrorDetail> for Refusal {
    fn from(detail: pb::ErrorDetail) -> Refusal {
        Refusal(Box::new(detail))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        status::status(&refusal.0)
    }
}

impl From<ValueError> for Refusal {
    fn from(error: ValueError) -> Refusal {
        Refusal::new(error.code, error.text)
    }
}

impl From<ConvertError> for Refusal {
    fn from(error: ConvertError) -> Refusal {
        let hint = format!("hand back {} as it stood in an answer", error.expected);
        Refusal::argument(error.to_string(), &hint)
    }
}

impl From<DynamicError> for Refusal {
    fn from(error: DynamicError) -> Refusal {
        let detail = match error.at.is_empty() {
            true => error.problem,
            false => format!("{}: {}", error.at, error.problem),
        };
        let refusal = Refusal::new(error.code, detail);
        if error.hint.is_empty() {
            refusal
        } else {
            refusal.hint(error.hint)
        }
    }
}

/// Damage in this replica's own store, never the caller's fault.
impl From<ObjectsError> for Refusal {
    fn from(error: ObjectsError) -> Refusal {
        let code = match error.cause {
            ObjectsErrorCause::Missing | ObjectsErrorCause::Corrupt(_) => Code::Quarantined,
            ObjectsErrorCause::Unavailable(_) => Code::Unavailable,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        let code = match error {
            StoreError::Full { .. } => Code::DiskFull,
            _ if error.is_damage() => Code::Quarantined,
            _ => Code::Unavailable,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Refusal {
        let code = match error {
            LogError::BelowStart { .. } => Code::Pruned,
            LogError::BeyondEnd { .. } => Code::Future,
            LogError::Fenced { .. } => Code::Fenced,
            LogError::DiskFull { .. } => Code::DiskFull,
            _ => Code::Unavailable,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<PastError> for Refusal {
    fn from(error: PastError) -> Refusal {
        let refusal = Refusal::new(error.code(), error.to_string());
        match error {
            PastError::Pruned { nearest, .. } => {
                refusal.hint(format!("read revision {nearest}, and tag what has to stay readable"))
            }
            _ => refusal,
        }
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Refusal {
        let refusal = Refusal::new(error.code(), error.to_string());
        match error {
            ProposeError::Unknown { id, .. } => refusal.event(id),
            ProposeError::Unavailable { state, .. } if !state.hint().is_empty() => refusal.hint(state.hint()),
            ProposeError::Busy { .. } => refusal.hint("wait for answers, then send it again under the same event id"),
            _ => refusal,
        }
    }
}

impl Served {
    pub(super) fn waited(&self, error: WaitError) -> Refusal {
        let state = self.handle.standing().borrow().state;
        match &error {
            WaitError::Late { .. } => Refusal::new(Code::Future, error.to_string())
                .hint("wait longer with a bigger deadline, or read what is there with STALE"),
            WaitError::Stopped { .. } => {
                let code = match state {
                    ReplicaState::Fenced => Code::Fenced,
                    ReplicaState::Halted => Code::Halted,
                    ReplicaState::Quarantined => Code::Quarantined,
                    _ => Code::Unavailable,
                };
                Refusal::new(code, error.to_string()).hint("read from another replica, or what is there with STALE")
            }
            WaitError::NoFence { .. } => {
                Refusal::new(Code::Unavailable, error.to_string()).hint("try again, or read what is there with STALE")
            }
        }
    }
}

pub(super) fn hex(hash: &Hash) -> String {
    hex::encode(hash.0)
}

fn hash_or_nothing(hash: Option<Hash>) -> String {
    hash.as_ref().map(hex).unwrap_or_default()
}
