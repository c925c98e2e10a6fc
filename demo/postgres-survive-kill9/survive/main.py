"""The commands behind run.sh, chaos.sh, verify.sh, wipe.sh and ci-smoke.sh."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from survive import report, settings
from survive.chaos import Victim
from survive.demo import Demo
from survive.screen import Screen
from survive.settings import LOCAL_DRIVER, DemoError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from survive.settings import Settings

INTERRUPTED_EXIT_CODE = 130
WATCH_SECONDS = 1.0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Turns the first signal into a tidy end; the clean-up is short and is not interrupted."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(demo: Demo) -> None:
    """About a minute of kills, then restores if asked for, then the wipe."""
    demo.screen.stage("killing at random")
    demo.kill_for_a_while()
    demo.amcheck()
    if demo.settings.managed:
        if demo.settings.restores:
            demo.restore(demo.settings.restores)
        demo.wipe()
        demo.wipe(sudden=True)
    else:
        demo.screen.say(f"no wipe: volumes of driver {demo.settings.driver} have no history")


def _smoke(demo: Demo) -> None:
    """One of each, for CI."""
    demo.kill(Victim.CONTAINER)
    demo.kill(Victim.PROCESS)
    if demo.settings.managed:
        demo.await_snapshot()
        demo.kill(Victim.PLUGIN)
        demo.await_snapshot()
    demo.amcheck()
    if demo.settings.managed:
        demo.wipe()
        demo.await_snapshot()
    demo.kill(Victim.CONTAINER)


def _show(screen: Screen, result: report.Result) -> None:
    screen.console.print(report.table(result))
    for line in report.metrics(result):
        screen.console.print(line, markup=False)


def _whole(chosen: Settings, screen: Screen, act: Callable[[Demo], None]) -> int:
    """From nothing to nothing: begin, load, act, table, take down."""
    with ExitStack() as stack:
        with screen:
            demo = Demo.begin(chosen, screen, stack)
            with ExitStack() as load:
                demo.load(load)
                act(demo)
            demo.verify()
            result = demo.finish()
        _show(screen, result)
        screen.say("taking everything down")
    return 1 if result.problems else 0


def _up(chosen: Settings, screen: Screen) -> int:
    with ExitStack() as stack:
        Demo.begin(chosen, screen, stack, keep=True)
        screen.say("up; now ./chaos.sh, ./verify.sh, ./wipe.sh, and ./run.sh down in the end")
        stack.pop_all()
    return 0


def _down(chosen: Settings, screen: Screen) -> int:
    with ExitStack() as stack:
        Demo.join(chosen, screen, stack).postgres.down()
        screen.say("down; the plugin stays (make uninstall removes it)")
    return 0


def _chaos(chosen: Settings, screen: Screen) -> int:
    with ExitStack() as stack:
        demo = Demo.join(chosen, screen, stack)
        with screen, ExitStack() as load:
            demo.load(load)
            demo.kill_for_a_while()
        _show(screen, demo.finish())
    return 1 if demo.result.problems else 0


def _verify(chosen: Settings, screen: Screen, watch: bool) -> int:
    """Counts once, or once a second until Ctrl-C or the first problem."""
    with ExitStack() as stack:
        demo = Demo.join(chosen, screen, stack)
        while demo.verify() and watch and not demo.result.problems:
            time.sleep(WATCH_SECONDS)
        if not watch:
            demo.amcheck()
    return 1 if demo.result.problems else 0


def _wipe(chosen: Settings, screen: Screen, sudden: bool) -> int:
    with ExitStack() as stack:
        demo = Demo.join(chosen, screen, stack)
        if demo.postgres.volume().get("Driver") == LOCAL_DRIVER:
            raise DemoError("a plain volume has no history to come back from")
        demo.wipe(sudden=sudden)
    return 1 if demo.result.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="survive", description="Postgres survives kill -9.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "kills for a minute, wipe, table; KILLS, SECONDS, RESTORES say how much"),
        ("smoke", "one kill of each kind and a wipe, with every check"),
        ("up", "start Postgres on a new volume and leave it running"),
        ("down", "stop it and remove its volume"),
    ):
        commands.add_parser(name, help=text, description=text)
    chaos = commands.add_parser("chaos", help="load the running demo and kill it at random")
    chaos.add_argument("kills", type=int, nargs="?", default=None, help="how many (default 5)")
    wipe = commands.add_parser("wipe", help="delete the live directory of the running demo")
    wipe.add_argument("--sudden", action="store_true", help="while the plugin cannot see it")
    verify = commands.add_parser("verify", help="compare the running demo with the ledger")
    verify.add_argument("--watch", action="store_true", help="again every second")
    return parser


def _dispatch(given: argparse.Namespace, screen: Screen) -> int:
    chosen = settings.load()
    match given.command:
        case "run":
            return _whole(chosen, screen, _run)
        case "smoke":
            return _whole(chosen, screen, _smoke)
        case "up":
            return _up(chosen, screen)
        case "down":
            return _down(chosen, screen)
        case "chaos":
            kills = given.kills or chosen.kills or 5
            return _chaos(replace(chosen, kills=kills), screen)
        case "verify":
            return _verify(chosen, screen, given.watch)
        case _:
            return _wipe(chosen, screen, given.sudden)


def main(argv: Sequence[str]) -> int:
    """Runs one command; 0 when every promise was kept, 1 when not, 130 when interrupted."""
    given = _parser().parse_args(argv)
    # A shell that starts this in the background leaves SIGINT ignored, so it is set here.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        return _dispatch(given, Screen())
    except DemoError as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything is taken down", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
