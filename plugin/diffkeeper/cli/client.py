"""HTTP over the daemon's Unix socket; the daemon's errors are raised as the same exceptions."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from diffkeeper import errors
from diffkeeper.errors import DiffKeeperError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECT_SECONDS_MAX: Final = 5.0
CALL_SECONDS_MAX: Final = 60.0
LONG_CALL_SECONDS_MAX: Final = 86_400.0  # a verification reads the whole volume
ANSWER_BYTES_MAX: Final = 1 << 30
_ERRORS: Final[dict[str, type[DiffKeeperError]]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, DiffKeeperError)
}


class _Connection(http.client.HTTPConnection):
    """HTTP/1.1 on a Unix socket."""

    def __init__(self, path: str, seconds_max: float) -> None:
        super().__init__("diffkeeper", timeout=seconds_max)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(CONNECT_SECONDS_MAX)
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise
        self.sock.settimeout(self.timeout)


class Client:
    """Requests to one daemon. Every method raises the daemon's own error, or UnavailableError."""

    def __init__(self, path: str, seconds_max: float = CALL_SECONDS_MAX) -> None:
        self.path = path
        self._connection = _Connection(path, seconds_max)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> object:
        """The JSON value at `path`."""
        return self.call("GET", path, None)

    def call(self, method: str, path: str, message: object) -> object:
        """Send `message` as JSON (no body if None); the JSON value of the answer."""
        body = self.exchange(method, path, message)
        try:
            return json.loads(body)
        except ValueError as error:
            raise UnavailableError(f"{self.path} does not speak DiffKeeper's API") from error

    def exchange(self, method: str, path: str, message: object) -> bytes:
        """As `call`, but returns the answer's bytes."""
        body = None if message is None else json.dumps(message).encode("ascii")
        return self._answer(method, path, lambda c: c.request(method, path, body=body))

    def upload(self, path: str, pieces: Iterator[bytes]) -> object:
        """POST a body of any length; stops early if the daemon answers before all is sent."""

        def send(connection: http.client.HTTPConnection) -> None:
            connection.putrequest("POST", path)
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            for piece in pieces:
                if select.select([connection.sock], [], [], 0)[0]:
                    return
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.send(b"0\r\n\r\n")

        def send_until_answered(connection: http.client.HTTPConnection) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                send(connection)

        try:
            return json.loads(self._answer("POST", path, send_until_answered))
        finally:
            self.close()

    def _answer(
        self, method: str, path: str, send: Callable[[http.client.HTTPConnection], None]
    ) -> bytes:
        try:
            send(self._connection)
            response = self._connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX)
        except TimeoutError as error:
            self.close()
            raise UnavailableError(f"{self.path} does not answer") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"{self.path}: {reason}") from error
        if response.status >= 400:
            raise as_error(answer, f"{method} {path}: HTTP status {response.status}")
        return answer


def as_error(answer: bytes, otherwise: str) -> DiffKeeperError:
    """The exception that an error answer stands for; a general one with `otherwise` if
    unreadable.
    """
    try:
        message: object = json.loads(answer)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        return DiffKeeperError(otherwise)
    kind = _ERRORS.get(str(message.get("error")), DiffKeeperError)
    return kind(str(message.get("Err") or otherwise))


def volume_path(name: str, *rest: str) -> str:
    """`/v1/volumes/NAME/…` with the name escaped."""
    return "/".join(["/v1/volumes", quote(name, safe=""), *rest])
