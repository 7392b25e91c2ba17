#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# The rules of the house, as a test: tests/tidy.sh [ROOT].  Prints "file:line: reason" for each violation and fails on
# any.  What is checked: DESIGN.md, section 10; the rules about text are in tests/tidy.awk.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$here/..}" || exit 1
folders="base profiling kernels dist model data parallel checkpoints launch configs tests"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jobs=$(nproc)
export LC_ALL=C

say() { echo "$*" >>"$work/found.say"; }

list() { # list NAME-PATTERN...: files of the project, one a line
    local names=() pattern
    for pattern in "$@"; do names+=(-o -name "$pattern"); done
    local here_now=() folder
    for folder in $folders; do [ -d "$folder" ] && here_now+=("$folder"); done
    find "${here_now[@]}" -type f \( "${names[@]:1}" \) | sort
}

check_text() {
    list '*.c' '*.h' '*.cu' '*.cuh' '*.def' '*.sh' '*.awk' '*.yaml' CMakeLists.txt |
        xargs -r awk -f "$here/tidy.awk" >"$work/found.text"
}

check_readmes() {
    local folder n
    for folder in $folders; do
        [ -f "$folder/README.md" ] || { say "$folder/README.md:1: each folder has a README"; continue; }
        n=$(wc -l <"$folder/README.md")
        [ "$n" -le 40 ] || say "$folder/README.md:41: README of $n lines, above 40"
    done
}

check_folders() { # the top level is fixed; hidden and ignored folders do not count
    local folder
    for folder in */; do
        folder=${folder%/}
        case " $folders build runs " in *" $folder "*) continue ;; esac
        case $folder in build-*) continue ;; esac
        say "$folder/:1: the top level is fixed (DESIGN.md, section 1): this folder is not in it"
    done
}

check_headers() { # every header compiles alone, as C17 and as C++17
    local cc=${CC:-gcc} cxx=${CXX:-g++} flags tool name
    for tool in "$cc" "$cxx" pkg-config; do
        command -v "$tool" >/dev/null && continue
        say "tests/tidy.sh:1: $tool is missing: install it to check the headers"
        return
    done
    flags="-I. -fsyntax-only -Wall -Wextra -Werror -Wno-unused -Wno-missing-field-initializers"
    flags+=" $(pkg-config --cflags jansson yaml-0.1 openblas)"
    list '*.h' >"$work/headers"
    for name in $(xargs grep -hoE '^#include <(cuda|cublas|cudnn|cupti|nccl)[^>]*' <"$work/headers" | cut -d'<' -f2 |
        sort -u); do
        echo "#include <$name>" | $cc $flags -x c - 2>"$work/none" && continue
        echo "tidy: $name is not here: headers that include it are not compiled alone"
        xargs grep -L "^#include <$name>" <"$work/headers" >"$work/headers.left"
        mv "$work/headers.left" "$work/headers"
    done
    each 8 "$work/headers" "$cc -std=c17 $flags -x c" >"$work/found.c17"
    each 4 "$work/headers" "$cxx -std=c++17 $flags -x c++" | sed 's/$/ (as C++17)/' >"$work/found.c++17"
}

# each N LIST COMMAND: COMMAND on N files at a time, on all cores; its error lines, those of one call together.
each() {
    xargs -r -P "$jobs" -n "$1" sh -c "e=\$($3 \"\$@\" 2>&1 | grep error:); [ -z \"\$e\" ] || echo \"\$e\"" sh <"$2"
}

check_format() { # another version formats differently, so only version 14 judges
    local tool
    for tool in clang-format-14 clang-format; do
        command -v "$tool" >/dev/null && "$tool" --version | grep -q 'version 14\.' && break
        tool=
    done
    [ -n "$tool" ] || { echo "tidy: no clang-format 14 here: the format is not checked"; return; }
    list '*.c' '*.h' '*.cu' '*.cuh' >"$work/formatted"
    each 8 "$work/formatted" "$tool --dry-run -Werror" | sort -u -t: -k1,1 |
        sed 's/ \[-W.*/: run clang-format -i on the file/' >"$work/found.format"
}

check_headers &
check_format &
check_text
check_readmes
check_folders
wait
n=$(cat "$work"/found.* | wc -l)
cat "$work"/found.*
[ "$n" -eq 0 ] || { echo "tidy: $n lines of violations" && exit 1; }
