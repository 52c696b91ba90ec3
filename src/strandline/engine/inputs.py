"""Sessions in which runs wait for the answer to an input request, and when that wait is over. Plain sync code.

The journal decides what goes on; this only knows when to ask it again.
"""

from collections.abc import Callable

from strandline.clock import Clock
from strandline.model import SessionKey


class Inputs:
    """Belongs to the serving loop. `on_due` is told each session whose time to answer is over."""

    def __init__(self, clock: Clock, on_due: Callable[[SessionKey], object]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._until: dict[SessionKey, float] = {}

    def watch(self, key: SessionKey, until: float) -> None:
        """Note that runs of a session wait for an answer, until that moment (seconds since the epoch)."""
        self._until[key] = until

    def forget(self, key: SessionKey) -> None:
        """Note that a session waits for an answer no longer."""
        self._until.pop(key, None)

    def look(self) -> None:
        """Tell of the sessions whose time is over; to be called every second."""
        if self._until:
            now = self._clock.now()
            for key in [key for key, until in self._until.items() if until <= now]:
                del self._until[key]
                self._on_due(key)
