"""The form of the suite's tests: async methods that get an open desk."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from strandline._clock import Clock
from strandline._journal.port import Journal
from strandline.testing._desk import DEADLINE_S, Desk, StillClock

Scenario = Callable[[Any, Desk], Awaitable[None]]


def scenario(test: Scenario) -> Callable[[Any, Path], None]:
    """Make a pytest method out of an async test that gets an open desk."""

    def method(self: "Contract", tmp_path: Path) -> None:
        async def play() -> None:
            async with asyncio.timeout(DEADLINE_S):
                clock = StillClock()

                async def reopened() -> Journal:
                    return await self.reopen(desk.journal, tmp_path, clock)

                desk = Desk(self.make_journal(tmp_path, clock), clock, reopened)
                await desk.open()
                try:
                    await test(self, desk)
                except BaseException:
                    await desk.journal.close()
                    raise
                await desk.close_down()

        asyncio.run(play())

    method.__name__ = test.__name__
    method.__doc__ = test.__doc__
    return method


class Contract:
    """A part of the suite: creates and reopens its journals."""

    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        """Return a journal that is not open yet and stores its data in `folder`."""
        raise NotImplementedError

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        """Return a journal, not open yet, on the data of `journal`, as if its process had been killed."""
        raise NotImplementedError
