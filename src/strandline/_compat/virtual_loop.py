"""An asyncio event loop with virtual time, which jumps to the next timer whenever nothing is ready.

It reads no sockets, and no other thread wakes it.
"""

import asyncio
import math
from collections import deque
from typing import Any


class Deadlock(RuntimeError):
    """Every task waits and no timer is set."""


class _Instant:
    """A selector without files: waiting makes the clock jump."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("every task waits and no timer is set")
        if not self._loop.is_busy():
            self._loop.advance(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time stops while anything is ready, and jumps when nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._ready: deque[asyncio.Handle]
        self._selector = _Instant(self)
        # No timer fires early: code that loops until its deadline would never end while the clock stops.
        self._clock_resolution = 0.0

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance virtual time slightly more than `seconds`: a timer is due after its time."""
        self._now = math.nextafter(self._now + seconds, math.inf)

    def is_busy(self) -> bool:
        """Return whether something is ready to run at this instant."""
        return len(self._ready) > 0

    def _process_events(self, event_list: list[Any]) -> None:
        """Do nothing: there are no events."""

    def _write_to_self(self) -> None:
        """Do nothing: the loop never sleeps."""
