"""The session cache: the sessions with waiting or claimed runs, with these runs, and those that were used last.

`Transitions` changes them. What waits and executes, what may be claimed and what is due are views of them, as decided,
which may be a moment before it is durable.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from sys import maxsize
from typing import Final

from strandline._journal.checksums import key_crc
from strandline._journal.deadlines import Deadlines
from strandline._journal.partitions import moved
from strandline._journal.port import ClaimResult, Refused
from strandline._journal.rules import is_last, one_turn, rank
from strandline._journal.state import RunState, SessionState
from strandline._model import NewRun, Principal, RunId, SessionKey

CACHED_SESSIONS: Final = 10_000
"""How many idle sessions stay in memory, beside those with waiting or claimed runs."""
DUE_AGAIN_S: Final = 1.0
"""When an overdue run is due again if it could not be ended."""


class LiveSessions:
    """Sessions and their runs, with counts and deadlines."""

    def __init__(self, *, max_attempts: int, partitions: int = 1) -> None:
        self.waiting = 0
        """How many runs wait."""
        self._partitions = partitions
        """How many partitions the journal has."""
        self._epochs: dict[int, int] = {}
        """The partitions that are ours, and how many owners each has had. No session of another one is cached."""
        self._closing: dict[int, Callable[[], object]] = {}
        """Those of them in which nothing is claimed any more, since another server is about to own them, each with what
        to call when nothing is left that is claimed."""
        self._claimed_in: Counter[int] = Counter()
        """How many runs of each partition are claimed, and one more for each session that stays here."""
        self._max_attempts = max_attempts
        self._sessions: OrderedDict[SessionKey, SessionState] = OrderedDict()
        self._damaged: dict[SessionKey, str] = {}
        """Sessions that could not be read when their partition became ours, and why."""
        self._runs: dict[RunId, RunState] = {}
        """The waiting and claimed ones."""
        self._waiting_of: Counter[Principal] = Counter()
        self._elsewhere = 0
        self._elsewhere_of: Mapping[Principal, int] = {}
        """How many runs wait at other servers, as they have said: in all, and by principal."""
        self._last_attempts: set[int] = set()
        """The sequences of executing runs that are last attempts."""
        self._deadlines: Deadlines[RunState | SessionState] = Deadlines()
        self._moved: Callable[[SessionKey], None] = lambda key: None

    @property
    def damaged(self) -> Mapping[SessionKey, str]:
        """The sessions that are refused since they could not be read, and why."""
        return self._damaged

    # -- partitions -----------------------------------------------------------------------------------

    def partition(self, key: SessionKey) -> int:
        """Return which partition a session is in."""
        return key_crc(key) % self._partitions

    def _partition(self, session: SessionState) -> int:
        return session.ref.crc % self._partitions

    def owns(self, partition: int) -> bool:
        """Return whether a partition is ours."""
        return partition in self._epochs

    @property
    def owned(self) -> Collection[int]:
        """The partitions that are ours."""
        return self._epochs.keys()

    def _check_owned(self, key: SessionKey) -> None:
        """Raise `NotOwner` unless a session is in a partition of ours."""
        if (partition := self.partition(key)) not in self._epochs:
            raise moved(partition)

    def _is_closing(self, partition: int) -> bool:
        return partition in self._closing

    def at_rest(self, partitions: Collection[int]) -> set[int]:
        """Return those of some partitions that are ours and in which nothing is claimed."""
        return {each for each in partitions if each in self._epochs and not self._claimed_in[each]}

    def _gains_claim(self, session: SessionState) -> None:
        self._claimed_in[self._partition(session)] += 1

    def _loses_claim(self, session: SessionState) -> None:
        self._claimed_in[partition := self._partition(session)] -= 1
        if not self._claimed_in[partition] and (rests := self._closing.get(partition)) is not None:
            rests()

    # -- views ----------------------------------------------------------------------------------------

    def watch(self, moved: Callable[[SessionKey], None]) -> None:
        """Call `moved` with each session in which runs wait, and from now on with each that may have changed.

        The call comes in the middle of an operation.
        """
        self._moved = moved
        for run in self._runs.values():
            if run.fence is None:
                moved(run.session.key)

    def watch_deliveries(self, stored: Callable[[], object]) -> None:
        """Do nothing: there is nothing to send."""

    def is_waiting(self, run_id: RunId) -> bool:
        """Return whether a run waits."""
        run = self._runs.get(run_id)
        return run is not None and run.waits

    def has_pending(self, run_id: RunId) -> bool:
        """Return whether runs wait to reach this one, which they join."""
        run = self._runs.get(run_id)
        if run is None or not run.session.joining:
            return False
        return any(each.host is run for each in run.session.pending)

    def host_of(self, run_id: RunId) -> RunId | None:
        """Return the host whose turn a run has; None for a run that waits, or has a turn of its own."""
        run = self._runs.get(run_id)
        return None if run is None or run.host is None or run.waits else run.host.run_id

    def is_live(self, run_id: RunId) -> bool:
        """Return whether a run waits or executes."""
        run = self._runs.get(run_id)
        return run is not None and run.held_since is None

    def position(self, run_id: RunId) -> int | None:
        """Return a run's position in its queue, 1 for the next to start; None unless it waits for its turn."""
        run = self._runs.get(run_id)
        if run is None or run.fence is not None or run.host is not None:
            return None
        return run.session.queue.ahead(run.rank) + 1

    def is_idle(self, key: SessionKey) -> bool:
        """Return whether nothing of a session is claimed or waits for its turn; delayed runs may wait for theirs."""
        session = self._sessions.get(key)
        return session is None or (session.claimed is None and not session.queue.has_next)

    def not_before(self, run_id: RunId) -> float | None:
        """Return until when a run is delayed; None if it is not."""
        run = self._runs.get(run_id)
        return run.not_before if run is not None and run.is_delayed else None

    def delayed_until(self, key: SessionKey) -> float | None:
        """Return when the next run of a session is due if only delayed ones wait in it; None: it waits for a turn."""
        session = self._sessions.get(key)
        if session is None or not session.queue or session.queue.has_next:
            return None
        return session.queue.head.not_before

    def executes(self, key: SessionKey) -> bool:
        """Return whether a run of a session executes."""
        session = self._sessions.get(key)
        return session is not None and session.executing is not None

    def is_paused(self, key: SessionKey) -> bool:
        """Return whether runs wait in a session that is paused."""
        session = self._sessions.get(key)
        return session is not None and session.paused and session.waiting > 0

    def input_until(self, key: SessionKey, now: float) -> float | None:
        """Return until when (seconds since the epoch) runs of a session wait for an answer; None if they do not."""
        session = self._sessions.get(key)
        question = None if session is None or not session.queue else session.question
        return None if question is None or question.until <= now else question.until

    def cannot_claim(self, key: SessionKey, now: float) -> ClaimResult | None:
        """Return why `claim_next` would claim nothing now; None if it would claim."""
        session = self._sessions.get(key)
        return ClaimResult.NOTHING if session is None else self._cannot_claim(session, now)

    def _cannot_claim(self, session: SessionState, now: float) -> ClaimResult | None:
        if session.claimed is not None or session.paused or not session.queue.has_next:
            return ClaimResult.NOTHING
        if self._closing and self._is_closing(self._partition(session)):
            return ClaimResult.NOTHING
        if (question := session.question) is not None and now < question.until:
            self._watch_session(session)  # (if the clock was set back, `due` has already reported the end of the wait)
            return ClaimResult.NOTHING
        if session.queue.head.collect is not None and now < self._collects_until(session):
            self._watch_session(session)
            return ClaimResult.NOTHING
        return ClaimResult.BLOCKED if self._last_attempts and self._would_be_last(session.queue.head) else None

    def _next_turn(self, session: SessionState) -> tuple[list[RunState], float]:
        """Return the runs that start next as one turn, and when; a run must wait for its turn."""
        queue = session.queue
        collect = queue.head.collect
        return one_turn(queue.first(1 if collect is None else collect.by.max_items + 1))

    def _collects_until(self, session: SessionState) -> float:
        _, until = self._next_turn(session)
        return until

    def collects_until(self, key: SessionKey, now: float, position: int = 1) -> float | None:
        """Return until when (seconds since the epoch) the run at a position of a session waits for others of the next
        turn; None if it does not, or is not part of that."""
        session = self._sessions.get(key)
        if session is None or not session.queue.has_next or session.queue.head.collect is None:
            return None
        turn, until = self._next_turn(session)
        return until if now < until and position <= len(turn) else None

    def _would_be_last(self, run: RunState) -> bool:
        return is_last(run.attempt + 1, self._max_attempts)

    def refusal(self, new: NewRun, most: int) -> Refused | None:
        """Return the refusal of a run without a key or policy if `most` runs wait in its session already."""
        session = self._sessions.get(new.key)
        if session is None or not session.queue or session.waiting < most:
            return None
        if session.options is not None or (session.question is not None and new.may_answer):
            return None
        position = rank(new.lane, new.priority, maxsize)
        return Refused("queue_full", session.queue.ahead(position) + 1)

    @property
    def most_waiting(self) -> int:
        """How many runs wait in the longest queue; takes time for each run."""
        return max((run.session.waiting for run in self._runs.values()), default=0)

    @property
    def oldest(self) -> float | None:
        """Since when the longest-waiting run waits for its turn (seconds since the epoch); takes time for each run."""
        waiting = (run for run in self._runs.values() if run.waits and not run.is_delayed)
        return min((run.waits_since for run in waiting), default=None)

    @property
    def delayed(self) -> int:
        """How many of the waiting runs are delayed; takes time for each run."""
        return sum(run.is_delayed for run in self._runs.values())

    def claimed_of(self) -> Mapping[Principal, int]:
        """Return how many runs of each principal execute or are held; takes time for each run."""
        return Counter(run.session.key.principal for run in self._runs.values() if run.fence is not None)

    def note_elsewhere(self, waiting: int, waiting_of: Mapping[Principal, int]) -> None:
        """Note how many runs wait at other servers; bounds count them, too."""
        self._elsewhere, self._elsewhere_of = waiting, waiting_of

    def waiting_of(self) -> Mapping[Principal, int]:
        """Return how many runs of each principal wait."""
        return +self._waiting_of

    # -- what is due ----------------------------------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """When something may be due, in seconds since the epoch; None: never."""
        return self._deadlines.next

    def due(self, now: float) -> list[SessionKey]:
        """Return the sessions with overdue runs, or delayed ones that are due; until something is done they are due
        again soon.

        `moved` is called with other sessions that no longer wait for input.
        """
        overdue: dict[SessionKey, None] = {}
        for each in self._deadlines.pop(now):
            if isinstance(each, SessionState):
                self._moved(each.key)
            elif self._is_overdue(each, now):
                self._deadlines.watch(each, now + DUE_AGAIN_S)
                overdue[each.session.key] = None
            elif each.queue_deadline is not None and not _stands_still(each.session):
                self._deadlines.watch(each, each.queue_deadline)
        return list(overdue)

    def _is_overdue(self, run: RunState, now: float) -> bool:
        """Return whether the time of a waiting run is over: to begin, to end once it has begun, or to be delayed."""
        if run.is_delayed:
            return self._is_due(run, now)
        if (ends_at := run.deadline) is not None:
            return ends_at <= now
        deadline = run.queue_deadline
        return deadline is not None and deadline <= now and not _stands_still(run.session)

    def _is_due(self, run: RunState, now: float) -> bool:
        """Return whether a waiting run is delayed and its time has come."""
        return run.is_delayed and run.not_before is not None and run.not_before <= now

    def _watch(self, run: RunState, earliest: float = 0.0) -> None:
        """Watch a waiting run's deadline, or its delay, and the end of its session's wait for input."""
        deadline = run.queue_deadline if run.deadline is None else run.deadline
        if run.is_delayed:
            deadline = run.not_before
        if deadline is not None:
            self._deadlines.watch(run, max(deadline, earliest))
        self._watch_session(run.session)

    def _watch_session(self, session: SessionState) -> None:
        """Watch the time from which on the next run of a session may start, if it waits for that."""
        question, queue = session.question, session.queue
        if not queue:
            self._deadlines.forget(session)
            return
        at = None if question is None else question.until
        if queue.has_next and queue.head.collect is not None and (until := self._collects_until(session)):
            at = until if at is None else max(at, until)
        if at is None:
            self._deadlines.forget(session)
        elif session.due is None or session.due[0] != at:
            self._deadlines.watch(session, at)

    # -- sessions come and go -------------------------------------------------------------------------

    def _install(self, session: SessionState, earliest: float = 0.0) -> None:
        """Cache a session as stored; none of its waiting runs is due before `earliest`."""
        self._evict()
        self._sessions[session.key] = session
        for run in (*session.queue, *session.pending):
            self._watch(run, earliest)
        for run in (*session.queue, *session.joining):
            self._runs[run.run_id] = run
        self._count(session, session.waiting)
        if (claimed := session.claimed) is not None:
            self._runs[claimed.run_id] = claimed
            self._gains_claim(session)
            if session.executing is not None:
                self._executes(claimed)
        self._moved(session.key)

    def _evict(self) -> None:
        """Make room for a session: of the oldest few, drop an idle one, and move busy ones to the end."""
        for _ in range(4):
            if len(self._sessions) < CACHED_SESSIONS:
                return
            key, session = next(iter(self._sessions.items()))
            if session.is_idle and session.is_durable:
                del self._sessions[key]
            else:
                self._sessions.move_to_end(key)

    def drop_all(self) -> list[SessionState]:
        """Drop all sessions and their runs from the cache; return them."""
        sessions = list(self._sessions.values())
        for session in sessions:
            self._forget(session.key)
        return sessions

    def _forget(self, key: SessionKey) -> None:
        """Drop a session and its runs from the cache."""
        session = self._sessions.pop(key, None)
        if session is None:
            return
        for run in (*session.queue, *session.joining):
            del self._runs[run.run_id]
            self._deadlines.forget(run)
        self._deadlines.forget(session)
        self._count(session, -session.waiting)
        if (claimed := session.claimed) is not None:
            del self._runs[claimed.run_id]
            self._loses_claim(session)
            if session.executing is not None:
                self._executes_no_more(claimed)
        self._moved(key)

    # -- runs come and go -----------------------------------------------------------------------------

    def _join(self, run: RunState) -> None:
        """Add a run to its queue."""
        run.session.queue.add(run)
        self._count(run.session, 1)
        self._watch(run)
        self._moved(run.session.key)

    def _leave(self, run: RunState) -> None:
        """Remove a run from its queue."""
        run.session.queue.remove(run)
        run.new = None
        self._count(run.session, -1)
        self._deadlines.forget(run)
        if not run.session.queue:
            self._deadlines.forget(run.session)
        self._moved(run.session.key)

    def _wait_for_host(self, run: RunState) -> None:
        """Have a run wait to reach its host."""
        run.session.joining.append(run)
        self._count(run.session, 1)
        self._watch(run)
        self._moved(run.session.key)

    def _reach_host(self, run: RunState) -> None:
        """Note that a run waits no longer to reach its host."""
        run.new = None
        self._count(run.session, -1)
        self._deadlines.forget(run)
        self._moved(run.session.key)

    def _count(self, session: SessionState, more: int) -> None:
        """Count `more` waiting runs."""
        if more:
            self.waiting += more
            self._waiting_of[session.key.principal] += more

    def _executes(self, run: RunState) -> None:
        """Note that a run executes."""
        if is_last(run.attempt, self._max_attempts):
            self._last_attempts.add(run.seq)
            self._move_last_attempts()

    def _executes_no_more(self, run: RunState) -> None:
        """Note that a run no longer executes."""
        if run.seq in self._last_attempts:
            self._last_attempts.remove(run.seq)
            self._move_last_attempts()

    def _move_last_attempts(self) -> None:
        """Report the sessions of waiting last attempts, which may now begin, or no longer."""
        for each in self._runs.values():
            if each.fence is None and self._would_be_last(each):
                self._moved(each.session.key)


def _stands_still(session: SessionState) -> bool:
    """Return whether the queue deadlines of a session stand still, so that none of its runs is overdue."""
    return session.paused or session.held is not None


NO_SESSIONS: Final = LiveSessions(max_attempts=1)
"""The sessions of a journal that is not open yet."""
