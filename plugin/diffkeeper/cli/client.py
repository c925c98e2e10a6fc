"""HTTP over the daemon's Unix socket; the daemon's errors are raised as the same exceptions."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from diffkeeper import errors
from diffkeeper.errors import DiffKeeperError, InvalidInputError, UnavailableError
from diffkeeper.messages.codec import converted, to_json
from diffkeeper.messages.machine import ErrorAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.messages.endpoint import Endpoint, Octets

A = TypeVar("A")
Q = TypeVar("Q")
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


@dataclass(frozen=True, slots=True)
class Answer(Generic[A]):
    """What the daemon answered.

    plain: as it came, for `--json`; it may have fields that this release does not know.
    """

    path: str
    kind: type[A]
    plain: object

    @property
    def value(self) -> A:
        """The answer as a structure; UnavailableError when it does not fit."""
        try:
            return converted(self.plain, self.kind)
        except InvalidInputError as error:
            text = f"{self.path} does not speak DiffKeeper's API of this release: {error}"
            raise UnavailableError(text) from error


class Client:
    """Requests to one daemon. Every method raises the daemon's own error, or UnavailableError."""

    def __init__(self, path: str, seconds_max: float = CALL_SECONDS_MAX) -> None:
        self.path = path
        self._connection = _Connection(path, seconds_max)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(
        self,
        endpoint: Endpoint[Q, A],
        message: Q | None = None,
        query: str | None = None,
        **names: str,
    ) -> Answer[A]:
        """The answer to `message`, which may be None where the endpoint needs none."""
        body = None if message is None else to_json(message)
        path = endpoint.at(query, **names)
        answer = self._answer(
            endpoint.method, path, lambda c: c.request(endpoint.method, path, body=body)
        )
        return self._read(endpoint, answer)

    def octets(self, endpoint: Endpoint[Q, bytes], message: Q) -> bytes:
        """As `ask`, for an answer that is no JSON."""
        path, body = endpoint.path, to_json(message)
        return self._answer(
            endpoint.method, path, lambda c: c.request(endpoint.method, path, body=body)
        )

    def upload(
        self, endpoint: Endpoint[Octets, A], pieces: Iterator[bytes], **names: str
    ) -> Answer[A]:
        """Send a body of any length; ends early when the daemon has answered before all is sent."""
        path = endpoint.at(**names)

        def send(connection: http.client.HTTPConnection) -> None:
            connection.putrequest(endpoint.method, path)
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
            return self._read(endpoint, self._answer(endpoint.method, path, send_until_answered))
        finally:
            self.close()

    def _read(self, endpoint: Endpoint[Q, A], answer: bytes) -> Answer[A]:
        try:
            return Answer(self.path, endpoint.answer, json.loads(answer))
        except ValueError as error:
            raise UnavailableError(f"{self.path} does not speak DiffKeeper's API") from error

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
    """The exception that an error answer stands for; a plain one with `otherwise` if unreadable."""
    try:
        found = converted(json.loads(answer), ErrorAnswer)
    except (ValueError, InvalidInputError):
        return DiffKeeperError(otherwise)
    return _ERRORS.get(found.error, DiffKeeperError)(found.text or otherwise)
