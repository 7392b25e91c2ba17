#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash launch/quickstart.sh: from a bare Debian 12 to a small hybrid model that was trained, evaluated and sampled on
# this machine's cores, within ten minutes.  Needs no GPU, and no root beyond apt-get.  All it writes is under build/
# and runs/quickstart/; started again, it takes up what is there.
set -eu
cd "$(dirname "$0")/.."
. launch/packages.sh
home=runs/quickstart
report=
began=$SECONDS

part() { # part NAME COMMAND...: runs it and notes how long it took
    local name=$1 from=$SECONDS
    shift
    echo "== $name"
    "$@"
    report+=$(printf '%4d s  %s' $((SECONDS - from)) "$name")$'\n'
}

build() {
    cmake --preset release -DBATON_CUDA=OFF >/dev/null
    cmake --build --preset release --target baton corpus
}

# The text: the chapters of a long collection of questions and answers, in English prose, that Debian ships as the
# package anarchism.  It is unpacked here, not installed.
fetch_text() {
    local page
    mkdir -p $home/package
    if ! ls $home/package/*.deb >/dev/null 2>&1; then
        (cd $home/package && apt-get download -qq anarchism 2>/dev/null) || {
            apt_update && (cd $home/package && apt-get download -qq anarchism)
        }
    fi
    dpkg-deb -x $home/package/*.deb $home/package
    rm -rf $home/text
    mkdir -p $home/text/train $home/text/valid
    local n=0 side
    for page in "$home"/package/usr/share/doc/anarchism/markdown/sec*.md.gz; do
        n=$((n + 1)) side=train
        [ $((n % 16)) -ne 8 ] || side=valid
        plain_text "$page" >"$home/text/$side/$(basename "$page" .md.gz).txt"
    done
    # What the author says twice must not be learned from one side and asked on the other.
    build/corpus drop $home/text/train/*.txt -- $home/text/valid/*.txt
    build/corpus overlap $home/text/train/*.txt -- $home/text/valid/*.txt
}

plain_text() { # plain_text PAGE.md.gz: one paragraph a line, without the markup
    zcat "$1" | awk '
        BEGIN { RS = ""; ORS = "\n\n" }
        { gsub(/(^|\n)[ >]+/, "\n"); gsub(/[ \t]*\n[ \t]*/, " "); print }' | sed -E '
        s/\\([^ ])/\1/g
        s/!\[[^]]*\]\([^)]*\)//g
        s/\[ ?([^][]*)\]\([^()]*\)/\1/g
        s/^ *(#+|[*]) +//
        s/\*\*//g
        s/(^|[^A-Za-z0-9])_+/\1/g
        s/_+($|[^A-Za-z0-9])/\1/g
        s/ +([,.;:?!)])/\1/g
        s/\[ +/[/g
        s/  +/ /g
        s/^ +| +$//g'
}

prepare() {
    local side
    mkdir -p $home/tokens
    for side in train valid; do
        build/baton prepare --tokenizer bytes --out $home/tokens/$side $home/text/$side/*.txt
    done
}

train() { build/baton train configs/quickstart.yaml --device cpu; }

evaluate() {
    build/baton eval $home/run perplexity --device cpu lengths=64,256,512
    echo
    build/baton eval $home/run sample --device cpu --prompt "The question of " tokens=300 temperature=0.7
    echo
}

# shellcheck disable=SC2086
part "packages" need_packages $packages_build
part "build" build
part "text" fetch_text
part "tokens" prepare
part "training" train
part "evaluation" evaluate

loss=$(grep -o '"valid_loss": *[0-9.e+-]*' $home/run/metrics.jsonl | tail -1 | sed 's/.*: *//')
entropy=$(build/corpus entropy $home/text/train/*.txt $home/text/valid/*.txt)
echo "== done in $((SECONDS - began)) s"
printf '%s' "$report"
awk -v loss="${loss:-missing}" 'BEGIN { printf "validation loss                         %.4f nats a byte\n", loss }'
echo "entropy of a byte given the two before  $entropy nats a byte, counted over all of the text"
awk -v loss="${loss:-9}" -v entropy="$entropy" 'BEGIN { exit !(loss <= 2.0 && loss < entropy) }' || {
    echo "The model did not learn what it should have: please look at $home/run/metrics.jsonl" >&2
    exit 1
}
cat <<END
Next:
  $home/run/        the run: config.yaml, metrics.jsonl, checkpoints; a second start continues it
  configs/quickstart.yaml     the model and its training, to change and try again
  build/baton train --help    one of the commands; README.md lists them
  DESIGN.md                   how it is built, and why
END
