#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
# No room to save: training goes on, says so, and keeps the checkpoint it had; where not even metrics.jsonl can grow,
# its lines come when there is room.  Once as a limit on the size of files, once on a full file system if one can be
# mounted.
set -u
program=${BATON_PROGRAM:?the path of baton}
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1-}" = in-mounts ]; then work=$2; else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
cd "$work" || exit 1
failures=0
wrong() {
    echo "full_disk: $*" >&2
    failures=$((failures + 1))
}
says() { # says FILE WHY TEXT...: FILE holds each TEXT
    local file=$1 why=$2 text
    for text in "${@:3}"; do grep -qF -- "$text" "$file" || wrong "$why: '$text' is not in: $(tail -n 6 "$file")"; done
}
essence() { sed 's/, "tokens_per_s".*"skipped"/, "skipped"/' "$1/metrics.jsonl"; }
same() { cmp <(essence alone) <(essence "$1") || wrong "$1: metrics differ from those of a run with room"; }

train() { "$program" train config.yaml "$@" >out 2>err; }

# A shard has 1.7 MB; files may have 500 kB.
limited_files() {
    train run.dir=limited train.steps=4 || wrong "the first four steps failed: $(cat err)"
    (trap '' XFSZ; ulimit -f 500; train run.dir=limited)
    [ $? = 1 ] || wrong "the last step could not be saved, and the exit code is not 1"
    says err "files are limited" "warning: step 8 was not saved" "training goes on" "cannot write" step-00000012
    says out "files are limited" "step 12/12"
    [ "$(ls limited/checkpoints)" = step-00000004 ] || wrong "files are limited: $(ls limited/checkpoints)"
    train run.dir=limited || wrong "the same command with room failed: $(cat err)"
    says out "the same command with room" "continuing from $work/limited/checkpoints/step-00000004: step 4 of 12"
    same limited
}

# Several ranks: whichever is heard first, the cause is told.
limited_ranks() {
    (trap '' XFSZ; ulimit -f 500; train run.dir=ranks --ranks 2 checkpoint.every=8)
    [ $? = 1 ] || wrong "two ranks could not save the last step, and the exit code is not 1"
    says err "two ranks" "warning: step 8 was not saved" "step-00000012" "File too large"
    says out "two ranks" "step 12/12"
}

# A file system of 2.5 MB: one checkpoint and a half.
half_a_room() {
    mount -t tmpfs -o size=2500k none room || { wrong "cannot mount"; return; }
    train run.dir=room/half checkpoint.keep=1
    [ $? = 1 ] || wrong "no room for a second checkpoint, and the exit code is not 1"
    says err "no room for a second checkpoint" "warning: step 8 was not saved" "bytes and" "are free" "training goes on"
    [ "$(ls room/half/checkpoints)" = step-00000004 ] || wrong "half: $(ls room/half/checkpoints)"
    umount room
}

# within SECONDS CONDITION: false if it does not come true in that time.
within() {
    local end=$((SECONDS + $1))
    until eval "$2"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.01
    done
}

# Takes what is free now: a checkpoint on its way gives back its room when it fails, so this is done over and over.
fill() { cat /dev/zero >>room/fill 2>/dev/null; }

# A file system of 20 MB, filled to the last byte during a run; then the file that fills it goes.
full_room() {
    mount -t tmpfs -o size=20m none room || { wrong "cannot mount"; return; }
    train run.dir=room/full checkpoint.keep=1 train.steps=4 || wrong "full: the first steps failed: $(cat err)"
    "$program" train config.yaml run.dir=room/full checkpoint.keep=1 checkpoint.every=5 train.steps=100000 \
        train.threads=1 >out 2>err &
    local process=$!
    within 60 'grep -q "^step 5/" out' || wrong "no step 5: $(tail -n 3 err)"
    within 60 'fill; grep -q "not saved" err && grep -q "held in memory" err'
    says err "a full disk" "was not saved" "metrics.jsonl: No space left on device" "held in memory"
    kill -0 $process || wrong "a full disk ended the run: $(tail -n 3 err)"
    [ "$(ls -d room/full/checkpoints/step-????????)" ] || wrong "the old checkpoint is gone"
    rm room/fill
    sleep 0.2
    kill -TERM $process
    wait $process
    [ $? = 3 ] || wrong "room again, and a signal: exit code not 3: $(tail -n 3 err)"
    awk -F'[ ,]' '$2 != NR { exit 1 }' room/full/metrics.jsonl || wrong "steps are missing after a full disk"
    last=$(wc -l <room/full/metrics.jsonl)
    [ -d "room/full/checkpoints/step-$(printf %08d "$last")" ] || wrong "step $last is not saved"
    umount room
}

if [ "${1-}" = in-mounts ]; then
    half_a_room
    full_room
    exit $((failures > 0))
fi
awk 'BEGIN { for (i = 1; i <= 600; i++) print "Line", i, "says that", i * i, "is the square of", i }' >text
"$program" prepare --tokenizer bytes --out text text >/dev/null || wrong "prepare failed"
cat >config.yaml <<'YAML'
model:
  width: 32
  vocab: 2000
  pattern: "M-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 16, state: 8, groups: 1, conv: 4, chunk: 16}
    "-": {kind: mlp, hidden: 64, activation: relu2}
train: {tokens_per_sequence: 64, sequences_per_step: 2, steps: 12, precision: f32}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: constant}
data: {train: [text]}
checkpoint: {every: 4, keep: 2}
run: {dir: alone, seed: 1}
YAML
mkdir room
train || wrong "the run with room failed: $(cat err)"
limited_files
limited_ranks
if unshare -rm mount -t tmpfs none room 2>/dev/null; then
    unshare -rm bash "$here/$(basename "$0")" in-mounts "$work" || failures=1
else
    echo "full_disk: no file system can be mounted here: the limit on files alone was tested"
fi
exit $((failures > 0))
