"""The members that the page is tried on, asked past the page: by plain HTTP."""

import contextlib
import json
import pathlib
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from browser import check, eventually

ONE, TWO, THREE = (f"http://127.0.0.1:{port}" for port in (7401, 7411, 7421))


def ask(method, address, path, body=None, token=None):
    """Status and body of an answer."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address + path, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def read(address, path, token=None):
    status, body = ask("GET", address, path, token=token)
    check(f"GET {path} is answered with {status}: {body[:300]}", status == 200)
    return json.loads(body)


def value(address, key, collection="default", token=None):
    """The value of a key, or None."""
    status, body = ask("GET", address, f"/v1/kv/{collection}/{urllib.parse.quote(key, safe='')}", token=token)
    check(f"reading {key} is answered with {status}: {body[:300]}", status in (200, 404))
    return body if status == 200 else None


def setting(address, name, token=None):
    entries = read(address, "/v1/settings", token)["entries"]
    return next(entry["value"] for entry in entries if entry["name"] == name)


def change(address, settings):
    status, body = ask("PATCH", address, "/v1/settings", json.dumps(settings).encode())
    check(f"a change of settings is answered with {status}: {body[:300]}", status == 200)


def members(address, token=None):
    return {row["name"]: row for row in read(address, "/v1/cluster", token)["members"]}


class Newcomer:
    """A fourth member without seeds: it waits to be told where a cluster is."""

    def __init__(self, kith, work):
        self.kith = kith
        self.work = pathlib.Path(work)
        self.process = None
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        peers, http = (one.getsockname()[1] for one in sockets)
        for one in sockets:
            one.close()
        self.address = f"http://127.0.0.1:{http}"
        (self.work / "member4.toml").write_text(
            'name = "member4"\ncluster = "dev"\ndata_dir = "member4"\nseeds = []\n'
            f'secret_file = "cluster/cluster.secret"\n\n[listen]\npeers = "127.0.0.1:{peers}"\n'
            f'http = "127.0.0.1:{http}"\nresp = "off"\n'
        )

    def start(self):
        with open(self.work / "member4.err", "ab") as log:
            self.process = subprocess.Popen(
                [self.kith, "serve", "--config", str(self.work / "member4.toml")], stdout=log, stderr=log
            )
        eventually("the fourth member answers", self.answers)

    def answers(self):
        check("the fourth member runs", self.process.poll() is None)
        with contextlib.suppress(OSError):
            return ask("GET", self.address, "/health/live")[0] == 200
        return False

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
