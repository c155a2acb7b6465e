//! The library that a server is started with so that its system calls fail as a test wants: `preload.c`, compiled when first asked for.

use crate::support::repository;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Environment of a server that loads it, with what it is asked for.
pub fn environment<'a>(asked: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let library = LIBRARY.get_or_init(compile);
    [&[("LD_PRELOAD", library.to_str().unwrap())], asked].concat()
}

/// Whoever compiles Rust has a C compiler, as the linker.
fn compile() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (made, library) = (
        folder.join(format!("preload-{}", std::process::id())),
        folder.join("preload.so"),
    );
    let source = repository().join("tests/it/faults/preload.c");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&made, &source])
        .arg("-ldl")
        .output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // In one step: another run may be using it.
    std::fs::rename(made, &library).unwrap();
    library
}
