"""What has to be looked up for a scrape: one look at a time, and none that hangs holds a scrape up for long."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

LOOK_S: Final = 0.5
"""How long a look may take before what was seen last is told instead."""


class Looks(Generic[T]):
    """What `see` returns, None if it cannot tell. Belongs to one event loop."""

    def __init__(self, see: Callable[[], Awaitable[T | None]]) -> None:
        self._see = see
        self._look: asyncio.Future[T | None] | None = None
        self._seen: T | None = None

    async def look(self) -> T | None:
        """Return what is seen, or was last if that takes too long; None before anything was."""
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._see())
        look = self._look  # (another scrape may begin the next one meanwhile)
        done, _ = await asyncio.wait([look], timeout=LOOK_S)
        if done:
            self._seen = look.result()
        return self._seen
