"""The injected clock. The only module that the engine uses for time.

`now()` is wall-clock time in seconds since the epoch, for records that people read. `monotonic()` is in seconds from an
arbitrary start, for durations and deadlines. The event loop does the sleeping.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """The time source of the engine and the journals."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""
        ...


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def boottime() -> float:
    """Return seconds of a clock that runs on while the machine is suspended, the same for all its processes."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def is_over(until: float | None) -> bool:
    """Return whether a time by `boottime` has passed; None never does."""
    return until is not None and boottime() >= until
