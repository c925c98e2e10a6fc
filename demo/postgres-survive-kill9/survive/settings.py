"""What a run is told from outside, and the bounds of everything it waits for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parents[1]

PROJECT = "survive-kill9"
STANDIN_IMAGE = "diffkeeper-demo-postgres:standin"
PLUGIN = "diffkeeper"
LOCAL_DRIVER = "local"

COMMAND_SECONDS_MAX = 60.0
PULL_SECONDS_MAX = 300.0
BUILD_SECONDS_MAX = 1200.0
SERVING_SECONDS_MAX = 90.0
ANSWER_SECONDS_MAX = 60.0
CHECK_SECONDS_MAX = 120.0
UNMOUNT_SECONDS_MAX = 60.0
KILLS_MAX = 10_000
SECONDS_MAX = 86_400.0
RESTORES_MAX = 1_000


class DemoError(Exception):
    """A step of the demo could not be done, or what it showed is not what was promised."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's choices; every field has a default that suits `make demo`."""

    image: str
    driver: str
    volume: str
    password: str
    kills: int | None  # None: as many as fit into `seconds`
    seconds: float
    restores: int
    workers: int
    rate: float  # transactions a second that one worker starts at most
    out: Path  # ledger, logs and restored copies; outside the volume
    cache: Path  # the stand-in image's tarball
    listen: str  # ADDR:PORT for the metrics of a plugin that the demo installs; "": the default
    cli: str

    @property
    def managed(self) -> bool:
        """Whether the volume is DiffKeeper's, and not a plain one for comparison."""
        return self.driver != LOCAL_DRIVER


def _number(name: str, default: float, most: float) -> float:
    """The number in environment variable `name`; raises DemoError outside 0 to `most`."""
    text = os.environ.get(name, "") or str(default)
    try:
        value = float(text)
    except ValueError:
        raise DemoError(f"{name} must be a number, not {text!r}") from None
    if not 0 <= value <= most:
        raise DemoError(f"{name} must be between 0 and {most:g}, not {text}")
    return value


def load() -> Settings:
    """Reads the environment once; raises DemoError for a value that makes no sense."""
    kills = os.environ.get("KILLS", "")
    return Settings(
        image=os.environ.get("POSTGRES_IMAGE", "") or "postgres:17",
        driver=os.environ.get("DIFFKEEPER_DRIVER", "") or PLUGIN,
        volume=os.environ.get("DEMO_VOLUME", "") or PROJECT,
        password=os.environ.get("POSTGRES_PASSWORD", "") or "survive",
        kills=int(_number("KILLS", 0, KILLS_MAX)) if kills else None,
        seconds=_number("SECONDS", 60, SECONDS_MAX),
        restores=int(_number("RESTORES", 0, RESTORES_MAX)),
        workers=int(_number("WORKERS", 4, 64)) or 1,
        rate=_number("RATE", 150, 100_000) or 1.0,
        out=Path(os.environ.get("DEMO_OUT", "") or HERE / "out"),
        cache=ROOT / "build" / "demo",
        listen=os.environ.get("DIFFKEEPER_LISTEN", ""),
        cli=str(ROOT / ".venv" / "bin" / "diffkeeper"),
    )
