"""Whether the documents are true: run by integration/documents.sh.

    main.py KITH WORK      checks all documents with this binary; files of the runs are made in the directory WORK

Blocks of README.md, CHANGELOG.md and docs/*.md say in their fence what they are. One without a word is an error, so
that none is forgotten:

    ```sh                               is run, in the order of the document, in one shell
    ```sh skip: REASON                  is not run
    ```sh needs: PROGRAM                is run where that program is installed
    ```sh terminal ready: ADDRESS,...   each line is started in a terminal of its own, and stays; goes on when these
                                        members are ready (without `ready:` at once)
    ```text output                      is what the block of `sh` before it must have printed; … stands for anything
                                        in a line, and by itself for any lines

Other words (`text`, `toml`, `yaml`, `rust`, ...) are for readers. The shell begins with config/ and examples/ of these
sources in its directory, kith in its PATH, no variables KITH_*, and ends at the first command that fails.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import truth
from texts import Document

ROOT = Path(__file__).resolve().parents[2]
# Seconds after which a document's run is given up.
LIMIT = 180
# With blocks that say what they are.
MARKED = ["README.md", "CHANGELOG.md", "docs/*.md"]
# Read by people, too.
ALSO = ["examples/compose/README.md", "benches/RESULTS.md"]


def isolated(command):
    """The command with network and processes of its own, which end with it."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--net", "--pid", "--fork", "--mount-proc", "--kill-child", *command]


def run(documents, kith, work):
    """Runs all documents that have anything to run, side by side. Gives what is wrong."""
    session = str(Path(__file__).with_name("session.py"))
    began, running, problems = time.monotonic(), [], []
    for number, document in enumerate(documents):
        if document.has_runs():
            place = work / f"run-{number}"
            command = isolated([sys.executable, session, str(ROOT), document.name, str(kith), str(place)])
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            running.append((document, process))
    for document, process in running:
        try:
            told, _ = process.communicate(timeout=max(1, LIMIT - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
            told += f"{document.name}: not done after {LIMIT} s"
        if process.returncode == 0:
            print(told, end="")
        else:
            problems.append(told.strip())
    return problems


def main():
    kith, work = Path(sys.argv[1]), Path(sys.argv[2])
    marked = [Document(ROOT, path) for pattern in MARKED for path in sorted(ROOT.glob(pattern))]
    also = [Document(ROOT, path) for pattern in ALSO for path in sorted(ROOT.glob(pattern))]
    problems = [problem for document in marked for problem in document.fence_problems()]
    problems += truth.Truth(ROOT, kith).problems(marked + also)
    for problem in problems:
        print(problem, file=sys.stderr)
    # What is to be run may be nonsense where the form is wrong.
    failed = [] if problems else run(marked, kith, work)
    for problem in failed:
        print(problem, file=sys.stderr)
    if problems or failed:
        sys.exit(f"documents: {len(problems) + len(failed)} problems, see above")


if __name__ == "__main__":
    main()
