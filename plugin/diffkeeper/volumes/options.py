"""Volume options: from text to checked values. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from diffkeeper import limits
from diffkeeper.errors import InvalidInputError
from diffkeeper.limits import MIB
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources import ladder
from diffkeeper.volumes.names import check_name, shown
from diffkeeper.volumes.retention_tiers import RETENTION_FORM, parse_retention
from diffkeeper.volumes.trash_time import TRASH_FORM, parse_trash
from diffkeeper.volumes.units import NUMBER, between, format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diffkeeper.volumes.retention_policy import Tiers

INTERVAL_SECONDS_MIN = 0.1
INTERVAL_SECONDS_MAX = 30 * 86400.0
INTERVAL_SECONDS_DEFAULT = 1.0
FREEZE_SECONDS_MIN = 0.001
EXCLUDE_GLOBS_MAX = 32
SIZE_BYTES_MIN = MIB
SIZE_BYTES_MAX = 1 << 50
VOLUME_OPTIONS_MAX = 64

Verify = Literal["unmount", "off"]

ZSTD_LEVEL_DEFAULT: Final = 1
ZSTD_LEVEL_MAX: Final = 19
SIZE_FORM: Final = "1MiB to 1024TiB, such as 10G or 500MiB"
EXCLUDE_FORM: Final = "GLOB[,GLOB…] such as cache,**/*.tmp"
ID_MAX: Final = 2**32 - 2  # the kernel takes 2**32 - 1 for "leave as it is"
OPTION_VALUE_CHARACTERS_MAX: Final = 256

_MODE = re.compile(r"0?[0-7]{3,4}")
_SIZE_AS_DOCKER = re.compile(NUMBER + r"[kKmMgGtT]")  # it takes them for powers of 1024


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """All options of one volume, checked. `None` keeps what the file system assigns."""

    interval_seconds: float = INTERVAL_SECONDS_DEFAULT
    policy: CapturePolicy = CapturePolicy()
    verify: Verify = "unmount"
    retention: Tiers | None = None  # None: the daemon's default; empty keeps everything
    trash_seconds: float | None = None  # None: the daemon's default, see `kept_seconds`
    size_bytes: int | None = None  # what the live directory may take; None: no limit
    uid: int | None = None  # of the new volume's root directory, as are gid and mode
    gid: int | None = None
    mode: int | None = None
    origin: str | None = None  # VOLUME or VOLUME@SNAPSHOT that a new volume begins with


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise InvalidInputError(f"{shown(text)} is not one of {', '.join(allowed)}")
        return text

    return parse


def _freezes(text: str) -> bool:
    return _one_of("crash", "fuzzy")(text) == "crash"


def _compression(text: str) -> int | None:
    if text == "none":
        return None
    method, colon, level = text.partition(":")
    if method != "zstd" or (colon and not re.fullmatch(r"[0-9]{1,2}", level)):
        raise InvalidInputError(f"{shown(text)} is not none, zstd or zstd:1 to zstd:19")
    number = int(level) if colon else ZSTD_LEVEL_DEFAULT
    if not 1 <= number <= ZSTD_LEVEL_MAX:
        raise InvalidInputError(f"zstd level {number} is outside 1 to {ZSTD_LEVEL_MAX}")
    return number


def _chunk_bits(text: str) -> int:
    size = parse_size(text)
    in_bounds = limits.CHUNK_BYTES_MIN <= size <= limits.CHUNK_BYTES_MAX
    if not in_bounds or size & (size - 1):
        raise InvalidInputError(
            f"{shown(text)} is not a power of two from {format_size(limits.CHUNK_BYTES_MIN)}"
            f" to {format_size(limits.CHUNK_BYTES_MAX)}"
        )
    return size.bit_length() - 1


def _exclude(text: str) -> tuple[str, ...]:
    globs = text.split(",")
    if len(globs) > EXCLUDE_GLOBS_MAX:
        raise InvalidInputError(f"more than {EXCLUDE_GLOBS_MAX} globs")
    for glob in globs:
        parts = glob.split("/")
        if not all(parts) or {".", ".."} & set(parts) or not glob.isprintable():
            raise InvalidInputError(
                f"{shown(glob)} is not a path below the volume's top directory: it has no / at its"
                " begin or end, and no empty, . or .. part"
            )
        if not glob.strip("*/"):
            raise InvalidInputError(f"{shown(glob)} leaves nothing to keep a history of")
        if any("**" in part and part != "**" for part in parts):
            raise InvalidInputError(f"{shown(glob)}: ** is a part of its own, as in **/*.tmp")
    return tuple(globs)


def _size(text: str) -> int:
    size = parse_size(text.upper() + "iB" if _SIZE_AS_DOCKER.fullmatch(text) else text)
    if not SIZE_BYTES_MIN <= size <= SIZE_BYTES_MAX:
        low, high = format_size(SIZE_BYTES_MIN), format_size(SIZE_BYTES_MAX)
        raise InvalidInputError(f"{shown(text)} is outside {low} to {high}")
    return size


def _id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > ID_MAX:
        raise InvalidInputError(f"{shown(text)} is not a numeric ID from 0 to {ID_MAX}")
    return int(text)


def _mode(text: str) -> int:
    if _MODE.fullmatch(text) is None:
        raise InvalidInputError(f"{shown(text)} is not an octal mode such as 0750")
    return int(text, 8)


def _origin(text: str) -> str:
    name, at, reference = text.partition("@")
    check_name(name)
    if at and not reference:
        raise InvalidInputError(f"{shown(text)} names no snapshot after @")
    return text


@dataclass(frozen=True, slots=True)
class OptionForm:
    """One known option: its field of VolumeOptions, or of its `policy`; its form as documented; its
    parser.
    """

    field: str
    form: str
    parse: Callable[[str], object]
    fixed: str = ""  # why it cannot be changed later


_POLICY: Final = {field.name for field in fields(CapturePolicy)}
_CHUNKS: Final = "all that is stored is cut that way"
_OWN: Final = "a volume begins with it; change the directory itself in a container"
OPTIONS: Final[Mapping[str, OptionForm]] = {
    "interval": OptionForm(
        "interval_seconds",
        "100ms to 30d",
        between(INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX),
    ),
    "capture": OptionForm("source", "|".join(ladder.NAMES), _one_of(*ladder.NAMES)),
    "consistency": OptionForm("freeze", "crash|fuzzy", _freezes),
    "freeze-max": OptionForm(
        "freeze_seconds_max",
        "1ms to 5s",
        between(FREEZE_SECONDS_MIN, limits.FREEZE_SECONDS_MAX),
    ),
    "verify": OptionForm("verify", "unmount|off", _one_of("unmount", "off")),
    "compression": OptionForm("level", "none|zstd|zstd:1..19", _compression),
    "chunk-size": OptionForm("chunk_bits", "power of two, 4KiB to 1MiB", _chunk_bits, _CHUNKS),
    "retention": OptionForm("retention", RETENTION_FORM, parse_retention),
    "trash": OptionForm("trash_seconds", TRASH_FORM, parse_trash),
    "exclude": OptionForm("exclude", EXCLUDE_FORM, _exclude),
    "size": OptionForm("size_bytes", SIZE_FORM, _size),
    "uid": OptionForm("uid", "number", _id, _OWN),
    "gid": OptionForm("gid", "number", _id, _OWN),
    "mode": OptionForm("mode", "octal, such as 0750", _mode, _OWN),
    "from": OptionForm("origin", "VOLUME or VOLUME@SNAPSHOT", _origin, "a volume begins once"),
}


def allowed_options() -> str:
    """Every known option with its form, on one line, for messages and help."""
    return "; ".join(f"{name}=<{option.form}>" for name, option in OPTIONS.items())


def parse_options(options: Mapping[str, str]) -> VolumeOptions:
    """Checked options from dockerd's string map; missing ones take their defaults.

    Raises InvalidInputError naming the first unknown or malformed option and what is allowed.
    """
    if len(options) > VOLUME_OPTIONS_MAX:
        raise InvalidInputError(f"more than {VOLUME_OPTIONS_MAX} volume options")
    found: dict[str, Any] = {}  # each parser returns its own field's type
    for name, text in options.items():
        option = OPTIONS.get(name)
        if option is None:
            raise InvalidInputError(f"unknown option {shown(name)}; allowed: {allowed_options()}")
        if len(text) > OPTION_VALUE_CHARACTERS_MAX:
            raise InvalidInputError(f"option {name}: the value {shown(text)} is too long")
        try:
            found[option.field] = option.parse(text)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"option {name}: {error}; use {name}=<{option.form}>"
            ) from error
    if "from" in options and (owned := {"uid", "gid", "mode"} & set(options)):
        raise InvalidInputError(
            f"option {min(owned)}: a volume made with from has the owner and mode of that snapshot;"
            " leave uid, gid and mode out"
        )
    policy = {name: found.pop(name) for name in _POLICY & set(found)}
    return VolumeOptions(policy=CapturePolicy(**policy), **found)


def changed(recorded: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    """A volume's options after setting those given, None for the default of one.

    InvalidInputError for an option that is unknown, malformed or fixed for a volume's life.
    """
    options = dict(recorded)
    for name, text in given.items():
        option = OPTIONS.get(name)
        if option is not None and option.fixed and text != recorded.get(name):
            can = ", ".join(each for each, form in OPTIONS.items() if not form.fixed)
            raise InvalidInputError(
                f"option {name} is fixed for a volume's life: {option.fixed}; to be set: {can}"
            )
        if text is not None or option is None:
            options[name] = text or ""
        else:
            options.pop(name, None)
    parse_options(options)
    return options
