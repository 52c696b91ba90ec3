"""What is looked after every second while a server runs: idle agents, stalled runs, silent loops, runs long past."""

import asyncio
import logging
from typing import Final

from strandline.clock import Clock
from strandline.engine.holds import Holds
from strandline.engine.loops import Loops
from strandline.engine.pool import AgentPool
from strandline.engine.runner import Runner
from strandline.errors import StrandlineError
from strandline.journal.port import Journal

_log = logging.getLogger("strandline.upkeep")

EVERY_S: Final = 1.0
PRUNE_EVERY_S: Final = 60.0
PRUNE_PAUSE_S: Final = 0.05
PRUNED_AT_ONCE: Final = 200
"""How many runs one commit forgets: few, so that no run waits long behind it."""


class Upkeep:
    """Runs as one task of the worker."""

    def __init__(
        self,
        journal: Journal,
        loops: Loops,
        pool: AgentPool,
        runner: Runner,
        holds: Holds,
        clock: Clock,
        *,
        run_retention_s: float,
    ) -> None:
        self._journal = journal
        self._loops = loops
        self._pool = pool
        self._runner = runner
        self._holds = holds
        self._clock = clock
        self._run_retention_s = run_retention_s

    async def go_on(self) -> None:
        """Look after everything until cancelled."""
        prune_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(EVERY_S)
            self._pool.tidy()
            self._runner.name_who_blocks()
            self._loops.beat()
            leftovers = self._holds.still_work()
            self._runner.watch(leftovers)
            for call in leftovers:
                self._runner.leave_silent_loop(call, leftovers)
            if self._clock.monotonic() >= prune_at:
                prune_at = self._clock.monotonic() + PRUNE_EVERY_S
                await self._prune()

    async def _prune(self) -> None:
        """Forget the runs that ended before the retention; what cannot be forgotten now is forgotten later."""
        before = self._clock.now() - self._run_retention_s
        try:
            forgotten = PRUNED_AT_ONCE
            while forgotten == PRUNED_AT_ONCE:
                await asyncio.sleep(PRUNE_PAUSE_S)
                forgotten = await self._journal.prune(before, PRUNED_AT_ONCE)
        except StrandlineError as error:
            _log.warning("runs past their retention could not be forgotten yet: %s", error)
