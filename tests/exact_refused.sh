#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu threads
# timeout: 120
# What exact mode refuses: the exit code of a configuration, a text that says what is wrong, and no run folder.
set -u
program=${BATON_PROGRAM:?the path of baton}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
wrong() {
    echo "exact_refused: $*" >&2
    failures=$((failures + 1))
}

awk 'BEGIN { for (i = 1; i <= 100; i++) print "Line", i, "says that", i * i, "is the square of", i }' >text
"$program" prepare --lines --tokenizer bytes --out text text >/dev/null || wrong "prepare failed"
cat >config.yaml <<'YAML'
model:
  width: 16
  vocab: 256
  pattern: "M*-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 4, state: 4, groups: 1, conv: 4, chunk: 8}
    "*": {kind: attention, heads: 4, kv_heads: 4, head_width: 4}
    "-": {kind: mlp, hidden: 16, activation: relu2}
train: {tokens_per_sequence: 40, sequences_per_step: 2, steps: 2, threads: 1}
optimizer: {kind: adamw, lr: 3.0e-3}
data: {train: [text], packing: documents}
numerics: rank_invariant
run: {dir: refused, seed: 1, tensorboard: false}
YAML

# refused TEXT OVERRIDE...
refused() {
    local text=$1 code
    shift
    timeout 60 "$program" train config.yaml "$@" >log 2>&1
    code=$?
    [ $code = 2 ] || wrong "$*: exit code $code, not 2: $(cat log)"
    grep -Eq "$text" log || wrong "$*: does not say '$text': $(cat log)"
    [ "$(grep -c '^baton: ' log)" = 1 ] || wrong "$*: says it $(grep -c '^baton: ' log) times: $(cat log)"
    [ ! -e refused ] || wrong "$*: left a run folder"
    rm -rf refused
}

# Five segments of 8 tokens.
refused 'mesh\.seq 3 is not a power of two' --ranks 3
refused 'mesh\.seq 6 is not a power of two' mesh.seq=6
refused 'mesh\.seq 3 is not a power of two' mesh.seq=3 mesh.data=2
refused 'mesh\.seq 8 is more than the 5 segments of 8 tokens' --ranks 8
refused 'mesh\.seq 2 is more than the 1 segments of 8 tokens' --ranks 2 train.tokens_per_sequence=7
refused 'mesh\.layout contiguous' --ranks 2 mesh.layout=zigzag
refused 'mesh\.carry chain .* choose gather or scan' --ranks 2 mesh.carry=chain
refused 'mesh\.carry chain' mesh.carry=chain
refused 'mesh\.attention keys' --ranks 2 mesh.attention=swap
refused 'train\.micro_batch=1' train.micro_batch=2
refused 'train\.micro_batch=1' train.micro_batch=2 --ranks 2
refused 'mesh\.seq 3 is not a power of two' --ranks 3 --dry-run
refused 'train\.micro_batch=1' train.micro_batch=2 --dry-run

# The same without what is refused runs, with ranks that hold no segment too.
"$program" train config.yaml run.dir=one >log 2>&1 || wrong "one rank: $(cat log)"
"$program" train config.yaml run.dir=four --ranks 4 >log 2>&1 || wrong "four ranks: $(cat log)"
for run in one four; do
    "$program" train config.yaml run.dir=$run train.steps=3 >log 2>&1 || wrong "$run continued on one rank: $(cat log)"
done
cmp one/checkpoints/step-00000003/*.safetensors four/checkpoints/step-00000003/*.safetensors || wrong "they differ"
[ $failures = 0 ]
