"""A place in a log of events, and the wait for the next ones. Belongs to the serving loop."""

import asyncio
from collections.abc import AsyncIterator, Callable

from msgspec import Struct
from msgspec.structs import replace

from strandline._engine.events import Numbered, RunFinished, StreamGap
from strandline._engine.streams.log import EventLog


class Subscription(Struct, eq=False):
    """Events after some number, in order. Any number of subscriptions, at any pace; close it after use.

    With `wanted`, only the events for which it is true.
    """

    _log: EventLog
    _after: int
    _wanted: Callable[[Numbered], bool] | None = None
    _transient: Numbered | None = None
    _reader: asyncio.Future[None] | None = None
    _alarm: asyncio.TimerHandle | None = None
    _until: float = 0.0
    _closed: bool = False
    _has_joined: bool = False
    """Whether it continues with the events of the run that its own has joined."""

    @property
    def after(self) -> int:
        """The number of the last event that was read, or after which it began."""
        return self._after

    @property
    def is_over(self) -> bool:
        """Whether there will be nothing more: everything was read, or it was closed."""
        return self._closed or self.is_read

    @property
    def is_read(self) -> bool:
        """Whether everything was read, with the end."""
        return self._log.closed and self._log.last <= self._after

    @property
    def is_behind(self) -> bool:
        """Whether there is more to read at once."""
        return self._after < self._log.last

    async def next(self, wait_s: float | None = None) -> list[Numbered]:
        """Wait for events, at most `wait_s` seconds, and return those that are there; none once it is over."""
        loop = asyncio.get_running_loop()
        until = None if wait_s is None else loop.time() + wait_s
        while not (events := self.ready()) and not self.is_over and (until is None or loop.time() < until):
            log = self._current()
            self._reader = log.await_next()
            try:
                if events := self.ready():  # it was recorded before this reader was visible
                    return events
                if until is not None:
                    self._wake_at(until)
                await self._reader
            finally:
                log.leave(self._reader)
                self._reader = None
        return events

    def ready(self) -> list[Numbered]:
        """Return the events that are there, up to some number; they count as read."""
        log = self._current()
        events: list[Numbered] = []
        log.flush()
        while not events and self._after < log.newest and (found := log.since(self._after)):
            self._after = _last_of(found[-1])
            if self._has_joined:
                found = [without_cost(each) for each in found]
            events = found if self._wanted is None else [each for each in found if self._wanted(each)]
        if log.transient is not self._transient and self._after >= log.newest:
            self._transient = log.transient
            if log.transient is not None:
                events.append(log.transient)
        return events

    def _current(self) -> EventLog:
        """Return the log that has the next events: its successor, once all of the first were read."""
        while (successor := self._log.successor) is not None and not self._log.has_after(self._after):
            self._after = max(self._after, self._log.continues_after)
            self._log, self._has_joined = successor, True
        return self._log

    def close(self) -> None:
        """Stop waiting."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._wake()

    async def __aiter__(self) -> AsyncIterator[Numbered]:
        """Yield the events until it is over."""
        while not self.is_over:
            for event in await self.next():
                yield event

    def _wake_at(self, until: float) -> None:
        """Share one timer among many waits, which nearly all end long before: it is set again when it has fired."""
        self._until = until
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(until, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._reader is None:
            return
        if asyncio.get_running_loop().time() < self._until:
            self._wake_at(self._until)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def without_cost(numbered: Numbered) -> Numbered:
    """Return an event of a run for one that has joined it: what it all cost is said of the first alone."""
    event = numbered.event
    return replace(numbered, event=replace(event, usage=None)) if isinstance(event, RunFinished) else numbered


def _last_of(numbered: Numbered) -> int:
    """Return the number of an event, or the last number of a gap."""
    if isinstance(numbered.event, StreamGap):
        return numbered.event.last
    assert numbered.number is not None
    return numbered.number
