#!/usr/bin/env bash
# The clients that people have, against three members: redis-cli, redis-benchmark and two independent libraries.
# Ends with 0 if all of them work. Needs redis-cli and redis-benchmark (Debian: redis-tools), Python 3 with venv, and
# ports 7400 to 7422. integration/dev.sh tells of the variable KITH_BINARY.
set -euo pipefail
cd "$(dirname "$0")/../.."

REDIS_PY=8.1.0
COREDIS=6.9.0
PORTS=(7402 7412 7422)
# Of its default set what is about keys and values; lists, sets, sorted sets and hashes are not offered.
TESTS=ping_inline,ping_mbulk,set,get,incr,mset

trial=clients
source integration/dev.sh

libraries="$target/redis-py-$REDIS_PY-coredis-$COREDIS"
if [ ! -e "$libraries/complete" ]; then
    rm -rf "$libraries"
    python3 -m venv "$libraries"
    "$libraries/bin/pip" install --quiet --disable-pip-version-check "redis==$REDIS_PY" "coredis==$COREDIS"
    touch "$libraries/complete"
fi

# What redis-cli prints for a command at the first member.
says() {
    local expected="$1" got
    shift
    got="$(redis-cli -p "${PORTS[0]}" "$@")"
    [ "$got" = "$expected" ] || fail "redis-cli $*: got '$got', expected '$expected'"
}

start_cluster
says OK SET greeting hello
says hello GET greeting
says hello -3 GET greeting
says 1 EXISTS greeting
says 12 APPEND greeting ' world!'
says 3 INCRBY cli:count 3
redis-cli -p "${PORTS[0]}" LPUSH list x | grep -q "^ERR unknown command 'LPUSH'" || fail "lists are not offered"
[ "$(redis-cli -p "${PORTS[0]}" --scan --pattern 'greet*')" = "greeting" ] || fail "redis-cli --scan"
redis-cli -p "${PORTS[0]}" INFO | grep -q '^redis_version:' || fail "redis-cli INFO"
piped="$(printf 'SET piped:%d v\n' $(seq 500) | redis-cli -p "${PORTS[1]}" --pipe)" || fail "redis-cli --pipe: $piped"
[ "${piped##*$'\n'}" = 'errors: 0, replies: 500' ] || fail "redis-cli --pipe: $piped"
echo "clients: redis-cli works"

redis-benchmark -p "${PORTS[0]}" -t "$TESTS" -n 20000 -c 50 -P 16 -r 10000 --csv >"$work/benchmark.out" 2>"$work/benchmark.err" \
    || fail "redis-benchmark: $(cat "$work/benchmark.err")"
[ "$(grep -c -E '^"(PING|SET|GET|INCR|MSET)' "$work/benchmark.out")" -eq 6 ] || fail "redis-benchmark: $(cat "$work/benchmark.out")"
echo "clients: redis-benchmark works"

"$libraries/bin/python" integration/redis/clients.py "${PORTS[@]}"
kill -0 "$dev"
