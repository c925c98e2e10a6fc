"""Calls and messages about the daemon and the machine that it runs on."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from diffkeeper.messages.endpoint import Endpoint, NoBody

Result = Literal["ok", "unknown", "warn", "fail"]


class DaemonVersion(Struct, frozen=True):
    """Version and process of the daemon."""

    version: str
    pid: int
    listen: str  # address of the metrics; "" when they are not served
    loading: bool  # the state is being loaded still


class Check(Struct, frozen=True):
    """One finding of the doctor. `cost` and `mend` are empty when the result is ok or unknown."""

    name: str
    result: Result
    found: str
    cost: str = ""
    mend: str = ""


class FeatureView(Struct, frozen=True):
    """One feature that eBPF captures need or use, see `sources.ebpf.features`."""

    name: str
    support: str  # "supported", "unsupported" or "unknown"
    reason: str


class ErrorAnswer(Struct, frozen=True, rename={"text": "Err"}):
    """Why a call was refused; dockerd reads the same field."""

    text: str
    code: int  # of the command line's exit
    error: str  # name of the class in `errors`


VERSION: Final = Endpoint(
    "GET",
    "/v1/version",
    NoBody,
    DaemonVersion,
    "Version and process of the daemon; also while the state loads.",
)
DOCTOR: Final = Endpoint(
    "GET",
    "/v1/doctor",
    NoBody,
    list[Check],
    "What the daemon finds where it runs; answers while the state is being loaded, too.",
)
