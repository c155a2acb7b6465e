# Sourced by the commands of the README: installs what a fresh Debian or Ubuntu machine lacks, and says where builds go.
# RocksDB is compiled from source once per target folder (about 15 minutes on two cores); the folder lies outside the
# checkout so that every clone and every run shares it.

say() { printf '\n==> %s\n' "$*"; }

# Judges of recorded histories are written in Go.
need_go() {
    command -v go >/dev/null 2>&1 && return 0
    [ ! -x /usr/local/go/bin/go ] || { PATH="$PATH:/usr/local/go/bin" && export PATH && return 0; }
    install_packages golang-go ca-certificates
}

need_packages() {
    missing=""
    command -v g++ >/dev/null 2>&1 || missing="$missing build-essential"
    command -v curl >/dev/null 2>&1 || missing="$missing curl"
    # bindgen reads RocksDB's header through libclang.
    if ! ls /usr/lib/llvm-*/lib/libclang.so >/dev/null 2>&1; then
        missing="$missing libclang-dev"
    fi
    # librdkafka's configure script, and what it links.
    command -v bash >/dev/null 2>&1 || missing="$missing bash"
    command -v make >/dev/null 2>&1 || missing="$missing make"
    command -v pkg-config >/dev/null 2>&1 || missing="$missing pkg-config"
    [ -e /usr/include/openssl/ssl.h ] || missing="$missing libssl-dev"
    [ -e /usr/include/zlib.h ] || missing="$missing zlib1g-dev"
    [ -z "$missing" ] || install_packages $missing
}

install_packages() {
    missing="$*"
    say "Installing packages: $missing"
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 || { echo "Run this as root or install sudo: packages are missing:$missing" >&2; exit 1; }
        as_root="sudo"
    fi
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 || {
        $as_root apt-get update -q
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    }
}

need_rust() {
    if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
        export PATH
    fi
    if ! cargo --version >/dev/null 2>&1; then
        command -v rustup >/dev/null 2>&1 || { echo "rustup is missing: see https://rustup.rs" >&2; exit 1; }
        say "Installing the stable Rust toolchain"
        rustup toolchain install stable --profile minimal
        rustup default stable
    fi
}

need_packages
need_rust
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/confold/target}"
export CARGO_TARGET_DIR
mkdir -p "$CARGO_TARGET_DIR"
CONFOLD="$CARGO_TARGET_DIR/release/confold"
if [ -z "$(ls "$CARGO_TARGET_DIR"/release/build 2>/dev/null | grep '^librocksdb-sys-')" ]; then
    say "First build into $CARGO_TARGET_DIR: RocksDB is compiled once, about 15 minutes on two cores"
else
    say "Building into $CARGO_TARGET_DIR"
fi
