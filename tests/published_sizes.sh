#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The published models have the published number of parameters, to the last one: counted by `baton plan`, without heads
# that predict further tokens, which published numbers leave out; and those of the head of one, by hand.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
while read -r name wanted; do
    "$BATON_PROGRAM" plan "configs/$name.yaml" >"$work/out" 2>&1
    found=$(sed -n 's/^  of them [0-9]* in prediction heads, \([0-9]*\) without/\1/p' "$work/out")
    [ "$found" ] || found=$(sed -n 's/^parameters: \([0-9]*\),.*/\1/p' "$work/out")
    [ "$found" = "$wanted" ] && continue
    echo "published_sizes: $name has $wanted parameters, not ${found:-$(tail -1 "$work/out")}" >&2
    failures=$((failures + 1))
done <<'TABLE'
mamba_130m 129135360
mamba_2_8b 2768345600
falcon_mamba_7b 7272665088
jamba_1_5_mini 51570323328
jamba_1_5_large 398555145696
nemotron_h_8b 8100852736
nemotron_3_nano_30b 31577940288
nemotron_3_super_120b 120668707840
TABLE
# Attention, experts over a latent projection, the projection into the head, and five norms.
d=4096
attention=$((2 * d * d + 2 * d * 256))
experts=$((512 * 2 * 1024 * 2688 + 512 * d + 512 + 2 * d * 5376 + 2 * d * 1024))
wanted=$((attention + experts + d * 2 * d + 5 * d))
"$BATON_PROGRAM" plan configs/nemotron_3_super_120b.yaml >"$work/out" 2>&1
if ! grep -q "of them $wanted in prediction heads" "$work/out"; then
    echo "published_sizes: the head of nemotron_3_super_120b has $wanted parameters: $(grep 'of them' "$work/out")" >&2
    failures=$((failures + 1))
fi
exit $((failures > 0))
