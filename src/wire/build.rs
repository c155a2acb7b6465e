//! Compiles proto/ without protoc: generated types with client and server code, and the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 4] = [
    "confold/v1/event.proto",
    "confold/v1/service.proto",
    "confold/v1/state.proto",
    "google/rpc/status.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let protos = manifest.join("../../proto");
    println!("cargo:rerun-if-changed={}", protos.display());

    let mut compiler = protox::Compiler::new([&protos])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.binpb");
    fs::write(&descriptors, compiler.encode_file_descriptor_set())?;

    // Ordered maps and shared buffers: the same message always gives the same bytes, and values are not copied.
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
