//! Errors for people: what, where, why, and what to do; and the exit status for scripts.

use crate::output::{Ui, table};
use confold_client::Error;
use confold_model::code::Code;
use confold_wire::{dynamic::DynamicError, pb, schema_source::SchemaSourceError, status};
use std::{fmt, io, process::ExitCode};
use tonic::Status;

/// How a command ended, told apart by what a script can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Done = 0,
    /// What stands in the store speaks against it: a conflict, a guard, something that is there or is not.
    Refused = 1,
    /// What was asked for makes no sense here: the command line, a path, a value, a schema.
    Invalid = 2,
    /// The store cannot be reached or cannot tell in time; an outcome is unknown.
    Unavailable = 3,
    Permission = 4,
    /// Something is broken: data, a replica, or confold itself.
    Damaged = 5,
}

/// What the long help says about exit statuses.
pub const EXIT_HELP: &str = "\
Exit status:
  0  done, or nothing was to be done
  1  refused by what stands in the store: a conflict, a guard, something that is there already or is not
  2  invalid: the command line, a path, a value or a schema
  3  unavailable, or the outcome is unknown
  4  no permission
  5  damage, or an internal error";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    pub exit: Exit,
    pub detail: pb::ErrorDetail,
    /// From the nearest to the deepest.
    pub causes: Vec<String>,
    /// Nobody reads the output any more: nothing to say, and nothing wrong.
    pub silent: bool,
}

impl Failure {
    /// Without a code of the store's.
    pub fn new(exit: Exit, text: impl Into<String>) -> Failure {
        let detail = pb::ErrorDetail {
            detail: text.into(),
            ..Default::default()
        };
        Failure {
            exit,
            detail,
            causes: Vec::new(),
            silent: false,
        }
    }

    pub fn invalid(text: impl Into<String>) -> Failure {
        Failure::new(Exit::Invalid, text)
    }

    pub fn of(code: Code, text: impl Into<String>) -> Failure {
        Failure::from(status::error_detail(code, text))
    }

    pub fn at(mut self, path: &str) -> Failure {
        path.clone_into(&mut self.detail.path);
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.detail.hint = hint.into();
        self
    }

    pub fn cause(mut self, cause: impl fmt::Display) -> Failure {
        self.causes.push(cause.to_string());
        self
    }

    /// Says what was being done; what was the error becomes its cause.
    pub fn while_doing(mut self, what: impl Into<String>) -> Failure {
        self.causes
            .insert(0, std::mem::replace(&mut self.detail.detail, what.into()));
        self
    }

    pub fn code(&self) -> Option<Code> {
        status::code_of(&self.detail)
    }

    /// Prints it on stderr.
    pub fn print(&self, ui: &mut Ui) {
        if self.silent {
            return;
        }
        if ui.json {
            ui.error_json(self);
            return;
        }
        ui.label_error("Error:", &status_message(&self.detail));
        for cause in &self.causes {
            ui.label_error("Caused by:", cause);
        }
        if !self.detail.conflicts.is_empty() {
            let shown = |hash: &str| {
                if hash.is_empty() {
                    "absent".to_owned()
                } else {
                    short(hash)
                }
            };
            let rows = self.detail.conflicts.iter().map(|row| {
                // A guard wants nothing of its own.
                let ours = if row.kind == "guard" {
                    "-".to_owned()
                } else {
                    shown(&row.ours)
                };
                vec![
                    row.path.clone(),
                    row.kind.clone(),
                    shown(&row.base),
                    ours,
                    shown(&row.theirs),
                ]
            });
            ui.note(&table(&["PATH", "KIND", "BASE", "OURS", "THEIRS"], rows.collect()));
        }
        // Of a refusal nobody has to ask again.
        if !self.detail.event_id.is_empty() && self.code() == Some(Code::Unknown) {
            ui.note(&format!("Event: {}", self.detail.event_id));
        }
        if !self.detail.hint.is_empty() {
            ui.label_hint("Hint:", &self.detail.hint);
        }
    }
}

/// The first 12 hex digits: what people compare.
pub fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

fn status_message(detail: &pb::ErrorDetail) -> String {
    if detail.code.is_empty() && detail.path.is_empty() {
        detail.detail.clone()
    } else {
        joined(detail)
    }
}

fn joined(detail: &pb::ErrorDetail) -> String {
    [&detail.code, &detail.path, &detail.detail]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(": ")
}

pub fn exit_of(code: Code) -> Exit {
    match code {
        Code::NotFound
        | Code::AlreadyExists
        | Code::ReadOnlyField
        | Code::Conflict
        | Code::TxClosed
        | Code::TxUnknown
        | Code::Vetoed
        | Code::GuardFailed
        | Code::Foreign
        | Code::Expired
        | Code::IdReused
        | Code::Withdrawn
        | Code::Pruned
        | Code::Future => Exit::Refused,
        Code::InvalidPath
        | Code::TypeMismatch
        | Code::KeyChange
        | Code::ChildrenInUpdate
        | Code::NotAContainer
        | Code::NotKeyed
        | Code::IsAContainer
        | Code::SchemaInvalid
        | Code::NotCanonical
        | Code::UnknownField
        | Code::Malformed
        | Code::Overlap
        | Code::TooLarge
        | Code::Limit
        | Code::Unsupported => Exit::Invalid,
        Code::Unavailable | Code::DiskFull | Code::Quota | Code::Unknown | Code::Sealed => Exit::Unavailable,
        Code::Permission | Code::Unauthenticated => Exit::Permission,
        Code::Fenced | Code::Halted | Code::Quarantined => Exit::Damaged,
    }
}

impl From<pb::ErrorDetail> for Failure {
    fn from(detail: pb::ErrorDetail) -> Failure {
        // A code that only a newer server knows is a refusal all the same.
        let exit = status::code_of(&detail).map_or(Exit::Refused, exit_of);
        Failure {
            exit,
            detail,
            causes: Vec::new(),
            silent: false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match &error {
            Error::Refused(detail) => Failure::from((**detail).clone()),
            Error::Unknown { event_id, last } => {
                let detail = pb::ErrorDetail {
                    event_id: event_id.to_string(),
                    hint: format!(
                        "ask with `confold outcome {event_id}`, or make it definite with `confold withdraw {event_id}`"
                    ),
                    ..status::error_detail(Code::Unknown, "it is not known whether it was applied")
                };
                Failure::from(detail).cause(last)
            }
            Error::Transport(failed) => {
                let exit = match failed.code() {
                    tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Exit::Permission,
                    tonic::Code::InvalidArgument | tonic::Code::Unimplemented | tonic::Code::OutOfRange => {
                        Exit::Invalid
                    }
                    tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
                        Exit::Unavailable
                    }
                    _ => Exit::Damaged,
                };
                Failure::new(exit, error.to_string())
            }
            Error::Answer(text) => Failure::new(Exit::Damaged, text.clone()),
        }
    }
}

impl From<Status> for Failure {
    fn from(failed: Status) -> Failure {
        Failure::from(Error::from(failed))
    }
}

impl From<DynamicError> for Failure {
    fn from(error: DynamicError) -> Failure {
        let text = if error.at.is_empty() {
            error.problem.clone()
        } else {
            format!("{}: {}", error.at, error.problem)
        };
        let failure = Failure::of(error.code, text);
        if error.hint.is_empty() {
            failure
        } else {
            failure.hint(error.hint)
        }
    }
}

impl From<SchemaSourceError> for Failure {
    fn from(error: SchemaSourceError) -> Failure {
        let mut failure = Failure::of(Code::SchemaInvalid, "the schema does not compile");
        failure.detail.hint.clear();
        for problem in error.problems {
            if failure.detail.hint.is_empty() {
                failure.detail.hint = problem.hint;
            }
            failure.causes.push(problem.text);
        }
        failure
    }
}

/// Of writing the output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        let exit = if silent { Exit::Done } else { Exit::Damaged };
        Failure {
            silent,
            ..Failure::new(exit, format!("cannot write the output: {error}"))
        }
    }
}
