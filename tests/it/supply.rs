//! What confold is made of, and what the program that people run holds. Reliability Q23, and Q9 for the fail points.

use crate::server::CONFOLD;
use crate::support::repository;
use std::collections::BTreeSet;
use std::process::Command;

fn deny() -> toml::Table {
    std::fs::read_to_string(repository().join("deny.toml")).unwrap().parse().unwrap()
}

/// Licenses as SPDX writes them, and the older `/` for `OR`. An `AND` binds more tightly.
fn allowed(license: &str, allow: &BTreeSet<String>) -> bool {
    let license = license.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = license.split_whitespace().collect();
    either(&mut words.as_slice(), allow)
}

fn either(words: &mut &[&str], allow: &BTreeSet<String>) -> bool {
    let mut any = both(words, allow);
    while let ["OR", rest @ ..] = words {
        *words = rest;
        any |= both(words, allow);
    }
    any
}

fn both(words: &mut &[&str], allow: &BTreeSet<String>) -> bool {
    let mut all = one(words, allow);
    while let ["AND", rest @ ..] = words {
        *words = rest;
        all &= one(words, allow);
    }
    all
}

fn one(words: &mut &[&str], allow: &BTreeSet<String>) -> bool {
    let here = *words;
    match here {
        ["(", rest @ ..] => {
            *words = rest;
            let inner = either(words, allow);
            *words = words.strip_prefix(&[")"]).expect("a closing parenthesis");
            inner
        }
        [name, "WITH", exception, rest @ ..] => {
            *words = rest;
            allow.contains(&format!("{name} WITH {exception}"))
        }
        [name, rest @ ..] => {
            *words = rest;
            allow.contains(*name)
        }
        [] => false,
    }
}

#[test]
fn every_package_has_a_license_that_is_allowed() {
    let allow = deny()["licenses"]["allow"].as_array().unwrap().clone();
    let allow: BTreeSet<String> = allow.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    for (license, expected) in [
        ("MIT OR Apache-2.0", true),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("GPL-3.0 OR MIT AND AGPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
        ("", false),
    ] {
        assert_eq!(allowed(license, &allow), expected, "{license}");
    }
    let rustc = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let host = String::from_utf8(rustc).unwrap().lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned)).unwrap();
    let words = ["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &host];
    let asked = Command::new(env!("CARGO")).args(words).current_dir(repository()).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let license = package["license"].as_str().unwrap_or_default();
        assert!(allowed(license, &allow), "{} {}: the license is {license:?}", package["name"], package["version"]);
    }
}

#[test]
fn every_package_comes_from_the_one_registry_with_a_checksum_and_none_is_banned() {
    let lock: toml::Table = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap().parse().unwrap();
    let banned = deny()["bans"]["deny"].as_array().unwrap().clone();
    let banned: Vec<_> = banned.iter().filter(|row| row.get("wrappers").is_none()).map(|row| row["crate"].as_str().unwrap()).collect();
    assert!(!banned.is_empty());
    let mut foreign = 0;
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        assert!(!banned.contains(&name), "{name} is banned by deny.toml");
        match package.get("source").map(|source| source.as_str().unwrap()) {
            None => assert!(name.starts_with("confold"), "{name} is a package of ours"),
            Some(source) => {
                foreign += 1;
                assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
                assert!(package.get("checksum").is_some(), "{name} has no checksum");
            }
        }
    }
    assert!(foreign > 100);
}

/// Nothing in it can be told to fail: not by a package (`fail` is banned above), and not by the names that one would listen to.
#[test]
fn the_program_that_people_run_holds_no_fail_points() {
    let program = std::fs::read(CONFOLD).unwrap();
    let program = String::from_utf8_lossy(&program);
    assert!(program.contains("CONFOLD_LOG"), "a name that is in it is found");
    for name in ["FAILPOINTS", "failpoint", "fail_point", "CONFOLD_SYNC_FIRED", "CONFOLD_CLOCK"] {
        assert!(!program.contains(name), "{name} is in the program");
    }
}
