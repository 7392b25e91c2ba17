#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 60
# Data that cannot be trained on, through the program: exit code 1, a text that names file and cause, no run folder
# left; and data that are only small, which train.
set -u
program=${BATON_PROGRAM:?the path of baton}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
wrong() {
    echo "bad_data: $*" >&2
    failures=$((failures + 1))
}
cat >config.yaml <<'YAML'
model:
  width: 16
  vocab: 256
  pattern: "M*"
  layers:
    M: {kind: mamba2, heads: 2, head_width: 16, state: 8, groups: 1, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 2, kv_heads: 1, head_width: 8}
train: {tokens_per_sequence: 64, sequences_per_step: 2, steps: 4, precision: f32, valid_every: 2, valid_sequences: 4}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: constant}
data: {train: [good], valid: [good]}
checkpoint: {every: 2, keep: 2}
run: {dir: runs/deep/run, seed: 1}
YAML
for _ in $(seq 1 60); do printf 'A line of some text, and one more.\n'; done >good
prepare() { "$program" prepare --tokenizer bytes --out "$@" >out 2>err; }
prepare good good || wrong "prepare failed: $(cat err)"

: >empty
prepare none empty && wrong "an empty text was prepared"
grep -q 'empty: no text at all' err || wrong "an empty text: $(cat err)"
[ ! -e none.bin ] && [ ! -e none.idx ] || wrong "an empty text left token files"

# An index of no entry: magic, version 1, u8 tokens, S = 0, one document start that is 0.
printf 'MMIDIDX\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' >void.idx
: >void.bin
for name in long short later cut torn other; do cp good.bin $name.bin && cp good.idx $name.idx; done
printf x >>long.bin
truncate -s -1 short.bin
printf '\377' | dd of=later.bin bs=1 seek=1500 conv=notrunc 2>/dev/null
truncate -s 20 cut.idx
truncate -s -3 torn.idx
printf 'NOTANIDX' | dd of=other.idx bs=1 conv=notrunc 2>/dev/null
rm -f alone.bin && cp good.idx alone.idx

# why | exit code | arguments | what the message names
while IFS='|' read -r why code arguments names; do
    # shellcheck disable=SC2086
    "$program" train config.yaml $arguments >out 2>err
    got=$?
    [ $got = "$code" ] || wrong "$why: exit code $got, not $code: $(tail -n 3 err)"
    grep -qE -- "$names" err || wrong "$why: '$names' is not in: $(cat err)"
    [ ! -e runs ] || { wrong "$why: a run folder is left: $(find runs)"; rm -r runs; }
done <<'CASES'
no token at all|1|data.train=void|void: no token at all
.bin has a byte more|1|data.train=long|long\.idx: .* 4200 of .bin, which has 4201 bytes
.bin is cut off|1|data.train=short|short\.bin has [0-9]+ bytes: the two files are not a pair
.idx is cut off in its head|1|data.train=cut|cut\.idx: 20 bytes
.idx is cut off in its lists|1|data.train=torn|torn\.idx
.idx is something else|1|data.train=other|other\.idx
.bin is missing|1|data.train=alone|alone\.bin
both are missing|1|data.train=nowhere|nowhere\.idx does not exist
a token outside the vocabulary|1|model.vocab=100|good\.bin: document 0 has the token 1.* outside the vocabulary of 100
validation data that are cut off|1|data.valid=short|short\.bin
no data at all|2|data.train=|data\.train
CASES

# The one bad token comes up in the middle of a run: it ends there, and keeps what it had saved.
"$program" train config.yaml data.train=later model.vocab=255 train.steps=100 checkpoint.every=1 data.valid=good \
    run.dir=later_run >out 2>err
[ $? = 1 ] || wrong "a bad token in the middle: exit code not 1"
grep -q 'later.bin: document 0 has the token 255 at position 750' err || wrong "a bad token in the middle: $(cat err)"
done_steps=$(wc -l <later_run/metrics.jsonl 2>/dev/null || echo 0)
[ "$done_steps" -ge 1 ] || wrong "the bad token came first: this shows nothing"
[ -d "later_run/checkpoints/step-$(printf %08d "$done_steps")" ] || wrong "step $done_steps is not saved"

# A text shorter than one sequence, a text of one byte, bytes that are no UTF-8: these train.
printf 'short' >five
printf 'x' >one
head -c 300 /dev/urandom >noise
for text in five one noise; do
    prepare $text $text || wrong "$text was not prepared: $(cat err)"
    "$program" train config.yaml data.train=$text run.dir=run_$text >out 2>err ||
        wrong "$text does not train: $(cat err)"
    [ "$(wc -l <run_$text/metrics.jsonl)" = 4 ] || wrong "$text: four steps wanted"
    grep -q '"loss": null' run_$text/metrics.jsonl && wrong "$text: a loss is not a number"
done
grep -q '"loss": 0.0, "grad_norm": 0.0,' run_one/metrics.jsonl ||
    wrong "one byte has no target: $(head -n 1 run_one/metrics.jsonl)"
# Without any of the three standard streams, what would be printed goes into no file.
"$program" train config.yaml run.dir=mute <&- >&- 2>&- || wrong "a run without streams: exit code not 0"
grep -qv '^{"step": ' mute/metrics.jsonl && wrong "a run without streams: $(grep -v '^{"step": ' mute/metrics.jsonl)"
[ "$(wc -l <mute/metrics.jsonl)" = 4 ] || wrong "a run without streams: four steps wanted"
grep -rlE 'stack:|step 4/4' mute && wrong "a run without streams: the log is in these files"
exit $((failures > 0))
