#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# coverage.sh PROGRAM OBJECT_FOLDER CORPUS: the share of a reader's lines that its kept corpus reaches, of all its
# source files together; below 90 % is a failure.  PROGRAM is a replay of the corpus built by gcc with --coverage.
set -eu
program=$1 objects=$2 corpus=$3
export LC_ALL=C
find "$objects" -name '*.gcda' -delete
"$program" "$corpus" >/dev/null
# The target itself and replay_main.c are not the reader.
find "$objects" -name '*.gcda' ! -name 'fuzz_*' ! -name 'replay_main*' -print0 |
    xargs -0 gcov -n |
    awk -v least=90 '
        /^File / { file = $2; gsub("\047", "", file); counted = file ~ /\.c$/ && file !~ /^\/usr\// }
        /^Lines executed:/ && counted {
            split($2, share, /[:%]/)
            printf "%7.2f %% of %4d lines  %s\n", share[2], $4, file
            hit += share[2] / 100 * $4
            lines += $4
            counted = 0
        }
        END {
            if (!lines) { print "coverage: no line was counted: is the reader built with --coverage?"; exit 1 }
            printf "%7.2f %% of %4d lines, at least %d %% wanted\n", 100 * hit / lines, lines, least
            exit 100 * hit / lines < least
        }'
