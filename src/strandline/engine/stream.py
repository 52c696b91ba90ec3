"""What is told about one live run to whoever is interested: its events, numbered, and its end.

A run goes on whether anybody listens or not; any number may, joining late, leaving at any time, and coming back. The
events are kept once for all of them, in a bounded buffer; a subscription is no more than a place in it. So a slow
subscriber slows nobody and takes no memory: what has left the buffer before it was read is a gap, and is told as one.
Belongs to the serving loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from enum import StrEnum
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
from strandline.model import Outcome, RunId, SessionKey

LAST: Final = 2**53 - 1
"""The number of an end that is told from the journal alone: after all others, and exact in every JSON reader."""
EVENT_BYTES: Final = 200
"""What an event is taken to cost in memory, besides what it holds."""
AT_ONCE: Final = 200
"""How many events a subscription hands out at most in one go."""


class Later(StrEnum):
    """The run was accepted and goes on, but not in this process: ask for it again after the restart."""

    LATER = "later"


class Bounds(Struct, frozen=True):
    """What is kept of the events of one run: so many of them, and so many bytes; the oldest go first."""

    events: int = 10_000
    size: int = 4 * 1024 * 1024


DEFAULT_BOUNDS: Final = Bounds()


class RunStream:
    """The events and the end of one run. The first has the number `first`."""

    __slots__ = (
        "_bounds",
        "_end",
        "_events",
        "_first",
        "_next",
        "_passing",
        "_readers",
        "_size",
        "_waiters",
        "key",
        "run_id",
    )

    def __init__(self, run_id: RunId, key: SessionKey, *, first: int = 1, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self.run_id = run_id
        self.key = key
        self._end: Outcome | Later | None = None
        self._waiters: list[asyncio.Future[Outcome | Later]] = []
        self._events: deque[Numbered] = deque()
        self._first = self._next = first
        self._bounds = bounds
        self._size = 0
        self._passing: Numbered | None = None
        self._readers: list[asyncio.Future[None]] = []

    @classmethod
    def told(cls, run_id: RunId, key: SessionKey, events: list[Numbered]) -> "RunStream":
        """Return the stream of a run of which all has been told: `events` are what is kept of that, the end last."""
        last = events[-1]
        assert last.number is not None
        assert isinstance(last.event, RunFinished)
        stream = cls(run_id, key, first=(last.number >> 32 << 32) + 1)
        stream._events.extend(events)
        stream._next = last.number + 1
        stream._end = outcome_of(last.event)
        return stream

    # -- what is told ------------------------------------------------------------------------------

    def tell(self, at: float, event: Event) -> None:
        """Number an event, keep it, and tell it. After the end nothing is told."""
        self.tell_all(((at, event),))

    def tell_all(self, events: Iterable[tuple[float, Event]]) -> None:
        """Number events that have happened at these times (seconds since the epoch), keep them, and tell them."""
        if self._end is not None:
            return
        for at, event in events:
            self._events.append(Numbered(self._next, at, event))
            self._next += 1
            self._size += size_of(event)
        while len(self._events) > self._bounds.events or (self._size > self._bounds.size and len(self._events) > 1):
            self._size -= size_of(self._events.popleft().event)
        self._passing = None
        self._wake()

    def tell_in_passing(self, at: float, event: Event) -> None:
        """Tell an event to those that are there; only the last one counts, and it is not kept."""
        self._passing = Numbered(None, at, event)
        self._wake()

    def finish(self, end: Outcome | Later, at: float = 0.0) -> None:
        """Tell everybody that waits, and whoever comes later. The first end counts."""
        if self._end is not None:
            return
        if isinstance(end, Outcome):
            self.tell(at, finished(end))
        self._end = end
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(end)
        self._waiters.clear()
        self._wake()

    def _wake(self) -> None:
        readers, self._readers = self._readers, []
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    # -- the end -----------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether anything was told yet."""
        return self._next > self._first

    @property
    def ended(self) -> bool:
        """Whether there will be no further event in this process."""
        return self._end is not None

    async def outcome(self) -> Outcome | Later:
        """Wait for the end of the run. Cancelling the waiter changes nothing for the run."""
        return await self.waiter()

    def waiter(self) -> "asyncio.Future[Outcome | Later]":
        """Return a future of the end; whoever cancels it waits no more, and leaves nothing behind."""
        waiter: asyncio.Future[Outcome | Later] = asyncio.get_running_loop().create_future()
        if self._end is not None:
            waiter.set_result(self._end)
        else:
            self._waiters.append(waiter)
            waiter.add_done_callback(self._leave)
        return waiter

    def _leave(self, waiter: "asyncio.Future[Outcome | Later]") -> None:
        if waiter.cancelled() and waiter in self._waiters:
            self._waiters.remove(waiter)

    # -- who listens -------------------------------------------------------------------------------

    @property
    def is_heard(self) -> bool:
        """Whether a subscriber waits for the next event."""
        return len(self._readers) > 0

    def kept(self) -> list[Numbered]:
        """Return the events that are kept, the oldest first."""
        return list(self._events)

    def subscribe(self, after: int = 0) -> "Subscription":
        """Return a subscription to the events after number `after`; 0 is from the beginning."""
        return Subscription(self, after)

    def _since(self, after: int) -> list[Numbered]:
        """Return the events after number `after` that are kept, a gap first if there were more, `AT_ONCE` at most."""
        events = self._events
        first = self._next - len(events)
        after = max(after, self._first - 1)
        new = self._next - 1 - max(after, first - 1)
        if new > AT_ONCE:
            told = list(islice(events, len(events) - new, len(events) - new + AT_ONCE))
        else:
            told = [events[index] for index in range(-new, 0)]  # from the end, where a deque is fast
        if after < first - 1:
            told.insert(0, Numbered(None, events[0].at, StreamGap(after + 1, first - 1)))
        return told


class Subscription:
    """The events of a run from some number on, in order. Any number of them, at any pace; close it when it is of no
    more interest."""

    __slots__ = ("_after", "_closed", "_passing", "_reader", "_stream")

    def __init__(self, stream: RunStream, after: int) -> None:
        self._stream = stream
        self._after = after
        self._passing: Numbered | None = None
        self._reader: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def run_id(self) -> RunId:
        """The run whose events these are."""
        return self._stream.run_id

    @property
    def is_over(self) -> bool:
        """Whether there will be nothing more: all has been read, or it was closed."""
        return self._closed or (self._stream.ended and self._stream._next - 1 <= self._after)

    @property
    def has_read_the_end(self) -> bool:
        """Whether all has been read of a run that has ended."""
        return self.is_over and isinstance(self._stream._end, Outcome)

    async def next(self, wait_s: float | None = None) -> list[Numbered]:
        """Wait for events, at most `wait_s` seconds, and return those that there are by now; none once it is over."""
        events = self.ready()
        if events or self.is_over:
            return events
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        self._stream._readers.append(self._reader)
        timer = None if wait_s is None else loop.call_later(wait_s, self._wake)
        try:
            await self._reader
        finally:
            if timer is not None:
                timer.cancel()
            self._forget()
        return self.ready()

    def ready(self) -> list[Numbered]:
        """Return the events that are there by now, up to some number; they count as read."""
        stream = self._stream
        events = stream._since(self._after)
        if events and events[-1].number is not None:
            self._after = events[-1].number
        if stream._passing is not self._passing and self._after == stream._next - 1:
            self._passing = stream._passing
            if self._passing is not None:
                events.append(self._passing)
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

    def _forget(self) -> None:
        if self._reader in self._stream._readers:
            self._stream._readers.remove(self._reader)
        self._reader = None


def finished(outcome: Outcome) -> RunFinished:
    """Return the event of an end."""
    return RunFinished(
        outcome.status, outcome.output, outcome.message, outcome.error, outcome.input_requests, outcome.usage
    )


def outcome_of(event: RunFinished) -> Outcome:
    """Return the end that an event tells."""
    return Outcome(
        status=event.status,
        output=event.output,
        message=event.message,
        error=event.error,
        usage=event.usage,
        input_requests=event.input_requests,
    )


def size_of(event: Event) -> int:
    """Return about how many bytes an event takes in memory."""
    match event:
        case TextDelta(text) | ReasoningDelta(text):
            return EVENT_BYTES + len(text)
        case MessageAdded() | ToolStarted() | ToolFinished() | RunRestarted() | RunFinished():
            return EVENT_BYTES + len(encode_messages(event))
        case _:
            return EVENT_BYTES
