//! What can go wrong, told apart by what the caller can do about it.

use confold_model::{
    code::{Code, Rejection},
    ids::EventId,
};
use confold_wire::{pb, status};
use std::fmt;
use tonic::Status;

#[derive(Clone, Debug)]
pub enum Error {
    /// The store, or this library on its behalf, said no, and nothing was changed. Its code says why.
    Refused(Box<pb::ErrorDetail>),
    /// Every attempt ended without an answer: the event may or may not have been applied. Sending it again under the
    /// same id is safe; withdrawing the id makes the end definite.
    Unknown { event_id: EventId, last: Box<Error> },
    /// The call failed on its way, and nothing was proposed by it.
    Transport(Box<Status>),
    /// What came is not what was asked for: bytes that are no such message, an answer without what it must hold.
    Answer(String),
}

impl Error {
    /// The refusal's code; `None` where a newer server gave one that this build does not know, or nobody refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused(detail) => status::code_of(detail),
            Error::Unknown { .. } => Some(Code::Unknown),
            Error::Transport(_) | Error::Answer(_) => None,
        }
    }

    /// Whether it certainly never reached the log, and the same may do so later.
    pub(crate) fn never_left(&self) -> bool {
        matches!(self.code(), Some(Code::Unavailable | Code::DiskFull | Code::Quota))
    }

    /// Whether what was read has changed meanwhile, so that reading and deciding anew may succeed.
    pub fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(Code::Conflict | Code::GuardFailed))
    }

    /// The refusal as the service tells it, also for what failed on the way.
    pub fn detail(&self) -> pb::ErrorDetail {
        match self {
            Error::Refused(detail) => (**detail).clone(),
            Error::Unknown { event_id, last } => pb::ErrorDetail {
                event_id: event_id.to_string(),
                ..status::error_detail(Code::Unknown, format!("no attempt was answered; the last one: {last}"))
            },
            Error::Transport(failed) => status::error_detail(Code::Unavailable, describe(failed)),
            Error::Answer(text) => pb::ErrorDetail {
                detail: text.clone(),
                ..Default::default()
            },
        }
    }

    pub(crate) fn refused(code: Code, path: &str, text: impl Into<String>) -> Error {
        Error::Refused(Box::new(pb::ErrorDetail {
            path: path.to_owned(),
            ..status::error_detail(code, text)
        }))
    }
}

impl From<Status> for Error {
    fn from(failed: Status) -> Error {
        match status::detail(&failed) {
            Some(detail) => Error::Refused(Box::new(detail)),
            None => Error::Transport(Box::new(failed)),
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Error {
        Error::refused(rejection.code, "", rejection.detail)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(detail) => f.write_str(&status::message(detail)),
            Error::Unknown { event_id, last } => {
                write!(
                    f,
                    "UNKNOWN: whether event {event_id} was applied is not known; the last attempt: {last}"
                )
            }
            Error::Transport(failed) => write!(f, "the call failed: {}", describe(failed)),
            Error::Answer(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// `code: message`, with the causes that say more.
fn describe(failed: &Status) -> String {
    let mut text = failed.code().to_string();
    if !failed.message().is_empty() {
        text = format!("{text}: {}", failed.message());
    }
    let mut source = std::error::Error::source(failed);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
