#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash tests/run.sh         packages if missing, release build, every test that needs no GPU
# bash tests/run.sh --all   before these: each fuzzer for 20 s, the tests under the address and undefined-behaviour
#                           sanitizers, those of threads under the thread sanitizer
# Every leg runs, whatever the ones before it found; a leg that failed is named at the end.
set -u
cd "$(dirname "$0")/.." || exit 1
. launch/packages.sh
case "${1-}" in
'' | --all) ;;
*) echo "usage: bash tests/run.sh [--all]" >&2; exit 2 ;;
esac
# The lists are words on purpose.
# shellcheck disable=SC2086
need_packages $packages_build $packages_test || exit 1
command -v ccache >/dev/null && export CMAKE_C_COMPILER_LAUNCHER=ccache
jobs=$(nproc)
failed=()

# second_try FOLDER: tests of processes, signals and kills (labels mpi, long) can lose against the clock of a loaded
# machine.  They get one more try and are named; any other failure stands.
second_try() {
    local name names
    names=$(sed 's/^[0-9]*://' "$1/Testing/Temporary/LastTestsFailed.log") && [ -n "$names" ] || return 1
    for name in $names; do
        ctest --test-dir "$1" -N -L 'mpi|long' -R "^$name\$" | grep -q 'Total Tests: 1' || return 1
    done
    echo "== second try of" $names
    ctest --test-dir "$1" --rerun-failed --output-on-failure
}

# leg PRESET TARGET CTEST-OPTION...: configure, build and test one of the presets of CMakePresets.json.
leg() {
    local preset=$1 target=$2 start=$SECONDS built
    shift 2
    echo "== $preset: configure and build"
    if ! cmake --preset "$preset" -DBATON_CUDA=OFF >/dev/null ||
        ! cmake --build --preset "$preset" -j "$jobs" --target "$target"; then
        failed+=("$preset (build)")
        return
    fi
    built=$SECONDS
    local folder=build
    [ "$preset" = release ] || folder=build-$preset
    ctest --test-dir "$folder" -j "$jobs" --output-on-failure --no-tests=error "$@" || second_try "$folder" ||
        failed+=("$preset")
    times+=("$preset: built in $((built - start)) s, tested in $((SECONDS - built)) s")
    [ "$preset" = release ] || echo "== ${times[-1]}"
}

times=()
if [ "${1-}" = --all ]; then
    leg fuzz fuzzers -L fuzz
    leg asan all -L cpu -LE long -E '^comm_device_fake$' # a minute there; tsan and release have it
    leg tsan all -L threads -LE long
fi
leg release all -L cpu
for name in "${failed[@]}"; do echo "FAILED: $name"; done
[ ${#failed[@]} -eq 0 ]
