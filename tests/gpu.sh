#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests for a GPU host, from a build with BATON_CUDA=ON (the folder BATON_BUILD, else ./build); ends with one table.
#   tests/gpu.sh correct [OP ...]    every CUDA op on its cases, those of the benchmark too: match, guard, same, errors;
#                                    then the ops above 2^31 elements
#   tests/gpu.sh sanitize [OP ...]   the small cases under memcheck, racecheck, initcheck and synccheck, or BATON_TOOLS;
#                                    PARTS: processes that share an op's rows; BATON_TIMEOUT: seconds of each;
#                                    racecheck wants a build with -DBATON_RACECHECK=ON
#   tests/gpu.sh bench [OP ...]      baton bench --device cuda
#   tests/gpu.sh peers               profiling/peers; PEERS: a folder with mamba_ssm/ of its source tree
#   tests/gpu.sh scan                the scan beside Triton's at six shapes, ours before and after; PEERS as above
#   tests/gpu.sh train               parity, a small hybrid against the CPU, ranks on one card and on two, exact mode
#   tests/gpu.sh comm                communicators over memory of GPUs: threads, processes, copies, NCCL, faults, time;
#                                    ONE_CARD: a folder of an NCCL that lets ranks share a GPU (built against it);
#                                    killed: of these the killed processes alone
#   tests/gpu.sh axes                a small Nemotron-3 over the tensor and the expert axis beside one GPU
#   tests/gpu.sh long                409,600 tokens on one GPU and on two
#   tests/gpu.sh 8b                  Nemotron-H 8B on two GPUs, 65,536 and 409,600 tokens; 180 GiB of the host
#   tests/gpu.sh exposed             what exchanges cost of a step: 409,600 tokens on two GPUs, five rounds
set -u
build=${BATON_BUILD:-build}
program=$build/tests/ops_cuda
part=${1:-}
[ $# -gt 0 ] && shift

baton=$(realpath "$build")/baton
root=$(cd "$(dirname "$0")/.." && pwd)
shared=${BATON_SHARED:-$root/../shared}
[ -x "$program" ] || { echo "$program is missing: configure with -DBATON_CUDA=ON and build" >&2; exit 2; }

about() {
    echo "$(date -u +%Y-%m-%d), $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1): $*"
}

correct() {
    "$program" --table --large "$@" >"$work/table" 2>"$work/errors"
    local rc=$? huge gemm end
    "$build/tests/ops_huge_cuda" 2>>"$work/errors"
    huge=$?
    printf 'above 2^31 elements: exit %d\n' $huge >>"$work/table"
    "$build/tests/gemm_cuda" 2>>"$work/errors"
    gemm=$?
    printf 'choosing algorithms of products: exit %d\n' $gemm >>"$work/table"
    head -40 "$work/errors"
    "$build/tests/ops_huge_end_cuda" >"$work/end" 2>>"$work/errors"
    end=$?
    cat "$work/end" >>"$work/table"
    printf 'the last tokens above 2^31 elements: exit %d\n' $end >>"$work/table"
    [ $rc -ne 0 ] || rc=$huge
    [ $rc -ne 0 ] || rc=$end
    [ $rc -ne 0 ] || rc=$gemm
    about "tests/gpu.sh correct, exit $rc"
    cat "$work/table"
    return $rc
}

# one_sanitized TOOL OP PART: its log, and its exit status in a file beside
one_sanitized() {
    local only=() name # racecheck fails inside cuBLAS's kernels: it looks at ours
    [ "$1" != racecheck ] || for name in $ours; do only+=(--kernel-name "kns=$name"); done
    timeout "${BATON_TIMEOUT:-450}" compute-sanitizer --tool "$1" "${only[@]}" --error-exitcode 3 --print-limit 5 \
        "$program" --once "$2" "--part=$3/$parts" >"$work/$1.$2.$3" 2>&1
    echo $? >"$work/$1.$2.$3.exit"
}

# A process for each tool, op and part of its rows, as many at once as there are cores: they share the GPU.  PARTS: how
# many parts; racecheck of a walk over many tokens takes minutes a row.
sanitize() {
    local tool log op i ops=("$@") tools=${BATON_TOOLS:-racecheck initcheck memcheck synccheck}
    command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH" >&2; return 2; }
    [ $# -gt 0 ] || mapfile -t ops < <(sed -n 's/^TWIN[_F32]*(\(.*\))$/\1/p' "$root/kernels/ops_cuda.def")
    export -f one_sanitized
    ours=$(grep -rhoE '__global__.* void [a-z_0-9]+' "$root/kernels" | sed 's/.* void //' | sort -u)
    export program work ours parts=${PARTS:-1}
    for tool in $tools; do
        for op in "${ops[@]}"; do seq -f "$tool $op %g" 0 $((parts - 1)); done
    done | xargs -P "$(nproc)" -n 3 bash -c 'one_sanitized "$@"' sanitize
    for tool in $tools; do
        for op in "${ops[@]}"; do
            for i in $(seq 0 $((parts - 1))); do
                log=$work/$tool.$op.$i
                [ "$(cat "$log.exit")" = 0 ] && grep -q 'SUMMARY: 0 \|SUMMARY: .*(0 errors, 0 warnings)' "$log" ||
                    { fail "$tool $op $i/$parts" "exit $(cat "$log.exit")"; grep -v '^$' "$log" | head -n 12; }
            done
        done
        row "$tool, ${#ops[@]} ops" "$(cat "$work/$tool".*.exit | sort | uniq -c | paste -s -d ';') (number, exit)"
    done
    about "tests/gpu.sh sanitize"
    cat "$work/table"
    return $failed
}

bench() { "$baton" bench --device cuda "$@"; }

peers() {
    local script
    for script in dense attention conv ssd selective; do
        LEAVE=$work/$script timeout 240 python3 "$root/profiling/peers/$script.py"
        [ ! -d "$work/$script" ] || "$build/tests/peers_cuda" $script "$work/$script" || failed=1
    done
    "$build/tests/ssd_speed_cuda"
    "$build/tests/selective_speed_cuda"
    about "tests/gpu.sh peers"
}

# scan_peer SHAPE Q: forward, and forward + backward, of Triton's scan at 65,536 tokens
scan_peer() {
    SHAPE=$1 CHUNKS=$2 timeout 280 python3 "$root/profiling/peers/ssd.py" 65536 ||
        echo "peer ssd $1, chunk $2: not ended"
}

# What Triton compiles to choose from takes minutes a shape: all shapes do that at once first, and only what is said
# after it is a measurement.
scan() {
    local shape q shapes="128,64,128,8 128,64,128,1 128,64,256,8 64,128,128,8 24,64,128,1 24,128,256,1"
    export TRITON_CACHE_DIR=$work/triton
    for shape in $shapes; do
        for q in 128 256; do scan_peer $shape $q >/dev/null 2>&1 & done
    done
    wait
    for shape in $shapes; do
        "$build/tests/ssd_speed_cuda" --shape=$shape 65536 || failed=1
        for q in 128 256; do scan_peer $shape $q; done
        "$build/tests/ssd_speed_cuda" --shape=$shape 65536 || failed=1
    done
    about "tests/gpu.sh scan"
    return $failed
}

row() { printf '%-64s %s\n' "$1" "$2" | tee -a "$work/table"; } # row WHAT RESULT
fail() {
    row "$1" "FAILED: $2"
    failed=1
}
# run NAME KEY=VALUE...: the small hybrid, into $work/NAME
run() {
    local name=$1
    shift
    timeout 120 "$baton" train "$work/small.yaml" run.dir="$work/$name" "$@" >"$work/$name.out" 2>&1 ||
        fail "$name: $*" "$(tail -n 2 "$work/$name.out")"
}
losses() { grep -o '"loss": [^,]*' "$work/$1/metrics.jsonl" | cut -d' ' -f2; }
# near NAME OTHER BOUND FROM TO: largest relative difference of losses of steps FROM to TO
near() {
    paste <(losses "$1" | head -n "$5") <(losses "$2" | head -n "$5") | awk -v bound="$3" -v from="$4" -v to="$5" \
        -v what="losses of $1 and $2, bound $3" '
        NF != 2 { bad = 1 }
        NR >= from { d = $1 > $2 ? $1 - $2 : $2 - $1; d /= $2; if (d > most) most = d }
        END { if (NR != to || bad || !(most <= bound)) bad = 1
              printf "%-64s %.2e over %d steps%s\n", what, most, NR, bad ? " FAILED" : ""; exit bad }' |
        tee -a "$work/table"
    [ "${PIPESTATUS[1]}" = 0 ] || failed=1
}
# bits NAME: of exact mode: losses and norms, and the state after one more step on one rank, which is one file then
bits() {
    run "$1" --device cuda numerics=rank_invariant train.steps=11 --ranks 1
    { grep -o '"loss": [^,]*, "grad_norm": [^,]*' "$work/$1/metrics.jsonl"
      cat "$work/$1"/checkpoints/step-00000011/*.safetensors; } | sha256sum | cut -c1-16
}

small_hybrid() {
    cat "$shared"/books/train/moby-dick.txt >"$work/text"
    "$baton" prepare --tokenizer bytes --out "$work/text" "$work/text" >/dev/null || fail prepare "see above"
    cat >"$work/small.yaml" <<'YAML'
model:
  width: 256
  vocab: 256
  pattern: "M-*-M-"
  layers:
    M: {kind: mamba2, heads: 8, head_width: 64, state: 64, groups: 2, conv: 4, chunk: 64}
    "*": {kind: attention, heads: 8, kv_heads: 2, head_width: 64, rope: 1}
    "-": {kind: mlp, hidden: 768, activation: relu2}
train: {tokens_per_sequence: 1024, sequences_per_step: 4, steps: 50, precision: f32}
optimizer: {kind: adamw, lr: 1.0e-3, schedule: constant, warmup_steps: 10, clip_norm: 1.0}
data: {train: [text], packing: documents}
checkpoint: {every: 0, keep: 1}
run: {dir: unset, seed: 1, tensorboard: false}
YAML
}

parities() {
    local model precision
    for model in llama mistral_swa mamba mamba2 nemotron_h; do
        for precision in f32 bf16; do
            if ! "$baton" parity "$shared/goldens/$model" --device cuda train.precision=$precision \
                >"$work/out" 2>&1; then
                if [ $precision = bf16 ] && grep -q 'in bf16 expected' "$work/out"; then
                    row "parity $model $precision" "its shapes have no BF16 kernel, and it says so"
                else
                    fail "parity $model $precision" "$(tail -n 1 "$work/out")"
                fi
                continue
            fi
            row "parity $model $precision" "$(awk '/^(logits|loss|grad\.)/ && $3 + 0 > most { most = $3 + 0 }
                END { printf "largest relative error %.1e", most }' "$work/out")"
        done
    done
}

ranks() { # ranks N...: several ranks, on one card where N is more than there are
    local n one many
    run exact1 --device cuda numerics=rank_invariant train.steps=10 --ranks 1
    one=$(bits exact1)
    for n in "$@"; do
        run ranks$n --device cuda train.steps=10 --ranks "$n"
        near ranks$n cuda 1e-5 1 10
        run exact$n --device cuda numerics=rank_invariant train.steps=10 --ranks "$n"
        many=$(bits exact$n)
        [ "$many" = "$one" ] && row "exact mode, $n ranks" "the bits of one rank ($one)" ||
            fail "exact mode, $n ranks" "$many, one rank $one"
        run bf16_ranks$n --device cuda train.steps=10 train.precision=bf16 --ranks "$n"
        near bf16_ranks$n bf16 2e-2 1 10
    done
}

train() {
    [ -d "$shared/goldens" ] && [ -d "$shared/books" ] || { echo "skipped: no goldens in $shared"; return 77; }
    small_hybrid
    parities
    timeout 120 "$build/tests/device_train" >"$work/out" 2>&1 && row "skipped step, checkpoint, planned memory" ok ||
        fail device_train "$(head -n 2 "$work/out")"
    run cpu --device cpu &
    run cuda --device cuda
    run again --device cuda
    run f32 --device cuda train.steps=200
    run bf16 --device cuda train.steps=200 train.precision=bf16
    run bf16_again --device cuda train.precision=bf16 train.steps=50
    wait
    near cuda cpu 1e-4 1 50
    near again cuda 0 1 50
    near bf16_again bf16 0 1 50
    near bf16 f32 2e-2 1 200
    ranks 2 4 8
    about "tests/gpu.sh train"
    cat "$work/table"
    return $failed
}

# One of two processes is killed in mid-exchange, 20 times, five at once: the other says which rank, exchange and phase,
# and ends with 4.
killed() {
    local i n=0
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    for i in $(seq 20); do
        timeout 60 mpirun -n 2 --oversubscribe --enable-recovery \
            bash -c '"$0" kill; echo "rank $OMPI_COMM_WORLD_RANK ends with $?"' "$build/tests/comm_device" \
            >"$work/kill$i" 2>&1 &
        [ $((i % 5)) -ne 0 ] || wait
    done
    for i in $(seq 20); do
        grep -q 'rank 0 of 2.*of seq' "$work/kill$i" && grep -q 'rank . ends with 4' "$work/kill$i" &&
            grep -q 'rank . ends with 137' "$work/kill$i" && n=$((n + 1)) ||
            fail "a process is killed, $i" "$(grep -v '^$' "$work/kill$i" | tail -n 4)"
    done
    row "a process is killed: the other names rank, exchange and phase" "$n of 20"
    return $failed
}

comm() {
    local two
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    two=$(nvidia-smi -L | wc -l)
    timeout 240 "$build/tests/comm_device" >"$work/out" 2>&1 || fail "comm_device" "exit $?: $(tail -n 3 "$work/out")"
    timeout 100 "$build/tests/comm_device" time >"$work/out" 2>&1 || fail "comm_device time" "exit $?"
    cat "$work/out"
    if [ -n "${ONE_CARD:-}" ]; then
        export LD_LIBRARY_PATH=$ONE_CARD:${LD_LIBRARY_PATH:-} NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=4
        timeout 240 "$build/tests/comm_device" one-card >"$work/out" 2>&1 ||
            fail "comm_device one-card" "exit $?: $(tail -n 3 "$work/out")"
        two=2
    fi
    [ "$two" -ge 2 ] && command -v mpirun >/dev/null || { echo "one GPU, or no mpirun: no processes"; return $failed; }
    timeout 200 mpirun -n 2 --oversubscribe "$build/tests/comm_device" >"$work/out" 2>&1 ||
        fail "two processes" "exit $?: $(tail -n 3 "$work/out")"
    killed || true
    return $failed
}

# Of the last step of run NAME: what the line says.
speed() { grep '^step' "$work/$1.out" | tail -n 1 | grep -o '[0-9.]*[kM]* tok/s'; }

axes() { # two GPUs where there are; otherwise ranks share one
    local i name mesh precision
    small_hybrid
    cat >"$work/small.yaml" <<'YAML'
model:
  width: 512
  vocab: 256
  pattern: "MEM*EME"
  layers:
    M: {kind: mamba2, heads: 16, head_width: 64, state: 128, groups: 2, conv: 4, chunk: 128}
    "*": {kind: attention, heads: 8, kv_heads: 2, head_width: 64}
    E: {kind: moe, experts: 16, top_k: 4, hidden: 256, shared: 512, latent: 256, activation: relu2,
        scores: sigmoid, renormalise: true, scale: 2.5, bias: true, bias_rate: 1.0e-3, aux_loss: 1.0e-4}
train: {tokens_per_sequence: 2048, sequences_per_step: 4, steps: 10, precision: f32}
optimizer: {kind: adamw, lr: 1.0e-3, schedule: constant, warmup_steps: 5, clip_norm: 1.0}
data: {train: [text], packing: documents}
checkpoint: {every: 0, keep: 1}
run: {dir: unset, seed: 1, tensorboard: false}
YAML
    for precision in f32 bf16; do
        run one_$precision --device cuda train.precision=$precision
        row "one GPU, $precision" "$(speed one_$precision)"
        for mesh in "mesh.tensor=2" "mesh.seq=2 mesh.expert=2" "mesh.seq=2 mesh.tensor=2 mesh.expert=2"; do
            name=$precision.${mesh//[ .=]/_}
            run "$name" --device cuda train.precision=$precision run.trace=5 run.exposed=5 $mesh
            sed -n '/^exposed communication/,/^  nothing/p' "$work/$name.out"
            row "$mesh, $precision" "$(speed "$name"); $(grep -o 'the busiest GPU .*' "$work/$name.out")"
            [ $precision = f32 ] && near "$name" one_f32 1e-5 1 10 || near "$name" one_bf16 2e-2 1 10
        done
    done
    about "tests/gpu.sh axes"
    cat "$work/table"
    return $failed
}

long() {
    local n config=$root/configs/bench_1b_409600.yaml
    small_hybrid
    for n in 1 2; do
        [ "$n" -le "$(nvidia-smi -L | wc -l)" ] || { echo "$n GPUs: not here"; continue; }
        timeout 280 "$baton" train "$config" run.dir="$work/long$n" --device cuda --ranks "$n" \
            data.train="$work/text" train.steps=7 >"$work/out" 2>&1 || fail "$n GPUs" "$(tail -n 3 "$work/out")"
        cat "$work/out"
    done
    [ ! -d "$work/long2" ] || near long2 long1 1e-3 1 7
    return $failed
}

# One number of the last step of run NAME: number NAME KEY FACTOR
number() {
    tail -n 1 "$work/$1/metrics.jsonl" | sed -n "s/.*\"$2\": \([^,}]*\).*/\1/p" | awk -v f="$3" '{ print $1 * f }'
}

steps_of() { cat "$work/$1/metrics.jsonl" 2>/dev/null | wc -l; }

# steps_8b NAME KEY=VALUE...: three steps of it, ended before a checkpoint of 97 GB
steps_8b() {
    local name=$1 pid i=0
    shift
    "$baton" train "$root/configs/bench_nemotron_h_8b.yaml" run.dir="$work/$name" data.train="$work/text" --ranks 2 \
        --device cuda "$@" >"$work/$name.out" 2>&1 &
    pid=$!
    while [ "$(steps_of "$name")" -lt 3 ] && kill -0 $pid 2>/dev/null && [ $((i++)) -lt "${BATON_TIMEOUT:-280}" ]; do
        sleep 1
    done
    { kill -KILL $pid; wait $pid; } 2>/dev/null
    [ "$(steps_of "$name")" -ge 3 ] || { fail "$name: $*" "$(tail -n 3 "$work/$name.out")"; return; }
    row "$name" "$(number "$name" tokens_per_s 0.5) tokens/s/GPU, MFU $(number "$name" mfu 100) %, $(
        number "$name" step_ms 0.001) s a step, loss $(number "$name" loss 1), $(
        number "$name" bytes_peak 9.3132e-10) GiB"
    row "$name" "$(grep -o 'memory of the GPU: .*' "$work/$name.out")"
    row "$name" "$(grep -o "activations: in the host's memory.*" "$work/$name.out")"
}

whole_8b() {
    [ "$(nvidia-smi -L | wc -l)" -ge 2 ] || { echo "two GPUs are wanted"; return 77; }
    small_hybrid
    steps_8b inputs64k
    steps_8b gemm64k train.keep=gemm train.offload=0.4
    near gemm64k inputs64k 1e-3 1 3
    steps_8b inputs400k train.tokens_per_sequence=409600 train.offload=1 mesh.attention=keys mesh.layout=zigzag
    about "tests/gpu.sh 8b"
    cat "$work/table"
    return $failed
}

# Some six minutes: each round is a step for every kind of exchange, and two more.
exposed() {
    local config=$root/configs/bench_1b_409600.yaml
    [ "$(nvidia-smi -L | wc -l)" -ge 2 ] || { echo "one GPU exchanges nothing"; return 77; }
    small_hybrid
    timeout 580 "$baton" train "$config" run.dir="$work/exposed" --device cuda --ranks 2 data.train="$work/text" \
        train.steps=2 run.exposed="${ROUNDS:-5}" "$@" >"$work/out" 2>&1 ||
        fail "exposed" "$(tail -n 3 "$work/out")"
    about "tests/gpu.sh exposed"
    grep -v '^ *$' "$work/out" | tail -n 24
    return $failed
}

failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $part in
correct | sanitize | bench | peers | scan | train | comm | killed | axes | long | exposed) "$part" "$@" ;;
8b) whole_8b ;;
*) sed -n '3,20s/^# //p' "$0" && exit 2 ;;
esac
