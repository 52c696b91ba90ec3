"""The sessions in which something waits, is claimed or is held, and which of them goes next. Pure: others act.

One record for each such session has all that the engine knows of its queue; it goes when the session has nothing to do.
The journal decides: the order within a session, what is refused, what has waited too long. What it does becomes known
here a moment later, in the order in which it was decided. Whoever asks it for a claim reserves a slot first, so that a
claim never waits for one; the claim comes after the answer.

A refusal is remembered until anything changes in the queue, so that whoever hammers a full one costs the journal
nothing. A queue may look full for a moment when it is not any more; never the other way round, since only the journal
accepts. The journal alone knows how long the time of a run stands still, too: deadlines are the earliest moments at
which it is worth a question.
"""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from strandline.engine.queues.deadlines import Deadlines
from strandline.engine.queues.records import SessionQueue, WaitingRun
from strandline.engine.queues.slots import Slots
from strandline.journal.port import AcceptAnswer, Refused
from strandline.model import IfBusy, Lane, NewRun, Principal, RunId, SessionKey


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


class SessionQueues:
    """Belongs to the serving loop."""

    def __init__(
        self, max_running: int, per_principal: int | None = None, leftovers_per_principal: int | None = None
    ) -> None:
        self.slots = Slots(max_running, per_principal, leftovers_per_principal)
        self._sessions: dict[SessionKey, SessionQueue] = {}
        self._waiting: dict[RunId, WaitingRun] = {}
        """The same runs as in the records, oldest first."""
        self._blocked: list[SessionKey] = []
        """Sessions whose head must wait for another session's last attempt."""
        self.deadlines: Deadlines[SessionQueue | WaitingRun] = Deadlines()
        self.executing = 0
        """How many runs execute, each from the very moment in which it waits no longer."""
        self.changes = 0
        """The number of the last change: a run of some session has come, begun or ended, or may have."""

    # -- what it tells -----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many runs wait."""
        return len(self._waiting)

    @property
    def most_waiting(self) -> int:
        """How many runs wait in the session where most do; takes a moment for each session with something to do."""
        return max((len(queue.waiting) for queue in self._sessions.values()), default=0)

    @property
    def oldest(self) -> float | None:
        """When the run that has waited longest was accepted, in seconds since the epoch."""
        first = next(iter(self._waiting.values()), None)
        return None if first is None else first.created_at

    @property
    def sessions(self) -> int:
        """How many sessions have something to do."""
        return len(self._sessions)

    def shares(self) -> dict[Principal, Share]:
        """Return what goes on for each principal; takes a moment for each session with something to do."""
        found: dict[Principal, Share] = {}
        for key, queue in self._sessions.items():
            before = found.get(key.principal, Share(0, 0))
            claimed = queue.executing is not None or queue.held
            found[key.principal] = Share(before.claimed + claimed, before.waiting + len(queue.waiting))
        for principal, leftovers in self.slots.leftovers.items():
            found[principal] = replace(found.get(principal, Share(0, 0)), leftovers=leftovers)
        return found

    def leftovers(self, principal: Principal) -> int:
        """Return how many runs of a principal have ended and still work."""
        return self.slots.leftovers[principal]

    def is_full(self, principal: Principal) -> bool:
        """Tell whether as many ended runs of a principal as may be still work: nothing more of it starts."""
        return self.slots.is_full(principal)

    def is_waiting(self, run_id: RunId) -> bool:
        """Tell whether the run waits."""
        return run_id in self._waiting

    def get(self, key: SessionKey) -> SessionQueue | None:
        """Return the record of a session, to be read only; None if it has nothing to do."""
        return self._sessions.get(key)

    def has_waiting(self, key: SessionKey) -> bool:
        """Tell whether runs wait in a session."""
        queue = self._sessions.get(key)
        return queue is not None and bool(queue.waiting)

    def executes(self, key: SessionKey) -> bool:
        """Tell whether a run of a session executes."""
        queue = self._sessions.get(key)
        return queue is not None and queue.executing is not None

    def expects_claims(self) -> bool:
        """Tell whether a claim may be on its way, for a slot that is reserved; takes a moment for each session."""
        return any(queue.slot and queue.executing is None for queue in self._sessions.values())

    def is_paused(self, key: SessionKey) -> bool:
        """Tell whether runs wait in a session for somebody to resume it."""
        queue = self._sessions.get(key)
        return queue is not None and queue.paused

    def input_until(self, key: SessionKey) -> float | None:
        """Return until when (seconds since the epoch) runs of a session wait for an answer; None: they do not."""
        queue = self._sessions.get(key)
        return None if queue is None or queue.due is None else queue.due[0]

    def is_closed(self, key: SessionKey) -> bool:
        """Tell whether runs wait in a session for somebody to resume it, or to answer what it asks, or for what still
        works of its principal's ended runs."""
        queue = self._sessions.get(key)
        return (queue is not None and (queue.paused or queue.due is not None)) or self.is_full(key.principal)

    def obstacle(self, key: SessionKey) -> Obstacle | None:
        """Return why a session in which runs wait and nothing goes on gets no slot; None if it has or gets one."""
        queue = self._sessions.get(key)
        if queue is None or queue.slot:
            return None
        if self.is_full(key.principal):
            return Obstacle.LEFTOVERS
        if key in self._blocked:
            return Obstacle.LAST_ATTEMPT
        if not self.slots.has_room:
            return Obstacle.SERVER
        return Obstacle.PRINCIPAL if self.slots.stands_in_line(key.principal) else None

    def has_changed(self, key: SessionKey, since: int) -> bool:
        """Tell whether runs of a session may stand elsewhere than after change `since`."""
        queue = self._sessions.get(key)
        return queue is None or queue.changed > since

    # -- refusals ----------------------------------------------------------------------------------

    def refusal(self, new: NewRun) -> Refused | None:
        """Return how a plain run is refused now, if that is known without the journal."""
        queue = self._sessions.get(new.key)
        if queue is None or not queue.refused or not queue.waiting:
            return None
        return queue.refused.get((new.priority, new.on_question))

    def refused(self, new: NewRun, answer: AcceptAnswer, *, asked_at: int) -> None:
        """Remember how the journal has answered a run, if that counts for others; `asked_at`: after how many changes.

        Only a full queue counts: whether the server is full, or a session busy, other sessions and runs decide.
        """
        if (
            isinstance(answer, Refused)
            and answer.reason == "queue_full"
            and asked_at == self.changes
            and new.lane == Lane.NORMAL
            and new.if_busy is IfBusy.ENQUEUE
            and (queue := self._sessions.get(new.key)) is not None
        ):
            queue.refused[new.priority, new.on_question] = answer

    def changed(self, key: SessionKey) -> None:
        """Note that a run of a session has come, begun, moved or ended, or may have: once too often does no harm."""
        self.changes += 1
        if (queue := self._sessions.get(key)) is not None:
            self._note_change(queue)

    def _note_change(self, queue: SessionQueue) -> None:
        queue.changed = self.changes
        if queue.refused:
            queue.refused.clear()

    # -- a run arrives -----------------------------------------------------------------------------

    def reserve(self, key: SessionKey) -> bool:
        """Reserve a slot for a run that is about to be accepted, if its session is free and nobody waits for a slot.

        Tell whether there is one; its claim follows, or `free`.
        """
        if key in self._sessions or not self.slots.goes_at_once(key.principal):
            return False
        self.slots.take(self._queue(key))
        return True

    def waits(
        self, run_id: RunId, key: SessionKey, created_at: float, deadline: float | None = None, *, paused: bool = False
    ) -> None:
        """Note a run that waits until `deadline` at least, in seconds since the epoch; None: it may wait for ever.

        `paused`: its session is paused, as the journal has told with it.
        """
        queue = self._queue(key)
        run = WaitingRun(run_id, key, created_at)
        queue.waiting[run_id] = self._waiting[run_id] = run
        queue.paused = queue.paused or paused
        if deadline is not None:
            self.deadlines.watch(run, deadline)
        self.changed(key)
        self._consider(queue)

    def claimed(self, run_id: RunId, key: SessionKey, since: float = 0.0) -> None:
        """Note a claim, which comes to the slot that was reserved for it; `since` when, on the monotonic clock."""
        queue = self._sessions[key]
        queue.executing, queue.since = run_id, since
        self.executing += 1
        self._leave(run_id, queue)
        self.changed(key)

    # -- a slot is free ----------------------------------------------------------------------------

    def next(self) -> SessionKey | None:
        """Reserve a slot for the session that goes next and return it; None if there is no slot or no session."""
        queue = self.slots.next()
        return None if queue is None else queue.key

    def keeps_slot(self, key: SessionKey) -> bool:
        """Tell whether a session whose run ends may go on with its own next run: nobody else waits for the slot."""
        return self.slots.goes_on(key.principal)

    def ended(self, run_id: RunId, key: SessionKey, *, taken: bool) -> None:
        """Note the end of a claim; `taken`: its slot goes over to the session's next run."""
        queue = self._sessions[key]
        self._end(run_id, queue)
        if not taken:
            self.free(key)

    def held(self, run_id: RunId, key: SessionKey) -> None:
        """Note that the run of a claim has ended and is held: its session goes on when that is over. `works_no_more`
        follows, before the end of the hold or after."""
        queue = self._sessions[key]
        self._end(run_id, queue)
        queue.held = True
        self.slots.give_back(queue)
        self.slots.add_leftover(key.principal)

    def hold_ended(self, key: SessionKey) -> None:
        """Note the end of a hold."""
        queue = self._sessions[key]
        queue.held = False
        self._time_goes_on(queue)
        self._at_rest(queue)

    def works_no_more(self, principal: Principal) -> None:
        """Note that nothing works any more of a run that has ended."""
        self.slots.drop_leftover(principal)

    def left(self, run_id: RunId, key: SessionKey) -> None:
        """Note that a run waits no longer, and was not claimed."""
        self.changed(key)
        queue = self._sessions.get(key)
        if queue is None or not self._leave(run_id, queue):
            return
        if key in self._blocked:  # it may have been what had to wait for another session's last attempt
            self._blocked.remove(key)
            self._at_rest(queue)
        elif not queue.waiting:
            self._at_rest(queue)

    def emptied(self, key: SessionKey) -> None:
        """Give back the slot of a session in which the journal found nothing to take."""
        queue = self._sessions[key]
        self.slots.give_back(queue)
        if not queue.waiting:
            self._at_rest(queue)

    def blocked(self, key: SessionKey) -> None:
        """Give back the slot of a session whose head must wait for another session's last attempt."""
        self.slots.give_back(self._sessions[key])
        self._blocked.append(key)

    def unblock(self) -> None:
        """Let the blocked sessions line up again."""
        blocked, self._blocked = self._blocked, []
        for key in blocked:
            if (queue := self._sessions.get(key)) is not None:
                self._consider(queue)

    def free(self, key: SessionKey) -> None:
        """Give back a session's slot, and line it up if runs wait."""
        queue = self._sessions[key]
        self.slots.give_back(queue)
        self._at_rest(queue)

    def stop(self) -> None:
        """Let nothing start any more."""
        self.slots.stop()

    # -- pauses, input requests and deadlines ------------------------------------------------------

    def paused(self, key: SessionKey) -> None:
        """Note that a session was paused: the journal gives nothing of it any more."""
        if (queue := self._sessions.get(key)) is not None:
            queue.paused = True

    def resumed(self, key: SessionKey) -> None:
        """Note that a session goes on, if runs wait in it: it lines up."""
        if (queue := self._sessions.get(key)) is not None:
            queue.paused = False
            self.opened(queue)

    def waits_for_input(self, key: SessionKey, until: float) -> None:
        """Note that runs of a session wait for an answer, until that moment (seconds since the epoch)."""
        if (queue := self._sessions.get(key)) is not None and (queue.due is None or queue.due[0] != until):
            self.deadlines.watch(queue, until)

    def answered(self, key: SessionKey, seconds: float) -> None:
        """Note that a session waits for input no longer, so many seconds before that would have been over.

        The journal had told deadlines that are so much later.
        """
        if (queue := self._sessions.get(key)) is not None:
            self.deadlines.forget(queue)
            for run in queue.waiting.values():
                if run.due is not None:
                    self.deadlines.watch(run, run.due[0] - seconds)
            self._time_goes_on(queue)

    def dismissed(self, key: SessionKey, seconds: float) -> None:
        """Note that a session goes on without the input that it would have waited for so many seconds longer."""
        self.answered(key, seconds)
        if (queue := self._sessions.get(key)) is not None:
            self._consider(queue)

    def opened(self, queue: SessionQueue) -> None:
        """Line up a session of which the journal would have given nothing until now, if runs wait in it."""
        self._time_goes_on(queue)
        self._consider(queue)

    def watch(self, run_id: RunId, deadline: float | None) -> None:
        """Note the deadline of a run, if it waits still. None: its time stands still until its session is open."""
        if (run := self._waiting.get(run_id)) is None:
            return
        if deadline is None:
            run.stands = True
        else:
            self.deadlines.watch(run, deadline)

    def _time_goes_on(self, queue: SessionQueue) -> None:
        """Have the journal be asked again about runs whose time may go on now."""
        for run in queue.waiting.values():
            if run.stands:
                run.stands = False
                self.deadlines.watch(run, 0.0)

    # -- records -----------------------------------------------------------------------------------

    def _end(self, run_id: RunId, queue: SessionQueue) -> None:
        self.executing -= 1
        if queue.executing == run_id:  # else the next one has begun already
            queue.executing = None
        self.changed(queue.key)

    def _leave(self, run_id: RunId, queue: SessionQueue) -> bool:
        """Note that a run waits no longer; tell whether it did."""
        if (run := self._waiting.pop(run_id, None)) is None:
            return False
        del queue.waiting[run_id]
        self.deadlines.forget(run)
        return True

    def _at_rest(self, queue: SessionQueue) -> None:
        """Line the session up if runs wait in it; forget it if nothing goes on there."""
        if queue.waiting:
            self._consider(queue)
        elif not queue.busy:
            if queue.ready:
                self.slots.withdraw(queue)
            self.deadlines.forget(queue)
            del self._sessions[queue.key]

    def _queue(self, key: SessionKey) -> SessionQueue:
        queue = self._sessions.get(key)
        if queue is None:
            queue = self._sessions[key] = SessionQueue(key, self.changes)
        return queue

    def _consider(self, queue: SessionQueue) -> None:
        if queue.busy or queue.ready or not queue.waiting or queue.key in self._blocked:
            return
        self.slots.line_up(queue)
