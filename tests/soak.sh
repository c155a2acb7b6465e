#!/bin/sh
# The long tests: each command adds up runs in a results file until its figure is reached, so it may be stopped and started again.
#
#   tests/soak.sh cluster [SECONDS]    three replicas, three brokers, everything fails in turn (600)
#   tests/soak.sh registers [ROUNDS]   recorded histories of 30 s under the same faults, one broker (20)
#   tests/soak.sh partitions [SECONDS] the same, and only wires fail, each for up to 20 s (300)
#   tests/soak.sh fences [TIMES]       topics that lose their end, get an unclean leader, or are made anew, at replicas (20; 200 of the first)
#   tests/soak.sh moves [FAULTS]       brokers that go, come back and are slow, leaders that move, in the client library's fakes (1000)
#   tests/soak.sh restarts [TIMES]     a broker that is killed or stopped under a reader and a writer (50)
#   tests/soak.sh divergence [TIMES]   replicas that are wrong once or always, forged checkpoints, on a broker (20)
#   tests/soak.sh poison [RECORDS]     records of strangers (10000)
#
#   tests/soak.sh kills [TIMES]        a server killed under eight writers (2000)
#   tests/soak.sh steps [TIMES]        a process that dies at each step of the write path (50 times each)
#   tests/soak.sh power [CUTS]         power cuts, as root (1000); CONFOLD_FILE_SYSTEM=xfs for another file system
#   tests/soak.sh teeth [TIMES]        power cuts on a disk that never syncs: each must be found out (20)
#   tests/soak.sh prune [TIMES]        a process killed while it prunes and sweeps (500)
#   tests/soak.sh syncs [TIMES]        a sync that fails (200)
#   tests/soak.sh full [TIMES]         a disk that is full, as root (50)
#   tests/soak.sh cuts [CUTS]          a log cut at every byte (65536)
#   tests/soak.sh flips [FLIPS]        bits flipped in a log (20000)
#   tests/soak.sh rot [COPIES]         files of the database that rot or go missing (1000)
#   tests/soak.sh folders [RUNS]       folders put where they do not belong (50)
#   tests/soak.sh clocks [ROUNDS]      clocks that jump by a year (20)
#   tests/soak.sh pauses [PAUSES]      a server stopped for up to 30 s (50)
#   tests/soak.sh memory [TIMES]       a server that runs out of memory (20)
#   tests/soak.sh quotas [COMMITS]     one caller beside another that floods the server (3000)
#   tests/soak.sh repeats [EVENTS]     records that come again, simulated (10000000)
#   tests/soak.sh seeds [SEEDS]        everything at once, simulated (20000)
#   tests/soak.sh history [REVISIONS]  the same work with a short past and a long one (10000000)
#
#   tests/soak.sh fuzz [TARGET] [SECONDS]   every decoder of bytes from outside, or one of them (600 each)
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

# Runs one test and keeps the line that it prints. $target is where it is.
target="--test it"
run() { # COMMAND TEST
    out=$(mktemp)
    began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    if ! cargo test --locked --release -q --workspace $target -- --exact --nocapture "$2" >"$out" 2>&1; then
        printf '%s\t%s\t%s\tFAILED see %s\n' "$began" "$commit" "$1" "$out" | tee -a "$results"
        exit 1
    fi
    if ! grep -q '^SOAK ' "$out"; then
        echo "$1: nothing was measured: $(grep '^SKIPPED' "$out" || echo "see $out")" >&2
        exit 1
    fi
    sed -n 's/^SOAK //p' "$out" | while read -r figures; do
        printf '%s\t%s\t%s\t%s\n' "$began" "$commit" "$1" "$figures" | tee -a "$results"
    done
    rm -f "$out"
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
    cluster | registers | partitions | fences | restarts | divergence | poison) compose/kafka.sh fetch && need_go ;;
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
    partitions)
        export CONFOLD_SOAK_SECONDS=150 CONFOLD_BROKERS=1 CONFOLD_LONGEST_PARTITION=20
        until_reached partitions seconds "${2:-300}" $storm
        ;;
    fences)
        export CONFOLD_SOAK_ROUNDS=5
        until_reached unclean times "${2:-20}" three::a_replica_folds_nothing_of_a_branch_that_an_unclean_leader_began
        until_reached truncated times "${2:-200}" fences::a_replica_folds_nothing_of_a_topic_that_lost_what_it_had_folded
        until_reached anew times "${2:-20}" fences::a_replica_folds_nothing_of_a_topic_that_was_made_anew
        until_reached dropped times "${2:-20}" fences::a_topic_may_drop_what_was_folded_and_no_more
        ;;
    moves)
        export CONFOLD_SOAK_ROUNDS=250
        until_reached moves faults "${2:-1000}" mock::brokers_go_and_come_back_and_leaders_move
        ;;
    restarts)
        export CONFOLD_SOAK_ROUNDS=25
        until_reached restarts restarts "${2:-50}" fences::readers_and_writers_go_on_after_each_restart_of_the_broker
        ;;
    divergence)
        export CONFOLD_SOAK_DIVERGENCES=5
        until_reached once once "${2:-20}" fences::a_replica_that_was_wrong_once_stops_itself_and_names_mark_and_path
        until_reached always wrong "${2:-20}" fences::a_replica_that_is_always_wrong_stops_itself_and_the_others_serve_on
        until_reached forged forged "${2:-20}" fences::a_forged_checkpoint_on_the_topic_stops_nobody
        ;;
    poison)
        export CONFOLD_SOAK_POISON=10000
        until_reached poison poison "${2:-10000}" fences::poison_and_foreign_records_are_rejected_alike_by_three_replicas
        ;;
    kills)
        export CONFOLD_KILLS=200
        until_reached kills kills "${2:-2000}" crash::kill_9_under_eight_writers_loses_nothing_and_doubles_nothing
        ;;
    steps)
        export CONFOLD_TIMES=5
        until_reached steps times "${2:-50}" faults::steps::a_process_that_dies_at_any_step_loses_nothing_and_doubles_nothing
        ;;
    power)
        export CONFOLD_POWER_CUTS=100
        until_reached "power${CONFOLD_FILE_SYSTEM:+-$CONFOLD_FILE_SYSTEM}" cycles "${2:-1000}" \
            faults::power::a_power_cut_loses_nothing_that_was_acknowledged
        ;;
    teeth)
        until_reached teeth found "${2:-20}" faults::power::the_same_power_cut_on_a_disk_that_never_syncs_is_found_out
        ;;
    prune)
        export CONFOLD_PRUNE_KILLS=50
        until_reached prune kills "${2:-500}" \
            faults::steps::a_process_killed_while_it_prunes_and_sweeps_keeps_every_tree_it_promised_whole
        ;;
    syncs)
        export CONFOLD_SYNC_FAILURES=50
        until_reached syncs runs "${2:-200}" faults::sync::a_failed_sync_ends_the_server_and_loses_nothing_that_was_acknowledged
        ;;
    full)
        export CONFOLD_FILLS=6
        until_reached full fills "${2:-50}" faults::full::on_a_full_disk_reads_go_on_and_writes_come_back_by_themselves
        ;;
    history)
        export CONFOLD_REVISIONS="${2:-10000000}"
        run history history::a_long_history_makes_nothing_slower_and_only_rows_and_log_bigger
        ;;
    cuts)
        target="--test damage"
        until_reached cuts cuts "${2:-65536}" a_log_cut_at_any_byte_keeps_its_whole_batches
        ;;
    flips)
        target="--test damage" && export CONFOLD_FLIPS=2000
        while [ "$(reached flips flips)" -lt "${2:-20000}" ]; do
            CONFOLD_SEED=$(reached flips flips) && export CONFOLD_SEED
            run flips every_flipped_bit_is_found_or_stands_in_the_last_batch
        done
        ;;
    rot)
        until_reached rot copies "${2:-1000}" faults::rot::a_database_that_rots_is_built_anew_or_gives_the_right_answers
        ;;
    folders)
        until_reached folders runs "${2:-50}" faults::folders::a_folder_that_is_not_the_one_it_was_replays_or_refuses_by_name
        ;;
    clocks)
        export CONFOLD_CLOCKS=5
        until_reached clocks rounds "${2:-20}" faults::clock::clocks_that_jump_change_no_root_and_times_never_go_back
        ;;
    pauses)
        export CONFOLD_PAUSES=10 CONFOLD_LONGEST_PAUSE_MS=30000
        until_reached pauses pauses "${2:-50}" faults::pause::after_a_pause_no_read_is_old_and_no_write_is_lost
        ;;
    memory)
        export CONFOLD_MEMORY_LIMITS=5
        until_reached memory times "${2:-20}" \
            faults::pause::a_server_that_runs_out_of_memory_loses_nothing_that_was_acknowledged
        ;;
    quotas)
        export CONFOLD_QUOTA_COMMITS=500
        until_reached quotas commits "${2:-3000}" quota::who_floods_gets_its_share_and_another_caller_is_served_beside_it
        ;;
    repeats)
        target=--lib
        while [ "$(reached repeats events)" -lt "${2:-10000000}" ]; do
            CONFOLD_SEED=$(reached repeats events) && export CONFOLD_SEED
            run repeats sim::sim_on_a_long_log_late_repeats_change_nothing
        done
        ;;
    seeds)
        target=--lib && export CONFOLD_SEEDS=1000
        while [ "$(reached seeds seeds)" -lt "${2:-20000}" ]; do
            # The tests themselves have the first thousand.
            CONFOLD_FIRST_SEED=$((1000 + $(reached seeds seeds))) && export CONFOLD_FIRST_SEED
            run seeds sim::sim_thousand_seeds
        done
        ;;
    fuzz)
        seconds=${3:-600}
        export CONFOLD_FUZZ_SECONDS=$((seconds < 120 ? seconds : 120))
        target="--test fuzz"
        while read -r decoder test; do
            case ${2:-$decoder} in
                "$decoder") until_reached "fuzz-$decoder" seconds "$seconds" "$test" </dev/null ;;
            esac
        done <<TARGETS
record model::a_record_has_one_form_or_is_refused
fold model::the_fold_decides_every_record_and_decides_it_again_alike
value model::a_value_becomes_canonical_or_is_refused
object model::an_object_is_told_from_anything_else
path model::a_path_has_one_text_or_is_refused
schema model::a_descriptor_set_becomes_a_schema_or_is_refused
policy model::a_policy_is_read_as_it_is_written
segment log::a_folder_of_segments_is_a_log_or_is_refused
origin log::an_origin_has_one_form_or_is_refused
snapshot snapshot::a_snapshot_is_taken_in_whole_or_is_refused
token wire::a_token_has_one_text_or_is_refused
json wire::json_is_a_value_or_is_refused
yaml wire::yaml_is_a_value_or_is_refused
textproto wire::text_format_is_a_value_or_is_refused
request wire::a_request_in_json_is_read_as_it_is_written
source wire::a_schema_in_source_is_compiled_or_is_refused
calls calls::every_call_is_answered_whatever_is_asked
TARGETS
        ;;
    table)
        [ -e "$results" ] || { echo "no results in $results yet" && exit 0; }
        awk -F "$tab" '{ printf "%-21s %-9s %-10s %s\n", $1, $2, $3, $4 }' "$results"
        ;;
    *) sed -n '2,/^set -eu/{s/^# \{0,1\}//p;}' "$0" ;;
esac
