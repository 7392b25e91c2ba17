#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu long
# timeout: 240
# Twenty signals, TERM, INT and USR1, at random times, at start-up, during validation and during a save: each ends the
# process with exit code 3 and a committed checkpoint of the last finished step, or leaves nothing where no step had
# finished; the run that was stopped so often then ends with the losses of one left alone.
set -u
program=${BATON_PROGRAM:?the path of baton}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
seed=${BATON_SEED:-$$}
RANDOM=$seed
failures=0
wrong() {
    echo "signals_run (BATON_SEED=$seed): $*" >&2
    failures=$((failures + 1))
}

awk 'BEGIN { for (i = 1; i <= 600; i++) print "Line", i, "says that", i * i, "is the square of", i }' >text
for _ in 1 2 3 4 5 6 7 8 9 10; do cat text; done >long
for name in text long; do
    "$program" prepare --tokenizer bytes --out $name $name >/dev/null || wrong "prepare failed"
done
cat >config.yaml <<'YAML'
model:
  width: 48
  vocab: 8000
  pattern: "M-*-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 16, state: 8, groups: 1, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 4, kv_heads: 2, head_width: 12}
    "-": {kind: mlp, hidden: 96, activation: relu2}
train: {tokens_per_sequence: 64, sequences_per_step: 2, steps: 120, precision: f32, valid_every: 2, valid_sequences: 12}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: wsd, warmup_steps: 5, decay_steps: 20}
data: {train: [text], valid: [text], packing: documents}
checkpoint: {every: 3, keep: 2}
run: {dir: alone, seed: 1}
YAML
begin=$(date +%s%N)
"$program" train config.yaml >alone.log 2>&1 || wrong "the run left alone failed: $(tail -n 3 alone.log)"
alone_ms=$((($(date +%s%N) - begin) / 1000000))

in_a_save() { compgen -G "$1/checkpoints/step-*.tmp-$2-*" >/dev/null; }
newest_line() { tail -n 1 "$1/metrics.jsonl" 2>/dev/null; }
step_of() { sed 's/{"step": \([0-9]*\),.*/\1/' <<<"$1"; }

# The handlers stand once the memory plan is printed; a signal before that ends the process as any other.
starting=0
in_validation=0
in_saving=0
steps_told() { grep -s '^step ' "$1" | wc -l; }
cpu_ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat" 2>/dev/null || echo 1000000000; } # of 10 ms
# Holds the process in the middle of a save.  One that ended its save before it was held goes on to the next.
hold_in_a_save() {
    while kill -0 "$2" 2>/dev/null; do
        until in_a_save "$1" "$2" || ! kill -0 "$2" 2>/dev/null; do :; done
        kill -STOP "$2" 2>/dev/null
        in_a_save "$1" "$2" && return
        kill -CONT "$2" 2>/dev/null
    done
}
# send SIGNAL DIR WHEN [KEY=VALUE ...]: "Nms": after so long; "N": after so many steps and a random moment; "save":
# inside one; "valid": a quarter of a second of computing after the first step is told, which is in a long validation.
send() {
    local signal=$1 dir=$2 when=$3 process code line last log=log.$1.$2.$3
    rm -f "$log"
    "$program" train config.yaml run.dir="$dir" "${@:4}" >"$log" 2>&1 &
    process=$!
    case $when in
    save) hold_in_a_save "$dir" $process ;;
    *ms) sleep "$(printf '0.%03d' "${when%ms}")" ;;
    valid)
        until [ "$(steps_told "$log")" -ge 1 ] || ! kill -0 $process 2>/dev/null; do sleep 0.01; done
        last=$(($(cpu_ticks $process) + 25))
        until [ "$(cpu_ticks $process)" -ge $last ]; do sleep 0.01; done
        ;;
    *)
        until [ "$(steps_told "$log")" -ge "$when" ] || ! kill -0 $process 2>/dev/null; do sleep 0.002; done
        sleep "0.0$((10 + RANDOM % 30))"
        ;;
    esac
    # A shell starts what runs behind it with INT ignored, so one before the handlers would be lost.
    while [ "$signal" = INT ] && [ ! -s "$log" ] && kill -0 $process 2>/dev/null; do sleep 0.005; done
    in_a_save "$dir" $process && in_saving=$((in_saving + 1))
    kill -"$signal" $process 2>/dev/null || wrong "$signal at $when: the run had ended"
    kill -CONT $process 2>/dev/null
    wait $process 2>/dev/null
    code=$?
    line=$(newest_line "$dir")
    if [ $code != 3 ]; then
        starting=$((starting + 1))
        [ $code -gt 128 ] && [ ! -s "$log" ] || wrong "$signal at $when: exit code $code: $(tail -n 3 "$log")"
    fi
    if [ -z "$line" ]; then
        [ -z "$(ls "$dir/checkpoints" 2>/dev/null)" ] || wrong "$signal at $when: no step and a checkpoint"
        return
    fi
    last=$(step_of "$line")
    [ $((last % 2)) = 0 ] && [[ $line != *valid_loss* ]] && in_validation=$((in_validation + 1))
    "$program" inspect "$dir/checkpoints/step-$(printf %08d "$last")" >inspected 2>&1 ||
        wrong "$signal at $when: step $last: $(cat inspected)"
    compgen -G "$dir/checkpoints/*.*" >/dev/null && wrong "$signal at $when: left over: $(ls "$dir/checkpoints")"
}

signals=(TERM INT USR1)
for i in 0 1 2 3; do send ${signals[i % 3]} "start$i" "$((RANDOM % 30))ms"; done
for i in 0 1 2; do send ${signals[i]} stopped save; done
for i in 0 1 2; do send ${signals[i]} "valid$i" valid data.valid=long train.valid_sequences=4000; done
[ $in_validation -ge 3 ] || wrong "$in_validation signals came during a validation, not 3 or more"
for i in $(seq 0 9); do send ${signals[i % 3]} stopped $((RANDOM % 6)); done
[ $in_saving -ge 3 ] || wrong "$in_saving signals came during a save, not 3 or more"
reached=$(wc -l <stopped/metrics.jsonl)

"$program" train config.yaml run.dir=stopped >ended.log 2>&1 || wrong "the stopped run does not end"
essence() { sed 's/, "tokens_per_s".*"skipped"/, "skipped"/; s/, "valid_loss".*/}/' "$1/metrics.jsonl"; }
essence alone >alone.txt
essence stopped >stopped.txt
[ "$(wc -l <alone.txt)" = 120 ] || wrong "120 steps, not $(wc -l <alone.txt)"
diff alone.txt stopped.txt >difference || wrong "metrics differ: $(head -n 4 difference)"
last=checkpoints/step-00000120/shard-00000-of-00001.safetensors
cmp alone/$last stopped/$last || wrong "the last checkpoints differ"
echo "20 signals: $starting before the handlers, $in_saving in a save, $in_validation in a validation; $reached steps" \
    "before the last start; ${alone_ms} ms undisturbed"
[ $failures = 0 ]
