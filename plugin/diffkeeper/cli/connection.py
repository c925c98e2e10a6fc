"""Requests to the running daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from diffkeeper.cli import discover
from diffkeeper.cli.client import LONG_CALL_SECONDS_MAX, Answer, Client
from diffkeeper.daemon import config

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.endpoint import Endpoint

A = TypeVar("A")
Q = TypeVar("Q")


def socket_path(arguments: argparse.Namespace) -> str:
    """The daemon's socket: --socket, else DIFFKEEPER_SOCKET, else the one that answers."""
    given: str | None = arguments.socket or os.environ.get(config.variable("socket"))
    return given or discover.find()


def connect(arguments: argparse.Namespace) -> Client:
    """A client of the running daemon."""
    return Client(socket_path(arguments), LONG_CALL_SECONDS_MAX)


def ask(
    arguments: argparse.Namespace,
    endpoint: Endpoint[Q, A],
    message: Q | None = None,
    **names: str,
) -> Answer[A]:
    """The daemon's answer; raises the daemon's own error, or UnavailableError."""
    client = connect(arguments)
    try:
        return client.ask(endpoint, message, **names)
    finally:
        client.close()
