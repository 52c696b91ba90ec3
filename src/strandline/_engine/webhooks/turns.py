"""Whose event is sent next: bounded in all, for each caller and for each host, and fair among them. Pure.

A receiver is one host of one caller: what a caller sends there says nothing of what others do. It gets one event at a
time at first, and with each that it receives twice as many, up to `AT_ONCE_EACH`. Receivers that answer, new ones, and
slow ones, which did not answer within `PATIENCE_S`, have places of their own: so those that answer are delayed by none
that hang, however many these are. Within a caller receivers take turns, and so do callers.

What is in memory is bounded in the same way, and by kind, too: what hangs leaves room for what answers. Events of
receivers that change their kind leave memory if there is no room for them, and are read again later.
"""

from collections import Counter, deque
from enum import StrEnum
from typing import Final

from msgspec import Struct

from strandline._journal.port import StoredDelivery
from strandline._model import Principal


class Kind(StrEnum):
    """What is known of a receiver."""

    QUICK = "quick"
    NEW = "new"
    SLOW = "slow"


AT_ONCE: Final = {Kind.QUICK: 256, Kind.NEW: 128, Kind.SLOW: 128}
"""How many events are sent at once to receivers of each kind."""
AT_ONCE_FOR_ONE: Final = 64
"""How many of one caller, to receivers of each kind, tests included."""
AT_ONCE_AT_HOST: Final = 64
"""How many to one host, of all callers."""
AT_ONCE_EACH: Final = 16
"""How many to one receiver."""
AT_ONCE_SLOW: Final = 4
"""How many to one that is slow; one, if it did not answer at all."""
PATIENCE_S: Final = 1.0
FEW: Final = 4
MOST: Final = 16
"""So many times as many events of each receiver as are sent at once are in memory, and more are read if there are
fewer."""
IN_MEMORY: Final = 8192
"""How many events that wait for receivers of each kind are in memory at most."""
IN_MEMORY_FOR_ONE: Final = 1024
"""How many of one caller."""
MOST_KNOWN: Final = 4096
"""Of how many receivers that have nothing to send it is remembered how they answer."""

Receiver = tuple[Principal, str]
"""A caller and a host."""


class Sending(Struct, eq=False):
    """An event that is being sent, in one of the places for receivers of a kind."""

    receiver: Receiver
    since: float
    place: Kind


class _State:
    """A receiver."""

    __slots__ = ("kind", "queue", "sending", "window")

    def __init__(self) -> None:
        self.queue: deque[StoredDelivery] = deque()
        self.sending = 0
        self.window = 1
        self.kind = Kind.NEW

    @property
    def at_once(self) -> int:
        """How many events it gets at once."""
        return min(self.window, AT_ONCE_SLOW) if self.kind is Kind.SLOW else self.window


class Turns:
    """The events in memory, and those that are being sent."""

    def __init__(self) -> None:
        self._states: dict[Receiver, _State] = {}
        self._idle: dict[Receiver, None] = {}
        """Receivers of which nothing is in memory but how they answer; the latest last."""
        self._waiting: dict[Receiver, _State] = {}
        """Receivers of which events wait."""
        self._ready: dict[Kind, dict[Principal, dict[Receiver, None]]] = {kind: {} for kind in Kind}
        """Those of them that may get one more, by kind and caller; whose turn is next comes first."""
        self._sending: dict[Sending, None] = {}
        """In the order in which they began."""
        self._places: Counter[Kind] = Counter()
        """How many are taken."""
        self._places_of: Counter[tuple[Kind, Principal]] = Counter()
        self._at_host: Counter[str] = Counter()
        self._waiting_in: Counter[Kind] = Counter()
        """How many events wait in memory."""
        self._waiting_of: Counter[tuple[Kind, Principal]] = Counter()
        self._left: list[StoredDelivery] = []

    # -- what waits ------------------------------------------------------------------------------------

    def has_room(self, receiver: Receiver) -> bool:
        """Return whether one more event of a receiver may be in memory."""
        state = self._states.get(receiver)
        if state is None:
            return self._has_room(Kind.NEW, receiver[0])
        return len(state.queue) < MOST * state.at_once and self._has_room(state.kind, receiver[0])

    def has_few(self, receiver: Receiver) -> bool:
        """Return whether more events of a receiver should be read."""
        state = self._states.get(receiver)
        if state is None:
            return self._has_room(Kind.NEW, receiver[0], in_half=True)
        few = len(state.queue) + state.sending < FEW * state.at_once
        return few and self._has_room(state.kind, receiver[0], in_half=True)

    def _has_room(self, kind: Kind, principal: Principal, *, in_half: bool = False) -> bool:
        """Return whether one more event of a caller may be in memory, or be in the first half of its room: only if
        fewer are than there is room for, so that some is left for others."""
        most = min(IN_MEMORY - self._waiting_in[kind], IN_MEMORY_FOR_ONE)
        return self._waiting_of[kind, principal] < (most // 2 if in_half else most)

    def take_left(self) -> list[StoredDelivery]:
        """Return the events that have left memory, since there was no room for them any more, and forget them."""
        left, self._left = self._left, []
        return left

    def with_enough(self, most: int) -> list[Receiver]:
        """Return up to `most` receivers of which no more events should be read, those with most events first."""
        found = [each for each in self._waiting if not self.has_few(each)]
        if len(found) > most:
            found.sort(key=lambda each: -len(self._waiting[each].queue))
        return found[:most]

    def add(self, receiver: Receiver, stored: StoredDelivery) -> None:
        """Have an event be sent when it is its turn."""
        state = self._state(receiver)
        state.queue.append(stored)
        self._count_waiting(receiver, state, 1)
        self._waiting[receiver] = state
        self._update(receiver, state)

    # -- what is sent ----------------------------------------------------------------------------------

    def next(self, now: float) -> tuple[StoredDelivery, Sending] | None:
        """Return the event whose turn it is, with its place; None if none may be sent now."""
        for kind, callers in self._ready.items():
            for principal, receivers in callers.items():
                if not self._has_place(kind, principal):
                    continue
                for receiver in receivers:
                    if self._at_host[receiver[1]] < AT_ONCE_AT_HOST:
                        return self._take(receiver, now)
        return None

    def _take(self, receiver: Receiver, now: float) -> tuple[StoredDelivery, Sending]:
        state = self._states[receiver]
        stored = state.queue.popleft()
        self._count_waiting(receiver, state, -1)
        if not state.queue:
            del self._waiting[receiver]
        self._unready(receiver)  # (so that it, and its caller, come last)
        return stored, self._begin(receiver, state, now)

    def begin(self, receiver: Receiver, now: float) -> Sending | None:
        """Return a place for something that does not wait; None if there is none now."""
        state = self._states.get(receiver) or _State()
        principal, host = receiver
        may = self._has_place(state.kind, principal) and self._at_host[host] < AT_ONCE_AT_HOST
        if not may or state.sending >= AT_ONCE_EACH:
            return None
        return self._begin(receiver, self._state(receiver), now)

    def _has_place(self, kind: Kind, principal: Principal) -> bool:
        """Return whether a caller may have one more place: only if it has fewer than are free, so that some are."""
        free = AT_ONCE[kind] - self._places[kind]
        return self._places_of[kind, principal] < min(free, AT_ONCE_FOR_ONE)

    def _begin(self, receiver: Receiver, state: _State, now: float) -> Sending:
        sending = Sending(receiver, now, state.kind)
        self._sending[sending] = None
        self._count(sending, 1)
        self._at_host[receiver[1]] += 1
        state.sending += 1
        self._update(receiver, state)
        return sending

    def end(self, sending: Sending, now: float, *, received: bool, is_silent: bool) -> None:
        """Note that an event was received or was not, and whether its receiver was silent."""
        receiver, state = sending.receiver, self._states[sending.receiver]
        del self._sending[sending]
        self._count(sending, -1)
        _less(self._at_host, receiver[1])
        state.sending -= 1
        self._become(receiver, state, Kind.SLOW if is_silent or now - sending.since >= PATIENCE_S else Kind.QUICK)
        if is_silent:
            state.window = 1
        elif received:
            state.window = min(2 * state.window, AT_ONCE_EACH)
        self._update(receiver, state)

    def tick(self, now: float) -> None:
        """Take receivers for slow that have not answered for a while, and move what they have got to places for those;
        what finds none stays where it is. To be called every second."""
        for sending in self._sending:
            if now - sending.since < PATIENCE_S:
                break
            receiver, state = sending.receiver, self._states[sending.receiver]
            if state.kind is not Kind.SLOW:
                self._become(receiver, state, Kind.SLOW)
                self._update(receiver, state)
            if sending.place is not Kind.SLOW and self._has_place(Kind.SLOW, receiver[0]):
                self._count(sending, -1)
                sending.place = Kind.SLOW
                self._count(sending, 1)

    def _count(self, sending: Sending, by: int) -> None:
        of = (sending.place, sending.receiver[0])
        self._places[sending.place] += by
        self._places_of[of] += by
        if not self._places_of[of]:
            del self._places_of[of]

    def _count_waiting(self, receiver: Receiver, state: _State, by: int) -> None:
        of = (state.kind, receiver[0])
        self._waiting_in[state.kind] += by
        self._waiting_of[of] += by
        if not self._waiting_of[of]:
            del self._waiting_of[of]

    def _become(self, receiver: Receiver, state: _State, kind: Kind) -> None:
        """Note of which kind a receiver is from now on; the last of its events leave memory for which there is no
        room."""
        if state.kind is kind:
            return
        events = list(state.queue)
        self._count_waiting(receiver, state, -len(events))
        state.queue.clear()
        state.kind = kind
        while len(state.queue) < len(events) and self._has_room(kind, receiver[0]):
            state.queue.append(events[len(state.queue)])
            self._count_waiting(receiver, state, 1)
        self._left += events[len(state.queue) :]
        if not state.queue:
            self._waiting.pop(receiver, None)

    # -- receivers -------------------------------------------------------------------------------------

    def _state(self, receiver: Receiver) -> _State:
        self._idle.pop(receiver, None)
        state = self._states.get(receiver)
        if state is None:
            state = self._states[receiver] = _State()
        return state

    def _update(self, receiver: Receiver, state: _State) -> None:
        """Have a receiver be ready or not, as it is now, and forget those that have been idle for longest."""
        principal, may = receiver[0], bool(state.queue) and state.sending < state.at_once
        if not may or receiver not in self._ready[state.kind].get(principal, ()):
            self._unready(receiver)
            if may:
                self._ready[state.kind].setdefault(principal, {})[receiver] = None
        if not state.queue and not state.sending:
            self._idle[receiver] = None
            if len(self._idle) > MOST_KNOWN:
                oldest = next(iter(self._idle))
                del self._idle[oldest], self._states[oldest]

    def _unready(self, receiver: Receiver) -> None:
        principal = receiver[0]
        for callers in self._ready.values():
            receivers = callers.get(principal)
            if receivers is not None and receiver in receivers:
                del receivers[receiver], callers[principal]
                if receivers:
                    callers[principal] = receivers


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
