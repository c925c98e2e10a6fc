"""Requests to the running daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.cli import discover
from diffkeeper.cli.client import LONG_CALL_SECONDS_MAX, Client
from diffkeeper.daemon import config

if TYPE_CHECKING:
    import argparse


def socket_path(arguments: argparse.Namespace) -> str:
    """The daemon's socket: --socket, else DIFFKEEPER_SOCKET, else the one that answers."""
    given: str | None = arguments.socket or os.environ.get(config.variable("socket"))
    return given or discover.find()


def connect(arguments: argparse.Namespace) -> Client:
    """A client of the running daemon."""
    return Client(socket_path(arguments), LONG_CALL_SECONDS_MAX)


def ask(arguments: argparse.Namespace, method: str, path: str, message: object = None) -> object:
    """The daemon's answer as JSON; raises the daemon's own error, or UnavailableError."""
    client = connect(arguments)
    try:
        return client.call(method, path, message)
    finally:
        client.close()
