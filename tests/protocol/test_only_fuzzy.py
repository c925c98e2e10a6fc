"""A live directory that is gone, of which no snapshot may stand in for it unasked."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.store.store import Batch, Store
from diffkeeper.volumes.layout import Layout
from tests.support.service import running

if TYPE_CHECKING:
    import pytest

    from tests.support.daemon import Daemon


def lost(daemon: Daemon) -> Path:
    """A volume whose live directory is gone, with all that was around it."""
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"first", "b": b"second"})
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    daemon.ok("Unmount", Name="v", ID="w")
    live = Path(daemon.ok("Get", Name="v")["Volume"]["Mountpoint"])
    daemon.stop()
    shutil.rmtree(live.parent)
    store = Store.open(str(daemon.state_dir / "store"))
    found = [replace(each, consistency="fuzzy") for each in store.snapshots(1)]
    old = {each.id for each in found}
    store.commit(Batch(snapshots=found, snapshots_del=old))
    store.close()
    daemon.start()
    return live


def test_the_command_of_the_error_restores_whole_or_not_at_all(daemon: Daemon) -> None:
    live = lost(daemon)
    told = daemon.call("Mount", Name="v", ID="1").err
    found = re.search(r"choose one: diffkeeper (restore v@)SEQ( --to .*) && (mv -T .*)$", told)
    assert found is not None, told
    assert shlex.split(found[3])[-1] == str(live)
    done = daemon.cli(*shlex.split(f"{found[1]}1{found[2]}"))
    assert done.returncode == 0, done.stderr
    again = daemon.call("Mount", Name="v", ID="1").err
    assert again == told, "it was taken for the live directory before its end"
    subprocess.run(shlex.split(found[3]), check=True)
    root = Path(daemon.ok("Mount", Name="v", ID="1")["Mountpoint"])
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {
        "a": b"first",
        "b": b"second",
    }


async def test_it_has_the_paths_of_the_host(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "live_on_host", lambda _, volume: f"/the host/{volume}/live")
    async with running(base) as service:
        await service.provision.create("v", {})
        live = service._registry.find("v").directory
        shutil.rmtree(base / "state" / "volumes" / "1")
        assert live.command() == (
            "diffkeeper restore v@SEQ --to '/the host/1/restored'"
            " && mv -T '/the host/1/restored' '/the host/1/live'"
        )
