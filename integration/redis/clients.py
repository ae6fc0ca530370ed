"""What people's Redis clients do, tried against three members: two independent libraries, and both protocols.

Called by clients.sh with the RESP ports of the members. Ends with 0 if everything is as a user of Redis expects.
"""

import asyncio
import sys
import threading
import time

import coredis
import redis

PORTS = [int(port) for port in sys.argv[1:]]
PATIENCE = 15


def check(what, condition):
    if not condition:
        raise SystemExit(f"clients: {what}")


def eventually(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        check(f"this did not come true in {PATIENCE} s: {what}", time.monotonic() < end)
        time.sleep(0.05)


def with_redis_py(protocol):
    clients = [
        redis.Redis(port=port, protocol=protocol, decode_responses=True, socket_timeout=PATIENCE)
        for port in PORTS
    ]
    one, two, three = clients
    name = f"py{protocol}"
    check("ping", all(client.ping() for client in clients))
    check("set and get", one.set(f"{name}:a", "1") and one.get(f"{name}:a") == "1")
    eventually("other members have it", lambda: two.get(f"{name}:a") == three.get(f"{name}:a") == "1")
    check("conditions", one.set(f"{name}:a", "2", nx=True) is None and one.set(f"{name}:a", "2", xx=True))
    check("get and set", one.set(f"{name}:a", "3", get=True) == "2" and one.getdel(f"{name}:a") == "3")
    check("nothing is left", one.get(f"{name}:a") is None and one.exists(f"{name}:a") == 0)
    check("expiry", one.set(f"{name}:t", "x", ex=100) and 90 < one.ttl(f"{name}:t") <= 100)
    check("persist", one.persist(f"{name}:t") and one.ttl(f"{name}:t") == -1)
    check("text", one.append(f"{name}:t", "yz") == 3 and one.getrange(f"{name}:t", 1, 2) == "yz")
    check("float", one.incrbyfloat(f"{name}:f", 0.5) == 0.5 and one.incrbyfloat(f"{name}:f", 0.25) == 0.75)
    check("copies", one.set(f"{name}:w", "1") and one.wait(2, PATIENCE * 1000) == 2)
    check("several", one.mset({f"{name}:m{i}": i for i in range(50)}))
    check("in order", one.mget([f"{name}:m{i}" for i in range(50)]) == [str(i) for i in range(50)])
    check("scan", sorted(one.scan_iter(match=f"{name}:m*", count=7)) == sorted(f"{name}:m{i}" for i in range(50)))
    check("type", one.type(f"{name}:m1") == "string" and one.type(f"{name}:none") == "none")
    check("rename", one.rename(f"{name}:m1", f"{name}:r") and one.get(f"{name}:r") == "1")
    check("info", one.info()["redis_version"] and one.info("keyspace")["db0"]["keys"] > 0)
    check("databases", len(one.keys(f"{name}:*")) > 50 and two.config_get("databases"))
    try:
        one.execute_command("LPUSH", "list", "x")
        check("what is not supported is refused", False)
    except redis.ResponseError as error:
        check(f"the refusal is Redis's: {error}", "unknown command" in str(error))
    count_everywhere(clients, f"{name}:count")
    one_lock_at_a_time(clients, f"{name}:lock")
    listen(one, two, f"{name}:heard")
    pipeline = two.pipeline(transaction=False)
    for i in range(1_000):
        pipeline.set(f"{name}:p{i}", i)
    check("pipelines", all(pipeline.execute()))
    eventually("what was pipelined", lambda: three.get(f"{name}:p999") == "999")


def count_everywhere(clients, key):
    def count(client):
        for _ in range(200):
            client.incr(key)

    threads = [threading.Thread(target=count, args=(client,)) for client in clients for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = str(200 * len(threads))
    eventually("every increment counts", lambda: all(client.get(key) == total for client in clients))


def one_lock_at_a_time(clients, key):
    # All members are alive and know it, so the lock has one home.
    inside, most = [0], [0]
    mutex = threading.Lock()

    def work(client):
        for _ in range(5):
            # redis-py's own lock releases by a script, and there are none.
            token = f"{threading.get_ident()}"
            while not client.set(key, token, nx=True, ex=30):
                time.sleep(0.002)
            with mutex:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with mutex:
                inside[0] -= 1
            check("the lock is still ours", client.get(key) == token and client.delete(key) == 1)

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("one at a time holds the lock", most[0] == 1)


def listen(one, two, key):
    listener = one.pubsub()
    listener.psubscribe(f"__keyspace@0__:{key}*")
    eventually("subscribed", lambda: (listener.get_message(timeout=1) or {}).get("type") == "psubscribe")
    two.set(f"{key}1", "x")
    two.delete(f"{key}1")
    heard = []

    def hear():
        message = listener.get_message(timeout=0.2)
        if message and message["type"] == "pmessage":
            heard.append((message["channel"], message["data"]))
        return heard == [(f"__keyspace@0__:{key}1", "set"), (f"__keyspace@0__:{key}1", "del")]

    eventually("keyspace notifications", hear)
    listener.close()


async def with_coredis():
    # It speaks RESP3 only.
    clients = [coredis.Redis(port=port, decode_responses=True, client_name="kith") for port in PORTS]
    name = "co"
    async with clients[0] as one, clients[1] as two:
        check("coredis: ping", await one.ping() == "PONG")
        check("coredis: set", await one.set(f"{name}:a", "1", ex=100))
        check("coredis: get", await one.get(f"{name}:a") == "1")
        check("coredis: condition", not await one.set(f"{name}:a", "2", condition=coredis.PureToken.NX))
        check("coredis: expiry", 90 < await one.ttl(f"{name}:a") <= 100)
        check("coredis: counters", [await one.incr(f"{name}:n") for _ in range(3)] == [1, 2, 3])
        check("coredis: several", await one.mset({f"{name}:{i}": str(i) for i in range(10)}))
        found = await one.mget([f"{name}:{i}" for i in range(10)])
        check("coredis: in order", list(found) == [str(i) for i in range(10)])
        check("coredis: exists", await one.exists([f"{name}:1", f"{name}:2", f"{name}:none"]) == 2)
        check("coredis: text", await one.append(f"{name}:1", "xy") == 3)
        check("coredis: scan", len([key async for key in one.scan_iter(match=f"{name}:[0-9]")]) == 10)
        check("coredis: delete", await one.delete([f"{name}:1", f"{name}:none"]) == 1)
        check("coredis: client", (await one.client_id()) > 0 and await one.client_getname() == "kith")
        check("coredis: info", (await one.info())["redis_version"])
        check("coredis: commands", "get" in await one.command_list())
        check("coredis: another member", await two.ping() == "PONG")


for protocol in (2, 3):
    with_redis_py(protocol)
    print(f"clients: redis-py speaks RESP{protocol} to three members")
asyncio.run(with_coredis())
print("clients: coredis speaks RESP3 to them")
