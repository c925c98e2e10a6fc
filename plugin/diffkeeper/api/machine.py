"""Calls about the daemon and its machine; they answer while the state loads, too."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import diffkeeper
from diffkeeper.api import checks
from diffkeeper.api.call import Calls
from diffkeeper.messages import machine

if TYPE_CHECKING:
    from diffkeeper.api.call import Call
    from diffkeeper.messages.endpoint import NoBody

calls = Calls()


@calls.serve(machine.VERSION)
async def version(call: Call[NoBody]) -> machine.DaemonVersion:
    """Version of the daemon; answers early, so that callers know that it runs."""
    health = call.about.health
    return machine.DaemonVersion(diffkeeper.__version__, os.getpid(), health.listen, health.loading)


@calls.serve(machine.DOCTOR)
async def doctor(call: Call[NoBody]) -> list[machine.Check]:
    """Checks as seen from where the daemon runs."""
    service, health = call.service, call.about.health
    found = await asyncio.to_thread(checks.run, call.about.paths)
    features = await asyncio.to_thread(service.features, look=True)
    found += checks.ebpf(features)
    views = [service.view(view.name) for view in service.views()]
    found += [checks.sources(views), checks.sizes(views)]
    if not health.loading:
        found.append(checks.clock(service.history.uncounted_time()))
        found.append(checks.pressure(service.history.short()))
    found.append(checks.health(health.troubles()))
    return found
