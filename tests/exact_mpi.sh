#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu mpi
# timeout: 240
# Exact mode over thread ranks and over processes, 1 to 8: the same losses, gradients of the first step and checkpoint,
# byte for byte, on every form of mesh.shard, whoever began the run and whatever killed it on the way.
set -u
command -v mpirun >/dev/null || { echo "skipped: no mpirun"; exit 77; }
program=${BATON_PROGRAM:?the path of baton}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 # what MPI itself leaks is not ours to report
failures=0
wrong() {
    echo "exact_mpi: $*" >&2
    failures=$((failures + 1))
}

awk 'BEGIN { for (i = 1; i <= 300; i++) print "Line", i, "says that", i * i, "is the square of", i }' >text
"$program" prepare --lines --tokenizer bytes --out text text >/dev/null || wrong "prepare failed"
cat >config.yaml <<'YAML'
model:
  width: 24
  vocab: 256
  tied: true
  pattern: "M-*-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 8, state: 8, groups: 1, conv: 4, chunk: 4}
    "*": {kind: attention, heads: 4, kv_heads: 2, head_width: 6, rope: 1, window: 20}
    "-": {kind: mlp, hidden: 48, activation: relu2}
train: {tokens_per_sequence: 150, sequences_per_step: 2, steps: 24, precision: f32, valid_every: 8, valid_sequences: 2,
        threads: 1}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: constant, warmup_steps: 2}
data: {train: [text], valid: [text], packing: documents}
checkpoint: {every: 4, keep: 2}
mesh: {deadline: 30}
numerics: rank_invariant
run: {dir: unset, seed: 1, tensorboard: false}
YAML
over() { timeout 90 mpirun --oversubscribe -n "$@"; } # RANKS PROGRAM ...
essence() { sed 's/, "tokens_per_s".*"skipped"/, "skipped"/' "$1/metrics.jsonl"; }

ranks_of() { cat /proc/"$1"/task/*/children; }

# one_more FOLDER STEP: that step on one rank, so that whoever saved before, one file holds the state
one_more() { "$program" train config.yaml run.dir="$1" train.steps="$2" >one_more.log 2>&1; }
last_of() { printf '%s/checkpoints/step-%08d/shard-00000-of-00001.safetensors' "$1" "$2"; }

# same FOLDER WHAT: against the run of one rank
same() {
    essence "$1" >essence.txt 2>/dev/null
    diff alone.txt essence.txt >difference || wrong "$2: metrics differ: $(head -n 4 difference)"
    one_more "$1" 25 || wrong "$2: one rank does not continue: $(tail -n 3 one_more.log)"
    cmp "$(last_of alone 25)" "$(last_of "$1" 25)" || wrong "$2: the last checkpoints differ"
}

"$program" train config.yaml run.dir=alone >log 2>&1 || wrong "one rank: $(tail -n 3 log)"
essence alone >alone.txt
[ "$(wc -l <alone.txt)" = 24 ] || wrong "24 steps, not $(wc -l <alone.txt)"
one_more alone 25 || wrong "one rank, step 25: $(tail -n 3 one_more.log)"
"$program" train config.yaml run.dir=threads --ranks 4 >log 2>&1 || wrong "four threads: $(tail -n 3 log)"
same threads "four threads"
stages=([1]=none [2]=gradients [4]=parameters [8]=optimizer)
for n in 1 2 4 8; do
    over $n "$program" train config.yaml run.dir=mpi$n mesh.carry=scan mesh.shard="${stages[n]}" >log 2>&1 ||
        wrong "mpirun -n $n: $(tail -n 9 log)"
    if grep -q 'has no MPI' log; then
        echo "skipped: this build has no MPI"
        exit 77
    fi
    same mpi$n "mpirun -n $n"
    [ "$(grep -c 'parameters: ' log)" = 1 ] ||
        wrong "mpirun -n $n: the plan is printed by $(grep -c 'parameters: ' log)"
done

# The first moments of AdamW without memory or clipping are the gradients; unsharded, one rank writes them all.
first_step() { # FOLDER COMMAND...: prints their hash
    "${@:2}" run.dir="$1" train.steps=1 optimizer.warmup_steps=0 optimizer.beta1=0 \
        optimizer.clip_norm=0 mesh.shard=none >log 2>&1 || wrong "$1: $(tail -n 9 log)"
    sha256sum <"$(last_of "$1" 1)"
}
gradients=$(first_step first1 "$program" train config.yaml)
"$program" inspect first1 >log && grep -q 'adamw\.m/' log || wrong "no moments are saved: $(head -n 5 log)"
for n in 2 4 8; do
    [ "$(first_step first$n "$program" train config.yaml --ranks $n)" = "$gradients" ] ||
        wrong "gradients over $n threads differ"
done
for n in 1 2 4 8; do
    [ "$(first_step first_mpi$n over $n "$program" train config.yaml)" = "$gradients" ] ||
        wrong "gradients over $n processes differ"
done

# A run that thread ranks began goes on under mpirun, and the other way round.
"$program" train config.yaml run.dir=mixed train.steps=8 --ranks 2 >log 2>&1 || wrong "to step 8: $(tail -n 3 log)"
over 4 "$program" train config.yaml run.dir=mixed train.steps=16 >log 2>&1 || wrong "to step 16: $(tail -n 9 log)"
grep -q 'continuing from .*step 8 of 16' log || wrong "mpirun did not continue: $(tail -n 30 log)"
"$program" train config.yaml run.dir=mixed --ranks 8 >log 2>&1 || wrong "to step 24: $(tail -n 3 log)"
grep -q 'continuing from .*step 16 of 24' log || wrong "threads did not continue: $(tail -n 30 log)"
same mixed "threads, mpirun, threads"

# until_saved FOLDER PROCESS: a checkpoint stands, or the process has ended
until_saved() { until compgen -G "$1/checkpoints/step-????????" >/dev/null || ! kill -0 "$2" 2>/dev/null; do :; done; }
# kill_early KILL FOLDER COMMAND...: sets code; a run that ended before this shell came to kill it shows nothing: again
kill_early() {
    local process try
    for try in 1 2 3 4 5; do
        rm -rf "$2"
        "${@:3}" run.dir="$2" >log 2>&1 &
        process=$!
        until_saved "$2" $process
        $1 $process
        wait $process 2>/dev/null
        code=$?
        [ "$(wc -l <"$2/metrics.jsonl")" -ge 24 ] || return
    done
    wrong "$2: $try runs ended before they were killed: this shows nothing"
}
kill_process() { kill -KILL "$1"; }
# shellcheck disable=SC2046 # the ranks are words
kill_ranks() { kill -KILL $(ranks_of "$1"); }
kill_last_rank() {
    read -ra ranks <<<"$(ranks_of "$1")"
    kill -KILL "${ranks[-1]}"
    begun=$SECONDS
}

kill_early kill_process killed "$program" train config.yaml --ranks 4
"$program" train config.yaml run.dir=killed --ranks 4 >log 2>&1 || wrong "after a kill: $(tail -n 3 log)"
same killed "thread ranks killed"

kill_early kill_ranks killed_mpi mpirun --oversubscribe -n 4 "$program" train config.yaml
[ "$code" != 0 ] || wrong "mpirun: exit code 0 though its ranks were killed"
over 4 "$program" train config.yaml run.dir=killed_mpi >log 2>&1 || wrong "after a kill: $(tail -n 9 log)"
grep -q 'continuing from' log || wrong "processes did not continue: $(tail -n 30 log)"
same killed_mpi "processes killed"

# One process of four dies: the others are gone soon, and a line names it; the same command continues.
kill_early kill_last_rank one_lost mpirun --oversubscribe -n 4 "$program" train config.yaml
[ "$code" != 0 ] || wrong "mpirun: exit code 0 though a rank was killed"
[ $((SECONDS - begun)) -le 40 ] || wrong "the others lived on for $((SECONDS - begun)) s"
state_of() { awk '/^State/ { print $2 }' "/proc/$1/status" 2>/dev/null; }
for process in "${ranks[@]}"; do # who is dead and not yet waited for is a zombie; one in the kernel takes a moment
    for _ in $(seq 1 100); do
        case $(state_of "$process") in '' | Z) break ;; *) sleep 0.1 ;; esac
    done
    state=$(state_of "$process")
    case $state in '' | Z) ;; *) wrong "process $process lives on ($state)" ;; esac
done
grep -q 'rank 3' log || wrong "nobody names the lost rank: $(tail -n 20 log)"
over 4 "$program" train config.yaml run.dir=one_lost >log 2>&1 || wrong "after a loss: $(tail -n 9 log)"
same one_lost "one process lost"

# Signals: the ranks save the step that they have all finished.  USR1 comes by way of mpirun, which passes it on; TERM
# goes to the ranks, as srun sends it: mpirun would kill them a second later, saved or not.
for signal in USR1 TERM; do
    run=stopped_$signal
    mpirun --oversubscribe -n 4 "$program" train config.yaml run.dir=$run train.steps=20000 >log 2>&1 &
    until_saved $run $!
    # shellcheck disable=SC2046 # the ranks are words
    if [ $signal = USR1 ]; then kill -USR1 $!; else kill -TERM $(ranks_of $!); fi
    wait $!
    code=$?
    [ $code = 3 ] || wrong "$signal: exit code $code, not 3: $(tail -n 9 log)"
    steps=$(sed -n 's/.*stopped by a signal; step \([0-9]*\) is saved.*/\1/p' log)
    [ -n "$steps" ] || wrong "$signal: no step is saved: $(tail -n 9 log)"
    "$program" train config.yaml run.dir=to_$signal train.steps="$steps" >log 2>&1 ||
        wrong "to $steps: $(tail -n 3 log)"
    for folder in $run to_$signal; do
        one_more "$folder" $((steps + 1)) || wrong "$folder: one rank does not continue: $(tail -n 3 one_more.log)"
    done
    cmp "$(last_of $run $((steps + 1)))" "$(last_of to_$signal $((steps + 1)))" || wrong "$signal: step $steps differs"
done
[ $failures = 0 ]
