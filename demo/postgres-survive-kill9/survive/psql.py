"""Talking SQL to the server through psql inside its own container: no port, no client library."""

from __future__ import annotations

import os
import select
import subprocess
import time

from survive.command import attempt
from survive.settings import ANSWER_SECONDS_MAX, SERVING_SECONDS_MAX, DemoError

PSQL = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "bank"]
LINE_BYTES_MAX = 65_536
# The loop runs inside the container, so that the client's own start is measured only once.
# An image's first start answers for a while from a temporary server, which is not process 1.
UNTIL_ANSWERED = """
until read -r name </proc/1/comm && [ "$name" = postgres ] &&
    psql -X -q -A -t -U postgres -d bank -c "$0" 2>/dev/null
do sleep 0.02; done
"""


class SessionLostError(Exception):
    """The server, the container or the client died, or gave no answer in time."""


class Session:
    """One psql that stays connected and runs one script after the other."""

    def __init__(self, container: str) -> None:
        """Starts the client; whether the server is there shows at the first `run`."""
        self._process = subprocess.Popen(
            ["docker", "exec", "-i", container, *PSQL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._pending = b""

    def run(self, sql: str, token: str) -> None:
        """Runs `sql` and returns when psql has echoed `token` after it.

        psql stops at the first error, so the echo proves that every statement, a COMMIT among
        them, was acknowledged. Raises SessionLostError with the last thing psql said.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(f"{sql}\n\\echo {token}\n".encode())
            stdin.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass  # What psql said before it died is still to be read: it may be the token.
        said = b""
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while (line := self._line(deadline)) is not None:
            if line == token.encode():
                return
            said = line
        raise SessionLostError(said.decode(errors="replace"))

    def _line(self, deadline: float) -> bytes | None:
        """The next line without its end; None when there will be none, or none in time."""
        stdout = self._process.stdout
        assert stdout is not None
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(stdout.fileno(), LINE_BYTES_MAX) if ready else b""
            if not data or len(self._pending) > LINE_BYTES_MAX:
                return None
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def close(self) -> None:
        """Ends the client; returns when it is gone."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe:
                    pipe.close()
            except BrokenPipeError:
                pass  # Closing flushes what a dead client no longer reads.
        self._process.wait()


def query(container: str, sql: str, seconds: float = ANSWER_SECONDS_MAX) -> list[str]:
    """The lines that `sql` yields; raises DemoError when it fails."""
    argv = ["docker", "exec", "-i", container, *PSQL]
    code, told = attempt(argv, text=sql, seconds=seconds)
    if code != 0:
        raise DemoError(f"a query failed: {told.strip()[-500:]}")
    return told.splitlines()


def wait_serving(container: str, sql: str = "select 1") -> str:
    """Waits until the server answers `sql`; returns the answer. Raises DemoError in the end."""
    argv = ["docker", "exec", container, "sh", "-c", UNTIL_ANSWERED, sql]
    code, told = attempt(argv, seconds=SERVING_SECONDS_MAX)
    if code != 0:
        raise DemoError(f"the server does not come up: {told.strip()[-500:]}")
    return told.strip()
