//! Every command of docs/guide.md runs as printed, and prints what stands there.
//!
//! `CONFOLD_GUIDE=print` shows what each command whose output differs printed, instead of stopping at the first.

use crate::server::CONFOLD;
use crate::support::repository;
use std::path::Path;
use std::process::{Command, Stdio};

struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => {
                    steps.push(Step { line: index + 1, command: command.to_owned(), expected: Vec::new() });
                }
                None => steps.last_mut().expect("output follows a command").expected.push(line.to_owned()),
            },
        }
    }
    steps
}

/// `[..]` is any text within a line, a line `[...]` any number of lines.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "[...]" => (0..=printed.len()).any(|skip| matches(rest, &printed[skip..])),
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, others)| line_matches(first, line) && matches(rest, others))
        }
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        let found = if is_last && part.is_empty() {
            Some(rest.len())
        } else if is_last {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

#[test]
fn the_guide_works_as_printed() {
    let text = std::fs::read_to_string(repository().join("docs/guide.md")).unwrap();
    let steps = steps(&text);
    assert!(steps.len() > 30, "the guide has its commands");
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(repository().join("schemas"), dir.path().join("schemas")).unwrap();
    let mut script = "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n".to_owned();
    for (index, step) in steps.iter().enumerate() {
        script.push_str(&format!("{{ {}\n}} >.out.{index} 2>&1 </dev/null\n", step.command));
    }
    let bin = Path::new(CONFOLD).parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let status = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(dir.path())
        .env_clear()
        .env("PATH", path)
        .env("HOME", dir.path())
        .env("USER", "you")
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.code().is_some(), "the shell ended by itself: {status}");
    let show_all = std::env::var("CONFOLD_GUIDE").is_ok_and(|how| how == "print");
    let mut wrong = 0;
    for (index, step) in steps.iter().enumerate() {
        let printed = std::fs::read_to_string(dir.path().join(format!(".out.{index}"))).unwrap_or_default();
        let lines: Vec<&str> = printed.lines().collect();
        if matches(&step.expected, &lines) {
            continue;
        }
        wrong += 1;
        let expected = step.expected.join("\n");
        let report = format!("docs/guide.md:{}\n$ {}\nexpected:\n{expected}\nprinted:\n{printed}", step.line, step.command);
        if !show_all {
            panic!("{report}");
        }
        println!("{report}");
    }
    assert_eq!(wrong, 0, "commands whose output differs");
}

#[test]
fn wildcards_match_within_a_line_and_over_lines() {
    let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert!(matches(&owned(&["a [..] c", "[...]", "end"]), &["a b c", "x", "y", "end"]));
    assert!(matches(&owned(&["[...]"]), &[]));
    assert!(!matches(&owned(&["a [..] c"]), &["a b d"]));
    assert!(!matches(&owned(&["a"]), &["a", "b"]));
    assert!(line_matches("root [..]", "root 12") && !line_matches("root [..]!", "root 12"));
}
