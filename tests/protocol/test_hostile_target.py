"""`restore` and `export` while another user puts links into their way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.cli import reference
from diffkeeper.cli.commands import export, restore
from diffkeeper.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def run(daemon: Daemon, *arguments: str) -> int:
    """The command in this process, so that something can happen between its steps."""
    return main(["--socket", daemon.path, *arguments])


def test_links_that_come_after_the_first_look(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"recorded"})
    assert daemon.cli("snapshot", "v").returncode == 0
    elsewhere, target = daemon.base / "elsewhere", daemon.base / "target"
    elsewhere.mkdir()
    resolve = reference.resolve

    def resolved(*arguments: Any) -> Any:
        _put_link(target, elsewhere)
        return resolve(*arguments)

    monkeypatch.setattr(restore, "resolve", resolved)
    assert run(daemon, "restore", "v", "--to", str(target)) == 4
    assert "not a directory" in capsys.readouterr().err
    target.unlink()
    target.mkdir()
    assert run(daemon, "restore", "v", "--to", str(target)) == 4
    target.unlink()
    (daemon.base / "way").mkdir()
    monkeypatch.setattr(restore, "resolve", resolve)
    os.chown(daemon.base / "way", 4321, 4321)
    (daemon.base / "way" / "on").symlink_to(elsewhere)
    os.chown(daemon.base / "way" / "on", 4321, 4321, follow_symlinks=False)
    through = str(daemon.base / "way" / "on" / "x")
    assert run(daemon, "restore", "v", "--to", through) == 2
    assert "another user's" in capsys.readouterr().err
    assert run(daemon, "export", "v", "--to", through) == 2
    assert list(elsewhere.iterdir()) == []

    victim = elsewhere / "victim"
    victim.write_text("kept")
    (daemon.base / "v.tar.partial").symlink_to(victim)
    monkeypatch.setattr(export, "resolve", resolve)
    assert run(daemon, "export", "v", "--to", str(daemon.base / "v.tar")) == 0
    assert victim.read_text() == "kept"
    assert not (daemon.base / "v.tar").is_symlink()


def _put_link(target: Path, elsewhere: Path) -> None:
    if target.exists():
        target.rmdir()
    target.symlink_to(elsewhere)
