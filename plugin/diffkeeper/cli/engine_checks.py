"""Checks of the Docker Engine and of the plugin in it, for the doctor."""

from __future__ import annotations

from typing import Any, Final

from diffkeeper.messages.machine import Check

ENGINE_SECONDS_MAX: Final = 5


def run() -> list[Check]:
    """The results; a single one if the engine does not answer."""
    from docker.errors import DockerException

    import docker  # half a second of imports that only this command needs

    try:
        client = docker.from_env(timeout=ENGINE_SECONDS_MAX)
    except DockerException as error:
        return [_no_engine(error)]
    try:
        information: dict[str, Any] = client.info()
        plugins: list[dict[str, Any]] = [plugin.attrs for plugin in client.plugins.list()]
    except (DockerException, OSError) as error:
        return [_no_engine(error)]
    finally:
        client.close()
    return [_version(information), _live_restore(information), _plugin(information, plugins)]


def _no_engine(error: Exception) -> Check:
    return Check(
        "engine",
        "warn",
        f"the Docker Engine can not be reached: {str(error)[:200]}",
        "whether the plugin is installed and enabled is not known",
        "start dockerd, set DOCKER_HOST, or run as root",
    )


def _version(information: dict[str, Any]) -> Check:
    version = information.get("ServerVersion", "of unknown version")
    text = f"Docker Engine {version}, cgroup v{information.get('CgroupVersion', '1')}"
    return Check("engine", "ok", text)


def _live_restore(information: dict[str, Any]) -> Check:
    if information.get("LiveRestoreEnabled"):
        return Check("live-restore", "ok", "containers outlive a restart of dockerd")
    return Check(
        "live-restore",
        "warn",
        "containers end when dockerd is stopped or killed",
        "no data is at risk, but containers are down until dockerd is back",
        'put "live-restore": true into /etc/docker/daemon.json',
    )


def _plugin(information: dict[str, Any], plugins: list[dict[str, Any]]) -> Check:
    ours = [p for p in plugins if "diffkeeper" in str(p.get("Name", ""))]
    if any(plugin.get("Enabled") for plugin in ours):
        return Check("plugin", "ok", f"{ours[0]['Name']} is enabled")
    known = (information.get("Plugins") or {}).get("Volume") or []
    if "diffkeeper" in known:
        return Check("plugin", "ok", "the engine uses a daemon started by hand")
    name = ours[0]["Name"] if ours else ""
    return Check(
        "plugin",
        "warn",
        f"{name} is installed but disabled" if ours else "the plugin is not installed",
        "`docker volume create -d diffkeeper` fails unless a daemon is started by hand",
        f"docker plugin enable {name}" if ours else "make plugin, or docker plugin install",
    )
