#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# planted.sh PROGRAM CORPUS: a fuzzer whose reader has a bug planted in it finds the bug within 60 s of fuzzing that
# starts from the kept corpus; the corpus alone must not show it.
set -u
program=$1 corpus=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/found"
if ! "$program" -runs=0 -artifact_prefix="$work/known-" "$corpus" >"$work/log" 2>&1; then
    echo "planted: an input of $corpus already ends in the bug: this shows nothing about fuzzing"
    exit 1
fi
"$program" -max_total_time=60 -timeout=10 -artifact_prefix="$work/crash-" "$work/found" "$corpus" >"$work/log" 2>&1
code=$?
grep -E '^SUMMARY|runtime error' "$work/log" | head -3
if [ $code -ne 0 ] && ls "$work"/crash-* >/dev/null 2>&1; then
    grep -E '^#[0-9]+' "$work/log" | tail -1
    exit 0
fi
echo "planted: not found in 60 s (exit code $code); the end of the fuzzer's log:"
tail -5 "$work/log"
exit 1
