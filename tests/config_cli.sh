#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A wrong configuration ends `baton train` with exit code 2, says where on stderr and leaves no run folder.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
fail() {
    echo "config_cli: $*"
    sed 's/^/    /' "$work/err"
    failures=$((failures + 1))
}

cat >"$work/good.yaml" <<'YAML'
model:
  width: 16
  vocab: 256
  pattern: "M*-"
  layers:
    M: {kind: mamba2, heads: 2, head_width: 8, state: 8, chunk: 8}
    "*": {kind: attention, heads: 2, kv_heads: 1, head_width: 8}
    "-": {kind: mlp, hidden: 32}
train: {tokens_per_sequence: 16, sequences_per_step: 2, steps: 2}
data: {train: [tokens/text]}
run: {dir: runs/x}
YAML
sed 's/steps: 2}/stesp: 2}/; s/kind: mlp/kind: mpl/' "$work/good.yaml" >"$work/two.yaml"
sed 's/width: 16/width:\t16/' "$work/good.yaml" >"$work/tab.yaml"
sed 's/M\*-"/M*E"/' "$work/good.yaml" >"$work/symbol.yaml"
sed 's/tokens.text/*tokens/' "$work/good.yaml" >"$work/alias.yaml"
printf 'model: [\n' >"$work/syntax.yaml"
: >"$work/empty.yaml"

# why | what stderr must hold | words behind `baton train`
check() {
    local why=$1 wanted=$2 code
    shift 2
    (cd "$work" && "$BATON_PROGRAM" train "$@" --device cpu) >"$work/out" 2>"$work/err"
    code=$?
    [ $code -eq 2 ] || fail "$why: exit code $code, not 2"
    grep -qF -- "$wanted" "$work/err" || fail "$why: stderr lacks '$wanted'"
    [ ! -e "$work/runs" ] || fail "$why: a run folder is left"
    [ ! -s "$work/out" ] || grep -qi device "$work/out" || fail "$why: stdout is not empty"
}
check "a missing file" "nope.yaml: " nope.yaml
check "no file named" "CONFIG"
check "the first of two mistakes" "two.yaml:8:17: model.layers.-.kind: unknown kind 'mpl'" two.yaml
check "the second of two mistakes" "two.yaml:9:57: train.stesp: unknown key; did you mean 'steps'?" two.yaml
check "a tab" "tab.yaml:2:9: a tab" tab.yaml
check "a symbol without a row" "symbol.yaml:4:15: model.pattern: symbol 'E'" symbol.yaml
check "a row without a symbol" "symbol.yaml:8:5: model.layers.-: the pattern never uses" symbol.yaml
check "an alias" "alias.yaml:10:16: data.train: aliases" alias.yaml
check "a syntax error" "syntax.yaml:2:1: YAML syntax" syntax.yaml
check "an empty file" "empty.yaml:1:1: nothing is here" empty.yaml
check "an override misspelt" "train.step=3: train.step: unknown key; did you mean 'steps'?" good.yaml train.step=3
check "an override out of range" "optimizer.lr=-1: optimizer.lr: wants" good.yaml optimizer.lr=-1
check "an override that disagrees" "model.pattern=MQ: model.pattern: symbol 'Q'" good.yaml model.pattern=MQ
check "an option misspelt" "--dry-run" good.yaml --dryrun
check "ranks that do not run yet" "mesh.pipe" good.yaml mesh.pipe=2
check "heads that ranks cannot share" "model.layers.M (mamba2): heads 2 cannot be spread over the 4 ranks" good.yaml \
    mesh.tensor=4
check "a precision that does not run on the CPU" "bf16" good.yaml train.precision=bf16

(cd "$work" && "$BATON_PROGRAM" train good.yaml --device cpu --dry-run) >"$work/out" 2>"$work/err" ||
    fail "the configuration without a mistake does not plan"
grep -q "^stack: 3 layers  M\*-$" "$work/out" || fail "a dry run does not print the stack"
[ ! -e "$work/runs" ] || fail "a dry run leaves a run folder"
exit $((failures > 0))
