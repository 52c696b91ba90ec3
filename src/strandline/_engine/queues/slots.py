"""Slots, and the sessions that stand in line for one: fair between principals. Pure.

A slot is the right to have one run claimed; there are `max_running`, of which each principal may have a share. Sessions
are served in turn: between principals first, then between the sessions of one.

A run that has ended and still works is a *leftover*, until its last thread has ended, also when its session goes on.
Where leftovers are bounded for each principal, each keeps its slot: of the share of its principal, if that has one, and
of `max_running`, of which all together keep half at most, so that threads that never end cannot stop everybody. A
principal that has as many as it may starts nothing more, and delays no other.
"""

from collections import Counter, OrderedDict

from strandline._model import Principal, RunId, SessionKey


class Slot:
    """A session's slot, or its place in the line for one."""

    __slots__ = ("executing", "is_occupied", "key", "ready", "since")

    def __init__(self, key: SessionKey) -> None:
        self.key = key
        self.is_occupied = False
        """Whether it has a slot: for a claim, or for one that may be on its way."""
        self.ready = False
        """Whether it stands in line for a slot."""
        self.executing: RunId | None = None
        """The run that executes in it."""
        self.since = 0.0
        """Since when it executes, on the monotonic clock."""


class Slots:
    """Which session with waiting runs goes next."""

    def __init__(self, max_running: int, per_principal: int | None, lingering_per_principal: int | None) -> None:
        self.free = max_running
        """How many slots no session has; leftovers keep some of these."""
        self._share = max_running if per_principal is None else per_principal
        """How many slots one principal may have."""
        self._keeps_share = per_principal is not None and lingering_per_principal is not None
        """Whether leftovers keep slots of their principal's share."""
        self.most_lingering = lingering_per_principal
        """At how many leftovers nothing more of a principal starts; None: they are not bounded, and keep no slot."""
        if per_principal is not None and lingering_per_principal is not None:
            self.most_lingering = min(per_principal, lingering_per_principal)
        self._most_kept = max_running // 2
        """How many of all slots leftovers may keep."""
        self._slots: Counter[Principal] = Counter()
        """How many slots the sessions of each have; none is at 0."""
        self.lingering: Counter[Principal] = Counter()
        """How many leftovers each has; none is at 0."""
        self._ready: OrderedDict[Principal, OrderedDict[SessionKey, Slot]] = OrderedDict()
        """Sessions that stand in line, in order."""
        self._at_limit: dict[Principal, OrderedDict[SessionKey, Slot]] = {}
        """The same, of principals that have their share, or as many leftovers as they may: none of theirs goes next
        before one of those ends."""
        self._stopped = False

    @property
    def has_room(self) -> bool:
        """Whether there is a slot for another session."""
        kept = 0 if self.most_lingering is None else min(self.lingering.total(), self._most_kept)
        return self.free > kept

    def is_full(self, principal: Principal) -> bool:
        """Return whether nothing more of a principal starts, since as many of its runs as may have ended and still
        work.

        A share that leftovers have used up counts too: its next slot is free when one of them ends, not before.
        """
        return self.most_lingering is not None and self.lingering[principal] >= self.most_lingering

    def is_at_limit(self, principal: Principal) -> bool:
        """Return whether a principal has all the slots that it may have, or is full."""
        kept = self.lingering[principal] if self._keeps_share else 0
        return self._slots[principal] + kept >= self._share or self.is_full(principal)

    def has_waiting(self, principal: Principal) -> bool:
        """Return whether sessions of a principal that has its share stand in line."""
        return principal in self._at_limit

    def starts_at_once(self, principal: Principal) -> bool:
        """Return whether a new session gets a slot now: there is one, and nobody waits for it."""
        return not self._stopped and not self._ready and self.has_room and not self.is_at_limit(principal)

    def may_keep_slot(self, principal: Principal) -> bool:
        """Return whether a session may keep its slot for its own next run: nobody else waits for that."""
        return not (self._stopped or self._ready or principal in self._at_limit or self.is_full(principal))

    def stop(self) -> None:
        """Give no slot any more."""
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
        """Put a session at the end of its principal's line."""
        record.ready = True
        line = self._at_limit if self.is_at_limit(record.key.principal) else self._ready
        line.setdefault(record.key.principal, OrderedDict())[record.key] = record

    def dequeue(self, record: Slot) -> None:
        """Take a session out of its line."""
        record.ready = False
        line = self._ready if record.key.principal in self._ready else self._at_limit
        sessions = line[record.key.principal]
        del sessions[record.key]
        if not sessions:
            del line[record.key.principal]

    def add_lingering(self, principal: Principal) -> None:
        """Note a run of a principal that has ended and still works."""
        self.lingering[principal] += 1
        self._sort(principal)

    def drop_lingering(self, principal: Principal) -> None:
        """Note that nothing works any more of a run that has ended."""
        self.lingering[principal] -= 1
        if not self.lingering[principal]:
            del self.lingering[principal]
        self._sort(principal)

    def _sort(self, principal: Principal) -> None:
        """Put a principal whose sessions stand in line where it belongs: among those that go next, or not."""
        here, there = (self._ready, self._at_limit) if self.is_at_limit(principal) else (self._at_limit, self._ready)
        if (sessions := here.pop(principal, None)) is not None:
            there[principal] = sessions
