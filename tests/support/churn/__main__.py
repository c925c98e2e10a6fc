"""The command line: processes and threads, the seed, the kinds, where to count and to log."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback

from tests.support.churn.steps import ThreadSteps, chosen, make
from tests.support.churn.tally import Tally


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="churn", description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("seed")
    parser.add_argument("--outside", required=True, help="a directory beside, for moves out and in")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--kinds", default="", help="these alone, by commas; also of modules")
    parser.add_argument("--without", default="", help="kinds to leave out, by commas")
    parser.add_argument("--records", required=True, help="a directory for counts and logs")
    parser.add_argument("--steps", type=int, default=0, help="of each thread; 0: until killed")
    return parser.parse_args()


def _walk(arguments: argparse.Namespace, kinds: list[str], process: int, thread: int) -> None:
    rows = arguments.processes * arguments.threads
    row = process * arguments.threads + thread
    tag = f"{process}{thread}"
    actor = make(arguments.directory, arguments.outside, tag)
    tally = Tally(os.path.join(arguments.records, "counts"), kinds, rows, row)
    with open(os.path.join(arguments.records, f"log-{tag}"), "w", buffering=1) as log:
        seed = f"{arguments.seed}/{process}/{thread}"
        walk = ThreadSteps(actor, seed, kinds, tally, lambda line: print(line, file=log))
        taken = 0
        while not arguments.steps or taken < arguments.steps:
            walk.step()
            taken += 1


def _thread(arguments: argparse.Namespace, kinds: list[str], process: int, thread: int) -> None:
    """Whatever a step cannot fail with ends the whole program."""
    try:
        _walk(arguments, kinds, process, thread)
    except BaseException:
        print(f"churn: process {process}, thread {thread}", file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)


def _process(arguments: argparse.Namespace, kinds: list[str], process: int) -> None:
    threads = [
        threading.Thread(target=_thread, args=(arguments, kinds, process, number))
        for number in range(arguments.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _start(arguments: argparse.Namespace, kinds: list[str], number: int) -> int:
    child = os.fork()
    if child == 0:
        _process(arguments, kinds, number)
        os._exit(0)
    return child


def main() -> int:
    """Starts all processes; the first one that fails ends the others.

    A store that the kernel has no page for ends a process with SIGBUS, such as one into a file that
    direct I/O has just taken out of the page cache: that is no failure, and it starts again.
    """
    arguments = _arguments()
    kinds = chosen(_split(arguments.kinds), _split(arguments.without))
    children = {_start(arguments, kinds, n): n for n in range(arguments.processes)}
    code = 0
    while children:
        pid, status = os.wait()
        number = children.pop(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS and not code:
            children[_start(arguments, kinds, number)] = number
        elif status:
            print(f"churn: a process ended with {status}", file=sys.stderr)
            code = 3
            for child in children:
                os.kill(child, 9)
    return code


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    sys.exit(main())
