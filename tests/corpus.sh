#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 60
# The tool behind quickstart.sh: shared runs are counted exactly, dropped by the line, and the entropy is that of a text
# whose value is known.
set -u
corpus=$BATON_BUILD/corpus
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

expect() { # expect WHY WANTED COMMAND...: the first word of its output
    local why=$1 wanted=$2 out
    shift 2
    out=$("$@" 2>"$work/errors")
    [ "${out%% *}" = "$wanted" ] && return
    echo "corpus: $why: expected $wanted, found: $out $(cat "$work/errors")"
    failures=1
}
# letters COUNT SEED
letters() {
    LC_ALL=C awk -v n="$1" -v seed="$2" 'BEGIN { srand(seed); while (n--) printf "%c", 97 + int(26 * rand()) }'
}

run63=$(letters 63 1)
printf 'one %sA two\n%s\n' "$run63" "$(letters 5000 2)" >"$work/train"
printf 'first line\n%s\n' "$(letters 300 3)" >"$work/train2"

printf 'zzz %sB\n' "$run63" >"$work/valid"
expect 'one byte short of a run, and the space before it' 1 "$corpus" overlap "$work/train" -- "$work/valid"
printf 'zzz%sB\n' "$run63" >"$work/valid"
expect 'one byte short of a run' 0 "$corpus" overlap "$work/train" -- "$work/valid"
printf '%sA' "$run63" >"$work/valid"
expect 'a run that is the whole file' 1 "$corpus" overlap "$work/train" -- "$work/valid"
"$corpus" overlap "$work/train" -- "$work/valid" >/dev/null 2>&1 && failures=1 && echo 'corpus: a shared run must fail'
head -c 1069 "$work/train" | tail -c 1000 >"$work/valid"
expect 'every run of a stretch' 937 "$corpus" overlap "$work/train" -- "$work/valid"
expect 'a run in the second file' 937 "$corpus" overlap "$work/train2" "$work/train" -- "$work/valid"
tail -c 40 "$work/train" >"$work/tail"
head -c 40 "$work/train2" >"$work/head"
cat "$work/tail" "$work/head" >"$work/valid"
expect 'files do not join' 0 "$corpus" overlap "$work/train" "$work/train2" -- "$work/valid"

printf 'keep me\n%sA\nand me\n' "$run63" >"$work/valid"
"$corpus" drop "$work/train" -- "$work/valid" >/dev/null
[ "$(cat "$work/valid")" = "$(printf 'keep me\nand me')" ] || { echo 'corpus: drop took another line'; failures=1; }
# The two halves of a run come together once the line between them has gone.
half=$(letters 40 4)$'\n'
printf '%s%s\n' "$half" "$(letters 40 5)" >"$work/train3"
printf '%s%sA\n%s\n' "$half" "$run63" "$(letters 40 5)" >"$work/valid"
"$corpus" drop "$work/train" "$work/train3" -- "$work/valid" >/dev/null
expect 'lines that meet after a drop' 0 "$corpus" overlap "$work/train" "$work/train3" -- "$work/valid"

for _ in {1..500}; do printf ab; done >"$work/text"
expect 'a text without surprise' 0.0000 "$corpus" entropy "$work/text"
# xx is followed by a, b, c and d equally often, and every other pair by one byte alone.
for _ in {1..250}; do printf 'xxaxxbxxcxxd'; done >"$work/text"
wanted=$(awk 'BEGIN { printf "%.4f", 1000 * log(4) / 2998 }')
expect 'log 4 at every third byte' "$wanted" "$corpus" entropy "$work/text"
"$corpus" entropy /dev/null >/dev/null 2>&1 && { echo 'corpus: no text must fail'; failures=1; }
exit $failures
