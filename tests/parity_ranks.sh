#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# labels: cpu mpi long
# timeout: 300
# Logits, loss and every gradient of reference models, computed over ranks, within 1e-9 of an independent
# implementation: 48 tokens over 1, 2, 3 and 5 ranks (heads do not divide by 3, tokens do not divide by 5), both
# layouts, every carry; over 2 and 4 ranks of tensor, and with seq; experts over 2 and 4 ranks of theirs; as threads and
# as processes of mpirun.
set -u
shared=${BATON_SHARED:-../shared}
[ -d "$shared/goldens" ] || { echo "skipped: there is no $shared/goldens"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# What MPI itself leaks, and its own threads, are not ours to report.
mpi_asan=${ASAN_OPTIONS:-}:detect_leaks=0
mpi_tsan=${TSAN_OPTIONS:-}:ignore_noninstrumented_modules=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failures=0

# parity RANKS GOLDEN [key=value ...]: RANKS 3 is --ranks 3, mpi3 is mpirun -n 3
parity() {
    local ranks=$1 golden=$2
    local arguments=("$BATON_PROGRAM" parity "$shared/goldens/$golden" --tol 1e-9 "${@:3}")
    case $ranks in
    mpi*) ASAN_OPTIONS=$mpi_asan TSAN_OPTIONS=$mpi_tsan timeout 60 mpirun --oversubscribe -n "${ranks#mpi}" \
        "${arguments[@]}" ;;
    *) timeout 60 "${arguments[@]}" --ranks "$ranks" ;;
    esac >"$log" 2>&1
    local code=$?
    if [ $code -ne 0 ] || ! grep -q "^passed: .*, ${ranks#mpi} rank" "$log"; then
        echo "parity_ranks: $golden over $ranks ranks, ${*:3}: exit code $code: $(tail -3 "$log")"
        failures=$((failures + 1))
    fi
}

"$BATON_PROGRAM" parity "$shared/goldens/llama" mesh.data=2 >"$log" 2>&1
if [ $? != 2 ] || ! grep -q 'mesh.data: 2 ranks have nothing to share' "$log"; then
    echo "parity_ranks: mesh.data=2 is not refused: $(tail -3 "$log")"
    failures=$((failures + 1))
fi

for golden in llama mistral_swa mamba2 mamba falcon_mamba nemotron_h; do
    for ranks in 1 2 3 5; do
        for layout in contiguous zigzag; do
            for carry in gather chain scan; do
                parity $ranks $golden mesh.layout=$layout mesh.carry=$carry
            done
            parity $ranks $golden mesh.layout=$layout mesh.attention=keys
        done
    done
done
for golden in nemotron_h_moe nemotron_h_latent jamba; do
    for ranks in 1 2 3 5; do
        for layout in contiguous zigzag; do
            parity $ranks $golden mesh.layout=$layout
        done
    done
    [ $golden = jamba ] || parity 2 $golden numerics=rank_invariant # its 48 tokens are one chunk
done
for golden in llama mistral_swa mamba2 mamba falcon_mamba nemotron_h nemotron_h_moe nemotron_h_latent jamba; do
    parity 2 $golden mesh.tensor=2
    parity 4 $golden mesh.tensor=4 train.keep=inputs
    parity 4 $golden mesh.tensor=2 mesh.seq=2
    parity 6 $golden mesh.tensor=2 mesh.seq=3 mesh.layout=zigzag mesh.attention=keys
done
parity 4 nemotron_h mesh.tensor=2 mesh.seq=2 numerics=rank_invariant
for golden in nemotron_h_moe nemotron_h_latent jamba; do
    parity 2 $golden mesh.seq=2 mesh.expert=2
    parity 4 $golden mesh.seq=4 mesh.expert=4 mesh.expert_room=0.1 train.keep=inputs
    parity 4 $golden mesh.seq=4 mesh.expert=2 mesh.layout=zigzag
    parity 4 $golden mesh.seq=2 mesh.tensor=2 mesh.expert=2
done

if ! command -v mpirun >/dev/null; then
    echo "processes are left out: there is no mpirun"
    exit $((failures > 0))
fi
mpirun --oversubscribe -n 1 "$BATON_PROGRAM" parity "$shared/goldens/llama" >"$log" 2>&1
if grep -q "no MPI" "$log"; then
    echo "processes are left out: this build has no MPI"
    exit $((failures > 0))
fi
for ranks in mpi2 mpi3; do
    for golden in llama mistral_swa mamba2 mamba falcon_mamba nemotron_h; do
        parity $ranks $golden
    done
    for carry in gather chain scan; do
        parity $ranks nemotron_h mesh.layout=zigzag mesh.carry=$carry
    done
done
for golden in mamba2 jamba nemotron_h_latent; do parity mpi4 $golden mesh.tensor=2 mesh.seq=2; done
for golden in jamba nemotron_h_latent; do parity mpi4 $golden mesh.seq=4 mesh.expert=4 mesh.expert_room=0.3; done
exit $((failures > 0))
