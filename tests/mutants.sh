#!/bin/sh
# Changes one decision of the log or the core at a time and sees whether a test notices, in a copy of the repository.
#
#   tests/mutants.sh log      what the file log checks before it believes anything: headers, checksums, digests, lengths, the chain of segments
#   tests/mutants.sh model    what the core checks in rows that it did not write: the window of event ids, the state
#   tests/mutants.sh syncs    every sync of the file log, left out one by one
#
# The first two need `cargo install cargo-mutants --locked`. docs/reliability.md lists what survived, and why.
set -eu
cd "$(dirname "$0")/.."
# Numbers by which a result cannot be told from another are left out: they do not compile, or are no decision.
plain='Default::default|vec!|Ok\(None\)|with 0$|with 1$'
# Fewer cuts and flips: each mutant has the tests run once.
export CONFOLD_CUT_RECORDS=10 CONFOLD_FLIPS=20
case ${1:-help} in
    log)
        cargo mutants -p confold-log -f 'src/log/file/*.rs' -E "$plain" --timeout 40 \
            -F 'SegmentHeader::decode|BatchHeader::(decode|body_is_sound|records)|link|settle|in keep|replace keep|cut_off|Segment::open|Cursor::header|Cursor::skip_to' \
            -- --lib --test file_log --test crash --test damage --test golden
        ;;
    model)
        cargo mutants -p confold-model -f src/model/window.rs -f src/model/state.rs -E "$plain" --timeout 40 \
            -F 'Window::(unpack|advance|insert|get)|State::load|State::load_scalars' -- --lib
        ;;
    syncs)
        copy=$(mktemp -d)
        trap 'rm -rf "$copy"' EXIT
        git ls-files -z | xargs -0 cp --parents -t "$copy"
        export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$copy/target}"
        cd "$copy"
        # What stands in the place of a sync of the disk that the tests put below the log.
        sed -i 's/^    fn sync\(_folder\)\?(&self) -> io::Result<()>;/&\n    fn unsynced(\&self) -> io::Result<()> {\n        Ok(())\n    }/' src/log/file/disk.rs
        missed=0
        # The disk itself is what power cuts try, in tests/it/faults.
        for place in $(grep -nE '\.sync(_folder)?\(\)' src/log/file.rs src/log/file/*.rs | cut -d: -f1,2); do
            file=${place%:*}
            cp "$file" "$copy/kept"
            sed -i "${place#*:}s/\.sync\(_folder\)\?()/.unsynced()/" "$file"
            if cargo test --locked -q -p confold-log --lib --test file_log --test crash --test damage >"$copy/said" 2>&1; then
                echo "MISSED $place: $(sed -n "${place#*:}p" "$copy/kept")"
                missed=1
            elif grep -q 'test result: FAILED' "$copy/said"; then
                echo "noticed $place by $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^    \([a-z_:]*\)$/\1/p' "$copy/said" | sort -u | head -n 1)"
            else
                cat "$copy/said"
                exit 1
            fi
            mv "$copy/kept" "$file"
        done
        exit $missed
        ;;
    *) sed -n '2,/^set -eu/{s/^# \{0,1\}//p;}' "$0" ;;
esac
