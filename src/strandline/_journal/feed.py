"""Delivers durable claims from any thread to the engine: one feed, one consumer, each claim once.

Claims are in the queue; the future that a waiting consumer awaits is only a wake-up. So a consumer that is cancelled
while it waits loses nothing, and a consumer on another event loop is woken by its own loop.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from strandline._model import Claim
from strandline.errors import StrandlineError


class ClaimFeed:
    """Durable claims that are not yet fetched. All but `follow` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: deque[Claim] = deque()
        self._sleeper: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._ended = False

    def put(self, claims: Sequence[Claim]) -> None:
        """Append `claims` and wake the consumer once."""
        with self._lock:
            self._claims.extend(claims)
            sleeper, self._sleeper = self._sleeper, None
        _wake(sleeper)

    def end(self) -> None:
        """End the iteration after the claims that are already there. Idempotent."""
        with self._lock:
            self._ended = True
            sleeper, self._sleeper = self._sleeper, None
        _wake(sleeper)

    async def follow(self) -> AsyncIterator[Claim]:
        """Yield every claim once, until the feed has ended."""
        while (fetched := self._fetch()) is not None:
            if isinstance(fetched, Claim):
                yield fetched
            else:
                await fetched

    def _fetch(self) -> Claim | asyncio.Future[None] | None:
        """Return the next claim, a future to await if there is none yet, or None at the end."""
        with self._lock:
            if self._claims:
                return self._claims.popleft()
            if self._ended:
                return None
            loop = asyncio.get_running_loop()
            woken: asyncio.Future[None] = loop.create_future()
            self._sleeper = (loop, woken)
            return woken


def _wake(sleeper: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None) -> None:
    if sleeper is None:
        return
    loop, woken = sleeper
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if loop is here:
        resolve(woken, None)
        return
    try:
        loop.call_soon_threadsafe(resolve, woken, None)
    except RuntimeError:  # the consumer's loop is closed: there is nobody to wake
        pass


def resolve(future: asyncio.Future[Any], answer: object) -> None:
    """Set a future's result, or its exception if the answer is one of our errors; do nothing if it is done."""
    if future.done():
        return
    if isinstance(answer, StrandlineError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
