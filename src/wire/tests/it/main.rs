//! Schemas from files, and values in every form.

mod dynamic;
mod event;
mod json;
mod samples;
mod schema_source;

use std::path::PathBuf;

/// The repository's own schemas.
fn schemas(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../schemas")
        .join(folder)
}
