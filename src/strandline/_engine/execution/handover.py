"""Sessions that this server gains and cedes, as the journal reports them.

Runs that executed in gained sessions are recovered: first those found when the journal was opened, then those of each
later gain. Nothing of a ceded session executes, and the engine drops what it has of it: another server continues the
session, and an agent here would lack what happens there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from msgspec import Struct

from strandline._clock import Clock
from strandline._engine.execution.pool import AgentPool
from strandline._engine.execution.recovery import recover
from strandline._engine.execution.retry import Retries
from strandline._engine.observers import Tracing
from strandline._engine.options import Options
from strandline._engine.streams import Streams
from strandline._journal.errors import ClaimLost
from strandline._journal.partitions import partition_of
from strandline._journal.port import Ceded, Gained, Journal
from strandline._model import Claim, SessionKey
from strandline.errors import StrandlineError

_log = logging.getLogger("strandline.recovery")


class Handover(Struct, eq=False):
    """Belongs to the serving loop."""

    _journal: Journal
    _pool: AgentPool
    _streams: Streams
    _tracing: Tracing
    _clock: Clock
    _options: Options
    _retries: Retries
    gained: int = 0
    """How many partitions came after the start."""
    ceded: int = 0
    """How many went to other servers."""
    on_gained: Callable[[], object] = lambda: None
    """Called when partitions have come, also those that were here a moment before."""

    async def recover(self, orphans: Iterable[Claim]) -> None:
        """End or requeue what executed when its server died. Raises `JournalUnavailable`."""
        for orphan in orphans:
            await self._recover(orphan)

    async def _recover(self, orphan: Claim) -> None:
        run = orphan.run
        left = await recover(self._journal, orphan, self._options, self._clock.now())
        if left is not None:
            self._streams.ended(run.run_id, run.key, left.outcome, None)
            self._streams.ended_with(left.joined, run.key, left.outcome)
            self._tracing.ended(run, left.outcome, self._clock.now())

    async def follow(self) -> None:
        """Recover what is gained, and drop what is ceded, until the journal is closed."""
        async with asyncio.TaskGroup() as gaining:  # (what is ceded is dropped at once: it may come back)
            async for moved in self._journal.moves():
                if isinstance(moved, Gained):
                    gaining.create_task(self._gained(moved))
                else:
                    self._ceded(moved)

    async def leave(self) -> None:
        """Let other servers continue what rests here, since this one stops."""
        try:
            await self._journal.leave()
        except StrandlineError as error:
            _log.warning("sessions at rest are handed over only when this server has stopped: %s", error)

    async def _gained(self, gained: Gained) -> None:
        self.gained += len(gained.partitions)
        self.on_gained()
        if gained.orphans:
            _log.info("%d runs were executing at a server that was lost", len(gained.orphans))
        for orphan in gained.orphans:
            trouble = "run %s, whose server was lost, cannot be recovered yet"
            try:
                await self._retries.until_stored(partial(self._recover, orphan), trouble, orphan.run.run_id, log=_log)
            except ClaimLost:
                pass  # (it has another owner already)
            except Exception:
                _log.exception("run %s could not be recovered; the next owner of its session does", orphan.run.run_id)

    def _ceded(self, ceded: Ceded) -> None:
        self.ceded += len(ceded.partitions)

        def is_ceded(key: SessionKey) -> bool:
            return partition_of(key) in ceded.partitions

        self._pool.drop_all(is_ceded)
        self._streams.ceded(is_ceded)
