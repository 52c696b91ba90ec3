"""What goes on in the background while a server runs: a look every second, and runs long past that are forgotten."""

import asyncio
import logging
from typing import Final

from strandline.clock import Clock
from strandline.engine.inputs import Inputs
from strandline.engine.pool import AgentPool
from strandline.engine.queue_limits import QueueLimits
from strandline.engine.shelf import Shelf
from strandline.engine.watch import Watch
from strandline.errors import StrandlineError
from strandline.journal.port import Journal

_log = logging.getLogger("strandline.upkeep")

EVERY_S: Final = 1.0
PRUNE_EVERY_S: Final = 60.0
PRUNE_PAUSE_S: Final = 0.05
PRUNED_AT_ONCE: Final = 200
"""How many runs one commit forgets: few, so that no run waits long behind it."""


async def look_after(watch: Watch, limits: QueueLimits, inputs: Inputs, pool: AgentPool, shelf: Shelf) -> None:
    """Look after what executes, what waits, what is idle and what is over, until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            watch.look()
            limits.look()
            inputs.look()
            pool.tidy()
            shelf.tidy()
        except Exception:
            _log.exception("what is looked after every second could not be; it is tried again")


async def prune(journal: Journal, clock: Clock, *, run_retention_s: float) -> None:
    """Forget the runs that ended before the retention, until cancelled; what cannot be forgotten now is later."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            more = True
            while more:
                more = await journal.prune(clock.now() - run_retention_s, PRUNED_AT_ONCE) == PRUNED_AT_ONCE
                await asyncio.sleep(PRUNE_PAUSE_S)
        except StrandlineError as error:
            _log.warning("runs past their retention could not be forgotten yet: %s", error)
        await asyncio.sleep(PRUNE_EVERY_S)
