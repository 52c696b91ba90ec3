"""Sessions in which runs wait for the answer to an input request, and when that wait is over. Plain sync code.

The journal decides what goes on; this only knows when to ask it again: one timer for all of them.
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

from strandline.clock import Clock
from strandline.model import SessionKey


class Inputs:
    """Belongs to the serving loop. `on_due` is told each session whose time to answer is over."""

    def __init__(self, clock: Clock, on_due: Callable[[SessionKey], object]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._until: dict[SessionKey, float] = {}
        self._heap: list[tuple[float, SessionKey]] = []
        """With what was forgotten, until its time has come."""
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def is_waiting(self, key: SessionKey) -> bool:
        """Tell whether runs of a session wait for an answer, as far as is known."""
        return key in self._until

    def until(self, key: SessionKey) -> float | None:
        """Return until when (seconds since the epoch) runs of a session wait for an answer; None: they do not."""
        return self._until.get(key)

    def watch(self, key: SessionKey, until: float) -> None:
        """Note that runs of a session wait for an answer, until that moment (seconds since the epoch)."""
        if self._until.get(key) != until and not self._stopped:
            self._until[key] = until
            heappush(self._heap, (until, key))
            if self._heap[0] == (until, key):
                self._arm()

    def forget(self, key: SessionKey) -> None:
        """Note that a session waits for an answer no longer."""
        self._until.pop(key, None)

    def look(self) -> None:
        """Look now. The timer counts seconds; it does not see that a clock was set, or that the machine slept."""
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            until, key = heappop(self._heap)
            if self._until.get(key) == until:
                del self._until[key]
                self._on_due(key)
        self._arm()

    def stop(self) -> None:
        """Tell of nothing any more."""
        self._stopped = True
        self._until.clear()
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            left_s = max(0.0, self._heap[0][0] - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(left_s, self.look)
