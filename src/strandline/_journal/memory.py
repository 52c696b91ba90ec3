"""The journal in memory: the session table over an in-memory database.

For tests, and for servers without a file: nothing survives the process. `open` on the same object models a restart: the
table is rebuilt from the stored rows, and everything that executes is fenced. Each operation is one step under one lock
and never waits, so operations may be awaited from any event loop, even one on virtual time without threads.

Since no other process reads the database, it stays in one transaction, and SQLite keeps no rollback journal. What would
fail an operation is found before its first row is written. If one fails in the middle all the same, the journal is
unusable from then on.
"""

import threading
import weakref
from collections.abc import AsyncIterator
from typing import TypeVar

from strandline._clock import Clock
from strandline._journal import lists, reader
from strandline._journal.changes import AddRun
from strandline._journal.deletion import prune
from strandline._journal.driver import connect_in_memory, secret_of, translated
from strandline._journal.errors import RunIdTaken
from strandline._journal.feed import ClaimFeed
from strandline._journal.live import NO_SESSIONS
from strandline._journal.numbers import Counted
from strandline._journal.operations import Decide, Operations
from strandline._journal.port import A, Query, Sessions
from strandline._journal.sqlite_rows import SqliteRows
from strandline._journal.table import Batch, SessionTable
from strandline._model import AgentRecord, Claim, FencingToken, RunId, SessionKey
from strandline.errors import JournalUnavailable, StrandlineError

T = TypeVar("T")


class MemoryJournal(Operations):
    """A closed object can be opened again and still has its runs."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._feed = ClaimFeed()
        self._connection = connect_in_memory()
        self._rows = SqliteRows(self._connection)
        self._table: SessionTable | None = None
        self._is_open = False
        self._epoch = 0
        self._secret = b""
        self._trouble: str | None = None
        weakref.finalize(self, self._connection.close)

    # -- ownership ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """How often the journal was opened."""
        return self._epoch

    @property
    def secret(self) -> bytes:
        """What signs here; it ends with the object."""
        return self._secret

    @property
    def trouble(self) -> str | None:
        """Why the journal is unusable; None: it works."""
        return self._trouble

    @property
    def is_silent(self) -> bool:
        """It is in this process."""
        return False

    @property
    def low_disk(self) -> str | None:
        """None: there is no disk."""
        return None

    @property
    def sessions(self) -> Sessions:
        """What waits and executes."""
        return self._table or NO_SESSIONS

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """End all holds, fence every older owner; return what was executing, in order of sequence, with new tokens."""
        with self._lock:
            if self._epoch:
                self._feed.end()
                self._feed = ClaimFeed()
            self._is_open = True
            self._epoch += 1
            self._secret = secret_of(self._connection)
            no, seq, row = self._rows.next_numbers()
            self._table = SessionTable.of(self._rows, max_attempts=max_attempts, numbers=Counted(no, seq, row))
            return self._decided(lambda table, now: table.take_over({0: self._epoch}, now))

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim made since `open`, once; ends when the journal is closed."""
        return self._feed.follow()

    async def close(self) -> None:
        """End `claims()`, after the claims that are already there. Idempotent."""
        with self._lock:
            self._is_open = False
            self._feed.end()

    def _check_usable(self) -> None:
        if not self._is_open:
            raise JournalUnavailable("the journal is not open")
        if self._trouble is not None:
            raise JournalUnavailable(self._trouble)

    # -- operations -----------------------------------------------------------------------------------

    async def _operate(
        self,
        decide: Decide[T],
        *,
        key: SessionKey | None = None,
        run_id: RunId | None = None,
        token: FencingToken | None = None,
        new: bool = False,
    ) -> T:
        with self._lock:
            return self._decided(decide)

    def _operate_later(self, decide: Decide[None], token: FencingToken, checkpoint: bytes) -> None:
        with self._lock:
            self._decided(decide)

    def _decided(self, decide: Decide[T]) -> T:
        """Have the table decide, write its rows, and deliver its claims."""
        self._check_usable()
        table = self._table
        assert table is not None
        try:
            answer = decide(table, self._clock.now())
        except BaseException as error:
            self._undo()
            if isinstance(error, Exception) and not isinstance(error, StrandlineError):
                raise translated(error) from error
            raise
        batch = table.drain()
        self._write(batch)
        table.durable(batch, {})
        if batch.claims:
            self._feed.put(batch.claims)
        return answer

    def _write(self, batch: Batch) -> None:
        changes = batch.changes
        is_one_run = len(changes) == 1 and isinstance(changes[0], AddRun)
        if not is_one_run:  # (else the one statement refuses it)
            self._check_run_ids(batch)
        try:
            self._rows.write(changes)
        except Exception as error:
            if is_one_run:
                self._undo(batch)
            else:
                self._trouble = f"something was kept in part ({error}), which cannot be undone: restart the server"
            raise translated(error) from error

    def _check_run_ids(self, batch: Batch) -> None:
        for row in batch.changes:
            if isinstance(row, AddRun) and self._rows.locate_run(row.new.run_id) is not None:
                self._undo(batch)
                raise RunIdTaken(row.new.run_id)

    def _undo(self, *batches: Batch) -> None:
        """Reset the sessions with decisions that are not written."""
        assert self._table is not None
        stale = self._table.undo(batches)
        self._table.put_back({key: self._rows.session(key) for key in stale})

    async def prune(self, before: float, limit: int) -> int:
        """Delete up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were deleted; fewer than `limit` means that none are left.
        """
        forgotten = 0
        after: int | None = -1
        while after is not None and forgotten < limit:
            with self._lock:
                self._check_usable()
                count, after = prune(self._connection, before, limit - forgotten, after, self._clock.now())
            forgotten += count
        return forgotten

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session; an unknown session has the empty record."""
        with self._lock:
            self._check_usable()
            return reader.load(self._connection, key)

    async def read(self, query: Query[A]) -> A:
        """Answer a query as of now."""
        with self._lock:
            self._check_usable()
            return lists.answer(self._connection, query)
