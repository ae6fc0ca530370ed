"""Writes to a cluster whatever happens to its members, and tells whether what was acknowledged is there.

writes.py write PREFIX RECORD ADDRESS...   one new key after the other, at one address after the other, until SIGTERM;
                                           RECORD gets a line of key and value for each that was acknowledged
writes.py check RECORD...                  compares with what `kith export` prints, on standard input; ends with 1 and
                                           what is missing or wrong if anything is
"""

import http.client
import json
import secrets
import signal
import sys
import time

# Keys that one member gets before the next one has its turn.
TURN = 50
# Seconds: a member that is cut off accepts connections and says nothing.
PATIENCE = 3
# Seconds between two writes: the members have these cores, too.
PAUSE = 0.002
SHOWN = 10


def put(connection, key, value):
    """Whether the write was acknowledged; if not, it may be there or not."""
    try:
        connection.request("PUT", f"/v1/kv/default/{key}", body=value)
        answer = connection.getresponse()
        answer.read()
        return answer.status in (200, 201, 204)
    except (OSError, http.client.HTTPException):
        connection.close()
        return False


def write(prefix, record, addresses):
    going_on = True

    def stop(*_):
        nonlocal going_on
        going_on = False

    signal.signal(signal.SIGTERM, stop)
    connections = [http.client.HTTPConnection(address, timeout=PATIENCE) for address in addresses]
    number = failed = turn = 0
    with open(record, "w", buffering=1, encoding="ascii") as acknowledged:
        while going_on:
            key, value = f"{prefix}-{number:07}", secrets.token_hex(8)
            number += 1
            if put(connections[turn % len(connections)], key, value):
                acknowledged.write(f"{key} {value}\n")
                turn += number % TURN == 0
            else:
                failed += 1
                turn += 1
            time.sleep(PAUSE)
    print(f"{prefix}: {number - failed} writes acknowledged, {failed} not")


def check(records):
    found = {}
    for line in sys.stdin:
        document = json.loads(line)
        found[document["key"]] = document["value"]
    expected = {}
    for record in records:
        with open(record, encoding="ascii") as lines:
            expected.update(line.split() for line in lines)
    if not expected:
        sys.exit("nothing was acknowledged, so nothing can be checked")
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    for key in wrong[:SHOWN]:
        print(f"{key}: {expected[key]} was acknowledged, and {found.get(key, 'nothing')} is there", file=sys.stderr)
    if wrong:
        sys.exit(f"{len(wrong)} of {len(expected)} acknowledged writes are lost")
    print(len(expected))


match sys.argv[1:]:
    case ["write", prefix, record, *addresses] if addresses:
        write(prefix, record, addresses)
    case ["check", *records] if records:
        check(records)
    case _:
        sys.exit(__doc__)
