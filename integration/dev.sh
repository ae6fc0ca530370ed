# Sourced by what tries a whole cluster: builds the binary, starts `kith dev` with three members, and ends it.
# Whoever sources this has gone to the repository's root and said in `trial` what it is called in messages. It gets
# $kith, $target, an empty directory $work, which goes at the end, fail, eventually, start_cluster and stop_cluster; and
# what it starts itself is ended with the rest if it adds the process ids to the array $also.
# KITH_BINARY names a binary to be tried instead of a release build of these sources. Needs ports 7400 to 7422.

target="$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')"
kith="${KITH_BINARY:-$target/release/kith}"
[ -n "${KITH_BINARY:-}" ] || cargo build --release --locked --bin kith
work="$(mktemp -d)"
# What is shown to other members, or found at others, is not for this one.
for name in "${!KITH_@}"; do
    [ "$name" = KITH_BINARY ] || unset "$name"
done
dev=""
also=()

finish() {
    status=$?
    for process in "${also[@]}"; do
        kill -TERM "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    if [ -n "$dev" ] && kill -0 "$dev" 2>/dev/null; then
        kill -TERM "$dev" || true
        wait "$dev" || true
    fi
    if [ "$status" -ne 0 ]; then
        echo "$trial: FAILED; the last lines of every log follow" >&2
        tail -n 20 "$work"/*.out "$work"/*.err "$work"/cluster/*.log >&2 || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

fail() {
    echo "$trial: $1" >&2
    exit 1
}

# Waits until a command succeeds, so many seconds at most.
eventually() {
    local seconds="$1" deadline
    shift
    deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "this did not come true in $seconds s: $*"
        sleep 0.2
    done
}

start_cluster() {
    "$kith" dev --data-dir "$work/cluster" >"$work/dev.out" 2>"$work/dev.err" &
    dev=$!
    eventually 90 cluster_is_announced
}

cluster_is_announced() {
    kill -0 "$dev" 2>/dev/null || fail "kith dev ended: $(cat "$work/dev.err")"
    grep -q 'Ctrl-C stops them all' "$work/dev.out"
}

stop_cluster() {
    local expected="$1" status=0
    kill -INT "$dev"
    wait "$dev" || status=$?
    dev=""
    [ "$status" -eq "$expected" ] || fail "kith dev ended with $status, not $expected"
}
