# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# Debian 12 packages, in one place: sourced by launch/quickstart.sh and tests/run.sh.
packages_build="gcc libc6-dev cmake ninja-build pkg-config libyaml-dev libjansson-dev libxxhash-dev libssl-dev
    libpcre2-dev libisal-dev libopenblas-dev"
# Headers as C++, the fuzzers and the formatter.
packages_test="g++ clang-14 libclang-rt-14-dev clang-format-14"

# need_packages NAME...: installs what is missing through apt-get, as root or with sudo.
need_packages() {
    local name missing=() root=()
    for name in "$@"; do
        dpkg-query -W -f '${Status}\n' "$name" 2>/dev/null | grep -q ' installed$' || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "missing packages; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
            return 1
        }
        root=(sudo)
    fi
    echo "== installing ${missing[*]}"
    "${root[@]}" apt-get update -qq &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
            >/dev/null
}
