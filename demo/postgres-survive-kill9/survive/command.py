"""Running other programs: always bounded in time, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from survive.settings import COMMAND_SECONDS_MAX, DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MESSAGE_BYTES_MAX = 2000


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the program with everything it started: it leads a process group of its own."""
    # It may have ended in the meantime, which is what is wanted.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def attempt(
    argv: Sequence[str],
    *,
    text: str | None = None,
    seconds: float = COMMAND_SECONDS_MAX,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> tuple[int, str]:
    """Runs `argv`, gives it `text` on standard input; returns its exit code and all its output.

    A group of its own keeps a Ctrl-C at the terminal from reaching it, so that the clean-up is
    not cut short. With `log` the output goes to that file. Raises DemoError after `seconds`.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(log, "ab")) if log else subprocess.PIPE
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except FileNotFoundError:
            raise DemoError(f"{argv[0]} is not installed") from None
    try:
        told, _ = process.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        raise DemoError(f"{' '.join(argv[:4])} … gave no answer in {seconds:g} s") from None
    except BaseException:
        _end(process)
        raise
    return process.returncode, told or ""


def command(
    argv: Sequence[str],
    *,
    text: str | None = None,
    seconds: float = COMMAND_SECONDS_MAX,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> str:
    """The stripped output; like `attempt`, but raises DemoError if the exit code is not 0."""
    code, told = attempt(argv, text=text, seconds=seconds, env=env, log=log)
    if code != 0:
        where = f"see {log}" if log else told.strip()[-MESSAGE_BYTES_MAX:]
        raise DemoError(f"{' '.join(argv[:6])} failed with exit code {code}: {where}")
    return told.strip()
