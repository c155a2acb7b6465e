use crate::world::*;
use confold_log::Log;
use confold_model::digest::log_digest;
use confold_model::ids::{Hash, Position, Time};
use confold_wire::api::Api;
use confold_wire::pb;
use expect_test::expect;

#[tokio::test]
async fn pruning_retention_levels_and_clock() {
    let world = World::sample().await;
    let service = &world.service;
    let prune = |floor: &str| {
        service.prune(pb::PruneRequest {
            floor: floor.into(),
            ..Default::default()
        })
    };
    let policy = |keep_revisions, keep_age_ms, keep_all| {
        let policy = Some(pb::RetentionPolicy {
            keep_revisions,
            keep_age_ms,
            keep_all,
        });
        service.set_retention(pb::SetRetentionRequest {
            policy,
            ..Default::default()
        })
    };
    let mut lines = vec![
        decided(&prune("").await),
        decided(&prune("2").await),
        decided(&prune("1").await),
        decided(&prune("latest").await),
        decided(&prune("nowhere").await),
        decided(&policy(10, 1_000, false).await),
        decided(&policy(10, 1_000, false).await),
        decided(&policy(10, -1, false).await),
        decided(&service.set_retention(pb::SetRetentionRequest::default()).await),
        decided(
            &service
                .activate(pb::ActivateRequest {
                    level: 2,
                    ..Default::default()
                })
                .await,
        ),
        decided(
            &service
                .activate(pb::ActivateRequest {
                    level: 7,
                    ..Default::default()
                })
                .await,
        ),
    ];
    world.log.let_time_go_back(true);
    world.log.set_clock(Time(500));
    lines.push(decided(&service.set_clock(pb::SetClockRequest::default()).await));
    let retention = service.get_retention(pb::GetRetentionRequest::default()).await.unwrap();
    lines.push(format!("floor {} {:?}", retention.floor, retention.policy.unwrap()));
    expect![[r#"
        unchanged p6
        committed p7
        unchanged p8
        FUTURE: the floor must stay below the latest revision 4, not 4
        NOT_FOUND: "nowhere": no tag or root is called "nowhere"; the store has no tags
        committed p10
        unchanged p11
        LIMIT: keep_age_ms is -1
        INVALID_PATH: no policy is given
        UNSUPPORTED: not every replica has announced that it knows level 2
        UNSUPPORTED: level 1 is active: the next is 2, not 7
        committed p15
        floor 2 RetentionPolicy { keep_revisions: 10, keep_age_ms: 1000, keep_all: false }"#]]
    .assert_eq(&lines.join("\n"));
    assert_eq!(service.status(pb::StatusRequest::default()).await.unwrap().time_ms, 500);
}

#[tokio::test]
async fn status_shows_what_the_view_shows() {
    let world = World::sample().await;
    world.handle.keep_house();
    let view = world.handle.fence(SOON).await.unwrap();
    let status = world.service.status(pb::StatusRequest::default()).await.unwrap();
    assert_eq!(status.state(), pb::State::Serving);
    assert_eq!(
        (status.position, status.revision, status.root),
        (view.position.0, 4, view.root.to_string())
    );
    assert_eq!(
        (status.log_start, status.log_end, status.level, status.build_level),
        (0, world.log.range().end.0, 1, 1)
    );
    assert_eq!(status.root_message, "example.Network");
    assert_eq!(status.limits.unwrap().max_event_bytes, 16 << 20);
    assert!(status.counters.is_sorted_by_key(|counter| counter.name.clone()) && !status.counters.is_empty());
    assert_eq!(status.replica.len(), 32);
    let row = world
        .service
        .list_stores(pb::ListStoresRequest {})
        .await
        .unwrap()
        .stores
        .remove(0);
    assert_eq!(
        (row.name.as_str(), row.state(), row.revision, row.log_id),
        ("network", pb::State::Serving, 4, status.log_id)
    );
}

#[tokio::test]
async fn a_replica_that_has_stopped_says_so_and_still_reads() {
    let world = World::sample().await;
    world.handle.shutdown(SOON).await.unwrap();
    let status = world.service.status(pb::StatusRequest::default()).await.unwrap();
    assert_eq!(status.state(), pb::State::Closed);
    assert!(!status.reason.is_empty());
    assert_eq!(
        world.json("/vlans/100", 0, "").await,
        r#"{"number":100,"name":"customers"}"#
    );
    let refused = world.commit(remove("/vlans/100")).await.unwrap_err();
    assert_eq!(
        (code(&refused).as_str(), refused.code()),
        ("UNAVAILABLE", tonic::Code::Unavailable)
    );
    let synced = world
        .service
        .sync(pb::SyncRequest {
            deadline_ms: 50,
            ..Default::default()
        })
        .await;
    // Everything that was acknowledged is folded here already.
    assert!(synced.is_ok_and(|synced| synced.read_at.unwrap().revision == 4));
}

// Both kinds of fence: the log's own end, and an event of one's own.
#[tokio::test]
async fn sync_waits_for_what_was_acknowledged() {
    let world = World::sample().await;
    for by_append in [false, true] {
        world.log.fence_by_append(by_append);
        let synced = world
            .service
            .sync(pb::SyncRequest::default())
            .await
            .unwrap()
            .read_at
            .unwrap();
        assert!(synced.position >= 5 && synced.revision == 4);
        let read = pb::Read {
            consistency: pb::Consistency::AtLeast.into(),
            token: synced.token,
            ..Default::default()
        };
        let answer = world
            .service
            .get(pb::GetRequest {
                read: Some(read),
                ..get("/")
            })
            .await
            .unwrap();
        assert!(answer.read_at.unwrap().position >= synced.position);
    }
}

async fn export(world: &World, from: u64, to: Option<u64>) -> Result<Vec<pb::ExportLogResponse>, tonic::Status> {
    let request = pb::ExportLogRequest {
        from,
        to,
        ..Default::default()
    };
    collect(world.service.export_log(request).await?)
        .await
        .into_iter()
        .collect()
}

#[tokio::test]
async fn the_log_is_exported_with_digests_that_can_be_computed_again() {
    let options = confold_replica::service::Options {
        piece_bytes: 200,
        ..Default::default()
    };
    let world = World::network_with(options).await;
    for number in 1..20 {
        world
            .commit(add("/vlans", &format!(r#"{{"number": {number}}}"#)))
            .await
            .unwrap();
    }
    for (from, to) in [(0, None), (5, None), (5, Some(9)), (21, None), (20, Some(20))] {
        let pieces = export(&world, from, to).await.unwrap();
        let origin = pieces[0].origin.clone().unwrap();
        assert!(pieces[1..].iter().all(|piece| piece.origin.is_none()));
        assert_eq!(origin.first_position, from);
        let mut digest = confold_wire::convert::parse_hash(&origin.previous_digest).unwrap();
        let mut next = from;
        for record in pieces.iter().flat_map(|piece| &piece.records) {
            assert_eq!(record.position, next);
            digest = log_digest(digest, Position(next), Time(record.time_ms), &record.record);
            assert_eq!(Hash::from_slice(&record.digest), Some(digest));
            next += 1;
        }
        assert_eq!(next, to.map_or(21, |to| to + 1), "from {from} to {to:?}");
    }
    assert!(export(&world, 0, None).await.unwrap().len() > 3);
    let mut lines = Vec::new();
    for (from, to) in [(22, None), (0, Some(21)), (9, Some(3))] {
        lines.push(refusal(&export(&world, from, to).await.unwrap_err()));
    }
    expect![[r#"
        FUTURE: the log ends at position 20
        FUTURE: the log ends at position 20
        INVALID_PATH: the range is empty: from 9 to 3"#]]
    .assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn a_trimmed_log_is_exported_from_where_it_starts() {
    let world = World::sample().await;
    world.log.trim(Position(4));
    let pieces = export(&world, 0, None).await.unwrap();
    let origin = pieces[0].origin.clone().unwrap();
    // Position 3 made revision 2, so the history knows its digest.
    let row = confold_store::Store::revision(&*world.store, confold_model::ids::Revision(2))
        .unwrap()
        .unwrap();
    assert_eq!(
        (origin.first_position, origin.previous_digest),
        (4, row.digest.to_string())
    );
    assert_eq!(code(&export(&world, 2, None).await.unwrap_err()), "PRUNED");
    let shown = world.service.show(pb::ShowRequest {
        which: Some(pb::show_request::Which::Position(2)),
        ..Default::default()
    });
    assert_eq!(code(&shown.await.unwrap_err()), "PRUNED");
    // Rows of the history outlive their records.
    let log = world
        .service
        .log(pb::LogRequest {
            oldest_first: true,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(
        log.rows.iter().map(|row| row.summary.len()).collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
}
