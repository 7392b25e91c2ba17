#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 60
# No two sources define one global name: out of a static library the linker takes one of them without a word.
set -u
library=$BATON_BUILD/libbaton_core.a
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v nm >/dev/null || { echo "skipped: nm is missing"; exit 77; }
# clashes LIBRARY: global names that are defined in two of its members.
clashes() { nm -g --defined-only "$1" 2>/dev/null | awk 'NF == 3 && $2 ~ /[TDBRCS]/ { print $3 }' | sort | uniq -d; }

failures=0
names=$(clashes "$library")
for name in $names; do
    echo "name_clash: $name is defined in: $(nm -A -g --defined-only "$library" 2>/dev/null |
        awk -v name="$name" '$NF == name { sub(/.*\.a:/, "", $1); print $1 }' | tr '\n' ' ')"
    failures=1
done
n=$(nm -g --defined-only "$library" 2>/dev/null | awk 'NF == 3 && $2 == "T"' | wc -l)
[ "$n" -ge 300 ] || { echo "name_clash: $n functions in $library: the list is not read rightly"; failures=1; }

# The check finds a clash that is planted.
printf 'int twice(void);\nint twice(void) { return 1; }\n' >"$work/one.c"
cp "$work/one.c" "$work/two.c"
for part in one two; do "${CC:-cc}" -c "$work/$part.c" -o "$work/$part.o" || failures=1; done
ar rc "$work/planted.a" "$work/one.o" "$work/two.o" || failures=1
[ "$(clashes "$work/planted.a")" = twice ] || { echo "name_clash: a planted clash is not found"; failures=1; }
exit $failures
