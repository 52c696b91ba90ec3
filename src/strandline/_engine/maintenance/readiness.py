"""Whether the service takes requests, who waits for that while it starts, and when it was last asked for anything."""

import asyncio
import logging
from typing import Final

from strandline._clock import Clock
from strandline._engine.loops import Loops
from strandline._journal.port import Journal
from strandline.errors import DiskLow, Draining, JournalUnavailable, NotReady, NoWorker

_log = logging.getLogger("strandline.readiness")

MOST_WAITING: Final = 1_000
"""Requests that wait for a server to start; whoever comes beyond them is refused at once."""


class Readiness:
    """Belongs to the serving loop.

    Not ready until `started` is set, nor while the journal can keep nothing or no agent can be asked.
    """

    def __init__(self, journal: Journal, loops: Loops, clock: Clock, *, retry_after_s: float) -> None:
        self._journal = journal
        self._loops = loops
        self._said: tuple[str, str] | None = None
        """The last trouble that the log was told of, until it is over."""
        self._clock = clock
        self._retry_after_s = retry_after_s
        self.started = False
        self.draining = False
        self.has_been_ready = False
        self._start_over = asyncio.Event()
        """Set once it has been ready, and when it will not be: its start has failed, or it stops."""
        self._waiting = 0
        self.exhausted = asyncio.Event()
        """Set when so many runs have ended and still work that the process has to be replaced."""
        self._last_request = clock.monotonic()

    @property
    def trouble(self) -> str | None:
        """With which code runs are refused, although the server neither starts nor stops; None if they are not."""
        found = self._trouble()
        return None if found is None else found[0]

    def _trouble(self) -> tuple[str, str] | None:
        """Return that code, and what people are told of it."""
        if not self.started:
            return None
        if (trouble := self._journal.trouble) is not None:
            what = "nothing can be kept, runs are refused and those that execute wait"
            return JournalUnavailable.code, f"{what}: {trouble}"
        if not self._loops.takes_calls:
            what = "no worker takes calls, runs are refused and those that were accepted wait"
            return NoWorker.code, f"{what}; the lines above say why"
        if (short := self._journal.low_disk) is not None:
            return DiskLow.code, f"new runs are refused and those that were accepted go on: {short}"
        return None

    @property
    def ready(self) -> bool:
        """Return whether requests are taken."""
        return self.started and not self.stopping and self.trouble is None

    @property
    def starting(self) -> bool:
        """Return whether it has not been ready yet and may still become so."""
        return not self._start_over.is_set()

    def begin(self) -> None:
        """Take requests from now on, unless something is in trouble already."""
        self.started = True
        self._note_ready()

    def begin_to_drain(self) -> None:
        """Take nothing new from now on. Requests that wait for the start are let go."""
        self.draining = True
        self._start_over.set()

    def fail_start(self) -> None:
        """Note that it will never be ready. Requests that wait for the start are let go."""
        self._start_over.set()

    async def until_ready(self, timeout_s: float) -> None:
        """Return when its start is over, however it ended: whether a request is taken then, others decide.

        Raises `NotReady` after `timeout_s` seconds, and at once if `MOST_WAITING` requests wait already. Requests are
        let go in the order in which they came.
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
        # (A disk with little room left is no reason to wait on: what was accepted goes on, all can be read.)
        if self.starting and self.started and not self.stopping and self.trouble in (None, DiskLow.code):
            self.has_been_ready = True
            self._start_over.set()

    def tick(self) -> None:
        """Say once in the log why runs are refused, and what to do; and once that this is over."""
        self._note_ready()
        trouble = self._trouble()
        if trouble is not None and trouble != self._said:
            alert = "StrandlineNotReady" if trouble[0] == NoWorker.code else "StrandlineJournalUnavailable"
            _log.error("not ready: %s (what to do: docs/operations.md, %s)", trouble[1], alert)
        elif trouble is None and self._said is not None:
            _log.info("ready again: runs are accepted")
        self._said = trouble

    @property
    def stopping(self) -> bool:
        """Return whether nothing new is taken any more."""
        return self.draining or self.exhausted.is_set()

    def admit(self) -> None:
        """Let a request in that changes something. Raises `Draining`, `NotReady`."""
        if self.stopping:
            self.note_request()
            raise Draining("the server is stopping", retry_after_s=self._retry_after_s)
        self.open()

    def admit_run(self) -> None:
        """Let a request for a run in. Raises `Draining`, `NotReady`, `NoWorker`."""
        self.admit()
        if not self._loops.takes_calls:
            raise NoWorker("no worker process takes calls; the log says why", retry_after_s=self._retry_after_s)

    def open(self) -> None:
        """Let a request in that needs what is known once the journal is open. Raises `NotReady`."""
        self.note_request()
        if not self.started:
            raise NotReady("the server is starting", retry_after_s=self._retry_after_s)

    def note_request(self) -> None:
        """Note that somebody has asked for something."""
        self._last_request = self._clock.monotonic()

    def idle_s(self) -> float:
        """Return for how many seconds nobody has asked for anything."""
        return self._clock.monotonic() - self._last_request
