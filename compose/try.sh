#!/bin/sh
# From nothing to a running store: installs what is missing, builds, and runs the main job on the embedded log with
# VOLTHA's schema and sample data. Leaves nothing behind but the build; takes no port that is in use.
set -eu
cd "$(dirname "$0")/.."
. compose/prepare.sh
cargo build --locked --release --workspace

work=$(mktemp -d)
server=""
stop() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT INT TERM
export CONFOLD_DATA="$work/data"

run() {
    printf '\n$ confold %s\n' "$*"
    "$CONFOLD" "$@"
}

# Starts the server on a free port and waits until it says where it listens.
serve() {
    "$CONFOLD" serve "$CONFOLD_DATA" --listen 127.0.0.1:0 2>"$work/serve.log" &
    server=$!
    for _ in $(seq 600); do
        address=$(sed -n 's|.*http://\([0-9.:]*\).*|\1|p' "$work/serve.log" | head -n 1)
        [ -z "$address" ] || break
        kill -0 "$server" 2>/dev/null || { cat "$work/serve.log" >&2; exit 1; }
        sleep 0.1
    done
    [ -n "$address" ] || { echo "the server did not start in a minute" >&2; cat "$work/serve.log" >&2; exit 1; }
    export CONFOLD_SERVER="$address"
    printf '\n(serving on %s)\n' "$address"
}

say "1/6 A new store with VOLTHA's schema, unmodified"
run init "$CONFOLD_DATA" --schema schemas/voltha --root voltha.Voltha
data=$CONFOLD_DATA
unset CONFOLD_DATA
CONFOLD_DATA=$data; serve; unset CONFOLD_DATA

say "2/6 Sample data: adapters, an OLT with its ports, logical devices"
run apply -f schemas/voltha/sample.yaml
run get /
run ls /devices
run get /devices/olt-1

say "3/6 Changes, a tag, and what differs"
run tag installed
run set /devices/olt-1:admin_state=DISABLED
run set /adapters/openolt:version=0.17
run diff installed latest
run log

say "4/6 The server is killed with kill -9"
kill -9 "$server"
wait "$server" 2>/dev/null || true
server=""
CONFOLD_DATA=$data; serve; unset CONFOLD_DATA

say "5/6 Nothing is lost, and the past can still be read"
run get /devices/olt-1 --field admin_state
run get /devices/olt-1 --field admin_state --at installed
run status

say "6/6 The same over HTTP"
printf '\n$ curl http://%s/v1/get?path=/adapters/openolt\n' "$CONFOLD_SERVER"
curl -sS "http://$CONFOLD_SERVER/v1/get?path=/adapters/openolt"
say "Done. Your own store: confold init DIR --sample, then confold serve DIR; the guide is docs/guide.md"
