"""The SQLite journal without threads and files: its own transactions and its own group commit, driven on virtual time.

`InlineWriter` gathers, runs and commits batches as the thread of `strandline.journal.writer` does, with the same code,
but each step of it takes virtual time, and a commit may fail. What is
committed is in a database in memory, which survives the processes; what is not is rolled back when one dies.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from simulation.journals import Disk
from simulation.process import Process, alive
from strandline.clock import Clock
from strandline.errors import JournalUnavailable
from strandline.journal.driver import schema_after, translated
from strandline.journal.feed import ClaimFeed
from strandline.journal.port import Journal
from strandline.journal.reserve import Reserve
from strandline.journal.sqlite import SqliteJournal
from strandline.journal.transactions import Transactions
from strandline.journal.writer import Job, Writer
from strandline.model import Claim

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


class FaultyTransactions(Transactions):
    """A transactions on a disk that may be full."""

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


class InlineWriter(Writer):
    """A writer whose thread is a task."""

    def __init__(self, transactions: Transactions, feed: ClaimFeed, process: Process, disk: Disk) -> None:
        super().__init__(lambda: transactions, lambda: None, feed, name="inline")
        self._transactions = transactions
        self._process = process
        self._disk = disk
        self._woken: asyncio.Future[None] | None = None
        self._under_way: list[Job] = []
        self.ended = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Start the task."""
        task = asyncio.get_running_loop().create_task(self._drive())
        self._process.at_death(lambda: self._die(task))

    def put(self, job: Job) -> bool:
        """Queue a job."""
        queued = super().put(job)
        self._wake()
        return queued

    def stop(self) -> None:
        """End after what is queued."""
        super().stop()
        self._wake()

    def _die(self, task: "asyncio.Task[None]") -> None:
        """End with the process, and with it whoever waits for a verb."""
        task.cancel()
        if not self.ended.done():
            self.ended.set_result(None)
        while not self._queue.empty():
            if (job := self._queue.get()) is not None:
                self._under_way.append(job)
        for job in self._under_way:
            if job.future is not None:
                job.future.cancel()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _drive(self) -> None:
        while (batch := await self._gather()) is not None:
            await self._pass_time()
            if not self._run(self._transactions, batch) or not await self._commit_later(batch):
                await self._pass_time()
                self._write_each(self._transactions, batch)
            self._under_way = []
            self._tell(batch)
        self.ended.set_result(None)

    async def _gather(self) -> list[Job] | None:
        """Return some of the jobs that are queued, None at the end."""
        queue = self._queue
        while queue.empty():
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
            await self._pass_time()
        first = queue.get()
        if first is None:
            return None
        batch = [first]
        while not queue.empty() and not self._process.chance.happens(0.1):
            job = queue.get()
            if job is None:
                queue.put(None)
                break
            batch.append(job)
        self._under_way = batch
        return batch

    async def _commit_later(self, batch: list[Job]) -> bool:
        await self._pass_time()
        return self._commit(self._transactions, batch)

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

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Fence older owners; what they had not committed is rolled back."""
        await self._pass_time()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        reserve = Reserve(Path("inline"), self._clock, 0)
        transactions = FaultyTransactions(self._connection, self._clock, reserve, max_attempts=max_attempts)
        transactions.process, transactions.disk = self._process, self._disk
        try:
            claims = transactions.take_over()
        except sqlite3.Error as error:
            raise translated(error) from error
        self._transactions = transactions
        self._writer = InlineWriter(transactions, self._feed, self._process, self._disk)
        self._writer.start()
        return claims

    async def close(self) -> None:
        """Make everything queued durable, and close."""
        writer = self._writer
        alive(self._process)
        if isinstance(writer, InlineWriter):
            writer.stop()
            await asyncio.shield(writer.ended)
            self._feed.end()

    def _put(self, job: Job) -> None:
        alive(self._process)
        super()._put(job)

    async def _answered(self, question: Callable[[sqlite3.Connection], T]) -> T:
        alive(self._process)
        if self._writer is None:
            raise JournalUnavailable("the journal is not open")
        await self._pass_time()
        # What is not committed cannot be seen through another connection; here there is but one.
        while self._connection.in_transaction:  # noqa: ASYNC110 - as one that waits for a lock does
            await asyncio.sleep(0.0001)
        alive(self._process)
        self._disk.read(self._process.chance)
        return question(self._connection)

    async def _pass_time(self) -> None:
        alive(self._process)
        await self._process.chance.pass_time(self._disk.slow_s)
        alive(self._process)
