"""Talking SQL to the server through psql inside its own container: no port, no client library."""

from __future__ import annotations

from survive.command import Conversation
from survive.inside import attempt_inside
from survive.settings import ANSWER_SECONDS_MAX, SERVING_SECONDS_MAX, DemoError

PSQL = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "bank"]
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
        self._client = Conversation(["docker", "exec", "-i", container, *PSQL])

    def run(self, sql: str, token: str) -> None:
        """Runs `sql` and returns when psql has echoed `token` after it.

        psql stops at the first error, so the echo proves that every statement, a COMMIT among
        them, was acknowledged. Raises SessionLostError with the last thing psql said.
        """
        self._client.say(f"{sql}\n\\echo {token}\n")
        said = ""
        while (line := self._client.line(ANSWER_SECONDS_MAX)) is not None:
            if line == token:
                return
            said = line
        raise SessionLostError(said)

    def close(self) -> None:
        """Ends the client; returns when it is gone."""
        self._client.close()


def query(container: str, sql: str, seconds: float = ANSWER_SECONDS_MAX) -> list[str]:
    """The lines that `sql` yields; raises DemoError when it fails."""
    code, told = attempt_inside(container, PSQL, text=sql, seconds=seconds)
    if code != 0:
        raise DemoError(f"a query failed: {told.strip()[-500:]}")
    return told.splitlines()


def wait_serving(container: str, sql: str = "select 1") -> str:
    """Waits until the server answers `sql`; returns the answer. Raises DemoError in the end."""
    argv = ["sh", "-c", UNTIL_ANSWERED, sql]
    code, told = attempt_inside(container, argv, seconds=SERVING_SECONDS_MAX)
    if code != 0:
        raise DemoError(f"the server does not come up: {told.strip()[-500:]}")
    return told.strip()
