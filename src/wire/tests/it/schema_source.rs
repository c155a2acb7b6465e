//! Schemas from folders, files and descriptor sets, and what is said when they are wrong.

use crate::schemas;
use confold_wire::schema_source::{MAX_FILE_BYTES, SchemaSourceError, compiled, descriptor_set_of};
use expect_test::{Expect, expect};
use prost::Message;
use prost_reflect::DescriptorPool;
use std::{fs, path::Path};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, source) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, source).unwrap();
    }
    folder
}

/// The error, with the folder's own name taken out.
fn refusal(files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    said(&descriptor_set_of(folder.path(), &[]).unwrap_err(), folder.path())
}

fn said(error: &SchemaSourceError, folder: &Path) -> String {
    error.to_string().replace(&folder.display().to_string(), "FOLDER")
}

fn check(files: &[(&str, &str)], expected: &Expect) {
    expected.assert_eq(&refusal(files));
}

const GOOD: &str = r#"syntax = "proto3"; message A { string id = 1; }"#;

#[test]
fn a_syntax_error_is_named_by_file_line_and_column() {
    check(
        &[("a.proto", "syntax = \"proto3\";\nmessage A {\n  string id 1;\n}\n")],
        &expect!["a.proto:3:13: expected '=', but found '1'"],
    );
}

#[test]
fn an_unknown_type_is_named_by_file_line_and_column() {
    check(
        &[("a.proto", "syntax = \"proto3\";\nmessage A {\n  Missing m = 1;\n}\n")],
        &expect!["a.proto:3:3: name 'Missing' is not defined"],
    );
}

#[test]
fn a_missing_import_says_what_to_do() {
    check(
        &[(
            "a.proto",
            "syntax = \"proto3\";\nimport \"sub/b.proto\";\nmessage A {}\n",
        )],
        &expect![
            "a.proto:2:1: import 'sub/b.proto' not found (add the folder that it is relative to as an include folder)"
        ],
    );
}

#[test]
fn an_import_cycle_is_shown() {
    check(
        &[
            ("a.proto", "syntax = \"proto3\";\nimport \"b.proto\";\n"),
            ("b.proto", "syntax = \"proto3\";\nimport \"a.proto\";\n"),
        ],
        &expect![[r#"
            import cycle detected: a.proto -> b.proto -> a.proto
            import cycle detected: b.proto -> a.proto -> b.proto"#]],
    );
}

#[test]
fn an_option_that_does_not_exist_is_named() {
    let source = "syntax = \"proto3\";\nimport \"confold/options.proto\";\nmessage A {\n  \
                  repeated A as = 1 [(confold.v1.child) = {key: \"id\"}];\n}\n";
    check(
        &[("a.proto", source)],
        &expect![
            "a.proto:4:22: 'confold.v1.child' resolves to 'confold.v1.child', which is not defined (The innermost scope is searched first in name resolution. Consider using a leading '.' (i.e., '.confold.v1.child') to start from the outermost scope.)"
        ],
    );
}

#[test]
fn an_option_with_a_wrong_value_is_named() {
    let source = "syntax = \"proto3\";\nimport \"confold/options.proto\";\nmessage A {\n  \
                  string id = 1 [(confold.v1.access) = READONLY];\n}\n";
    check(
        &[("a.proto", source)],
        &expect![
            "a.proto:4:18: expected a value of type 'confold.v1.Access' for option '(confold.v1.access)', but found 'READONLY'"
        ],
    );
}

#[test]
fn every_broken_file_is_told_at_once() {
    check(
        &[("a.proto", "message A"), ("b.proto", "message B"), ("c.proto", GOOD)],
        &expect![[r#"
            a.proto: expected '{', but reached end of file
            b.proto: expected '{', but reached end of file"#]],
    );
}

#[test]
fn a_folder_without_protos_is_refused() {
    check(
        &[("readme.txt", "nothing here")],
        &expect!["FOLDER: no .proto file in it (name the folder that holds the schema, or a compiled descriptor set)"],
    );
}

#[test]
fn files_that_are_not_utf_8_or_too_deep_or_too_big_are_refused_before_they_are_parsed() {
    let folder = folder(&[("a.proto", GOOD)]);
    fs::write(folder.path().join("latin.proto"), b"// caf\xe9").unwrap();
    let deep = format!(
        "syntax = \"proto3\";\nmessage A {{ option (x) = {} }}",
        "{a ".repeat(10_000)
    );
    fs::write(folder.path().join("deep.proto"), deep).unwrap();
    let size = usize::try_from(MAX_FILE_BYTES).unwrap();
    fs::write(folder.path().join("big.proto"), vec![b' '; size + 1]).unwrap();
    let error = descriptor_set_of(folder.path(), &[]).unwrap_err();
    expect![[r#"
        big.proto: 4194305 bytes, the limit is 4194304
        deep.proto:2: nested deeper than 100
        latin.proto: not UTF-8 from byte 6 on"#]]
    .assert_eq(&said(&error, folder.path()));
}

#[test]
fn a_file_of_the_greatest_size_is_read() {
    let folder = TempDir::new().unwrap();
    let mut source = GOOD.as_bytes().to_vec();
    source.resize(usize::try_from(MAX_FILE_BYTES).unwrap(), b' ');
    fs::write(folder.path().join("a.proto"), source).unwrap();
    assert_eq!(descriptor_set_of(folder.path(), &[]).unwrap().files, ["a.proto"]);
}

#[test]
fn deeply_nested_messages_are_an_error_and_no_stack_overflow() {
    // Q15
    let source = format!("syntax = \"proto3\"; {} {}", "message A {".repeat(90), "}".repeat(90));
    let said = refusal(&[("a.proto", &source)]);
    assert!(said.contains("recursion limit"), "{said}");
}

#[test]
fn folders_are_read_with_their_subfolders_and_hidden_ones_left_out() {
    let user = r#"syntax = "proto3"; import "sub/b.proto"; message A { B b = 1; }"#;
    let folder = folder(&[
        ("a.proto", user),
        ("sub/b.proto", r#"syntax = "proto3"; message B {}"#),
        (".git/c.proto", "not a schema"),
        ("notes.txt", "not a schema"),
    ]);
    let found = descriptor_set_of(folder.path(), &[]).unwrap();
    assert_eq!(found.files, ["a.proto", "sub/b.proto"]);
}

#[test]
fn imports_are_found_in_include_folders_and_one_file_can_be_named() {
    let user = r#"syntax = "proto3"; import "lib/b.proto"; message A { B b = 1; }"#;
    let library = folder(&[("lib/b.proto", r#"syntax = "proto3"; message B {}"#)]);
    let main = folder(&[("a.proto", user), ("broken.proto", "broken")]);
    let file = main.path().join("a.proto");
    let found = descriptor_set_of(&file, &[library.path().to_owned()]).unwrap();
    assert_eq!(found.files, ["a.proto"]);
    let pool = DescriptorPool::decode(found.descriptor_set.as_slice()).unwrap();
    assert!(pool.get_message_by_name("B").is_some(), "imports are in the set");
    // A file below an include folder is named as its importers name it.
    let inside = library.path().join("lib/b.proto");
    assert_eq!(
        descriptor_set_of(&inside, &[library.path().to_owned()]).unwrap().files,
        ["lib/b.proto"]
    );
}

#[test]
fn an_import_never_leads_out_of_its_folder() {
    let outer = folder(&[
        ("secret.proto", GOOD),
        ("in/a.proto", "syntax = \"proto3\"; import \"../secret.proto\";"),
    ]);
    let error = descriptor_set_of(&outer.path().join("in"), &[]).unwrap_err();
    expect!["a.proto:1:27: invalid group name (imports may not contain backslashes, repeated forward slashes, '.' or '..' components)"].assert_eq(&said(&error, outer.path()));
}

#[test]
fn what_is_built_in_needs_no_copy_and_a_copy_does_no_harm() {
    let user = r#"
        syntax = "proto3";
        import "confold/options.proto";
        import "google/protobuf/any.proto";
        message A { string id = 1; repeated A as = 2 [(confold.v1.child_node) = {key: "id"}]; google.protobuf.Any any = 3; }
    "#;
    let without = descriptor_set_of(folder(&[("a.proto", user)]).path(), &[]).unwrap();
    let copies = folder(&[
        ("a.proto", user),
        ("confold/options.proto", "whatever it says"),
        ("google/protobuf/any.proto", "whatever it says"),
    ]);
    assert_eq!(descriptor_set_of(copies.path(), &[]).unwrap(), without);
}

#[test]
fn a_compiled_descriptor_set_is_taken_over_without_its_comments() {
    let source = schemas("voltha");
    let ours = descriptor_set_of(&source, &[]).unwrap();
    let mut compiler = protox::Compiler::new([&source]).unwrap();
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&ours.files).unwrap();
    let commented = compiler.encode_file_descriptor_set();
    assert!(commented.len() > 2 * ours.descriptor_set.len());

    let folder = TempDir::new().unwrap();
    let file = folder.path().join("voltha.binpb");
    fs::write(&file, commented).unwrap();
    let taken = descriptor_set_of(&file, &[]).unwrap();
    assert_eq!(taken.descriptor_set, ours.descriptor_set);
    assert_eq!(compiled(&taken.descriptor_set).unwrap(), taken);
}

#[test]
fn a_descriptor_set_that_is_none_is_refused() {
    let folder = folder(&[("text.binpb", "hello"), ("empty.binpb", "")]);
    let mut lines = Vec::new();
    for file in ["text.binpb", "empty.binpb", "missing.binpb"] {
        lines.push(said(
            &descriptor_set_of(&folder.path().join(file), &[]).unwrap_err(),
            folder.path(),
        ));
    }
    let without_imports = prost_types::FileDescriptorSet {
        file: vec![prost_types::FileDescriptorProto {
            name: Some("a.proto".to_owned()),
            dependency: vec!["b.proto".to_owned()],
            ..Default::default()
        }],
    };
    lines.push(compiled(&without_imports.encode_to_vec()).unwrap_err().to_string());
    expect![[r#"
        FOLDER/text.binpb: not a descriptor set: field 13 where files are expected
        FOLDER/empty.binpb: the descriptor set is empty
        FOLDER/missing.binpb: No such file or directory (os error 2)
        not a usable descriptor set: a.proto: imported file 'b.proto' has not been added (compile it with all imports included)"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn a_descriptor_set_that_would_trip_the_library_is_refused() {
    let file = prost_types::FileDescriptorProto {
        name: Some("a.proto".to_owned()),
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    };
    let unknown_syntax = prost_types::FileDescriptorProto {
        syntax: Some("proto9".to_owned()),
        ..file.clone()
    };
    // A text that a recursive parser would follow into a stack overflow (Q15).
    let option = prost_types::UninterpretedOption {
        aggregate_value: Some("a {".repeat(100_000)),
        ..Default::default()
    };
    let options = prost_types::FileOptions {
        uninterpreted_option: vec![option],
        ..Default::default()
    };
    let text_option = prost_types::FileDescriptorProto {
        options: Some(options),
        ..file.clone()
    };
    let refusal = |file| {
        let set = prost_types::FileDescriptorSet { file: vec![file] }.encode_to_vec();
        assert!(confold_wire::dynamic::Types::new(&set).is_err());
        compiled(&set).unwrap_err().to_string()
    };
    expect![[r#"
        not a usable descriptor set: its descriptors contradict each other
        not a usable descriptor set: it holds options that are still text: compile it to the end"#]]
    .assert_eq(&[refusal(unknown_syntax), refusal(text_option)].join("\n"));
    assert!(compiled(&prost_types::FileDescriptorSet { file: vec![file] }.encode_to_vec()).is_ok());
}

#[test]
fn cut_and_changed_descriptor_sets_never_panic() {
    let source = folder(&[(
        "a.proto",
        "syntax = \"proto3\"; message A { A a = 1; } enum E { X = 0; } service S {}",
    )]);
    let good = descriptor_set_of(source.path(), &[]).unwrap().descriptor_set;
    assert!(compiled(&good).is_ok());
    for at in 0..good.len() {
        let _ = compiled(&good[..at]);
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        let _ = compiled(&changed);
    }
}
