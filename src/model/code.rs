//! Why an event was refused: a stable code, where, and what stood there.

use crate::path::Path;
use std::fmt;

/// Rejection and error codes, numbered in the order of the error table of voltha-semantics.md 17.
/// Numbers enter the chain (docs/formats.md 5) and are never given out again.
///
/// Some never stand on a log: they are answers of a proposer, a reader or a replica's state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum Code {
    NotFound = 1,
    InvalidPath = 2,
    TypeMismatch = 3,
    AlreadyExists = 4,
    KeyChange = 5,
    ReadOnlyField = 6,
    ChildrenInUpdate = 7,
    NotAContainer = 8,
    NotKeyed = 9,
    IsAContainer = 10,
    SchemaInvalid = 11,
    Conflict = 12,
    TxClosed = 13,
    TxUnknown = 14,
    Vetoed = 15,
    Unavailable = 16,
    GuardFailed = 17,
    NotCanonical = 18,
    UnknownField = 19,
    Malformed = 20,
    Foreign = 21,
    Overlap = 22,
    TooLarge = 23,
    Limit = 24,
    Expired = 25,
    IdReused = 26,
    Withdrawn = 27,
    Pruned = 28,
    Future = 29,
    Permission = 30,
    Sealed = 31,
    Fenced = 32,
    Halted = 33,
    Quarantined = 34,
    Unknown = 35,
    /// A body that is defined but that no released level allows yet.
    Unsupported = 36,
    /// Nobody knows who calls.
    Unauthenticated = 37,
    /// No space is left for the log or for what is folded.
    DiskFull = 38,
    /// A caller takes more of a server than its share.
    Quota = 39,
}

impl Code {
    pub const ALL: [Code; 39] = [
        Code::NotFound,
        Code::InvalidPath,
        Code::TypeMismatch,
        Code::AlreadyExists,
        Code::KeyChange,
        Code::ReadOnlyField,
        Code::ChildrenInUpdate,
        Code::NotAContainer,
        Code::NotKeyed,
        Code::IsAContainer,
        Code::SchemaInvalid,
        Code::Conflict,
        Code::TxClosed,
        Code::TxUnknown,
        Code::Vetoed,
        Code::Unavailable,
        Code::GuardFailed,
        Code::NotCanonical,
        Code::UnknownField,
        Code::Malformed,
        Code::Foreign,
        Code::Overlap,
        Code::TooLarge,
        Code::Limit,
        Code::Expired,
        Code::IdReused,
        Code::Withdrawn,
        Code::Pruned,
        Code::Future,
        Code::Permission,
        Code::Sealed,
        Code::Fenced,
        Code::Halted,
        Code::Quarantined,
        Code::Unknown,
        Code::Unsupported,
        Code::Unauthenticated,
        Code::DiskFull,
        Code::Quota,
    ];

    pub fn from_number(number: u16) -> Option<Code> {
        Code::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    pub fn number(self) -> u16 {
        self as u16
    }

    /// The name that clients, logs and documents use, e.g. `ALREADY_EXISTS`.
    pub fn name(self) -> &'static str {
        match self {
            Code::NotFound => "NOT_FOUND",
            Code::InvalidPath => "INVALID_PATH",
            Code::TypeMismatch => "TYPE_MISMATCH",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::KeyChange => "KEY_CHANGE",
            Code::ReadOnlyField => "READ_ONLY_FIELD",
            Code::ChildrenInUpdate => "CHILDREN_IN_UPDATE",
            Code::NotAContainer => "NOT_A_CONTAINER",
            Code::NotKeyed => "NOT_KEYED",
            Code::IsAContainer => "IS_A_CONTAINER",
            Code::SchemaInvalid => "SCHEMA_INVALID",
            Code::Conflict => "CONFLICT",
            Code::TxClosed => "TX_CLOSED",
            Code::TxUnknown => "TX_UNKNOWN",
            Code::Vetoed => "VETOED",
            Code::Unavailable => "UNAVAILABLE",
            Code::GuardFailed => "GUARD_FAILED",
            Code::NotCanonical => "NOT_CANONICAL",
            Code::UnknownField => "UNKNOWN_FIELD",
            Code::Malformed => "MALFORMED",
            Code::Foreign => "FOREIGN",
            Code::Overlap => "OVERLAP",
            Code::TooLarge => "TOO_LARGE",
            Code::Limit => "LIMIT",
            Code::Expired => "EXPIRED",
            Code::IdReused => "ID_REUSED",
            Code::Withdrawn => "WITHDRAWN",
            Code::Pruned => "PRUNED",
            Code::Future => "FUTURE",
            Code::Permission => "PERMISSION",
            Code::Sealed => "SEALED",
            Code::Fenced => "FENCED",
            Code::Halted => "HALTED",
            Code::Quarantined => "QUARANTINED",
            Code::Unknown => "UNKNOWN",
            Code::Unsupported => "UNSUPPORTED",
            Code::Unauthenticated => "UNAUTHENTICATED",
            Code::DiskFull => "DISK_FULL",
            Code::Quota => "QUOTA",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal. Only `code` enters a hash; path and detail are for people and may be worded better at any time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    pub code: Code,
    pub path: Option<Path>,
    pub detail: String,
    /// Rule by rule, path by path, where a merge found more than one conflict (M15).
    pub conflicts: Vec<Conflict>,
}

/// One path on which a merge or a guard failed, with the hashes it compared; `None` is absence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    pub path: Path,
    pub kind: &'static str,
    pub base: Option<crate::ids::Hash>,
    pub ours: Option<crate::ids::Hash>,
    pub theirs: Option<crate::ids::Hash>,
}

impl Rejection {
    pub fn new(code: Code, detail: impl Into<String>) -> Rejection {
        Rejection { code, path: None, detail: detail.into(), conflicts: Vec::new() }
    }

    pub fn at(mut self, path: Path) -> Rejection {
        self.path = Some(path);
        self
    }
}
