#!/bin/sh
# confold beside etcd: the same load on the same disk, in turns, and a table of limit, peer, ours and ratios.
#
#   tests/peers.sh [ROUNDS] [SECONDS]    so many turns of both (5), each part so long (3)
#
# etcd is built from its own Go module. Data lies in a temporary folder, on the disk of $TMPDIR. CONFOLD names a binary to use instead of
# building one. What each turn measured is kept in the folder that is printed first.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-3}
case "$rounds$seconds" in *[!0-9]*) sed -n '2,/^set -eu/{s/^# \{0,1\}//p;}' "$0" >&2 && exit 2 ;; esac

binary=${CONFOLD:-}
. compose/prepare.sh
need_go
if [ -n "$binary" ]; then
    CONFOLD=$binary
else
    cargo build --locked --release --workspace
fi
peers="$CARGO_TARGET_DIR/peers"
mkdir -p "$peers"
say "Building etcd and its load"
(cd tests/peers && go build -o "$peers/" . ./etcd)

results=$(mktemp -d -p "$peers")
work=$(mktemp -d)
etcd=""
stop() {
    [ -z "$etcd" ] || { kill "$etcd" 2>/dev/null && wait "$etcd" 2>/dev/null; } || true
    etcd=""
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A new etcd with nothing in it, on a port of its own.
start_etcd() {
    rm -rf "$work/etcd"
    "$peers/etcd" --data-dir "$work/etcd" --log-level error \
        --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
        --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
        --initial-cluster default=http://127.0.0.1:12380 >"$work/etcd.log" 2>&1 &
    etcd=$!
    for _ in $(seq 300); do
        ! curl -fs http://127.0.0.1:12379/health >/dev/null || return 0
        kill -0 "$etcd" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/etcd.log" >&2
    return 1
}

say "Results in $results"
{ uname -sr; nproc; "$peers/etcd" --version | head -n 1; git rev-parse --short HEAD; cat /proc/loadavg; } 2>/dev/null | tee "$results/machine"
for round in $(seq "$rounds"); do
    say "Round $round of $rounds"
    start_etcd
    "$peers/peers" load 127.0.0.1:12379 "$seconds" >"$results/etcd-$round.json"
    stop
    "$CONFOLD" bench --json --for "${seconds}s" --record 346 --folder "$work" --only fdatasync --only echo --only "commits, 1 client" \
        --only "commits, 64 clients" --only "reads, 1 client" --only "reads, 64 clients" --only "commits of 100 puts" \
        >"$results/confold-$round.json"
done
cat /proc/loadavg >>"$results/machine" 2>/dev/null || true
say "confold beside etcd"
"$peers/peers" table "$results"
