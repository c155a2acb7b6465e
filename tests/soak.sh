#!/bin/sh
# The long tests: each command adds up runs in a results file until its figure is reached, so it may be stopped and started again.
#
#   tests/soak.sh cluster [SECONDS]    three replicas, three brokers, everything fails in turn (600)
#   tests/soak.sh registers [ROUNDS]   recorded histories of 30 s under the same faults, one broker (20)
#   tests/soak.sh fences [TIMES]       topics that lose their end, get an unclean leader, or are made anew, at replicas (20)
#   tests/soak.sh poison [RECORDS]     records of strangers (10000)
#   tests/soak.sh table                what was reached so far
#
# Results stand in $CONFOLD_SOAK_RESULTS, one line a run: when, commit, command, figures; by default in soak.tsv of the build folder.
set -eu
cd "$(dirname "$0")/.."
. compose/prepare.sh
results="${CONFOLD_SOAK_RESULTS:-$CARGO_TARGET_DIR/soak.tsv}"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
tab=$(printf '\t')

# What runs of this command have reached together: the sum of one of their figures.
reached() { # COMMAND FIGURE
    [ -e "$results" ] || { echo 0 && return; }
    awk -F "$tab" -v command="$1" -v figure="$2" '
        $3 == command {
            n = split($4, part, " ")
            for (i = 1; i <= n; i++) if (part[i] ~ "^" figure "=") { sub(/^[^=]*=/, "", part[i]); sum += part[i] }
        }
        END { printf "%d\n", sum }' "$results"
}

# Runs one test and keeps the line that it prints.
run() { # COMMAND TEST
    out=$(mktemp)
    began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    if cargo test --locked --release -q -p confold --test it -- --exact --nocapture "$2" >"$out" 2>&1; then
        sed -n 's/^SOAK //p' "$out" | while read -r figures; do
            printf '%s\t%s\t%s\t%s\n' "$began" "$commit" "$1" "$figures" | tee -a "$results"
        done
        rm -f "$out"
    else
        printf '%s\t%s\t%s\tFAILED see %s\n' "$began" "$commit" "$1" "$out" | tee -a "$results"
        exit 1
    fi
}

# Runs again until the figure is reached.
until_reached() { # COMMAND FIGURE WANTED TEST
    while [ "$(reached "$1" "$2")" -lt "$3" ]; do
        run "$1" "$4"
    done
    echo "$1: $2 $(reached "$1" "$2") of $3"
}

storm=cluster::three_replicas_lose_nothing_double_nothing_and_agree_whatever_fails
case ${1:-help} in
    cluster | registers | fences | poison) compose/kafka.sh fetch && need_go ;;
esac
case ${1:-help} in
    cluster)
        export CONFOLD_SOAK_SECONDS=120 CONFOLD_BROKERS=3
        until_reached cluster seconds "${2:-600}" $storm
        ;;
    registers)
        export CONFOLD_SOAK_SECONDS=120 CONFOLD_BROKERS=1
        until_reached registers rounds "${2:-20}" $storm
        ;;
    fences)
        export CONFOLD_SOAK_ROUNDS=5
        until_reached unclean times "${2:-20}" three::a_replica_folds_nothing_of_a_branch_that_an_unclean_leader_began
        until_reached truncated times "${2:-20}" fences::a_replica_folds_nothing_of_a_topic_that_lost_what_it_had_folded
        until_reached anew times "${2:-20}" fences::a_replica_folds_nothing_of_a_topic_that_was_made_anew
        until_reached dropped times "${2:-20}" fences::a_topic_may_drop_what_was_folded_and_no_more
        ;;
    poison)
        export CONFOLD_SOAK_POISON=10000
        until_reached poison poison "${2:-10000}" fences::poison_and_foreign_records_are_rejected_alike_by_three_replicas
        ;;
    table)
        [ -e "$results" ] || { echo "no results in $results yet" && exit 0; }
        awk -F "$tab" '{ printf "%-21s %-9s %-10s %s\n", $1, $2, $3, $4 }' "$results"
        ;;
    *) sed -n '2,/^set -eu/{s/^# \{0,1\}//p;}' "$0" ;;
esac
