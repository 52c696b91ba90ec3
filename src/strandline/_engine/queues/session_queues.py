"""Which session goes next, of those in which something waits. Pure: others act.

What waits and executes, and what keeps a session from going on, is the journal's: its `sessions` are asked. Kept here
are the slots, and who stands in line for one. The journal tells of each session that may have moved; it lines up, or
leaves the line, before anything is asked here. Whoever asks the journal for a claim reserves a slot first, so that a
claim never waits for one.
"""

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from strandline._clock import Clock
from strandline._engine.queues.slots import Slot, Slots
from strandline._journal.port import ClaimResult, Journal
from strandline._model import Principal, RunId, SessionKey


class Obstacle(StrEnum):
    """Why a session in which runs wait gets no slot."""

    LINGERING = "leftovers"
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
        """Sessions that may have moved since they were looked at."""

    def follow(self, wake: Callable[[], None]) -> None:
        """Begin to follow the sessions of the journal, which is open; `wake` is called when one of them has moved."""

        def moved(key: SessionKey) -> None:
            record = self._records.get(key)
            if record is not None and record.is_occupied:
                return  # it is looked at when its slot is free again
            if not self._moved:
                wake()
            self._moved[key] = None

        self.sessions = self._journal.sessions
        self.sessions.watch(moved)

    # -- what it tells -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._records)

    def shares(self) -> dict[Principal, Share]:
        """Return what goes on for each principal; takes a moment for each run that waits or is claimed."""
        claimed, waiting, leftovers = self.sessions.claimed_of(), self.sessions.waiting_of(), self.slots.lingering
        return {
            each: Share(claimed.get(each, 0), waiting.get(each, 0), leftovers[each])
            for each in {**claimed, **waiting, **leftovers}
        }

    def lingering(self, principal: Principal) -> int:
        """Return how many runs of a principal have ended and still work."""
        return self.slots.lingering[principal]

    def is_full(self, principal: Principal) -> bool:
        """Return whether as many ended runs of a principal as may be still work: nothing more of it starts."""
        return self.slots.is_full(principal)

    @property
    def executing(self) -> int:
        """How many runs execute, each from the moment in which it waits no longer; a moment for each session."""
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
        """Return whether a claim may be on its way, for a slot that is reserved; takes a moment for each session."""
        return any(record.is_occupied and record.executing is None for record in self._records.values())

    def input_until(self, key: SessionKey) -> float | None:
        """Return until when (seconds since the epoch) runs of a session wait for an answer; None: they do not."""
        return self.sessions.input_until(key, self._clock.now())

    def is_closed(self, key: SessionKey) -> bool:
        """Return whether runs wait in a session for somebody to resume it, or to answer what it asks, or for what still
        works of its principal's ended runs."""
        return self.sessions.is_paused(key) or self.input_until(key) is not None or self.is_full(key.principal)

    def obstacle(self, key: SessionKey) -> Obstacle | None:
        """Return why a session in which runs wait and nothing goes on gets no slot; None if it has or gets one."""
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
        """Reserve a slot for a run that is about to be accepted, if its session is idle and nobody waits for a slot.

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

    def claimed(self, run_id: RunId, key: SessionKey, since: float = 0.0) -> None:
        """Note a claim, which comes to the slot that was reserved for it; `since` when, on the monotonic clock."""
        record = self._records[key]
        record.executing, record.since = run_id, since

    def keeps_slot(self, key: SessionKey) -> bool:
        """Return whether a session whose run ends may go on with its own next run: nobody else waits for the slot."""
        self._catch_up()
        return self.slots.may_keep_slot(key.principal)

    def ended(self, run_id: RunId, key: SessionKey, *, claimed: bool) -> None:
        """Note the end of a claim; `claimed`: its slot goes over to the session's next run."""
        record = self._records[key]
        if record.executing == run_id:  # else the next one has begun already
            record.executing = None
        if not claimed:
            self.free(key)

    def free(self, key: SessionKey) -> None:
        """Give back a session's slot, and line it up if it can go on."""
        self.slots.release(self._records[key])
        self._consider(key)

    def held(self, run_id: RunId, key: SessionKey) -> None:
        """Note that the run of a claim has ended and is held, without a slot. `lingering_ended` follows."""
        self.slots.add_lingering(key.principal)
        self.ended(run_id, key, claimed=False)

    def lingering_ended(self, principal: Principal) -> None:
        """Note that nothing works any more of a run that has ended."""
        self.slots.drop_lingering(principal)

    def stop(self) -> None:
        """Let nothing start any more."""
        self.slots.stop()

    # -- records -----------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Look at the sessions that have moved."""
        while self._moved:
            moved, self._moved = self._moved, {}
            for key in moved:
                self._consider(key)

    def _consider(self, key: SessionKey) -> None:
        """Have a session stand in line if its next run could be claimed, and only then."""
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
