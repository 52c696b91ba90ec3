"""Events in order, numbered and stored once for all subscribers: in a bounded buffer, each subscription a place in it.

So a slow subscriber slows nobody and takes no memory: events that left the buffer before it read them are published as
a gap. Belongs to the serving loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from strandline._encoding import encode
from strandline._engine.events import (
    Event,
    MessageAdded,
    Numbered,
    ReasoningDelta,
    RunFinished,
    RunStarted,
    StreamGap,
    TextDelta,
)
from strandline._model import RunId, SessionId

EVENT_BYTES: Final = 200
"""The assumed cost of an event in memory, besides its content."""
AT_ONCE: Final = 200
"""How many events a subscription returns at most at a time."""
LARGE: Final = 64 * 1024
"""How many bytes a subscription returns at most at a time, if they are more than one event; an event that is larger on
the wire is encoded once for all subscribers."""
PACE_S: Final = 0.004
"""How long a piece of text waits at most for more, if another was published less than that before."""


class Bounds(Struct, frozen=True):
    """How many events and bytes are stored; the oldest go first."""

    events: int = 10_000
    size: int = 4 * 1024 * 1024


TEXT: Final = (TextDelta, ReasoningDelta)
"""Events of which a run may have thousands."""


class EventLog(Struct, kw_only=True, eq=False, weakref=True):
    """Numbers events from `first` on. Those from number `older` on that are no longer stored are a gap.

    With `began`, the time of its start, a gap is published at once; without it, with the first event that is stored.
    """

    first: int = 1
    older: int = 1
    bounds: Bounds = Bounds()
    began: float | None = None
    newest: int = 0
    """The number of the last numbered event; `first` less one before any was published."""
    transient: Numbered | None = None
    """The transient event since the last stored one."""
    closed: bool = False
    """Whether there will be no further event."""
    successor: "EventLog | None" = None
    """The log whose events after number `continues_after` follow its own."""
    continues_after: int = 0
    _events: deque[Numbered] = field(default_factory=deque)
    _sizes: deque[int] = field(default_factory=deque)
    _size: int = 0
    _made: dict[int, bytes] = {}
    _readers: dict[asyncio.Future[None], None] = {}
    _woken: int = 0
    _text_at: float = -PACE_S
    _paced: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._woken = self.newest = self.first - 1

    @property
    def last(self) -> int:
        """The number of the last event, with those that are still unnumbered."""
        self.flush()
        return self.newest

    @property
    def readers(self) -> int:
        """How many subscribers wait for the next event at this moment."""
        return len(self._readers)

    def flush(self) -> None:
        """Number and store the recorded events."""

    def stored(self) -> list[Numbered]:
        """Return the stored events, the oldest first."""
        self.flush()
        return list(self._events)

    # -- for publishers ----------------------------------------------------------------------------

    def add(self, at: float, event: Event, run_id: RunId | None = None, session_id: SessionId | None = None) -> None:
        """Number an event and store it; call `wake` next."""
        self.newest += 1
        self._events.append(Numbered(self.newest, at, event, run_id, session_id))
        self._sizes.append(size_of(event))
        self._size += self._sizes[-1]
        while len(self._events) > self.bounds.events or (self._size > self.bounds.size and len(self._events) > 1):
            self._events.popleft()
            self._size -= self._sizes.popleft()
            if self._made:
                self._made.pop(self.newest - len(self._events), None)
        self.transient = None

    def end(self) -> None:
        """Have no further event, and wake the readers."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Wake those that wait for the next event."""
        self._woken = self.newest
        readers, self._readers = self._readers, {}
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    def _wake_for_text(self) -> None:
        """Wake the readers: at once, or `PACE_S` after the last time.

        So fast text takes one way to each subscriber for many pieces, and nothing else is late.
        """
        if not self._readers:
            return
        loop = next(iter(self._readers)).get_loop()
        now = loop.time()
        if now >= self._text_at + PACE_S:
            self._text_at = now
            self.wake()
        elif self._paced is None:
            self._paced = loop.call_at(self._text_at + PACE_S, self._wake_paced)

    @property
    def is_paced(self) -> bool:
        """Whether recorded text is flushed within `PACE_S` anyway; thread-safe."""
        return self._paced is not None

    def _wake_paced(self) -> None:
        """Flush new events and wake the readers; while text comes, look again after `PACE_S`."""
        self._paced = None  # first: an event recorded from now on may be too late for this flush
        is_followed, woken = bool(self._readers), self._woken
        self._text_at = -PACE_S  # (so that it is published now: a timer may fire a little early)
        self.flush()
        if self.newest > woken:
            if self.newest > self._woken:
                self.wake()
            loop = asyncio.get_running_loop()
            self._text_at = loop.time()
            if is_followed:
                self._paced = loop.call_at(self._text_at + PACE_S, self._wake_paced)

    # -- for subscribers ---------------------------------------------------------------------------

    def since(self, after: int) -> list[Numbered]:
        """Return the stored events after number `after`, a gap first if some are missing.

        At most `AT_ONCE`, and together no more than `LARGE`, or one: a slow reader occupies no more memory.
        """
        events, sizes = self._events, self._sizes
        first = self.newest - len(events) + 1
        after = max(after, self.older - 1)
        start, size = max(after + 1 - first, 0), 0
        found: list[Numbered] = []
        for index in range(start, min(start + AT_ONCE, len(events))):
            size += sizes[index]
            if size > LARGE and found:
                break
            found.append(events[index])
        at = found[0].at if found else self.began
        if after < first - 1 and at is not None:
            found.insert(0, Numbered(None, at, StreamGap(after + 1, first - 1)))
        return found

    def has_after(self, after: int) -> bool:
        """Return whether there are events after a number."""
        return after < self.newest and len(self._events) > 0

    def encode_once(self, numbered: Numbered, make: Callable[[Numbered], bytes]) -> bytes:
        """Return `make(numbered)`; a large result is made once for all subscribers, which may send it for long.

        All callers must make the same of an event.
        """
        number = numbered.number
        if number is None:
            return make(numbered)
        if self._made and (made := self._made.get(number)) is not None:
            return made
        made = make(numbered)
        if len(made) > LARGE and number > self.newest - len(self._events):
            self._made[number] = made
        return made

    def await_next(self) -> "asyncio.Future[None]":
        """Return a future of the next event of any kind, or of the end; pass it to `leave` afterwards."""
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers[reader] = None
        return reader

    def leave(self, reader: "asyncio.Future[None]") -> None:
        """Forget a future that nobody awaits any more."""
        self._readers.pop(reader, None)


def size_of(event: Event) -> int:
    """Return about how many bytes an event takes in memory. Common events are not encoded for it."""
    if isinstance(event, TEXT):  # (most are, and `match` takes ten times as long)
        return EVENT_BYTES + len(event.text)
    match event:
        case MessageAdded(message):
            return EVENT_BYTES + sum(
                len(block["text"]) if "text" in block else len(encode(block)) for block in message["content"]
            )
        case RunStarted():
            return EVENT_BYTES
        case RunFinished(output=output) if len(event.message["content"] if event.message else ()) <= 1:
            return EVENT_BYTES + 2 * len(output)
        case _:
            return EVENT_BYTES + len(encode(event))
