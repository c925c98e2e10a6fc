"""The daemon's configuration: flag over environment over default."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diffkeeper.daemon import config
from diffkeeper.errors import InvalidInputError
from diffkeeper.fsio.room import Share
from diffkeeper.volumes.retention_tiers import parse_retention

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults_of_a_daemon_started_by_hand(tmp_path: Path) -> None:
    loaded = config.load({}, {}, str(tmp_path))
    assert loaded == config.Config(
        state_dir="/var/lib/diffkeeper",
        socket="/run/docker/plugins/diffkeeper.sock",
        mount_dir="/var/lib/diffkeeper/mounts",
        listen=("127.0.0.1", 9911),
        log_level="info",
        cgroup_root="/sys/fs/cgroup",
        proc_root="/proc",
        ebpf="start",
        kernel_headers="",
        retention=parse_retention("10m:all,2h:1m,2d:1h,30d:1d"),
        trash_seconds=7 * 86_400.0,
        trash_max=Share(fraction=0.1),
        store_max=Share(fraction=0.5),
        failpoints="",
    )


def test_defaults_of_the_managed_plugin(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "cgroup").mkdir()
    loaded = config.load({}, {}, str(tmp_path))
    assert loaded.state_dir == f"{tmp_path}/lib/diffkeeper"
    assert loaded.mount_dir == "/mnt/diffkeeper"
    assert loaded.cgroup_root == f"{tmp_path}/cgroup"


@pytest.mark.parametrize("setting", config.SETTINGS)
def test_every_setting_by_flag_and_environment(setting: str, tmp_path: Path) -> None:
    good = {"listen": ("[::1]:0", "off"), "log-level": ("debug", "error"), "ebpf": ("mount", "off")}
    good["failpoints"] = ("store.before_commit=kill", "store.after_commit=error")
    good |= {"retention": ("all", "1d:1h"), "trash": ("0s", "30d")}
    good["store-max"] = good["trash-max"] = ("20GiB", "30%")
    first, second = good.get(setting, ("/a", "/b"))
    name = config.variable(setting)
    by_environment = config.load({}, {name: first}, str(tmp_path))
    by_flag = config.load({setting: second}, {name: first}, str(tmp_path))
    emptied = config.load({setting: None}, {name: ""}, str(tmp_path))
    field = {"trash": "trash_seconds"}.get(setting, setting.replace("-", "_"))
    default = getattr(config.load({}, {}, str(tmp_path)), field)
    assert getattr(by_environment, field) != getattr(by_flag, field)
    assert default not in (getattr(by_environment, field), getattr(by_flag, field))
    assert getattr(emptied, field) == default


def test_the_mount_directory_follows_the_state_directory(tmp_path: Path) -> None:
    assert config.load({"state-dir": "/s/"}, {}, str(tmp_path)).mount_dir == "/s/mounts"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9911", ("127.0.0.1", 9911)),
        (":0", ("127.0.0.1", 0)),
        ("localhost:80", ("localhost", 80)),
        ("[::]:1", ("::", 1)),
        ("off", None),
    ],
)
def test_listen(text: str, expected: tuple[str, int] | None) -> None:
    assert config.parse_listen(text) == expected


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("listen", "9911"),
        ("listen", "localhost"),
        ("listen", "::1:9911"),
        ("listen", "127.0.0.1:65536"),
        ("log-level", "loud"),
        ("state-dir", "relative"),
        ("proc-root", "proc"),
        ("kernel-headers", "headers"),
        ("socket", "/" + "x" * 107),
    ],
)
def test_bad_values_name_the_setting(setting: str, value: str) -> None:
    with pytest.raises(InvalidInputError, match=setting):
        config.load({}, {config.variable(setting): value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30%", 300), ("99%", 990), ("8MiB", 8 << 20), ("1GiB", 1 << 30)],
)
def test_store_max(text: str, expected: int, tmp_path: Path) -> None:
    assert config.load({"store-max": text}, {}, str(tmp_path)).store_max.of(1000) == expected


@pytest.mark.parametrize("text", ["0%", "100%", "-1%", "1.5%", "%", "1KiB", "much"])
def test_a_bad_store_max_names_the_setting(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"store-max: .*20GiB"):
        config.load({"store-max": text}, {}, str(tmp_path))
