//! The house rules, as ordinary tests.

use crate::support::repository;
use confold_model::code::Code;
use std::path::{Path, PathBuf};

/// Files of the repository that people wrote, with their text.
fn files(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![repository()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" && !path.ends_with("schemas/voltha") {
                    folders.push(path);
                }
            } else if extensions.iter().any(|extension| name.ends_with(extension))
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.push((path.strip_prefix(repository()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

#[test]
fn every_code_has_its_page_and_every_page_a_code() {
    let folder = repository().join("docs/errors");
    let mut pages: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "README")
        .collect();
    pages.sort();
    let mut codes: Vec<String> = Code::ALL.iter().map(|code| code.name().to_owned()).collect();
    codes.sort();
    assert_eq!(pages, codes, "docs/errors against src/model/code.rs");
}

/// What a fenced replica says names a page, and `FENCED.md` leads to each.
#[test]
fn every_kind_of_fence_has_its_page() {
    let folder = repository().join("docs/errors/fenced");
    let said = std::fs::read_to_string(repository().join("src/replica/fence.rs")).unwrap();
    let index = std::fs::read_to_string(repository().join("docs/errors/FENCED.md")).unwrap();
    let pages = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = pages.collect();
    pages.sort();
    assert_eq!(pages, ["elsewhere.md", "foreign.md", "gapped.md", "recreated.md", "truncated.md"]);
    for page in pages {
        assert!(said.contains(&format!("docs/errors/fenced/{page}")), "no reason leads to {page}");
        assert!(index.contains(&format!("(fenced/{page})")), "FENCED.md does not lead to {page}");
    }
}

/// ARCHITECTURE.md, "Who may import whom".
#[test]
fn crates_import_only_what_lies_below_them() {
    let allowed: [(&str, &[&str]); 10] = [
        ("model", &[]),
        ("wire", &["model"]),
        ("log", &["model"]),
        ("log/kafka", &["model", "log"]),
        ("store", &["model"]),
        ("store/rocks", &["model", "store"]),
        ("replica", &["model", "wire", "log", "store"]),
        ("client", &["model", "wire"]),
        ("server", &["model", "wire"]),
        ("cli", &["model", "wire", "client"]),
    ];
    for (member, allowed) in allowed {
        let manifest = repository().join("src").join(member).join("Cargo.toml");
        let text = std::fs::read_to_string(manifest).unwrap();
        let dependencies = text.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        for line in dependencies.lines() {
            if let Some(name) = line.strip_prefix("confold-") {
                let name = name.split(['.', ' ', '=']).next().unwrap().replace("store-rocks", "store/rocks").replace("log-kafka", "log/kafka");
                assert!(allowed.contains(&name.as_str()), "src/{member} may not import {name}");
            }
        }
    }
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    let left = ["todo!(", "unimplemented!(", "#[ignore", "dbg!(", "FIXME", "XXX"];
    for (path, text) in files(&[".rs", ".proto", ".sh"]) {
        if path == Path::new("tests/it/tidy.rs") {
            continue;
        }
        for word in left {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn tests_wait_on_conditions_and_never_sleep() {
    for (path, text) in files(&[".rs"]) {
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        if is_test && path != Path::new("tests/it/tidy.rs") {
            assert!(!text.contains("thread::sleep"), "{} sleeps", path.display());
            assert!(!text.contains("time::sleep"), "{} sleeps", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_but_for_one_module() {
    let text = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    assert!(text.contains("unsafe_code = \"forbid\""));
    for (path, text) in files(&["Cargo.toml"]) {
        let kafka = path == Path::new("src/log/kafka/Cargo.toml") && text.contains("unsafe_code = \"deny\"");
        assert!(text.contains("[lints]") || path == Path::new("Cargo.toml") || kafka, "{} inherits the lints", path.display());
    }
    for (path, text) in files(&[".rs"]) {
        let allowed = path == Path::new("src/log/kafka/ffi.rs") || path == Path::new("tests/it/tidy.rs");
        assert!(allowed || !text.contains("unsafe_code"), "{} allows unsafe code", path.display());
    }
}

// Reliability Q2: where two are built in, nobody says which one a default means.
#[test]
fn one_provider_of_cryptography_is_built_in() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"ring\""));
    for other in ["aws-lc-rs", "aws-lc-sys", "native-tls", "boring"] {
        assert!(!lock.contains(&format!("name = \"{other}\"")), "{other} is a second one");
    }
}

#[test]
fn the_project_names_no_machine() {
    for (path, text) in files(&[".rs", ".md", ".proto", ".sh", ".toml", ".yaml"]) {
        if path == Path::new("tests/it/tidy.rs") {
            continue;
        }
        for word in ["/work/", "/root/", "/home/"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}
