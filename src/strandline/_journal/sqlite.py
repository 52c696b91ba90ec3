"""The journal in one SQLite file, the default.

This module joins the others into the port: `ownership` (who owns the file), `driver` (opening it), `operations` (the
session table decides), `commits` (on the caller's loop, in batches), `writer` and `transactions` (one thread, one
transaction per batch), `reader` (queries).
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from strandline._clock import Clock
from strandline._journal import lists, reader
from strandline._journal.commits import NOT_OPEN, GroupCommit, Operation, Storage
from strandline._journal.driver import (
    begin_wal_anew,
    connect,
    create,
    free_bytes,
    tighten,
    translated,
    unreadable,
)
from strandline._journal.feed import ClaimFeed, resolve
from strandline._journal.integrity import guard
from strandline._journal.live import NO_SESSIONS
from strandline._journal.migrations import migrate
from strandline._journal.operations import Decide, Operations
from strandline._journal.ownership import (
    MOUNTINFO,
    Ownership,
    check_openable,
    is_held,
    locate,
    prepare_folder,
)
from strandline._journal.port import A, Query, Sessions
from strandline._journal.reader import Readers
from strandline._journal.reserve import Reserve, Statvfs
from strandline._journal.table import SessionTable
from strandline._journal.transactions import SqliteTransactions
from strandline._journal.watched import Watch, WatchedTransactions
from strandline._journal.writer import OnCommit, Writer
from strandline._model import AgentRecord, Claim, FencingToken, RunId, SessionKey
from strandline.errors import JournalUnavailable

T = TypeVar("T")

LEAVE_S: Final = 5.0
"""How long a cancelled `open` waits for its thread to release the lock."""


class SqliteJournal(Operations):
    """A journal in the file `path`, or in the one that it links to; creates the folder if there is none.

    `lock_wait_s` is how long `open` waits for another owner; if it has to, it calls `on_wait` once with a sentence that
    names the owner. `on_commit` is called after each commit. `disk_reserve` is how many bytes of the disk are reserved
    for accepted runs: None is a share of it, 0 none. `statvfs` measures the disk.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        lock_wait_s: float = 60.0,
        on_wait: Callable[[str], None] | None = None,
        mountinfo: Path = MOUNTINFO,
        on_commit: OnCommit | None = None,
        disk_reserve: int | None = 0,
        statvfs: Statvfs = os.statvfs,
    ) -> None:
        super().__init__()
        self._path = path
        self._clock = clock
        self._lock_wait_s = lock_wait_s
        self._on_wait = on_wait
        self._mountinfo = mountinfo
        self._on_commit = on_commit
        self._disk_reserve = disk_reserve
        self._statvfs = statvfs
        self._reserve: Reserve | None = None
        self._feed = ClaimFeed()
        self._writer: Writer | None = None
        self._commits: GroupCommit | None = None
        self._transactions: SqliteTransactions | None = None
        self._epoch = 0
        self._readers: Readers | None = None
        self._watch: Watch | None = None

    # -- ownership ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """How many owners the file has had, including this one; 0 before it was opened."""
        return self._epoch

    @property
    def trouble(self) -> str | None:
        """Why nothing can be stored at the moment; None: it can, as far as is known."""
        return None if self._writer is None else self._writer.trouble

    @property
    def low_disk(self) -> str | None:
        """Why the disk is too full for new runs although accepted ones continue; None: it is not."""
        return None if self._reserve is None else self._reserve.short

    @property
    def sessions(self) -> Sessions:
        """What waits and executes."""
        return NO_SESSIONS if self._commits is None else self._commits.table

    @property
    def file(self) -> Path:
        """The journal's file, with symbolic links followed."""
        return self._path

    async def grant_room(self, size: int) -> bool:
        """Return whether another part of the server may write `size` bytes to the disk; False if they would use the
        reserve."""
        commits, reserve = self._open_commits(), self._reserve
        assert reserve is not None
        if reserve.is_due:
            await commits.read(lambda records: records.look_for_room())
        return reserve.grant(size)

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Wait for the lock, fence every older owner, end all holds; return what was executing, in order of sequence.

        Migrates a file of an older version, after copying it. Raises a `JournalError` that says what to do; the file is
        unchanged then. Closes an open object first. A cancelled `open` leaves nothing behind; it waits up to `LEAVE_S`
        for a migration that has begun.
        """
        if self._writer is not None:
            await self.close()
            self._feed = ClaimFeed()
        path = locate(self._path)
        prepare_folder(path, self._mountinfo)
        if not is_held(path):  # (else it is a journal, and may be open in this process)
            check_openable(path, self._mountinfo)
        ownership = Ownership(path, self._clock)
        await ownership.acquire(owner, wait_s=self._lock_wait_s, on_wait=self._on_wait)
        readers = Readers(path)
        connections: list[sqlite3.Connection] = []
        closing: list[SqliteTransactions] = []
        taken: list[tuple[SessionTable, int, list[Claim]]] = []

        def prepare() -> SqliteTransactions:
            if not check_openable(path, self._mountinfo):
                create(path)
            ownership.hold_file()
            tighten(path)
            try:
                guarding = guard(path)
                connections.append(guarding)
                connections.insert(0, connect(path))
                migrate(connections[0], path, self._clock.now(), guarding)
                spare = partial(free_bytes, connections[0])
                reserve = Reserve(path.parent, self._clock, self._disk_reserve, spare=spare, statvfs=self._statvfs)
                transactions = WatchedTransactions(connections[0], self._clock, path, reserve, ownership.leave_files)
                closing.append(transactions)
                taken.append(transactions.take_over(max_attempts=max_attempts))
                guarding.close()
                begin_wal_anew(connections[0])
                watch = transactions.watch()
                readers.check = watch.check
                readers.open()
            except Exception as error:
                raise unreadable(path, error) from error
            self._transactions = transactions
            self._reserve = reserve
            self._watch = watch
            return transactions

        def clean_up() -> None:
            readers.close()
            for transactions in closing:
                transactions.close()
            for connection in connections:
                connection.close()
            ownership.release()

        writer = Writer(prepare, clean_up, name="strandline-journal", on_commit=self._on_commit)
        writer.start()
        try:
            await asyncio.shield(asyncio.wrap_future(writer.prepared))
        except BaseException:
            writer.stop()
            if not writer.finished.done():
                await asyncio.wait([asyncio.wrap_future(writer.finished)], timeout=LEAVE_S)
            if writer.finished.done():
                writer.join()
            raise
        self._readers = readers
        self._writer = writer
        (table, self._epoch, claims) = taken[0]
        self._begin(table, writer)
        return claims

    def _begin(self, table: SessionTable, storage: Storage) -> None:
        """Decide operations from here on."""
        self._commits = GroupCommit(table, storage, self._feed, self._clock, self._deferred)

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim made since `open`, once; ends when the journal is closed."""
        return self._feed.follow()

    async def close(self) -> None:
        """Make everything queued durable, end threads and connections, release the lock, end `claims()`. Idempotent."""
        writer, commits = self._writer, self._commits
        if writer is None or commits is None:
            return
        await commits.close()
        writer.stop()
        await asyncio.shield(asyncio.wrap_future(writer.finished))
        writer.join()
        self._feed.end()

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
        loop = asyncio.get_running_loop()
        operation = Operation(decide, key=key, run_id=run_id, token=token, loop=loop, new=new)
        self._submit(operation)
        assert operation.future is not None
        answer: T = await operation.future
        return answer

    def _operate_later(self, decide: Decide[None], token: FencingToken, checkpoint: bytes) -> None:
        self._submit(Operation(decide, token=token, checkpoint=checkpoint))

    def _submit(self, operation: Operation) -> None:
        self._open_commits().submit(operation)

    def _open_commits(self) -> GroupCommit:
        if self._commits is None or self._commits.is_closed:
            raise JournalUnavailable(NOT_OPEN)
        return self._commits

    async def prune(self, before: float, limit: int) -> int:
        """Delete up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were deleted; fewer than `limit` means that none are left. A
        long walk takes several transactions, so that other operations have their turn.
        """
        forgotten = 0
        after: int | None = -1
        try:
            while after is not None and forgotten < limit:
                step = partial(SqliteTransactions.prune, before=before, limit=limit - forgotten, after=after)
                count, after = await self._transact(step)
                forgotten += count
        finally:  # (steps before the failed one have freed space)
            if self._commits is not None:
                self._commits.table.forget_stored()
        return forgotten

    async def _transact(self, call: Callable[[SqliteTransactions], T]) -> T:
        """Return the result of a call that writes rows without the session table."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()

        def done(answer: Any) -> None:
            with suppress(RuntimeError):  # that loop is closed: nobody waits there
                loop.call_soon_threadsafe(resolve, answered, answer)

        if (
            self._writer is None
            or self._transactions is None
            or not self._writer.transact(partial(call, self._transactions), done)
        ):
            raise JournalUnavailable(NOT_OPEN)
        return await answered

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session, including everything that a delivered claim rests on."""
        return await self._answered(partial(reader.load, key=key))

    async def read(self, query: Query[A]) -> A:
        """Answer a query off the caller's loop, including everything that a delivered claim rests on."""
        return await self._answered(partial(lists.answer, query=query))

    async def _answered(self, question: Callable[[sqlite3.Connection], T]) -> T:
        readers = self._readers
        if readers is None:
            raise JournalUnavailable(NOT_OPEN)
        if self._watch is not None and self._watch.gone is not None:
            self._watch.check()  # a new connection would read another file, or none
        try:
            return await asyncio.wrap_future(readers.ask(question))
        except sqlite3.Error as error:
            if self._watch is not None:
                self._watch.check()  # (a truncated file has no tables)
            raise translated(error) from error
