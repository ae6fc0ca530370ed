#!/usr/bin/env bash
# Prints the commit before these sources: the first parent of the last commit that changed what the binary is built of, or
# the last commit itself while something of that is changed and not committed. KITH_UPGRADE_FROM names another one.
# A shallow clone is deepened for it, if that can be done. Ends with 1 and what to do where the commit can't be had.
set -euo pipefail
cd "$(dirname "$0")/.."

BUILT_OF=(src Cargo.toml Cargo.lock)

fail() {
    echo "previous commit: $1" >&2
    echo "fetch more of the history (git fetch --deepen=100), name a commit that is here with KITH_UPGRADE_FROM, or do without by KITH_CI_WITHOUT_UPGRADE=1" >&2
    exit 1
}

find_it() {
    if [ -n "${KITH_UPGRADE_FROM:-}" ]; then
        git rev-parse --verify --quiet "$KITH_UPGRADE_FROM^{commit}"
    elif [ -n "$(git status --porcelain -- "${BUILT_OF[@]}")" ]; then
        git rev-parse --verify --quiet HEAD
    else
        # Where the history ends that is here, everything seems to be new, and there is nothing before it.
        git rev-parse --verify --quiet "$(git log -1 --first-parent --format=%H -- "${BUILT_OF[@]}")^"
    fi
}

command -v git >/dev/null || fail "git is not installed"
git rev-parse --git-dir >/dev/null || fail "git knows no repository here"
if ! found="$(find_it)" && [ "$(git rev-parse --is-shallow-repository)" = true ]; then
    GIT_TERMINAL_PROMPT=0 timeout 60 git fetch --quiet --deepen=100 </dev/null >&2 || true
    found="$(find_it)" || true
fi
[ -n "$found" ] || fail "the history that is here does not have it"
echo "$found"
