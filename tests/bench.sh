# SPDX-License-Identifier: Apache-2.0
# labels: cpu
# baton bench: results with their yardstick on stdout and as JSON; mistakes of the command line are named.
set -u
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() {
    echo "$1" >&2
    cat "$out"/text >&2
    exit 1
}

"$BATON_PROGRAM" bench fill token_loss --json "$out/bench.json" >"$out/text" 2>&1 || fail "bench does not end well"
grep -q 'fill .* forward .* ms .* GB/s .* % of copy' "$out/text" || fail "no line for fill"
grep -q '"op": "token_loss"' "$out/bench.json" || fail "no object for token_loss in the JSON file"
[ "$(grep -c '"share":' "$out/bench.json")" = "$(grep -c ' ms ' "$out/text")" ] || fail "the JSON file lacks rows"

"$BATON_PROGRAM" bench rmsnrm >"$out/text" 2>&1
[ $? = 2 ] || fail "an unknown op must end with exit code 2"
grep -q "did you mean 'rmsnorm'" "$out/text" || fail "an unknown op must name the nearest one"

CUDA_VISIBLE_DEVICES= "$BATON_PROGRAM" bench fill --device cuda >"$out/text" 2>&1
[ $? = 1 ] || fail "--device cuda must end with exit code 1 where there is no GPU"
grep -q -- '--device cpu' "$out/text" || fail "the failure of --device cuda must say what to do"

"$BATON_PROGRAM" bench fill --device tpu >"$out/text" 2>&1
[ $? = 2 ] || fail "an unknown device must end with exit code 2"
exit 0
