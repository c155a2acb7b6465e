//! What no log can show at level 1.

use super::*;
use crate::event::{Commit, Limits, Operation, OperationKind, RetentionPolicy};

fn record(id: Option<(u64, u8)>, intent: u8, body: Body<'_>) -> Vec<u8> {
    let id = id.map(|(seen, nonce)| {
        (
            EventId {
                seen: Position(seen),
                nonce: [nonce; 16],
            },
            Hash([intent; 32]),
        )
    });
    Event {
        format: event::FORMAT,
        incarnation: crate::ids::Incarnation([1; 16]),
        intention: id,
        author: "".into(),
        principal: "".into(),
        client_time_ms: 0,
        reason: "".into(),
        body,
    }
    .encode()
}

fn code(state: &mut State, record: &[u8]) -> Option<Code> {
    match apply(state, Time(0), record, &crate::objects::NoObjects)
        .unwrap()
        .outcome
    {
        Outcome::Rejected(rejection) => Some(rejection.code),
        _ => None,
    }
}

/// Formats 4.6, steps 8 to 10: a sealed log still answers for ids that it met, takes nothing new, and does not look at
/// what it refuses. Housekeeping goes on.
#[test]
fn a_sealed_log_knows_its_ids_and_refuses_all_others_before_their_bodies() {
    let genesis = Genesis {
        log_id: [1; 16],
        store_name: String::new(),
        limits: Limits::default(),
        window: 100,
        trim_replicas: 1,
        retention: RetentionPolicy::default(),
        level: event::LEVEL,
        transport_id: [2; 16],
    };
    let mut state = State::new();
    assert_eq!(code(&mut state, &record(None, 0, Body::Genesis(genesis))), None);
    assert_eq!(code(&mut state, &record(Some((0, 1)), 1, Body::Clock)), None);
    state.sealed = true;
    let root = Operation {
        path: Path::root(),
        strict: false,
        base: None,
        kind: OperationKind::Update {
            value: Vec::new().into(),
            mask: Vec::new(),
        },
    };
    let overlap = || {
        Body::Commit(Commit {
            guards: Vec::new(),
            operations: vec![root.clone(), root.clone()],
        })
    };
    let first = record(Some((0, 1)), 1, overlap());
    let again = apply(&mut state, Time(0), &first, &crate::objects::NoObjects).unwrap();
    assert!(matches!(again.outcome, Outcome::Duplicate(_)));
    assert_eq!(
        code(&mut state, &record(Some((0, 1)), 9, overlap())),
        Some(Code::IdReused)
    );
    assert_eq!(
        code(&mut state, &record(Some((0, 2)), 2, overlap())),
        Some(Code::Sealed)
    );
    assert_eq!(code(&mut state, &record(None, 0, Body::Fence)), None);
}
