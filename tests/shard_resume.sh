#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu long
# timeout: 110
# Four ranks, data 2 x seq 2, with each form of mesh.shard: killed and continued, a run ends with the same bits in every
# loss, gradient norm and shard as one left alone; all forms have the same losses; a run goes on under another form, and
# on another mesh.
set -u
program=${BATON_PROGRAM:?the path of baton}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
wrong() {
    echo "shard_resume: $*" >&2
    failures=$((failures + 1))
}

awk 'BEGIN { for (i = 1; i <= 400; i++) print "Line", i, "says that", i * i, "is the square of", i }' >text
"$program" prepare --tokenizer bytes --out text text >/dev/null || wrong "prepare failed"
cat >config.yaml <<'YAML'
model:
  width: 64
  vocab: 300
  pattern: "M-*-M-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 32, state: 8, groups: 2, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 4, kv_heads: 2, head_width: 16}
    "-": {kind: mlp, hidden: 192, activation: swiglu}
mesh: {data: 2, seq: 2}
train: {tokens_per_sequence: 64, sequences_per_step: 4, steps: 40, precision: f32, valid_every: 9, valid_sequences: 3}
optimizer: {kind: adamw, lr: 3.0e-3, schedule: cosine, warmup_steps: 5}
data: {train: [text], valid: [text], packing: documents}
checkpoint: {every: 3, keep: 2}
run: {dir: unset, seed: 1}
YAML
essence() { sed 's/, "tokens_per_s".*"skipped"/, "skipped"/' "$1/metrics.jsonl"; }
same() { diff "$1" "$2" >difference || wrong "$3: metrics differ: $(head -n 4 difference)"; }

kills=0
for stage in none optimizer gradients parameters; do
    "$program" train config.yaml mesh.shard=$stage run.dir=alone.$stage >alone.$stage.log 2>&1 ||
        wrong "$stage: the run left alone failed: $(tail -n 3 alone.$stage.log)"
    essence alone.$stage >alone.$stage.txt
    [ "$(wc -l <alone.$stage.txt)" = 40 ] || wrong "$stage: 40 steps, not $(wc -l <alone.$stage.txt)"
    for ms in 060 130 210 300; do
        "$program" train config.yaml mesh.shard=$stage run.dir=killed.$stage >>killed.log 2>&1 &
        sleep 0.$ms
        kill -KILL $! 2>/dev/null && kills=$((kills + 1))
        wait $! 2>/dev/null
    done
    "$program" train config.yaml mesh.shard=$stage run.dir=killed.$stage >>killed.log 2>&1 ||
        wrong "$stage: the killed run does not end: $(tail -n 3 killed.log)"
    essence killed.$stage >killed.$stage.txt
    same alone.$stage.txt killed.$stage.txt "$stage, killed"
    same alone.none.txt alone.$stage.txt "$stage beside none"
    shards=0
    for shard in alone.$stage/checkpoints/step-00000040/*.safetensors; do
        shards=$((shards + 1))
        cmp "$shard" "killed${shard#alone}" || wrong "$stage: the weights differ"
    done
    [ $shards = "$([ $stage = none ] && echo 1 || echo 4)" ] || wrong "$stage: $shards shards"
done
[ $kills -ge 8 ] || wrong "killed only $kills times: this shows little"

# From one form to the next, ten steps each; what a step is worth does not know the form.
from=0
for stage in parameters none gradients optimizer; do
    from=$((from + 10))
    "$program" train config.yaml mesh.shard=$stage run.dir=mixed train.steps=40 checkpoint.every=10 >mixed.log 2>&1 &
    until [ -d mixed/checkpoints/step-000000$from ] || ! kill -0 $! 2>/dev/null; do sleep 0.005; done
    [ $from = 40 ] || kill -KILL $! 2>/dev/null
    wait $! 2>/dev/null
done
essence mixed >mixed.txt
same alone.none.txt mixed.txt "from form to form"

# On other meshes, whose sums have another order: the state is there, and the losses go on from it.
cp -r alone.parameters other
for mesh in "1 1 41" "4 1 42" "1 3 43"; do
    read -r data seq steps <<<"$mesh"
    "$program" train config.yaml mesh.data="$data" mesh.seq="$seq" run.dir=other train.steps="$steps" >other.log 2>&1 ||
        wrong "on data $data seq $seq: $(tail -n 3 other.log)"
done
[ "$(essence other | wc -l)" = 43 ] || wrong "43 steps over four meshes, not $(essence other | wc -l)"
exit $((failures > 0))
