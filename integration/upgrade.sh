#!/usr/bin/env bash
# A rolling upgrade while clients write: three members of the binary before this one (integration/previous-commit.sh says
# of which commit; built without optimization) get this one, one after the other, and the first goes back in the end. At
# each step what is written at any member is there at each other one, whichever of the two it runs; settings that are
# changed at either are in force at both; copies are given up and made again between the two. Ends with 0 if all holds, no
# acknowledged write is lost, and all three hold the same. A binary before that refuses what this one stored, and says
# what to do, is no failure. Needs git, curl, Python 3 and ports 7400 to 7422. integration/dev.sh tells of the variable
# KITH_BINARY.
set -euo pipefail
cd "$(dirname "$0")/.."

MEMBERS=(1 2 3)
# Keys that each member is given at each step: enough for some to have their home at each.
KEYS=12
# Values that make every member's journal long enough to be moved into the store.
LARGE=24
LARGE_BYTES=600000

trial="upgrade"
previous="$(integration/previous-commit.sh)"
source integration/dev.sh
source integration/writes.sh

# The binary is kept for the next run. Dependencies, which are the same, are those of these sources' own builds.
build_previous() {
    local built="$target/previous"
    before="$built/debug/kith"
    if [ "$(cat "$built/commit" 2>/dev/null)" != "$previous" ]; then
        rm -rf "$built"
        mkdir -p "$built/sources"
        # As new files, for cargo builds again what is newer than what it built.
        git archive "$previous" | tar -x -m -C "$built/sources"
        CARGO_TARGET_DIR="$built" CARGO_BUILD_BUILD_DIR="$target" CARGO_INCREMENTAL=0 \
            cargo build --locked --manifest-path "$built/sources/Cargo.toml" --bin kith
        echo "$previous" >"$built/commit"
    fi
}

address() {
    echo "127.0.0.1:74$(($1 - 1))1"
}

step() {
    echo "$trial: $1 ($SECONDS s)"
}

make_files() {
    local number
    (umask 077; "$before" secret >"$work/cluster.secret")
    for number in "${MEMBERS[@]}"; do
        cat >"$work/member$number.toml" <<TOML
name = "member$number"
cluster = "upgraded"
data_dir = "member$number"
seeds = ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]
bootstrap = true
secret_file = "cluster.secret"

[listen]
peers = "127.0.0.1:74$((number - 1))0"
http = "127.0.0.1:74$((number - 1))1"
resp = "127.0.0.1:74$((number - 1))2"

[memory]
journal_bytes = "16MiB"

[create.settings]
replication_factor = 3
TOML
    done
}

running=()

start_member() {
    "$2" serve --config "$work/member$1.toml" >>"$work/member$1.err" 2>&1 &
    running[$1]=$!
    also+=("$!")
}

stop_member() {
    local status=0
    kill -TERM "${running[$1]}"
    wait "${running[$1]}" || status=$?
    [ "$status" -eq 0 ] || fail "member$1 ended with $status, not 0"
}

runs() {
    kill -0 "${running[$1]}" 2>/dev/null
}

is_ready() {
    "$kith" health --address "$(address "$1")"
}

is_ready_or_ended() {
    is_ready "$1" || ! runs "$1"
}

all_is_equal() {
    "$kith" status --wait --timeout 2m --address "$(address 1)" >"$work/wait.out" 2>&1 ||
        fail "not all became equal: $(cat "$work/wait.out")"
}

replace() {
    stop_member "$1"
    writes_go_on
    start_member "$1" "$2"
    eventually 60 is_ready "$1"
    writes_go_on
    all_is_equal
}

# Sends a request about the keys of this test, and expects a status: request STATUS MEMBER METHOD KEY [CURL'S OPTIONS]
request() {
    local status
    status="$(curl -sS -o "$work/answer.out" -w '%{http_code}' -X "$3" "${@:5}" \
        "http://$(address "$2")/v1/kv/exchanged/$4")" || fail "member$2 did not answer $3 $4"
    [ "$status" = "$1" ] || fail "member$2 answered $3 $4 with $status, not $1: $(cat "$work/answer.out")"
}

round=0
counted=0

# What each member is given is there at each other one, as the command line of either binary has it.
exchange() {
    local number key other by told
    round=$((round + 1))
    for number in "${MEMBERS[@]}"; do
        other=$((number % 3 + 1))
        # On condition, so that the key's home is asked.
        for key in $(seq "$KEYS"); do
            request 200 "$number" PUT "$round-$number-$key?consistency=all" -H 'if-none-match: *' --data-binary "$number"
            request 412 "$other" PUT "$round-$number-$key" -H 'if-none-match: *' --data-binary "again"
        done
        for by in "$before" "$kith"; do
            "$by" increment counted 1 --collection exchanged --level all --address "$(address "$number")" >"$work/counted.out"
            counted=$((counted + 1))
        done
    done
    for number in "${MEMBERS[@]}"; do
        for by in "$before" "$kith"; do
            "$by" watch "$round-" --collection exchanged --json --until-synced --address "$(address "$number")" >"$work/watch.out"
            told="$(awk '/"event":"reset"/ { told = 0 } /"event":"put"/ { told += 1 } END { print told + 0 }' "$work/watch.out")"
            [ "$told" -eq $((3 * KEYS)) ] || fail "member$number tells $told of $((3 * KEYS)) keys: $(cat "$work/watch.out")"
            told="$("$by" get counted --collection exchanged --level quorum --address "$(address "$number")")"
            [ "$told" -eq "$counted" ] || fail "member$number counted $told of $counted increments"
        done
    done
    for number in "${MEMBERS[@]}"; do
        request 200 "$number" DELETE "$round-$number-1?consistency=all"
        for other in "${MEMBERS[@]}"; do
            request 404 "$other" GET "$round-$number-1"
        done
    done
    step "round $round: what each was given is at each other one"
}

has_setting() {
    "$kith" settings show --address "$(address "$1")" | grep -Eq "^${2/=/ +} "
}

# A change that one member is asked for is in force at all: change_settings BINARY MEMBER NAME=VALUE…
change_settings() {
    local number setting
    "$1" settings set "${@:3}" --address "$(address "$2")" >"$work/settings.out"
    for number in "${MEMBERS[@]}"; do
        for setting in "${@:3}"; do
            eventually 5 has_setting "$number" "$setting"
        done
    done
    all_is_equal
    step "member$2 was asked for ${*:3}, and all have it"
}

large_values() {
    local number
    for number in $(seq "$LARGE"); do
        printf '{"collection":"large","key":"%s","value":"%s"}\n' "$number" "$(head -c "$LARGE_BYTES" /dev/urandom | base64 -w 0)"
    done
}

has_moved_its_journal() {
    curl -sSf "http://$(address "$1")/metrics" >"$work/metrics.out"
    grep -q '^kith_checkpoints_total [1-9]' "$work/metrics.out"
}

exports() {
    "$kith" export --collection "$2" --address "$(address "$1")" -
}

# The first member goes back to the binary before, if that one knows how to read what this one stored.
go_back() {
    local status=0
    stop_member 1
    start_member 1 "$before"
    eventually 60 is_ready_or_ended 1
    if runs 1; then
        step "member1 runs the binary before again"
        return
    fi
    wait "${running[1]}" || status=$?
    tail -n 1 "$work/member1.err" >"$work/refusal.out"
    if [ "$status" -eq 0 ] || ! grep -Eq 'this version of kith' "$work/refusal.out"; then
        fail "the binary before ended with $status and did not say why"
    fi
    step "the binary before does not start with what this one stored, and says: $(cat "$work/refusal.out")"
    : >"$work/member1.err"
    start_member 1 "$kith"
    eventually 60 is_ready 1
}

# What a member can't read ends a link, which is made anew: nothing but its log would tell.
nobody_complains() {
    ! grep -E ' ERROR |a frame (is cut off|has an impossible|carries a bad)|the end of a frame|to this version' \
        "$work"/member?.err || fail "members complain of each other"
}

build_previous
step "$("$before" --version) of $previous is built"
make_files
for number in "${MEMBERS[@]}"; do
    start_member "$number" "$before"
done
for number in "${MEMBERS[@]}"; do
    eventually 60 is_ready "$number"
done
large_values >"$work/large.jsonl"
"$before" import --level all --address "$(address 2)" "$work/large.jsonl" >"$work/import.out" 2>&1 ||
    fail "the import failed: $(cat "$work/import.out")"
for number in "${MEMBERS[@]}"; do
    eventually 30 has_moved_its_journal "$number"
done
exports 1 large >"$work/large.before"
start_writer first "$(address 1)" "$(address 2)" "$(address 3)"
start_writer second "$(address 3)" "$(address 1)" "$(address 2)"
writes_go_on
step "three members of the binary before are a cluster"

replace 1 "$kith"
step "member1 is upgraded"
exchange
# Fewer copies: from here on members ask each other for what they do not hold.
change_settings "$before" 2 write_timeout=2s replication_factor=2
exchange
replace 2 "$kith"
step "member2 is upgraded"
exchange
change_settings "$kith" 1 write_timeout=3s replication_factor=3
exchange
replace 3 "$kith"
step "member3 is upgraded"
go_back
writes_go_on
exchange

stop_writers
cat "$work/first.out" "$work/second.out"
all_is_equal
nobody_complains
for number in "${MEMBERS[@]}"; do
    nothing_is_lost_on "member$number" exports "$number" default
    exports "$number" large | cmp - "$work/large.before" || fail "member$number has other values than were stored"
    for collection in default exchanged; do
        exports "$number" "$collection" >"$work/$collection.$number"
        cmp "$work/$collection.1" "$work/$collection.$number" || fail "member1 and member$number hold different records"
    done
done
step "done"
