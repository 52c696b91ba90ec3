"""Whether the service takes requests, and when it was last asked for anything. Plain sync code."""

import asyncio

from strandline.clock import Clock
from strandline.errors import Draining, NotReady


class Readiness:
    """Belongs to the serving loop. Not ready until `started` is set."""

    def __init__(self, clock: Clock, *, retry_after_s: float) -> None:
        self._clock = clock
        self._retry_after_s = retry_after_s
        self.started = False
        self.draining = False
        self.exhausted = asyncio.Event()
        """Set when so many runs have ended and still work that the process has to be replaced."""
        self._last_asked = clock.monotonic()

    @property
    def stopping(self) -> bool:
        """Tell whether nothing new is taken any more."""
        return self.draining or self.exhausted.is_set()

    def admit(self) -> None:
        """Let a request in that changes something. Raises `Draining`, `NotReady`."""
        if self.stopping:
            self.asked()
            raise Draining("the server is stopping", retry_after_s=self._retry_after_s)
        self.open()

    def open(self) -> None:
        """Let a request in that needs what is known once the journal is open. Raises `NotReady`."""
        self.asked()
        if not self.started:
            raise NotReady("the server is starting", retry_after_s=self._retry_after_s)

    def asked(self) -> None:
        """Note that somebody has asked for something."""
        self._last_asked = self._clock.monotonic()

    def idle_s(self) -> float:
        """Return for how many seconds nobody has asked for anything."""
        return self._clock.monotonic() - self._last_asked
