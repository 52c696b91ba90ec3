"""The published events of one run, as its attempts record them, numbered; and its end.

A run continues with or without subscribers; any number of clients may subscribe, late, leave at any time and come back.
Events that nobody has requested yet stay in the inbox as they were recorded: they are numbered and measured on request.
A stream belongs to the serving loop, except for its inbox.
"""

import asyncio
from collections.abc import Callable, Sequence
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
    RunJoined,
    RunPosition,
    RunQueued,
    TextDelta,
)
from strandline._engine.streams.changes import ChangeFeed
from strandline._engine.streams.log import TEXT, EventLog
from strandline._engine.streams.subscription import Subscription
from strandline._engine.streams.truncation import plain, truncate_message
from strandline._history import blocks_of
from strandline._model import JoinedInput, Message, OnDisconnect, Outcome, RunId, SessionKey

_as_it_was: Final = decoder(Message)
MANY: Final = 200
"""How many unnumbered events an inbox holds at most."""
LAST: Final = 2**53 - 1
"""The number of every end for clients that come back: after all others, and exact in every JSON reader.

It must be known even when everything else of a run is deleted, and an end is published from the journal alone.
"""


class Later(StrEnum):
    """The run was accepted and resumes, but not in this process: request it again after the restart."""

    LATER = "later"


class RunStream(EventLog):
    """The events and the end of one run. The first has the number `first`; all but text goes to `changes` too."""

    run_id: RunId
    key: SessionKey
    changes: ChangeFeed | None = None
    standing: RunQueued | RunPosition | None = None
    """Where and why it waits, as last published."""
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    """What becomes of its run when all `clients` that wait for it have disconnected.

    A run that joins is one of its host's clients as long as it has some. `disconnect_timer` runs while none is left.
    """
    clients: int = 0
    disconnect_timer: asyncio.TimerHandle | None = None
    inbox: list[tuple[float, Event]] = field(default_factory=list)
    """Unnumbered events with their times; the recorder of the present attempt appends to it, from any thread.

    A new inbox replaces it when an attempt begins and at the end: later records of an earlier attempt are void.
    """
    _on_first_text: Callable[[float], object] | None = None
    _joined_at: dict[RunId, int] | None = None
    """The numbers of the events that say that runs have joined this one; None: none has."""
    _end: Outcome | Later | None = None
    _waiters: list[asyncio.Future[Outcome | Later]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        # An older process's events are no gap: a restarted run publishes its progress.
        self.older = 1 if self.first == LAST else (self.first >> 32 << 32) + 1

    @classmethod
    def replayed(cls, run_id: RunId, key: SessionKey, events: list[Numbered]) -> "RunStream":
        """Return the stream of an ended run: `events` are the stored ones, the end last."""
        end = events[-1].event
        assert events[0].number is not None
        assert isinstance(end, RunFinished)
        stream = cls(run_id, key, first=events[0].number)
        for each in events:
            stream.add(each.at, each.event)
        stream._end = outcome_of(end)
        stream.end()
        return stream

    @classmethod
    def replayed_joined(
        cls, run_id: RunId, key: SessionKey, events: list[Numbered], host: "RunStream", after: int, outcome: Outcome
    ) -> "RunStream":
        """Return the stream of an ended run that joined another: its own stored events, and those of its host."""
        first = events[0].number if events else None
        stream = cls(run_id, key, first=1 if first is None else first)
        for each in events:
            stream.add(each.at, each.event)
        stream.continue_with(host, after)
        stream._end = outcome
        stream.end()
        return stream

    # -- for publishers ----------------------------------------------------------------------------

    @property
    def is_followed(self) -> bool:
        """Whether a subscriber or the change feed wants events at once; thread-safe."""
        return bool(self._readers) or bool(self.changes)

    def flush(self) -> None:
        """Number and store the events in the inbox, and wake the readers."""
        if not self.inbox:
            return
        only_text, changes = True, self.changes or None
        for at, event in self._taken():
            self.add(at, event)
            if isinstance(event, TEXT):
                continue
            only_text = False
            if isinstance(event, RunJoined):
                self._joined_at = {**(self._joined_at or {}), event.joining: self.newest}
            if changes is not None:
                changes.publish(self.key, self.run_id, at, event)
        if only_text:
            self._wake_for_text()
        else:
            self.wake()

    def publish(self, at: float, event: Event) -> None:
        """Publish an event that happened at a time, in seconds since the epoch. Nothing is published after the end."""
        if self.closed:
            return
        self.inbox.append((at, event))
        if self.is_followed or len(self.inbox) >= MANY:
            self.flush()

    def publish_transient(self, at: float, event: Event) -> None:
        """Publish an event to present subscribers; only the last one counts, and it is not stored."""
        if not self.closed:
            self.flush()
            self.transient = Numbered(None, at, event)
            self.wake()

    def begin(self, at: float, event: Event, *, on_first_text: Callable[[float], object] | None = None) -> None:
        """Publish that an attempt begins; from here on its recorder has the inbox.

        `on_first_text` is called with the time of its first text, when its events are flushed.
        """
        self.inbox = self._taken()
        self._on_first_text = on_first_text
        self.publish(at, event)

    def finish(self, end: Outcome | Later, at: float = 0.0) -> None:
        """Publish the end, to all that wait and all that come later. The first end counts."""
        if self.closed:
            return
        self.inbox = self._taken()  # later events of an attempt would come after the end
        if isinstance(end, Outcome) and self.successor is None:
            self.publish(at, finished(end))
        else:
            self.flush()
        self.changes = None  # a later change feed does not get these events
        self._end = end
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(end)
        self._waiters.clear()
        self.end()

    def _taken(self) -> list[tuple[float, Event]]:
        """Take all events out of the inbox."""
        events = self.inbox[:]
        del self.inbox[: len(events)]  # (a recorder may have appended more meanwhile)
        if self._on_first_text is not None:
            at = next((at for at, event in events if isinstance(event, TextDelta)), None)
            if at is not None:
                on_first_text, self._on_first_text = self._on_first_text, None
                on_first_text(at)
        return events

    # -- runs that join ----------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The number of the last event, also of the run that it has joined."""
        self.flush()
        return self.newest if self.successor is None else max(self.newest, self.successor.last)

    def continue_with(self, host: "RunStream", after: int) -> None:
        """Continue with the events of another run after a number, and have no further event of its own."""
        self.flush()
        self.transient = None
        self.continues_after = after
        self.successor = host
        self.wake()

    @property
    def end_with_host(self) -> Outcome | None:
        """The outcome with which it has ended."""
        return self._end if isinstance(self._end, Outcome) else None

    def has_joined(self, run_id: RunId) -> bool:
        """Return whether an event here says that a run has joined this one."""
        self.flush()
        return run_id in (self._joined_at or ())

    def joined_after(self, run_id: RunId) -> int:
        """Return the number of the event before the one that says that a run has joined this one; if that is not
        known, of the last one that an earlier process has published."""
        self.flush()
        return (self._joined_at or {}).get(run_id, self.first) - 1

    # -- for subscribers ---------------------------------------------------------------------------

    def subscribe(self, after: int = 0) -> Subscription:
        """Return a subscription to the events after number `after`; 0 is from the beginning.

        A number that was never published counts as the last one, so that no client waits to pass it.
        """
        self.flush()
        return Subscription(self, min(after, self.last))

    # -- the end -----------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether anything was published yet."""
        return len(self._events) > 0 or len(self.inbox) > 0

    def as_bytes(self) -> bytes:
        """Return the stored events of an ended run, as JSON of a list of `Numbered`."""
        if not self._events and len(self.inbox) <= self.bounds.events:
            events = [(number, at, event) for number, (at, event) in enumerate(self.inbox, self.newest + 1)]
            encoded = encode(events)
            if len(encoded) <= self.bounds.size:
                return encoded
        return encode(self.stored())

    @property
    def subscribers(self) -> int:
        """How many wait at this moment, for events or for the end."""
        return len(self._readers) + len(self._waiters)

    @property
    def is_postponed(self) -> bool:
        """Whether it has ended before its run, which resumes in another process."""
        return self._end is Later.LATER

    def is_read(self, after: int) -> bool:
        """Return whether a client that has the events up to number `after` has the end."""
        return isinstance(self._end, Outcome) and self.last <= after

    def outcome(self) -> "asyncio.Future[Outcome | Later]":
        """Return a future of the end. Cancelling it leaves nothing behind and does not affect the run."""
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
    """Brings the events of one attempt from the agent loop to its run's stream, in order.

    Many events share one trip, and without subscribers they take none: the stream flushes them when a client subscribes
    or the run ends. Belongs to the agent loop, except for `_flush`, which `post` calls on the serving loop. `cut` is
    the limit of `truncation` in bytes.
    """

    _stream: RunStream
    _post: Callable[[Callable[[], object]], None]
    _clock: Clock
    cut: int
    _joins: Callable[[RunId, tuple[RunId, ...]], object] = lambda host, joining: None
    """Called on the serving loop once runs have joined its own."""
    _inbox: list[tuple[float, Event]] = []
    """The inbox of its attempt, even if the stream has a later one."""
    _on_its_way: bool = False

    def __post_init__(self) -> None:
        self._inbox = self._stream.inbox

    def record(self, event: Event) -> None:
        """Record an event, as of now. Text waits for the stream's next flush, if that is near anyway."""
        inbox, stream = self._inbox, self._stream
        inbox.append((self._clock.now(), event))
        # In this order: a client that subscribes after the check flushes the inbox, and finds this event.
        if self._on_its_way:
            return
        if (stream.is_followed and not (stream.is_paced and isinstance(event, TEXT))) or len(inbox) >= MANY:
            self._on_its_way = True
            self._post(self._flush)

    def record_joins(self, joined: Sequence[JoinedInput], is_void: Callable[[], bool]) -> None:
        """Record that runs have joined, and show their clients, unless that `is_void` by then: their host was ended."""
        host = self._stream.run_id
        for run in joined:
            said: Message = {"role": "user", "content": blocks_of([run])}
            shown, cut = truncate_message(said, self.cut)
            self.record(RunJoined(run.run_id, host, shown["content"], cut))
        joining = tuple(run.run_id for run in joined)
        self._post(lambda: None if is_void() else self._joins(host, joining))

    def _flush(self) -> None:
        self._on_its_way = (
            False  # first: an event recorded from now on may be too late for this trip, and takes another
        )
        self._stream.flush()


def finished(outcome: Outcome) -> RunFinished:
    """Return the event of an end, with its whole message, as plain JSON."""
    message = None if outcome.message is None else plain(outcome.message)
    return RunFinished(outcome.status, outcome.output, message, outcome.error, outcome.input_requests, outcome.usage)


def as_last(numbered: Numbered) -> Numbered:
    """Return an event for clients: the end gets the number of every end."""
    return replace(numbered, number=LAST) if isinstance(numbered.event, RunFinished) else numbered


def outcome_of(event: RunFinished) -> Outcome:
    """Return the outcome in an event."""
    return Outcome(
        status=event.status,
        output=event.output,
        message=None if event.message is None else _as_it_was(encode(event.message)),
        error=event.error,
        usage=event.usage,
        input_requests=event.input_requests,
    )
