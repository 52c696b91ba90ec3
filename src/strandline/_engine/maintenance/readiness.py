"""Whether the service accepts requests, which requests wait for its start, and when the last one came."""

import asyncio
import logging
from typing import Final, Protocol

from strandline._clock import Clock
from strandline._engine.loops import Loops
from strandline._journal.port import Journal
from strandline.errors import DiskLow, Draining, JournalUnavailable, NotReady, NoWorker

_log = logging.getLogger("strandline.readiness")

MOST_WAITING: Final = 1_000
"""How many requests may wait for a server to start; further ones are refused at once."""


class Waited(Protocol):
    """Counts what has to wait for the journal."""

    waited: int
    """How many operations had to, since the start."""
    waiting: int
    """How many of them still do."""


class Readiness:
    """Belongs to the serving loop.

    Not ready until `started` is set, nor while the journal can store nothing or no agent can be reached.
    """

    def __init__(self, journal: Journal, loops: Loops, clock: Clock, retries: Waited, *, retry_after_s: float) -> None:
        self._journal = journal
        self._loops = loops
        self._logged_trouble: tuple[str, str] | None = None
        """The trouble that was logged last, until it is over."""
        self._retries = retries
        self.refused = 0
        """How many requests were refused for now."""
        self._before = (0.0, 0, 0)
        """When that trouble began, and how many requests were refused and operations had waited before."""
        self._clock = clock
        self._retry_after_s = retry_after_s
        self.started = False
        self.draining = False
        self.has_been_ready = False
        self._start_over = asyncio.Event()
        """Set once it has been ready, and when it will not be: its start has failed, or it stops."""
        self._waiting = 0
        self.exhausted = asyncio.Event()
        """Set when so many ended runs are still executing that the process must be replaced."""
        self._last_request = clock.monotonic()

    @property
    def trouble(self) -> str | None:
        """The code with which runs are refused, or soon may be, though the server neither starts nor stops; or None."""
        if (found := self._trouble()) is not None:
            return found[0]
        return JournalUnavailable.code if self.started and self._journal.is_silent else None

    def _trouble(self) -> tuple[str, str] | None:
        """Return that code, and a message for people."""
        if not self.started:
            return None
        if (trouble := self._journal.trouble) is not None:
            what = "the journal can store nothing; runs are refused and executing ones wait"
            return JournalUnavailable.code, f"{what}: {trouble}"
        if not self._loops.accepts_calls:
            what = "no worker takes calls; runs are refused and accepted ones wait"
            return NoWorker.code, f"{what} (the lines above say why)"
        if (short := self._journal.low_disk) is not None:
            return DiskLow.code, f"new runs are refused and accepted ones continue: {short}"
        return None

    @property
    def ready(self) -> bool:
        """Return whether requests are accepted."""
        return self.started and not self.stopping and self.trouble is None

    @property
    def starting(self) -> bool:
        """Return whether it has not been ready yet and may still become so."""
        return not self._start_over.is_set()

    def begin(self) -> None:
        """Accept requests from now on, unless there is trouble already."""
        self.started = True
        self._note_ready()

    def begin_to_drain(self) -> None:
        """Accept nothing new from now on, and release the requests that wait for the start."""
        self.draining = True
        self._start_over.set()

    def fail_start(self) -> None:
        """Note that it will never be ready, and release the requests that wait for the start."""
        self._start_over.set()

    async def until_ready(self, timeout_s: float) -> None:
        """Return when its start is over, however it ended: callers decide whether a request is accepted then.

        Raises `NotReady` after `timeout_s` seconds, and at once if `MOST_WAITING` requests wait already. Requests are
        released in the order in which they came.
        """
        if not self.starting:
            return
        if self._waiting >= MOST_WAITING:
            raise NotReady(
                f"the server is starting, and {MOST_WAITING} requests wait for it", retry_after_s=self._retry_after_s
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._start_over.wait()
        except TimeoutError:
            raise NotReady(
                f"the server is still starting, {timeout_s:g} s after this request came (setting start_wait)",
                retry_after_s=self._retry_after_s,
            ) from None
        finally:
            self._waiting -= 1

    def _note_ready(self) -> None:
        # (A nearly full disk is no reason to wait: accepted runs continue, everything can be read.)
        if self.starting and self.started and not self.stopping and self.trouble in (None, DiskLow.code):
            self.has_been_ready = True
            self._start_over.set()

    def tick(self) -> None:
        """Log once why runs are refused, and what to do; and once that this is over."""
        self._note_ready()
        trouble = self._trouble()
        if trouble is not None and trouble != self._logged_trouble:
            alert = "StrandlineNotReady" if trouble[0] == NoWorker.code else "StrandlineJournalUnavailable"
            _log.error(
                "not ready: %s; %d runs execute and %d wait (what to do: docs/operations.md, %s)",
                trouble[1], sum(self._journal.sessions.claimed_of().values()), self._journal.sessions.waiting, alert,
            )  # fmt: skip
            if self._logged_trouble is None:
                self._before = self._clock.monotonic(), self.refused, self._retries.waited - self._retries.waiting
        elif trouble is None and self._logged_trouble is not None:
            since, refused, waited = self._before
            _log.info(
                "ready again after %.0f s: runs are accepted; meanwhile %d requests were refused, and %d operations"
                " of runs had to wait",
                self._clock.monotonic() - since, self.refused - refused, self._retries.waited - waited,
            )  # fmt: skip
        self._logged_trouble = trouble

    @property
    def stopping(self) -> bool:
        """Return whether nothing new is accepted any more."""
        return self.draining or self.exhausted.is_set()

    def admit(self) -> None:
        """Let in a request that changes something. Raises `Draining`, `NotReady`."""
        if self.stopping:
            self.note_request()
            raise Draining("the server is stopping", retry_after_s=self._retry_after_s)
        self.open()

    def admit_run(self) -> None:
        """Let in a request for a run. Raises `Draining`, `NotReady`, `NoWorker`."""
        self.admit()
        if not self._loops.accepts_calls:
            raise NoWorker("no worker process takes calls; the log says why", retry_after_s=self._retry_after_s)

    def open(self) -> None:
        """Let in a request that needs the open journal. Raises `NotReady`."""
        self.note_request()
        if not self.started:
            raise NotReady("the server is starting", retry_after_s=self._retry_after_s)

    def note_request(self) -> None:
        """Note the time of a request."""
        self._last_request = self._clock.monotonic()

    def idle_s(self) -> float:
        """Return for how many seconds no request has come."""
        return self._clock.monotonic() - self._last_request
