# Sourced by what does something to members while clients write: starts the writers, which note what was acknowledged, and
# tells whether all of it is there. Whoever sources this has integration/dev.sh sourced before.

writers=()

# A writer begins at its own member and goes on at the others: start_writer NAME ADDRESS…
start_writer() {
    python3 integration/writes.py write "$1" "$work/$1.written" "${@:2}" >"$work/$1.out" 2>&1 &
    writers+=("$!")
    also+=("$!")
    eventually 20 test -s "$work/$1.written"
}

stop_writers() {
    local writer
    for writer in "${writers[@]}"; do
        kill -TERM "$writer"
        wait "$writer"
    done
    writers=()
}

acknowledged() {
    cat "$work"/*.written | wc -l
}

more_than() {
    [ "$(acknowledged)" -gt "$1" ]
}

# Waits until a good many writes more are acknowledged.
writes_go_on() {
    eventually 60 more_than "$(($(acknowledged) + 300))"
}

# Whether all that was acknowledged before is in what a command exports from a member: nothing_is_lost_on MEMBER COMMAND…
nothing_is_lost_on() {
    local checked
    cat "$work"/*.written >"$work/acknowledged"
    "${@:2}" >"$work/export.out"
    checked="$(python3 integration/writes.py check "$work/acknowledged" <"$work/export.out")" ||
        fail "$1 does not have all that was acknowledged"
    echo "$trial: all $checked acknowledged writes are on $1"
}
