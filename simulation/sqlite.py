"""The SQLite journal without threads and files: its own group commit and its own transactions, on virtual time.

`InlineWriter` writes batches as the thread of `strandline._journal.writer` does, but each step of it takes virtual
time, and a commit may fail. What is committed is in a database in memory, which survives the processes; what is not is
rolled back when one dies.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from simulation.journals import Disk
from simulation.process import Process, alive
from strandline._clock import Clock
from strandline._journal.commits import Operation, Work, WriteResult
from strandline._journal.driver import schema_after, translated
from strandline._journal.port import Journal
from strandline._journal.reserve import Reserve
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.transactions import SqliteTransactions
from strandline._journal.writer import perform, undone
from strandline._model import Claim
from strandline.errors import JournalUnavailable

T = TypeVar("T")


class SqliteStore:
    """A database that survives; a lock sees to it that it has one process at a time."""

    shared = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=64)
        self._connection.executescript(f"BEGIN; {schema_after(0)} COMMIT;")

    def of(self, process: Process, disk: Disk) -> Journal:
        """Return the journal as a process has it."""
        return InlineJournal(self._connection, self._clock, process, disk)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


class FaultyTransactions(SqliteTransactions):
    """Transactions on a disk that may be full."""

    disk: Disk
    process: Process

    def begin(self) -> None:
        """Start a transaction, now and then in vain."""
        if self.disk.fails and self.process.chance.happens(self.disk.fails / 4):
            self._fail()
        super().begin()

    def commit(self) -> None:
        """Make the transaction durable, if the disk lets it."""
        if self.disk.full or (self.disk.fails and self.process.chance.happens(self.disk.fails)):
            self._fail()
        super().commit()

    def _fail(self) -> None:
        self.disk.faulty = True
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error


class InlineWriter:
    """A writer whose thread is a task. What it is requested after its process has died is never done."""

    def __init__(self, transactions: SqliteTransactions, process: Process, disk: Disk) -> None:
        self._transactions = transactions
        self._process = process
        self._disk = disk
        self._queue: asyncio.Queue[tuple[Work, Callable[[WriteResult], None]]] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._drive())
        process.at_death(self._task.cancel)

    async def stop(self) -> None:
        """End; nothing is queued any more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def put(self, work: Work, done: Callable[[WriteResult], None]) -> bool:
        """Queue work."""
        self._queue.put_nowait((work, done))
        return True

    async def _drive(self) -> None:
        while True:
            work, done = await self._queue.get()
            await self._pass_time()
            stored = await self._perform(work)
            await self._pass_time()
            done(stored)

    async def _perform(self, work: Work) -> WriteResult:
        """Write, then read, as `strandline._journal.writer.perform` does; time passes before the commit."""
        transactions = self._transactions
        if not work.changes:
            return perform(transactions, work)
        try:
            transactions.begin()
            transactions.write(work.changes)
            bytes_of = {principal: transactions.records.stored_bytes(principal) for principal in work.principals}
            await self._pass_time()
            transactions.commit()
        except Exception as error:
            return WriteResult(error=undone(transactions, error))
        stored = perform(transactions, Work([], 0, reads=work.reads))
        stored.bytes_of = bytes_of
        return stored

    async def _pass_time(self) -> None:
        await self._process.chance.pass_time(self._disk.slow_s)
        alive(self._process)


class InlineJournal(SqliteJournal):
    """The journal of one process."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock, process: Process, disk: Disk) -> None:
        super().__init__(Path("inline"), clock)
        self._connection = connection
        self._process = process
        self._disk = disk
        self._inline: InlineWriter | None = None
        self._waiting: set[asyncio.Future[Any]] = set()

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Fence older owners; what they had not committed is rolled back."""
        await self._pass_time()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        reserve = Reserve(Path("inline"), self._clock, 0)
        transactions = FaultyTransactions(self._connection, self._clock, reserve)
        transactions.process, transactions.disk = self._process, self._disk
        try:
            table, self._epoch, claims = transactions.take_over(max_attempts=max_attempts)
        except sqlite3.Error as error:
            raise translated(error) from error
        self._transactions = transactions
        self._inline = InlineWriter(transactions, self._process, self._disk)
        self._begin(table, self._inline)
        self._process.at_death(self._die)
        return claims

    async def close(self) -> None:
        """Make everything queued durable, and close."""
        alive(self._process)
        if self._commits is not None and self._inline is not None:
            await asyncio.shield(asyncio.ensure_future(self._commits.close()))
            await self._inline.stop()
            self._feed.end()

    def _die(self) -> None:
        """End with the process, and with it all that wait for an operation."""
        if self._commits is not None and (redo := self._commits.redo) is not None:
            redo.cancel()
        for waiting in self._waiting:
            waiting.cancel()

    def _submit(self, operation: Operation) -> None:
        alive(self._process)
        if (future := operation.future) is not None:
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
        super()._submit(operation)

    async def _transact(self, call: Callable[[SqliteTransactions], T]) -> T:
        """Write rows of its own, when nothing else is written."""
        await self._pass_time()
        assert self._transactions is not None
        await self._until_committed()
        try:
            self._transactions.begin()
            answer = call(self._transactions)
            self._transactions.commit()
        except Exception as error:
            raise undone(self._transactions, error) from error
        return answer

    async def _answered(self, question: Callable[[sqlite3.Connection], T]) -> T:
        alive(self._process)
        if self._commits is None:
            raise JournalUnavailable("the journal is not open")
        await self._pass_time()
        await self._until_committed()
        self._disk.read(self._process.chance)
        return question(self._connection)

    async def _until_committed(self) -> None:
        # What is not committed cannot be seen through another connection; here there is but one.
        while self._connection.in_transaction:  # noqa: ASYNC110 - as one that waits for a lock does
            await asyncio.sleep(0.0001)
        alive(self._process)

    async def _pass_time(self) -> None:
        alive(self._process)
        await self._process.chance.pass_time(self._disk.slow_s)
        alive(self._process)
