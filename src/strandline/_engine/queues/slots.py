"""Slots, and the sessions that wait for one: fair between principals. Pure.

A slot is the right to have one run claimed; there are `max_running`, of which each principal may have a share. Sessions
are served in turn: between principals first, then between the sessions of one.

A run that has ended and still executes code is *lingering*, until its last thread has ended, also when its session
continues. Where lingering runs are limited per principal, each keeps its slot: of its principal's share, if that is
limited, and of `max_running`, of which all together keep half at most, so that endless threads cannot stop everybody. A
principal at its limit starts nothing more, and delays no other.
"""

from collections import Counter, OrderedDict

from strandline._model import Principal, RunId, SessionKey


class Slot:
    """A session's slot, or its place in the queue for one."""

    __slots__ = ("executing", "is_occupied", "key", "ready", "since")

    def __init__(self, key: SessionKey) -> None:
        self.key = key
        self.is_occupied = False
        """Whether it has a slot: for a claim, or for one that may be on its way."""
        self.ready = False
        """Whether it waits for a slot."""
        self.executing: RunId | None = None
        """The run that executes in it."""
        self.since = 0.0
        """Since when it executes, on the monotonic clock."""


class Slots:
    """Decides which waiting session goes next."""

    def __init__(self, max_running: int, per_principal: int | None, lingering_per_principal: int | None) -> None:
        self.free = max_running
        """How many slots no session has; lingering runs keep some of these."""
        self._share = max_running if per_principal is None else per_principal
        """How many slots one principal may have."""
        self._reserves_share = per_principal is not None and lingering_per_principal is not None
        """Whether lingering runs keep slots of their principal's share."""
        self.most_lingering = lingering_per_principal
        """The number of lingering runs at which a principal starts nothing more; None: no limit, and they keep no slot.
        """
        if per_principal is not None and lingering_per_principal is not None:
            self.most_lingering = min(per_principal, lingering_per_principal)
        self._most_reserved = max_running // 2
        """How many of all slots lingering runs may keep."""
        self._slots: Counter[Principal] = Counter()
        """How many slots each principal's sessions have; none is at 0."""
        self.lingering: Counter[Principal] = Counter()
        """How many lingering runs each principal has; none is at 0."""
        self._ready: OrderedDict[Principal, OrderedDict[SessionKey, Slot]] = OrderedDict()
        """The sessions that wait for a slot, in order."""
        self._at_limit: dict[Principal, OrderedDict[SessionKey, Slot]] = {}
        """The same, of principals that have their share of slots or their limit of lingering runs: none of their
        sessions goes next before a run of theirs ends."""
        self._stopped = False

    @property
    def has_room(self) -> bool:
        """Whether there is a slot for another session."""
        reserved = 0 if self.most_lingering is None else min(self.lingering.total(), self._most_reserved)
        return self.free > reserved

    def is_full(self, principal: Principal) -> bool:
        """Return whether a principal starts nothing more, since it has as many lingering runs as it may have.

        This includes lingering runs that have used up its share: its next slot is free when one of them ends, not
        before.
        """
        return self.most_lingering is not None and self.lingering[principal] >= self.most_lingering

    def is_at_limit(self, principal: Principal) -> bool:
        """Return whether a principal has all the slots that it may have, or is full."""
        reserved = self.lingering[principal] if self._reserves_share else 0
        return self._slots[principal] + reserved >= self._share or self.is_full(principal)

    def has_waiting(self, principal: Principal) -> bool:
        """Return whether sessions of a principal that has its share wait."""
        return principal in self._at_limit

    def starts_at_once(self, principal: Principal) -> bool:
        """Return whether a new session gets a slot now: one is free, and no other session waits for it."""
        return not self._stopped and not self._ready and self.has_room and not self.is_at_limit(principal)

    def may_keep_slot(self, principal: Principal) -> bool:
        """Return whether a session may keep its slot for its own next run: no other session waits for it."""
        return not (self._stopped or self._ready or principal in self._at_limit or self.is_full(principal))

    def stop(self) -> None:
        """Give out no more slots."""
        self._stopped = True

    def next(self) -> Slot | None:
        """Give a slot to the session that goes next and return it; None if there is no slot or no session."""
        if not self._ready or self._stopped or not self.has_room:
            return None
        principal, sessions = next(iter(self._ready.items()))
        _, record = sessions.popitem(last=False)
        if sessions:
            self._ready.move_to_end(principal)
        else:
            del self._ready[principal]
        record.ready = False
        self.occupy(record)
        return record

    def occupy(self, record: Slot) -> None:
        """Give a session a slot."""
        record.is_occupied = True
        self.free -= 1
        self._slots[record.key.principal] += 1
        self._sort(record.key.principal)

    def release(self, record: Slot) -> None:
        """Take back the slot of a session."""
        principal = record.key.principal
        record.is_occupied = False
        self.free += 1
        self._slots[principal] -= 1
        if not self._slots[principal]:
            del self._slots[principal]
        self._sort(principal)

    def enqueue(self, record: Slot) -> None:
        """Put a session at the end of its principal's queue."""
        record.ready = True
        queue = self._at_limit if self.is_at_limit(record.key.principal) else self._ready
        queue.setdefault(record.key.principal, OrderedDict())[record.key] = record

    def dequeue(self, record: Slot) -> None:
        """Take a session out of its queue."""
        record.ready = False
        queue = self._ready if record.key.principal in self._ready else self._at_limit
        sessions = queue[record.key.principal]
        del sessions[record.key]
        if not sessions:
            del queue[record.key.principal]

    def add_lingering(self, principal: Principal) -> None:
        """Note a lingering run of a principal."""
        self.lingering[principal] += 1
        self._sort(principal)

    def drop_lingering(self, principal: Principal) -> None:
        """Note that a lingering run has stopped executing."""
        self.lingering[principal] -= 1
        if not self.lingering[principal]:
            del self.lingering[principal]
        self._sort(principal)

    def _sort(self, principal: Principal) -> None:
        """Move a principal with waiting sessions to the right queues: those that go next, or those at their limit."""
        here, there = (self._ready, self._at_limit) if self.is_at_limit(principal) else (self._at_limit, self._ready)
        if (sessions := here.pop(principal, None)) is not None:
            there[principal] = sessions
