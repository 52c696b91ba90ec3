"""Whether the service takes requests, and when it was last asked for anything. Plain sync code."""

import asyncio
import logging

from strandline.clock import Clock
from strandline.errors import Draining, NotReady
from strandline.journal.port import Journal

_log = logging.getLogger("strandline.readiness")


class Readiness:
    """Belongs to the serving loop. Not ready until `started` is set, nor while the journal can keep nothing."""

    def __init__(self, journal: Journal, clock: Clock, *, retry_after_s: float) -> None:
        self._journal = journal
        self._said: str | None = None
        """The last trouble of the journal that the log was told of, until it is over."""
        self._clock = clock
        self._retry_after_s = retry_after_s
        self.started = False
        self.draining = False
        self.exhausted = asyncio.Event()
        """Set when so many runs have ended and still work that the process has to be replaced."""
        self._last_asked = clock.monotonic()

    @property
    def trouble(self) -> str | None:
        """Why what is asked for could not be kept; None if it can."""
        return self._journal.trouble if self.started else None

    @property
    def ready(self) -> bool:
        """Tell whether requests are taken."""
        return self.started and not self.stopping and self.trouble is None

    def look(self) -> None:
        """Say once in the log that nothing can be kept, and what to do; and once that this is over."""
        trouble, said = self.trouble, self._said
        if trouble is not None and trouble != said:
            _log.error(
                "not ready: nothing can be kept, runs are refused and those that execute wait: %s (what to do:"
                " docs/operations.md, StrandlineJournalUnavailable)",
                trouble,
            )
        elif trouble is None and said is not None:
            _log.info("ready again: the journal keeps what is asked for")
        self._said = trouble

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
