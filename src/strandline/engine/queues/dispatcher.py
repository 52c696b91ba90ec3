"""Which free session goes next. Plain sync code: it decides, others act.

A slot is the right to have one run claimed; there are `max_running`, of which each principal may have a share. Whoever
asks the journal for a claim reserves a slot first, so that a claim never waits for one; the claim comes after the
answer. Sessions that wait for a slot are served in turn: between principals first, then between the sessions of one.
The journal decides the order within a session.

A run that has ended and still works is a *leftover*, until its last thread has ended, also when its session goes on.
Where leftovers are bounded for each principal, each keeps its slot: of the share of its principal, if that has one, and
of `max_running`, of which all together keep half at most, so that threads that never end cannot stop everybody. A
principal that has as many as it may starts nothing more, and delays no other.
"""

from collections import Counter, OrderedDict
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from strandline.model import Principal, RunId, SessionKey


class Obstacle(StrEnum):
    """Why a session in which runs wait gets no slot."""

    LEFTOVERS = "leftovers"
    """As many ended runs of its principal as may be still work."""
    LAST_ATTEMPT = "last attempt"
    """Its next run is a last attempt, and another session's executes."""
    PRINCIPAL = "principal"
    """Its principal has all the slots that it may have."""
    SERVER = "server"
    """No slot is free."""


class Share(Struct, frozen=True):
    """What goes on for one principal: runs that execute or are held, runs that wait, and runs that have ended and
    still work, held or not."""

    claimed: int
    waiting: int
    leftovers: int = 0


class _Line:
    """What the dispatcher knows of a session in which something waits or is claimed."""

    __slots__ = ("executes", "held", "ready", "slot", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.executes = False
        """Whether a claim is out whose run executes; it has the slot."""
        self.held = False
        """Whether its last run is held, which uses no slot."""
        self.slot = False
        """Whether it has a slot: for its claim, or for one that may be on its way."""
        self.ready = False

    @property
    def busy(self) -> bool:
        """Whether it must not line up: something of it goes on, or is about to."""
        return self.slot or self.held


class Dispatcher:
    """Slots, and the sessions that wait for one. Belongs to the serving loop."""

    def __init__(
        self, max_running: int, per_principal: int | None = None, leftovers_per_principal: int | None = None
    ) -> None:
        self._free = max_running
        """How many slots no session has; leftovers keep some of these."""
        self._share = max_running if per_principal is None else per_principal
        """How many slots one principal may have."""
        self._keeps_share = per_principal is not None and leftovers_per_principal is not None
        """Whether leftovers keep slots of their principal's share."""
        self.most_leftovers = leftovers_per_principal
        """At how many leftovers nothing more of a principal starts; None: they are not bounded, and keep no slot."""
        if per_principal is not None and leftovers_per_principal is not None:
            self.most_leftovers = min(per_principal, leftovers_per_principal)
        self._most_kept = max_running // 2
        """How many of all slots leftovers may keep."""
        self._slots: Counter[Principal] = Counter()
        """How many slots the sessions of each have; none is at 0."""
        self._left: Counter[Principal] = Counter()
        """How many leftovers each has; none is at 0."""
        self._lines: dict[SessionKey, _Line] = {}
        self._ready: OrderedDict[Principal, OrderedDict[SessionKey, None]] = OrderedDict()
        """Sessions that wait for a slot, in order."""
        self._sated: dict[Principal, OrderedDict[SessionKey, None]] = {}
        """The same, of principals that have their share, or as many leftovers as they may: none of theirs goes next
        before one of those ends."""
        self._blocked: list[SessionKey] = []
        self._waiting: dict[RunId, float] = {}
        self._stopped = False

    # -- what it tells -----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many runs wait."""
        return len(self._waiting)

    @property
    def most_waiting(self) -> int:
        """How many runs wait in the session where most do; takes a moment for each session with something to do."""
        return max((line.waiting for line in self._lines.values()), default=0)

    @property
    def oldest(self) -> float | None:
        """When the run that has waited longest was accepted, in seconds since the epoch."""
        return next(iter(self._waiting.values()), None)

    @property
    def sessions(self) -> int:
        """How many sessions have something to do."""
        return len(self._lines)

    def shares(self) -> dict[Principal, Share]:
        """Return what goes on for each principal; takes a moment for each session with something to do."""
        found: dict[Principal, Share] = {}
        for key, line in self._lines.items():
            before = found.get(key.principal, Share(0, 0))
            found[key.principal] = Share(before.claimed + (line.executes or line.held), before.waiting + line.waiting)
        for principal, leftovers in self._left.items():
            found[principal] = replace(found.get(principal, Share(0, 0)), leftovers=leftovers)
        return found

    def leftovers(self, principal: Principal) -> int:
        """Return how many runs of a principal have ended and still work."""
        return self._left[principal]

    def is_full(self, principal: Principal) -> bool:
        """Tell whether nothing more of a principal starts, since as many of its runs as may have ended and still work.

        A share that leftovers have used up counts too: its next slot is free when one of them ends, not before.
        """
        return self.most_leftovers is not None and self._left[principal] >= self.most_leftovers

    def is_waiting(self, run_id: RunId) -> bool:
        """Tell whether the run waits."""
        return run_id in self._waiting

    def has_waiting(self, key: SessionKey) -> bool:
        """Tell whether runs wait in a session."""
        line = self._lines.get(key)
        return line is not None and line.waiting > 0

    def executes(self, key: SessionKey) -> bool:
        """Tell whether a run of a session executes."""
        line = self._lines.get(key)
        return line is not None and line.executes

    def expects_claims(self) -> bool:
        """Tell whether a claim may be on its way, for a slot that is reserved; takes a moment for each session."""
        return any(line.slot and not line.executes for line in self._lines.values())

    def obstacle(self, key: SessionKey) -> Obstacle | None:
        """Return why a session in which runs wait and nothing goes on gets no slot; None if it has or gets one."""
        line = self._lines.get(key)
        if line is None or line.slot:
            return None
        if self.is_full(key.principal):
            return Obstacle.LEFTOVERS
        if key in self._blocked:
            return Obstacle.LAST_ATTEMPT
        if not self._has_room:
            return Obstacle.SERVER
        return Obstacle.PRINCIPAL if key.principal in self._sated else None

    def waiting_runs(self) -> list[RunId]:
        """Return the runs that wait, oldest first."""
        return list(self._waiting)

    # -- a run arrives -----------------------------------------------------------------------------

    def reserve(self, key: SessionKey) -> bool:
        """Reserve a slot for a run that is about to be accepted, if its session is free and nobody waits for a slot.

        Tell whether there is one; its claim follows, or `free`.
        """
        if self._stopped or not self._has_room or self._ready or key in self._lines:
            return False
        if self._is_sated(key.principal):
            return False
        self._take_slot(key, self._line(key))
        return True

    def waits(self, run_id: RunId, key: SessionKey, created_at: float) -> None:
        """Note a run that waits."""
        line = self._line(key)
        line.waiting += 1
        self._waiting[run_id] = created_at
        self._consider(key, line)

    def claimed(self, run_id: RunId, key: SessionKey) -> None:
        """Note a claim, which comes to the slot that was reserved for it."""
        line = self._lines[key]
        line.executes = True
        if self._waiting.pop(run_id, None) is not None:
            line.waiting -= 1

    # -- a slot is free ----------------------------------------------------------------------------

    def next(self) -> SessionKey | None:
        """Reserve a slot for the session that goes next and return it; None if there is no slot or no session."""
        if self._stopped or not self._has_room or not self._ready:
            return None
        principal, sessions = next(iter(self._ready.items()))
        key, _ = sessions.popitem(last=False)
        if sessions:
            self._ready.move_to_end(principal)
        else:
            del self._ready[principal]
        line = self._lines[key]
        line.ready = False
        self._take_slot(key, line)
        return key

    def keeps_slot(self, key: SessionKey) -> bool:
        """Tell whether a session whose run ends may go on with its own next run: nobody else waits for the slot."""
        return not (self._stopped or self._ready or key.principal in self._sated or self.is_full(key.principal))

    def ended(self, key: SessionKey, *, taken: bool) -> None:
        """Note the end of a claim; `taken`: its slot goes over to the session's next run."""
        self._lines[key].executes = False
        if not taken:
            self.free(key)

    def held(self, key: SessionKey) -> None:
        """Note that the run of a claim has ended and is held: its session goes on when that is over. `works_no_more`
        follows, before the end of the hold or after."""
        line = self._lines[key]
        line.executes, line.held = False, True
        self._left[key.principal] += 1
        self.free(key)
        self._sort(key.principal)

    def hold_ended(self, key: SessionKey) -> None:
        """Note the end of a hold."""
        line = self._lines[key]
        line.held = False
        self._at_rest(key, line)

    def works_no_more(self, principal: Principal) -> None:
        """Note that nothing works any more of a run that has ended."""
        self._left[principal] -= 1
        if not self._left[principal]:
            del self._left[principal]
        self._sort(principal)

    def left(self, run_id: RunId, key: SessionKey) -> None:
        """Note that a run waits no longer, and was not claimed."""
        if self._waiting.pop(run_id, None) is not None:
            line = self._lines[key]
            line.waiting -= 1
            if key in self._blocked:  # it may have been what had to wait for another session's last attempt
                self._blocked.remove(key)
                self._at_rest(key, line)
            elif not line.waiting:
                self._at_rest(key, line)

    def resumed(self, key: SessionKey) -> None:
        """Line up a session of which the journal would give nothing, if runs wait in it."""
        if (line := self._lines.get(key)) is not None:
            self._consider(key, line)

    def emptied(self, key: SessionKey) -> None:
        """Give back the slot of a session in which the journal found nothing to take."""
        line = self._lines[key]
        self._give_back(key, line)
        if not line.waiting:
            self._at_rest(key, line)

    def blocked(self, key: SessionKey) -> None:
        """Give back the slot of a session whose head must wait for another session's last attempt."""
        self._give_back(key, self._lines[key])
        self._blocked.append(key)

    def unblock(self) -> None:
        """Let the blocked sessions line up again."""
        blocked, self._blocked = self._blocked, []
        for key in blocked:
            if (line := self._lines.get(key)) is not None:
                self._consider(key, line)

    def free(self, key: SessionKey) -> None:
        """Give back a session's slot, and line it up if runs wait."""
        line = self._lines[key]
        self._give_back(key, line)
        self._at_rest(key, line)

    def stop(self) -> None:
        """Let nothing start any more."""
        self._stopped = True

    def _take_slot(self, key: SessionKey, line: _Line) -> None:
        line.slot = True
        self._free -= 1
        self._slots[key.principal] += 1
        self._sort(key.principal)

    def _give_back(self, key: SessionKey, line: _Line) -> None:
        principal = key.principal
        line.slot = False
        self._free += 1
        self._slots[principal] -= 1
        if not self._slots[principal]:
            del self._slots[principal]
        self._sort(principal)

    @property
    def _has_room(self) -> bool:
        """Whether there is a slot for another session."""
        kept = 0 if self.most_leftovers is None else min(self._left.total(), self._most_kept)
        return self._free > kept

    def _is_sated(self, principal: Principal) -> bool:
        """Tell whether a principal has all the slots that it may have, or is full."""
        kept = self._left[principal] if self._keeps_share else 0
        return self._slots[principal] + kept >= self._share or self.is_full(principal)

    def _sort(self, principal: Principal) -> None:
        """Put a principal whose sessions wait for a slot where it belongs: among those that go next, or not."""
        here, there = (self._ready, self._sated) if self._is_sated(principal) else (self._sated, self._ready)
        if (sessions := here.pop(principal, None)) is not None:
            there[principal] = sessions

    def _at_rest(self, key: SessionKey, line: _Line) -> None:
        """Line the session up if runs wait in it; forget it if nothing goes on there."""
        if line.waiting:
            self._consider(key, line)
        elif not line.busy:
            if line.ready:
                self._withdraw(key)
            del self._lines[key]

    def _withdraw(self, key: SessionKey) -> None:
        """Take a session out of those that wait for a slot."""
        place = self._ready if key.principal in self._ready else self._sated
        sessions = place[key.principal]
        del sessions[key]
        if not sessions:
            del place[key.principal]

    def _line(self, key: SessionKey) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        return line

    def _consider(self, key: SessionKey, line: _Line) -> None:
        if line.busy or line.ready or not line.waiting or key in self._blocked:
            return
        line.ready = True
        place = self._sated if self._is_sated(key.principal) else self._ready
        place.setdefault(key.principal, OrderedDict())[key] = None
