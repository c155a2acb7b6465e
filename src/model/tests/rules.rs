//! Every rule of docs/semantics.md that holds has a test that cites it.
//!
//! A citation is a rule's label in a comment of test code: `// U5: …` in Rust, `# U5: …` in a script. Test code is what
//! stands in a `tests` folder or file, or behind `#[cfg(test)]`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The groups of rules that the tests must cover: schema, keys, hashing, get, update, add, revisions, transactions,
/// merge, tags.
const GROUPS: &str = "SKHGUARXMT";

/// Decided above the model, where their tests belong.
const ABOVE: [&str; 14] = [
    "G1", "G2", "G4", "G5", "G6", "G7", "R5", "U9", "X1", "X3", "X4", "X5", "X8", "T5",
];

#[test]
fn every_rule_that_holds_is_cited_by_a_test() {
    let cited = citations();
    let missing: Vec<String> = rules()
        .into_iter()
        .filter(|(rule, holds)| *holds && !cited.contains_key(rule) && !ABOVE.contains(&&**rule))
        .map(|(rule, _)| rule)
        .collect();
    assert!(missing.is_empty(), "no test cites {}", missing.join(", "));
}

#[test]
fn every_citation_names_a_rule() {
    let rules = rules();
    for (label, places) in citations() {
        assert!(
            rules.contains_key(&label),
            "{label} is no rule, but cited in {}",
            places.join(", ")
        );
    }
}

#[test]
fn labels_are_found_in_comments_of_test_code_and_nowhere_else() {
    let found = |text: &str, all: bool| {
        labels_of_rust(text, all)
            .into_iter()
            .map(|(_, label)| label)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found("// U5, S10: text (M1)\nlet a = \"K1\"; // K2", true),
        ["U5", "S10", "M1", "K2"]
    );
    assert_eq!(found("let url = \"http://K1\";", true), Vec::<String>::new());
    assert_eq!(found("// UU5 U5x xU5 U123 Z1 U U-5 _U5", true), Vec::<String>::new());
    assert_eq!(
        found("/// U5\nfn a() {}\n#[cfg(test)]\nmod tests {\n    // U6\n}", false),
        ["U6"]
    );
    assert_eq!(
        labels_of_script("# U5: text\nupdate / {a: \"K1\"}"),
        [(1, "U5".to_owned())]
    );
}

/// The rules of docs/semantics.md, each with whether it holds in this version: `- **U5** text`, which may go on over
/// several lines; what is marked `**Later**` or `**Out**` does not hold.
fn rules() -> BTreeMap<String, bool> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/semantics.md")).unwrap();
    let mut rules: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("- **").and_then(|rest| rest.split_once("**")) {
            Some((label, text)) => rules.push((label.to_owned(), text.to_owned())),
            None if line.starts_with("  ") => rules.iter_mut().last().unwrap().1.push_str(line),
            None => {}
        }
    }
    let rules: BTreeMap<String, bool> = rules
        .into_iter()
        .filter(|(label, _)| labels_of(label).eq([label.clone()]))
        .map(|(label, text)| (label, !text.contains("**Later**") && !text.contains("**Out**")))
        .collect();
    assert!(
        rules.len() > 80 && rules["U5"] && !rules["G8"],
        "the page is as it was: {rules:?}"
    );
    rules
}

/// Where each label is cited, as `file:line`.
fn citations() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    collect(&root.join("tests"), &mut files);
    assert!(files.len() > 50, "the sources are where they were");
    let mut cited: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let inside = file.strip_prefix(&root).unwrap();
        let is_test = inside
            .components()
            .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
        let labels = match file.extension().and_then(|end| end.to_str()) {
            Some("rs") => labels_of_rust(&text, is_test),
            Some("txt") if is_test => labels_of_script(&text),
            _ => Vec::new(),
        };
        for (line, label) in labels {
            cited
                .entry(label)
                .or_default()
                .push(format!("{}:{line}", inside.display()));
        }
    }
    cited
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Labels in the comments of Rust code: all of them in a test file, else those behind the first `#[cfg(test)]`.
fn labels_of_rust(text: &str, is_test: bool) -> Vec<(usize, String)> {
    let mut labels = Vec::new();
    let mut inside = is_test;
    for (index, line) in text.lines().enumerate() {
        inside |= line.trim_start().starts_with("#[cfg(test)]");
        // A URL is no comment.
        let comment = line
            .match_indices("//")
            .find(|(at, _)| !line[..*at].ends_with(':'))
            .map(|(at, _)| &line[at..]);
        if let (true, Some(comment)) = (inside, comment) {
            labels.extend(labels_of(comment).map(|label| (index + 1, label)));
        }
    }
    labels
}

fn labels_of_script(text: &str) -> Vec<(usize, String)> {
    let comments = text.lines().enumerate().filter(|(_, line)| line.starts_with('#'));
    comments
        .flat_map(|(index, line)| labels_of(line).map(move |label| (index + 1, label)))
        .collect()
}

/// One letter of `GROUPS` and one or two digits, standing alone.
fn labels_of(comment: &str) -> impl Iterator<Item = String> + '_ {
    let words = comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| {
            let digits = word.get(1..).unwrap_or_default();
            let group = word.chars().next().is_some_and(|letter| GROUPS.contains(letter));
            group && (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
        .map(str::to_owned)
}
