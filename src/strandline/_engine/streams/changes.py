"""The change feed: the events of all runs and sessions of a principal, for the clients that subscribe to it.

A principal's log begins with the first subscriber, and stays for a while after the last one has left, so that clients
can come back. Text deltas are not in it, only in each run's stream. Belongs to the serving loop.
"""

from collections.abc import Collection
from typing import Final

from msgspec import Struct

from strandline._clock import Clock
from strandline._engine.events import (
    Event,
    Numbered,
    ReasoningDelta,
    RunPosition,
    StreamGap,
    TextDelta,
    TextReset,
    type_of,
)
from strandline._engine.streams.log import Bounds, EventLog
from strandline._engine.streams.subscription import Subscription
from strandline._model import Principal, RunId, SessionId, SessionKey

NOT_IN_FEED: Final = (TextDelta, TextReset, ReasoningDelta, RunPosition)
"""Events that are published in the stream of their run only."""


class _Changes(EventLog):
    """The log of one principal; `read_at` is when a subscriber last read or waited, on the monotonic clock."""

    clock: Clock
    read_at: float

    def since(self, after: int) -> list[Numbered]:
        """Return events, as any log does; the subscriber may take its time before it waits for the next."""
        self.read_at = self.clock.monotonic()
        return super().since(after)


class ChangeFeed(Struct, eq=False):
    """A log for each principal with subscribers, kept for `retention_s` after the last. True if there is any."""

    _clock: Clock
    bounds: Bounds
    retention_s: float
    _logs: dict[Principal, _Changes] = {}
    _last: int = 0
    _is_missed: bool = False
    """Whether something has happened in this process that no log has."""
    _stopped: bool = False

    def __bool__(self) -> bool:
        return bool(self._logs)

    @property
    def subscribers(self) -> int:
        """How many wait at this moment."""
        return sum(log.readers for log in self._logs.values())

    def begin(self, epoch: int) -> None:
        """Start numbers after those of all earlier processes on this journal."""
        self._last = epoch << 32

    def missed(self) -> None:
        """Note that something may happen that no log has: a client that wants it, and is the first of its principal,
        gets a gap."""
        self._is_missed = True

    def publish(self, key: SessionKey, run_id: RunId | None, at: float, event: Event) -> None:
        """Publish an event of a session, or of a run of it, to the subscribers of its principal."""
        log = self._logs.get(key.principal)
        if log is None:
            self._is_missed = True
        elif not isinstance(event, NOT_IN_FEED):
            log.add(at, event, run_id, key.session_id)
            log.wake()

    def subscribe(
        self, principal: Principal, after: int, sessions: Collection[SessionId], types: Collection[str]
    ) -> Subscription:
        """Return a subscription to the events after number `after`, or with 0 to all from now on.

        `sessions` and `types` select events, if they are not empty; gaps are always included.
        """
        sessions, types = frozenset(sessions), frozenset(types)  # (each event is looked up in them)
        log = self._logs.get(principal)
        if log is None:
            clock = self._clock
            first = self._last + (2 if self._is_missed else 1)
            log = self._logs[principal] = _Changes(
                clock, clock.monotonic(), first=first, bounds=self.bounds, began=clock.now()
            )
        if self._stopped:
            log.end()

        def wanted(numbered: Numbered) -> bool:
            if isinstance(numbered.event, StreamGap):
                return True
            in_sessions = not sessions or numbered.session_id in sessions
            return in_sessions and (not types or type_of(numbered.event) in types)

        return Subscription(log, min(after or log.last, log.last), wanted if sessions or types else None)

    def evict(self) -> None:
        """Drop the logs that have had no subscriber for long. To be called every second."""
        now = self._clock.monotonic()
        for principal, log in list(self._logs.items()):
            if log.readers:
                log.read_at = now
            elif now - log.read_at > self.retention_s:
                del self._logs[principal]
                # One more, for events that nobody will have read: a client that had all of this log gets a gap.
                self._last = max(self._last, log.last + 1)
                log.end()

    def stop(self) -> None:
        """End all subscriptions, those that begin later too: the server stops."""
        self._stopped = True
        for log in self._logs.values():
            log.end()
        self._logs.clear()
