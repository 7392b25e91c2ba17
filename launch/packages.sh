# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# Debian 12 packages, in one place: sourced by launch/quickstart.sh and tests/run.sh.
packages_build="gcc libc6-dev cmake ninja-build pkg-config libyaml-dev libjansson-dev libxxhash-dev libssl-dev
    libpcre2-dev libisal-dev libopenblas-dev"
# Headers as C++, the fuzzers, the formatter, and worlds of several processes.
packages_test="g++ clang-14 libclang-rt-14-dev clang-format-14 libopenmpi-dev openmpi-bin"

# as_root COMMAND...: as root or with sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "this needs root: $*" >&2; return 1
    fi
}

apt_update() { as_root apt-get update -qq; }

# need_packages NAME...: installs what is missing through apt-get.
need_packages() {
    local name missing=()
    for name in "$@"; do
        dpkg-query -W -f '${Status}\n' "$name" 2>/dev/null | grep -q ' installed$' || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "== installing ${missing[*]}"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
