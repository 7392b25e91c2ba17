#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu threads
# timeout: 120
# Training from text to checkpoint on one thread and on three: the same losses and the same weights, bit for bit.  Under
# the thread sanitizer this is also where the pool meets every op.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "train_threads: $*"; exit 1; }

awk 'BEGIN {
    srand(7)
    n = split("the a tide moon stone river carries turns under over slowly again .", word, " ")
    while (k++ < 4000) printf "%s ", word[1 + int(n * rand())]
}' >"$work/text"
"$BATON_PROGRAM" prepare --tokenizer bytes --out "$work/tokens" "$work/text" >"$work/log" ||
    fail "prepare: $(cat "$work/log")"
cat >"$work/config.yaml" <<END
model:
  width: 32
  vocab: 256
  pattern: "M-*-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 16, state: 8, groups: 2, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 4, kv_heads: 2, head_width: 8}
    "-": {kind: mlp, hidden: 64, activation: swiglu}
train: {tokens_per_sequence: 80, sequences_per_step: 4, steps: 6, precision: f32}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: cosine, warmup_steps: 2}
data: {train: [tokens], valid: [tokens]}
checkpoint: {every: 6, keep: 1}
run: {dir: unset, seed: 3}
END
for n in 1 3; do
    "$BATON_PROGRAM" train "$work/config.yaml" train.threads=$n run.dir="$work/run$n" --device cpu >"$work/log" 2>&1 ||
        fail "on $n threads: $(tail -20 "$work/log")"
    grep -o '"step": [0-9]*, "loss": [^,]*, "grad_norm": [^,]*' "$work/run$n/metrics.jsonl" >"$work/losses$n"
done
[ "$(wc -l <"$work/losses1")" -eq 6 ] || fail "six steps wanted: $(cat "$work/losses1")"
cmp -s "$work/losses1" "$work/losses3" || fail "losses differ: $(diff "$work/losses1" "$work/losses3")"
n_shards=0
for shard in "$work"/run1/checkpoints/step-*/*.safetensors; do
    n_shards=$((n_shards + 1))
    cmp "$shard" "${shard/run1/run3}" || fail "the weights differ: $shard"
done
[ $n_shards -gt 0 ] || fail 'no shard was saved'
