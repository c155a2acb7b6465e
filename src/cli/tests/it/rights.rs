use crate::world::{NOW, World, committed};
use confold_wire::pb::{self, Right};
use expect_test::expect;

fn policy() -> pb::GetPolicyResponse {
    let rule = |principal: &str, path: &str, rights: &[Right], strict| pb::PolicyRule {
        principal: principal.to_owned(),
        path: path.to_owned(),
        rights: rights.iter().map(|right| (*right).into()).collect(),
        strict,
    };
    let token = |id: &str, principal: &str, expires_ms| pb::PolicyToken {
        id: id.repeat(8),
        hash: String::new(),
        principal: principal.to_owned(),
        expires_ms,
    };
    pb::GetPolicyResponse {
        rules: vec![
            rule("ops", "/", &[Right::Tag, Right::Admin], false),
            rule("ann", "/devices", &[Right::Read, Right::Write], true),
            rule("*", "/devices/olt-1", &[Right::Read], false),
        ],
        tokens: vec![
            token("a1", "ops", 0),
            token("b2", "ann", NOW - 1),
            token("c3", "ann", NOW + 86_400_000),
        ],
        position: 4182,
        principal: "ops".to_owned(),
        ..Default::default()
    }
}

fn world() -> World {
    let world = World::new();
    world.fake.get_policy.always(policy());
    world.fake.set_policy.always(committed());
    world
}

#[test]
fn a_policy_is_shown_as_it_can_be_set() {
    let world = world();
    world.check(
        "policy show",
        expect![[r#"
        > get_policy {}
        rules:
        - principal: ops
          path: /
          rights:
          - tag
          - admin
        - principal: ann
          path: /devices
          rights:
          - read
          - write
          strict: true
        - principal: '*'
          path: /devices/olt-1
          rights:
          - read
        tokens:
        - id: a1a1a1a1a1a1a1a1
          principal: ops
        - id: b2b2b2b2b2b2b2b2
          principal: ann
          expires: 2026-11-21T09:59:59.999Z
        - id: c3c3c3c3c3c3c3c3
          principal: ann
          expires: 2026-11-22T10:00:00Z
    "#]],
    );
    let shown = world.run("policy show");
    let text: String = shown
        .lines()
        .filter(|line| !line.starts_with('>'))
        .map(|line| format!("{line}\n"))
        .collect();
    world.file("policy.yaml", &text);
    world.check("policy set policy.yaml", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.file("rules.yaml", "rules:\n- {principal: ops, path: /, rights: [admin]}\n");
    world.check("policy set rules.yaml --reason 'fewer rules'", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","reason":"fewer rules","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_ADMIN"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.file("wrong.yaml", "rules:\n- {principal: ops, path: /, right: [admin]}\n");
    world.check("policy set wrong.yaml", expect![[r#"
        > get_policy {}
        ! Error: this is no policy: rules[0]: unknown field `right`, expected one of `principal`, `path`, `rights`, `strict` at line 2 column 29
        ! Hint: write it as `confold policy show` does
        exit 2
    "#]]);
    world.file("wrong.yaml", "rules:\n- {principal: ops, path: /, rights: [own]}\n");
    world.check(
        "policy set wrong.yaml",
        expect![[r#"
        > get_policy {}
        ! Error: "own" is no right: write read, write, tag or admin
        exit 2
    "#]],
    );
}

#[test]
fn a_right_is_given_taken_and_tested() {
    let world = world();
    world.check("policy allow ann tag /", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]},{"principal":"ann","path":"/","rights":["RIGHT_TAG"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("policy allow ann read,write /devices/", expect![[r#"
        > get_policy {}
        > get_schema {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("policy allow bob read /nonsense", expect![[r#"
        > get_policy {}
        > get_schema {}
        ! Error: NOT_FOUND: /nonsense: no such child field: example.Network has no child "nonsense"; it has clock, devices, vlans
        ! Hint: look what is there with `confold ls`, or name another state with --at
        exit 1
    "#]]);
    world.check(
        "policy allow bob own /",
        expect![[r#"
        ! Error: invalid value 'own' for '<RIGHTS>': "own" is no right: write read, write, tag or admin
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
    world.check("policy deny ann read /devices", expect![[r#"
        > get_policy {}
        > get_schema {}
        > get_schema {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        > get_schema {}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check(
        "policy deny ann read /devices/olt-1",
        expect![[r#"
        > get_policy {}
        > get_schema {}
        ! Error: NOT_FOUND: no rule gives ann read on exactly /devices/olt-1
        ! Hint: `confold policy show` has the rules, and `confold policy test` says which one decides
        exit 1
    "#]],
    );
    world.check(
        "policy test ann write /devices/olt-1",
        expect![[r#"
        > get_policy {}
        > get_schema {}
        > get_schema {}
        yes: ann may read, write at and below /devices, strict
    "#]],
    );
    world.check(
        "policy test bob read /devices/olt-1/ports",
        expect![[r#"
        > get_policy {}
        > get_schema {}
        > get_schema {}
        yes: * may read at and below /devices/olt-1
    "#]],
    );
    world.check(
        "policy test bob read /devices",
        expect![[r#"
        > get_policy {}
        > get_schema {}
        > get_schema {}
        no: no rule allows it here, but something below may be read
        exit 1
    "#]],
    );
    world.check(
        "policy test bob write /devices/olt-1 --json",
        expect![[r#"
        > get_policy {}
        > get_schema {}
        > get_schema {}
        {
          "allowed": false,
          "rule": null,
          "why": "no rule allows it"
        }
        exit 1
    "#]],
    );
}

#[test]
fn a_policy_that_somebody_else_changed_is_not_overwritten() {
    let world = world();
    let detail = confold_wire::status::error_detail(
        confold_model::code::Code::Conflict,
        "the policy in force stands at position 4190",
    );
    world.fake.set_policy.refuse(confold_wire::status::status(&detail));
    world.check("policy allow ann tag /", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]},{"principal":"ann","path":"/","rights":["RIGHT_TAG"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        ! Error: CONFLICT: the policy in force stands at position 4190
        ! Hint: somebody changed the policy meanwhile: look at it, then try again
        exit 1
    "#]]);
    let mine = pb::GetPolicyResponse {
        restricted: true,
        principal: "ann".to_owned(),
        ..policy()
    };
    world.fake.get_policy.always(mine);
    world.check(
        "policy allow ann admin /",
        expect![[r#"
        > get_policy {}
        ! Error: PERMISSION: "ann" does not administer this store
        ! Hint: ask whoever administers the store for the right
        exit 4
    "#]],
    );
    world.check(
        "policy test ann read /devices",
        expect![[r#"
        > get_policy {}
        > get_schema {}
        > get_schema {}
        yes: ann may read, write at and below /devices, strict
    "#]],
    );
    world.check(
        "policy test ops read /devices",
        expect![[r#"
        > get_policy {}
        ! Error: PERMISSION: "ann" does not administer this store
        ! Hint: ask whoever administers the store for the right
        exit 4
    "#]],
    );
}

#[test]
fn a_policy_is_changed_in_an_editor() {
    let mut world = world();
    world.check(
        "policy edit",
        expect![[r#"
        > get_policy {}
        ! nothing was changed
    "#]],
    );
    world.edit = std::sync::Arc::new(|text| text.replace("  - write\n", ""));
    world.check("policy edit", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
}

#[test]
fn a_token_is_made_here_shown_once_and_revoked() {
    let world = world();
    world.check("token create ann --expires 90d", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-03030303030303030303030303030303","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"},{"id":"0202020202020202","hash":"831a63cf0d1750b5eb44f4da2bf39b92ed6e1db38a49c29386799b159fae4510","principal":"ann","expires_ms":"1803031200000"}],"replaces":"4182"}
        cft_02020202020202020000000000000000000000000000000001010101010101010101010101010101
        ! token 0202020202020202 of ann, good until 2027-02-19 10:00:00; it is not shown again
    "#]]);
    world.check("token create bob --json", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-03030303030303030303030303030303","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"},{"id":"0202020202020202","hash":"831a63cf0d1750b5eb44f4da2bf39b92ed6e1db38a49c29386799b159fae4510","principal":"bob"}],"replaces":"4182"}
        {
          "token": "cft_02020202020202020000000000000000000000000000000001010101010101010101010101010101",
          "id": "0202020202020202",
          "principal": "bob",
          "expires_ms": "0"
        }
        ! token 0202020202020202 of bob, good until it is revoked; it is not shown again
    "#]]);
    world.check(
        "token list",
        expect![[r#"
        > get_policy {}
        ID                PRINCIPAL  EXPIRES
        a1a1a1a1a1a1a1a1  ops        never
        b2b2b2b2b2b2b2b2  ann        2026-11-21 09:59:59, expired
        c3c3c3c3c3c3c3c3  ann        2026-11-22 10:00:00
    "#]],
    );
    world.check("token revoke b2b2b2b2b2b2b2b2", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check(
        "token revoke cft_0000",
        expect![[r#"
        > get_policy {}
        ! Error: NOT_FOUND: there is no token of this id
        ! Hint: `confold token list` shows the ids, 16 hex digits each
        exit 1
    "#]],
    );
    let detail = confold_wire::status::error_detail(confold_model::code::Code::Permission, "no right");
    world.fake.set_policy.refuse(confold_wire::status::status(&detail));
    world.check("token create ann", expect![[r#"
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-03030303030303030303030303030303","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"},{"id":"0202020202020202","hash":"831a63cf0d1750b5eb44f4da2bf39b92ed6e1db38a49c29386799b159fae4510","principal":"ann"}],"replaces":"4182"}
        ! Error: PERMISSION: no right
        ! Hint: ask whoever administers the store for the right
        exit 4
    "#]]);
}

#[test]
fn a_folder_is_worked_on_as_a_principal_and_a_server_is_not() {
    let world = world();
    world.check("--data net --as ops policy allow ann tag /", expect![[r#"
        > open FOLDER/net Write as ops
        > get_policy {}
        > status {}
        > set_policy {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"rules":[{"principal":"ops","path":"/","rights":["RIGHT_TAG","RIGHT_ADMIN"]},{"principal":"ann","path":"/devices","rights":["RIGHT_READ","RIGHT_WRITE"],"strict":true},{"principal":"*","path":"/devices/olt-1","rights":["RIGHT_READ"]},{"principal":"ann","path":"/","rights":["RIGHT_TAG"]}],"tokens":[{"id":"a1a1a1a1a1a1a1a1","principal":"ops"},{"id":"b2b2b2b2b2b2b2b2","principal":"ann","expires_ms":"1795255199999"},{"id":"c3c3c3c3c3c3c3c3","principal":"ann","expires_ms":"1795341600000"}],"replaces":"4182"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check(
        "--server 127.0.0.1:7411 --as ops policy show",
        expect![[r#"
        ! Error: the argument '--server <ADDR>' cannot be used with '--as <NAME>'
        !
        ! Usage: confold --server <ADDR> <COMMAND>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
    world.check(
        "--as ops policy show",
        expect![[r#"
        ! Error: --as is for a store in a folder, with --data
        ! Hint: show the server a token or a certificate: it knows who you are from that
        exit 2
    "#]],
    );
}
