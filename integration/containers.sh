#!/usr/bin/env bash
# The members of examples/compose as containers of the real Dockerfile: they form a cluster, a fourth joins, one is cut
# off its network and comes back, one is killed, one is removed and started again, all are restarted one after the other,
# and the fourth leaves, while clients write and the example's Prometheus watches. Ends with 0 if no acknowledged write is
# lost on any member, and Prometheus has seen all four.
#
# Not exercised: Grafana, whose image comes from a registry, while everything here is made on this machine
# (integration/containers/): of its part of the compose file only the form is checked. Nor is kith compiled inside
# Docker: the Dockerfile is given the release build of these sources or, with KITH_BINARY, another binary, by a stand-in
# for cargo. KITH_CONTAINERS_FROM_SOURCES=1 has the Dockerfile compile kith, which takes some minutes.
# Needs Docker with Compose, apt and Python 3. Ports, project and images are its own, and go at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

from_sources="${KITH_CONTAINERS_FROM_SOURCES:-0}"
trial="containers"
source integration/dev.sh
source integration/writes.sh

if docker compose version >/dev/null 2>&1; then
    composer=(docker compose)
else
    composer=(docker-compose)
fi
project="kith-test-$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')"
network="${project}_default"
export KITH_IMAGE="$project" BASE_IMAGE="$project-base" RUST_IMAGE="$project-rust"
export PROMETHEUS_IMAGE="$project-prometheus"
members=(member1 member2 member3)
# A copy, to be changed as the example's README says.
example="$work/kith/examples/compose"
mkdir "$work/kith"
cp -r .dockerignore Cargo.toml Cargo.lock Dockerfile config examples src "$work/kith"

compose() {
    "${composer[@]}" --project-name "$project" --file "$example/docker-compose.yml" "$@"
}

# Quiet unless it fails.
quietly() {
    "$@" >"$work/quietly.out" 2>&1 || { cat "$work/quietly.out" >&2; fail "this failed: $*"; }
}

finish() {
    status=$?
    stop_writers || true
    if [ "$status" -ne 0 ]; then
        echo "$trial: FAILED; the last lines of every log follow" >&2
        compose ps >&2 || true
        compose logs --no-color --tail=30 >&2 || true
        tail -n 20 "$work"/*.out >&2 || true
    fi
    compose --profile fourth down --volumes --timeout 1 >"$work/down.out" 2>&1 || cat "$work/down.out" >&2
    docker image rm --force "$KITH_IMAGE" "$RUST_IMAGE" "$BASE_IMAGE" "$RUST_IMAGE-base" \
        "$PROMETHEUS_IMAGE" "$PROMETHEUS_IMAGE-base" >/dev/null 2>&1 || true
    # Steps of builds, and the containers of those that failed.
    for made_from in "$BASE_IMAGE" "$RUST_IMAGE-base" "$PROMETHEUS_IMAGE-base"; do
        docker container prune --force --filter "label=kith.made-from-packages=$made_from" >/dev/null || true
        docker image prune --force --filter "label=kith.made-from-packages=$made_from" >/dev/null || true
    done
    rm -rf "$work"
    exit "$status"
}

container() {
    docker ps --all --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1"
}

# kith inside a member's container.
in_member() {
    docker exec --interactive "$(container "$1")" kith "${@:2}" </dev/null
}

is_healthy() {
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]
}

are_active() {
    [ "$(in_member member1 members | grep -c ' active ')" -eq "$1" ]
}

all_is_equal() {
    in_member "$1" status --wait --timeout 2m >"$work/wait.out" 2>&1 || fail "not all became equal: $(cat "$work/wait.out")"
}

prometheus_answers() {
    python3 integration/prometheus/answers.py "http://127.0.0.1:$PROMETHEUS_PORT" "$example/grafana/dashboards/kith.json" "$@"
}

prometheus_sees() {
    [ "$(prometheus_answers count "up{job=\"kith\", instance=\"$1:7401\"} == 1")" = 1 ]
}

# Writes so many numbered keys with the command line, inside a member's container, and notes them as acknowledged.
write_inside() {
    local member="$1" prefix="$2" count="$3"
    seq "$count" | awk -v key="$prefix" -v value="inside-$member" '{ print key "-" $1, value "-" $1 }' >"$work/$prefix.lines"
    awk '{ printf "{\"key\":\"%s\",\"value\":\"%s\"}\n", $1, $2 }' "$work/$prefix.lines" |
        quietly docker exec --interactive "$(container "$member")" kith import -
    mv "$work/$prefix.lines" "$work/$prefix.written"
}

step() {
    echo "$trial: $1 ($SECONDS s)"
}

docker info >/dev/null 2>"$work/docker.out" || fail "Docker does not answer: $(cat "$work/docker.out")"
# The members' user must be able to read it.
export CLUSTER_SECRET_FILE="$work/cluster.secret"
"$kith" secret >"$CLUSTER_SECRET_FILE"
chmod 644 "$CLUSTER_SECRET_FILE"
# Pairs that are free when they are looked for, below those that outgoing connections get.
read -r one two three four five < <(python3 - <<'PYTHON'
import random
import socket


def is_free(port):
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


pairs = set()
while len(pairs) < 5:
    port = random.randrange(20000, 32000, 2)
    if is_free(port) and is_free(port + 1):
        pairs.add(port)
print(*pairs)
PYTHON
)
export MEMBER1_PORTS="$one-$((one + 1))" MEMBER2_PORTS="$two-$((two + 1))"
export MEMBER3_PORTS="$three-$((three + 1))" MEMBER4_PORTS="$four-$((four + 1))"
export PROMETHEUS_PORT="$five"

quietly compose --profile fourth config
integration/containers/base-image.sh "$BASE_IMAGE" coreutils mawk
if [ "$from_sources" = 1 ]; then
    integration/containers/base-image.sh "$RUST_IMAGE-base" coreutils mawk gcc libc6-dev
    integration/containers/rust-image.sh "$RUST_IMAGE" "$RUST_IMAGE-base"
else
    integration/containers/rust-image.sh "$RUST_IMAGE" "$BASE_IMAGE" "$kith"
fi
integration/containers/prometheus-image.sh "$PROMETHEUS_IMAGE"
quietly compose build member1
user="$(docker image inspect --format '{{.Config.User}}' "$KITH_IMAGE")"
[ "$user" = 7400:7400 ] || fail "the image's user is $user"
size="$(docker image inspect --format '{{.Size}}' "$KITH_IMAGE")"
step "an image of $((size >> 20)) MiB is built"

quietly compose up -d --no-build "${members[@]}" prometheus
for member in "${members[@]}"; do
    eventually 60 is_healthy "$member"
done
eventually 10 are_active 3
step "three members are a cluster"
for member in "${members[@]}"; do
    eventually 60 prometheus_sees "$member"
done
eventually 30 prometheus_answers rules
step "Prometheus watches them, and has its rules"

start_writer first "127.0.0.1:$one" "127.0.0.1:$two" "127.0.0.1:$three"
start_writer second "127.0.0.1:$three" "127.0.0.1:$two" "127.0.0.1:$four"
writes_go_on

quietly compose up -d --no-build member4
members+=(member4)
eventually 120 are_active 4
writes_go_on
sed -i 's/# \(- member4:7401\)$/\1/' "$example/prometheus/prometheus.yml"
quietly compose restart prometheus
for member in "${members[@]}"; do
    eventually 60 prometheus_sees "$member"
done
step "a fourth has joined, and Prometheus watches it too"

quietly docker network disconnect "$network" "$(container member3)"
write_inside member3 alone 500
write_inside member1 others 500
writes_go_on
! in_member member3 get others-1 >/dev/null 2>&1 || fail "member3 was not cut off"
quietly docker network connect --alias member3 "$network" "$(container member3)"
all_is_equal member1
[ "$(in_member member1 get alone-1)" = inside-member3-1 ] || fail "what member3 wrote alone did not come to member1"
step "member3 was cut off, both sides wrote, and all is equal again"

quietly docker kill "$(container member2)"
writes_go_on
quietly compose up -d --no-build member2
eventually 60 is_healthy member2
step "member2 was killed and is back"

before="$(container member1)"
quietly compose stop member1
stopped="$(docker inspect --format '{{.State.ExitCode}}' "$before")"
[ "$stopped" = 0 ] || fail "member1 stopped with $stopped, not 0"
quietly compose rm --force member1
writes_go_on
quietly compose up -d --no-build member1
eventually 60 is_healthy member1
[ "$(container member1)" != "$before" ] || fail "member1's container is the old one"
step "member1's container was removed, and a new one has its data"

for member in "${members[@]}"; do
    quietly compose restart "$member"
    eventually 60 is_healthy "$member"
    writes_go_on
done
step "all were restarted, one after the other"

quietly in_member member4 leave --yes
quietly compose stop member4
quietly compose rm --force member4
members=(member1 member2 member3)
eventually 60 are_active 3
writes_go_on
step "the fourth has left"

stop_writers
cat "$work/first.out" "$work/second.out"
all_is_equal member1
for member in "${members[@]}"; do
    nothing_is_lost_on "$member" in_member "$member" export -
done
step "done"
