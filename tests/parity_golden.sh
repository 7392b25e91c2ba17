#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# baton parity on small published architectures whose logits, loss and gradients an independent implementation computed:
# 1e-9 in F64, 1e-4 in F32.  A tolerance that cannot be met, and a golden value that is wrong, are found.
set -u
goldens=${BATON_SHARED:-}/goldens
[ -d "$goldens" ] || { echo "skipped: no goldens in ${BATON_SHARED:-\$BATON_SHARED}"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
wrong() {
    echo "parity_golden: $*" >&2
    failures=$((failures + 1))
}
for model in llama mistral_swa mamba2 mamba falcon_mamba nemotron_h nemotron_h_moe nemotron_h_latent jamba; do
    for run in "f64 1e-9" "f32 1e-4"; do
        read -r precision tol <<<"$run"
        "$BATON_PROGRAM" parity "$goldens/$model" --tol "$tol" train.precision="$precision" --device cpu \
            >"$work/out" 2>&1 ||
            wrong "$model in $precision within $tol: $(grep -v '[0-9]$' "$work/out" | head -5)"
        grep -q '^logits ' "$work/out" && grep -q '^loss ' "$work/out" || wrong "$model: no row of logits or loss"
        rows=$(grep -c '^grad\.' "$work/out")
        [ "$rows" -ge 9 ] || wrong "$model: $rows gradients were compared"
        awk -v name="$model $precision" '/^(logits|loss|grad\.)/ && $3 + 0 > most { most = $3 + 0 }
            END { if (most > 0) printf "%s: largest relative error %.1e\n", name, most }' "$work/out"
    done
done

cp -r "$goldens/llama" "$work/other"
"$BATON_PROGRAM" parity "$work/other" --tol 1e-20 --device cpu >"$work/out" 2>&1
[ $? = 1 ] || wrong "a tolerance of 1e-20 was met"
golden=$work/other/golden.safetensors
bytes=$(wc -c <"$golden")
printf '\377\377\377\077' | dd of="$golden" bs=1 seek=$((bytes - 64)) conv=notrunc 2>/dev/null
"$BATON_PROGRAM" parity "$work/other" --device cpu >"$work/out" 2>&1
[ $? = 1 ] || wrong "a golden value was changed and nothing found: $(tail -n 1 "$work/out")"
exit $((failures > 0))
