"""Runs the blocks of one document, with a network of its own whose only interface is loopback.

    session.py ROOT DOCUMENT KITH PLACE

Started by main.py with process ids of its own: all that it started ends with it. Ends with 0 if every command did and
printed what the document says; else tells document, line and what happened.
"""

import fcntl
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from texts import Document

# Seconds that a block may take, or members may take to be ready.
LIMIT = 90
SHOWN_LINES = 25
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def bring_loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def tail(path):
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return "".join(f"    {line}\n" for line in lines[-SHOWN_LINES:])


class Session:
    def __init__(self, root, name, kith, place):
        self.name, self.kith, self.files, self.place = name, kith, place / "files", place / "here"
        self.terminals, self.number = [], 0
        self.files.mkdir(parents=True)
        self.place.mkdir()
        for directory in ("config", "examples"):
            shutil.copytree(root / directory, self.place / directory)
        (place / "bin").mkdir()
        (place / "bin/kith").symlink_to(kith)
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KITH_") and not name.lower().endswith("_proxy")
        }
        own = {"PATH": f"{place / 'bin'}:{ours['PATH']}", "HOME": str(self.place), "LC_ALL": "C.UTF-8"}
        self.environment = ours | own
        told, tell = os.pipe()
        self.told = told
        self.shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            cwd=self.place,
            env=self.environment,
            pass_fds=[tell],
            text=True,
        )
        os.close(tell)
        self.tell = tell
        # In a line that fails, the first that is told is where.
        self.type(f"set -eE -o pipefail; trap 'echo \"failed $LINENO\" >&{tell}' ERR")

    def type(self, line):
        self.shell.stdin.write(line + "\n")
        self.shell.stdin.flush()

    def fail(self, line, what, *files):
        print(f"{self.name}:{line}: {what}")
        for title, path in [*files, *self.terminals]:
            if text := tail(path):
                print(f"  {title}:\n{text}", end="")
        sys.exit(1)

    def file(self, ending):
        return self.files / f"{self.number}.{ending}"

    def run(self, block):
        """Runs a block; gives what it printed."""
        self.number += 1
        out, err = self.file("out"), self.file("err")
        # The shell counts lines as the document does, and names it.
        script = self.files / str(self.number) / Path(self.name).name
        script.parent.mkdir()
        script.write_text("\n" * block.line + block.text, encoding="utf-8")
        self.type(f"source '{script}' </dev/null >'{out}' 2>'{err}'; echo done >&{self.tell}")
        answer = self.answer(block.line, out, err)
        if answer != "done":
            line = int(answer.removeprefix("failed ") or block.line + 1)
            text = script.read_text(encoding="utf-8").splitlines()[line - 1].strip()
            self.fail(line, f"this failed: {text}", ("it printed", out), ("and to standard error", err))
        return out

    def answer(self, line, out, err):
        """What the shell tells first: that a block is done, or where it failed."""
        deadline, text = time.monotonic() + LIMIT, ""
        while "\n" not in text:
            if time.monotonic() > deadline:
                printed = ("it printed", out), ("and to standard error", err)
                self.fail(line, f"this is not done after {LIMIT} s", *printed)
            ready, _, _ = select.select([self.told], [], [], 0.1)
            if ready:
                text += os.read(self.told, 4096).decode() or "failed \n"
            elif self.shell.poll() is not None:
                text += "failed \n"
        return text.splitlines()[0]

    def start(self, block):
        """Starts each line in a terminal of its own, and waits for the members that are named."""
        for number, line in enumerate(block.lines, start=block.line + 1):
            line = re.sub(r"(^|\s)#\s.*", "", line).strip()
            if line:
                path = self.files / f"terminal-{number}"
                self.terminals.append((f"terminal of line {number}, `{line}`", path))
                self.type(f"( exec {line} ) </dev/null >'{path}' 2>&1 {self.tell}>&- &")
        for address in filter(None, re.split(r"[,\s]+", block.options.get("ready", ""))):
            self.wait_for(block.line, address)

    def wait_for(self, line, address):
        deadline = time.monotonic() + LIMIT
        asks = [self.kith, "health", "--address", address]
        while subprocess.run(asks, env=self.environment, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline:
                self.fail(line, f"{address} is not ready after {LIMIT} s")
            time.sleep(0.1)

    def compare(self, block, out):
        printed = [line.rstrip() for line in out.read_text(encoding="utf-8", errors="replace").splitlines()]
        pattern = ""
        for line in block.lines:
            exact = ".*".join(re.escape(part) for part in line.rstrip().split("…"))
            pattern += r"(?:.*\n)*" if line.strip() == "…" else exact + r"\n"
        if not re.fullmatch(pattern, "".join(line + "\n" for line in printed)):
            self.fail(block.line, "this is not what was printed", ("which was", out))


def main():
    root, name, kith, place = Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    bring_loopback_up()
    document, began = Document(root, root / name), time.monotonic()
    session, out, count = Session(root, name, kith, place), None, 0
    for block in document.blocks:
        if block.is_output:
            if out:
                session.compare(block, out)
            continue
        if not block.is_run:
            continue
        needs = filter(None, re.split(r"[,\s]+", block.options.get("needs", "")))
        missing = [program for program in needs if not shutil.which(program)]
        if missing:
            print(f"WARNING: {name}:{block.line} is passed over: there is no {', '.join(missing)} here")
            out = None
        elif block.is_terminal:
            session.start(block)
        else:
            out = session.run(block)
        count += not missing
    print(f"{name}: {count} blocks hold, after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
