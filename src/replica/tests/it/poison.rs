//! F21: records that nobody should have appended. They are rejected alike by everybody, and nobody stops.

use crate::world::*;
use bytes::Bytes;
use confold_log::Log;
use confold_model::event::Body;
use confold_model::ids::{EventId, Incarnation, Position};
use confold_replica::{Handle, ReplicaState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

/// One record of a stranger, now and then one that is nearly right.
fn poison(random: &mut StdRng, incarnation: Incarnation, number: u64) -> Bytes {
    let seen = Position(number);
    let good = || record(incarnation, Some(EventId { seen, nonce: nonce(number) }), put("a", "1")).to_vec();
    let bytes = match random.random_range(0..11) {
        0 => Vec::new(),
        1 => (0..random.random_range(1..200)).map(|_| random.random()).collect(),
        // Varints without an end, and lengths beyond all bounds.
        2 => vec![0xff; random.random_range(1..40)],
        3 => [&[0x0a][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], b"x"].concat(),
        // Messages in messages, each of the length that is left.
        4 => (0..random.random_range(1..4_000)).fold(Vec::new(), |inner: Vec<u8>, _| {
            let mut out = vec![random.random_range(1..16) << 3 | 2];
            let mut length = inner.len();
            while length >= 128 {
                out.push((length & 127) as u8 | 128);
                length >>= 7;
            }
            out.push(length as u8);
            out.extend(inner);
            out.truncate(60_000);
            out
        }),
        // A protobuf message of another type.
        5 => network()[..random.random_range(1..network().len())].to_vec(),
        6 => {
            let good = good();
            good[..random.random_range(0..good.len())].to_vec()
        }
        7 => {
            let mut bent = good();
            let at = random.random_range(0..bent.len());
            bent[at] ^= 1 << random.random_range(0..8);
            bent
        }
        // A field that this build does not know, and a body of a later one.
        8 => [&good()[..], &[0xfa, 0x3f, 1, b'x']].concat(),
        // A level that nobody has announced.
        9 => record(incarnation, Some(EventId { seen, nonce: nonce(number) }), Body::Activation { level: 2 + random.random_range(0..9) }).to_vec(),
        _ => record(Incarnation([random.random(); 16]), Some(EventId { seen, nonce: nonce(number) }), put("b", "2")).to_vec(),
    };
    bytes.into()
}

async fn all_at(handles: &[Handle], end: Position) {
    for handle in handles {
        handle.at_least(end, SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_records_of_strangers_are_rejected_alike_and_stop_nobody() {
    let count = std::env::var("CONFOLD_POISON").ok().map_or(10_000, |count| count.parse::<u64>().unwrap());
    let world = World::begun();
    let others = [(); 2].map(|()| World { log: world.log.clone(), store: Arc::default(), clock: world.clock.clone() });
    let handles = [world.serving().await, others[0].serving().await, others[1].serving().await];
    let incarnation = handles[0].view().incarnation;
    let mut random = StdRng::seed_from_u64(21);
    for number in 0..count {
        world.log.append(poison(&mut random, incarnation, number)).unwrap();
    }
    let end = Position(world.log.range().end.0 - 1);
    all_at(&handles, end).await;
    let settled = commit(&handles[0], put("last", "1")).await;
    all_at(&handles, settled.position).await;
    let views = handles.each_ref().map(|handle| handle.view());
    for (handle, view) in handles.iter().zip(&views) {
        assert_eq!((view.position, view.chain, view.root), (views[0].position, views[0].chain, views[0].root));
        assert_eq!(view.mark, views[0].mark, "the state hash at the last mark");
        assert_eq!(handle.status().standing.state, ReplicaState::Serving, "{:?}", handle.status().standing);
        assert_eq!(view.level, 1, "nobody has announced another level");
    }
    let counts = handles.each_ref().map(|handle| {
        let mut counts = handle.status().counts.0;
        counts.retain(|name, _| name.starts_with("events_"));
        counts
    });
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0], counts[2]);
    for code in ["MALFORMED", "FOREIGN", "UNSUPPORTED"] {
        assert!(counts[0].get(&format!("events_rejected_{code}")).is_some_and(|met| *met > 100), "{code}: {:?}", counts[0]);
    }
}
