"""The injected clock. The only module that the engine uses for time.

`now()` is wall-clock time in seconds since the epoch, for records that people read. `monotonic()` is in seconds from an
arbitrary start, for durations and deadlines; `boottime()` is the same for leases, which run on while the machine is
suspended. The event loop does the sleeping.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

_log = logging.getLogger("strandline")

WRONG_S: Final = 1.0
"""By how much this machine's clock may differ from the one that is followed before the log says so."""
SLOWED: Final = 0.5
"""By which part of the time since the last measurement a clock may be set back: it never runs backwards."""


class Clock(Protocol):
    """The time source of the engine and the journals."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""
        ...

    def boottime(self) -> float:
        """Return seconds of a clock that runs on while the machine is suspended, the same for all its processes."""
        ...


def boottime() -> float:
    """Return seconds of a clock that runs on while the machine is suspended, the same for all its processes."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    boottime = staticmethod(boottime)


class FollowingClock:
    """A clock that shows the time of another machine, as measured over a connection to it.

    Servers that share a journal follow its database, so that their clocks agree. Between measurements it counts by
    `ticks`, which nobody sets: a step of this machine's own clock changes nothing. A measurement that is less exact
    than what is known changes nothing either. It never runs backwards: it stands still until a time that was too late
    has come. Until the first measurement it shows `own`.
    """

    def __init__(self, own: Clock, ticks: Callable[[], float] = boottime) -> None:
        self._own = own
        self._ticks = ticks
        self._lock = threading.Lock()
        self._ahead_of_ticks: float | None = None
        self._measured_at = 0.0
        self._latest = 0.0
        self._is_logged = False
        self.off_s = 0.0
        """By how many seconds this machine's own clock is ahead of the one that is followed, as last measured."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""
        return self._own.monotonic()

    def boottime(self) -> float:
        """Return seconds of a clock of this machine that runs on while it is suspended."""
        return self._own.boottime()

    def own_now(self) -> float:
        """Return seconds since the epoch, by this machine's own clock."""
        return self._own.now()

    def now(self) -> float:
        """Return seconds since the epoch, by the clock that is followed."""
        with self._lock:
            now = self._own.now() if self._ahead_of_ticks is None else self._ticks() + self._ahead_of_ticks
            self._latest = max(self._latest, now)
            return self._latest

    def measured(self, sent_at: float, came_at: float, shown: float) -> None:
        """Note that the other clock has `shown` a time between two moments of `ticks`."""
        middle, error_s = (sent_at + came_at) / 2, (came_at - sent_at) / 2
        found = shown - middle
        with self._lock:
            before = self._ahead_of_ticks
            if before is None:
                self._ahead_of_ticks = found
                self._latest = 0.0  # (nothing was stored by the other time)
            else:
                least = before - SLOWED * (came_at - self._measured_at)
                self._ahead_of_ticks = max(least, min(max(before, found - error_s), found + error_s))
            self._measured_at = came_at
            self.off_s = self._own.now() - (self._ticks() + found)
            is_wrong = abs(self.off_s) > WRONG_S + error_s
            is_new, self._is_logged = is_wrong and not self._is_logged, is_wrong
        if is_new:
            _log.warning(
                "this machine's clock is %.1f s %s the database's: times and deadlines of runs are by the database's"
                " clock, those of the log by this machine's",
                abs(self.off_s), "ahead of" if self.off_s > 0 else "behind",
            )  # fmt: skip


def is_over(until: float | None, clock: Clock) -> bool:
    """Return whether a time by `boottime` has passed; None never does."""
    return until is not None and clock.boottime() >= until
