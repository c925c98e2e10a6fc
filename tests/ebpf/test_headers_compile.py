"""The programs in bpf/ compile with the few kernel headers that are shipped, and nothing else."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import UnsupportedError
from diffkeeper.sources.ebpf import loading
from diffkeeper.sources.ebpf.features import STEPS, Attempt
from diffkeeper.sources.ebpf.program import Program
from tests.support.headers import gathered

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def headers() -> Path:
    return gathered()


def test_the_programs_compile_with_them(headers: Path) -> None:
    """By the daemon's own loader, and with these headers alone."""
    attempt = Attempt()
    try:
        program = Program.load(str(headers), attempt)
    except UnsupportedError as error:
        failed = {each.name for each in attempt.report() if each.support == "unsupported"}
        if failed & {"tracefs", "tracepoints"}:
            pytest.skip(str(error))
        raise
    program.close()
    assert program.loading is not None
    assert program.loading.headers == headers
    found = {each.name: each.support for each in attempt.report()}
    assert {found[step] for step in STEPS} == {"supported"}


def test_those_that_do_not_compile_are_passed_over(headers: Path, tmp_path: Path) -> None:
    """As those of a kernel that is too new for the compiler; none left: each is told."""
    bad = tmp_path / "bad"
    subprocess.run(["cp", "-a", headers, bad], check=True)
    (bad / "include" / "linux" / "types.h").write_text("#error too new\n")
    bcc = loading.import_bcc()
    text = "int nothing(void *context) { return 0; }"
    loaded, how = loading.load(bcc, [bad, headers], text, {}, 0)
    loaded.cleanup()
    assert how.headers == headers
    assert how.headers_bytes > 0
    with pytest.raises(UnsupportedError, match=f"headers in {bad}: .*error: too new"):
        loading.load(bcc, [bad], text, {}, 0)
