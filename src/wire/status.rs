//! The one place where a refusal's code becomes a gRPC code, and where the details of a status are packed and unpacked.

use crate::pb;
use confold_model::code::Code;
use prost::Message;
use tonic::{Code as Grpc, Status};

const ERROR_DETAIL_URL: &str = "type.googleapis.com/confold.v1.ErrorDetail";

/// The gRPC code of a refusal (voltha-semantics.md 17).
pub fn grpc_code(code: Code) -> Grpc {
    match code {
        Code::NotFound | Code::TxUnknown => Grpc::NotFound,
        Code::AlreadyExists => Grpc::AlreadyExists,
        Code::InvalidPath
        | Code::TypeMismatch
        | Code::KeyChange
        | Code::ChildrenInUpdate
        | Code::NotAContainer
        | Code::NotKeyed
        | Code::IsAContainer
        | Code::NotCanonical
        | Code::UnknownField
        | Code::Overlap
        | Code::TooLarge
        | Code::Limit
        | Code::IdReused => Grpc::InvalidArgument,
        Code::ReadOnlyField | Code::Permission => Grpc::PermissionDenied,
        Code::SchemaInvalid | Code::TxClosed | Code::Vetoed | Code::GuardFailed | Code::Unsupported => {
            Grpc::FailedPrecondition
        }
        Code::Conflict | Code::Malformed | Code::Foreign | Code::Expired | Code::Withdrawn => Grpc::Aborted,
        Code::Pruned | Code::Future => Grpc::OutOfRange,
        Code::Unavailable | Code::Sealed | Code::Fenced | Code::Halted | Code::Quarantined => Grpc::Unavailable,
        Code::Unknown => Grpc::DeadlineExceeded,
        Code::Unauthenticated => Grpc::Unauthenticated,
        Code::DiskFull | Code::Quota => Grpc::ResourceExhausted,
    }
}

/// The HTTP status that goes with a gRPC code, as gateways commonly map them.
pub fn http_code(code: Grpc) -> u16 {
    match code {
        Grpc::Ok => 200,
        Grpc::Cancelled => 499,
        Grpc::InvalidArgument | Grpc::FailedPrecondition | Grpc::OutOfRange => 400,
        Grpc::Unauthenticated => 401,
        Grpc::PermissionDenied => 403,
        Grpc::NotFound => 404,
        Grpc::AlreadyExists | Grpc::Aborted => 409,
        Grpc::ResourceExhausted => 429,
        Grpc::Unimplemented => 501,
        Grpc::Unavailable => 503,
        Grpc::DeadlineExceeded => 504,
        Grpc::Unknown | Grpc::Internal | Grpc::DataLoss => 500,
    }
}

/// What to do about a code, where nothing better is known about the case at hand.
pub fn hint(code: Code) -> &'static str {
    match code {
        Code::NotFound => "look what is there with `confold ls`, or name another state with --at",
        Code::InvalidPath => "write /field/key/field/key, keys percent-encoded, integers in plain decimal",
        Code::TypeMismatch => "look at the message with `confold schema show`",
        Code::AlreadyExists => "update it, or put it where it may or may not exist",
        Code::KeyChange => "an element keeps its key: remove it and add another one",
        Code::ReadOnlyField => "leave READ_ONLY fields as they are, or write without strict",
        Code::ChildrenInUpdate => "an update changes the data of one node: use replace for a whole subtree",
        Code::NotAContainer => "name the container, as in /devices",
        Code::NotKeyed => "a list has no keys: replace it as a whole",
        Code::IsAContainer => "name one element of it, as in /devices/olt-1",
        Code::SchemaInvalid => "mend the schema; `confold schema check` tells the same without pushing",
        Code::Conflict => "read again what stands there, and propose on top of it",
        Code::TxClosed | Code::TxUnknown => "open a new transaction",
        Code::Vetoed => "a hook of this server refused it; its text says why",
        Code::Unavailable => "try again",
        Code::GuardFailed => "what the guard relied on has changed: read again and decide anew",
        Code::NotCanonical => "let the server put the value in order, or send the fields in ascending order",
        Code::UnknownField => "look at the message with `confold schema show`, or push a schema that has the field",
        Code::Malformed => "send it again through a proposer of this version",
        Code::Foreign => "the store was moved or restored: read, then ask again",
        Code::Overlap => "compose the two operations into one",
        Code::TooLarge => "split it into several commits, or ask for less depth",
        Code::Limit => "stay within the limit; `confold status` shows all of them",
        Code::Expired => "ask what became of the event id; if it was never applied, mint a new one",
        Code::IdReused => "mint a new event id for every intention",
        Code::Withdrawn => "the event id is barred for good: mint a new one",
        Code::Pruned => "read the nearest revision that is kept, and tag what has to stay readable",
        Code::Future => "wait for it with a deadline, or read latest",
        Code::Permission => "ask whoever administers the store for the right",
        Code::Sealed => "the log was moved away: write where it went",
        Code::Fenced => "this is not the log that was folded: see `confold doctor`",
        Code::Halted => "this replica has stopped: see `confold status` and `confold doctor`",
        Code::Quarantined => "do not trust this replica: read from another one and see `confold doctor`",
        Code::Unknown => "send the same event id again, or withdraw it to make the outcome definite",
        Code::Unsupported => "this version does not know the operation yet",
        Code::Unauthenticated => "show a token: --token-file FILE, or CONFOLD_TOKEN",
        Code::Quota => "send less at once, or more slowly; who runs the server says how much each caller may",
        Code::DiskFull => "free disk space on the server: it then goes on by itself; try again, or ask another replica",
    }
}

/// A detail with the code's own hint; path, conflicts and the rest are for the caller to add.
pub fn error_detail(code: Code, detail: impl Into<String>) -> pb::ErrorDetail {
    pb::ErrorDetail {
        code: code.name().to_owned(),
        number: u32::from(code.number()),
        detail: detail.into(),
        hint: hint(code).to_owned(),
        ..Default::default()
    }
}

/// `CODE: path: detail`, with the detail itself packed into the status.
pub fn status(detail: &pb::ErrorDetail) -> Status {
    let code = code_of(detail).map_or(Grpc::Unknown, grpc_code);
    let message = message(detail);
    let rpc = pb::rpc::Status {
        code: code as i32,
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: ERROR_DETAIL_URL.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, rpc.encode_to_vec().into())
}

/// The detail that `status` packed; `None` where the status came from elsewhere.
pub fn detail(status: &Status) -> Option<pb::ErrorDetail> {
    let rpc = pb::rpc::Status::decode(status.details()).ok()?;
    let packed = rpc.details.iter().find(|any| any.type_url == ERROR_DETAIL_URL)?;
    pb::ErrorDetail::decode(packed.value.as_slice()).ok()
}

/// A status as the message that stands in an HTTP body.
pub fn rpc_status(status: &Status) -> pb::rpc::Status {
    pb::rpc::Status::decode(status.details())
        .ok()
        .filter(|rpc| !rpc.details.is_empty())
        .unwrap_or_else(|| pb::rpc::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: Vec::new(),
        })
}

/// `None` for a code that a newer server knows and this build does not.
pub fn code_of(detail: &pb::ErrorDetail) -> Option<Code> {
    Code::ALL.into_iter().find(|code| code.name() == detail.code)
}

/// One line for people: what, where, and what stood there.
pub fn message(detail: &pb::ErrorDetail) -> String {
    let mut message = detail.code.clone();
    for part in [&detail.path, &detail.detail] {
        if !part.is_empty() {
            message.push_str(": ");
            message.push_str(part);
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_survives_its_status() {
        for code in Code::ALL {
            let mut given = error_detail(code, "olt-1 is there already");
            given.path = "/devices/olt-1".to_owned();
            let status = status(&given);
            assert_eq!(status.code(), grpc_code(code));
            assert_eq!(
                status.message(),
                format!("{code}: /devices/olt-1: olt-1 is there already")
            );
            assert_eq!(detail(&status).as_ref(), Some(&given));
            assert_eq!(code_of(&given), Some(code));
            assert_eq!(rpc_status(&status).details.len(), 1);
            assert!(!given.hint.is_empty());
        }
    }

    #[test]
    fn a_status_from_elsewhere_has_no_detail_and_keeps_its_text() {
        let foreign = Status::unavailable("no route");
        assert_eq!(detail(&foreign), None);
        assert_eq!(rpc_status(&foreign).message, "no route");
        assert_eq!(rpc_status(&foreign).code, Grpc::Unavailable as i32);
        assert_eq!(
            detail(&Status::with_details(Grpc::Internal, "", vec![0xff; 9].into())),
            None
        );
    }

    #[test]
    fn no_refusal_looks_like_success_or_like_a_server_error_over_http() {
        for code in Code::ALL {
            let http = http_code(grpc_code(code));
            assert!(
                (400..500).contains(&http) || http == 503 || http == 504,
                "{code} is {http}"
            );
        }
    }
}
