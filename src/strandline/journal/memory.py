"""The journal in memory: the reference for what the port means, for tests and for people who want no file.

The session table decides, and what it writes is kept in dictionaries. Nothing survives the process. `open` on the same
object models a restart: the table is made anew from what is kept, and everything that executes is fenced. Each verb is
one step under one lock and never waits, so verbs may be awaited from any event loop, also from one with virtual time
and without threads.

What goes in is kept encoded, what comes out is decoded anew: no caller shares a mutable object with the journal.
"""

import heapq
import threading
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from strandline.clock import Clock
from strandline.errors import InvariantBroken, JournalUnavailable
from strandline.journal.feed import ClaimFeed
from strandline.journal.memory_lists import MemoryLists
from strandline.journal.memory_store import MemoryStore
from strandline.journal.operations import Decide, Operations
from strandline.journal.port import (
    A,
    HistoryQuery,
    Query,
    RestingQuery,
    RunQuery,
    RunsOfQuery,
    RunsQuery,
    SessionQuery,
    SessionsQuery,
    Standing,
    StandingQuery,
    Stored,
    StoredQuery,
    WaitingQuery,
)
from strandline.journal.table import SessionTable
from strandline.model import WHOLE_HISTORY, AgentRecord, Claim, RunId, SessionKey, Token

T = TypeVar("T")


class MemoryJournal(Operations):
    """Everything in dictionaries. An object that was closed can be opened again and still has its runs."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._feed = ClaimFeed()
        self._store = MemoryStore()
        self._table = self._restored(max_attempts=1)
        self._lists = MemoryLists(self._store, lambda run_id: self._table.position(run_id))
        self._is_open = False
        self._epoch = 0

    def _restored(self, *, max_attempts: int) -> SessionTable:
        store = self._store
        return SessionTable.of(
            store, max_attempts=max_attempts, next_no=store.next_no, next_seq=store.next_seq, next_row=store.next_row
        )

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
            self._is_open = True
            self._epoch += 1
            self._table = self._restored(max_attempts=max_attempts)
            claims = self._table.take_over(self._epoch, self._clock.now())
            self._keep()
            return claims

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim made since `open`, once; ends when the journal is closed."""
        return self._feed.follow()

    async def close(self) -> None:
        """End `claims()`, after the claims that are already there. Idempotent."""
        with self._lock:
            self._is_open = False
            self._feed.end()

    def _check_open(self) -> None:
        if not self._is_open:
            raise JournalUnavailable("the journal is not open")

    # -- operations -----------------------------------------------------------------------------------

    async def _operate(
        self,
        decide: Decide[T],
        *,
        key: SessionKey | None = None,
        run_id: RunId | None = None,
        token: Token | None = None,
        new: bool = False,
    ) -> T:
        return self._decided(decide)

    def _operate_later(self, decide: Decide[None], token: Token, fact: bytes) -> None:
        self._decided(decide)

    def _decided(self, decide: Decide[T]) -> T:
        """Have the table decide, write what it has decided, and deliver the claims that it has made."""
        with self._lock:
            self._check_open()
            answer = decide(self._table, self._clock.now())
            self._keep()
            return answer

    def _keep(self) -> None:
        batch = self._table.drain()
        self._store.write(batch.changes)
        self._table.durable(batch, {})
        if batch.claims:
            self._feed.put(batch.claims)

    async def prune(self, before: float, limit: int) -> int:
        """Forget up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were forgotten; fewer than `limit` means that no more are left.
        """
        with self._lock:
            self._check_open()
            return self._store.prune(before, limit, self._clock.now())

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session; an unknown session has the empty record."""
        with self._lock:
            self._check_open()
            session = self._store.sessions.get(key)
            if session is None:
                return AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
            return session.record()

    async def read(self, query: Query[A]) -> A:
        """Answer a query as of now."""
        with self._lock:
            self._check_open()
            answered: A = self._answer(query)
            return answered

    def _answer(self, query: Query[Any]) -> Any:
        match query:
            case RunQuery():
                run = self._store.runs.get(query.run_id)
                if run is None or run.session.key.principal != query.principal:
                    return None
                return run.shown(self._table.position(query.run_id))
            case HistoryQuery():
                return self._lists.history(query)
            case WaitingQuery():
                waiting, sessions = self._store.waiting, self._store.sessions
                later = (sequence for sequence in waiting if sequence > query.after)
                page = [waiting[sequence] for sequence in heapq.nsmallest(query.limit, later)]
                return [run.waiting(paused=sessions[run.session.key].paused) for run in page]
            case RunsQuery():
                return self._lists.runs(query)
            case RunsOfQuery():
                return self._lists.runs_of(query)
            case SessionQuery():
                return self._lists.session(query)
            case SessionsQuery():
                return self._lists.sessions(query)
            case RestingQuery():
                return self._lists.resting(query, self._clock.now())
            case StandingQuery():
                session = self._store.sessions.get(query.key)
                return Standing(WHOLE_HISTORY, None) if session is None else session.standing()
            case StoredQuery():
                kept = self._store.bytes_of.values()
                return Stored(sum(kept), max(kept, default=0))
            case _:
                raise InvariantBroken(f"nothing answers a {type(query).__name__}")
