"""What is published of one run: its events, as its attempts record them, numbered; and its end.

A run goes on whether it has subscribers or not; any number may subscribe, late, leave at any time and come back. What
nobody has asked for yet lies in the inbox as it was recorded: it is numbered and measured when somebody does. A stream
belongs to the serving loop, but for its inbox.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from strandline._clock import Clock
from strandline._encoding import decoder, encode
from strandline._engine.events import (
    Event,
    Numbered,
    RunFinished,
    RunPosition,
    RunQueued,
    TextDelta,
)
from strandline._engine.streams.changes import ChangeFeed
from strandline._engine.streams.log import TEXT, EventLog
from strandline._engine.streams.subscription import Subscription
from strandline._engine.streams.truncation import plain
from strandline._model import Message, OnDisconnect, Outcome, RunId, SessionKey

_as_it_was: Final = decoder(Message)
MANY: Final = 200
"""How many events lie in an inbox, at most, before they are numbered."""
LAST: Final = 2**53 - 1
"""The number of every end for those who come back: after all others, and exact in every JSON reader.

It has to be known when all else of a run is forgotten, and an end is published from the journal alone.
"""


class Later(StrEnum):
    """The run was accepted and goes on, but not in this process: ask for it again after the restart."""

    LATER = "later"


class RunStream(EventLog):
    """The events and the end of one run. The first has the number `first`; all but text goes to `changes` too."""

    run_id: RunId
    key: SessionKey
    changes: ChangeFeed | None = None
    standing: RunQueued | RunPosition | None = None
    """Where and why it waits, as that was published last."""
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    """What becomes of its run when all `clients` that wait for it have disconnected.

    They are counted only where this makes a difference; `disconnect_timer` runs while none is left.
    """
    clients: int = 0
    disconnect_timer: asyncio.TimerHandle | None = None
    inbox: list[tuple[float, Event]] = field(default_factory=list)
    """What has no number yet, with its times; the recorder of the present attempt appends to it, from any thread.

    It is replaced when an attempt begins and at the end: what an earlier attempt records after that is too late.
    """
    _on_first_text: Callable[[float], object] | None = None
    _end: Outcome | Later | None = None
    _waiters: list[asyncio.Future[Outcome | Later]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        # The events of an older process are no gap: a run that is restarted publishes what is kept of it.
        self.older = 1 if self.first == LAST else (self.first >> 32 << 32) + 1

    @classmethod
    def replayed(cls, run_id: RunId, key: SessionKey, events: list[Numbered]) -> "RunStream":
        """Return the stream of a run that has ended: `events` are those that are kept, the end last."""
        end = events[-1].event
        assert events[0].number is not None
        assert isinstance(end, RunFinished)
        stream = cls(run_id, key, first=events[0].number)
        for each in events:
            stream.add(each.at, each.event)
        stream._end = outcome_of(end)
        stream.end()
        return stream

    # -- for those who publish ---------------------------------------------------------------------

    @property
    def is_followed(self) -> bool:
        """Whether events are wanted at once, by a subscriber or the change feed; may be asked from any thread."""
        return bool(self._readers) or bool(self.changes)

    def flush(self) -> None:
        """Number and keep what lies in the inbox, and wake those that wait for it."""
        if not self.inbox:
            return
        only_text, changes = True, self.changes or None
        for at, event in self._taken():
            self.add(at, event)
            if isinstance(event, TEXT):
                continue
            only_text = False
            if changes is not None:
                changes.publish(self.key, self.run_id, at, event)
        if only_text:
            self._wake_for_text()
        else:
            self.wake()

    def publish(self, at: float, event: Event) -> None:
        """Publish an event that has happened at a time, in seconds since the epoch. After the end nothing is."""
        if self.closed:
            return
        self.inbox.append((at, event))
        if self.is_followed or len(self.inbox) >= MANY:
            self.flush()

    def publish_transient(self, at: float, event: Event) -> None:
        """Publish an event to present subscribers; only the last one counts, and it is not kept."""
        if not self.closed:
            self.flush()
            self.transient = Numbered(None, at, event)
            self.wake()

    def begin(self, at: float, event: Event, *, on_first_text: Callable[[float], object] | None = None) -> None:
        """Publish that an attempt begins; its recorder has the inbox from here on, no earlier one.

        `on_first_text` is called with the time of its first text, when its events are taken in.
        """
        self.inbox = self._taken()
        self._on_first_text = on_first_text
        self.publish(at, event)

    def finish(self, end: Outcome | Later, at: float = 0.0) -> None:
        """Publish the end, for all that wait and all that come later. The first end counts."""
        if self.closed:
            return
        self.inbox = self._taken()  # what an attempt records from now on would come after the end
        if isinstance(end, Outcome):
            self.publish(at, finished(end))
        else:
            self.flush()
        self.changes = None  # one that begins later has nothing to do with what lies here unasked for
        self._end = end
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(end)
        self._waiters.clear()
        self.end()

    def _taken(self) -> list[tuple[float, Event]]:
        """Take all out of the inbox."""
        events = self.inbox[:]
        del self.inbox[: len(events)]  # (a recorder may have appended more meanwhile)
        if self._on_first_text is not None:
            at = next((at for at, event in events if isinstance(event, TextDelta)), None)
            if at is not None:
                on_first_text, self._on_first_text = self._on_first_text, None
                on_first_text(at)
        return events

    # -- for those who subscribe -------------------------------------------------------------------

    def subscribe(self, after: int = 0) -> Subscription:
        """Return a subscription to the events after number `after`; 0 is from the beginning.

        One that was never published is taken for the last, so that nobody waits for it to be passed.
        """
        self.flush()
        return Subscription(self, min(after, self.last))

    # -- the end -----------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether anything was published yet."""
        return len(self._events) > 0 or len(self.inbox) > 0

    def as_bytes(self) -> bytes:
        """Return all that is kept of a run that has ended, as JSON of a list of `Numbered`."""
        if not self._events and len(self.inbox) <= self.bounds.events:
            events = [(number, at, event) for number, (at, event) in enumerate(self.inbox, self.newest + 1)]
            encoded = encode(events)
            if len(encoded) <= self.bounds.size:
                return encoded
        return encode(self.kept())

    @property
    def subscribers(self) -> int:
        """How many wait at this moment, for events or for the end."""
        return len(self._readers) + len(self._waiters)

    def is_read(self, after: int) -> bool:
        """Return whether a client that has had the events up to number `after` has had the end."""
        return isinstance(self._end, Outcome) and self.last <= after

    def outcome(self) -> "asyncio.Future[Outcome | Later]":
        """Return a future of the end. Cancelled, it leaves nothing behind, and changes nothing for the run."""
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


class EventRecorder(Struct, eq=False):
    """Brings what goes on in one attempt from the agent loop to its run's stream, as events, in order.

    Many events share one way over, and as long as nobody subscribes they take none: the stream takes them in when
    somebody does, or when the run has ended. Belongs to the agent loop, but for `_flush`, which `post` has called on
    the serving loop. `cut` is the bytes of `truncation`.
    """

    _stream: RunStream
    _post: Callable[[Callable[[], object]], None]
    _clock: Clock
    cut: int
    _inbox: list[tuple[float, Event]] = []
    """That of its attempt, whatever the stream has later."""
    _on_its_way: bool = False

    def __post_init__(self) -> None:
        self._inbox = self._stream.inbox

    def record(self, event: Event) -> None:
        """Record an event, as of now. Text waits for the stream to take it in, if that is about to do so by itself."""
        inbox, stream = self._inbox, self._stream
        inbox.append((self._clock.now(), event))
        # In this order: a client that subscribes after the look takes what is there, and finds this.
        if self._on_its_way:
            return
        if (stream.is_followed and not (stream.is_paced and isinstance(event, TEXT))) or len(inbox) >= MANY:
            self._on_its_way = True
            self._post(self._flush)

    def _flush(self) -> None:
        self._on_its_way = False  # first: what is recorded from now on may be too late for this way, and takes another
        self._stream.flush()


def finished(outcome: Outcome) -> RunFinished:
    """Return the event of an end, with its message whole, as plain JSON."""
    message = None if outcome.message is None else plain(outcome.message)
    return RunFinished(outcome.status, outcome.output, message, outcome.error, outcome.input_requests, outcome.usage)


def as_last(numbered: Numbered) -> Numbered:
    """Return an event as clients get it: the end with the number that it keeps."""
    return replace(numbered, number=LAST) if isinstance(numbered.event, RunFinished) else numbered


def outcome_of(event: RunFinished) -> Outcome:
    """Return the end that an event stands for."""
    return Outcome(
        status=event.status,
        output=event.output,
        message=None if event.message is None else _as_it_was(encode(event.message)),
        error=event.error,
        usage=event.usage,
        input_requests=event.input_requests,
    )
