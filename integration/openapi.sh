#!/usr/bin/env bash
# Whether the served description of HTTP is true: a schema-driven tester tries every operation in it against a
# running member, with what it allows and with what it forbids, and judges every answer by it. Left out is what would
# end the member, reach for others, lock the tester out, or never end. Ends with 0 if all holds. Needs Python 3 with venv.
# KITH_BINARY names a binary to be tried instead of a debug build of these sources.
set -euo pipefail
cd "$(dirname "$0")/.."

TESTER_VERSION=4.32.5
# So many requests for each operation and phase.
EXAMPLES="${KITH_OPENAPI_EXAMPLES:-60}"

target="$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')"
kith="${KITH_BINARY:-$target/debug/kith}"
[ -n "${KITH_BINARY:-}" ] || cargo build --locked --bin kith
tester="$target/openapi-$TESTER_VERSION"
if [ ! -x "$tester/bin/schemathesis" ]; then
    rm -rf "$tester"
    python3 -m venv "$tester"
    "$tester/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$TESTER_VERSION"
fi

work="$(mktemp -d)"
member=""

finish() {
    status=$?
    if [ -n "$member" ] && kill -0 "$member" 2>/dev/null; then
        kill -TERM "$member" || true
        wait "$member" || true
    fi
    if [ "$status" -ne 0 ]; then
        echo "openapi: FAILED; the last lines of the member's log follow" >&2
        tail -n 20 "$work/member.log" >&2 || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

# Free when they were looked for; a member that finds one taken ends, and says so.
read -r peers http < <(python3 - <<'PYTHON'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in sockets))
PYTHON
)
(umask 077; "$kith" secret >"$work/secret")
cat >"$work/member.toml" <<TOML
name = "one"
cluster = "described"
data_dir = "data"
seeds = []
bootstrap = true
secret_file = "secret"

[listen]
peers = "127.0.0.1:$peers"
http = "127.0.0.1:$http"
resp = "off"
TOML
"$kith" serve --config "$work/member.toml" >"$work/member.log" 2>&1 &
member=$!

address="http://127.0.0.1:$http"
for attempt in $(seq 150); do
    kill -0 "$member" || exit 1
    "$kith" health --address "127.0.0.1:$http" >/dev/null 2>&1 && break
    [ "$attempt" -lt 150 ] || exit 1
    sleep 0.2
done

config="$PWD/integration/openapi.toml"
export PYTHONPATH="$PWD/integration/openapi" PYTHONDONTWRITEBYTECODE=1 SCHEMATHESIS_HOOKS=bounded
# It leaves notes where it runs.
cd "$work"
"$tester/bin/schemathesis" --config-file "$config" run "$address/v1/openapi.json" \
    --max-examples "$EXAMPLES" --seed 1 --exclude-operation-id leave --exclude-operation-id remove \
    --exclude-operation-id join --exclude-operation-id createToken --exclude-operation-id watch

kill -0 "$member"
echo "openapi: the description is true"
