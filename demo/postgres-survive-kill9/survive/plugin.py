"""The managed plugin: there for the run, and afterwards left as it was found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survive.command import attempt, command
from survive.settings import BUILD_SECONDS_MAX, PLUGIN, ROOT, DemoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from survive.settings import Settings

DEFAULT_LISTEN = "127.0.0.1:9911"
# Where engines with the default folder for plugins put the socket; else the command finds it.
SOCKET = "/run/docker/plugins/{id}/diffkeeper.sock"


def inspect() -> dict[str, Any] | None:
    """`docker plugin inspect` of the plugin; None where there is none."""
    code, told = attempt(["docker", "plugin", "inspect", PLUGIN])
    return dict(json.loads(told)[0]) if code == 0 else None


def _existing() -> dict[str, Any]:
    found = inspect()
    if found is None:
        raise DemoError(f"the engine has no plugin {PLUGIN}")
    return found


def identity() -> str:
    """The plugin's id; raises DemoError where there is no plugin."""
    return str(_existing()["Id"])


def state_directory() -> Path:
    """Where the plugin keeps store and live directories, as the host sees it."""
    for mount in _existing()["Settings"]["Mounts"]:
        if mount["Name"] == "state":
            return Path(mount["Source"]) / "diffkeeper"
    raise DemoError("the plugin has no mount for its state")


def metrics_url() -> str:
    """Where the plugin's metrics page is reached from this host."""
    listen = DEFAULT_LISTEN
    for variable in _existing()["Settings"]["Env"]:
        name, _, value = variable.partition("=")
        if name == "DIFFKEEPER_LISTEN" and value:
            listen = value
    return f"http://localhost:{listen.rpartition(':')[2]}/metrics"


def cli(settings: Settings) -> list[str]:
    """The start of a `diffkeeper` command that talks to this engine's plugin and to no other."""
    path = SOCKET.format(id=identity())
    return [settings.cli, *(["--socket", path] if os.path.exists(path) else [])]


def _does(step: str) -> None:
    """One step of the plugin's life."""
    command([str(ROOT / "scripts" / "plugin"), step], env={"DIFFKEEPER_PLUGIN": PLUGIN})


class Plugin:
    """What `ensure` changed, so that `restore` can undo it."""

    def __init__(self, settings: Settings, *, keep: bool) -> None:
        """With `keep` a plugin that has to be installed is an ordinary one, which stays."""
        self._settings = settings
        self._state = settings.out / "state"
        self._keep = keep
        self._installed = False
        self._enabled = False

    def ensure(self, say: Callable[[str], None]) -> None:
        """Builds and enables the plugin where it isn't; raises DemoError when that fails."""
        found = inspect()
        if found is None:
            self._install(say)
        elif found["Enabled"]:
            say("the plugin is enabled already and is used as it is")
        else:
            _does("enable")
            self._enabled = True

    def _install(self, say: Callable[[str], None]) -> None:
        say("building and enabling the plugin (make plugin)")
        chosen = []
        if not self._keep:
            # A state directory of its own goes with the plugin, and touches no other's.
            self._clear()
            self._state.mkdir(parents=True)
            chosen.append(f"state.source={self._state}")
        if self._settings.listen:
            chosen.append(f"DIFFKEEPER_LISTEN={self._settings.listen}")
        argv = ["make", "-C", str(ROOT), "plugin", f"SETTINGS={' '.join(chosen)}"]
        self._installed = True
        log = self._settings.out / "make-plugin.log"
        log.unlink(missing_ok=True)
        command(argv, seconds=BUILD_SECONDS_MAX, log=log, env={"MAKEFLAGS": "", "MAKELEVEL": ""})

    def restore(self) -> None:
        """Puts the plugin back into the state that `ensure` found."""
        if not (self._installed or self._enabled):
            return
        found = inspect()
        if found is not None and found["Enabled"]:
            _does("disable")
        if self._installed:
            if found is not None:
                _does("remove")
            if not self._keep:
                self._clear()

    def _clear(self) -> None:
        """Deletes the demo's own state directory. Its files are root's, as the plugin is."""
        if not self._state.exists():
            return
        if os.geteuid() == 0:
            shutil.rmtree(self._state)
        else:
            command(["sudo", "-n", "rm", "-rf", "--", str(self._state)])
