"""config.json, the locks and the daemon's own defaults agree with each other."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from diffkeeper.daemon import config

REPOSITORY = Path(__file__).parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==\S+ \\$", re.MULTILINE)


@pytest.fixture
def plugin() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((REPOSITORY / "config.json").read_text())
    return loaded


@pytest.fixture
def managed_host(tmp_path: Path) -> str:
    """The layout below /host that the plugin sees."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "cgroup").mkdir()
    return str(tmp_path)


def test_only_known_keys(plugin: dict[str, Any]) -> None:
    """An engine ignores a misspelt key without a word, and with it what it was to bring."""
    keys = {"description", "documentation", "entrypoint", "workdir", "interface", "network"}
    keys |= {"pidhost", "ipchost", "propagatedMount", "linux", "mounts", "env"}
    assert set(plugin) == keys
    assert set(plugin["linux"]) == {"capabilities", "allowAllDevices", "devices"}
    for mount in plugin["mounts"]:
        known = {"name", "description", "source", "destination", "type", "options", "settable"}
        assert set(mount) == known
    for variable in plugin["env"]:
        assert set(variable) <= {"name", "description", "value", "settable"}


def test_variables_are_settings_with_the_same_defaults(
    plugin: dict[str, Any], managed_host: str
) -> None:
    """A plugin that was upgraded keeps its old environment, so each default stands in code too."""
    declared = {entry["name"]: entry["value"] for entry in plugin["env"]}
    assert set(declared) <= {config.variable(setting) for setting in config.SETTINGS}
    here = {key: value.replace("/host/", f"{managed_host}/") for key, value in declared.items()}
    assert config.load({}, here, managed_host) == config.load({}, {}, managed_host)


def test_state_and_mounts_lie_inside_what_is_mounted(plugin: dict[str, Any]) -> None:
    declared = {entry["name"]: entry["value"] for entry in plugin["env"]}
    destinations = {mount["name"]: mount["destination"] for mount in plugin["mounts"]}
    assert declared["DIFFKEEPER_STATE_DIR"].startswith(f"{destinations['state']}/")
    assert declared["DIFFKEEPER_CGROUP_ROOT"] == destinations["cgroup"]
    assert declared["DIFFKEEPER_MOUNT_DIR"] == plugin["propagatedMount"]
    assert Path(declared["DIFFKEEPER_SOCKET"]).name == plugin["interface"]["socket"]


def test_each_capability_is_justified(plugin: dict[str, Any]) -> None:
    text = (REPOSITORY / "SECURITY.md").read_text()
    for capability in plugin["linux"]["capabilities"]:
        assert f"| `{capability}` |" in text


def test_locks_hold_names_versions_and_hashes_only() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {"runtime": project["dependencies"]}
    wanted["dev"] = project["dependencies"] + project["optional-dependencies"]["dev"]
    for lock, requirements in wanted.items():
        text = (REPOSITORY / "requirements" / f"{lock}.txt").read_text()
        assert "://" not in text
        assert "--index-url" not in text
        blocks = PINNED.findall(text)
        pinned = {name.lower().replace("_", "-") for name in blocks}
        names = {re.split("[<>=!~ ]", word)[0].lower().replace("_", "-") for word in requirements}
        assert names <= pinned
        assert len(text.split("==")) - 1 == len(blocks)
        assert text.count("--hash=sha256:") >= len(blocks)


def test_the_dev_lock_contains_the_runtime_lock() -> None:
    """What is tested is what the plugin ships."""
    locks = [REPOSITORY / "requirements" / f"{lock}.txt" for lock in ("runtime", "dev")]
    runtime, dev = (set(re.findall(r"^(\S+==\S+) ", lock.read_text(), re.M)) for lock in locks)
    assert runtime
    assert runtime <= dev
