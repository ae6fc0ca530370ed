#!/usr/bin/env bash
# The main job, end to end, as a person would do it: a real cluster of three processes, real data, one member
# killed meanwhile, everything found. Ends with 0 if all of it holds. Needs curl and ports 7400 to 7422.
# integration/dev.sh tells of the variable KITH_BINARY.
set -euo pipefail
cd "$(dirname "$0")/.."

MIN_RECORDS=50000
ONE=127.0.0.1:7401
TWO=127.0.0.1:7411

trial="main job"
source integration/dev.sh

pid_of() {
    sed -n "s/^  $1 .* pid \([0-9]*\)$/\1/p" "$work/dev.out"
}

# One name a line: packages and words of this machine, filled up with its files.
real_names() {
    if command -v apt-cache >/dev/null; then apt-cache pkgnames; fi
    if [ -r /usr/share/dict/words ]; then cat /usr/share/dict/words; fi
    find /usr "$target" -type f 2>/dev/null || true
}

# Every key with a value that follows from it, as JSON Lines. Names with quotes, backslashes or bytes that
# are not ASCII are left to other tests.
make_data() {
    real_names | LC_ALL=C grep -a '^[ !#-[^-~]\{1,200\}$' | LC_ALL=C grep -av '\]' | LC_ALL=C sort -u |
        awk -v most="$((MIN_RECORDS + 20000))" 'NR <= most { printf "{\"key\":\"%s\",\"value\":\"%d %s\"}\n", $0, length($0), $0 }' >"$work/data.jsonl"
    records="$(wc -l <"$work/data.jsonl")"
    [ "$records" -ge "$MIN_RECORDS" ] || fail "only $records names were found on this machine"
}

expect_exit() {
    local expected="$1" status=0
    shift
    "$@" >"$work/last.out" 2>"$work/last.err" || status=$?
    [ "$status" -eq "$expected" ] || fail "\`$*\` ended with $status, not $expected: $(cat "$work/last.err")"
}

everything_is_on() {
    "$kith" export --address "$1" >"$work/export.out"
    LC_ALL=C sort "$work/export.out" | cmp -s - "$work/expected"
}

echo "main job: $kith, files in $work"
make_data
# An export says of what lasts that it does.
sed 's/}$/,"ttl":"none"}/' "$work/data.jsonl" | LC_ALL=C sort >"$work/expected"

start_cluster
echo "main job: the cluster is up after $SECONDS s"
expect_exit 0 "$kith" health --address "$ONE"
expect_exit 0 "$kith" status --json --address "$ONE"
expect_exit 0 "$kith" members --address "$TWO"
expect_exit 0 "$kith" settings show --address "$TWO"

# A bad line is named and does not stop the rest.
printf '{"key":"bad-1","value":"x","collection":"scratch"}\nnonsense\n' >"$work/bad.jsonl"
expect_exit 1 "$kith" import --address "$ONE" "$work/bad.jsonl"
grep -q 'line 2' "$work/last.err" || fail "the bad line was not named"

# Half of the data, then member 3 dies, then the rest.
half=$((records / 2))
head -n "$half" "$work/data.jsonl" >"$work/first.jsonl"
tail -n +"$((half + 1))" "$work/data.jsonl" >"$work/second.jsonl"
before=$SECONDS
"$kith" import --address "$ONE" "$work/first.jsonl"
"$kith" import --address "$ONE" "$work/second.jsonl" >"$work/import.out" 2>"$work/import.err" &
import=$!
third="$(pid_of member3)"
[ -n "$third" ] || fail "kith dev did not tell the pid of member 3"
kill -9 "$third"
wait "$import" || fail "the import failed while a member died: $(cat "$work/import.err")"
echo "main job: $records records imported in $((SECONDS - before)) s, member 3 killed meanwhile"
eventually 60 everything_is_on "$TWO"
eventually 60 everything_is_on "$ONE"
echo "main job: every key found on members 1 and 2"
grep -q 'member3' "$work/dev.err" || eventually 10 grep -q member3 "$work/dev.err"

# Single keys, while the member is dead.
expect_exit 0 "$kith" put --collection scratch greeting hello --address "$ONE"
expect_exit 0 "$kith" get --collection scratch greeting --address "$TWO"
[ "$(cat "$work/last.out")" = hello ] || fail "read $(cat "$work/last.out") instead of hello"
expect_exit 0 "$kith" delete --collection scratch greeting --address "$TWO"
expect_exit 1 "$kith" get --collection scratch greeting --address "$ONE"
expect_exit 2 "$kith" get
curl -sSf -X PUT --data-binary 'by curl' "http://$ONE/v1/kv/scratch/curl" >/dev/null
[ "$(curl -sSf "http://$TWO/v1/kv/scratch/curl")" = 'by curl' ] || fail "curl read something else"
# Into a file: a pipe would end before curl has written all, and that counts as a failure.
curl -sSf "http://$ONE/metrics" >"$work/metrics.out" || fail "the metrics could not be read"
grep -q '^kith_' "$work/metrics.out" || fail "there are no metrics"

# All stop in order; a second start finds the data and brings member 3 back.
stop_cluster 0
start_cluster
eventually 60 everything_is_on "$TWO"
eventually 60 everything_is_on 127.0.0.1:7421
stop_cluster 0
expect_exit 1 "$kith" get greeting --address "$ONE"
grep -q 'kith dev' "$work/last.err" || fail "nothing was said about what to do when nobody listens"
echo "main job: done in $SECONDS s"
