#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# A run folder of another identity is refused with the keys that differ; --fork starts a run of its own from it, records
# what differs, and the same command continues that fork.  Damaged checkpoints: the newest valid one is used, and what
# was skipped is told.
set -u
program=${BATON_PROGRAM:?the path of baton}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
wrong() {
    echo "fork: $*" >&2
    failures=$((failures + 1))
}
says() { # says FILE WHY TEXT...: FILE holds each TEXT
    local file=$1 why=$2 text
    for text in "${@:3}"; do grep -qF -- "$text" "$file" || wrong "$why: '$text' is not in: $(tail -n 6 "$file")"; done
}
saved() { ls "$1/checkpoints"; }
steps() { sed 's/{"step": \([0-9]*\),.*/\1/' "$1/metrics.jsonl" | tr '\n' ' '; }

awk 'BEGIN { for (i = 1; i <= 300; i++) print "Line", i, "says that", i * i, "is the square of", i }' >text
"$program" prepare --tokenizer bytes --out text text >/dev/null || wrong "prepare failed"
cat >config.yaml <<'YAML'
model:
  width: 16
  vocab: 256
  pattern: "M-"
  layers:
    M: {kind: mamba2, heads: 2, head_width: 16, state: 8, groups: 1, conv: 4, chunk: 16}
    "-": {kind: mlp, hidden: 32, activation: relu2}
train: {tokens_per_sequence: 64, sequences_per_step: 2, steps: 6, precision: f32}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: constant}
data: {train: [text]}
checkpoint: {every: 2, keep: 3}
run: {dir: run, seed: 1}
YAML
train() { "$program" train config.yaml "$@" >out 2>err; }
train || wrong "the first run failed: $(cat err)"
cp -r run before

train run.seed=2 train.precision=f64 checkpoint.every=3
[ $? = 2 ] || wrong "another identity is no configuration mistake"
says err "another identity" "run.seed: this run has 2, the checkpoint has 1" \
    "train.precision: this run has f64, the checkpoint has f32" "run.dir=" "--fork"
grep -q "checkpoint.every" err && wrong "a free key counts as a difference: $(cat err)"
diff -r -x lock before run || wrong "a refused run changed the folder"

train --fork run.seed=2 train.steps=9 || wrong "the fork failed: $(cat err)"
[ "$(steps run-fork-1)" = "7 8 9 " ] || wrong "steps of the fork: $(steps run-fork-1)"
says run-fork-1/fork.json "the record of a fork" '"from": "'"$work"'/run"' '"step": 6' \
    '"differences": "run.seed: this run has 2, the checkpoint has 1\n"'
diff -r -x lock before run || wrong "a fork changed the run that it came from"
train --fork run.seed=2 train.steps=11 || wrong "the fork does not continue: $(cat err)"
says out "the same command" "continuing from $work/run-fork-1/checkpoints/step-00000009: step 9 of 11"
[ "$(steps run-fork-1)" = "7 8 9 10 11 " ] || wrong "steps of the continued fork: $(steps run-fork-1)"
train --fork run.seed=3 train.steps=7 || wrong "a second fork failed: $(cat err)"
[ "$(steps run-fork-2)" = "7 " ] || wrong "steps of the second fork: $(steps run-fork-2)"
train --fork train.steps=7 || wrong "--fork of the same identity: $(cat err)"
says out "--fork of the same identity continues" "continuing from $work/run/checkpoints/step-00000006"

# Killed before its first checkpoint: as if it had not been.
"$program" train config.yaml --fork run.seed=4 train.steps=100000 checkpoint.every=0 >out 2>err &
process=$!
for _ in $(seq 1 6000); do grep -q '^step' out && break; sleep 0.01; done
kill -KILL $process
wait $process 2>/dev/null
[ -s run-fork-3/metrics.jsonl ] || wrong "the killed fork has no step: $(cat err)"
train --fork run.seed=4 train.steps=9 || wrong "the killed fork does not start again: $(cat err)"
[ "$(steps run-fork-3)" = "8 9 " ] || wrong "steps of the fork that was killed: $(steps run-fork-3)"
[ ! -e run-fork-4 ] || wrong "a killed fork made another one"

# Each damage on a copy of the run with steps 2, 4 and 6: why; command; what is told; step that is used
while IFS=';' read -r why damage told step; do
    rm -rf damaged
    cp -r before damaged
    (cd damaged/checkpoints && eval "$damage" 2>/dev/null)
    train run.dir=damaged || wrong "$why: $(cat err)"
    says err "$why" "$told"
    says out "$why" "continuing from $work/damaged/checkpoints/step-0000000$step: step $step of 6"
    [ "$(steps damaged)" = "1 2 3 4 5 6 " ] || wrong "$why: steps $(steps damaged)"
    cmp before/checkpoints/step-00000006/shard* damaged/checkpoints/step-00000006/shard* || wrong "$why: another end"
done <<'CASES'
the newest shard is cut short;truncate -s -100 step-00000006/shard*;step-00000006;4
the newest manifest is gone;rm step-00000006/manifest.json;step-00000006;4
the newest configuration is gone;rm step-00000006/config.yaml;step-00000006;4
one byte differs in the shard;printf X | dd of="$(ls step-00000006/sh*)" bs=1 seek=5000 conv=notrunc;step-00000006;4
the two newest are empty;rm step-00000004/* step-00000006/*;step-00000004;2
CASES
rm -rf damaged
cp -r before damaged
truncate -s 100 damaged/checkpoints/step-*/shard*
train run.dir=damaged
[ $? = 1 ] || wrong "no valid checkpoint left: exit code 0"
says err "no valid checkpoint left" step-00000002 step-00000004 step-00000006
[ "$(saved damaged)" = "$(saved before)" ] || wrong "damaged checkpoints were removed"
exit $((failures > 0))
