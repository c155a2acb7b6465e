//! The generated types and the model's own reading of a record are two implementations of one contract.

use bytes::Bytes;
use confold_model::{
    event::{Body, Event},
    ids::EventId,
};
use confold_wire::pb::{self, event::Body as PbBody};
use proptest::prelude::*;
use prost::Message;

/// What the generated types encode is canonical, and the model writes the same bytes back.
fn agree(event: &pb::Event) -> Result<(), TestCaseError> {
    let bytes = event.encode_to_vec();
    let read = Event::decode(&bytes).map_err(|error| TestCaseError::fail(format!("{error}: {event:?}")))?;
    let later = matches!(read.body, Body::Later { .. });
    if !later {
        prop_assert_eq!(&read.encode(), &bytes, "{:?}", event);
    }
    let body = event.body.as_ref().map(|body| format!("{body:?}").to_lowercase());
    prop_assert!(
        body.unwrap_or_default().starts_with(read.body.name()),
        "{} for {:?}",
        read.body.name(),
        event.body
    );
    prop_assert_eq!(read.author.as_ref(), event.author.as_str());
    prop_assert_eq!(read.client_time_ms, event.client_time_ms);
    let id = event.id.as_ref().map(|id| EventId::try_from(id).unwrap());
    prop_assert_eq!(read.intention.map(|(id, _)| id), id);
    Ok(())
}

proptest! {
    #[test]
    fn every_event_means_the_same_to_both(event in events()) {
        agree(&event)?;
    }
}

#[test]
fn empty_bodies_are_present_on_both_sides() {
    for body in [
        PbBody::Clock(pb::Clock {}),
        PbBody::Fence(pb::Fence {}),
        PbBody::Commit(pb::Commit::default()),
    ] {
        let housekeeping = matches!(body, PbBody::Fence(_));
        let id = pb::EventId {
            seen: 0,
            nonce: Bytes::from_static(&[7; 16]),
        };
        let event = pb::Event {
            incarnation: Bytes::from_static(&[1; 16]),
            id: (!housekeeping).then_some(id),
            intent: if housekeeping {
                Bytes::new()
            } else {
                Bytes::from_static(&[2; 32])
            },
            body: Some(body),
            ..Default::default()
        };
        agree(&event).unwrap();
    }
}

fn events() -> impl Strategy<Value = pb::Event> {
    let envelope = (
        id(),
        sized(32),
        "\\PC{0,8}",
        "\\PC{0,8}",
        any::<i64>(),
        "\\PC{0,8}",
        sized(16),
    );
    (envelope, body()).prop_map(
        |((id, intent, author, principal, client_time_ms, reason, incarnation), body)| {
            let own_id = !matches!(
                body,
                PbBody::Genesis(_) | PbBody::Mark(_) | PbBody::Checkpoint(_) | PbBody::Fence(_)
            );
            pb::Event {
                format: 0,
                incarnation,
                id: own_id.then_some(id),
                intent: if own_id { intent } else { Bytes::new() },
                author,
                principal,
                client_time_ms,
                reason,
                signature: Bytes::new(),
                body: Some(body),
            }
        },
    )
}

fn body() -> impl Strategy<Value = PbBody> {
    prop_oneof![
        (
            sized(16),
            "[a-z]{0,5}",
            limits(),
            any::<u64>(),
            any::<u32>(),
            retention(),
            any::<u32>(),
            sized(16)
        )
            .prop_map(
                |(log_id, store_name, limits, window, trim_replicas, retention, level, transport_id)| {
                    PbBody::Genesis(pb::Genesis {
                        log_id,
                        store_name,
                        limits: Some(limits),
                        window,
                        trim_replicas,
                        retention: Some(retention),
                        level,
                        transport_id,
                    })
                }
            ),
        (
            prop::collection::vec(guard(), 0..3),
            prop::collection::vec(operation(), 0..4)
        )
            .prop_map(|(guards, operations)| PbBody::Commit(pb::Commit { guards, operations })),
        (value(), "[a-z.]{0,5}").prop_map(|(descriptor_set, root_message)| {
            PbBody::Schema(pb::Schema {
                descriptor_set,
                root_message,
            })
        }),
        ("[a-z]{0,3}", any::<u64>()).prop_map(|(name, revision)| PbBody::Tag(pb::Tag { name, revision })),
        prop::collection::vec("[a-z]{0,3}", 0..3).prop_map(|names| PbBody::Untag(pb::Untag { names })),
        retention().prop_map(|policy| PbBody::Retention(pb::Retention { policy: Some(policy) })),
        any::<Option<u64>>().prop_map(|floor| PbBody::Prune(pb::Prune { floor })),
        id().prop_map(|id| PbBody::Withdraw(pb::Withdraw { id: Some(id) })),
        any::<u32>().prop_map(|level| PbBody::Activation(pb::Activation { level })),
        Just(PbBody::Clock(pb::Clock {})),
        any::<u64>().prop_map(|last_mark| PbBody::Mark(pb::Mark { last_mark })),
        (
            sized(16),
            "[a-z]{0,3}",
            any::<u32>(),
            any::<u64>(),
            sized(32),
            sized(32),
            any::<u64>()
        )
            .prop_map(|(replica, build, level, position, chain, state, durable)| {
                PbBody::Checkpoint(pb::Checkpoint {
                    replica,
                    build,
                    level,
                    position,
                    chain,
                    state,
                    durable,
                })
            }),
        Just(PbBody::Fence(pb::Fence {})),
        (
            prop::collection::vec(rule(), 0..3),
            prop::collection::vec(token(), 0..3),
            any::<u64>()
        )
            .prop_map(|(rules, tokens, replaces)| {
                PbBody::Policy(pb::Policy {
                    rules,
                    tokens,
                    replaces,
                })
            }),
        Just(PbBody::Seal(pb::Seal {})),
        (sized(16), sized(16)).prop_map(|(incarnation, transport_id)| {
            PbBody::Open(pb::Open {
                incarnation,
                transport_id,
            })
        }),
    ]
}

fn rule() -> impl Strategy<Value = pb::Rule> {
    let rights = prop::sample::subsequence(vec![1, 2, 3, 4], 0..=4);
    ("[a-z*]{0,5}", path(), rights, any::<bool>()).prop_map(|(principal, prefix, rights, strict)| pb::Rule {
        principal,
        prefix,
        rights,
        strict,
    })
}

fn token() -> impl Strategy<Value = pb::Token> {
    (sized(8), sized(32), "[a-z]{0,5}", any::<i64>()).prop_map(|(id, hash, principal, expires_ms)| pb::Token {
        id,
        hash,
        principal,
        expires_ms,
    })
}

fn guard() -> impl Strategy<Value = pb::Guard> {
    use pb::guard::Expect;
    let expect = prop_oneof![
        sized(32).prop_map(Expect::Subtree),
        sized(32).prop_map(Expect::Data),
        sized(32).prop_map(Expect::Container),
        Just(Expect::Absent(pb::Absent {})),
    ];
    (path(), expect).prop_map(|(path, expect)| pb::Guard {
        path,
        expect: Some(expect),
    })
}

fn operation() -> impl Strategy<Value = pb::Operation> {
    use pb::{base::Was, operation::Kind};
    let kind = prop_oneof![
        (
            value(),
            prop::collection::vec(prop::collection::vec(1..u32::MAX, 1..3), 0..3)
        )
            .prop_map(|(value, mask)| {
                let mask = mask.into_iter().map(|fields| pb::FieldPath { fields }).collect();
                Kind::Update(pb::Update { value, mask })
            }),
        value().prop_map(|value| Kind::Add(pb::Add { value })),
        value().prop_map(|value| Kind::Put(pb::Put { value })),
        value().prop_map(|value| Kind::Replace(pb::Replace { value })),
        Just(Kind::Remove(pb::Remove {})),
    ];
    let base = prop::option::of(prop_oneof![
        sized(32).prop_map(|hash| pb::Base {
            was: Some(Was::Hash(hash))
        }),
        Just(pb::Base {
            was: Some(Was::Absent(pb::Absent {}))
        }),
    ]);
    (path(), any::<bool>(), base, kind).prop_map(|(path, strict, base, kind)| pb::Operation {
        path,
        strict,
        base,
        kind: Some(kind),
    })
}

fn path() -> impl Strategy<Value = Vec<pb::Step>> {
    let step = (1..u32::MAX, value()).prop_map(|(field, key)| pb::Step { field, key });
    prop::collection::vec(step, 0..3)
}

fn limits() -> impl Strategy<Value = pb::Limits> {
    (any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(max_event_bytes, depth, path_bytes, key_bytes)| pb::Limits {
            max_event_bytes,
            depth,
            path_bytes,
            key_bytes,
        },
    )
}

fn retention() -> impl Strategy<Value = pb::RetentionPolicy> {
    (any::<u64>(), any::<i64>(), any::<bool>()).prop_map(|(keep_revisions, keep_age_ms, keep_all)| {
        pb::RetentionPolicy {
            keep_revisions,
            keep_age_ms,
            keep_all,
        }
    })
}

fn id() -> impl Strategy<Value = pb::EventId> {
    (any::<u64>(), sized(16)).prop_map(|(seen, nonce)| pb::EventId { seen, nonce })
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..5).prop_map(Bytes::from)
}

fn sized(length: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), length).prop_map(Bytes::from)
}
