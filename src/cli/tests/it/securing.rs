//! Certificates, tokens, and who may come in.

use crate::world::World;
use expect_test::expect;
use std::{fs, os::unix::fs::PermissionsExt};

/// A file that only its owner may read.
fn secret(world: &World, name: &str, text: &str) {
    world.file(name, text);
    let path = world.folder.path().join(name);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn connects(world: &World, line: &str) -> String {
    let output = world.run(line);
    let first = output.lines().next().unwrap_or_default().to_owned();
    assert!(first.starts_with("> connect"), "{output}");
    first
}

/// A certificate and a key that are well written, whatever they say.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

#[test]
fn a_token_comes_from_a_file_or_the_environment() {
    let mut world = World::new();
    secret(&world, "token", "from-the-flag\n");
    secret(&world, "other", "from-the-file");
    world
        .environment
        .insert("CONFOLD_TOKEN_FILE".to_owned(), "other".to_owned());
    let server = "status --server https://db:7411";
    assert_eq!(connects(&world, server), "> connect https://db:7411 as from-the-file");
    world
        .environment
        .insert("CONFOLD_TOKEN".to_owned(), "from-the-variable".to_owned());
    assert_eq!(
        connects(&world, server),
        "> connect https://db:7411 as from-the-variable"
    );
    let line = format!("{server} --token-file token");
    assert_eq!(connects(&world, &line), "> connect https://db:7411 as from-the-flag");
    let line = "status --insecure --server db:7411";
    assert_eq!(
        connects(&world, line),
        "> connect db:7411 as from-the-variable insecure"
    );
}

#[test]
fn a_token_that_others_can_read_or_that_is_none_is_refused() {
    let mut world = World::new();
    secret(&world, "token", "two words");
    world.check(
        "status --token-file token",
        expect![[r#"
        ! Error: FOLDER/token holds no token: it must be one word of printable ASCII
        ! Hint: show a token: --token-file FILE, or CONFOLD_TOKEN
        exit 2
    "#]],
    );
    world.check(
        "status --token-file nothing",
        expect![[r#"
        ! Error: cannot read FOLDER/nothing: No such file or directory (os error 2)
        ! Hint: see docs/security.md for the files that TLS needs
        exit 2
    "#]],
    );
    world.file("open", "a-token");
    let open = world.folder.path().join("open");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    world.check(
        "status --token-file open",
        expect![[r#"
        ! Error: others than its owner may read or write FOLDER/open (mode 0644): chmod 600 FOLDER/open
        ! Hint: see docs/security.md for the files that TLS needs
        exit 2
    "#]],
    );
    world
        .environment
        .insert("CONFOLD_TOKEN".to_owned(), "two words".to_owned());
    let output = world.run("status");
    assert!(!output.contains("two words"), "{output}");
    world.check(
        "status",
        expect![[r#"
        ! Error: CONFOLD_TOKEN holds no token: it must be one word of printable ASCII
        exit 2
    "#]],
    );
}

#[test]
fn certificates_come_from_files_and_belong_to_https() {
    let mut world = World::new();
    world.file("ca.pem", CERTIFICATE);
    world.file("me.pem", CERTIFICATE);
    secret(&world, "me.key", KEY);
    let given = "> connect https://db:7411 Tls { ca: \"given\", identity: \"given\" }";
    let line = "status --server https://db:7411 --ca ca.pem --cert me.pem --key me.key";
    assert_eq!(connects(&world, line), given);
    for (name, file) in [
        ("CONFOLD_CA", "ca.pem"),
        ("CONFOLD_CERT", "me.pem"),
        ("CONFOLD_KEY", "me.key"),
    ] {
        world.environment.insert(name.to_owned(), file.to_owned());
    }
    assert_eq!(connects(&world, "status --server https://db:7411"), given);
    // The environment may speak of another server than this one.
    world.check(
        "status --server 127.0.0.1:7411 --json --store none --timeout 1s",
        expect![[r#"
            > status {"store":"none"}
            {
              "store": "main",
              "state": "STATE_SERVING",
              "position": "4182",
              "limits": {
                "max_event_bytes": "16777216",
                "depth": 64,
                "path_bytes": 4096,
                "key_bytes": 256
              }
            }
        "#]],
    );
    world.environment.clear();
    world.check(
        "status --server https://db:7411 --cert me.pem",
        expect![[r#"
        ! Error: a certificate is given and no key: add --key FILE
        exit 2
    "#]],
    );
    world.check(
        "status --server https://db:7411 --key me.key",
        expect![[r#"
        ! Error: a key is given and no certificate: add --cert FILE
        exit 2
    "#]],
    );
    world.file("empty.pem", "nothing");
    world.check(
        "status --server https://db:7411 --ca empty.pem",
        expect![[r#"
        ! Error: FOLDER/empty.pem holds no certificate in PEM form
        ! Hint: see docs/security.md for the files that TLS needs
        exit 2
    "#]],
    );
}

#[test]
fn serve_is_told_who_may_come_in() {
    let world = World::new();
    world.check(
        "serve data --listen 0.0.0.0:7411 --tls-cert s.pem --tls-key s.key --client-ca ca.pem --client-common-name",
        expect![[r#"
            > serve ServeOptions { data: ["FOLDER/data"], stores: None, config: None, listen: Some(0.0.0.0:7411), metrics_listen: None, cache_bytes: None, admins: [], on_dispute: None, quota: Quota { calls_in_flight: None, calls_per_second: None, bytes_per_second: None }, dev_unsafe: false, protection: Protection { tls: Some(TlsFiles { certificate: "FOLDER/s.pem", key: "FOLDER/s.key", client_ca: Some("FOLDER/ca.pem"), client_common_name: true }), require_token: false, insecure: false } }
            ! serving main on https://0.0.0.0:7411
        "#]],
    );
    world.check("serve data --require-token --insecure", expect![[r#"
        > serve ServeOptions { data: ["FOLDER/data"], stores: None, config: None, listen: None, metrics_listen: None, cache_bytes: None, admins: [], on_dispute: None, quota: Quota { calls_in_flight: None, calls_per_second: None, bytes_per_second: None }, dev_unsafe: false, protection: Protection { tls: None, require_token: true, insecure: true } }
        ! serving main on http://127.0.0.1:7411
    "#]]);
    for line in [
        "serve data --tls-cert s.pem",
        "serve data --tls-key s.key",
        "serve data --client-ca ca.pem",
        "serve data --tls-cert s.pem --tls-key s.key --client-common-name",
    ] {
        let output = world.run(line);
        assert!(output.contains("required arguments were not provided"), "{output}");
        assert!(output.ends_with("exit 2\n"), "{output}");
    }
}

#[test]
fn no_option_takes_a_token_itself() {
    let world = World::new();
    let help = world.run("--help");
    assert!(help.contains("--token-file <FILE>"));
    assert!(
        !help.contains("--token <"),
        "what stands on a command line is read by everybody on the machine"
    );
}
