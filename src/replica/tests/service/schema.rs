use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb;
use expect_test::expect;

async fn lines(world: &World, descriptor_set: &[u8], root: &str, dry_run: bool) -> String {
    let request = pb::PushSchemaRequest {
        descriptor_set: descriptor_set.to_vec().into(),
        root_message: root.into(),
        dry_run,
        ..Default::default()
    };
    match world.service.push_schema(request).await {
        Ok(answer) => {
            let mut lines = vec![answer.decision.as_ref().map_or("checked".to_owned(), decision_line)];
            lines.extend(answer.additions.iter().map(|line| format!("+ {line}")));
            lines.extend(answer.problems.iter().map(|line| format!("! {line}")));
            lines.join("\n")
        }
        Err(status) => refusal(&status),
    }
}

// S4, S6, S9
#[tokio::test]
async fn a_schema_is_looked_over_before_it_is_pushed() {
    let world = World::begun().await;
    let mut found = vec![
        lines(&world, network(), "", true).await,
        lines(&world, network(), "example.Nothing", true).await,
        lines(&world, b"nonsense", "example.Network", true).await,
        lines(&world, b"nonsense", "example.Network", false).await,
        lines(&world, network(), "example.Network", true).await,
        lines(&world, network(), "example.Network", false).await,
        lines(&world, network(), "", false).await,
    ];
    let wider = network_with(|text| {
        text.replace("DISABLED = 2;", "DISABLED = 2;\n  FAILED = 3;")
            .replace("string name = 2;\n}", "string name = 2;\n  uint32 mtu = 3;\n  repeated Note notes = 4 [(confold.v1.child_node) = {key: \"at\"}];\n}\nmessage Note { uint64 at = 1; }")
    });
    found.push(lines(&world, &wider, "example.Network", true).await);
    assert_eq!(world.position(), 2, "a dry run proposes nothing");
    found.push(lines(&world, &wider, "example.Network", false).await);
    // Back to the first: that would remove.
    found.push(lines(&world, network(), "", true).await);
    found.push(lines(&world, network(), "", false).await);
    let retyped = network_with(|text| {
        text.replace("string address = 2;", "bytes address = 2;")
            .replace("Location location = 7;", "Location place = 7;")
    });
    found.push(lines(&world, &retyped, "", true).await);
    found.push(lines(&world, &wider, "example.Device", true).await);
    expect![[r#"
        checked
        ! the first schema must name its root message
        ---
        checked
        ! root message: no message "example.Nothing" in the descriptor set
        ---
        checked
        ! descriptor set: not a descriptor set: wire type 6 does not exist
        ---
        SCHEMA_INVALID: descriptor set: not a descriptor set: wire type 6 does not exist
        ---
        checked
        + enum example.AdminState
        + message example.Clock
        + message example.Device
        + message example.Location
        + message example.Network
        + message example.NtpServer
        + message example.Port
        + message example.Vlan
        ---
        committed p1
        + enum example.AdminState
        + message example.Clock
        + message example.Device
        + message example.Location
        + message example.Network
        + message example.NtpServer
        + message example.Port
        + message example.Vlan
        ---
        unchanged p2
        ---
        checked
        + container example.Vlan.notes = 4 (example.Note, keyed by at)
        + enum value example.AdminState.FAILED = 3
        + field example.Vlan.mtu = 3 (uint32)
        + message example.Note
        ---
        committed p3
        + container example.Vlan.notes = 4 (example.Note, keyed by at)
        + enum value example.AdminState.FAILED = 3
        + field example.Vlan.mtu = 3 (uint32)
        + message example.Note
        ---
        checked
        ! example.AdminState.FAILED: enum value 3 removed
        ! example.Vlan.mtu: field 3 removed
        ! example.Vlan.notes: field 4 removed
        ---
        SCHEMA_INVALID: example.AdminState.FAILED: enum value 3 removed; example.Vlan.mtu: field 3 removed; example.Vlan.notes: field 4 removed
        ---
        checked
        ! example.AdminState.FAILED: enum value 3 removed
        ! example.Device.address: retyped from string to bytes
        ! example.Device.location: field 7 renamed to place
        ! example.Vlan.mtu: field 3 removed
        ! example.Vlan.notes: field 4 removed
        ---
        checked
        ! the root message is example.Network and stays so, not example.Device"#]].assert_eq(&found.join("\n---\n"));
}

#[tokio::test]
async fn the_schema_of_any_state_can_be_read() {
    let world = World::sample().await;
    let wider = network_with(|text| text.replace("DISABLED = 2;", "DISABLED = 2;\n  FAILED = 3;"));
    world.push(&wider, "").await.unwrap();
    world.commit(add("/vlans", r#"{"number": 5}"#)).await.unwrap();
    let get = |at: &str| {
        world.service.get_schema(pb::GetSchemaRequest {
            read: Some(read(at)),
            ..Default::default()
        })
    };
    let mut found = Vec::new();
    for at in ["", "latest", "4", "pos:6", "1", "pos:1", "0", "9"] {
        found.push(match get(at).await {
            Ok(answer) => {
                let which = if answer.descriptor_set == wider {
                    "wider"
                } else {
                    "first"
                };
                let revision = answer.read_at.unwrap().revision;
                format!(
                    "{at}: r{revision} {which} of {} pushed at {}",
                    answer.root_message, answer.position
                )
            }
            Err(status) => format!("{at}: {}", refusal(&status)),
        });
    }
    expect![[r#"
        : r5 wider of example.Network pushed at 6
        latest: r5 wider of example.Network pushed at 6
        4: r4 first of example.Network pushed at 1
        pos:6: r4 wider of example.Network pushed at 6
        1: r1 first of example.Network pushed at 1
        pos:1: r0 first of example.Network pushed at 1
        0: NOT_FOUND: no schema was in force at position 0
        9: FUTURE: "9": revision 9 is not reached yet, the latest is 5"#]]
    .assert_eq(&found.join("\n"));
    let begun = World::begun().await;
    let status = begun
        .service
        .get_schema(pb::GetSchemaRequest::default())
        .await
        .unwrap_err();
    assert_eq!(code(&status), "NOT_FOUND");
}

// The types of a schema are known as soon as it is in force.
#[tokio::test]
async fn new_fields_can_be_written_at_once() {
    let world = World::sample().await;
    assert_eq!(
        code(
            &world
                .commit(add("/vlans", r#"{"number": 5, "mtu": 9}"#))
                .await
                .unwrap_err()
        ),
        "UNKNOWN_FIELD"
    );
    let wider = network_with(|text| text.replace("string name = 2;\n}", "string name = 2;\n  uint32 mtu = 3;\n}"));
    world.push(&wider, "").await.unwrap();
    world.commit(add("/vlans", r#"{"number": 5, "mtu": 9}"#)).await.unwrap();
    assert_eq!(world.json("/vlans/5", 0, "").await, r#"{"number":5,"mtu":9}"#);
}
