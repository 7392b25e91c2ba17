#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The published models have the published number of parameters, to the last one: counted by `baton plan`.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
while read -r name wanted; do
    "$BATON_PROGRAM" plan "configs/$name.yaml" >"$work/out" 2>&1
    found=$(sed -n 's/^parameters: \([0-9]*\),.*/\1/p' "$work/out")
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
exit $((failures > 0))
