use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb;
use expect_test::expect;

async fn tag(world: &World, name: &str, at: &str) -> String {
    decided(
        &world
            .service
            .tag(pb::TagRequest {
                name: name.into(),
                at: at.into(),
                ..Default::default()
            })
            .await,
    )
}

async fn untag(world: &World, names: &[&str]) -> String {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    decided(
        &world
            .service
            .untag(pb::UntagRequest {
                names,
                ..Default::default()
            })
            .await,
    )
}

async fn tags(world: &World) -> String {
    let tags = world
        .service
        .list_tags(pb::ListTagsRequest::default())
        .await
        .unwrap()
        .tags;
    tags.iter()
        .map(|tag| format!("{}=r{}", tag.name, tag.revision))
        .collect::<Vec<_>>()
        .join(" ")
}

// T1, T2, T5
#[tokio::test]
async fn tags_name_move_and_go() {
    let world = World::sample().await;
    let event = world.service.show(pb::ShowRequest {
        which: Some(pb::show_request::Which::At("2".into())),
        ..Default::default()
    });
    let event = event.await.unwrap().row.unwrap().event_id;
    let mut lines = vec![
        tag(&world, "stable", "").await,
        tag(&world, "stable", "4").await,
        tag(&world, "stable", "1").await,
        tag(&world, "v1.0/rc-1", &format!("event:{event}")).await,
        tag(&world, "other", "stable").await,
        tag(&world, "", "").await,
        tag(&world, "latest", "").await,
        tag(&world, "1st", "").await,
        tag(&world, "a b", "").await,
        tag(&world, "none", "0").await,
        tag(&world, "none", "9").await,
        tag(&world, "none", "nowhere").await,
        tags(&world).await,
        untag(&world, &["stable", "nowhere"]).await,
        tags(&world).await,
        untag(&world, &["stable", "other"]).await,
        untag(&world, &["stable"]).await,
        untag(&world, &[]).await,
        tags(&world).await,
    ];
    world
        .service
        .prune(pb::PruneRequest {
            floor: "3".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    lines.push(tag(&world, "late", "1").await);
    lines.push(tag(&world, "late", "v1.0/rc-1").await);
    lines.push(tags(&world).await);
    expect![[r#"
        committed p6
        unchanged p7
        committed p8
        committed p9
        committed p10
        INVALID_PATH: a tag needs a name: ""
        INVALID_PATH: `latest` always means the latest revision: "latest"
        INVALID_PATH: a tag's name begins with a letter: "1st"
        INVALID_PATH: a tag's name has letters, digits and . _ / - only: "a b"
        NOT_FOUND: revision 0 is the empty tree and cannot be tagged
        FUTURE: "9": revision 9 is not reached yet, the latest is 4
        NOT_FOUND: "nowhere": no tag or root is called "nowhere"; the tags are other, stable, v1.0/rc-1
        other=r1 stable=r1 v1.0/rc-1=r2
        NOT_FOUND: no tag is called "nowhere"
        other=r1 stable=r1 v1.0/rc-1=r2
        committed p13
        NOT_FOUND: no tag is called "stable"
        INVALID_PATH: no tag is named
        v1.0/rc-1=r2
        PRUNED: revision 1 is gone: everything untagged up to 3 was pruned; the nearest that is kept is 2
        committed p16
        late=r2 v1.0/rc-1=r2"#]]
    .assert_eq(&lines.join("\n"));
    let status = world
        .service
        .tag(pb::TagRequest {
            name: "x".into(),
            at: "1".into(),
            ..Default::default()
        })
        .await;
    assert!(
        confold_wire::status::detail(&status.unwrap_err())
            .unwrap()
            .hint
            .contains("revision 2")
    );
}

#[tokio::test]
async fn a_listed_tag_says_when_its_revision_was_made() {
    let world = World::sample().await;
    world.log.set_clock(confold_model::ids::Time(77_000));
    world.commit(add("/vlans", r#"{"number": 5}"#)).await.unwrap();
    tag(&world, "five", "").await;
    let entry = world
        .service
        .list_tags(pb::ListTagsRequest::default())
        .await
        .unwrap()
        .tags
        .remove(0);
    let read_at = world.get("/", 0, "five").await.unwrap().read_at.unwrap();
    assert_eq!((entry.revision, entry.root, entry.time_ms), (5, read_at.root, 77_000));
}
