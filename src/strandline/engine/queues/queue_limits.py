"""When runs that wait may have waited too long: one timer for all of them. Plain sync code.

The journal alone knows how long the time of a run stands still, and decides what has waited too long. The times here
are the earliest at which it is worth a question: it answers either that the run has ended, or when to ask again. Runs
that leave their queue in time are not taken out of the heap one by one; it is made anew when most of it is stale.
"""

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from strandline.clock import Clock
from strandline.model import RunId, SessionKey

STALE: Final = 64
"""How many stale entries are kept at least before the heap is made anew."""


class QueueLimits:
    """Belongs to the serving loop. `on_due` is told each run that still waits when its time may be up."""

    def __init__(self, clock: Clock, on_due: Callable[[RunId, SessionKey], object]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._due: dict[RunId, tuple[float, SessionKey]] = {}
        self._heap: list[tuple[float, RunId]] = []
        self._standing: dict[SessionKey, set[RunId]] = {}
        """Runs whose time stood still when they were due."""
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._due)

    def watch(self, run_id: RunId, key: SessionKey, deadline: float | None) -> None:
        """Watch a run that waits until `deadline` at least, in seconds since the epoch; None: it may wait for ever."""
        if deadline is not None and not self._stopped:
            self._due[run_id] = (deadline, key)
            heappush(self._heap, (deadline, run_id))
            if self._heap[0][1] == run_id:
                self._arm()

    def stands(self, run_id: RunId, key: SessionKey) -> None:
        """Note that the time of a run stands still, until `goes_on` is called for its session."""
        self._standing.setdefault(key, set()).add(run_id)

    def goes_on(self, key: SessionKey) -> None:
        """Ask again about the runs of a session whose time may go on now."""
        for run_id in self._standing.pop(key, ()):
            self.watch(run_id, key, self._clock.now())

    def comes_earlier(self, key: SessionKey, seconds: float) -> None:
        """Note that the deadlines of a session may be so much earlier than was told."""
        for run_id, deadline in [(each, due) for each, (due, session) in self._due.items() if session == key]:
            self.watch(run_id, key, deadline - seconds)

    def forget(self, run_id: RunId, key: SessionKey) -> None:
        """Forget a run that waits no longer."""
        if key in self._standing:
            self._standing[key].discard(run_id)
            if not self._standing[key]:
                del self._standing[key]
        if self._due.pop(run_id, None) is not None and len(self._heap) > 2 * len(self._due) + STALE:
            self._heap = [(deadline, each) for each, (deadline, _) in self._due.items()]
            heapify(self._heap)

    def look(self) -> None:
        """Look soon. The timer counts seconds; it does not see that a clock was set, or that the machine slept."""
        if self._heap and self._heap[0][0] <= self._clock.now():
            self._arm()  # in place of the timer that is too late, not beside it

    def stop(self) -> None:
        """Tell of nothing any more, also not of runs whose accept comes to its end only now."""
        self._stopped = True
        self._due.clear()
        self._heap.clear()
        self._standing.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            left_s = max(0.0, self._heap[0][0] - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            popped, run_id = heappop(self._heap)
            found = self._due.get(run_id)
            if found is None or found[0] != popped:
                continue  # it waits no longer, or there is another time for it
            del self._due[run_id]
            self._on_due(run_id, found[1])
        self._arm()
