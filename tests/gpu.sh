#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests for a GPU host, from a build with BATON_CUDA=ON (the folder BATON_BUILD, else ./build); ends with one table.
#   tests/gpu.sh correct [OP ...]    every CUDA op on its cases, those of the benchmark too: match, guard, same, errors;
#                                    then the ops above 2^31 elements
#   tests/gpu.sh sanitize [OP ...]   the small cases under memcheck, racecheck, initcheck and synccheck
set -u
build=${BATON_BUILD:-build}
program=$build/tests/ops_cuda
part=${1:-}
[ $# -gt 0 ] && shift

[ -x "$program" ] || { echo "$program is missing: configure with -DBATON_CUDA=ON and build" >&2; exit 2; }

about() {
    echo "$(date -u +%Y-%m-%d), $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1): $*"
}

correct() {
    "$program" --table --large "$@" >"$work/table" 2>"$work/errors"
    local rc=$? huge
    "$build/tests/ops_huge_cuda" 2>>"$work/errors"
    huge=$?
    printf 'above 2^31 elements: exit %d\n' $huge >>"$work/table"
    head -40 "$work/errors"
    [ $rc -ne 0 ] || rc=$huge
    about "tests/gpu.sh correct, exit $rc"
    cat "$work/table"
    return $rc
}

sanitize() { # a tool each, side by side: they share the GPU
    local tool rc failed=0
    command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH" >&2; return 2; }
    for tool in memcheck racecheck initcheck synccheck; do
        timeout "${BATON_TIMEOUT:-480}" compute-sanitizer --tool "$tool" --error-exitcode 3 --print-limit 5 \
            "$program" "$@" >"$work/$tool" 2>&1 &
        eval "pid_$tool=$!"
    done
    for tool in memcheck racecheck initcheck synccheck; do
        eval "wait \$pid_$tool"
        rc=$?
        [ $rc -eq 0 ] || { failed=1; echo "---- $tool"; head -40 "$work/$tool"; }
        printf '%-10s exit %d: %s\n' "$tool" $rc "$(grep SUMMARY "$work/$tool" | tail -1)" >>"$work/table"
    done
    about "tests/gpu.sh sanitize"
    cat "$work/table"
    return $failed
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $part in
correct | sanitize) "$part" "$@" ;;
*) sed -n '3,6s/^# //p' "$0" && exit 2 ;;
esac
