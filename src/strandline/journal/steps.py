"""What the memory journal is made of: its state, and the steps that its verbs are put together from.

Whoever calls a step holds the lock. Each leaves everything consistent, or raises before it has changed anything.
"""

import threading
from collections import Counter, OrderedDict

from strandline.clock import Clock
from strandline.encoding import encode_messages
from strandline.errors import ClaimLost, JournalUnavailable
from strandline.history import dismissed
from strandline.journal.feed import ClaimFeed
from strandline.journal.kept import KeptQuestion, KeptRun, KeptSession
from strandline.journal.port import Take
from strandline.journal.rules import Closed, is_last, stood_s
from strandline.lifecycle import Move, advance
from strandline.model import Claim, Outcome, Principal, Run, RunId, RunStatus, SessionKey, Token


class Steps:
    """Runs and sessions in dictionaries, and who executes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._feed = ClaimFeed()
        self._open = False
        self._max_attempts = 1
        self._epoch = 0
        self._fence = 0
        self._sequence = 0
        self._sessions: dict[SessionKey, KeptSession] = {}
        self._runs: dict[RunId, KeptRun] = {}
        self._waiting: dict[int, KeptRun] = {}
        self._waiting_of: Counter[Principal] = Counter()
        self._last_attempts: set[int] = set()
        self._stored_of: Counter[Principal] = Counter()
        """How many bytes are kept for each principal."""
        self._by_end: OrderedDict[SessionKey, int] = OrderedDict()
        """The sessions in which something has ended, the one in which nothing has for longest first, each with the
        number of its last end."""
        self._ends = 0

    def _check_open(self) -> None:
        if not self._open:
            raise JournalUnavailable("the journal is not open")

    def _claimed(self, token: Token) -> KeptRun:
        """Return the run that `token` is for. Raises `ClaimLost` if the token is stale."""
        self._check_open()
        run = self._runs.get(token.run_id)
        if run is None or run.fence != token.fence:
            raise ClaimLost(f"the claim on run {token.run_id} is lost")
        return run

    def _executing(self, token: Token) -> KeptRun:
        """Return the run that `token` is for. Raises `ClaimLost` if the token is stale, or good for a release only."""
        run = self._claimed(token)
        if run.held:
            raise ClaimLost(f"run {token.run_id} has ended; its claim is held and can only be released")
        return run

    def _enqueue(self, session: KeptSession, run: KeptRun) -> None:
        session.line.add(run)
        self._waiting[run.sequence] = run
        self._waiting_of[run.new.key.principal] += 1

    def _leave_line(self, session: KeptSession, run: KeptRun) -> None:
        session.line.remove(run)
        del self._waiting[run.sequence]
        self._waiting_of[run.new.key.principal] -= 1

    def _take_next(self, session: KeptSession) -> Take:
        if session.claimed is not None or session.paused or not len(session.line):
            return Take.NOTHING
        head = session.line.head()
        asked = session.open_question
        if asked is not None and self._clock.now() < asked.until:
            return Take.NOTHING
        if self._last_attempts and is_last(head.attempt + 1, self._max_attempts):
            return Take.BLOCKED
        if asked is not None:
            self._dismiss(session, asked)
        self._leave_line(session, head)
        self._start(session, head)
        return Take.TAKEN

    def _start(self, session: KeptSession, run: KeptRun) -> None:
        session.claimed = run
        run.status = advance(run.status, Move.TAKE)
        run.attempt += 1
        if run.started_at is None:
            run.started_at = self._clock.now()
        if is_last(run.attempt, self._max_attempts):
            self._last_attempts.add(run.sequence)
        self._feed.put([self._claim(run)])

    def _claim(self, run: KeptRun) -> Claim:
        self._fence += 1
        run.fence = self._fence
        question = self._sessions[run.new.key].answered_by(run)
        return Claim(
            token=Token(run.new.run_id, run.fence), run=self._shown(run), facts=run.staged(), question=question
        )

    def _end(self, run: KeptRun, status: RunStatus, outcome: bytes) -> None:
        run.status = status
        run.outcome = outcome
        run.ended_at = self._clock.now()
        run.facts = []
        self._sessions[run.new.key].ended.append(run.new.run_id)

    def _end_hold(self, session: KeptSession, held: KeptRun) -> None:
        """Free the session, unless it is paused: then its time stands still on."""
        if not session.paused:
            self._open_again(session, held.ended_at)
        self._stop(session, held)

    def _open_again(self, session: KeptSession, held_since: float | None) -> None:
        """Let the time of a session go on that was held since then, or closed before; what waits gets what it stood."""
        since = session.closed_since if session.closed_since is not None else held_since
        assert since is not None
        self._stood_since(session, since)
        session.closed_since = None

    def _stood_since(self, session: KeptSession, since: float) -> None:
        now = self._clock.now()
        for run in session.line:
            if run.queue_deadline is not None:
                run.queue_deadline += stood_s(since, run.new.created_at, now)

    # -- questions ------------------------------------------------------------------------------------

    def _ask(self, session: KeptSession, run: KeptRun, encoded: bytes, within_s: float, *, hold: bool) -> None:
        """Have a session wait for input, from the end of `run` on; what waits in it may wait for so much longer.

        If it is closed besides, its time stands still for that only when it waits no longer: no minute counts twice.
        """
        assert run.ended_at is not None
        until = run.ended_at + within_s
        session.question = KeptQuestion(encoded, run.new.run_id, until)
        if session.closed_since is not None:
            self._stood_since(session, session.closed_since)
        if session.closed_since is not None or hold:
            session.closed_since = until
        self._move_deadlines(session, max(0.0, until - self._clock.now()))

    def _close_question(self, session: KeptSession, asked: KeptQuestion, how: Closed) -> None:
        """Have a session wait for input no longer."""
        session.close_requests(asked, how)
        now = self._clock.now()
        self._move_deadlines(session, -max(0.0, asked.until - now))
        if session.closed_since is not None:
            session.closed_since = min(session.closed_since, now)

    def _dismiss(self, session: KeptSession, asked: KeptQuestion, *, begun: bool = False) -> None:
        """Close the open round of a question in history."""
        if asked.answer is None:
            self._close_question(session, asked, "dismissed")
        self._append(session, [encode_messages(each) for each in dismissed(asked.decoded(), begun=begun)])
        session.question = None

    def _answered(self, session: KeptSession, run: KeptRun, *, closed: bool, begun: bool) -> None:
        """Note that a run has ended; if it answered a question, its round is `closed` by what it left, or else here."""
        asked = session.question
        if asked is not None and asked.answer == run.new.run_id:
            session.question = None
            if not closed:
                self._dismiss(session, asked, begun=begun)

    @staticmethod
    def _move_deadlines(session: KeptSession, seconds: float) -> None:
        for run in session.line:
            if run.queue_deadline is not None:
                run.queue_deadline += seconds

    def _leave(self, session: KeptSession, run: KeptRun, messages: list[bytes], *, discarded: bool) -> None:
        """Append what a run leaves to history."""
        if discarded:
            run.discarded = True
            session.discarded.update(range(len(session.history), len(session.history) + len(messages)))
        self._append(session, messages)

    def _append(self, session: KeptSession, messages: list[bytes]) -> None:
        session.history += messages
        self._comes_to_rest(session)
        self._keep_bytes(session, sum(map(len, messages)))

    def _comes_to_rest(self, session: KeptSession) -> None:
        """Note that a session is at rest from now on, unless something goes on in it."""
        session.ended_at = self._clock.now()
        self._ends += 1
        self._by_end[session.key] = self._ends
        self._by_end.move_to_end(session.key)

    def _keep_bytes(self, session: KeptSession, more: int) -> None:
        """Count so many bytes more that are kept of a session."""
        session.stored += more
        self._stored_of[session.key.principal] += more

    def _stop(self, session: KeptSession, run: KeptRun) -> None:
        session.claimed = None
        run.fence = None
        self._last_attempts.discard(run.sequence)

    def _shown(self, run: KeptRun) -> Run:
        return run.shown(self._position(run))

    def _position(self, run: KeptRun) -> int | None:
        if run.status is not RunStatus.QUEUED:
            return None
        return self._sessions[run.new.key].line.ahead(run.rank()) + 1

    def _end_waiting(self, run: KeptRun, outcome: Outcome, messages: list[bytes], *, discarded: bool = False) -> None:
        """End a run that waits, leaving `messages` in history."""
        session = self._sessions[run.new.key]
        self._leave_line(session, run)
        self._end(run, outcome.status, encode_messages(outcome))
        self._leave(session, run, messages, discarded=discarded)
        self._answered(session, run, closed=bool(messages) and not discarded, begun=discarded)
