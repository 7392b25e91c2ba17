#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu
# baton prepare as a user runs it: exit codes, texts of errors, what is on disk afterwards.
set -u
[ -x "${BATON_PROGRAM:-}" ] || { echo "skipped: BATON_PROGRAM is not set"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failures=0
fail() { echo "prepare_command: $*" >&2; failures=$((failures + 1)); }

# expect WHY CODE TEXT ARGUMENT...: the exit code, and a text that the output must hold
expect() {
    local why=$1 code=$2 text=$3 got
    shift 3
    "$BATON_PROGRAM" prepare "$@" >"$dir/log" 2>&1
    got=$?
    [ "$got" = "$code" ] || fail "$why: exit code $got instead of $code: $(cat "$dir/log")"
    grep -qF -- "$text" "$dir/log" || fail "$why: '$text' is not in: $(cat "$dir/log")"
}

printf 'ab\ncd\n' >"$dir/a.txt"
printf 'e' >"$dir/b=c.txt"
printf '{"body": "x"}\n' >"$dir/d.jsonl"
printf '{"text": "x"}\n{"text": ' >"$dir/bad.jsonl"
: >"$dir/empty.txt"
expect "files in the order typed" 0 "3 documents (1 empty ones skipped), 8 tokens" --tokenizer bytes --out "$dir/one" \
    "$dir/b=c.txt" "$dir/empty.txt" --field body "$dir/d.jsonl" "$dir/a.txt"
[ "$(tr -d '\0' <"$dir/one.bin")" = "$(printf 'exab\ncd\n')" ] || fail "the tokens are not the texts' bytes in order"
expect "lines with an end token" 0 "2 documents" --tokenizer=bytes --out="$dir/two" --lines --end-token 36 "$dir/a.txt"
[ "$(tr -d '\0' <"$dir/two.bin")" = 'ab$cd$' ] || fail "end tokens: $(tr -d '\0' <"$dir/two.bin")"
expect "no tokenizer" 2 "--tokenizer" --out "$dir/x" "$dir/a.txt"
expect "no prefix" 2 "--out" --tokenizer bytes "$dir/a.txt"
expect "no text" 2 "TEXT" --tokenizer bytes --out "$dir/x"
expect "an end token that is none" 2 "--end-token x" --tokenizer bytes --out "$dir/x" --end-token x "$dir/a.txt"
expect "an end token outside the vocabulary" 2 "256" --tokenizer bytes --out "$dir/x" --end-token 256 "$dir/a.txt"
expect "no thread" 2 "--threads 0" --tokenizer bytes --out "$dir/x" --threads 0 "$dir/a.txt"
expect "a text that is not there" 1 "$dir/none" --tokenizer bytes --out "$dir/x" "$dir/a.txt" "$dir/none"
expect "a folder" 1 "not a plain file" --tokenizer bytes --out "$dir/x" "$dir"
expect "a tokenizer that is not there" 1 "$dir/none.json" --tokenizer "$dir/none.json" --out "$dir/x" "$dir/a.txt"
expect "a broken line" 1 "bad.jsonl:2" --tokenizer bytes --out "$dir/x" "$dir/bad.jsonl"
expect "nothing but empty texts" 1 "no text at all" --tokenizer bytes --out "$dir/x" "$dir/empty.txt"
expect "an output folder that is not there" 1 "does its folder exist?" --tokenizer bytes --out "$dir/no/x" "$dir/a.txt"
[ -z "$(ls "$dir" | grep '^x')" ] || fail "failures left files: $(ls "$dir")"
expect "help" 0 "--end-token" --help
[ $failures = 0 ]
