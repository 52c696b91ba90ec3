"""What goes on in the background while a server runs: a look every second, and runs long past that are forgotten."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from strandline.clock import Clock
from strandline.errors import StrandlineError
from strandline.journal.port import Journal

_log = logging.getLogger("strandline.upkeep")

EVERY_S: Final = 1.0
PRUNE_EVERY_S: Final = 60.0
PRUNE_PAUSE_S: Final = 0.05
PRUNED_AT_ONCE: Final = 200
"""How many runs one commit forgets: few, so that no run waits long behind it."""


async def look_after(*chores: Callable[[], object]) -> None:
    """Do each chore every second, until cancelled: what executes, waits, is idle and is over is looked after."""
    while True:
        await asyncio.sleep(EVERY_S)
        for chore in chores:
            try:
                done = chore()
                if isinstance(done, Awaitable):
                    await done
            except Exception:
                _log.exception("what is looked after every second could not be; it is tried again")


async def feel_lag(clock: Clock, tell: Callable[[float], object]) -> None:
    """Tell every second by how many seconds this loop was late for it, until cancelled."""
    while True:
        due = clock.monotonic() + EVERY_S
        await asyncio.sleep(EVERY_S)
        tell(max(0.0, clock.monotonic() - due))


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
