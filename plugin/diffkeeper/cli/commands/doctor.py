"""`diffkeeper doctor`: the engine, this machine and, if one runs, the daemon's own findings."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, cast

from diffkeeper.api import checks
from diffkeeper.cli import output
from diffkeeper.cli.client import Client
from diffkeeper.errors import DiffKeeperError
from diffkeeper.service.ebpf_features import of_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.daemon.config import Config

Finding = dict[str, object]
ENGINE_SECONDS_MAX: Final = 5


def examine(find_socket: Callable[[], str], config: Config) -> list[Finding]:
    """All findings. With a daemon, what it sees from where it runs; else what is seen from here."""
    findings = [asdict(check) for check in engine()]
    try:
        path = find_socket()
        found = _ask(path)
    except DiffKeeperError as error:
        places = checks.CheckedPaths(config.state_dir, config.cgroup_root, config.proc_root)
        here = [*checks.run(places), *checks.ebpf(of_machine(config.kernel_headers))]
        return [*findings, asdict(_no_daemon(error)), *map(asdict, here)]
    return [*findings, asdict(checks.Check("daemon", "ok", f"answers on {path}")), *found]


def _ask(path: str) -> list[Finding]:
    client = Client(path)
    try:
        answer = client.get("/v1/doctor")
    finally:
        client.close()
    if not isinstance(answer, list):
        raise DiffKeeperError(f"{path} gave no list of findings")
    return cast("list[Finding]", answer)


def _no_daemon(error: DiffKeeperError) -> checks.Check:
    return checks.Check(
        "daemon",
        "warn",
        str(error),
        "no volume can be used; what follows is what this machine offers to a daemon",
        "docker plugin enable diffkeeper, or run `diffkeeper serve`",
    )


def engine() -> list[checks.Check]:
    """What the Docker Engine says of itself and of the plugin."""
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


def _no_engine(error: Exception) -> checks.Check:
    return checks.Check(
        "engine",
        "warn",
        f"the Docker Engine can not be reached: {str(error)[:200]}",
        "whether the plugin is installed and enabled is not known",
        "start dockerd, set DOCKER_HOST, or run as root",
    )


def _version(information: dict[str, Any]) -> checks.Check:
    version = information.get("ServerVersion", "of unknown version")
    text = f"Docker Engine {version}, cgroup v{information.get('CgroupVersion', '1')}"
    return checks.Check("engine", "ok", text)


def _live_restore(information: dict[str, Any]) -> checks.Check:
    if information.get("LiveRestoreEnabled"):
        return checks.Check("live-restore", "ok", "containers outlive a restart of dockerd")
    return checks.Check(
        "live-restore",
        "warn",
        "containers end when dockerd is stopped or killed",
        "no data is at risk, but containers are down until dockerd is back",
        'put "live-restore": true into /etc/docker/daemon.json',
    )


def _plugin(information: dict[str, Any], plugins: list[dict[str, Any]]) -> checks.Check:
    ours = [p for p in plugins if "diffkeeper" in str(p.get("Name", ""))]
    if any(plugin.get("Enabled") for plugin in ours):
        return checks.Check("plugin", "ok", f"{ours[0]['Name']} is enabled")
    known = (information.get("Plugins") or {}).get("Volume") or []
    if "diffkeeper" in known:
        return checks.Check("plugin", "ok", "the engine uses a daemon started by hand")
    name = ours[0]["Name"] if ours else ""
    return checks.Check(
        "plugin",
        "warn",
        f"{name} is installed but disabled" if ours else "the plugin is not installed",
        "`docker volume create -d diffkeeper` fails unless a daemon is started by hand",
        f"docker plugin enable {name}" if ours else "make plugin, or docker plugin install",
    )


def show(findings: list[Finding]) -> None:
    """Print the findings, and below them the cost and the mend of each that has one."""
    headers = ("check", "result", "found")
    output.print_table(headers, [[f["name"], f["result"], f["found"]] for f in findings])
    for finding in findings:
        if finding["cost"]:
            output.print_line("")
            output.print_line(f"{finding['result']} {finding['name']}: {finding['cost']}")
            output.print_line(f"  mend: {finding['mend']}")
