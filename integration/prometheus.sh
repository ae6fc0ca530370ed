#!/usr/bin/env bash
# Whether what the repository has for Prometheus and Grafana is true: promtool looks at the metrics of real members
# and tries every alert; a real Prometheus, configured as in examples/compose, scrapes three members, evaluates the
# rules, finds every series that rules and dashboard name, and notices that a member is killed; and Grafana would find its
# source and dashboard where the example has them. Ends with 0 if all holds.
# Needs curl, Python 3 with PyYAML, prometheus and promtool (Debian has both in the package prometheus), and ports 7400
# to 7422.
# integration/dev.sh tells of the variable KITH_BINARY.
set -euo pipefail
cd "$(dirname "$0")/.."

EXAMPLES=examples/compose
RULES="$EXAMPLES/prometheus/alerts.yml"
DASHBOARD="$EXAMPLES/grafana/dashboards/kith.json"
MEMBERS=(127.0.0.1:7401 127.0.0.1:7411 127.0.0.1:7421)

trial="prometheus"
for program in prometheus promtool curl python3; do
    if ! command -v "$program" >/dev/null; then
        echo "$trial: there is no $program here; Debian has it in the package ${program/promtool/prometheus}" >&2
        exit 1
    fi
done
source integration/dev.sh

# Of every alert it must be shown that it fires.
every_alert_is_tried() {
    local alert
    while read -r alert; do
        grep -q "labels: 'ALERTS{.*alertname=\"$alert\"" integration/prometheus/alerts_test.yml ||
            fail "integration/prometheus/alerts_test.yml does not make $alert fire"
    done < <(sed -n 's/^ *- alert: //p' "$RULES")
}

answers() {
    python3 integration/prometheus/answers.py "http://$prometheus" "${dashboard:-$DASHBOARD}" "$@"
}

count_is() {
    [ "$(answers count "$2")" = "$1" ]
}

is_above() {
    answers value "$2" | awk -v least="$1" '{ exit !($1 > least) }'
}

alert_fires() {
    answers alerts firing | grep -qx "$1"
}

nothing_fires() {
    answers alerts firing >"$work/firing.out"
    [ ! -s "$work/firing.out" ]
}

series_are_there() {
    answers series >"$work/series.out" 2>&1
}

write_for_ever() {
    local round=0
    while true; do
        round=$((round + 1))
        seq 500 | sed "s/.*/{\"key\":\"key\/&\",\"value\":\"$round\"}/" >"$work/written.jsonl"
        "$kith" import --address "${MEMBERS[0]}" "$work/written.jsonl" >"$work/import.out" 2>"$work/import.err" || return 1
        "$kith" get --address "${MEMBERS[1]}" key/1 >"$work/get.out" 2>"$work/get.err" || return 1
        sleep 0.2
    done
}

# Grafana is not at hand, so its files are looked at; and of the check itself it is shown that it notices what is wrong.
python3 integration/prometheus/grafana.py "$EXAMPLES" || fail "Grafana would not show the dashboard"
for change in 's/uid: prometheus/uid: other/' 's/prometheus:9090/prometheus:9091/' 's/timeInterval: .*/timeInterval: 1h/' 's/: 1$/: [/'; do
    rm -rf "$work/example"
    cp -r "$EXAMPLES" "$work/example"
    sed -i "$change" "$work/example/grafana/provisioning/datasources/prometheus.yml"
    ! python3 integration/prometheus/grafana.py "$work/example" >"$work/wrong.out" 2>&1 || fail "nothing was noticed after $change"
    grep -Eq 'no source|no service|another interval|can.t be read' "$work/wrong.out" ||
        fail "the check failed otherwise: $(cat "$work/wrong.out")"
done
echo "$trial: Grafana would find its source and dashboard"

promtool check rules "$RULES"
promtool check config "$EXAMPLES/prometheus/prometheus.yml"
every_alert_is_tried
promtool test rules integration/prometheus/alerts_test.yml

start_cluster
for member in "${MEMBERS[@]}"; do
    curl -sSf "http://$member/metrics" >"$work/metrics.out" || fail "the metrics of $member could not be read"
    promtool check metrics <"$work/metrics.out" >"$work/lint.out" 2>&1 ||
        fail "promtool complains of the metrics of $member: $(cat "$work/lint.out")"
    [ ! -s "$work/lint.out" ] || fail "promtool says of the metrics of $member: $(cat "$work/lint.out")"
done
echo "$trial: promtool has nothing to say about the metrics of three members"

# The configuration of the example with other addresses and less patience: once a second, and alerts fire after 2 s.
cp "$EXAMPLES"/prometheus/*.yml "$work"
for index in 0 1 2; do
    sed -i "s/- member$((index + 1)):7401/- ${MEMBERS[$index]}/" "$work/prometheus.yml"
    grep -q "^ *- ${MEMBERS[$index]}$" "$work/prometheus.yml" || fail "prometheus.yml does not name member$((index + 1)):7401"
done
sed -i 's/^\( *\(scrape\|evaluation\)_interval\): .*/\1: 1s/' "$work/prometheus.yml"
# A Prometheus that also scrapes what is no kith, and does not answer.
printf '  - job_name: other\n    static_configs:\n      - targets: ["127.0.0.1:1"]\n' >>"$work/prometheus.yml"
sed -i 's/^\( *for\): .*/\1: 2s/' "$work/alerts.yml"

# Free when it was looked for; a Prometheus that finds it taken ends, and says so.
prometheus="127.0.0.1:$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')"
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/prometheus" \
    --web.listen-address="$prometheus" >"$work/prometheus.out" 2>"$work/prometheus.err" &
server=$!
also+=("$server")
eventually 30 curl -sSf "http://$prometheus/-/ready"
write_for_ever &
writer=$!
also+=("$writer")

eventually 30 count_is 3 'up{job="kith"} == 1'
eventually 30 is_above 0 'sum(rate(kith_operations_total{op="set", outcome="ok"}[10s]))'
eventually 30 is_above 0 'sum(rate(kith_http_requests_total[10s]))'
eventually 30 count_is 3 'kith_ready == 1'
echo "$trial: a real Prometheus scrapes three members and answers"

# A first evaluation of all rules is needed, and of members that have just met some alerts may be true for a moment.
eventually 30 answers rules
(eventually 60 series_are_there) || fail "rules and dashboard name what is not there: $(cat "$work/series.out")"
(eventually 60 nothing_fires) || fail "of a healthy cluster these alerts fire: $(cat "$work/firing.out")"
sleep 5
nothing_fires || fail "of a healthy cluster these alerts fire: $(cat "$work/firing.out")"
kill -0 "$writer" || fail "writing failed: $(cat "$work/import.err" "$work/get.err")"
[ "$(answers count 'up{job="other"} == 0')" = 1 ] ||
    fail "the target that is no kith is not down"
for panel in "Members that don't answer=0.0" "Members that answer=3.0"; do
    [ "$(answers panel "${panel%=*}")" = "${panel#*=}" ] ||
        fail "beside another job the dashboard says \"${panel%=*}\": $(answers panel "${panel%=*}")"
done
echo "$trial: every series of rules and dashboard is there, and no alert fires"

# The check itself: it must notice a metric and a label that there are not.
for change in 's/kith_table_bytes{/kith_tables_bytes{/' 's/kith_operations_total{job/kith_operations_total{sort=\\"set\\", job/'; do
    sed "$change" "$DASHBOARD" >"$work/wrong.json"
    ! dashboard="$work/wrong.json" answers series >"$work/wrong.out" 2>&1 || fail "nothing was noticed after $change"
    grep -q 'no member has' "$work/wrong.out" || fail "the check failed otherwise: $(cat "$work/wrong.out")"
done

# With tokens, as the example says it in comments.
kill -TERM "$writer"
wait "$writer" || true
admin="$("$kith" token create admin --role admin --address "${MEMBERS[0]}" 2>"$work/admin.err")"
eventually 30 count_is 3 'up{job="kith"} == 0'
(umask 077; KITH_TOKEN="$admin" "$kith" token create prometheus --role read --collections metrics \
    --address "${MEMBERS[0]}" >"$work/kith.token" 2>"$work/token.err")
sed -i 's/# \( *authorization:\)$/\1/; s/# \( *credentials_file: kith.token\)$/\1/' "$work/prometheus.yml"
promtool check config "$work/prometheus.yml" >"$work/config.out" || fail "the commented token is no configuration: $(cat "$work/config.out")"
kill -HUP "$server"
eventually 30 count_is 3 'up{job="kith"} == 1'
eventually 30 nothing_fires
echo "$trial: with tokens Prometheus shows its own"

third="$(sed -n 's/^  member3 .* pid \([0-9]*\)$/\1/p' "$work/dev.out")"
[ -n "$third" ] || fail "kith dev did not tell the pid of member 3"
kill -9 "$third"
eventually 30 count_is 1 "up{job=\"kith\", instance=\"${MEMBERS[2]}\"} == 0"
eventually 30 alert_fires "KithMemberDown ${MEMBERS[2]}"
! alert_fires "KithMemberDown ${MEMBERS[0]}" || fail "a member that lives is told to be down"
echo "$trial: done in $SECONDS s"
