#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `baton plan`: every configuration in less than two seconds, on 64 ranks too; memory as `train` plans it; FLOPs by
# hand; what would fit; wrong words end with exit code 2.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
fail() {
    echo "plan_command: $*" >&2
    failures=$((failures + 1))
}
plan() { "$BATON_PROGRAM" plan "$@" >"$work/out" 2>"$work/err"; }

# Memory row by row as train prints it, for the CPU; and the model's lines.
same() {
    set -- "$@" train.sequences_per_step=4 train.precision=f32 --device cpu
    plan "$@" || fail "$*: $(cat "$work/err")"
    "$BATON_PROGRAM" train "$@" --dry-run >"$work/dry" 2>&1
    sed -n '/^stack/,/^  total  /{/^  embedding/d;/^  of them/d;/^a step/d;p}' "$work/out" >"$work/plan"
    sed -n '/^stack/,/^  total  /p' "$work/dry" >"$work/train"
    [ -s "$work/train" ] || fail "$*: train --dry-run prints no plan: $(tail -1 "$work/dry")"
    cmp -s "$work/plan" "$work/train" || fail "$* differs: $(diff "$work/plan" "$work/train" | head -5)"
}
for config in configs/*.yaml; do
    same "$config" mesh.seq=1
    same "$config" mesh.data=2 mesh.seq=2 mesh.shard=parameters train.keep=inputs
    begin=$(date +%s%N)
    plan "$config" mesh.seq=64 mesh.data=1 train.sequences_per_step=1 || fail "$config: $(cat "$work/err")"
    ms=$((($(date +%s%N) - begin) / 1000000))
    [ $ms -lt 2000 ] || fail "$config on 64 ranks: $ms ms"
    grep -q '^  total  *[1-9]' "$work/out" || fail "$config: nothing on the wire of 64 ranks"
done

# Ranks of tensor: counts stay those of the whole model, memory is a rank's.
for name in nemotron_3_super_120b nemotron_h_8b jamba_1_5_mini falcon_mamba_7b smoke_moe; do
    plan "configs/$name.yaml" mesh.seq=4 mesh.tensor=1 train.sequences_per_step=4
    sed -n '/^stack/,/^a step/p' "$work/out" >"$work/whole"
    memory=$(sed -n 's/^  memory  *planned, bytes  *\([0-9]*\).*/\1/p' "$work/out")
    plan "configs/$name.yaml" mesh.seq=4 mesh.tensor=2 train.sequences_per_step=4
    sed -n '/^stack/,/^a step/p' "$work/out" >"$work/split"
    half=$(sed -n 's/^  memory  *planned, bytes  *\([0-9]*\).*/\1/p' "$work/out")
    diff "$work/whole" "$work/split" | grep '^[<>]' | grep -qv '^[<>] a step' && fail "$name: other counts over tensor"
    [ "$half" -lt "$memory" ] || fail "$name: two ranks of tensor take $half bytes each, one takes $memory"
    grep -q '^  tensor  *rows entering and leaving layers  *[1-9]' "$work/out" || fail "$name: tensor sends nothing"
    same "configs/$name.yaml" mesh.seq=2 mesh.tensor=2
done

# 2 a weight and token in products, 7 d N in a scan, 2 L h for half of attention, and twice that backward.
wanted=$(awk 'BEGIN {
    D = 4096; L = 409600; d = 8192; N = 128
    scan = (2 * d + 2 * 8 * N + 128) * D + d * D
    attention = 2 * D * D + 2 * 1024 * D
    mlp = 2 * D * 21504
    printf "%.3f", 3e-6 * (2 * (24 * scan + 4 * attention + 24 * mlp + 131072 * D) + 24 * 7 * d * N + 4 * 2 * L * D)
}')
plan configs/nemotron_h_8b.yaml
found=$(sed -n 's/^parameters: .*, \(.*\) MFLOP a trained token/\1/p' "$work/out")
[ "$found" = "$wanted" ] || fail "nemotron_h_8b: $found MFLOP a token, by hand $wanted"
# The experts that a token does not choose: 40 layers, 512 - 22 of two matrices of 1024 x 2688.
plan configs/nemotron_3_super_120b.yaml model.mtp.depths=0
found=$(sed -n 's/.*one token meets //p' "$work/out")
wanted=$((120668707840 - 40 * 490 * 2 * 1024 * 2688))
[ "$found" = "$wanted" ] || fail "nemotron_3_super_120b: a token meets $found parameters, by hand $wanted"

# What would fit does.
plan configs/nemotron_h_8b.yaml --memory 80
grep -q '^does not fit: ' "$work/out" || fail "8 billion parameters fit in 80 GiB: $(tail -1 "$work/out")"
way=$(sed -n 's/ would fit: .*//p' "$work/out")
# shellcheck disable=SC2086
plan configs/nemotron_h_8b.yaml $way --memory 80
[ -n "$way" ] && grep -q '^fits: ' "$work/out" || fail "'$way' does not fit: $(tail -1 "$work/out")"
# Two GPUs of 139 GiB have room for its 409,600 tokens where what is kept waits in the host's memory.
set -- configs/nemotron_h_8b.yaml mesh.seq=2 mesh.shard=parameters mesh.attention=keys mesh.layout=zigzag \
    train.head_tile=2048 train.sequences_per_step=1 --device cuda --memory 139
plan "$@"
way=$(sed -n 's/ would fit: .*MiB of the host$//p' "$work/out")
[[ $way = *train.offload=* ]] || fail "409,600 tokens on two GPUs: '$way' of: $(tail -2 "$work/out")"
# shellcheck disable=SC2086
plan "$@" $way
grep -q '^fits: ' "$work/out" || fail "'$way' does not fit: $(tail -1 "$work/out")"
grep -q "in the host's memory .* MiB" "$work/out" || fail "no row of what is in the host's memory"
plan configs/nemotron_h_8b.yaml --memory 0.001
grep -q '^no mesh.seq ' "$work/out" || fail "8 billion parameters fit in a MiB: $(tail -1 "$work/out")"

# why | what stderr must hold | words behind `baton plan`
check() {
    local why=$1 wanted=$2 code
    shift 2
    plan "$@"
    code=$?
    [ $code -eq 2 ] || fail "$why: exit code $code, not 2"
    grep -qF -- "$wanted" "$work/err" || fail "$why: no '$wanted' in: $(cat "$work/err")"
    [ ! -s "$work/out" ] || fail "$why: something was printed"
}
smoke=configs/smoke_hybrid.yaml
check "no configuration" "wants one CONFIG"
check "no such file" "nowhere.yaml" nowhere.yaml
check "no such key" "did you mean 'seq'" $smoke mesh.sep=2
check "no such device" "wants cpu or cuda" $smoke --device gpu
check "not a precision of the device" "bf16 needs a GPU" $smoke train.precision=bf16 --device cpu
check "not a number" "--memory many" $smoke --memory many
check "no memory" "--memory 0" $smoke --memory 0
check "too many ranks" "more than the 4096" $smoke mesh.seq=4100 train.tokens_per_sequence=8200
check "an axis that does not run" "mesh.pipe" $smoke mesh.pipe=2
check "data that do not divide" "mesh.data" $smoke mesh.data=3
check "exact mode's own rules" "power of two" $smoke mesh.seq=3 numerics=rank_invariant
check "no such option" "no such option" $smoke --dry-run
exit $((failures > 0))
