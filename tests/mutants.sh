#!/bin/sh
# Changes one decision of the log or the core at a time and sees whether a test notices, in a copy of the repository.
#
#   tests/mutants.sh log      what the file log checks before it believes anything: headers, checksums, digests, lengths, the chain of segments
#   tests/mutants.sh model    what the core checks in rows that it did not write: the window of event ids, the state
#
# Needs `cargo install cargo-mutants --locked`. docs/reliability.md lists what survived, and why.
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
    *) sed -n '2,/^set -eu/{s/^# \{0,1\}//p;}' "$0" ;;
esac
