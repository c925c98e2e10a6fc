"""A container that writes numbers into two files, one after the other, for as long as it lives.

Any instant of the volume shows all numbers from 1 on in `a`, and in `b` the same or one less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.processes import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docker.engine import DockerEngine

SCRIPT = """
i=$(tail -n 1 /data/a 2>/dev/null || true)
i=${i:-0}
while :; do
    i=$((i + 1))
    echo "$i" >> /data/a
    echo "$i" >> /data/b
    [ $((i % 10)) -ne 0 ] || sleep 0.01
done
"""
PROGRESS_LINES = 50


def start(engine: DockerEngine, image: str, volume: str, options: str = "") -> str:
    """ID of a container that writes to `volume`, and has begun to.

    Its shell runs as process 1, which the default action of a signal does not end; kill it.
    """
    container = engine.start_container(image, volume, "sh", "-c", SCRIPT, options=options)
    return container


def numbers(path: Path) -> list[int]:
    """The numbers in one of the files; whole lines only, since each is one write."""
    text = path.read_text() if path.exists() else ""
    assert not text or text.endswith("\n"), f"{path} ends within a line: {text[-20:]!r}"
    return [int(line) for line in text.splitlines()]


def last(directory: Path) -> int:
    """The newest number."""
    found = numbers(directory / "a")
    return found[-1] if found else 0


def check(directory: Path) -> int:
    """The files are those of one instant; returns the newest number in them."""
    a, b = numbers(directory / "a"), numbers(directory / "b")
    assert a == list(range(1, len(a) + 1)), "a number is lost or twice"
    newest, other = (a or [0])[-1], (b or [0])[-1]
    # A kill between the two writes leaves its number out of `b` for ever.
    assert other in {newest, newest - 1}, f"a has {newest}, b has {other}"
    return newest


def wait_progress(directory: Path, seconds_max: float = 20.0) -> int:
    """Waits until the container has written some more; returns the newest number before that."""
    before = last(directory)
    wait_for(
        lambda: last(directory) >= before + PROGRESS_LINES, "the container writes", seconds_max
    )
    return before
