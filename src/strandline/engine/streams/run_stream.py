"""What is told about one live run to whoever is interested: its events, numbered, and its end.

A run goes on whether anybody listens or not; any number may, joining late, leaving at any time, and coming back. What
nobody has asked for yet lies as it was said: it is numbered and measured when somebody does. Belongs to the serving
loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from strandline.encoding import decoder, encode
from strandline.engine.events import (
    Event,
    Numbered,
    ReasoningDelta,
    RunFinished,
    RunPosition,
    RunQueued,
    TextDelta,
)
from strandline.engine.streams.changes import ChangeFeed
from strandline.engine.streams.log import DEFAULT_BOUNDS, Bounds, EventLog
from strandline.engine.streams.subscription import Subscription
from strandline.engine.streams.truncation import plain
from strandline.model import Message, Outcome, RunId, SessionKey

_as_it_was: Final = decoder(Message)
MANY: Final = 200
"""How many events lie unasked for at most."""
LAST: Final = 2**53 - 1
"""The number of every end for those who come back: after all others, and exact in every JSON reader.

It has to be known when all else of a run is forgotten, and an end is told from the journal alone.
"""


class Later(StrEnum):
    """The run was accepted and goes on, but not in this process: ask for it again after the restart."""

    LATER = "later"


class RunStream(EventLog):
    """The events and the end of one run. The first has the number `first`; `feeds` are told of each, too."""

    __slots__ = ("_end", "_feeds", "_said", "_source", "_waiters", "key", "run_id", "standing")

    def __init__(
        self,
        run_id: RunId,
        key: SessionKey,
        *,
        first: int = 1,
        bounds: Bounds = DEFAULT_BOUNDS,
        feeds: ChangeFeed | None = None,
    ) -> None:
        super().__init__(first=first, older=_first_of_process(first), bounds=bounds)
        self.run_id = run_id
        self.key = key
        self.standing: RunQueued | RunPosition | None = None
        """Where and why it waits, as that was published last."""
        self._feeds = feeds
        self._source: Callable[[], Sequence[tuple[float, Event]]] | None = None
        self._said: list[tuple[float, Event]] = []
        """What has no number yet."""
        self._end: Outcome | Later | None = None
        self._waiters: list[asyncio.Future[Outcome | Later]] = []

    @classmethod
    def told(cls, run_id: RunId, key: SessionKey, events: list[Numbered]) -> "RunStream":
        """Return the stream of a run of which all has been told: `events` are what is kept of that, the end last."""
        end = events[-1].event
        assert events[0].number is not None
        assert isinstance(end, RunFinished)
        stream = cls(run_id, key, first=events[0].number)
        for each in events:
            stream._add(each.at, each.event)
        stream._end = outcome_of(end)
        stream.closed = True
        return stream

    # -- what is told ------------------------------------------------------------------------------

    def follow(self, source: Callable[[], Sequence[tuple[float, Event]]]) -> None:
        """Take what is told from `source` from now on, which gives what was said since it was asked last, in order.

        It is asked when somebody looks; whoever says something has it asked (`gather`) as long as that `is_awaited`.
        What an earlier source has not been asked for by now is never told: it would come after the run's restart.
        """
        self._source = source

    @property
    def is_awaited(self) -> bool:
        """Whether somebody wants to be told at once; may be asked from any thread."""
        return bool(self._readers) or bool(self._feeds)

    @property
    def last(self) -> int:
        """The number of the last event; one less than that of the first, if nothing was told yet."""
        self.gather()
        return self._next - 1

    def gather(self) -> None:
        """Take in what was said and is still on its way, number and keep it, and tell those that wait."""
        self._take_over()
        if not self._said:
            return
        events, self._said = self._said, []
        only_text, feeds = True, self._feeds or None
        for at, event in events:
            self._add(at, event)
            if isinstance(event, TextDelta | ReasoningDelta):
                continue
            only_text = False
            if feeds is not None:
                feeds.tell(self.key, self.run_id, at, event)
        if only_text:
            self._wake_for_text()
        else:
            self._wake()

    def tell(self, at: float, event: Event) -> None:
        """Tell an event that has happened at a time, in seconds since the epoch. After the end nothing is told."""
        if self.closed:
            return
        self._take_over()
        self._said.append((at, event))
        if self.is_awaited or len(self._said) >= MANY:
            self.gather()

    def tell_in_passing(self, at: float, event: Event) -> None:
        """Tell an event to those that are there; only the last one counts, and it is not kept."""
        if not self.closed:
            self.gather()
            self._pass(at, event)

    def finish(self, end: Outcome | Later, at: float = 0.0) -> None:
        """Tell everybody that waits, and whoever comes later. The first end counts."""
        if self.closed:
            return
        self._take_over()
        self._source = None  # what it says from now on would come after the end
        if isinstance(end, Outcome):
            self.tell(at, finished(end))
        else:
            self.gather()
        self._feeds = None  # one that begins later has nothing to do with what lies here unasked for
        self._end = end
        self.closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(end)
        self._waiters.clear()
        self._wake()

    def _take_over(self) -> None:
        if self._source is not None:
            self._said += self._source()

    # -- for those who listen ----------------------------------------------------------------------

    def subscribe(self, after: int = 0) -> Subscription:
        """Return a subscription to the events after number `after`; 0 is from the beginning.

        One that was never told is taken for the last, so that nobody waits for it to be passed.
        """
        self.gather()
        return Subscription(self, min(after, self.last))

    # -- the end -----------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether anything was told yet."""
        return len(self._events) > 0 or len(self._said) > 0

    def as_bytes(self) -> bytes:
        """Return all that is kept, as JSON of a list of `Numbered`."""
        if not self._events and len(self._said) <= self._bounds.events:
            events = [Numbered(number, at, event) for number, (at, event) in enumerate(self._said, self._next)]
            encoded = encode(events)
            if len(encoded) <= self._bounds.size:
                return encoded
        return encode(self.kept())

    @property
    def listeners(self) -> int:
        """How many wait at this moment, for events or for the end."""
        return len(self._readers) + len(self._waiters)

    def is_read(self, after: int) -> bool:
        """Tell whether nothing is left for whoever has had the events up to number `after`: the end was one of them."""
        return isinstance(self._end, Outcome) and self.last <= after

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


def finished(outcome: Outcome) -> RunFinished:
    """Return the event of an end; its message is told whole, as plain JSON."""
    message = None if outcome.message is None else plain(outcome.message)
    return RunFinished(outcome.status, outcome.output, message, outcome.error, outcome.input_requests, outcome.usage)


def as_last(told: Numbered) -> Numbered:
    """Return an event as clients get it: the end with the number that it keeps."""
    return replace(told, number=LAST) if isinstance(told.event, RunFinished) else told


def outcome_of(event: RunFinished) -> Outcome:
    """Return the end that an event tells."""
    return Outcome(
        status=event.status,
        output=event.output,
        message=None if event.message is None else _as_it_was(encode(event.message)),
        error=event.error,
        usage=event.usage,
        input_requests=event.input_requests,
    )


def _first_of_process(number: int) -> int:
    """Return the first number of the process that gave this one: those of an older process are no gap.

    A run that is restarted tells what is kept of it; an end that is told alone does not.
    """
    return 1 if number == LAST else (number >> 32 << 32) + 1
