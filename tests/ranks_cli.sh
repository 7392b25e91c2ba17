#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu mpi
# timeout: 200
# What is wrong with a start over ranks is told by name, before anything is computed, with exit code 2; what is right
# gives the same losses however the ranks were started.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# What MPI itself leaks, and its own threads, are not ours to report.
mpi_asan=${ASAN_OPTIONS:-}:detect_leaks=0
mpi_tsan=${TSAN_OPTIONS:-}:ignore_noninstrumented_modules=1
failures=0
wrong() {
    echo "ranks_cli: $*: $(grep -v '^ *$' "$work/log" | head -5)"
    failures=$((failures + 1))
}

awk 'BEGIN {
    srand(7)
    n = split("the a tide moon stone river carries turns under over slowly again .", word, " ")
    while (k++ < 3000) printf "%s ", word[1 + int(n * rand())]
}' >"$work/text"
"$BATON_PROGRAM" prepare --tokenizer bytes --out "$work/tokens" "$work/text" >"$work/log" 2>&1 || wrong prepare
cat >"$work/config.yaml" <<END_OF_CONFIG
model:
  width: 16
  vocab: 256
  pattern: "M-*-"
  layers:
    M: {kind: mamba2, heads: 4, head_width: 8, state: 8, conv: 4, chunk: 8}
    "*": {kind: attention, heads: 6, kv_heads: 2, head_width: 4}
    "-": {kind: mlp, hidden: 24, activation: swiglu}
train: {tokens_per_sequence: 40, sequences_per_step: 4, steps: 4, precision: f64}
data: {train: [tokens]}
run: {dir: unset, seed: 3}
END_OF_CONFIG
train="$BATON_PROGRAM train $work/config.yaml --device cpu run.tensorboard=false"

# refused CODE TEXT COMMAND...: it must end with CODE, say TEXT and leave no run folder
refused() {
    timeout 60 "${@:3}" run.dir="$work/refused" >"$work/log" 2>&1
    local code=$?
    [ $code = "$1" ] || wrong "${*:4}: exit code $code, not $1"
    grep -qE "$2" "$work/log" || wrong "${*:4} does not say '$2'"
    [ ! -e "$work/refused" ] || wrong "${*:4} left a run folder"
}

# losses NAME COMMAND...
losses() {
    timeout 100 "${@:2}" run.dir="$work/$1" >"$work/log" 2>&1 || wrong "$1: exit code $?"
    grep -o '"step": [0-9]*, "loss": [^,]*, "grad_norm": [^,]*' "$work/$1/metrics.jsonl" >"$work/losses_$1"
    [ "$(wc -l <"$work/losses_$1")" = 4 ] || wrong "$1: four steps wanted"
}

refused 2 'mesh: data 1 x seq 3 .* is 3 ranks, and 2 were started' $train mesh.seq=3 --ranks 2
refused 2 'mesh: data 2 x seq 2 .* is 4 ranks, and 3 were started' $train mesh.seq=2 mesh.data=2 --ranks 3
refused 2 'a sequence of 40 tokens cannot be split over 41 ranks' $train --ranks 41
refused 2 'ranks 0: wants a number from 1 to 4096' $train --ranks 0
refused 2 'ranks 2x: wants a number from 1 to 4096' $train --ranks 2x
refused 2 'mesh.data: 3 ranks of micro-batches of 1 do not divide the 4 sequences_per_step' $train mesh.data=3
refused 2 'vocab 256 cannot be spread over the 3 ranks of mesh.tensor; sizes that would do: 1, 2, 4, 8' \
    $train mesh.tensor=3
refused 2 'the nearest legal meshes: .data: 1, seq: 3, tensor: 1' $train mesh.tensor=3
refused 2 'layers.M .mamba2.: heads 4 cannot be spread over the 8 ranks' $train mesh.tensor=8
refused 2 'layers.\* .attention.: heads 6 cannot be spread over the 4 .*would do: 1, 2, 3, 6' $train mesh.tensor=4
refused 2 'layers.- .mlp.: hidden 21 cannot be spread over the 2' $train model.layers.-.hidden=21 mesh.tensor=2
refused 2 'mesh.pipe: 2 ranks do not run yet' $train mesh.pipe=2
refused 2 'mesh.expert: 2 ranks share experts, and model.pattern has none' $train mesh.seq=2 mesh.expert=2
refused 2 'mesh.expert: 3 does not divide data x seq = 2' $train mesh.seq=2 mesh.expert=3
refused 2 'mesh.attention swap: 6 heads and 2 kv_heads cannot be spread over 4 ranks' \
    $train mesh.attention=swap --ranks 4

# Ranks share the memory of their host: two plans of 3/4 of what is free are one too many.
planned() { # DATA WIDTH: MiB of one rank
    $train mesh.data="$1" model.width="$2" --dry-run 2>/dev/null | awk '$1 == "total" { print int($2); exit }'
}
free=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
width=$((40000 * free * 3 / 4 / $(planned 2 40000)))
[ $((2 * $(planned 2 $width))) -gt "$free" ] && [ "$(planned 2 $width)" -lt "$free" ] ||
    wrong "a width of $width does not show it: $(planned 2 $width) MiB of $free"
refused 1 'needs [0-9.]+ MiB for 2 ranks and this machine has [0-9.]+ MiB free' $train mesh.data=2 model.width=$width

losses one $train
losses threads $train --ranks 3
losses mesh $train mesh.seq=3
losses tensor $train mesh.seq=2 mesh.tensor=2
cmp -s "$work/losses_threads" "$work/losses_mesh" || wrong "--ranks 3 and mesh.seq=3 differ"

if ! command -v mpirun >/dev/null; then
    echo "processes are left out: there is no mpirun"
    exit $((failures > 0))
fi
export ASAN_OPTIONS=$mpi_asan TSAN_OPTIONS=$mpi_tsan
start="mpirun --oversubscribe"
$start -n 1 $train run.dir="$work/alone" train.steps=1 >"$work/log" 2>&1
if grep -q "no MPI" "$work/log"; then
    echo "processes are left out: this build has no MPI"
    exit $((failures > 0))
fi
refused 2 '2 ranks are asked for, but a launcher started this process' $start -n 2 $train --ranks 2
refused 2 'mesh: data 1 x seq 3 .* is 3 ranks, and 2 were started' $start -n 2 $train mesh.seq=3
differs='the configuration differs between ranks: rank'
refused 2 "$differs 0 has [0-9a-f]{64}; 2 of 3 ranks, as rank 1" \
    $start -n 1 $train run.dir="$work/refused" : -n 2 $train train.steps=5
# One of them thinks of another mesh; it must not leave the others waiting.
refused 2 "$differs 1 has" $start -n 1 $train run.dir="$work/refused" : -n 1 $train mesh.seq=3
# A processor that OpenBLAS has other kernels for is worth a warning.
losses kernels $start -n 1 $train run.dir="$work/kernels" : -n 2 env OPENBLAS_CORETYPE=Nehalem $train
if OPENBLAS_VERBOSE=2 OPENBLAS_CORETYPE=Nehalem "$BATON_PROGRAM" --help 2>&1 | grep -q "Core: Nehalem"; then
    grep -q 'warning: the matrix library differs between ranks: rank 0 has OpenBLAS' "$work/log" ||
        wrong "nothing is said of ranks with other kernels"
fi
losses processes $start -n 3 $train
losses tensor_processes $start -n 4 $train mesh.seq=2 mesh.tensor=2
cmp -s "$work/losses_tensor" "$work/losses_tensor_processes" || wrong "four threads and four processes differ"
cmp -s "$work/losses_threads" "$work/losses_processes" || wrong "three threads and three processes differ"
exit $((failures > 0))
