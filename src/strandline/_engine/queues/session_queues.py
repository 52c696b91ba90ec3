"""Which waiting session goes next. Pure: others act.

The journal knows what waits and executes and what keeps a session from continuing: its `sessions` answer. This module
has the slots and the sessions that wait for one. The journal reports each session that may have moved; the session is
queued for a slot, or leaves that queue, before the next decision. A slot is reserved before the journal makes a claim,
so that a claim never waits for one.
"""

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from strandline._clock import Clock
from strandline._engine.queues.slots import Slot, Slots
from strandline._journal.port import ClaimResult, Journal
from strandline._model import Principal, RunId, SessionKey


class Obstacle(StrEnum):
    """Why a session with waiting runs gets no slot."""

    LINGERING = "lingering runs"
    """Its principal has as many lingering runs as it may have."""
    LAST_ATTEMPT = "last attempt"
    """Its next run is a last attempt, and another session's executes."""
    PRINCIPAL = "principal"
    """Its principal has all the slots that it may have."""
    SERVER = "server"
    """No slot is free."""


class Share(Struct, frozen=True):
    """One principal's activity: runs that execute or lock their session, runs that wait, and lingering runs, which have
    ended and still execute code, with or without a lock."""

    claimed: int
    waiting: int
    lingering: int = 0


class SessionQueues:
    """Belongs to the serving loop."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        max_running: int,
        per_principal: int | None = None,
        lingering_per_principal: int | None = None,
    ) -> None:
        self.slots = Slots(max_running, per_principal, lingering_per_principal)
        self._journal = journal
        self._clock = clock
        self._records: dict[SessionKey, Slot] = {}
        self.sessions = journal.sessions
        """What waits and executes, and in which sessions."""
        self._moved: dict[SessionKey, None] = {}
        """Sessions that may have moved since they were last considered."""

    def follow(self, wake: Callable[[], None]) -> None:
        """Begin to follow the sessions of the journal, which is open; `wake` is called when one of them has moved."""

        def moved(key: SessionKey) -> None:
            record = self._records.get(key)
            if record is not None and record.is_occupied:
                return  # it is considered when its slot is free again
            if not self._moved:
                wake()
            self._moved[key] = None

        self.sessions = self._journal.sessions
        self.sessions.watch(moved)

    # -- the present state ------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._records)

    def shares(self) -> dict[Principal, Share]:
        """Return each principal's activity; takes a moment for each run that waits or is claimed."""
        claimed, waiting, lingering = self.sessions.claimed_of(), self.sessions.waiting_of(), self.slots.lingering
        return {
            each: Share(claimed.get(each, 0), waiting.get(each, 0), lingering[each])
            for each in {**claimed, **waiting, **lingering}
        }

    def lingering(self, principal: Principal) -> int:
        """Return how many lingering runs a principal has."""
        return self.slots.lingering[principal]

    def is_full(self, principal: Principal) -> bool:
        """Return whether a principal has as many lingering runs as it may have: it starts no other."""
        return self.slots.is_full(principal)

    @property
    def executing(self) -> int:
        """How many runs execute, from the moment in which they wait no longer; takes a moment for each session."""
        return sum(
            record.executing is not None or self.sessions.executes(record.key)
            for record in self._records.values()
            if record.is_occupied
        )

    def executing_since(self, key: SessionKey) -> float | None:
        """Return since when (on the monotonic clock) the run of a session executes; None if none does."""
        record = self._records.get(key)
        return None if record is None or record.executing is None else record.since

    def expects_claims(self) -> bool:
        """Return whether a claim may be on its way to a reserved slot; takes a moment for each session."""
        return any(record.is_occupied and record.executing is None for record in self._records.values())

    def input_until(self, key: SessionKey) -> float | None:
        """Return until when (seconds since the epoch) a session's runs wait for an answer; None: they do not."""
        return self.sessions.input_until(key, self._clock.now())

    def is_closed(self, key: SessionKey) -> bool:
        """Return whether a session's runs wait for a resume, an answer, or the lingering runs of their principal."""
        return self.sessions.is_paused(key) or self.input_until(key) is not None or self.is_full(key.principal)

    def obstacle(self, key: SessionKey) -> Obstacle | None:
        """Return why a session with waiting runs and no executing one gets no slot; None if it has or gets one."""
        self._catch_up()
        record = self._records.get(key)
        if record is not None and record.is_occupied:
            return None
        if self.is_full(key.principal):
            return Obstacle.LINGERING
        if self.sessions.cannot_claim(key, self._clock.now()) is ClaimResult.BLOCKED:
            return Obstacle.LAST_ATTEMPT
        if record is None:
            return None
        if not self.slots.has_room:
            return Obstacle.SERVER
        return Obstacle.PRINCIPAL if self.slots.has_waiting(key.principal) else None

    # -- slots -------------------------------------------------------------------------------------

    def reserve(self, key: SessionKey) -> bool:
        """Reserve a slot for a run that is about to be accepted, if its session is idle and no session waits for a
        slot.

        Return whether there is one; its claim follows, or `free`.
        """
        self._catch_up()
        if key in self._records or not self.slots.starts_at_once(key.principal) or not self.sessions.is_idle(key):
            return False
        self.slots.occupy(self._record(key))
        return True

    def next(self) -> SessionKey | None:
        """Reserve a slot for the session that goes next and return it; None if there is no slot or no session."""
        self._catch_up()
        record = self.slots.next()
        return None if record is None else record.key

    def claimed(self, run_id: RunId, key: SessionKey, since: float) -> None:
        """Note a claim, which comes to its reserved slot; `since` is the time on the monotonic clock."""
        record = self._records[key]
        record.executing, record.since = run_id, since

    def keeps_slot(self, key: SessionKey) -> bool:
        """Return whether a session whose run ends may continue with its own next run: no other session waits for the
        slot."""
        self._catch_up()
        return self.slots.may_keep_slot(key.principal)

    def ended(self, run_id: RunId, key: SessionKey, *, claimed: bool) -> None:
        """Note the end of a claim; `claimed`: its slot passes to the session's next run."""
        record = self._records[key]
        if record.executing == run_id:  # else the next one has begun already
            record.executing = None
        if not claimed:
            self.free(key)

    def free(self, key: SessionKey) -> None:
        """Free a session's slot, and queue it for another if it can continue."""
        self.slots.release(self._records[key])
        self._consider(key)

    def held(self, run_id: RunId, key: SessionKey) -> None:
        """Note that a claim's run has ended and lingers, without a slot, and locks its session. `lingering_ended`
        follows."""
        self.slots.add_lingering(key.principal)
        self.ended(run_id, key, claimed=False)

    def lingering_ended(self, principal: Principal) -> None:
        """Note that a lingering run has stopped executing."""
        self.slots.drop_lingering(principal)

    def stop(self) -> None:
        """Start nothing any more."""
        self.slots.stop()

    # -- records -----------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Consider the sessions that have moved."""
        while self._moved:
            moved, self._moved = self._moved, {}
            for key in moved:
                self._consider(key)

    def _consider(self, key: SessionKey) -> None:
        """Queue a session for a slot if its next run could be claimed, and only then."""
        record = self._records.get(key)
        if record is not None and record.is_occupied:
            return
        if self.sessions.cannot_claim(key, self._clock.now()) is None:
            if record is None or not record.ready:
                self.slots.enqueue(self._record(key))
        elif record is not None:
            if record.ready:
                self.slots.dequeue(record)
            del self._records[key]

    def _record(self, key: SessionKey) -> Slot:
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = Slot(key)
        return record
