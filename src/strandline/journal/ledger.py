"""The verbs of the SQLite journal for runs, as they run on the writer's thread: what is decided, and the rows written.

Each verb decides by what is `known` by heart, before it writes; then it writes one to three rows. A rollback forgets
all that was known, and it is read anew from the file, which is the truth.
"""

import logging
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from strandline.clock import Clock
from strandline.encoding import encode_messages
from strandline.errors import ClaimLost, JournalUnavailable, StrandlineError
from strandline.journal import keys
from strandline.journal.control import Controls
from strandline.journal.damage import ended_unread, readable
from strandline.journal.forgetting import prune
from strandline.journal.known import Asked, Executing, Session
from strandline.journal.port import AcceptAnswer, Accepted, Attached, Bounds, Refused, Reused, Take
from strandline.journal.reader import RUN_COLUMNS, facts, sound_run, waiting_before
from strandline.journal.reserve import Reserve
from strandline.journal.rules import Rank, as_answer, check_cancel, first_fence, is_last, rank
from strandline.journal.seal import end_owner, request_owner, sealed
from strandline.journal.transactions import Mismatch
from strandline.lifecycle import Move, advance
from strandline.model import Claim, IfBusy, Lane, NewRun, Run, RunStatus, SessionKey, Token, answered

_log = logging.getLogger("strandline.journal")

_ENQUEUE: Final = IfBusy.ENQUEUE
_QUEUED: Final = RunStatus.QUEUED.value
_TAKEN: Final = advance(RunStatus.QUEUED, Move.TAKE)
_RUNNING: Final = _TAKEN.value
_COLUMNS: Final = (
    "seq, run_id, session, lane, urgency, priority, status, attempt, fence, last, opaque, input, metadata, created_at,"
    " started_at, timeout_s, queue_deadline, trace"
)
_INSERT: Final = f"INSERT INTO runs ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,0,?,?,?,?,?,?,?,?)"
_INSERT_MORE: Final = (
    f"INSERT INTO runs ({_COLUMNS}, key, fingerprint, if_busy) VALUES (?,?,?,?,?,?,?,?,?,0,?,?,?,?,?,?,?,?,?,?,?)"
    " ON CONFLICT (session, key) WHERE key IS NOT NULL DO NOTHING"
)
_HEAD: Final = (
    f"SELECT {RUN_COLUMNS} FROM runs WHERE session = ? AND status = 'queued' ORDER BY lane, urgency, seq LIMIT 1"
)


class Left(Struct, frozen=True):
    """What a run leaves, encoded; None where there is nothing, or where nothing changed. `count` is of messages."""

    status: RunStatus
    outcome: bytes
    messages: bytes | None
    count: int
    window: bytes | None
    state: bytes | None
    discarded: bool
    question: bytes | None = None
    answer_within_s: float = 0.0


class Ledger(Controls):
    """The one writing connection and what it knows. Everything here belongs to the writer's thread."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock, reserve: Reserve, *, max_attempts: int) -> None:
        super().__init__(connection, clock)
        self._reserve = reserve
        self._max_attempts = max_attempts
        self.made: list[Claim] = []
        self.epoch = 0
        self._fence = 0

    # -- ownership ------------------------------------------------------------------------------------

    def take_over(self) -> list[Claim]:
        """End all holds and fence every older owner, in one transaction.

        Return what was executing, in order of sequence, with fresh tokens and its facts.
        """
        self.begin()
        try:
            self._execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            (self.epoch,) = self._execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            self._fence = first_fence(self.epoch)
            claims = []
            claimed = sorted(self._known.executing.values(), key=lambda each: each.seq)
            for held in (each for each in claimed if each.held_since is not None):
                self._end_hold(held)
            for executing in (each for each in claimed if each.held_since is None):
                executing.fence = self._next_fence()
                self._update("UPDATE runs SET fence = ? WHERE seq = ?", (executing.fence, executing.seq))
                row = self._execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE seq = ?", (executing.seq,)).fetchone()
                run, staged = readable(self._connection, row, executing.session.key)
                question = None
                if (answers := self._known.answered_by(executing.session, executing.seq)) is not None:
                    question, whole = self._question_or_what_is_left(executing.session, answers)
                    run = run if whole else replace(run, opaque=True)
                token = Token(run.run_id, executing.fence)
                claims.append(Claim(token=token, run=run, facts=staged, question=question))
            self.commit()
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise
        return claims

    # -- verbs ----------------------------------------------------------------------------------------

    def accept(
        self,
        new: NewRun,
        prompt: bytes,
        metadata: bytes | None,
        trace: bytes | None,
        bounds: Bounds,
        take: bool,
    ) -> AcceptAnswer:
        """Keep a run, or refuse it over `bounds`; with `take`, claim it if its session is free and it is first."""
        session = self._known.session(new.key)
        asked = self._known.open_question(session) if session is not None else None
        # Nearly every key is a new one. Of a run that changes nothing else, the insert tells, by the index it writes.
        is_plain = new.if_busy is _ENQUEUE and new.lane == Lane.NORMAL and asked is None
        if not is_plain and (stands_for := self._stands_for(session, new)) is not None:
            return stands_for
        question, answers = None, False
        if session is not None and asked is not None and new.may_answer:
            open_now, _ = self._question_or_what_is_left(session, asked)
            if (answer := as_answer(new, open_now)) is not None:
                new, prompt, question, answers = answer, encode_messages(answer.input), open_now, True
        seq = self._next_seq
        place = rank(new.lane, new.priority, seq)
        queued = session.queued if session is not None else 0
        ahead = self._ahead(session, place) if session is not None and queued else 0
        leaving: Sequence[list[Any]] = ()
        if new.if_busy is not _ENQUEUE and session is not None:
            waits = asked is not None and not self._goes_before(new, asked)
            is_behind = not answers and (queued or waits)
            if new.if_busy is IfBusy.REJECT and (is_behind or session.claimed is not None or session.paused):
                return Refused("session_busy", ahead + 1)
            leaving = self._given_back(session, new.if_busy)
            ahead -= len(leaving)
        if new.lane == Lane.ANSWER and not answers:
            question = None if session is None or asked is None else self._question(session, asked)
            if (cannot := self._cannot_answer(session, answered(new.input), question)) is not None:
                return cannot
        if self._is_stored_full(new.key, prompt, metadata, bounds):
            return self._stands_for(session, new) or Refused("storage_full", ahead + 1)
        size = len(prompt) + len(metadata or b"")
        if not self._reserve.has_room(size):
            return self._stands_for(session, new) or Refused("disk_low", ahead + 1)
        is_free = session is None or (session.claimed is None and not session.paused)
        goes_on = asked is None or question is not None or self._goes_before(new, asked)
        at_once = take and not ahead and is_free and goes_on
        if not at_once and question is None:
            if queued - len(leaving) >= bounds.per_session:
                return self._stands_for(session, new) or Refused("queue_full", ahead + 1)
            most = bounds.per_principal
            if most is not None and self._known.waiting_of[new.key.principal] - len(leaving) >= most:
                return self._stands_for(session, new) or Refused("principal_full", ahead + 1)
            if self._known.waiting - len(leaving) >= bounds.total:
                return self._stands_for(session, new) or Refused("server_full", ahead + 1)
        if session is None:
            session = self._add(new.key)
        until = None
        if asked is not None:
            until = asked.until
            new = self._asked_meanwhile(session, asked, new, seq, question, at_once or new.dismisses)
        stopped = None if new.if_busy is _ENQUEUE else self._interrupt(session, leaving, new.if_busy)
        fence = self._next_fence() if at_once else None
        started_at = self._clock.now() if at_once else None
        while not self._insert(session, new, seq, place, fence, started_at, prompt, metadata, trace):
            if (stands_for := self._stands_for(session, new)) is not None:
                return stands_for
        self._next_seq = seq + 1
        self._reserve.keeps(size)
        if fence is None:
            self._known.waits(session, place)
            return Accepted(ahead + 1, stopped, session.paused, until, answers)
        self._known.claimed(Executing(session, new.run_id, seq, fence, 1, started_at, staged=0), last=False)
        run = Run(
            run_id=new.run_id,
            key=new.key,
            input=new.input,
            lane=new.lane,
            priority=new.priority,
            opaque=new.opaque,
            metadata=new.metadata,
            sequence=seq,
            status=_TAKEN,
            attempt=1,
            created_at=new.created_at,
            started_at=started_at,
            timeout_s=new.timeout_s,
            queue_deadline=new.queue_deadline,
            if_busy=new.if_busy,
            trace=new.trace,
        )
        self.made.append(Claim(token=Token(new.run_id, fence), run=run, question=question))
        return Accepted(0, stopped, input_until=until, answers=answers)

    def _is_stored_full(self, key: SessionKey, prompt: bytes, metadata: bytes | None, bounds: Bounds) -> bool:
        """Tell whether a principal would have more kept with this run than it may."""
        if bounds.stored_bytes is None:
            return False
        row = self._execute("SELECT bytes FROM stored WHERE principal = ?", (key.principal,)).fetchone()
        return (row[0] if row else 0) + len(prompt) + len(metadata or b"") > bounds.stored_bytes

    def _stands_for(self, session: Session | None, new: NewRun) -> Attached | Reused | None:
        """Return what the key of a new run stands for; None if for nothing, or not any more, or if it has none."""
        if new.keyed is None or session is None:
            return None
        asked = self._known.question(session)
        return keys.find(self._execute, session, new.keyed, None if asked is None else asked.run)

    def _goes_before(self, new: NewRun, asked: Asked) -> bool:
        """Tell whether a run does not wait for the answer to a question."""
        return new.dismisses or asked.until <= self._clock.now()

    def _insert(
        self,
        session: Session,
        new: NewRun,
        seq: int,
        place: Rank,
        fence: int | None,
        started_at: float | None,
        prompt: bytes,
        metadata: bytes | None,
        trace: bytes | None,
    ) -> bool:
        """Write the row of a run; False, and nothing is written, if its key stands for another one."""
        owner = request_owner(session.crc, seq, new.run_id, new.priority, new.opaque, new.created_at, new.timeout_s)
        values = (
            seq, new.run_id, session.no, new.lane, place[1], new.priority, _QUEUED if fence is None else _RUNNING,
            int(fence is not None), fence, int(new.opaque), sealed(prompt, owner), metadata and sealed(metadata, owner),
            new.created_at, started_at, new.timeout_s, new.queue_deadline, trace and sealed(trace, owner),
        )  # fmt: skip
        if new.keyed is None and new.if_busy is _ENQUEUE:
            self._execute(_INSERT, values)
            return True
        kept = (None, None) if new.keyed is None else keys.kept(session, seq, new.keyed)
        if_busy = None if new.if_busy is _ENQUEUE else new.if_busy.value
        return self._execute(_INSERT_MORE, (*values, *kept, if_busy)).rowcount == 1

    def take(self, key: SessionKey) -> Take:
        """Claim the session's next run, counting an attempt."""
        session = self._known.busy_session(key)
        return Take.NOTHING if session is None else self._take_next(session)

    def stage(self, token: Token, fact: bytes) -> None:
        """Keep a fact, after those that are owed for the same claim."""
        executing = self._executing(token)
        self._pay(token, executing)
        self._write_fact(executing, fact)

    def settle(self, token: Token, left: Left, hold: bool, take: bool) -> Take:
        """End a run: outcome, messages, window and state. With `hold`, its claim stays; else `take` the next run."""
        executing = self._executing(token)
        if executing.cancel_requested:
            check_cancel(executing, left.status, discarded=left.discarded)
        session, seq = executing.session, executing.seq
        now = self._clock.now()
        owner = end_owner(session.crc, seq, executing.attempt, left.discarded, executing.started_at, now)
        discarded = int(left.discarded)  # the driver takes a whole number at once, and asks around for a bool
        # A run that has ended and has a fence is held, and the index of claims has its session.
        self._update(
            "UPDATE runs SET status = ?, outcome = ?, ended_at = ?, fence = ?, last = 0, discarded = ?"
            " WHERE seq = ? AND fence = ?",
            (
                left.status.value, sealed(left.outcome, owner), now, token.fence if hold else None, discarded, seq,
                token.fence,
            ),
        )  # fmt: skip
        self._append(session, seq, left.messages, left.count, discarded)
        closed = (left.count > 0 and not left.discarded) or left.question is not None
        self._answered(session, seq, closed=closed, begun=left.discarded)
        if left.question is not None:
            self._ask(session, seq, left.question, now + left.answer_within_s, hold=hold)
        if left.window is not None or left.state is not None:
            window = left.window and sealed(left.window, session.crc)
            self._keep(session, window, left.state and sealed(left.state, session.crc))
        if executing.staged:
            self._execute("DELETE FROM staged WHERE run = ?", (seq,))
        self._settled(token)
        if hold:
            self._known.held(executing, since=now)
            return Take.NOTHING
        self._known.stopped(executing)
        return self._take_next(session) if take and session.queued else Take.NOTHING

    def release(self, token: Token, counted: bool, take: bool) -> Take:
        """Give a run back to the head of its queue, `counted` False without its attempt; or end the hold of one."""
        executing = self._claimed(token)
        if executing.held_since is None:
            check_cancel(executing, RunStatus.QUEUED, discarded=False)
            self._pay(token, executing)
            self._give_back(executing, executing.attempt - (not counted))
        else:
            self._end_hold(executing)
        return self._take_next(executing.session) if take else Take.NOTHING

    def prune(self, before: float, limit: int, after: int) -> tuple[int, int | None]:
        """Forget runs that ended before `before`; see `prune`."""
        return prune(self._connection, before, limit, after, self._clock.now())

    # -- parts of verbs -------------------------------------------------------------------------------

    def _claimed(self, token: Token) -> Executing:
        claimed = self._known.executing.get(token.run_id)
        if claimed is None or claimed.fence != token.fence:
            raise ClaimLost(f"the claim on run {token.run_id} is lost")
        return claimed

    def _executing(self, token: Token) -> Executing:
        executing = self._known.executing.get(token.run_id)
        if executing is None or executing.fence != token.fence:
            raise ClaimLost(f"the claim on run {token.run_id} is lost")
        if executing.held_since is not None:
            raise ClaimLost(f"run {token.run_id} has ended; its claim is held and can only be released")
        return executing

    def _give_back(self, executing: Executing, attempt: int) -> None:
        place = rank(Lane.GIVEN_BACK, 0, executing.seq)
        self._update(
            "UPDATE runs SET status = ?, lane = ?, urgency = ?, attempt = ?, fence = NULL, last = 0,"
            " queue_deadline = NULL WHERE seq = ? AND fence = ?",
            (_QUEUED, *place[:2], attempt, executing.seq, executing.fence),
        )
        self._known.stopped(executing)
        self._known.waits(executing.session, place)

    def _end_hold(self, held: Executing) -> None:
        """Free the session, unless it is paused: then its time stands still on."""
        self._update("UPDATE runs SET fence = NULL WHERE seq = ? AND fence = ?", (held.seq, held.fence))
        if not held.session.paused:
            self._open(held.session, held.held_since)
        self._settled(Token(held.run_id, held.fence))
        self._known.stopped(held)

    def _ahead(self, session: Session, place: Rank) -> int:
        """Return how many waiting runs of the session stand before `place`."""
        if not session.queued or session.back is None or place > session.back:
            return session.queued
        return waiting_before(self._connection, session.no, place)

    def _take_next(self, session: Session) -> Take:
        if session.claimed is not None or session.paused or not session.queued:
            return Take.NOTHING
        asked = self._known.open_question(session)
        if asked is not None and self._clock.now() < asked.until:
            return Take.NOTHING
        while (taken := self._take_head(session)) is None:
            pass
        return taken

    def _take_head(self, session: Session) -> Take | None:
        """Claim the first that waits; None if it was damaged: it has been ended, and the next one is to be tried."""
        if not session.queued:
            return Take.NOTHING
        row = self._execute(_HEAD, (session.no,)).fetchone()
        if row is None:
            raise Mismatch(f"no run waits in session {session.no}")
        try:
            waiting = sound_run(row, session.key, session.crc)
            # A run that was never claimed has nothing staged.
            staged = facts(self._connection, waiting.sequence) if waiting.started_at is not None else ()
            answers = self._known.answered_by(session, waiting.sequence)
            question = None if answers is None else self._question(session, answers)
        except JournalUnavailable as error:
            self._end_damaged(session, row, error)
            return None
        attempt = waiting.attempt + 1
        last = is_last(attempt, self._max_attempts)
        if last and self._known.last_attempts:
            return Take.BLOCKED
        if (asked := self._known.open_question(session)) is not None:
            self._dismiss(session, asked)
        fence = self._next_fence()
        run = replace(
            waiting,
            status=advance(waiting.status, Move.TAKE),
            attempt=attempt,
            started_at=self._clock.now() if waiting.started_at is None else waiting.started_at,
        )
        self._update(
            "UPDATE runs SET status = ?, attempt = ?, fence = ?, last = ?, started_at = ?"
            " WHERE seq = ? AND status = 'queued'",
            (run.status.value, attempt, fence, int(last), run.started_at, run.sequence),
        )
        self._known.left(session, (waiting.lane, row[-1], waiting.sequence))
        self._known.claimed(
            Executing(session, run.run_id, run.sequence, fence, attempt, run.started_at, len(staged)), last=last
        )
        self.made.append(Claim(token=Token(run.run_id, fence), run=run, facts=staged, question=question))
        return Take.TAKEN

    def _end_damaged(self, session: Session, row: tuple[Any, ...], error: StrandlineError) -> None:
        """End a waiting run that cannot be read, so that those behind it go on; what can be read of it is kept."""
        run, staged = readable(self._connection, row, session.key)
        _log.error("run %s ends as failed: %s", run.run_id, error)
        fence = self._next_fence()
        executing = Executing(session, run.run_id, run.sequence, fence, run.attempt, run.started_at, staged=1)
        self._update("UPDATE runs SET fence = ? WHERE seq = ? AND status = 'queued'", (fence, run.sequence))
        self._known.left(session, (run.lane, row[-1], run.sequence))
        self._known.claimed(executing, last=False)
        outcome, closed = ended_unread(run, staged)
        if self._known.answered_by(session, run.sequence) is not None:
            closed = []  # the round of the question is closed in its place
        encoded = encode_messages(closed) if closed else None
        left = Left(outcome.status, encode_messages(outcome), encoded, len(closed), None, None, discarded=False)
        self.settle(Token(run.run_id, fence), left, hold=False, take=False)

    def _next_fence(self) -> int:
        self._fence += 1
        return self._fence
