"""Compiles the eBPF programs with bcc, and gives back the memory of the compiler."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from diffkeeper import clock, limits, memory
from diffkeeper.errors import UnsupportedError
from diffkeeper.sources.ebpf import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

REASON_CHARACTERS_MAX = 200

_DEBIAN_PACKAGES: Final = "/usr/lib/python3/dist-packages"
_STDERR: Final = 2


@dataclass(frozen=True, slots=True)
class Loading:
    """How the programs were loaded: headers, seconds, and resident sizes in bytes."""

    headers: Path
    headers_bytes: int
    seconds: float
    resident_before: int
    resident_compiled: int
    resident_after: int

    def fields(self) -> dict[str, object]:
        """Fields for the log."""
        return {
            "headers": self.headers,
            "headers_bytes": self.headers_bytes,
            "seconds": self.seconds,
            "resident_before_bytes": self.resident_before,
            "resident_compiled_bytes": self.resident_compiled,
            "resident_after_bytes": self.resident_after,
        }


def import_bcc() -> Any:
    """Debian's bcc, in the system's Python; PyPI has another package of that name."""
    if _DEBIAN_PACKAGES not in sys.path:
        sys.path.append(_DEBIAN_PACKAGES)
    try:
        import bcc  # costs 60 MB, so only where it is needed
        import bcc.libbcc
    except (ImportError, OSError) as error:
        raise UnsupportedError(f"bcc is not installed: {error}") from error
    return bcc


def load(
    bcc: Any, sets: Sequence[Path], text: str, macros: Mapping[str, int], before: int
) -> tuple[Any, Loading]:
    """Compile and attach with the first set of headers that works; UnsupportedError with the
    reason.

    before: resident size before bcc was imported.
    """
    began = clock.monotonic()
    flags = [f"-D{name}={value}" for name, value in macros.items()]
    problems = []
    for headers in sets:
        try:
            loaded = _load(bcc, headers, text, flags)
        except UnsupportedError as error:
            problems.append(str(error))
            continue
        compiled = memory.resident_bytes()
        loaded.free_bcc_memory()
        memory.give_back()
        after = memory.resident_bytes()
        size, seconds = tracing.header_bytes(headers), clock.monotonic() - began
        return loaded, Loading(headers, size, seconds, before, compiled, after)
    raise UnsupportedError("; ".join(problems))


def _load(bcc: Any, headers: Path, text: str, flags: list[str]) -> Any:
    os.putenv("BCC_KERNEL_SOURCE", str(headers))  # read by its C++ part
    with _standard_error_captured() as printed:
        try:
            return bcc.BPF(text=text.encode(), cflags=flags)
        except Exception as error:  # bcc raises nothing finer
            reason = _cause(printed(), str(error))
            raise UnsupportedError(
                f"the eBPF programs cannot be loaded with the kernel headers in {headers}: {reason}"
            ) from error


@contextmanager
def _standard_error_captured() -> Iterator[Callable[[], str]]:
    """Captures what C code writes to standard error meanwhile, which would be noise in the log."""
    kept = os.dup(_STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STDERR)
        try:
            yield lambda: os.pread(file.fileno(), limits.MIB, 0).decode(errors="replace")
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)


def _cause(printed: str, error: str) -> str:
    """The compiler's first error, else the last line before bcc's own words."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    named = [line for line in lines if "error:" in line] or lines[-1:]
    words = [line[:REASON_CHARACTERS_MAX] for line in [*named[:1], error]]
    return "; ".join(dict.fromkeys(words))
