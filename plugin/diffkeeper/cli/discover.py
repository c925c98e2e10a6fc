"""Finds the running daemon's socket if none is given."""

from __future__ import annotations

import glob
import os
from typing import Final

from diffkeeper.cli.client import Client
from diffkeeper.errors import ConflictError, DiffKeeperError, UnavailableError
from diffkeeper.messages.machine import VERSION

PLUGIN_DIRECTORIES: Final = ("/run/docker/plugins", "/var/run/docker/plugins")
SOCKET_NAME: Final = "diffkeeper.sock"
PROBE_SECONDS_MAX: Final = 5.0


def candidates(directories: tuple[str, ...] = PLUGIN_DIRECTORIES) -> list[str]:
    """Sockets that may be the daemon's: a legacy plugin's, and one per managed plugin's ID."""
    paths: dict[str, None] = {}
    for directory in directories:
        below = sorted(glob.glob(f"{glob.escape(directory)}/*/{SOCKET_NAME}"))
        for path in (f"{directory}/{SOCKET_NAME}", *below):
            if os.path.exists(path):
                paths[os.path.realpath(path)] = None
    return list(paths)


def probe(path: str) -> str:
    """Empty if a DiffKeeper daemon answers on `path`, else why not."""
    client = Client(path, PROBE_SECONDS_MAX)
    try:
        answer = client.ask(VERSION).plain
    except DiffKeeperError as error:
        return str(error)
    finally:
        client.close()
    return "" if isinstance(answer, dict) and "version" in answer else f"{path}: not DiffKeeper"


def find(directories: tuple[str, ...] = PLUGIN_DIRECTORIES) -> str:
    """The one live socket. Raises UnavailableError saying what was tried when there is none, and
    ConflictError naming them when there are several.
    """
    tried = {path: probe(path) for path in candidates(directories)}
    live = [path for path, problem in tried.items() if not problem]
    if len(live) > 1:
        raise ConflictError(
            f"{len(live)} DiffKeeper daemons are running; choose one with --socket:"
            f" {', '.join(live)}"
        )
    if live:
        return live[0]
    places = f"no socket {SOCKET_NAME} at or one level below {' or '.join(directories)}"
    hint = "" if os.geteuid() == 0 else "; only root can see and use the socket, try sudo"
    raise UnavailableError(
        f"no DiffKeeper daemon found ({'; '.join(tried.values()) or places}){hint}."
        " Enable the plugin, run `diffkeeper serve`, or name a socket with --socket"
    )
