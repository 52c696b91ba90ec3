"""Time, as something that is handed in. The only module of the engine that imports `time`.

`now()` is wall-clock time in seconds since the epoch, for records that people read. `monotonic()` is in
seconds from an arbitrary start, for durations and deadlines. Sleeping is done by the event loop.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Where the engine and the journals read the time."""

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
