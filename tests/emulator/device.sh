#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The program with --device cuda, its GPU emulated: parity with the goldens, training beside the CPU, one rank and two,
# exact mode, generation, a checkpoint that changes devices, and what is refused.  Host code that touches memory of the
# device dies here, and a wait between streams that is missing changes numbers.
set -u
emulated=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
wrong() {
    echo "device: $*" >&2
    failures=$((failures + 1))
}

goldens=${BATON_SHARED:-}/goldens
for model in llama mistral_swa mamba2 nemotron_h jamba nemotron_h_moe nemotron_h_latent; do
    [ -d "$goldens" ] || break
    "$emulated" parity "$goldens/$model" --device cuda --tol 1e-4 >"$work/out" 2>&1 ||
        wrong "parity of $model: $(tail -n 2 "$work/out")"
    "$emulated" parity "$goldens/$model" --device cuda --tol 1e-4 mesh.tensor=2 >"$work/out" 2>&1 ||
        wrong "parity of $model on two ranks of tensor: $(tail -n 2 "$work/out")"
done

seq 1 700 >"$work/text"
"$emulated" prepare --tokenizer bytes --out "$work/text" "$work/text" >"$work/out" 2>&1 || wrong "$(cat "$work/out")"
cat >"$work/run.yaml" <<'YAML'
model:
  width: 16
  vocab: 256
  pattern: "M-*"
  layers:
    M: {kind: mamba2, heads: 2, head_width: 8, state: 8, groups: 1, conv: 4, chunk: 8}
    "*": {kind: attention, heads: 2, kv_heads: 2, head_width: 8, rope: 1, window: 40}
    "-": {kind: mlp, hidden: 32, activation: swiglu}
train: {tokens_per_sequence: 48, sequences_per_step: 2, micro_batch: 1, steps: 2, precision: f32, threads: 1,
        head_tile: 32}
optimizer: {kind: adamw, lr: 1.0e-2, schedule: constant, clip_norm: 0.5}
data: {train: [text], packing: documents}
checkpoint: {every: 0, keep: 2}
run: {dir: unset, seed: 3, tensorboard: false}
YAML
yaml=$work/run.yaml
run() { # run NAME DEVICE ...
    local name=$1 device=$2
    shift 2
    "$emulated" train "$yaml" run.dir="$work/$name" --device "$device" "$@" >"$work/$name.out" 2>&1 ||
        wrong "$name: $(tail -n 2 "$work/$name.out")"
}
numbers() { grep -o '"loss": [^,]*, "grad_norm": [^,]*' "$work/$1/metrics.jsonl" | grep -o '[0-9.e-]*[0-9]'; }
near() { # near NAME OTHER BOUND
    paste <(numbers "$1") <(numbers "$2") | awk -v bound="$3" '
        { d = ($1 - $2) / $2; if (NF != 2 || d > bound || -d > bound) bad = 1 } END { exit bad || NR < 4 }' ||
        wrong "losses and norms of $1 and $2: $(paste -s <(numbers "$1") <(numbers "$2"))"
}
bits() { cat <(numbers "$1") "$work/$1"/checkpoints/*/*.safetensors | sha256sum; }

run cpu cpu
run cuda cuda
near cuda cpu 1e-4
grep -q 'memory of the GPU: plan' "$work/cuda.out" || wrong "nothing is told of the GPU's memory"
# Clocks and power of the GPU: over a library in NVML's name, and without it.
grep -q '"power_w"' "$work/cuda/metrics.jsonl" && wrong "power without a gauge"
grep -q 'clocks and power of the GPU are not logged: ' "$work/cuda.out" || wrong "no word of clocks and power"
LD_LIBRARY_PATH=$BATON_BUILD/tests/fake_nvml run gauged cuda
grep -q '"power_w": [56][0-9.]*, "sm_mhz": 1[0-9.e+]*[,}]' "$work/gauged/metrics.jsonl" ||
    wrong "metrics without clocks: $(tail -n 1 "$work/gauged/metrics.jsonl")"
grep -q 'GPU of rank 0 over these steps: .*(least 1400), memory 2619 MHz, .* W, 61 C' "$work/gauged.out" ||
    wrong "clocks at the end: $(tail -n 2 "$work/gauged.out")"
[ "$(numbers gauged)" = "$(numbers cuda)" ] || wrong "a gauge changes numbers"
grep -q '^first update after [0-9.]* s: .* start, .* plan, .* allocate, .* choice of products, .* first step$' \
    "$work/cuda.out" || wrong "the time to the first update is not told"

run inputs cuda train.keep=inputs train.keep_every=2 run.profile=1
for name in ssd_bwd adamw_fwd "seam carry_end"; do
    grep -q "^ *$name .* ms .* calls" "$work/inputs.out" || wrong "no device time of $name"
done
[ "$(numbers inputs)" = "$(numbers cuda)" ] || wrong "layers that are computed again change numbers"
run deep cuda model.pattern=M-*-M-
for keep in gemm inputs; do # what is kept leaves for the host's memory and comes back
    run "away_$keep" cuda model.pattern=M-*-M- train.keep=$keep train.offload=1
    [ "$(numbers "away_$keep")" = "$(numbers deep)" ] || wrong "keep $keep in the host's memory changes numbers"
    grep -q "in the host's memory .* MiB" "$work/away_$keep.out" || wrong "no row of what is in the host's memory"
done
run deep_ranks cuda model.pattern=M-*-M- --ranks 2 mesh.shard=parameters mesh.attention=keys mesh.layout=zigzag
run away_ranks cuda model.pattern=M-*-M- --ranks 2 mesh.shard=parameters mesh.attention=keys mesh.layout=zigzag \
    train.keep=inputs train.offload=1
[ "$(numbers away_ranks)" = "$(numbers deep_ranks)" ] || wrong "two ranks: offload changes numbers"
run ranks cuda --ranks 2 mesh.shard=parameters mesh.carry=scan mesh.attention=keys mesh.layout=zigzag
near ranks cuda 1e-5
EMULATED_NO_WAITS=1 "$emulated" train "$yaml" run.dir="$work/unwaited" --device cuda --ranks 2 mesh.shard=parameters \
    mesh.carry=scan mesh.attention=keys mesh.layout=zigzag >"$work/unwaited.out" 2>&1
[ "$(numbers unwaited)" != "$(numbers ranks)" ] || wrong "streams that do not wait for each other change no number"
run data cuda mesh.data=2 mesh.attention=swap mesh.shard=gradients
near data cuda 1e-5
run tensor cuda mesh.seq=2 mesh.tensor=2 run.profile=1
near tensor cuda 1e-5
run parts cuda mesh.seq=2 mesh.tensor=2 mesh.tensor_part=1 train.keep=inputs train.keep_every=2
[ "$(numbers parts)" = "$(numbers tensor)" ] || wrong "parts of outer products change numbers"
grep -q "^ *seam leave .* ms .* calls" "$work/tensor.out" || wrong "no device time of the seam leave"
# What exchanges cost, and that measuring it changes nothing.
run exposed cuda mesh.seq=2 mesh.tensor=2 run.exposed=2
for name in hand-off attention tensor parameters gradients all nothing; do
    grep -q "^ *$name .* [0-9.-]* %$" "$work/exposed.out" || wrong "exposed communication has no row $name"
done
[ "$(numbers exposed)" = "$(numbers tensor)" ] || wrong "measuring exchanges changes numbers"
grep -q 'not finite' "$work/exposed.out" && wrong "quiet seams make numbers that are not finite"
for n in 1 2; do run "exact$n" cuda --ranks $n numerics=rank_invariant mesh.shard=none; done
[ "$(bits exact1)" = "$(bits exact2)" ] || wrong "exact mode: two ranks have other bits than one"

cp -r "$work/cpu" "$work/both"
run both cuda train.steps=3
run cpu cpu train.steps=3
near both cpu 1e-4
for device in cpu cuda; do
    "$emulated" eval "$work/cpu" sample --prompt 12 tokens=6 temperature=0 --device $device \
        >"$work/$device.text" 2>/dev/null
    "$emulated" eval "$work/cpu" perplexity data="$work/text" lengths=32 tokens=64 --device $device 2>/dev/null |
        awk '$1 == 32 { printf "%.3f\n", $3 }' >"$work/$device.nats"
done
cmp -s "$work/cpu.text" "$work/cuda.text" && [ -s "$work/cuda.text" ] || wrong "samples differ: $(cat "$work"/*.text)"
cmp -s "$work/cpu.nats" "$work/cuda.nats" && [ -s "$work/cuda.nats" ] || wrong "perplexity: $(cat "$work"/*.nats)"

# BF16: weights are rounded copies of masters.  How they are sliced changes nothing, and a continue has the bits of a
# run that went on.
yaml=$work/half.yaml
sed -e '/"\*"/d; s/M-\*/M-/; s/precision: f32/precision: bf16/; s/sequence: 48/sequence: 64/' \
    -e 's/heads: 2, head_width: 8, state: 8/heads: 1, head_width: 64, state: 64/; s/chunk: 8/chunk: 64/' \
    "$work/run.yaml" >"$yaml"
run full cuda train.precision=f32
run half cuda
near half full 3e-2
for shard in none parameters; do run "half_$shard" cuda --ranks 2 mesh.shard=$shard; done
[ "$(numbers half_none)" = "$(numbers half_parameters)" ] || wrong "BF16: slices change numbers"
near half_none half 1e-3
for part in 0 1; do
    run "half_parts$part" cuda model.layers.M.heads=2 model.layers.M.groups=2 mesh.tensor=2 mesh.tensor_part=$part
done
[ "$(numbers half_parts0)" = "$(numbers half_parts1)" ] || wrong "BF16: parts of outer products change numbers"
run straight cuda train.steps=3
run half cuda train.steps=3
[ "$(numbers half)" = "$(numbers straight)" ] || wrong "BF16: a continue has other numbers"
[ -s "$work/half/products.txt" ] || wrong "BF16: the choice of products is not kept"

# Gathered keys: a rank's tiles hold rows that it never receives.
yaml=$work/keys.yaml
sed -e '/kind: mamba2/d; s/M-\*/-*/; s/precision: f32/precision: bf16/' "$work/run.yaml" >"$yaml"
run keys1 cuda
run keys2 cuda --ranks 2 mesh.attention=keys
near keys2 keys1 2e-3
for n in 1 2; do run "keys_exact$n" cuda --ranks $n numerics=rank_invariant; done
[ "$(numbers keys_exact1)" = "$(numbers keys_exact2)" ] ||
    wrong "BF16, exact mode, attention: two ranks have other numbers than one: $(numbers keys_exact2 | paste -s)"

# Experts: their losses and loads too, on the rank that has them and over ranks.
experts='E: {kind: moe, experts: 8, top_k: 2, hidden: 24, activation: swiglu, shared: 24, scores: sigmoid,
        renormalise: true, scale: 2.5, bias: true, bias_rate: 1.0e-2, aux_loss: 1.0e-2, z_loss: 1.0e-3}'
with_experts() { # with_experts FROM TO
    awk -v experts="$experts" '{ gsub(/pattern: "M-/, "pattern: \"ME-"); print } /layers:/ { print "    " experts }' \
        "$1" >"$2"
}
routed() { grep -o '"expert_load": [^,]*, "aux_loss": [^,}]*' "$work/$1/metrics.jsonl" | grep -o '[0-9.e-]*[0-9]'; }
near_routed() { # near_routed NAME OTHER BOUND: losses of routers, and the loads, which are the same
    paste <(routed "$1") <(routed "$2") | awk -v bound="$3" '
        { d = ($1 - $2) / $2; if (NF != 2 || d > bound || -d > bound) bad = 1 } END { exit bad || NR < 4 }' ||
        wrong "auxiliary losses and loads of $1 and $2: $(paste -s <(routed "$1") <(routed "$2"))"
}
yaml=$work/experts.yaml
with_experts "$work/run.yaml" "$yaml"
run experts_cpu cpu
run experts cuda
near experts experts_cpu 1e-4
near_routed experts experts_cpu 1e-5
for n in 1 2; do run "experts_exact$n" cuda --ranks $n numerics=rank_invariant mesh.shard=none; done
[ "$(bits experts_exact1)" = "$(bits experts_exact2)" ] ||
    wrong "exact mode, experts: two ranks have other bits than one"
yaml=$work/experts_half.yaml
with_experts "$work/half.yaml" "$yaml"
run experts_half cuda
run experts_full cuda train.precision=f32
near experts_half experts_full 3e-2
run experts_sliced cuda --ranks 2 mesh.shard=parameters
near experts_sliced experts_half 2e-3
run experts_exposed cuda mesh.seq=2 mesh.expert=2 mesh.shard=parameters run.exposed=1
grep -q "^ *experts .* %$" "$work/experts_exposed.out" || wrong "BF16: exposed communication has no row experts"
grep -q 'not finite' "$work/experts_exposed.out" && wrong "BF16: quiet seams make numbers that are not finite"
near experts_exposed experts_half 2e-3

yaml=$work/run.yaml
refused() { # refused CODE TEXT ARGUMENTS
    local code=$1 text=$2
    shift 2
    "$emulated" train "$work/run.yaml" run.dir="$work/none" "$@" >"$work/out" 2>&1
    [ $? = "$code" ] && grep -q -- "$text" "$work/out" || wrong "$*: not '$text' but: $(tail -n 2 "$work/out")"
}
refused 2 "f64 runs on the cpu alone" --device cuda train.precision=f64
refused 2 "layer 0, M (mamba2): ssd: .*in bf16 expected .* head_width 64" \
    --device cuda train.precision=bf16 --dry-run
refused 2 "bf16 needs a GPU" --device cpu train.precision=bf16

# Sizes without BF16 kernels, where the configuration allows it: near F32, and it says once what that costs.
yaml=$work/odd.yaml
sed -e 's/head_width: 8, rope/head_width: 12, rope/' "$work/run.yaml" >"$yaml"
run odd cuda
run plain cuda train.precision=bf16 kernels.plain=allow
near plain odd 3e-2
for op in ssd ssd_local attention; do
    [ "$(grep -c "^kernels.plain: $op: " "$work/plain.out")" = 1 ] || wrong "nothing is told of $op, or more than once"
done
grep -q '^  ssd runs in F32 on copies: [0-9.]* MiB of workspace, ' "$work/plain.out" || wrong "the cost is not told"
for n in 1 2; do
    run "plain_exact$n" cuda train.precision=bf16 kernels.plain=allow numerics=rank_invariant --ranks $n
done
[ "$(numbers plain_exact1)" = "$(numbers plain_exact2)" ] ||
    wrong "kernels.plain, exact mode: other numbers on two ranks"
run plain_again cuda train.precision=bf16 kernels.plain=allow train.keep=inputs run.profile=1
[ "$(numbers plain_again)" = "$(numbers plain)" ] || wrong "kernels.plain: layers computed again change numbers"
"$emulated" plan "$yaml" --device cuda train.precision=bf16 kernels.plain=allow >"$work/out" 2>&1
grep -q '^kernels.plain: ssd: ' "$work/out" || wrong "plan does not tell of kernels.plain: $(tail -n 2 "$work/out")"
export EMULATED_GIB=0.000293
refused 1 "MiB are short: train.keep=[a-z]* would fit" --device cuda
exit $((failures > 0))
