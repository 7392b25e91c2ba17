# SPDX-License-Identifier: Apache-2.0
# timeout: 180
# A run that is killed, stopped and continued ends as the one that was left alone: each step once in metrics.jsonl, and
# every loss and gradient norm with the same bits.  Validations too, but for one that a signal cut short: the step is
# saved and reported without it.
set -u
program=${BATON_PROGRAM:?the path of baton}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0
wrong() {
    echo "train_stop: $*" >&2
    failures=$((failures + 1))
}

for i in $(seq 1 600); do
    echo "Line $i says that $((i * i)) is the square of $i, and $((i * 7919 % 1009)) is not."
done >text
"$program" prepare --tokenizer bytes --out text text >/dev/null || wrong "prepare failed"
cat >config.yaml <<'YAML'
model:
  width: 48
  vocab: 256
  pattern: "M-*-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 16, state: 8, groups: 1, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 4, kv_heads: 2, head_width: 12}
    "-": {kind: mlp, hidden: 96, activation: relu2}
train: {tokens_per_sequence: 128, sequences_per_step: 4, steps: 150, precision: f32, valid_every: 7, valid_sequences: 4}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: cosine, warmup_steps: 5}
data: {train: [text], valid: [text], packing: documents}
checkpoint: {every: 9, keep: 2}
run: {dir: alone, seed: 1}
YAML

# What must not depend on how often a run was stopped.
essence() { sed 's/, "tokens_per_s".*"skipped"/, "skipped"/' "$1/metrics.jsonl"; }
compare() {
    diff "$1" "$2" >difference || wrong "$3: metrics differ: $(head -n 4 difference)"
}
"$program" train config.yaml >alone.log 2>&1 || wrong "the run left alone failed: $(tail -n 3 alone.log)"
essence alone >alone.txt
[ "$(wc -l <alone.txt)" = 150 ] || wrong "150 steps, not $(wc -l <alone.txt)"
[ "$(grep -c '"valid_loss"' alone.txt)" = 22 ] || wrong "validations at 7, 14, ... 147 and 150"

# Killed after 10, 20, 30 ms and so on, until it gets to the end before the kill.
kills=0
for i in $(seq 1 60); do
    "$program" train config.yaml run.dir=killed >>killed.log 2>&1 &
    sleep "$(printf 0.%03d $((10 * i)))"
    kill -KILL $! 2>/dev/null && kills=$((kills + 1))
    wait $! 2>/dev/null && break
done
"$program" train config.yaml run.dir=killed >>killed.log 2>&1 ||
    wrong "the killed run does not end: $(tail -n 3 killed.log)"
[ $kills -ge 3 ] || wrong "killed only $kills times: this shows little"
essence killed >killed.txt
compare alone.txt killed.txt killed

# Starts a run in the background, as $process, and waits until $1 shows its first step.
start() {
    local log=$1
    shift
    "$program" train config.yaml "$@" >"$log" 2>&1 &
    process=$!
    for i in $(seq 1 6000); do
        grep -q '^step' "$log" 2>/dev/null && return
        sleep 0.01
    done
}

# Stopped by each signal as soon as there is a step: exit code 3, saved at the last finished step.
for signal in TERM INT USR1; do
    start "stopped.$signal" run.dir=stopped
    kill -"$signal" $process
    wait $process
    code=$?
    [ $code = 3 ] || wrong "$signal: exit code $code, not 3: $(tail -n 3 "stopped.$signal")"
    last=$(tail -n 1 stopped/metrics.jsonl | sed 's/{"step": \([0-9]*\),.*/\1/')
    [ -d "stopped/checkpoints/step-$(printf %08d "$last")" ] || wrong "$signal: step $last is not saved"
done
"$program" train config.yaml run.dir=stopped >stopped.log 2>&1 || wrong "the stopped run does not end"
without_validation() { sed 's/, "valid_loss".*/}/' "$1"; }
essence stopped >stopped.txt
[ "$(grep -c '"valid_loss"' stopped.txt)" -ge 19 ] || wrong "three stops cost more than three validations"
compare <(without_validation alone.txt) <(without_validation stopped.txt) stopped

# A second process at one folder is refused and names the first; a wrong configuration leaves nothing behind.
start held.log run.dir=held train.steps=100000
"$program" train config.yaml run.dir=held >second.log 2>&1
[ $? = 1 ] && grep -q "process $process on" second.log || wrong "a second process: $(cat second.log)"
kill -KILL $process
wait $process 2>/dev/null
"$program" train config.yaml run.dir=not/made model.width=0 >mistake.log 2>&1
[ $? = 2 ] || wrong "a wrong configuration: $(cat mistake.log)"
"$program" train config.yaml run.dir=not/made data.train=nowhere >mistake.log 2>&1 && wrong "trained on no data"
[ ! -e not ] || wrong "a wrong configuration left a folder"
[ $failures = 0 ]
