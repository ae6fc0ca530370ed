#!/usr/bin/env bash
# The page for people, in a real browser: three members of `kith dev` and a fourth that joins and leaves from its page. Ends
# with 0 if a person could do all of it, with keys alone and on a phone too. What the browser showed is kept in
# KITH_SCREENSHOTS, else in `terminal` of the target directory. Needs chromium, chromedriver (Debian: chromium,
# chromium-driver), Python 3 with venv, and ports 7400 to 7422. integration/dev.sh tells of the variable KITH_BINARY.
set -euo pipefail
cd "$(dirname "$0")/.."

SELENIUM=4.38.0

trial=page
shots="${KITH_SCREENSHOTS:-}"
source integration/dev.sh

shots="${shots:-$target/terminal}"
rm -rf "$shots"
mkdir -p "$shots"
browser="$target/selenium-$SELENIUM"
if [ ! -e "$browser/complete" ]; then
    rm -rf "$browser"
    python3 -m venv "$browser"
    "$browser/bin/pip" install --quiet --disable-pip-version-check "selenium==$SELENIUM"
    touch "$browser/complete"
fi

pid_of() {
    sed -n "s/^  $1 .* pid \([0-9]*\)$/\1/p" "$work/dev.out"
}

start_cluster
third="$(pid_of member3)"
[ -n "$third" ] || fail "kith dev did not tell the pid of member 3"
if ! PYTHONDONTWRITEBYTECODE=1 "$browser/bin/python" integration/terminal/main.py "$kith" "$work" "$shots" "$third"; then
    fail "see above; what the browser showed is in $shots"
fi
echo "page: done in $SECONDS s, what the browser showed is in $shots"
