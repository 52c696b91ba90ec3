"""The journal in memory: the reference for what the port means, for tests and for people who want no file.

It keeps every invariant of the port, but nothing survives the process. `open` on the same object models a restart:
it fences everything that executes. Each verb is one step under one lock and never waits, so verbs may be awaited from
any event loop, also from one with virtual time and without threads.

What goes in is kept encoded, what comes out is decoded anew: no caller shares a mutable object with the journal.
"""

import heapq
import threading
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, assert_never, overload

from strandline.clock import Clock
from strandline.encoding import decoder, encode_messages
from strandline.errors import ClaimLost, InvariantBroken, JournalUnavailable
from strandline.journal.feed import ClaimFeed
from strandline.journal.port import (
    Accepted,
    Bounds,
    Busy,
    Changed,
    Delete,
    HistoryPage,
    HistoryQuery,
    Refused,
    RunQuery,
    Take,
    Waiting,
    WaitingQuery,
)
from strandline.journal.rules import Rank, check_end, first_fence, is_last, rank, spans
from strandline.lifecycle import Move, advance
from strandline.model import (
    WHOLE_HISTORY,
    AgentRecord,
    Claim,
    Fact,
    Inline,
    Input,
    Lane,
    Message,
    NewRun,
    Outcome,
    Run,
    RunId,
    RunStatus,
    SessionKey,
    Settlement,
    StateRecord,
    Token,
    Window,
)

_request: Final = decoder(tuple[Input, dict[str, Any]])
_fact: Final[Callable[[bytes], Fact]] = decoder(Fact)
_message: Final = decoder(Message)
_outcome: Final = decoder(Outcome)
_state: Final = decoder(StateRecord)
_window: Final = decoder(Window)


class MemoryJournal:
    """Everything in dictionaries. An object that was closed can be opened again and still has its runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._feed = ClaimFeed()
        self._open = False
        self._max_attempts = 1
        self._epoch = 0
        self._fence = 0
        self._sequence = 0
        self._sessions: dict[SessionKey, _Session] = {}
        self._runs: dict[RunId, _Run] = {}
        self._waiting: dict[int, _Run] = {}
        self._last_attempts: set[int] = set()

    # -- ownership ------------------------------------------------------------------------------------

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Fence every older owner; return what was executing, in order of sequence, with fresh tokens."""
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
            return [self._claim(run) for run in claimed]

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim made since `open`, once; ends when the journal is closed."""
        return self._feed.follow()

    async def close(self) -> None:
        """End `claims()`, after the claims that are already there. Idempotent."""
        with self._lock:
            self._open = False
            self._feed.end()

    # -- runs -----------------------------------------------------------------------------------------

    async def accept(self, new: NewRun, bounds: Bounds, *, take: bool) -> Accepted | Refused:
        """Keep a run, or refuse it over `bounds`. With `take`, claim it if its session is free and it is first."""
        request = encode_messages((new.input, new.metadata))
        with self._lock:
            self._check_open()
            if new.run_id in self._runs:
                raise InvariantBroken(f"run id {new.run_id} is taken")
            session = self._sessions.get(new.key) or _Session()
            ahead = session.line.ahead(rank(new.lane, new.priority, self._sequence))
            at_once = take and session.claimed is None and ahead == 0
            if not at_once:
                if len(session.line) >= bounds.per_session:
                    return Refused("queue_full", ahead + 1)
                if len(self._waiting) >= bounds.total:
                    return Refused("server_full", ahead + 1)
            run = _Run(new, request, self._sequence)
            self._sequence += 1
            self._sessions[new.key] = session
            self._runs[new.run_id] = run
            session.runs.append(new.run_id)
            if at_once:
                self._start(session, run)
                return Accepted(0)
            self._enqueue(session, run)
            return Accepted(ahead + 1)

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
            self._claimed(token).facts.append(encoded)

    async def settle(self, token: Token, settlement: Settlement, *, take: bool) -> Take:
        """End a run: outcome, messages, window and state in one step. With `take`, claim the session's next run."""
        check_end(settlement.outcome.status)
        outcome = encode_messages(settlement.outcome)
        messages = [encode_messages(message) for message in settlement.messages]
        window = None if settlement.window is None else encode_messages(settlement.window)
        state = None if settlement.state is None else encode_messages(settlement.state)
        with self._lock:
            run = self._claimed(token)
            session = self._sessions[run.new.key]
            self._stop(session, run)
            run.status = settlement.outcome.status
            run.outcome = outcome
            run.ended_at = self._clock.now()
            run.facts = []
            session.history += messages
            session.window = window or session.window
            session.state = state or session.state
            return self._take_next(session) if take else Take.NOTHING

    async def release(self, token: Token, *, counted: bool, take: bool) -> Take:
        """Give a run back to the head of its queue, its facts kept; `counted` False takes its attempt back."""
        with self._lock:
            run = self._claimed(token)
            session = self._sessions[run.new.key]
            self._stop(session, run)
            run.status = advance(run.status, Move.GIVE_BACK)
            run.attempt -= not counted
            run.lane = Lane.GIVEN_BACK
            self._enqueue(session, run)
            return self._take_next(session) if take else Take.NOTHING

    async def change(self, change: Delete) -> Changed | Busy:
        """Forget a session with its history, state and ended runs, unless a run of it waits or executes."""
        with self._lock:
            self._check_open()
            session = self._sessions.get(change.key)
            if session is None:
                return Changed(existed=False)
            if session.claimed is not None or len(session.line):
                return Busy()
            del self._sessions[change.key]
            for run_id in session.runs:
                del self._runs[run_id]
            return Changed(existed=True)

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session; an unknown session has the empty record."""
        with self._lock:
            self._check_open()
            session = self._sessions.get(key) or _Session()
            window = WHOLE_HISTORY if session.window is None else _window(session.window)
            messages: list[Message] = []
            origins: list[int | None] = []
            for span in spans(window, len(session.history)):
                if isinstance(span, Inline):
                    messages.append(span.message)
                    origins.append(None)
                else:
                    messages += map(_message, session.history[slice(*span)])
                    origins += range(*span)
            return AgentRecord(
                messages=messages,
                origins=origins,
                window=window,
                length=len(session.history),
                state=None if session.state is None else _state(session.state),
            )

    @overload
    async def read(self, query: RunQuery) -> Run | None: ...
    @overload
    async def read(self, query: HistoryQuery) -> HistoryPage: ...
    @overload
    async def read(self, query: WaitingQuery) -> list[Waiting]: ...
    async def read(self, query: RunQuery | HistoryQuery | WaitingQuery) -> Run | HistoryPage | list[Waiting] | None:
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
                    session = self._sessions.get(query.key) or _Session()
                    end = len(session.history) if query.before is None else min(query.before, len(session.history))
                    first = max(0, end - query.limit)
                    return HistoryPage([_message(each) for each in session.history[first:end]], first)
                case WaitingQuery():
                    later = (sequence for sequence in self._waiting if sequence > query.after)
                    page = [self._waiting[sequence] for sequence in heapq.nsmallest(query.limit, later)]
                    return [Waiting(run.new.run_id, run.new.key, run.sequence, run.new.created_at) for run in page]
                case _:
                    assert_never(query)

    # -- within one step; the lock is held ------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._open:
            raise JournalUnavailable("the journal is not open")

    def _claimed(self, token: Token) -> "_Run":
        """Return the run that `token` is for. Raises `ClaimLost` if the token is stale."""
        self._check_open()
        run = self._runs.get(token.run_id)
        if run is None or run.fence != token.fence:
            raise ClaimLost(f"the claim on run {token.run_id} is lost")
        return run

    def _enqueue(self, session: "_Session", run: "_Run") -> None:
        session.line.add(run)
        self._waiting[run.sequence] = run

    def _take_next(self, session: "_Session") -> Take:
        if session.claimed is not None or not len(session.line):
            return Take.NOTHING
        head = session.line.head()
        if self._last_attempts and is_last(head.attempt + 1, self._max_attempts):
            return Take.BLOCKED
        session.line.drop_head()
        del self._waiting[head.sequence]
        self._start(session, head)
        return Take.TAKEN

    def _start(self, session: "_Session", run: "_Run") -> None:
        session.claimed = run
        run.status = advance(run.status, Move.TAKE)
        run.attempt += 1
        if run.started_at is None:
            run.started_at = self._clock.now()
        if is_last(run.attempt, self._max_attempts):
            self._last_attempts.add(run.sequence)
        self._feed.put([self._claim(run)])

    def _claim(self, run: "_Run") -> Claim:
        self._fence += 1
        run.fence = self._fence
        return Claim(
            token=Token(run.new.run_id, run.fence), run=self._shown(run), facts=tuple(_fact(each) for each in run.facts)
        )

    def _stop(self, session: "_Session", run: "_Run") -> None:
        session.claimed = None
        run.fence = None
        self._last_attempts.discard(run.sequence)

    def _shown(self, run: "_Run") -> Run:
        position = None
        if run.status is RunStatus.QUEUED:
            position = self._sessions[run.new.key].line.ahead(run.rank()) + 1
        prompt, metadata = _request(run.request)
        return Run(
            run_id=run.new.run_id,
            key=run.new.key,
            input=prompt,
            lane=run.lane,
            priority=run.new.priority,
            opaque=run.new.opaque,
            metadata=metadata,
            sequence=run.sequence,
            status=run.status,
            attempt=run.attempt,
            created_at=run.new.created_at,
            started_at=run.started_at,
            ended_at=run.ended_at,
            position=position,
            outcome=None if run.outcome is None else _outcome(run.outcome),
        )


class _Run:
    """A run as it stands; `fence` is None unless it is claimed."""

    __slots__ = (
        "attempt",
        "ended_at",
        "facts",
        "fence",
        "lane",
        "new",
        "outcome",
        "request",
        "sequence",
        "started_at",
        "status",
    )

    def __init__(self, new: NewRun, request: bytes, sequence: int) -> None:
        self.new = new
        self.request = request
        self.sequence = sequence
        self.lane = new.lane
        self.status = RunStatus.QUEUED
        self.attempt = 0
        self.fence: int | None = None
        self.facts: list[bytes] = []
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.outcome: bytes | None = None

    def rank(self) -> Rank:
        return rank(self.lane, self.new.priority, self.sequence)


class _Session:
    """One conversation: its queue, the run that executes, its history, the ids of all its runs."""

    __slots__ = ("claimed", "history", "line", "runs", "state", "window")

    def __init__(self) -> None:
        self.line = _Line()
        self.claimed: _Run | None = None
        self.history: list[bytes] = []
        self.window: bytes | None = None
        self.state: bytes | None = None
        self.runs: list[RunId] = []


class _Line:
    """The waiting runs of one session, sorted. Runs leave at the head only, nearly all join at the end."""

    __slots__ = ("_gone", "_ranks", "_runs")

    def __init__(self) -> None:
        self._ranks: list[Rank] = []
        self._gone = 0
        """How many ranks at the start of the list have left; dropped when they are half of it."""
        self._runs: dict[Rank, _Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def ahead(self, place: Rank) -> int:
        """Return how many runs stand before `place`."""
        return bisect_left(self._ranks, place, lo=self._gone) - self._gone

    def head(self) -> _Run:
        return self._runs[self._ranks[self._gone]]

    def add(self, run: _Run) -> None:
        place = run.rank()
        self._runs[place] = run
        insort(self._ranks, place, lo=self._gone)

    def drop_head(self) -> None:
        del self._runs[self._ranks[self._gone]]
        self._gone += 1
        if 2 * self._gone > len(self._ranks):
            del self._ranks[: self._gone]
            self._gone = 0
