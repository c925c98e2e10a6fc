"""Volume options, names and units: from text to checked values. Pure."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from diffkeeper import limits
from diffkeeper.errors import InvalidInputError
from diffkeeper.limits import MIB
from diffkeeper.sources import ladder
from diffkeeper.volumes.retention_policy import Tier, Tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INTERVAL_SECONDS_MIN = 0.1
INTERVAL_SECONDS_MAX = 30 * 86400.0
INTERVAL_SECONDS_DEFAULT = 1.0
FREEZE_SECONDS_MIN = 0.001
RETENTION_TIERS_MAX = 8
RETENTION_SECONDS_MIN = 1.0  # of an age or a step
RETENTION_SECONDS_MAX = 36_500 * 86_400.0
TRASH_SECONDS_MAX = 3_650 * 86_400.0
EXCLUDE_GLOBS_MAX = 32
TRASH_ANONYMOUS_SECONDS = 3_600.0  # for volumes whose name the engine generated
SIZE_BYTES_MIN = MIB
SIZE_BYTES_MAX = 1 << 50
VOLUME_NAME_BYTES_MAX = 255
VOLUME_OPTIONS_MAX = 64
MOUNT_ID_BYTES_MAX = 256

Consistency = Literal["crash", "fuzzy"]
Verify = Literal["unmount", "off"]

ZSTD_LEVEL_DEFAULT: Final = 1
ZSTD_LEVEL_MAX: Final = 19
RETENTION_FORM: Final = "all, or AGE:STEP,… such as 10m:all,2h:1m,2d:1h,30d:1d"
TRASH_FORM: Final = "0s to 3650d, or off"
SIZE_FORM: Final = "1MiB to 1024TiB, such as 10G or 500MiB"
EXCLUDE_FORM: Final = "GLOB[,GLOB…] such as cache,**/*.tmp"
ID_MAX: Final = 2**32 - 2  # the kernel takes 2**32 - 1 for "leave as it is"
OPTION_VALUE_CHARACTERS_MAX: Final = 256
_SHOWN_CHARACTERS_MAX: Final = 64

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_MOUNT_ID = re.compile(r"[!-~]+")
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_SIZE = re.compile(_NUMBER + r"(B|KiB|MiB|GiB|TiB)?")
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"0?[0-7]{3,4}")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_AS_DOCKER = re.compile(_NUMBER + r"[kKmMgGtT]")  # it takes them for powers of 1024
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """All options of one volume, checked. `None` keeps what the file system assigns."""

    interval_seconds: float = INTERVAL_SECONDS_DEFAULT
    capture: str = ladder.AUTO
    consistency: Consistency = "crash"  # "fuzzy" never freezes the writers
    freeze_seconds_max: float = limits.FREEZE_SECONDS_DEFAULT
    verify: Verify = "unmount"
    compression_level: int | None = ZSTD_LEVEL_DEFAULT  # zstd level; None stores chunks raw
    chunk_bytes: int = limits.CHUNK_BYTES_DEFAULT  # a power of two
    retention: Tiers | None = None  # None: the daemon's default; empty keeps everything
    trash_seconds: float | None = None  # None: the daemon's default, see `kept_seconds`
    exclude: tuple[str, ...] = ()  # globs of paths that are neither captured nor restored
    size_bytes: int | None = None  # what the live directory may take; None: no limit
    uid: int | None = None  # of the new volume's root directory, as are gid and mode
    gid: int | None = None
    mode: int | None = None
    source: str | None = None  # VOLUME or VOLUME@SNAPSHOT that a new volume begins with

    @property
    def chunk_bits(self) -> int:
        """log2 of the chunk size."""
        return self.chunk_bytes.bit_length() - 1


def shown(text: str) -> str:
    """`text` quoted for a message: ASCII only, control characters escaped, bounded in length."""
    if len(text) <= _SHOWN_CHARACTERS_MAX:
        return ascii(text)
    return f"{ascii(text[:_SHOWN_CHARACTERS_MAX])}… ({len(text)} characters)"


def parse_duration(text: str) -> float:
    """Seconds from `250ms`, `1s`, `10m`, `1h` or `30d`; raises InvalidInputError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{shown(text)} is not a duration such as 250ms, 1s, 10m, 1h, 30d")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes from `65536`, `64KiB` or `1MiB`; raises InvalidInputError, also for part of a byte."""
    match = _SIZE.fullmatch(text)
    scaled = float(match[1]) * _BYTES[match[2] or "B"] if match else 0.5
    if scaled != int(scaled):
        raise InvalidInputError(f"{shown(text)} is not a size such as 65536, 64KiB, 1MiB")
    return int(scaled)


def format_duration(seconds: float) -> str:
    """The shortest exact form that `parse_duration` reads back: `0.25` is `250ms`."""
    milliseconds = round(seconds * 1000, 6)
    for unit in ("d", "h", "m", "s"):
        scale = _SECONDS[unit] * 1000
        if milliseconds >= scale and milliseconds % scale == 0:
            return f"{int(milliseconds // scale)}{unit}"
    return f"{milliseconds:.6f}".rstrip("0").rstrip(".") + "ms"


def format_size(count: int) -> str:
    """Bytes for a person: exact where the unit divides (`64KiB`), else one decimal (`1.5MiB`)."""
    if count < _BYTES["KiB"]:
        return f"{count}B"
    unit = next(u for u in ("TiB", "GiB", "MiB", "KiB") if count >= _BYTES[u])
    whole, rest = divmod(count, _BYTES[unit])
    return f"{whole}{unit}" if rest == 0 else f"{count / _BYTES[unit]:.1f}{unit}"


def check_name(name: str) -> str:
    """The volume name if it is allowed; raises InvalidInputError."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInputError(
            f"volume name {shown(name)}: use 1 to {VOLUME_NAME_BYTES_MAX} of the characters"
            " a-z A-Z 0-9 _ . - and begin with a letter or digit"
        )
    return name


def check_mount_id(mount_id: str) -> str:
    """The mount ID if it is well formed (dockerd sends 64 hex digits); raises InvalidInputError."""
    if len(mount_id) > MOUNT_ID_BYTES_MAX or _MOUNT_ID.fullmatch(mount_id) is None:
        raise InvalidInputError(
            f"mount ID {shown(mount_id)}: use 1 to {MOUNT_ID_BYTES_MAX} printable ASCII"
            " characters without spaces"
        )
    return mount_id


def _between(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if not low <= seconds <= high:
            raise InvalidInputError(
                f"{shown(text)} is outside {format_duration(low)} to {format_duration(high)}"
            )
        return seconds

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise InvalidInputError(f"{shown(text)} is not one of {', '.join(allowed)}")
        return text

    return parse


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


def _chunk_bytes(text: str) -> int:
    size = parse_size(text)
    in_bounds = limits.CHUNK_BYTES_MIN <= size <= limits.CHUNK_BYTES_MAX
    if not in_bounds or size & (size - 1):
        raise InvalidInputError(
            f"{shown(text)} is not a power of two from {format_size(limits.CHUNK_BYTES_MIN)}"
            f" to {format_size(limits.CHUNK_BYTES_MAX)}"
        )
    return size


def parse_retention(text: str) -> Tiers:
    """Tiers from `all` (no tiers: everything is kept) or `AGE:STEP,…`; raises InvalidInputError.

    Up to each AGE one snapshot in every STEP is kept; the first STEP may be `all`.
    """
    if text == "all":
        return ()
    items = text.split(",")
    if len(items) > RETENTION_TIERS_MAX:
        raise InvalidInputError(f"more than {RETENTION_TIERS_MAX} tiers of retention")
    tiers: list[Tier] = []
    for item in items:
        tiers.append(_tier(item, tiers))
    return tuple(tiers)


def _tier(item: str, younger: list[Tier]) -> Tier:
    """One tier that follows the `younger` ones; its step must be a multiple of theirs."""
    age, colon, step = item.partition(":")
    if not colon:
        raise InvalidInputError(f"retention {shown(item)} is not AGE:STEP such as 2h:1m")
    everything = step == "all" and not younger
    tier = Tier(_whole_ns(age), 0 if everything else _whole_ns(step))
    before = younger[-1] if younger else Tier(0, 0)
    if tier.until_ns <= before.until_ns or tier.until_ns < tier.step_ns:
        raise InvalidInputError(f"retention {shown(item)}: ages rise, and exceed their steps")
    if before.step_ns and (tier.step_ns <= before.step_ns or tier.step_ns % before.step_ns):
        raise InvalidInputError(
            f"retention {shown(item)}: a step is a multiple of the one before, and longer"
        )
    return tier


def _whole_ns(text: str) -> int:
    seconds = _between(RETENTION_SECONDS_MIN, RETENTION_SECONDS_MAX)(text)
    if seconds != int(seconds):
        raise InvalidInputError(f"{shown(text)} is not a whole number of seconds")
    return int(seconds) * 1_000_000_000


def format_retention(tiers: Tiers) -> str:
    """Text that `parse_retention` reads back."""
    if not tiers:
        return "all"
    steps = [format_duration(tier.step_ns / 1e9) if tier.step_ns else "all" for tier in tiers]
    ages = [format_duration(tier.until_ns / 1e9) for tier in tiers]
    return ",".join(f"{age}:{step}" for age, step in zip(ages, steps, strict=True))


def parse_trash(text: str) -> float:
    """Seconds that a removed volume stays in the trash: a duration, `0` or `off`."""
    return 0.0 if text in ("0", "off") else _between(0.0, TRASH_SECONDS_MAX)(text)


def kept_seconds(name: str, options: Mapping[str, str], default: float) -> float:
    """Seconds that a removed volume stays in the trash: its own option, else the default.

    A volume with a name that the engine generated goes sooner: nobody knows that name. Options that
    this release cannot read are ignored.
    """
    text = options.get("trash")
    if text is not None:
        with contextlib.suppress(InvalidInputError):
            return parse_trash(text)
    anonymous = _ANONYMOUS.fullmatch(name) is not None
    return min(default, TRASH_ANONYMOUS_SECONDS) if anonymous else default


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


def _source(text: str) -> str:
    name, at, reference = text.partition("@")
    check_name(name)
    if at and not reference:
        raise InvalidInputError(f"{shown(text)} names no snapshot after @")
    return text


@dataclass(frozen=True, slots=True)
class OptionForm:
    """One known option: its field of VolumeOptions, its form as documented, its parser."""

    field: str
    form: str
    parse: Callable[[str], object]
    fixed: str = ""  # why it cannot be changed later


_CHUNKS: Final = "all that is stored is cut that way"
_OWN: Final = "a volume begins with it; change the directory itself in a container"
OPTIONS: Final[Mapping[str, OptionForm]] = {
    "interval": OptionForm(
        "interval_seconds",
        "100ms to 30d",
        _between(INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX),
    ),
    "capture": OptionForm("capture", "|".join(ladder.NAMES), _one_of(*ladder.NAMES)),
    "consistency": OptionForm("consistency", "crash|fuzzy", _one_of("crash", "fuzzy")),
    "freeze-max": OptionForm(
        "freeze_seconds_max",
        "1ms to 5s",
        _between(FREEZE_SECONDS_MIN, limits.FREEZE_SECONDS_MAX),
    ),
    "verify": OptionForm("verify", "unmount|off", _one_of("unmount", "off")),
    "compression": OptionForm("compression_level", "none|zstd|zstd:1..19", _compression),
    "chunk-size": OptionForm("chunk_bytes", "power of two, 4KiB to 1MiB", _chunk_bytes, _CHUNKS),
    "retention": OptionForm("retention", RETENTION_FORM, parse_retention),
    "trash": OptionForm("trash_seconds", TRASH_FORM, parse_trash),
    "exclude": OptionForm("exclude", EXCLUDE_FORM, _exclude),
    "size": OptionForm("size_bytes", SIZE_FORM, _size),
    "uid": OptionForm("uid", "number", _id, _OWN),
    "gid": OptionForm("gid", "number", _id, _OWN),
    "mode": OptionForm("mode", "octal, such as 0750", _mode, _OWN),
    "from": OptionForm("source", "VOLUME or VOLUME@SNAPSHOT", _source, "a volume begins once"),
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
    fields: dict[str, Any] = {}  # each parser returns its own field's type
    for name, text in options.items():
        option = OPTIONS.get(name)
        if option is None:
            raise InvalidInputError(f"unknown option {shown(name)}; allowed: {allowed_options()}")
        if len(text) > OPTION_VALUE_CHARACTERS_MAX:
            raise InvalidInputError(f"option {name}: the value {shown(text)} is too long")
        try:
            fields[option.field] = option.parse(text)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"option {name}: {error}; use {name}=<{option.form}>"
            ) from error
    if "from" in options and (owned := {"uid", "gid", "mode"} & set(options)):
        raise InvalidInputError(
            f"option {min(owned)}: a volume made with from has the owner and mode of that snapshot;"
            " leave uid, gid and mode out"
        )
    return VolumeOptions(**fields)


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
