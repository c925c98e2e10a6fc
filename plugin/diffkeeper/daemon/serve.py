"""The daemon process: binds the socket, loads the state, serves until a signal stops it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import diffkeeper
from diffkeeper import clock, failpoint
from diffkeeper.api.checks import CheckedPaths
from diffkeeper.api.health import Health
from diffkeeper.api.server import Server, claim_socket
from diffkeeper.daemon import logs
from diffkeeper.errors import (
    CorruptionError,
    DiffKeeperError,
    MountUnseenError,
    StoreMissingError,
)
from diffkeeper.fsio import propagation
from diffkeeper.service import restart
from diffkeeper.service.service import VolumeService

if TYPE_CHECKING:
    from diffkeeper.daemon.config import Config

log = logging.getLogger(__name__)
# dockerd sends SIGKILL 10 s after SIGTERM; the service's own bound is 8 s.
STOP_SECONDS_MAX = 8.0
SWITCH_SECONDS = 0.0005
EXIT_SECONDS_MAX = 9.0
HOW_TO_GO_ON = (
    "live directories are untouched and stay in use; put a copy of the store in its place, or move"
    " the directory `store` away to begin a new one, and restart (docs/troubleshooting.md)"
)


def serve(config: Config) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns the exit code."""
    logs.configure(config.log_level)
    # Before the engine finds the socket, and binds directories that the host cannot see.
    if not propagation.is_seen(config.mount_dir, config.proc_root):
        log.error("mounts_unseen", extra={"mount_dir": config.mount_dir})
        if restart.may_end(config.state_dir):
            return MountUnseenError.exit_code
    # A thread that holds the interpreter's lock for the default 5 ms would stretch a freeze.
    sys.setswitchinterval(SWITCH_SECONDS)
    failpoint.arm(config.failpoints)
    try:
        return asyncio.run(_serve(config))
    except DiffKeeperError as error:
        log.error("failed", extra={"error": str(error), "kind": type(error).__name__})
        return error.exit_code
    except Exception:
        log.exception("crashed")
        return DiffKeeperError.exit_code


async def _serve(config: Config) -> int:
    listener = claim_socket(config.socket)
    service = VolumeService(
        config.state_dir,
        config.mount_dir,
        cgroup_root=config.cgroup_root,
        proc_root=config.proc_root,
        ebpf=config.ebpf,
        kernel_headers=config.kernel_headers,
        retention=config.retention,
        trash_seconds=config.trash_seconds,
        trash_max=config.trash_max,
        store_max=config.store_max,
    )
    health = Health(service)
    paths = CheckedPaths(config.state_dir, config.cgroup_root, config.proc_root)
    server = Server(service, health, paths)
    stopping = _stop_event()
    await server.serve_socket(listener)
    if config.listen is not None:
        await server.serve_tcp(config.listen)
    log.info("listening", extra=_identity(config, health))
    try:
        await _load(service, health, stopping)
        await stopping.wait()
    finally:
        await _stop(service, server)
    return 0


def _identity(config: Config, health: Health) -> dict[str, object]:
    return {
        "version": diffkeeper.__version__,
        "pid": os.getpid(),
        "socket": config.socket,
        "listen": health.listen or "off",
        "state_dir": config.state_dir,
        "mount_dir": config.mount_dir,
    }


def _stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. A thread ends the process if stopping hangs. That is
    harmless except for the log: the store is whole at any moment.
    """
    stopping = asyncio.Event()

    def stop(name: str) -> None:
        if not stopping.is_set():
            log.info("stopping", extra={"signal": name})
            stopping.set()
            watchdog = threading.Timer(EXIT_SECONDS_MAX, _give_up)
            watchdog.daemon = True
            watchdog.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    return stopping


def _give_up() -> None:
    log.error("stop_timed_out", extra={"seconds": EXIT_SECONDS_MAX})
    os._exit(1)


async def _load(service: VolumeService, health: Health, stopping: asyncio.Event) -> None:
    """Load the state; returns early when stopping, raises what made loading fail.

    With a damaged store it returns, and every call is answered with that error.
    """
    began = clock.monotonic()
    starting = asyncio.create_task(service.start())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        return
    try:
        await starting
    except (CorruptionError, StoreMissingError) as error:
        # If the process ended, the engine would start it again and again, and forget its volumes.
        damaged = isinstance(error, CorruptionError)
        health.refusal = f"{error}; {HOW_TO_GO_ON}" if damaged else str(error)
        log.error("store_refused", extra={"error": health.refusal})
        return
    finally:
        waiting.cancel()
    # What exists now lives until the end: later garbage collections need not walk it.
    gc.collect()
    gc.freeze()
    health.loading = False
    fields = {"volumes": len(service.views()), "seconds": clock.monotonic() - began}
    log.info("ready", extra=fields)


async def _stop(service: VolumeService, server: Server) -> None:
    await server.stop_listening()
    try:
        await asyncio.wait_for(service.stop(), STOP_SECONDS_MAX)
    except TimeoutError:
        log.error("stop_incomplete", extra={"seconds": STOP_SECONDS_MAX})
    except Exception:  # tell apart what ends the daemon and errors while stopping
        log.exception("stop_failed")
    await server.close()
    log.info("stopped")
