"""The journal in memory: the reference for what the port means, for tests and for people who want no file.

It keeps every invariant of the port, but nothing survives the process. `open` on the same object models a restart:
it fences everything that executes. Each verb is one step under one lock and never waits, so verbs may be awaited from
any event loop, also from one with virtual time and without threads.

What goes in is kept encoded, what comes out is decoded anew: no caller shares a mutable object with the journal.
"""

import heapq
from collections.abc import AsyncIterator
from itertools import islice, takewhile
from typing import assert_never, overload

from strandline.encoding import encode_messages
from strandline.errors import InvariantBroken
from strandline.journal.feed import ClaimFeed
from strandline.journal.kept import Asked, KeptRun, KeptSession
from strandline.journal.memory_control import MemoryControls
from strandline.journal.memory_lists import MemoryLists
from strandline.journal.port import (
    AcceptAnswer,
    Accepted,
    AllSessionsPage,
    AllSessionsQuery,
    Bounds,
    Cancel,
    CancelSession,
    Change,
    ChangeAnswer,
    Delete,
    EndWaiting,
    HistoryPage,
    HistoryQuery,
    Move,
    Pause,
    Query,
    Refused,
    RestingPage,
    RestingQuery,
    Resume,
    RunQuery,
    RunsOfQuery,
    RunsPage,
    RunsQuery,
    SessionQuery,
    SessionsPage,
    SessionsQuery,
    Standing,
    StandingQuery,
    Stored,
    StoredQuery,
    Take,
    Waiting,
    WaitingQuery,
)
from strandline.journal.rules import answers_key, as_answer, check_answer, check_cancel, check_end, first_fence, rank
from strandline.lifecycle import Move as LifeMove
from strandline.lifecycle import advance
from strandline.model import (
    AgentRecord,
    Claim,
    Fact,
    IfBusy,
    Lane,
    NewRun,
    Run,
    RunStatus,
    SessionKey,
    SessionView,
    Settlement,
    Token,
    answered,
)


class MemoryJournal(MemoryControls, MemoryLists):
    """Everything in dictionaries. An object that was closed can be opened again and still has its runs."""

    # -- ownership ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """How often it was opened."""
        return self._epoch

    @property
    def trouble(self) -> str | None:
        """Nothing hinders it."""
        return None

    @property
    def short_of_room(self) -> str | None:
        """It has no disk."""
        return None

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """End all holds, fence every older owner; return what was executing, in order of sequence, with new tokens."""
        with self._lock:
            if self._epoch:
                self._feed.end()
                self._feed = ClaimFeed()
            self._open = True
            self._max_attempts = max_attempts
            self._epoch += 1
            self._fence = first_fence(self._epoch)
            claimed = [session.claimed for session in self._sessions.values() if session.claimed is not None]
            claimed.sort(key=lambda run: run.sequence)
            for held in (run for run in claimed if run.held):
                self._end_hold(self._sessions[held.new.key], held)
            return [self._claim(run) for run in claimed if run.fence is not None]

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim made since `open`, once; ends when the journal is closed."""
        return self._feed.follow()

    async def close(self) -> None:
        """End `claims()`, after the claims that are already there. Idempotent."""
        with self._lock:
            self._open = False
            self._feed.end()

    # -- runs -----------------------------------------------------------------------------------------

    async def accept(self, new: NewRun, bounds: Bounds, *, take: bool) -> AcceptAnswer:
        """Keep a run, or refuse it over `bounds`. With `take`, claim it if its session is free and it is first."""
        prompt, metadata, trace = map(encode_messages, (new.input, new.metadata, new.trace))
        with self._lock:
            self._check_open()
            if new.run_id in self._runs:
                raise InvariantBroken(f"run id {new.run_id} is taken")
            session = self._sessions.get(new.key) or KeptSession(new.key)
            if new.keyed is not None and (known := session.keys.get(new.keyed.key)) is not None:
                assert known.new.keyed is not None
                ended_at = None if session.rests_on(known) else known.ended_at
                answer = answers_key(new.keyed, known.new.run_id, ended_at, known.new.keyed.fingerprint)
                if answer is not None:
                    return answer
            asked = session.open_question
            became = None if asked is None else as_answer(new, asked.decoded())
            if became is not None:
                new, prompt = became, encode_messages(became.input)
            ahead = session.line.ahead(rank(new.lane, new.priority, self._sequence))
            if new.if_busy is IfBusy.REJECT and session.is_busy(new, self._clock.now()):
                return Refused("session_busy", ahead + 1)
            if answers := answered(new.input) if new.lane == Lane.ANSWER else []:
                question = None if asked is None else asked.decoded()
                if (cannot := check_answer(answers, question, session.closed_as)) is not None:
                    return cannot
            kept = self._stored_of[new.key.principal] + len(prompt) + len(metadata)
            if bounds.stored_bytes is not None and kept > bounds.stored_bytes:
                return Refused("storage_full", ahead + 1)
            begun = self._begun(session, new.if_busy)
            leaving = sum(run.status is RunStatus.QUEUED for run in begun)
            ahead -= leaving
            goes_on = asked is None or bool(answers) or new.dismisses or asked.until <= self._clock.now()
            at_once = take and session.claimed is None and not session.paused and ahead == 0 and goes_on
            if not at_once and not answers:
                if len(session.line) - leaving >= bounds.per_session:
                    return Refused("queue_full", ahead + 1)
                most = bounds.per_principal
                if most is not None and self._waiting_of[new.key.principal] - leaving >= most:
                    return Refused("principal_full", ahead + 1)
                if len(self._waiting) - leaving >= bounds.total:
                    return Refused("server_full", ahead + 1)
            stopped = self._stop_all(begun, discard=new.if_busy is IfBusy.ROLLBACK) if begun else None
            run = KeptRun(new, Asked(prompt, metadata, trace), self._sequence)
            self._sequence += 1
            self._sessions[new.key] = session
            self._runs[new.run_id] = run
            session.runs.add(new.run_id)
            self._keep_bytes(session, run.asked.stored)
            if new.keyed is not None:
                session.keys[new.keyed.key] = run
            until = None if asked is None else asked.until
            if asked is not None:
                self._asked_meanwhile(session, asked, run, at_once=at_once, answers=bool(answers))
            if at_once:
                self._start(session, run)
                return Accepted(0, stopped, input_until=until, answers=became is not None)
            self._enqueue(session, run)
            return Accepted(ahead + 1, stopped, session.paused, until, became is not None)

    async def take(self, key: SessionKey) -> Take:
        """Claim the session's next run, counting an attempt."""
        with self._lock:
            self._check_open()
            session = self._sessions.get(key)
            return self._take_next(session) if session else Take.NOTHING

    async def stage(self, token: Token, fact: Fact) -> None:
        """Keep what a running run has done so far."""
        encoded = encode_messages(fact)
        with self._lock:
            self._executing(token).facts.append(encoded)

    async def settle(self, token: Token, settlement: Settlement, *, take: bool, hold: bool = False) -> Take:
        """End a run: outcome, messages, window and state in one step.

        With `take`, claim the session's next run. With `hold`, keep the claim until `release`; nothing is taken then.
        """
        check_end(RunStatus.RUNNING, settlement.outcome.status)
        outcome = encode_messages(settlement.outcome)
        messages = [encode_messages(message) for message in settlement.messages]
        window = None if settlement.window is None else encode_messages(settlement.window)
        state = None if settlement.state is None else encode_messages(settlement.state)
        question = None if settlement.question is None else encode_messages(settlement.question)
        with self._lock:
            run = self._executing(token)
            check_cancel(run, settlement.outcome.status, discarded=settlement.discarded)
            session = self._sessions[run.new.key]
            self._end(run, settlement.outcome.status, outcome)
            self._leave(session, run, messages, discarded=settlement.discarded)
            closed = bool(messages and not settlement.discarded) or question is not None
            self._answered(session, run, closed=closed, begun=settlement.discarded)
            before = len(session.window or b"") + len(session.state or b"")
            session.window = window or session.window
            session.state = state or session.state
            self._keep_bytes(session, len(session.window or b"") + len(session.state or b"") - before)
            if question is not None:
                self._ask(session, run, question, settlement.answer_within_s, hold=hold)
            if hold:
                self._last_attempts.discard(run.sequence)
                return Take.NOTHING
            self._stop(session, run)
            return self._take_next(session) if take else Take.NOTHING

    async def release(self, token: Token, *, counted: bool, take: bool) -> Take:
        """Give a running run back to the head of its queue, its facts kept; or end the hold of one that has ended.

        `counted` False takes the attempt of a running one back. With `take`, claim the session's next run.
        """
        with self._lock:
            run = self._claimed(token)
            session = self._sessions[run.new.key]
            if run.held:
                self._end_hold(session, run)
            else:
                check_cancel(run, RunStatus.QUEUED, discarded=False)
                self._stop(session, run)
                run.status = advance(run.status, LifeMove.GIVE_BACK)
                run.attempt -= not counted
                run.lane = Lane.GIVEN_BACK
                run.queue_deadline = None
                self._enqueue(session, run)
            return self._take_next(session) if take else Take.NOTHING

    async def change(self, change: Change) -> ChangeAnswer:
        """Apply a change that somebody asked for, unless what it is about does not allow it (any more)."""
        with self._lock:
            self._check_open()
            match change:
                case Delete():
                    return self._delete(change)
                case EndWaiting():
                    return self._end_one(change)
                case Cancel():
                    return self._cancel(change)
                case CancelSession():
                    return self._cancel_session(change)
                case Move():
                    return self._move(change)
                case Pause():
                    return self._pause(change)
                case Resume():
                    return self._resume(change)
                case _:
                    assert_never(change)

    def _is_past(self, run: KeptRun, before: float) -> bool:
        """Tell whether a run had ended before that moment, and nothing rests on it: no hold, and no open question."""
        return run.ended_before(before) and not self._sessions[run.new.key].rests_on(run)

    async def prune(self, before: float, limit: int) -> int:
        """Forget up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were forgotten; fewer than `limit` means that no more are left.
        """
        with self._lock:
            self._check_open()
            # In order of sequence, so the walk ends at the first that was accepted too late to have ended before; one
            # that was accepted after now, by a clock that was wrong, keeps none that came after it.
            now = self._clock.now()
            accepted = takewhile(lambda run: not before <= run.new.created_at <= now, self._runs.values())
            old = list(islice((run for run in accepted if self._is_past(run, before)), limit))
            for run in old:
                del self._runs[run.new.run_id]
                session = self._sessions[run.new.key]
                session.forget(run)
                self._keep_bytes(session, -run.asked.stored)
            return len(old)

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session; an unknown session has the empty record."""
        with self._lock:
            self._check_open()
            return (self._sessions.get(key) or KeptSession(key)).record()

    @overload
    async def read(self, query: RunQuery) -> Run | None: ...
    @overload
    async def read(self, query: HistoryQuery) -> HistoryPage: ...
    @overload
    async def read(self, query: WaitingQuery) -> list[Waiting]: ...
    @overload
    async def read(self, query: RunsQuery) -> RunsPage: ...
    @overload
    async def read(self, query: RunsOfQuery) -> RunsPage: ...
    @overload
    async def read(self, query: SessionQuery) -> SessionView | None: ...
    @overload
    async def read(self, query: SessionsQuery) -> SessionsPage: ...
    @overload
    async def read(self, query: AllSessionsQuery) -> AllSessionsPage: ...
    @overload
    async def read(self, query: RestingQuery) -> RestingPage: ...
    @overload
    async def read(self, query: StandingQuery) -> Standing: ...
    @overload
    async def read(self, query: StoredQuery) -> Stored: ...
    async def read(self, query: Query) -> object:
        """Answer a query as of now."""
        with self._lock:
            self._check_open()
            match query:
                case RunQuery():
                    run = self._runs.get(query.run_id)
                    if run is None or run.new.key.principal != query.principal:
                        return None
                    return self._shown(run)
                case HistoryQuery():
                    return self._show_history(query)
                case WaitingQuery():
                    later = (sequence for sequence in self._waiting if sequence > query.after)
                    page = [self._waiting[sequence] for sequence in heapq.nsmallest(query.limit, later)]
                    return [run.waiting(paused=self._sessions[run.new.key].paused) for run in page]
                case RunsQuery():
                    return self._list_runs(query)
                case RunsOfQuery():
                    return self._list_runs_of(query)
                case SessionQuery():
                    return self._show_session(query)
                case SessionsQuery():
                    return self._list_sessions(query)
                case AllSessionsQuery():
                    return self._list_all_sessions(query)
                case RestingQuery():
                    return self._list_resting(query)
                case StandingQuery():
                    return (self._sessions.get(query.key) or KeptSession(query.key)).standing()
                case StoredQuery():
                    kept = self._stored_of.values()
                    return Stored(sum(kept), max(kept, default=0))
                case _:
                    assert_never(query)
