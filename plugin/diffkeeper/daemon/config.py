"""Configuration of the daemon: flags first, then `DIFFKEEPER_*`, then defaults for this machine.

The managed plugin sees the host's directories below /host; a daemon started by hand doesn't.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from diffkeeper import limits
from diffkeeper.errors import InvalidInputError
from diffkeeper.fsio.room import Share
from diffkeeper.limits import MIB
from diffkeeper.volumes.retention_tiers import RETENTION_FORM, parse_retention
from diffkeeper.volumes.trash_time import parse_trash
from diffkeeper.volumes.units import format_size, parse_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from diffkeeper.volumes.retention_policy import Tiers

STORE_MAX_BYTES_MIN = 8 * MIB

T = TypeVar("T")
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of the kernel, less its final zero
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
EBPF_LOADS: Final = ("start", "mount", "off")
SETTINGS: Final[Mapping[str, str]] = {
    "state-dir": "where the store and the live directories are kept",
    "socket": "Unix socket of the VolumeDriver protocol and the admin API",
    "mount-dir": "where volumes are mounted",
    "listen": "ADDR:PORT of /metrics and /healthz; port 0 picks one, 'off' disables it",
    "log-level": "one of " + ", ".join(LOG_LEVELS),
    "cgroup-root": "the host's cgroup tree, writable",
    "proc-root": "a /proc that shows the host's processes",
    "ebpf": "when eBPF programs are loaded: at the daemon's start (start), when the first volume"
    " asks for them (mount), or never (off)",
    "kernel-headers": "a folder of kernel headers to compile eBPF programs with",
    "retention": "history of volumes that set none: " + RETENTION_FORM,
    "trash": "how long removed volumes can be brought back, such as 7d; off deletes them within"
    " a minute",
    "trash-max": "what the history of removed volumes alone may take, the first removed go before"
    " their time: a size such as 20GiB, or a share of the file system such as 10%",
    "store-max": "what history may take at most: a size such as 20GiB, or a share of the file"
    " system such as 50%",
    "failpoints": "for crash tests: NAME=kill|error[:COUNT], comma-separated",
}


@dataclass(frozen=True, slots=True)
class Config:
    """Checked configuration; all paths are absolute."""

    state_dir: str
    socket: str
    mount_dir: str
    listen: tuple[str, int] | None  # None serves no metrics
    log_level: str
    cgroup_root: str
    proc_root: str
    ebpf: str
    kernel_headers: str  # empty: this kernel's, else those that are shipped
    retention: Tiers
    trash_seconds: float
    trash_max: Share
    store_max: Share
    failpoints: str


def variable(setting: str) -> str:
    """The environment variable of a setting: `state-dir` is DIFFKEEPER_STATE_DIR."""
    return "DIFFKEEPER_" + setting.replace("-", "_").upper()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; a flag that isn't given leaves `None`."""
    for setting, text in SETTINGS.items():
        if setting != "socket":  # every command has --socket already
            shown = f"{text} [{variable(setting)}]".replace("%", "%%")
            parser.add_argument(f"--{setting}", metavar="VALUE", help=shown)


def defaults(host: str = "/host") -> dict[str, str]:
    """The value of each setting that neither flag nor environment gives."""
    managed = os.path.isdir(f"{host}/lib")
    cgroups = f"{host}/cgroup"
    return {
        "state-dir": f"{host}/lib/diffkeeper" if managed else "/var/lib/diffkeeper",
        "socket": "/run/docker/plugins/diffkeeper.sock",
        "mount-dir": "/mnt/diffkeeper" if managed else "",
        "listen": "127.0.0.1:9911",
        "log-level": "info",
        "cgroup-root": cgroups if os.path.isdir(cgroups) else "/sys/fs/cgroup",
        "proc-root": "/proc",
        "ebpf": "start",
        "kernel-headers": "",
        "retention": "10m:all,2h:1m,2d:1h,30d:1d",
        "trash": "7d",
        "trash-max": f"{limits.TRASH_MAX_FRACTION_DEFAULT:.0%}",
        "store-max": f"{limits.STORE_MAX_FRACTION_DEFAULT:.0%}",
        "failpoints": "",
    }


def environment() -> Mapping[str, str]:
    """The process's environment."""
    return os.environ


def load(
    flags: Mapping[str, str | None], environ: Mapping[str, str], host: str = "/host"
) -> Config:
    """The configuration; `flags` maps setting names to values. Raises InvalidInputError naming the
    setting. An empty environment variable counts as absent, since `docker plugin set` leaves such.
    """
    values = defaults(host)
    for setting in SETTINGS:
        flag = flags.get(setting)
        value = flag if flag is not None else environ.get(variable(setting), "")
        if value:
            values[setting] = value
    values["mount-dir"] = values["mount-dir"] or f"{values['state-dir']}/mounts"
    for setting, known in (("log-level", LOG_LEVELS), ("ebpf", EBPF_LOADS)):
        if values[setting] not in known:
            raise InvalidInputError(f"{setting} {values[setting]!r}: {SETTINGS[setting]}")
    return Config(
        state_dir=_absolute("state-dir", values),
        socket=_socket(values),
        mount_dir=_absolute("mount-dir", values),
        listen=parse_listen(values["listen"]),
        log_level=values["log-level"],
        cgroup_root=_absolute("cgroup-root", values),
        proc_root=_absolute("proc-root", values),
        ebpf=values["ebpf"],
        kernel_headers=_absolute("kernel-headers", values) if values["kernel-headers"] else "",
        retention=_named("retention", values, parse_retention),
        trash_seconds=_named("trash", values, parse_trash),
        trash_max=_named("trash-max", values, _share),
        store_max=_named("store-max", values, _store_max),
        failpoints=values["failpoints"],
    )


def parse_listen(text: str) -> tuple[str, int] | None:
    """Host and port from `127.0.0.1:9911`, `[::1]:9911` or `:0` (loopback); None from `off`."""
    if text == "off":
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise InvalidInputError(f"listen {text!r}: use ADDR:PORT such as 127.0.0.1:9911, or off")
    return (match[1] or match[2] or "127.0.0.1", int(match[3]))


def _named(setting: str, values: Mapping[str, str], parse: Callable[[str], T]) -> T:
    """A parsed setting; its error names the setting."""
    try:
        return parse(values[setting])
    except InvalidInputError as error:
        raise InvalidInputError(f"{setting}: {error}; {SETTINGS[setting]}") from error


def _store_max(text: str) -> Share:
    return _share(text, STORE_MAX_BYTES_MIN)


def _share(text: str, bytes_min: int = 1) -> Share:
    percent = re.fullmatch(r"([0-9]{1,2})%", text)
    if percent is not None and int(percent[1]):
        return Share(fraction=int(percent[1]) / 100)
    size = 0 if text.endswith("%") else parse_size(text)
    if size < bytes_min:
        least = format_size(bytes_min)
        raise InvalidInputError(f"{text!r} is neither 1% to 99% nor at least {least}")
    return Share(bytes=size)


def _absolute(setting: str, values: Mapping[str, str]) -> str:
    path = values[setting]
    if not path.startswith("/") or "\0" in path:
        raise InvalidInputError(f"{setting} {path!r} is not an absolute path")
    return os.path.normpath(path)


def _socket(values: Mapping[str, str]) -> str:
    path = _absolute("socket", values)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise InvalidInputError(
            f"socket {path!r} is longer than {SOCKET_PATH_BYTES_MAX} bytes, the kernel's limit"
        )
    return path
