"""Whether the service takes requests, and when it was last asked for anything. Plain sync code."""

import asyncio
import logging

from strandline.clock import Clock
from strandline.engine.loops import Loops
from strandline.errors import Draining, JournalUnavailable, NotReady, NoWorker
from strandline.journal.port import Journal

_log = logging.getLogger("strandline.readiness")


class Readiness:
    """Belongs to the serving loop.

    Not ready until `started` is set, nor while the journal can keep nothing or no agent can be asked.
    """

    def __init__(self, journal: Journal, loops: Loops, clock: Clock, *, retry_after_s: float) -> None:
        self._journal = journal
        self._loops = loops
        self._said: str | None = None
        """The last trouble that the log was told of, until it is over."""
        self._clock = clock
        self._retry_after_s = retry_after_s
        self.started = False
        self.draining = False
        self.exhausted = asyncio.Event()
        """Set when so many runs have ended and still work that the process has to be replaced."""
        self._last_asked = clock.monotonic()

    @property
    def trouble(self) -> str | None:
        """With which code runs are refused, although the server neither starts nor stops; None if they are not."""
        if not self.started:
            return None
        if self._journal.trouble is not None:
            return JournalUnavailable.code
        return None if self._loops.takes_calls else NoWorker.code

    @property
    def ready(self) -> bool:
        """Tell whether requests are taken."""
        return self.started and not self.stopping and self.trouble is None

    def look(self) -> None:
        """Say once in the log why runs are refused, and what to do; and once that this is over."""
        match self.trouble:
            case None:
                trouble = None
            case NoWorker.code:
                trouble = (
                    "no worker takes calls, runs are refused and those that were accepted wait; the lines above say why"
                    " (what to do: docs/operations.md, StrandlineNotReady)"
                )
            case _:
                trouble = (
                    f"nothing can be kept, runs are refused and those that execute wait: {self._journal.trouble}"
                    " (what to do: docs/operations.md, StrandlineJournalUnavailable)"
                )
        if trouble is not None and trouble != self._said:
            _log.error("not ready: %s", trouble)
        elif trouble is None and self._said is not None:
            _log.info("ready again: runs are accepted")
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

    def admit_run(self) -> None:
        """Let a request for a run in. Raises `Draining`, `NotReady`, `NoWorker`."""
        self.admit()
        if not self._loops.takes_calls:
            raise NoWorker("no worker process takes calls; the log says why", retry_after_s=self._retry_after_s)

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
