//! What the targets share: schemas, golden data, and what a run must have reached.

use confold_model::schema::Schema;
use confold_test_fuzz::{Report, Target, run};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The descriptor set of a `.proto` file of the repository.
pub fn compiled(file: &str) -> Vec<u8> {
    confold_wire::schema_source::descriptor_set_of(&repository().join(file), &[])
        .unwrap()
        .descriptor_set
}

/// A schema that uses every kind of field.
pub fn vectors() -> &'static [u8] {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    SET.get_or_init(|| compiled("tests/golden/vectors/vectors.proto"))
}

/// The schema of the guide.
pub fn network() -> &'static [u8] {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    SET.get_or_init(|| compiled("schemas/examples/network.proto"))
}

pub fn schema() -> Schema {
    Schema::compile(vectors(), "vectors.Root").unwrap()
}

pub fn golden(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(repository().join("tests/golden/vectors").join(name)).unwrap()).unwrap()
}

/// Messages of the golden trees, as somebody might send them; long ones left out.
pub fn messages() -> Vec<Vec<u8>> {
    use base64::Engine;
    let decode = |text: &serde_json::Value| {
        base64::engine::general_purpose::STANDARD
            .decode(text.as_str().unwrap())
            .unwrap()
    };
    let all: Vec<Vec<u8>> = golden("vectors.json")["trees"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| decode(&row["message"]))
        .collect();
    all.into_iter().filter(|message| message.len() < 2000).collect()
}

pub fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// Runs a target, and asks that it got somewhere: some inputs were taken, and so many ways of answering were told apart.
pub fn fuzz(target: &Target<'_>, answers: usize) -> Report {
    let report = run(target);
    let name = target.name;
    assert!(report.taken >= 5, "{name} took hardly anything: {report:?}");
    assert!(
        report.answers >= answers,
        "{name} only ever met a few checks: {report:?}"
    );
    report
}
