//! Schemas from `.proto` text, and hand-written wire bytes.

use confold_model::schema::{Schema, SchemaProblem, TypeId};
use confold_model::wire_bytes;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use std::path::{Path, PathBuf};

pub const META: &str = include_str!("../../../../tests/golden/vectors/meta.proto");

/// Our own options, as `schemas/confold/options.proto` declares them.
pub const OPTIONS: &str = r#"
syntax = "proto3";
package confold.v1;
import "google/protobuf/descriptor.proto";
message ChildNode { string key = 1; }
enum Access { CONFIG = 0; READ_ONLY = 1; REAL_TIME = 2; }
extend google.protobuf.FieldOptions { ChildNode child_node = 50772; Access access = 50773; }
"#;

/// The file of golden data, from the root of the repository.
pub fn golden(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compiles `main.proto` with the option files beside it; options are kept, which a typed descriptor set would lose (S1).
pub fn descriptors(source: &str) -> Vec<u8> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(vec![
        ("main.proto", source.to_owned()),
        ("meta.proto", META.to_owned()),
        ("options.proto", OPTIONS.to_owned()),
    ]));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    compiler.open_file("main.proto").unwrap_or_else(|error| panic!("{error:?}"));
    compiler.encode_file_descriptor_set()
}

/// Messages for a file that is proto3, in package `t`, and imports both option files.
pub fn source(messages: &str) -> String {
    format!(
        "syntax = \"proto3\";\npackage t;\nimport \"meta.proto\";\nimport \"options.proto\";\nimport \"google/protobuf/any.proto\";\n{messages}"
    )
}

/// The schema of `messages`, rooted at `t.Root`.
pub fn schema(messages: &str) -> Schema {
    Schema::compile(&descriptors(&source(messages)), "t.Root").unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// What is wrong with `messages`, one line per problem.
pub fn problems(messages: &str) -> String {
    lines(&Schema::compile(&descriptors(&source(messages)), "t.Root").expect_err("should be refused"))
}

pub fn lines(problems: &[SchemaProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The schema of the golden vectors.
pub fn vectors_schema() -> Schema {
    let set = descriptors(&golden("vectors/vectors.proto"));
    Schema::compile(&set, "vectors.Root").unwrap_or_else(|problems| panic!("{problems:?}"))
}

pub fn ty(schema: &Schema, name: &str) -> TypeId {
    schema.message_by_name(name).unwrap_or_else(|| panic!("no message {name}"))
}

/// A varint field.
pub fn v(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire_bytes::put_tag(&mut out, number, 0);
    wire_bytes::put_varint(&mut out, value);
    out
}

/// A length-delimited field.
pub fn b(number: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    wire_bytes::put_bytes(&mut out, number, bytes.as_ref());
    out
}

pub fn cat(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

struct Sources(Vec<(&'static str, String)>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, source)) => File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}
