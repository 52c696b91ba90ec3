"""When runs that wait have waited too long: one timer for all of them. Plain sync code.

A run's time stands still while its session is closed: what opens it again moves it on, as the journal does. Runs that
leave their queue in time are not taken out of the heap one by one; it is made anew when most of it is stale.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import Final

from strandline.clock import Clock
from strandline.model import RunId, SessionKey

STALE: Final = 64
"""How many stale entries are kept at least before the heap is made anew."""
_NONE: Final = (None, None, None)


class Closed(StrEnum):
    """Why nothing of a session is taken."""

    HELD = "held"
    PAUSED = "paused"


class QueueLimits:
    """Belongs to the serving loop. `on_due` is told each run whose time is up and that still waits."""

    def __init__(self, clock: Clock, on_due: Callable[[RunId, SessionKey], object]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._due: dict[RunId, tuple[float, SessionKey, float]] = {}
        """When the time of each run is up, and since when that has been so."""
        self._heap: list[tuple[float, RunId]] = []
        self._closed: dict[SessionKey, tuple[float, frozenset[Closed]]] = {}
        """Since when the time of a session stands still, and why."""
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._due)

    def watch(self, run_id: RunId, key: SessionKey, deadline: float | None, since: float | None = None) -> None:
        """Watch a run that waits until `deadline`, in seconds since the epoch; None: it may wait for ever.

        `since` is from when on that has been its deadline, if not from now on.
        """
        if deadline is not None and not self._stopped:
            self._due[run_id] = (deadline, key, self._clock.now() if since is None else since)
            heappush(self._heap, (deadline, run_id))
            if self._heap[0][1] == run_id:
                self._arm()

    def forget(self, run_id: RunId) -> None:
        """Forget a run that waits no longer."""
        if self._due.pop(run_id, None) is not None and len(self._heap) > 2 * len(self._due) + STALE:
            self._heap = [(deadline, each) for each, (deadline, _, _) in self._due.items()]
            heapify(self._heap)

    def close(self, key: SessionKey, why: Closed, since: float | None = None) -> None:
        """Let the time of a session's runs stand still, from now on or since a moment that has passed."""
        at, reasons = self._closed.get(key, (self._clock.now() if since is None else since, frozenset()))
        self._closed[key] = (at, reasons | {why})

    def open(self, key: SessionKey, why: Closed) -> None:
        """Let the time of a session's runs go on, unless there is another reason for which it stands still."""
        began, reasons = self._closed.get(key, (0.0, frozenset()))
        if why not in reasons:
            return
        if left := reasons - {why}:
            self._closed[key] = (began, left)
            return
        del self._closed[key]
        self._stood_since(key, began)

    def ask(self, key: SessionKey, until: float) -> None:
        """Move the runs of a session on by all of the time until which it waits for input.

        If it is closed besides, its time stands still for that only when it waits no longer: no minute counts twice.
        """
        if key in self._closed:
            began, reasons = self._closed[key]
            self._stood_since(key, began)
            self._closed[key] = (until, reasons)
        self._shift(key, until - self._clock.now())

    def answered(self, key: SessionKey, until: float) -> None:
        """Take back what was not used of the time until which a session would have waited for input."""
        now = self._clock.now()
        self._shift(key, -max(0.0, until - now))
        if key in self._closed:
            began, reasons = self._closed[key]
            self._closed[key] = (min(began, now), reasons)

    def _stood_since(self, key: SessionKey, began: float) -> None:
        now = self._clock.now()
        for run_id, (deadline, session, since) in list(self._due.items()):
            if session == key:
                self.watch(run_id, key, deadline + max(0.0, now - max(began, since)))

    def _shift(self, key: SessionKey, seconds: float) -> None:
        for run_id, (deadline, session, since) in list(self._due.items()):
            if session == key:
                self.watch(run_id, key, deadline + seconds, since)

    def is_paused(self, key: SessionKey) -> bool:
        """Tell whether the time of a session stands still because it is paused, as far as runs wait in it."""
        return key in self._closed and Closed.PAUSED in self._closed[key][1]

    def look(self) -> None:
        """Look soon. The timer counts seconds; it does not see that a clock was set, or that the machine slept."""
        if self._heap and self._heap[0][0] <= self._clock.now():
            self._arm()  # in place of the timer that is too late, not beside it

    def stop(self) -> None:
        """Tell of nothing any more, also not of runs whose accept comes to its end only now."""
        self._stopped = True
        self._due.clear()
        self._heap.clear()
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
            deadline, key, _ = self._due.get(run_id, _NONE)
            if deadline != popped or key is None or key in self._closed:
                continue  # it waits no longer, or its time was moved on, or stands still
            del self._due[run_id]
            self._on_due(run_id, key)
        self._arm()
