"""How long a run is likely to wait: from the recent run times of its session, or of all if it has had none. Pure."""

from collections import OrderedDict
from typing import Final

from strandline._clock import Clock
from strandline._engine.queues.session_queues import SessionQueues
from strandline._model import SessionKey

NEWEST_WEIGHS: Final = 0.2
"""The share of the newest run in a decaying mean of run times."""
KNOWN_SESSIONS: Final = 10_000
"""How many sessions' run times are remembered; the least recent are forgotten first."""


class RunTimes:
    """Decaying means."""

    def __init__(self) -> None:
        self._of_all: float | None = None
        self._of: OrderedDict[SessionKey, float] = OrderedDict()

    def ended(self, key: SessionKey, took_s: float) -> None:
        """Note how long a run took."""
        self._of_all = _mean(self._of_all, took_s)
        self._of[key] = _mean(self._of.get(key), took_s)
        self._of.move_to_end(key)
        if len(self._of) > KNOWN_SESSIONS:
            self._of.popitem(last=False)

    def mean_s(self, key: SessionKey) -> float | None:
        """Return how long a run of a session is likely to take; None if nothing has ended yet."""
        return self._of.get(key, self._of_all)

    def wait_s(self, key: SessionKey, position: int, taken_s: float = 0.0) -> float | None:
        """Return how long a run at `position` is likely to wait, 1 for the next to start, 0 for one that executes.

        `taken_s` is how long the executing run has taken already; one that takes longer than most may end at any time.
        """
        mean_s = self.mean_s(key)
        if position == 0:
            return 0.0
        return None if mean_s is None else position * mean_s - min(taken_s, mean_s)


def _mean(before_s: float | None, took_s: float) -> float:
    return took_s if before_s is None else before_s + NEWEST_WEIGHS * (took_s - before_s)


class Estimates:
    """Run times as callers see them. `retry_after_s`: the `Retry-After` of a full server."""

    def __init__(self, clock: Clock, queues: SessionQueues, *, retry_after_s: float) -> None:
        self._clock = clock
        self._queues = queues
        self._retry_after_s = retry_after_s
        self._times = RunTimes()

    def ended(self, key: SessionKey, took_s: float) -> None:
        """Note how long a run took."""
        self._times.ended(key, took_s)

    def wait_s(self, key: SessionKey, position: int, delayed_until: float | None = None) -> float | None:
        """Return how long a run at `position` is likely to wait, at least as long as it is delayed; None if people
        decide."""
        if position and self._queues.is_closed(key):
            return None
        if delayed_until is not None:  # (what is ahead of it now has probably ended by then)
            return max(0.0, delayed_until - self._clock.now())
        return self._times.wait_s(key, position, self._taken_s(key))

    def retry_after_s(self, key: SessionKey) -> float:
        """Return when a session's queue is likely to have room: when its next run has ended."""
        if self._queues.is_closed(key):
            return self._retry_after_s
        return max(1.0, self._times.wait_s(key, 1, self._taken_s(key)) or 1.0)

    def _taken_s(self, key: SessionKey) -> float:
        """Return for how many seconds a session's run has executed; 0 if none does."""
        since = self._queues.executing_since(key)
        return 0.0 if since is None else self._clock.monotonic() - since
