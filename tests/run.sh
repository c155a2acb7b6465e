#!/bin/sh
# Builds everything and passes the tests: what a contributor runs, and what CI runs.
set -eu
cd "$(dirname "$0")/.."
. compose/prepare.sh
compose/kafka.sh fetch
need_go

say "1/6 The pure model, debug build: seconds, no C"
cargo test --locked -q -p confold-model

say "2/6 Building the workspace and its tests"
cargo test --locked --release --workspace --no-run

say "3/6 The binary"
cargo build --locked --release --workspace

say "4/6 Tests of the workspace"
cargo test --locked --release --workspace -q

say "5/6 The embedded example"
"$CARGO_TARGET_DIR/release/examples/embedded"

say "6/6 The core stays pure: no clocks, files, threads, environment or hash-ordered maps"
if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --locked -q -p confold-model -- -A clippy::all -D clippy::disallowed-types -D clippy::disallowed-methods
else
    echo "cargo clippy is not installed: skipped (rustup component add clippy)"
fi
say "All tests passed"
