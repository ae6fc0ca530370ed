#!/usr/bin/env bash
# Whether the documents are true. Their commands are run, each document's in order, in a directory of its own, against
# real members; what they print is compared with what the document says. And every link and anchor in them leads
# somewhere, every command, option, variable and route of kith that they name is there, and so is every test, file and
# module. Ends with 0 if all holds; else tells document, line and what is wrong. integration/documents/main.py says how
# blocks are marked. Each document has network and processes of its own, so ports 7400 to 7432 may be taken here, and
# all that was started ends with it. Needs unshare (and to be root, or allowed to make user namespaces), Python 3, curl,
# pgrep; blocks that need redis-cli, openssl or dpkg-query are passed over, and told, where these are missing.
# KITH_BINARY names a binary to be tried instead of a debug build of these sources.
set -euo pipefail
cd "$(dirname "$0")/.."

trial=documents
for program in unshare python3 curl pgrep; do
    if ! command -v "$program" >/dev/null; then
        echo "$trial: there is no $program here; Debian has it in util-linux, python3, curl and procps" >&2
        exit 1
    fi
done
target="$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')"
kith="${KITH_BINARY:-$target/debug/kith}"
[ -n "${KITH_BINARY:-}" ] || cargo build --locked --bin kith

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
PYTHONDONTWRITEBYTECODE=1 python3 integration/documents/main.py "$(realpath "$kith")" "$work"
echo "$trial: done in $SECONDS s"
