#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu mpi
# timeout: 300
# The cases of comm_world.c over real processes, and what a failing, stopped or killed one does to the others.
set -u
command -v mpirun >/dev/null || { echo "skipped: no mpirun"; exit 77; }
program=${BATON_BUILD:-build}/tests/comm_world
[ -x "$program" ] || { echo "skipped: $program is not built"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# What MPI itself leaks, and its own threads, are not ours to report.
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0
export TSAN_OPTIONS=${TSAN_OPTIONS:-}:ignore_noninstrumented_modules=1
failures=0
options=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

wrong() {
    echo "comm_mpi: $*; the output was:"
    cat "$log"
    failures=$((failures + 1))
}

# expect RANKS ARGUMENT EXIT_CODE SECONDS TEXT: EXIT_CODE "any" is any but 0, "-" (and TEXT "-") is not looked at
expect() {
    local begun=$SECONDS code
    timeout 90 mpirun "${options[@]}" -n "$1" --oversubscribe "$program" "$2" >"$log" 2>&1
    code=$?
    if grep -q "no MPI" "$log"; then
        echo "skipped: this build has no MPI"
        exit 77
    fi
    case $3 in
    -) ;;
    any) [ $code -ne 0 ] || wrong "$2 over $1 ranks: exit code 0" ;;
    *) [ $code = "$3" ] || wrong "$2 over $1 ranks: exit code $code, not $3" ;;
    esac
    [ $((SECONDS - begun)) -le "$4" ] || wrong "$2 over $1 ranks took $((SECONDS - begun)) s, more than $4"
    [ "$5" = - ] || grep -qE "$5" "$log" || wrong "$2 over $1 ranks does not say '$5'"
}

expect 2 cases 0 60 -
expect 3 cases 0 60 -
expect 2 large 0 60 -
expect 1 cases 0 30 -
expect 3 stopped 3 30 -
# A rank that returns an error: its own text and exit code, at once.
expect 3 fail 1 30 'failed: rank 1 of 3, phase test 7: books/valid.bin: 3 bytes are missing'
expect 2 config 2 30 'failed: rank [01] of 2, phase test 7: train.steps is wrong'
expect 3 differs 2 30 'the configuration differs between ranks: rank 1 has ab; 2 of 3 ranks, as rank 0, have cd'
expect 3 differs 2 30 'baton: warning: OpenBLAS differs between ranks: rank 1 has 0.3.26; 2 of 3'
expect 3 smaller 4 30 'rank [0-2] sent [0-9]+ bytes of sum \(grads\) where [0-9]+ bytes of sum \(grads\) are expected'
expect 3 other 4 30 'sent [0-9]+ bytes of (sum \(grads\)|barrier \(control\)) where'
# Nobody hears of rank 1: the deadline of 2 s, a grace of 2 s for the others, then MPI_Abort with 4.
expect 3 ends 4 30 'in sum 2 of seq \(grads\): waited 2 s, not heard of rank 1'
expect 3 slow 4 30 'in sum 2 of seq \(grads\): waited 2 s, not heard of rank 1'
expect 3 silent any 30 'waited 2 s, not heard of rank 1|rank 1 did not come to the end'
# mpirun is the first to see a death, and names the rank.
expect 3 kill 137 30 'process rank 1 .*signal 9'
# A launcher that looks away: the ranks that live end by themselves.
options=(--enable-recovery)
expect 3 kill - 30 'waited 2 s, not heard of rank 1'
exit $((failures > 0))
