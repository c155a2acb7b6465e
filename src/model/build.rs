//! Compiles the event contract into the descriptor set whose tables check every record.

#![allow(clippy::disallowed_methods, reason = "it runs before the pure core exists")]

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new("../../proto");
    println!("cargo::rerun-if-changed={}", proto.join("confold/v1/event.proto").display());
    let mut compiler = protox::Compiler::new([proto])?;
    compiler.include_source_info(false).include_imports(true).open_file("confold/v1/event.proto")?;
    let out = Path::new(&std::env::var("OUT_DIR")?).join("event.binpb");
    std::fs::write(out, compiler.encode_file_descriptor_set())?;
    Ok(())
}
