#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu long
# timeout: 240
# Kill -9 at ten random times, three of them surely inside a save: the same command then ends as the run that was left
# alone, with the same bits in every loss and in the last checkpoint, each step once.
set -u
program=${BATON_PROGRAM:?the path of baton}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
seed=${BATON_SEED:-$$}
RANDOM=$seed
failures=0
wrong() {
    echo "kill (BATON_SEED=$seed): $*" >&2
    failures=$((failures + 1))
}

awk 'BEGIN { for (i = 1; i <= 600; i++) print "Line", i, "says that", i * i, "is the square of", i }' >text
"$program" prepare --tokenizer bytes --out text text >/dev/null || wrong "prepare failed"
# Most of the weights are rows that no byte reads: a save costs as much as the steps between two.
cat >config.yaml <<'YAML'
model:
  width: 48
  vocab: 8000
  pattern: "M-*-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 16, state: 8, groups: 1, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 4, kv_heads: 2, head_width: 12}
    "-": {kind: mlp, hidden: 96, activation: relu2}
train: {tokens_per_sequence: 64, sequences_per_step: 2, steps: 240, precision: f32, valid_every: 9, valid_sequences: 2}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: cosine, warmup_steps: 5}
data: {train: [text], valid: [text], packing: documents}
checkpoint: {every: 2, keep: 2}
run: {dir: alone, seed: 1}
YAML
begin=$(date +%s%N)
"$program" train config.yaml >alone.log 2>&1 || wrong "the run left alone failed: $(tail -n 3 alone.log)"
alone_ms=$((($(date +%s%N) - begin) / 1000000))

in_a_save() { compgen -G "killed/checkpoints/step-*.tmp-$1-*" >/dev/null; }
steps_told() { grep -s '^step ' one.log | wc -l; }
# Holds the process in the middle of a save.  One that ended its save before it was held goes on to the next.
hold_in_a_save() {
    while kill -0 "$1" 2>/dev/null; do
        until in_a_save "$1" || ! kill -0 "$1" 2>/dev/null; do :; done
        kill -STOP "$1" 2>/dev/null
        in_a_save "$1" && return
        kill -CONT "$1" 2>/dev/null
    done
}
# Kills one process: inside a save, or so many steps and a random moment after its start, counted in steps so that load
# on the machine neither ends a run before its kill nor lets none begin.
kill_one() {
    local when=$1 process
    rm -f one.log
    "$program" train config.yaml run.dir=killed >one.log 2>&1 &
    process=$!
    if [ "$when" = save ]; then hold_in_a_save $process
    else
        until [ "$(steps_told)" -ge "$when" ] || ! kill -0 $process 2>/dev/null; do sleep 0.002; done
        sleep "0.0$((10 + RANDOM % 30))"
    fi
    kill -KILL $process 2>/dev/null && kills=$((kills + 1))
    wait $process 2>/dev/null
    in_a_save $process && inside=$((inside + 1))
    cat one.log >>killed.log
}
kills=0
inside=0
for i in $(seq 1 10); do
    if [ $((i % 3)) = 0 ]; then kill_one save
    else kill_one $((RANDOM % 12)); fi
done
[ $kills = 10 ] || wrong "$kills of 10 processes were still there to be killed"
[ $inside -ge 3 ] || wrong "$inside kills were inside a save, not 3 or more"
reached=$(wc -l <killed/metrics.jsonl)
{ [ "$reached" -ge 6 ] && [ "$reached" -lt 240 ]; } || wrong "$reached of 240 steps in ten starts: this shows little"

"$program" train config.yaml run.dir=killed >>killed.log 2>&1 ||
    wrong "the killed run does not end: $(tail -n 3 killed.log)"
essence() { sed 's/, "tokens_per_s".*"skipped"/, "skipped"/' "$1/metrics.jsonl"; }
essence alone >alone.txt
essence killed >killed.txt
[ "$(wc -l <alone.txt)" = 240 ] || wrong "240 steps, not $(wc -l <alone.txt)"
diff alone.txt killed.txt >difference || wrong "metrics differ: $(head -n 4 difference)"
last=checkpoints/step-00000240/shard-00000-of-00001.safetensors
cmp alone/$last killed/$last || wrong "the last checkpoints differ"
compgen -G 'killed/checkpoints/step-*.*' >/dev/null && wrong "left over: $(ls killed/checkpoints)"
echo "10 kills, $inside inside a save; $reached steps before the last start; ${alone_ms} ms undisturbed"
[ $failures = 0 ]
