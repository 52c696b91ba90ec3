"""Who waits for runs, and what becomes of a run whose clients have all been lost.

A run goes on whether anybody waits or not, unless it was asked for otherwise. A client is lost when its connection ends
before its answer; one that got an answer, or did not want to wait, is not. Only when nobody has been left for a while
is it acted upon: a client that comes back in time finds its run. Belongs to the serving loop; nothing here is durable,
since a restart loses all connections at once.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from strandline.model import OnDisconnect, RunId, SessionKey

LEFT_ALONE_S: Final = 2.0
"""How long nobody must have been there."""


class Subscribers:
    """`on_alone` is told each run that is left alone, with its session and what is wanted then."""

    def __init__(self, on_alone: Callable[[RunId, SessionKey, OnDisconnect], object]) -> None:
        self._on_alone = on_alone
        self._wanted: dict[RunId, tuple[SessionKey, OnDisconnect]] = {}
        self._there: dict[RunId, int] = {}
        self._timers: dict[RunId, asyncio.TimerHandle] = {}
        self.lost = 0
        """How many clients have been lost so far."""

    def __len__(self) -> int:
        return len(self._wanted)

    def expect(self, run_id: RunId, key: SessionKey, on_disconnect: OnDisconnect) -> None:
        """Look after a run from now on, if it is not to go on in any case."""
        if on_disconnect is not OnDisconnect.CONTINUE:
            self._wanted[run_id] = key, on_disconnect

    def forget(self, run_id: RunId) -> None:
        """Look after a run no longer: it has ended, or goes on in another process."""
        if self._wanted.pop(run_id, None) is not None:
            self._there.pop(run_id, None)
            self._disarm(run_id)

    def joined(self, run_id: RunId) -> None:
        """Note a client that waits for a run."""
        if run_id in self._wanted:
            self._there[run_id] = self._there.get(run_id, 0) + 1
            self._disarm(run_id)

    def left(self, run_id: RunId, *, lost: bool) -> None:
        """Note that a client waits no longer, because it has its answer, or because it was lost."""
        self.lost += lost
        there = self._there.get(run_id)
        if there is None:
            return
        if there > 1:
            self._there[run_id] = there - 1
            return
        del self._there[run_id]
        if lost:
            loop = asyncio.get_running_loop()
            self._timers[run_id] = loop.call_later(LEFT_ALONE_S, self._alone, run_id)

    def stop(self) -> None:
        """Act upon nothing any more."""
        for run_id in list(self._wanted):
            self.forget(run_id)

    def _alone(self, run_id: RunId) -> None:
        del self._timers[run_id]
        key, on_disconnect = self._wanted[run_id]
        self._on_alone(run_id, key, on_disconnect)

    def _disarm(self, run_id: RunId) -> None:
        if (timer := self._timers.pop(run_id, None)) is not None:
            timer.cancel()
