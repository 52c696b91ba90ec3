"""What the SQLite journal knows by heart: enough to decide, so that a verb on a known session reads nothing.

Which run of a session is claimed, how many wait, where its history ends. All of it can be read from the file, which is
the truth; after a rollback it is. Sessions with nothing to do are forgotten, the oldest first, so that a million idle
ones cost nothing. Belongs to the writer's thread.
"""

import sqlite3
from collections import Counter, OrderedDict
from typing import Final

from strandline.journal.reader import Tail, find_session, last_waiting
from strandline.journal.rules import Rank
from strandline.journal.seal import key_crc
from strandline.model import Principal, RunId, SessionKey

KNOWN_SESSIONS: Final = 10_000
"""How many sessions are known by heart; those with a waiting or claimed run come on top."""


class Session:
    """One session, as far as it takes to decide."""

    __slots__ = ("back", "claimed", "closed_since", "crc", "end", "key", "no", "paused", "queued")

    def __init__(
        self, no: int, key: SessionKey, end: Tail, *, paused: bool = False, closed_since: float | None = None
    ) -> None:
        self.no = no
        self.key = key
        self.crc = key_crc(key)
        self.end = end
        """Where its history ends."""
        self.queued = 0
        self.back: Rank | None = None
        """The last of those that wait, None if there is none: whatever is accepted behind it needs no counting."""
        self.claimed: Executing | None = None
        self.paused = paused
        self.closed_since = closed_since
        """Since when its time stands still, if it is or was paused in that time; see the schema."""


class Asked:
    """A question that a run has put, until when its session waits, and the sequence of the run that answers, if any."""

    __slots__ = ("answer", "run", "until")

    def __init__(self, run: int, until: float, answer: int | None = None) -> None:
        self.run = run
        self.until = until
        self.answer = answer


class Executing:
    """One claimed run; `staged` is how many facts of it are kept. One that is held has ended, at `held_since`."""

    __slots__ = (
        "attempt",
        "cancel_requested",
        "discard",
        "fence",
        "held_since",
        "run_id",
        "seq",
        "session",
        "staged",
        "started_at",
    )

    def __init__(
        self,
        session: Session,
        run_id: RunId,
        seq: int,
        fence: int,
        attempt: int,
        started_at: float | None,
        staged: int,
    ) -> None:
        self.session = session
        self.run_id = run_id
        self.seq = seq
        self.fence = fence
        self.attempt = attempt
        self.started_at = started_at
        self.staged = staged
        self.cancel_requested = False
        self.discard = False
        self.held_since: float | None = None


class Known:
    """The sessions that are known, what executes in them and how many runs wait in all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self.executing: dict[RunId, Executing] = {}
        self.last_attempts: set[int] = set()
        """The sequences of executing runs that are last attempts."""
        self.waiting = 0
        self.waiting_of: Counter[Principal] = Counter()
        self._questions: dict[int, Asked] = {}
        """By the number of the session; there are few."""
        self.learn()

    def learn(self) -> None:
        """Read everything anew: the claimed runs, the queues and their sessions."""
        self._sessions.clear()
        self.executing.clear()
        self.last_attempts.clear()
        self.waiting = 0
        self.waiting_of.clear()
        self._questions = {
            no: Asked(*columns)
            for no, *columns in self._connection.execute("SELECT session, run, until, answer FROM questions")
        }
        by_no: dict[int, Session] = {}
        for key in self._connection.execute(
            "SELECT principal, session_id FROM sessions WHERE no IN"
            " (SELECT session FROM runs WHERE status = 'queued' UNION SELECT session FROM runs WHERE fence IS NOT NULL)"
        ).fetchall():
            session = self._read(SessionKey(*key))
            assert session is not None
            self._sessions[session.key] = by_no[session.no] = session
        for no, *place in self._connection.execute(
            "SELECT session, lane, urgency, seq FROM runs WHERE status = 'queued' ORDER BY session, lane, urgency, seq"
        ):
            lane, urgency, seq = place
            self.waits(by_no[no], (lane, urgency, seq))
        for no, last, ended_at, cancel_requested, discard, *columns in self._connection.execute(
            "SELECT session, last, ended_at, cancel_requested, discard, run_id, seq, fence, attempt, started_at,"
            " (SELECT coalesce(max(no) + 1, 0) FROM staged WHERE run = seq) FROM runs WHERE fence IS NOT NULL"
        ):
            executing = Executing(by_no[no], *columns)
            executing.cancel_requested, executing.discard = bool(cancel_requested), bool(discard)
            self.claimed(executing, last=last)
            if ended_at is not None:
                self.held(executing, since=ended_at)

    # -- sessions -------------------------------------------------------------------------------------

    def session(self, key: SessionKey) -> Session | None:
        """Return a session, read if it is not known; None if there is none."""
        session = self._sessions.get(key)
        if session is None:
            session = self._read(key)
            if session is not None:
                self.add(session)
        return session

    def busy_session(self, key: SessionKey) -> Session | None:
        """Return a session in which a run waits or is claimed; may be None for any other."""
        return self._sessions.get(key)

    def add(self, session: Session) -> None:
        """Know a session from now on, and forget up to two others that have nothing to do."""
        for _ in range(2):
            if len(self._sessions) >= KNOWN_SESSIONS:
                oldest, other = self._sessions.popitem(last=False)
                if other.queued or other.claimed is not None:
                    self._sessions[oldest] = other
        self._sessions[session.key] = session

    def forget(self, session: Session) -> None:
        """Note that a session was deleted."""
        self.asked(session, None)
        del self._sessions[session.key]

    def _read(self, key: SessionKey) -> Session | None:
        found = find_session(self._connection, key)
        if found is None:
            return None
        return Session(found.no, key, found.tail, paused=found.paused, closed_since=found.closed_since)

    # -- questions ------------------------------------------------------------------------------------

    def question(self, session: Session) -> Asked | None:
        """Return the question whose round is open at the end of a session's history."""
        return self._questions.get(session.no) if self._questions else None

    def open_question(self, session: Session) -> Asked | None:
        """Return the question that a session waits to be answered."""
        asked = self._questions.get(session.no) if self._questions else None
        return None if asked is None or asked.answer is not None else asked

    def answered_by(self, session: Session, seq: int) -> Asked | None:
        """Return the question that the run with this sequence answers."""
        asked = self._questions.get(session.no) if self._questions else None
        return asked if asked is not None and asked.answer == seq else None

    def asked(self, session: Session, asked: Asked | None) -> None:
        """Note the question of a session, or that it has none any more."""
        if asked is not None:
            self._questions[session.no] = asked
        else:
            self._questions.pop(session.no, None)

    # -- runs -----------------------------------------------------------------------------------------

    def waits(self, session: Session, place: Rank) -> None:
        """Note that a run waits at `place`."""
        session.queued += 1
        self.waiting += 1
        self.waiting_of[session.key.principal] += 1
        if session.back is None or place > session.back:
            session.back = place

    def left(self, session: Session, place: Rank) -> None:
        """Note that the run at `place` waits no longer; what is stored says so already."""
        session.queued -= 1
        self.waiting -= 1
        self.waiting_of[session.key.principal] -= 1
        if place == session.back:
            session.back = last_waiting(self._connection, session.no) if session.queued else None

    def claimed(self, executing: Executing, *, last: bool) -> None:
        """Note a claim."""
        executing.session.claimed = executing
        self.executing[executing.run_id] = executing
        if last:
            self.last_attempts.add(executing.seq)

    def held(self, executing: Executing, *, since: float) -> None:
        """Note that a run has ended whose claim stays."""
        executing.held_since = since
        self.last_attempts.discard(executing.seq)

    def stopped(self, executing: Executing) -> None:
        """Note the end of a claim."""
        executing.session.claimed = None
        del self.executing[executing.run_id]
        self.last_attempts.discard(executing.seq)
