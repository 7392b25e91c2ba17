#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu threads
# timeout: 120
# Training from text to checkpoint with every policy of train.keep, and with activations that wait in the host's memory:
# the same losses and the same weights, bit for bit, on one rank and on two, and a ledger that shrinks.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "policies_train: $*"; exit 1; }

awk 'BEGIN {
    srand(9)
    n = split("the a tide moon stone river carries turns under over slowly again .", word, " ")
    while (k++ < 4000) printf "%s ", word[1 + int(n * rand())]
}' >"$work/text"
"$BATON_PROGRAM" prepare --tokenizer bytes --out "$work/tokens" "$work/text" >"$work/log" ||
    fail "prepare: $(cat "$work/log")"
cat >"$work/config.yaml" <<END
model:
  width: 32
  vocab: 256
  pattern: "M-*-M-M-*-M-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 16, state: 8, groups: 2, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 4, kv_heads: 2, head_width: 8, rope: 1}
    "-": {kind: mlp, hidden: 64, activation: swiglu}
train: {tokens_per_sequence: 80, sequences_per_step: 4, micro_batch: 2, steps: 4, precision: f32}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: cosine, warmup_steps: 2}
data: {train: [tokens], valid: [tokens]}
checkpoint: {every: 4, keep: 1}
run: {dir: unset, seed: 3}
END

# compare NAME FIRST: the run's losses and shards are those of the run FIRST.
compare() {
    [ "$(wc -l <"$work/$1.losses")" -eq 4 ] || fail "$1: four steps wanted: $(cat "$work/$1.losses")"
    cmp -s "$work/$1.losses" "$work/$2.losses" || fail "$1: $(diff "$work/$2.losses" "$work/$1.losses")"
    local n_shards=0 shard
    for shard in "$work/$2"/checkpoints/step-*/*.safetensors; do
        n_shards=$((n_shards + 1))
        cmp "$shard" "${shard/$2/$1}" || fail "$1: other weights than $2: $shard"
    done
    [ $n_shards -gt 0 ] || fail 'no shard was saved'
}

for ranks in 1 2; do
    for keep in all gemm inputs inputs.3 away; do
        name=ranks$ranks.$keep
        every=1 away=0
        [ "$keep" = inputs.3 ] && every=3
        [ "$keep" = away ] && { keep=inputs; away=0.7; }
        "$BATON_PROGRAM" train "$work/config.yaml" --ranks $ranks --device cpu train.threads=1 run.dir="$work/$name" \
            train.keep="${keep%.3}" train.keep_every=$every train.offload=$away >"$work/$name.log" 2>&1 ||
            fail "$name: $(tail -20 "$work/$name.log")"
        grep -o '"step": [0-9]*, "loss": [^,]*, "grad_norm": [^,]*' "$work/$name/metrics.jsonl" >"$work/$name.losses"
        compare "$name" ranks$ranks.all
    done
done
grep -q 'shared by layers' "$work/ranks1.inputs.log" ||
    fail "no row of what layers share: $(cat "$work/ranks1.inputs.log")"
grep -q "in the host's memory" "$work/ranks1.away.log" || fail "no row of what leaves: $(cat "$work/ranks1.away.log")"
grep -q 'shared by layers' "$work/ranks1.all.log" && fail "keep all shares nothing: $(cat "$work/ranks1.all.log")"

# Another policy continues a run: the key is free.
"$BATON_PROGRAM" train "$work/config.yaml" --device cpu run.dir="$work/ranks1.all" train.steps=5 train.keep=inputs \
    >"$work/log" 2>&1 || fail "continued with another policy: $(tail -20 "$work/log")"
"$BATON_PROGRAM" train "$work/config.yaml" --device cpu run.dir="$work/refused" train.keep_every=2 >"$work/log" 2>&1 &&
    fail 'keep_every without keep: inputs was accepted'
grep -q 'train.keep_every' "$work/log" || fail "no word of train.keep_every: $(cat "$work/log")"
exit 0
