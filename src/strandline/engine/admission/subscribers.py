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


class _Watched:
    """A run that does not go on in any case: how many clients wait for it, and the timer if all were lost."""

    __slots__ = ("key", "on_disconnect", "there", "timer")

    def __init__(self, key: SessionKey, on_disconnect: OnDisconnect) -> None:
        self.key = key
        self.on_disconnect = on_disconnect
        self.there = 0
        self.timer: asyncio.TimerHandle | None = None

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Subscribers:
    """`on_alone` is told each run that is left alone, with its session and what is wanted then."""

    def __init__(self, on_alone: Callable[[RunId, SessionKey, OnDisconnect], object]) -> None:
        self._on_alone = on_alone
        self._watched: dict[RunId, _Watched] = {}
        self.lost = 0
        """How many clients have been lost so far."""

    def __len__(self) -> int:
        return len(self._watched)

    def expect(self, run_id: RunId, key: SessionKey, on_disconnect: OnDisconnect) -> None:
        """Look after a run from now on, if it is not to go on in any case."""
        if on_disconnect is not OnDisconnect.CONTINUE:
            self._watched[run_id] = _Watched(key, on_disconnect)

    def forget(self, run_id: RunId) -> None:
        """Look after a run no longer: it has ended, or goes on in another process."""
        if (watched := self._watched.pop(run_id, None)) is not None:
            watched.disarm()

    def joined(self, run_id: RunId) -> None:
        """Note a client that waits for a run."""
        if (watched := self._watched.get(run_id)) is not None:
            watched.there += 1
            watched.disarm()

    def left(self, run_id: RunId, *, lost: bool) -> None:
        """Note that a client waits no longer, because it has its answer, or because it was lost."""
        self.lost += lost
        watched = self._watched.get(run_id)
        if watched is None or not watched.there:
            return
        watched.there -= 1
        if lost and not watched.there:
            watched.timer = asyncio.get_running_loop().call_later(LEFT_ALONE_S, self._alone, run_id)

    def stop(self) -> None:
        """Act upon nothing any more."""
        for run_id in list(self._watched):
            self.forget(run_id)

    def _alone(self, run_id: RunId) -> None:
        watched = self._watched[run_id]
        watched.timer = None
        self._on_alone(run_id, watched.key, watched.on_disconnect)
