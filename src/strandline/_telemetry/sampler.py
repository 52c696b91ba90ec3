"""A value that a scrape has to look up. One lookup runs at a time, and one that hangs delays a scrape only briefly."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SAMPLE_S: Final = 0.5
"""How long a scrape waits for a lookup before it uses the last value."""


class Sampler(Generic[T]):
    """The value that `read` returns, None if it has none. Belongs to one event loop."""

    def __init__(self, read: Callable[[], Awaitable[T | None]]) -> None:
        self._read = read
        self._sample: asyncio.Future[T | None] | None = None
        self._last: T | None = None

    async def sample(self) -> T | None:
        """Return the value, or the last one if reading it takes too long; None before the first."""
        if self._sample is None or self._sample.done():
            self._sample = asyncio.ensure_future(self._read())
        sample = self._sample  # (another scrape may start the next one meanwhile)
        done, _ = await asyncio.wait([sample], timeout=SAMPLE_S)
        if done:
            self._last = sample.result()
        return self._last
