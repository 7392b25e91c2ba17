#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 60
# What `cmake --install` puts down is the program, which runs from there, and the configurations.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "install: $*"; exit 1; }
cmake --install "$BATON_BUILD" --prefix "$work/usr" >"$work/log" 2>&1 || fail "$(tail -3 "$work/log")"
"$work/usr/bin/baton" --help | grep -q 'baton train' || fail 'the installed program does not print its usage'
for config in configs/*.yaml; do
    cmp "$config" "$work/usr/share/baton/$config" || fail "$config is not installed"
done
extra=$(cd "$work/usr" && find . -type f ! -path './bin/baton' ! -path './share/baton/configs/*.yaml')
[ -z "$extra" ] || fail "more than the program and its configurations: $extra"
