"""The Docker Engine as the demo needs it: compose, one container, the plugin, helpers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from survive import plugin
from survive.command import Conversation, attempt, command
from survive.inside import run_inside
from survive.settings import (
    BUILD_SECONDS_MAX,
    COMMAND_SECONDS_MAX,
    HERE,
    PROJECT,
    PULL_SECONDS_MAX,
    STANDIN_IMAGE,
    UNMOUNT_SECONDS_MAX,
    DemoError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from survive.settings import Settings

# The plugin's leading process: of those in its cgroup ($0), the one whose parent is outside.
LEADER = """
ids=""
for status in /proc/[0-9]*/cgroup; do
    pid=${status#/proc/}; pid=${pid%/cgroup}
    grep -q "$0" "$status" 2>/dev/null && ids="$ids $pid"
done
for pid in $ids; do
    parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
    case " $ids " in *" $parent "*) ;; *) leader=$pid ;; esac
done
[ -n "$leader" ] || { echo "no process of the plugin was found"; exit 1; }
"""
KILL_PLUGIN = LEADER + 'kill -KILL "$leader"'
# While the plugin stands still: wait for the death of Postgres ($1), delete /volume/$2. The engine
# starts no container while it waits for a plugin, so that one helper has to do all of it.
DELETE_SUDDENLY = (
    LEADER
    + """
trap 'kill -CONT "$leader" 2>/dev/null' EXIT
kill -STOP "$leader"
echo stopped
tries=600
while kill -0 "$1" 2>/dev/null; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "Postgres did not die"; exit 1; }
    sleep 0.05
done
rm -rf "/volume/$2"
kill -KILL "$leader"
"""
)
# The helper signals a process outside of its container, which AppArmor's profile forbids.
HOST_PROCESSES = ("--pid", "host", "--security-opt", "apparmor=unconfined")


def docker(*args: str, text: str | None = None, seconds: float = 60.0) -> str:
    """Output of `docker ARGS`; raises DemoError if it fails or takes longer than `seconds`."""
    return command(["docker", *args], text=text, seconds=seconds)


def usable_image(settings: Settings, say: Callable[[str], None]) -> str:
    """The name of an image to run: the one asked for, else the stand-in, built if need be."""
    if attempt(["docker", "image", "inspect", settings.image])[0] == 0:
        return settings.image
    say(f"pulling {settings.image}")
    if attempt(["docker", "pull", settings.image], seconds=PULL_SECONDS_MAX)[0] == 0:
        return settings.image
    say(f"{settings.image} can't be pulled here: using a stand-in from Debian's postgresql")
    script = str(HERE / "standin" / "build.sh")
    command([script, STANDIN_IMAGE, str(settings.cache)], seconds=BUILD_SECONDS_MAX)
    return STANDIN_IMAGE


class Postgres:
    """The demo's one service, through compose for its life and through docker for its deaths."""

    def __init__(self, settings: Settings, image: str) -> None:
        self.settings = settings
        self.image = image
        self._compose = _compose_program()
        self._env = {
            "POSTGRES_IMAGE": image,
            "DIFFKEEPER_DRIVER": settings.driver,
            "DEMO_VOLUME": settings.volume,
            "POSTGRES_PASSWORD": settings.password,
        }

    def compose(self, *args: str, seconds: float = 120.0) -> str:
        """Output of compose on the demo's file and project."""
        base = [*self._compose, "-f", str(HERE / "docker-compose.yml"), "-p", PROJECT]
        return command([*base, *args], env=self._env, seconds=seconds)

    def up(self) -> str:
        """Creates and starts the container; returns its id."""
        self.compose("up", "-d")
        return self.container()

    def container(self) -> str:
        """The container's id, running or not; raises DemoError where there is none."""
        found = docker(
            "ps", "-aq", "--no-trunc",
            "--filter", f"label=com.docker.compose.project={PROJECT}",
            "--filter", "label=com.docker.compose.service=postgres",
        ).split()  # fmt: skip
        if not found:
            raise DemoError("the demo's Postgres is not up: start it with ./run.sh up")
        return found[0]

    def down(self) -> None:
        """Removes the container, and the volume with it."""
        self.compose("down", "--volumes", "--timeout", "10")

    def kill(self) -> None:
        """SIGKILL for the whole container; returns when the engine knows that it is dead."""
        container = self.container()
        docker("kill", "-s", "KILL", container)
        docker("wait", container)

    def start(self) -> None:
        """Starts the dead container again; returns when its volume is mounted and it runs."""
        docker("start", self.container())

    def kill_process(self, choose: Callable[[list[str]], str]) -> None:
        """SIGKILL for one process of the server other than its first, as `choose` picks it."""
        container = self.container()
        listing = 'for d in /proc/[0-9]*; do echo "${d#/proc/} $(cat $d/comm)"; done 2>/dev/null'
        lines = run_inside(container, ["sh", "-c", listing]).splitlines()
        found = [pid for pid, _, name in (line.partition(" ") for line in lines)
                 if name == "postgres" and pid != "1"]  # fmt: skip
        if not found:
            raise DemoError("the server has no process besides its first")
        run_inside(container, ["sh", "-c", "kill -9 $0", choose(found)])

    def _helper(self, script: str, *words: str, options: tuple[str, ...]) -> list[str]:
        """A shell script as root in a throw-away container; `words` are its $0, $1, …"""
        return [
            "docker", "run", "--rm", "--network", "none", "--user", "0", *options,
            "--entrypoint", "sh", self.image, "-c", script, *words,
        ]  # fmt: skip

    def kill_plugin(self) -> None:
        """SIGKILL for the plugin's main process, from outside of it."""
        command(self._helper(KILL_PLUGIN, plugin.identity(), options=HOST_PROCESSES))

    def delete_live(self, live: str) -> None:
        """Deletes the volume's live directory (a path on the host) with all it holds."""
        mount, name = _parent_mount(live)
        command(self._helper('rm -rf "/volume/$0"', name, options=mount))

    def delete_suddenly(self, live: str) -> None:
        """Kills Postgres, the live directory and the plugin, which stands still all the while."""
        container = self.container()
        process = docker("inspect", "-f", "{{.State.Pid}}", container)
        mount, name = _parent_mount(live)
        words = (plugin.identity(), process, name)
        argv = self._helper(DELETE_SUDDENLY, *words, options=(*HOST_PROCESSES, *mount))
        with Conversation(argv) as helper:
            told = helper.line(COMMAND_SECONDS_MAX)
            if told != "stopped":
                raise DemoError(f"the plugin can't be stopped: {told}")
            self.kill()
            helper.end(COMMAND_SECONDS_MAX)

    def volume(self) -> dict[str, object]:
        """`docker volume inspect` of the demo's volume."""
        found = json.loads(docker("volume", "inspect", self.settings.volume))
        if not isinstance(found, list) or not found or not isinstance(found[0], dict):
            raise DemoError("docker volume inspect gave no volume")
        return found[0]

    def wait_unmounted(self, mounts: Callable[[], int]) -> None:
        """Waits until the plugin counts no mount; raises DemoError after a minute."""
        deadline = time.monotonic() + UNMOUNT_SECONDS_MAX
        while mounts() > 0:
            if time.monotonic() > deadline:
                raise DemoError(f"the volume is still mounted after {UNMOUNT_SECONDS_MAX:g} s")
            time.sleep(0.1)


def _parent_mount(live: str) -> tuple[tuple[str, str], str]:
    """Options that mount the live directory's parent at /volume, and the directory's name there."""
    parent, _, name = live.rstrip("/").rpartition("/")
    return ("--mount", f"type=bind,source={parent},target=/volume"), name


def _compose_program() -> list[str]:
    """`docker compose` where the client has it, else docker-compose."""
    if attempt(["docker", "compose", "version"])[0] == 0:
        return ["docker", "compose"]
    if attempt(["docker-compose", "version"])[0] == 0:
        return ["docker-compose"]
    raise DemoError("neither `docker compose` nor docker-compose works on this machine")
