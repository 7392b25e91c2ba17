#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 60
# Wrong usage of each command: the exit code, what stderr says, and nothing made or left; and --help of each command.
set -u
program=${BATON_PROGRAM:?the path of baton}
config=$PWD/configs/smoke_hybrid.yaml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
wrong() {
    echo "usage: $*" >&2
    failures=$((failures + 1))
}
cp "$config" config.yaml
printf 'some text' >text

"$program" >out 2>err </dev/null
[ $? = 2 ] && [ ! -s out ] && grep -q 'baton train' err || wrong "no command: $(cat err)"
for help in --help -h help; do
    "$program" $help >out 2>err || wrong "$help: exit code not 0"
    grep -q 'Exit codes: 0 done, 1 failed, 2 configuration' out && [ ! -s err ] || wrong "$help: $(cat out err)"
done
commands=$(sed -n 's/^  baton \([a-z]*\) .*/\1/p' out)
for command in train eval prepare parity bench inspect; do
    grep -qw $command <<<"$commands" || wrong "$command is not in the list of commands"
done
for command in $commands; do
    for help in --help -h "not-there --help"; do
        # shellcheck disable=SC2086
        "$program" $command $help >out 2>err || wrong "$command $help: exit code not 0"
        grep -q "^usage: baton $command" out && [ ! -s err ] || wrong "$command $help: $(cat out err)"
    done
    "$program" $command --no-such-option >out 2>err
    [ $? = 2 ] && grep -q -- '--no-such-option: no such option' err || wrong "$command --no-such-option: $(cat err)"
done

# arguments | exit code | what stderr says
while IFS='|' read -r arguments code says; do
    # shellcheck disable=SC2086
    "$program" $arguments >out 2>err </dev/null
    got=$?
    [ $got = "$code" ] || wrong "baton $arguments: exit code $got, not $code: $(cat err)"
    grep -qF -- "$says" err || wrong "baton $arguments: '$says' is not in: $(cat err)"
    grep -q '^baton: ' err || wrong "baton $arguments: stderr does not begin with the program's name: $(cat err)"
    [ ! -s out ] || wrong "baton $arguments: stdout is not empty: $(cat out)"
    [ "$(echo *)" = "config.yaml err out text" ] || { wrong "baton $arguments left: $(echo *)"; rm -rf runs x.*; }
done <<'CASES'
trian|2|no command 'trian'; did you mean 'train'?
unheard-of|2|no command 'unheard-of'
train|2|wants one CONFIG
train config.yaml config.yaml|2|wants one CONFIG, a YAML file, and has 2
train train.steps=3|2|wants one CONFIG
train config.yaml --dry-rnu|2|did you mean --dry-run?
train config.yaml --dry-run=yes|2|takes no value
train config.yaml --device|2|--device: a value must follow
train config.yaml --device gpu|2|--device gpu: wants cpu or cuda
train config.yaml --ranks|2|--ranks: a value must follow
train config.yaml --ranks 0 --device cpu|2|--ranks 0: wants a number from 1
train config.yaml --ranks 2x --device cpu|2|--ranks 2x: wants a number from 1
train config.yaml train.precision=bf16 --device cpu|2|train.precision: bf16
eval|2|MODEL and TASK
eval text|2|MODEL and TASK
prepare|2|--tokenizer bytes
prepare --tokenizer bytes|2|--out PREFIX
prepare --tokenizer bytes --out x|2|no TEXT
prepare --tokenizer bytes --out x not-there|1|not-there
prepare --tokenizer not-there --out x text|1|not-there
prepare --tokenizer text --out x text|1|text
prepare --tokenizer bytes --out not/there/x text|1|not/there
parity|2|wants one HF_DIR
parity a b|2|wants one HF_DIR
parity not-there|1|not-there/config.json
parity not-there --tol nil|2|--tol nil: wants a number
parity not-there --tol -1|2|--tol -1: wants a number
bench linaer|2|did you mean 'linear'?
bench --device gpu|2|--device gpu: wants cpu or cuda
bench --precision f8|2|--precision f8: wants f32 or bf16
bench --precision bf16 --device cpu|2|--precision bf16
bench linear train.steps=1|2|train.steps=1
inspect|2|baton inspect CHECKPOINT
inspect a b|2|baton inspect CHECKPOINT
inspect not-there|1|not-there
inspect text|1|text
CASES
exit $((failures > 0))
