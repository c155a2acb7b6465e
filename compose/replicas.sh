#!/bin/sh
# Kafka and three replicas of one store on this machine, without Docker, until Ctrl-C. Nothing is left behind but the build.
#
#   compose/replicas.sh                one broker
#   compose/replicas.sh --brokers 3    three brokers: every event on three of them, acknowledged with two
#
# CONFOLD names a binary to use instead of building one. When all is up it prints `ready` and the replicas' addresses.
set -eu
cd "$(dirname "$0")/.."

brokers=1
case "${1:-} ${2:-}" in
    " ") ;;
    "--brokers 1" | "--brokers 3") brokers=$2 ;;
    *) sed -n '2,/^set -eu/{s/^# \{0,1\}//p;}' "$0" >&2 && exit 2 ;;
esac

if [ -z "${CONFOLD:-}" ]; then
    . compose/prepare.sh
    cargo build --locked --release -p confold --bin confold
fi
compose/kafka.sh fetch
began=$(date +%s)
work=$(mktemp -d)
servers=""

# The servers write everything down while there are brokers still; then the brokers go.
stop() {
    trap '' INT TERM
    for server in $servers; do
        kill "$server" 2>/dev/null || true
    done
    for server in $servers; do
        wait "$server" 2>/dev/null || true
    done
    exec 3>&-
    wait
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits up to a minute for a line that begins so, in a file that a process writes; prints what follows.
line_of() { # PROCESS FILE BEGINNING
    for _ in $(seq 600); do
        found=$(sed -n "s|^.*$3||p" "$2" 2>/dev/null | head -n 1)
        [ -z "$found" ] || { echo "$found" && return 0; }
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    cat "$2" "$work"/*.log >&2
    return 1
}

# The brokers live as long as somebody holds this end of the pipe: also when this script is killed, nothing stays.
mkfifo "$work/orders"
compose/kafka.sh hold "$work/kafka" --brokers "$brokers" <"$work/orders" >"$work/kafka.out" 2>"$work/kafka.log" &
kafka=$!
exec 3>"$work/orders"
bootstrap=$(line_of "$kafka" "$work/kafka.out" "ready ")

options="--create-topic"
[ "$brokers" = 3 ] || options="--create-topic --replication 1 --dev-unsafe"
sample="--sample"
addresses=""
for replica in 1 2 3; do
    # shellcheck disable=SC2086
    "$CONFOLD" init "$work/replica-$replica" --kafka "$bootstrap" --topic network $options $sample \
        >"$work/replica-$replica.log" 2>&1 3>&- || { cat "$work/replica-$replica.log" >&2 && exit 1; }
    sample=""
    setpriv --pdeathsig TERM "$CONFOLD" serve "$work/replica-$replica" --listen 127.0.0.1:0 \
        >>"$work/replica-$replica.log" 2>&1 3>&- &
    servers="$servers $!"
    addresses="$addresses $(line_of $! "$work/replica-$replica.log" "serving .* on http://")"
done

set -- $addresses
cat <<READY

ready $*
Three replicas of one store on $brokers Kafka broker(s) at $bootstrap, up in $(($(date +%s) - began)) s. Write at one, read at another:

  $CONFOLD set /devices/olt-1:admin_state=DISABLED --server $1
  $CONFOLD get /devices/olt-1 --server $2 --consistency linearizable
  $CONFOLD log /devices/olt-1 --server $3

Ctrl-C stops everything and removes it.
READY

while sleep 1; do
    for process in $kafka $servers; do
        kill -0 "$process" 2>/dev/null || {
            echo "one of the processes ended:" >&2
            tail -n 20 "$work"/*.log >&2
            exit 1
        }
    done
done
