"""Daemons for tests: started, and taken away with all that they mounted."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Daemon, unmount_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def base() -> Iterator[Path]:
    """A short path for a service of the test's own; what is mounted below goes, too."""
    made = Path(tempfile.mkdtemp(prefix="dk-"))
    yield made
    unmount_below(made)
    subprocess.run(["rm", "-rf", "--one-file-system", str(made)], check=True)


@pytest.fixture
def new_daemon() -> Iterator[Callable[..., Daemon]]:
    """Makes daemons that are not started yet, in short paths, since a socket's path is bounded."""
    made: list[Daemon] = []

    def make(*arguments: str, **environment: str) -> Daemon:
        base = Path(tempfile.mkdtemp(prefix="dk-"))
        made.append(Daemon(base, list(arguments), environment))
        return made[-1]

    yield make
    for daemon in made:
        daemon.clean()


@pytest.fixture
def daemon(new_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon of the test's own."""
    made = new_daemon()
    made.start()
    return made


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """A running daemon for all tests of one file that leave nothing behind in it."""
    made = Daemon(Path(tempfile.mkdtemp(prefix="dk-")))
    made.start()
    yield made
    made.clean()
