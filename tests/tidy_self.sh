#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# The test of tests/tidy.sh: a small tree in order passes; each planted violation is found at its place, alone.
set -u
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0
licence='/* SPDX-License-Identifier: Apache-2.0 */'

fresh_tree() {
    rm -rf "${tree:?}"/*
    cp "$here/../.clang-format" "$tree/"
    local folder
    for folder in base profiling kernels dist model data parallel checkpoints launch configs tests; do
        mkdir "$tree/$folder"
        echo "# $folder" >"$tree/$folder/README.md"
    done
    printf '%s\n#ifndef A_H\n#define A_H\nint a_one(int b);\n#endif\n' "$licence" >"$tree/base/a.h"
    printf '%s\n' "$licence" '#include "base/a.h"' '' '/* One more: b = b + 1; the sum is what a caller asks for. */' \
        'int a_one(int b) { return b + 1; }' >"$tree/base/a.c"
}

expect() { # expect WHY PATTERN: the tree has this one violation
    local out
    out=$(bash "$here/tidy.sh" "$tree") && { echo "tidy_self: $1: not found"; failures=1; return; }
    if ! grep -Eq "$2" <<<"$out" || [ "$(grep -vc '^tidy: ' <<<"$out")" -ne 1 ]; then
        printf 'tidy_self: %s: expected one line like %s, found:\n%s\n' "$1" "$2" "$out"
        failures=1
    fi
}

plant() { # plant WHY PATTERN FILE TEXT: a file with the licence line and TEXT (printf escapes)
    fresh_tree
    mkdir -p "$(dirname "$tree/$3")"
    { echo "$licence"; printf %b "$4"; } >"$tree/$3"
    expect "$1" "^$3:$2"
}

lines() { local i; for ((i = 0; i < $1; i++)); do printf '%s\\n' "$2"; done; }

fresh_tree
out=$(bash "$here/tidy.sh" "$tree") || {
    echo "tidy_self: the tree in order is refused: $out"
    failures=1
}

plant 'an arrow that turns back' '2: base/ must not include model/x.h' base/b.c '#include "model/x.h"\n'
plant 'model knows no ranks' '2: model/ must not' model/b.c '#include "dist/mesh.h"\n'
plant 'parallel sees the seams only' '2: parallel/ must not' parallel/b.c '#include "model/layer.h"\n'
plant 'checkpoints see parameters only' '2: checkpoints/ must not' checkpoints/b.c '#include "model/model.h"\n'
plant 'kernels see one profiling header' '2: kernels/ must not' kernels/b.c '#include "profiling/ledger.h"\n'
plant 'an include from the current folder' '2: .*does not start at a folder' base/b.c '#include "a.h"\n'
plant 'YAML outside launch' '2: <yaml.h> belongs to launch/' data/b.c '#include <yaml.h>\n'
plant 'BLAS outside kernels' '2: <cblas.h> belongs to kernels/' model/b.c '#include <cblas.h>\n'
plant 'MPI outside dist' '2: <mpi.h> belongs to dist/' launch/b.c '#include <mpi.h>\n'
plant 'JSON outside base' '2: <jansson.h> belongs to base/' checkpoints/b.c '#include <jansson.h>\n'
plant 'a library nobody placed' '2: <curl/curl.h> is not known' launch/b.c '#include <curl/curl.h>\n'
plant 'memory by hand' '2: memory comes from' data/b.c 'void *b(void) { return malloc(4); }\n'
plant 'release by pointer' '2: memory comes from' data/b.c 'void (*b)(void *) = free;\n'
plant 'environment in the middle' '2: getenv and exit' model/b.c 'char *b(void) { return getenv("X"); }\n'
plant 'exit in the middle' '2: getenv and exit' kernels/b.c 'void b(void) { exit(1); }\n'
plant 'a statement in a comment' '2: commented-out code' base/b.c '/* b = a_one(3); */\nint b;\n'
plant 'a call behind slashes' '2: commented-out code' base/b.c '// a_one(3);\nint b;\n'
plant 'a loop in a long comment' '3: commented-out code' base/b.c \
    '/* Once upon a time:\n * for (;;) {\n * } */\nint b;\n'
plant 'a block switched off' '2: code switched off' base/b.c '#if 0\n#endif\n'
plant 'a left-over note' '2: a left-over note' base/b.c '/* TO''DO: all of it. */\nint b;\n'
plant 'a typedef of a struct' '2: types are named' base/b.c 'typedef struct b c;\n'
plant 'a long line' '2: line of 121 columns' configs/b.yaml "$(printf '#%.0s' {1..121})\\n"
body="$(lines 68 '    c++;')    return c;\n}\n"
plant 'a long function' '3: function of 71 lines' base/b.c \
    "\nint b(int c) {\n$body"
plant 'a long function over two lines' '2: function of 72 lines' base/b.c \
    "int b(int $(printf 'd%.0s' {1..60}),\n      int $(printf 'e%.0s' {1..60})) {\n$body"
plant 'a long file' '500: file of 501 lines' base/b.h "$(lines 500 'struct b;')"
plant 'a long contract' '80: header of 81 lines' kernels/b/b.h "$(lines 80 'struct b;')"
plant 'a header that needs another' '3:.*int64_t' base/b.h '#ifndef __cplusplus\nint64_t b(void);\n#endif\n'
plant 'a header that is no C++' '2:.*as C..17' base/b.h 'int b(int class);\n'
bash "$here/tidy.sh" "$tree" | grep -q '^tidy: no clang-format' ||
    plant 'another format' '2:.*clang-format' base/b.c 'int  b;\n'

fresh_tree; echo 'int b;' >"$tree/base/b.c"
expect 'no licence' '^base/b.c:1: the first line'
fresh_tree; rm "$tree/dist/README.md"
expect 'no README' '^dist/README.md:1: each folder has'
fresh_tree; for _ in {1..40}; do echo; done >>"$tree/dist/README.md"
expect 'a long README' '^dist/README.md:41: README of 41'
fresh_tree; mkdir "$tree/utils"
expect 'a folder that is not in the plan' '^utils/:1: the top level is fixed'
exit $failures
