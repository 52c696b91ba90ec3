"""What is told about one live run to whoever waits for it.

A run goes on whether anybody waits or not; any number may wait, joining late or leaving at any time.
"""

import asyncio
from enum import StrEnum

from strandline.model import Outcome, RunId


class Later(StrEnum):
    """The run was accepted and goes on, but not in this process: ask for it again after the restart."""

    LATER = "later"


class RunStream:
    """The end of one run, for any number of waiters. Belongs to the serving loop."""

    __slots__ = ("_end", "_waiters", "run_id")

    def __init__(self, run_id: RunId) -> None:
        self.run_id = run_id
        self._end: Outcome | Later | None = None
        self._waiters: list[asyncio.Future[Outcome | Later]] = []

    def finish(self, end: Outcome | Later) -> None:
        """Tell everybody that waits, and whoever comes later. The first end counts."""
        if self._end is not None:
            return
        self._end = end
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(end)
        self._waiters.clear()

    async def outcome(self) -> Outcome | Later:
        """Wait for the end of the run. Cancelling the waiter changes nothing for the run."""
        return await self.waiter()

    def waiter(self) -> "asyncio.Future[Outcome | Later]":
        """Return a future of the end; whoever cancels it waits no more, and leaves nothing behind."""
        waiter: asyncio.Future[Outcome | Later] = asyncio.get_running_loop().create_future()
        if self._end is not None:
            waiter.set_result(self._end)
        else:
            self._waiters.append(waiter)
            waiter.add_done_callback(self._leave)
        return waiter

    def _leave(self, waiter: "asyncio.Future[Outcome | Later]") -> None:
        if waiter.cancelled() and waiter in self._waiters:
            self._waiters.remove(waiter)
