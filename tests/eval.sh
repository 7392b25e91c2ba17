# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# baton eval on a run of a few steps: perplexity is the run's own validation loss, does not depend on how the tokens are
# packed into passes, and sees the future nowhere; a sample is a function of its seed; mistakes end with exit code 2.
set -u
program=${BATON_PROGRAM:?the path of baton}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0
wrong() {
    echo "eval: $*" >&2
    failures=$((failures + 1))
}

for i in $(seq 1 400); do
    echo "Line $i says that $((i * i)) is the square of $i, and $((i * 7919 % 1009)) is not."
done >text
head -c 4000 text >valid
for part in text valid; do
    "$program" prepare --tokenizer bytes --out "$part" "$part" >/dev/null || wrong "prepare $part failed"
done
cat >config.yaml <<'YAML'
model:
  width: 24
  vocab: 256
  pattern: "M-*-"
  layers:
    M: {kind: mamba2, heads: 2, head_width: 16, state: 8, groups: 1, conv: 4, chunk: 16}
    "*": {kind: attention, heads: 2, kv_heads: 1, head_width: 12, rope: 1, window: 20}
    "-": {kind: mlp, hidden: 48, activation: swiglu}
train: {tokens_per_sequence: 64, sequences_per_step: 4, steps: 6, precision: f64, valid_sequences: 16}
optimizer: {kind: adamw, lr: 1.0e-2, schedule: constant}
data: {train: [text], valid: [valid], packing: documents}
checkpoint: {every: 3, keep: 2}
run: {dir: run, seed: 1}
YAML
"$program" train config.yaml >train.log 2>&1 || { cat train.log >&2; wrong "train failed"; }

# The number behind the key in a JSON text, of the first object that has it.
number() { grep -o "\"$1\": [^,}]*" "$2" | head -n 1 | sed 's/.*: //'; }
same() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a > 0 && d < 1e-12 * a) }'; }

trained=$(grep -o '"valid_loss": [^,}]*' run/metrics.jsonl | tail -n 1 | sed 's/.*: //')
"$program" eval run perplexity lengths=64 tokens=1024 --json one.json >one.txt 2>&1 ||
    wrong "perplexity failed: $(cat one.txt)"
same "$(number nats one.json)" "$trained" || wrong "perplexity $(number nats one.json), the run's validation $trained"
grep -q '"targets": 1024,' one.json || wrong "16 sequences of 64 have 1024 targets: $(cat one.json)"

# At every length the same tokens are predicted: all but the document's last; a length of 1 sees one token of context.
"$program" eval run/checkpoints/step-00000006 perplexity lengths=4000,1,64,4096 tokens=0 --json all.json >/dev/null \
    2>&1 ||
    wrong "perplexity of all tokens failed"
[ "$(grep -c '"length": [0-9]*, "targets": 3999,' all.json)" = 4 ] || wrong "targets by length: $(cat all.json)"
[ "$(grep -o '"length": [0-9]*' all.json | tr -dc '0-9\n' | tr '\n' ' ')" = "1 64 4000 4096 " ] ||
    wrong "order of lengths: $(cat all.json)"
nats_at() { grep "\"length\": $1" all.json | grep -o '"nats": [^,]*' | sed 's/.*: //'; }
same "$(nats_at 4000)" "$(nats_at 4096)" ||
    wrong "filling behind the last token changes losses: $(nats_at 4000), $(nats_at 4096)"
awk '/"from"/ { gsub(/[^0-9. ]/, ""); n += $2; s += $2 * $3 }
     /"length": 4096/ { gsub(/[^0-9. ]/, ""); want = $3 }
     END { d = s / n - want; exit !(n == 3999 && d < 1e-12 && d > -1e-12) }' all.json ||
    wrong "positions do not add up to the whole: $(cat all.json)"

sample() { "$program" eval run sample --prompt "Line 7" tokens=40 "$@" 2>/dev/null; }
sample >a || wrong "sample failed"
sample >b
sample seed=2 >c
[ "$(wc -c <a)" = 46 ] && [ "$(head -c 6 a)" = "Line 7" ] || wrong "a sample of 40 bytes behind 6: $(wc -c <a)"
cmp -s a b || wrong "the same seed gives two texts"
cmp -s a c && wrong "two seeds give the same text"
sample temperature=0 seed=5 >d
sample temperature=0 seed=6 top_k=3 >e
cmp -s d e || wrong "without temperature the seed matters"
printf 'Line 7' >prompt
"$program" eval run sample --prompt-file prompt tokens=40 2>/dev/null | cmp -s - a ||
    wrong "--prompt-file is another prompt"

# A damaged checkpoint is named and passed over.
cp -r run damaged
shard=damaged/checkpoints/step-00000006/shard-00000-of-00001.safetensors
printf 'XY' | dd of="$shard" bs=1 seek=$(($(wc -c <"$shard") - 9)) conv=notrunc 2>/dev/null
"$program" eval damaged sample >/dev/null 2>err || wrong "a damaged checkpoint stops all: $(cat err)"
grep -q 'step-00000006' err && grep -q 'step-00000003: step 3' err ||
    wrong "the older checkpoint is not used: $(cat err)"
"$program" eval damaged/checkpoints/step-00000006 sample >/dev/null 2>err && wrong "a damaged checkpoint was read"

# why | arguments | what the message names
while IFS='|' read -r why arguments names; do
    # shellcheck disable=SC2086
    "$program" eval $arguments >out 2>err
    code=$?
    [ $code = 2 ] || wrong "$why: exit code $code, not 2"
    grep -q -- "$names" err || wrong "$why: '$names' is not in: $(cat err)"
done <<'CASES'
no task|run|MODEL and TASK
an unknown task|run sampel|did you mean sample
an unknown key|run sample temprature=1|did you mean temperature
a value that is no number|run sample tokens=many|tokens=many
a value out of range|run sample top_k=-1|top_k=-1
a length that is no number|run perplexity lengths=64,x|lengths=x
a length of nothing|run perplexity lengths=0|lengths=0
an unknown option|run sample --promt x|did you mean --prompt
an override of an unknown key|run sample train.precison=f64|train.precison
no such folder|nowhere sample|nowhere
a folder without a model|. sample|checkpoint
two prompts|run sample --prompt a --prompt-file prompt|one of the two
a prompt for perplexity|run perplexity --prompt a|perplexity
--json for a sample|run sample --json x.json|--json
CASES
"$program" eval run sample --prompt "" >/dev/null 2>&1 && wrong "an empty prompt was continued"
[ $failures = 0 ]
