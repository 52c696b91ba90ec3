"""What has to be looked up for a scrape: one look at a time, and none that hangs holds a scrape up for long."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SAMPLE_S: Final = 0.5
"""How long a look may take before what was seen last is told instead."""


class Sampler(Generic[T]):
    """What `read` returns, None if it cannot tell. Belongs to one event loop."""

    def __init__(self, read: Callable[[], Awaitable[T | None]]) -> None:
        self._read = read
        self._sample: asyncio.Future[T | None] | None = None
        self._last: T | None = None

    async def sample(self) -> T | None:
        """Return what is seen, or was last if that takes too long; None before anything was."""
        if self._sample is None or self._sample.done():
            self._sample = asyncio.ensure_future(self._read())
        sample = self._sample  # (another scrape may begin the next one meanwhile)
        done, _ = await asyncio.wait([sample], timeout=SAMPLE_S)
        if done:
            self._last = sample.result()
        return self._last
