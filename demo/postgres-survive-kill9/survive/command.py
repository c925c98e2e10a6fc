"""Running other programs: always bounded in time, never left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from survive.settings import COMMAND_SECONDS_MAX, DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MESSAGE_BYTES_MAX = 1000
LINE_BYTES_MAX = 65_536


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the program with everything it started: it leads a process group of its own."""
    # It may have ended in the meantime, which is what is wanted.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def attempt(
    argv: Sequence[str],
    *,
    text: str | None = None,
    seconds: float = COMMAND_SECONDS_MAX,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> tuple[int, str]:
    """Runs `argv`, gives it `text` on standard input; returns its exit code and all its output.

    A group of its own keeps a Ctrl-C at the terminal from reaching it, so that the clean-up is
    not cut short. With `log` the output goes to that file. Raises DemoError after `seconds`.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(log, "ab")) if log else subprocess.PIPE
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except FileNotFoundError:
            raise DemoError(f"{argv[0]} is not installed") from None
    try:
        told, _ = process.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        raise DemoError(f"{' '.join(argv[:4])} … gave no answer in {seconds:g} s") from None
    except BaseException:
        _end(process)
        raise
    return process.returncode, told or ""


def command(
    argv: Sequence[str],
    *,
    text: str | None = None,
    seconds: float = COMMAND_SECONDS_MAX,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> str:
    """The stripped output; like `attempt`, but raises DemoError if the exit code is not 0."""
    code, told = attempt(argv, text=text, seconds=seconds, env=env, log=log)
    if code != 0:
        said = log.read_text(errors="replace") if log else told
        where = f" (all of it is in {log})" if log else ""
        last = said.strip()[-MESSAGE_BYTES_MAX:]
        raise DemoError(f"{' '.join(argv[:4])} … ended with exit code {code}{where}: {last}")
    return told.strip()


class Conversation:
    """A program that is talked with line by line; ended with its context, whatever it does."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Starts it; standard error comes with standard output."""
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._pending = b""

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, text: str) -> None:
        """Writes `text`; if the program has ended, its last words are still to be read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def line(self, seconds: float) -> str | None:
        """Its next line without the end; None when there is none in time, or none any more."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self.process.stdout], [], [], left)
            data = os.read(self.process.stdout.fileno(), LINE_BYTES_MAX) if ready else b""
            if not data or len(self._pending) > LINE_BYTES_MAX:
                return None
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode(errors="replace")

    def end(self, seconds: float) -> None:
        """Waits until it has ended by itself; raises DemoError if it fails or takes longer."""
        said = ""
        while (line := self.line(seconds)) is not None:
            said = line
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"no end in {seconds:g} s; last said: {said}") from None
        if code != 0:
            raise DemoError(f"exit code {code}: {said}")

    def close(self) -> None:
        """Ends it; returns when it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            # Closing flushes what a dead program no longer reads.
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        self.process.wait()
