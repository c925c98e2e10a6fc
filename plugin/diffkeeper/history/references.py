"""The snapshot argument in `VOLUME@SNAPSHOT`, the same for every command. Pure.

A sequence number, the start of a root, a tag, a moment, an age, or `latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from diffkeeper import clock, limits
from diffkeeper.errors import InvalidInputError
from diffkeeper.volumes.names import shown
from diffkeeper.volumes.units import parse_duration

REFERENCE_CHARACTERS_MAX = 64

Kind = Literal["seq", "root", "tag", "time", "age", "latest"]
FORMS: Final = (
    f"a sequence number, at least {limits.ROOT_PREFIX_MIN} hex digits of a root, a tag, a moment in"
    " UTC (2026-11-22T10:00, 2026-11-22T10:00:05, 2026-11-22), an age (-5m), or latest"
)
LATEST: Final = "latest"
_CHARACTERS = re.compile(rf"[A-Za-z0-9_.:+-]{{1,{REFERENCE_CHARACTERS_MAX}}}")
_ROOT = re.compile(rf"[0-9a-f]{{{limits.ROOT_PREFIX_MIN},64}}")
_TAG = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{limits.TAG_CHARACTERS_MAX - 1}}}")
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed snapshot argument. `number`: the sequence number, the moment in nanoseconds since
    the epoch, or the age in nanoseconds.
    """

    kind: Kind
    text: str
    number: int = 0


def parse_reference(text: str) -> Reference:
    """The reference; raises InvalidInputError naming what is allowed."""
    if _CHARACTERS.fullmatch(text) is None:
        raise _wrong(text)
    if text == LATEST:
        return Reference("latest", text)
    if text.isdecimal() and len(text) <= limits.SEQ_DIGITS_MAX:
        return Reference("seq", text, int(text))
    if _ROOT.fullmatch(text):
        return Reference("root", text)
    if _TAG.fullmatch(text):
        return Reference("tag", text)
    if text.startswith("-"):
        return Reference("age", text, _age_ns(text))
    return Reference("time", text, _moment_ns(text))


def check_tag(name: str) -> str:
    """The tag if it is well formed; raises InvalidInputError for text that means something else."""
    if _TAG.fullmatch(name) is None or name == LATEST or _ROOT.fullmatch(name):
        raise InvalidInputError(
            f"tag {shown(name)}: use 1 to {limits.TAG_CHARACTERS_MAX} of the characters a-z A-Z 0-9"
            f" _ . - and begin with a letter; neither {LATEST!r} nor what may be a root's start"
        )
    return name


def _wrong(text: str) -> InvalidInputError:
    return InvalidInputError(f"{shown(text)} names no snapshot: give {FORMS}")


def _age_ns(text: str) -> int:
    try:
        return round(parse_duration(text[1:]) * 1e9)
    except InvalidInputError:
        raise _wrong(text) from None


def _moment_ns(text: str) -> int:
    """The moment; if given to the microsecond, its last nanosecond, since `snapshots` prints it
    cut.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise _wrong(text)
    date, minute, second, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z") else zone
    try:
        written = f"{date}T{minute or '00:00'}:{second or '00'}{zone}"
        whole = clock.since_epoch_ns(written)
    except ValueError as error:
        raise InvalidInputError(f"{shown(text)} is no moment: {error}") from None
    return max(0, whole + int((fraction or "").ljust(6, "0").ljust(9, "9" if fraction else "0")))
