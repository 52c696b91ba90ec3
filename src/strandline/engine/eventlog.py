"""Events in order, numbered and kept once for all who listen: in a bounded buffer, each subscription a place in it.

So a slow subscriber slows nobody and takes no memory: what has left the buffer before it was read is a gap, and is told
as one. Belongs to the serving loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Final

from msgspec import Struct

from strandline.encoding import encode_messages
from strandline.engine.events import (
    Event,
    MessageAdded,
    Numbered,
    ReasoningDelta,
    RunFinished,
    RunRestarted,
    StreamGap,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from strandline.model import RunId, SessionId

EVENT_BYTES: Final = 200
"""What an event is taken to cost in memory, besides what it holds."""
AT_ONCE: Final = 200
"""How many events a subscription hands out at most in one go."""


class Bounds(Struct, frozen=True):
    """What is kept: so many events, and so many bytes; the oldest go first."""

    events: int = 10_000
    size: int = 4 * 1024 * 1024


DEFAULT_BOUNDS: Final = Bounds()


class EventLog:
    """Numbers events from `first` on. Those from number `older` on that are not kept any more are a gap."""

    __slots__ = ("_bounds", "_events", "_next", "_older", "_passing", "_readers", "_size", "closed")

    def __init__(self, *, first: int, older: int, bounds: Bounds) -> None:
        self._next = first
        self._older = older
        self._bounds = bounds
        self._events: deque[Numbered] = deque()
        self._size = 0
        self._passing: Numbered | None = None
        self._readers: list[asyncio.Future[None]] = []
        self.closed = False
        """Whether there will be no further event."""

    @property
    def last(self) -> int:
        """The number of the last event; one less than that of the first, if nothing was told yet."""
        return self._next - 1

    @property
    def is_heard(self) -> bool:
        """Whether a subscriber waits for the next event."""
        return len(self._readers) > 0

    @property
    def listeners(self) -> int:
        """How many wait for something at this moment."""
        return len(self._readers)

    def kept(self) -> list[Numbered]:
        """Return the events that are kept, the oldest first."""
        return list(self._events)

    def subscribe(self, after: int = 0) -> "Subscription":
        """Return a subscription to the events after number `after`; 0 is from the beginning."""
        return Subscription(self, after)

    # -- for those who tell ------------------------------------------------------------------------

    def _add(self, at: float, event: Event, run_id: RunId | None = None, session_id: SessionId | None = None) -> None:
        """Number an event and keep it; `_wake` is to follow."""
        self._events.append(Numbered(self._next, at, event, run_id, session_id))
        self._next += 1
        self._size += size_of(event)
        while len(self._events) > self._bounds.events or (self._size > self._bounds.size and len(self._events) > 1):
            self._size -= size_of(self._events.popleft().event)
        self._passing = None

    def _pass(self, at: float, event: Event) -> None:
        """Tell an event to those that are there; only the last one counts, and it is not kept."""
        self._passing = Numbered(None, at, event)
        self._wake()

    def _wake(self) -> None:
        readers, self._readers = self._readers, []
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    # -- for those who listen ----------------------------------------------------------------------

    def since(self, after: int) -> list[Numbered]:
        """Return the events after number `after` that are kept, a gap first if there were more, `AT_ONCE` at most."""
        events = self._events
        first = self._next - len(events)
        after = max(after, self._older - 1)
        new = self._next - 1 - max(after, first - 1)
        if new > AT_ONCE:
            told = list(islice(events, len(events) - new, len(events) - new + AT_ONCE))
        else:
            told = [events[index] for index in range(-new, 0)]  # from the end, where a deque is fast
        if after < first - 1 and told:
            told.insert(0, Numbered(None, told[0].at, StreamGap(after + 1, first - 1)))
        return told

    def passing(self) -> Numbered | None:
        """Return what was told in passing since the last event that is kept."""
        return self._passing

    def await_next(self) -> "asyncio.Future[None]":
        """Return a future of the next event, of whatever kind, or of the end; give it back with `leave`."""
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        return reader

    def leave(self, reader: "asyncio.Future[None]") -> None:
        """Forget a future that is of no more interest."""
        if reader in self._readers:
            self._readers.remove(reader)


class Subscription:
    """Events from some number on, in order. Any number of them, at any pace; close it when it is of no more interest.

    With `wanted`, only those for which it is true.
    """

    __slots__ = ("_after", "_closed", "_log", "_passed", "_reader", "_wanted")

    def __init__(self, log: EventLog, after: int, wanted: Callable[[Numbered], bool] | None = None) -> None:
        self._log = log
        self._after = after
        self._wanted = wanted
        self._passed: Numbered | None = None
        self._reader: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def is_over(self) -> bool:
        """Whether there will be nothing more: all has been read, or it was closed."""
        return self._closed or (self._log.closed and self._log.last <= self._after)

    async def next(self, wait_s: float | None = None) -> list[Numbered]:
        """Wait for events, at most `wait_s` seconds, and return those that there are by now; none once it is over."""
        loop = asyncio.get_running_loop()
        until = None if wait_s is None else loop.time() + wait_s
        while not (events := self.ready()) and not self.is_over and (until is None or loop.time() < until):
            self._reader = self._log.await_next()
            timer = None if until is None else loop.call_at(until, self._wake)
            try:
                await self._reader
            finally:
                if timer is not None:
                    timer.cancel()
                self._log.leave(self._reader)
                self._reader = None
        return events

    def ready(self) -> list[Numbered]:
        """Return the events that are there by now, up to some number; they count as read."""
        events = self._log.since(self._after)
        if events and events[-1].number is not None:
            self._after = events[-1].number
        if self._wanted is not None:
            events = [each for each in events if self._wanted(each)]
        passing = self._log.passing()
        if passing is not self._passed and self._after >= self._log.last:
            self._passed = passing
            if passing is not None:
                events.append(passing)
        return events

    def close(self) -> None:
        """Wait for nothing any more."""
        self._closed = True
        self._wake()

    async def __aiter__(self) -> AsyncIterator[Numbered]:
        """Yield the events until it is over."""
        while not self.is_over:
            for event in await self.next():
                yield event

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def size_of(event: Event) -> int:
    """Return about how many bytes an event takes in memory."""
    match event:
        case TextDelta(text) | ReasoningDelta(text):
            return EVENT_BYTES + len(text)
        case MessageAdded() | ToolStarted() | ToolFinished() | RunRestarted() | RunFinished():
            return EVENT_BYTES + len(encode_messages(event))
        case _:
            return EVENT_BYTES
