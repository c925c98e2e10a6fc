"""A snapshot as a tar, read by GNU tar: names of attributes that nobody likes."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.tarball import Tarball
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [
    b"user.a=b", b"user.=", b"user.\xff\xfe", b"user.\xff=%3D", b"user.100%", b"user.a%3Db",
    "user.ünïcode".encode(), b"user.new\nline", b"user.a b", b"user." + b"n" * 250,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_attributes_are_the_bytes_that_they_were(tmp_path: Path, name: bytes) -> None:
    with CaptureRig(tmp_path, CapturePolicy(source="scan")) as rig:
        (rig.live / "file").write_bytes(b"content")
        (rig.live / os.fsdecode(b"odd\xff")).write_bytes(b"")
        for path in (rig.live / "file", rig.live):
            os.setxattr(path, name, b"\x00 =\xff")
            os.setxattr(path, b"user.plain", b"plain")
        snapshot = rig.capture()
        with open(tmp_path / "tar", "wb") as file:
            tarball = Tarball(StoreObjects(rig.store), file, lambda _entries, _bytes: None)
            tarball.write(snapshot.root)
        read = tmp_path / "read"
        read.mkdir()
        command = ["tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
        ended = subprocess.run(
            [*command, "-f", str(tmp_path / "tar")], cwd=read, capture_output=True, check=False
        )
        # GNU tar takes bytes as they are, and says that it has no use for being told so.
        complaints = [x for x in ended.stderr.splitlines() if b"keyword 'hdrcharset'" not in x]
        assert (ended.returncode, complaints) == (0, [])
        assert difference(describe(rig.live), describe(read)) == []
