"""The journal in one SQLite file, the default.

This module joins the others into the port: `ownership` (who owns the file), `driver` (opening it), `batched`
(operations are decided on the caller's loop and stored in batches), `writer` and `transactions` (one thread, one
transaction per batch), `reader` (queries).
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from strandline._clock import Clock
from strandline._journal import lists, reader
from strandline._journal.batched import BatchedJournal
from strandline._journal.commits import NOT_OPEN
from strandline._journal.database import Database
from strandline._journal.driver import (
    begin_wal_anew,
    connect,
    connect_reader,
    create,
    free_bytes,
    tighten,
    translated,
    unreadable,
)
from strandline._journal.feed import ClaimFeed
from strandline._journal.integrity import guard
from strandline._journal.migrations import migrate
from strandline._journal.ownership import (
    MOUNTINFO,
    Ownership,
    check_openable,
    is_held,
    locate,
    prepare_folder,
)
from strandline._journal.port import A, Query
from strandline._journal.reader import OPENS_ALL, Readers
from strandline._journal.reserve import Reserve, Statvfs
from strandline._journal.table import SessionTable
from strandline._journal.transactions import SqliteTransactions
from strandline._journal.watched import Watch, WatchedTransactions
from strandline._journal.writer import OnCommit, Writer
from strandline._model import AgentRecord, Claim, SessionKey
from strandline.errors import JournalUnavailable

T = TypeVar("T")


class SqliteJournal(BatchedJournal[SqliteTransactions]):
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
        super().__init__(clock)
        self._path = path
        self._lock_wait_s = lock_wait_s
        self._on_wait = on_wait
        self._mountinfo = mountinfo
        self._on_commit = on_commit
        self._disk_reserve = disk_reserve
        self._statvfs = statvfs
        self._reserve: Reserve | None = None
        self._readers: Readers | None = None
        self._watch: Watch | None = None

    # -- ownership ------------------------------------------------------------------------------------

    @property
    def secret(self) -> bytes:
        """What signs here, kept in the file."""
        return b"" if self._transactions is None else self._transactions.secret

    @property
    def low_disk(self) -> str | None:
        """Why the disk is too full for new runs although accepted ones continue; None: it is not."""
        return None if self._reserve is None else self._reserve.short

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
        readers = Readers(partial(connect_reader, path), sqlite3.Error, warm_up=OPENS_ALL)
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
        await self._start(writer)
        self._readers = readers
        (table, self._epoch, claims) = taken[0]
        self._begin(table, writer)
        return claims

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session, including everything that a delivered claim rests on."""
        return await self._answered(partial(reader.load, key=key))

    async def read(self, query: Query[A]) -> A:
        """Answer a query off the caller's loop, including everything that a delivered claim rests on."""
        return await self._answered(partial(lists.answer, query=query))

    async def _answered(self, question: Callable[[Database], T]) -> T:
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
