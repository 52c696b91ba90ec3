"""The journal in one SQLite file: the embedded default.

This module joins the others into the port: `ownership` (whose file is it), `driver` (opening it), `writer` (one thread,
group commit), `transactions` (the session table decides, its rows are written), `reader` (what is read). Whatever can
be encoded is encoded on the caller's side, so that the one writer has nothing to do but to write.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from strandline.clock import Clock
from strandline.encoding import encode_messages
from strandline.errors import JournalUnavailable
from strandline.journal import lists, reader
from strandline.journal.changes import encoded_body, encoded_completion
from strandline.journal.driver import (
    begin_wal_anew,
    connect,
    create,
    free_bytes,
    tighten,
    translated,
    unreadable,
)
from strandline.journal.feed import ClaimFeed
from strandline.journal.migrations import migrate
from strandline.journal.ownership import (
    MOUNTINFO,
    Ownership,
    check_openable,
    is_held,
    locate,
    prepare_folder,
)
from strandline.journal.port import A, AcceptAnswer, Bounds, Change, ChangeAnswer, Query, Take
from strandline.journal.reader import Readers
from strandline.journal.reserve import Reserve, Statvfs
from strandline.journal.soundness import guard
from strandline.journal.table import SessionTable
from strandline.journal.transactions import Transactions
from strandline.journal.watched import Watch, WatchedTransactions
from strandline.journal.writer import Job, OnCommit, Writer
from strandline.model import (
    AgentRecord,
    Claim,
    Fact,
    NewRun,
    RoundStarted,
    SessionKey,
    Settlement,
    Token,
)

T = TypeVar("T")

LEAVE_S: Final = 5.0
"""How long an `open` that was cancelled waits for its thread to give up the lock."""


class SqliteJournal:
    """A journal in the file `path`, or in the one that it links to; its folder is made if there is none.

    `lock_wait_s` is how long `open` waits for another owner; `on_wait` is called once, with a sentence that names the
    holder, if it has to. `on_commit` is told of each commit. `disk_reserve` is how many bytes of its disk are left to
    what was accepted: None is a share of it, 0 none; `statvfs` tells of that disk.
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
        self._transactions: Transactions | None = None
        self._readers: Readers | None = None
        self._watch: Watch | None = None

    # -- ownership ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """How many owners the file has had, this one counted; 0 before it was opened."""
        return 0 if self._transactions is None else self._transactions.epoch

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept at this moment; None: it can, as far as is known."""
        return None if self._writer is None else self._writer.trouble

    @property
    def short_of_room(self) -> str | None:
        """Why no new run is kept at this moment although others go on; None: new runs are kept."""
        return None if self._reserve is None else self._reserve.short

    @property
    def file(self) -> Path:
        """The file that it is in, or the one that is linked to it."""
        return self._path

    async def grant_room(self, size: int) -> bool:
        """Let somebody else write `size` bytes onto its disk; False if they would be of the reserve."""
        if (reserve := self._reserve) is None:
            raise JournalUnavailable("the journal is not open")
        granted: bool = await self._written(partial(reserve.grant, size), new=True)
        return granted

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Wait for the lock, fence every older owner, end all holds; return what was executing, in order of sequence.

        A file of an older version is migrated, after a copy of it was made. Raises a `JournalError` that says what to
        do; the file is left untouched then. An object that is open already is closed first. Cancelled, it leaves
        nothing behind; a migration that is under way ends first, which is waited for up to `LEAVE_S`.
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
        closing: list[Transactions] = []
        claims: list[Claim] = []

        def prepare() -> Transactions:
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
                transactions = WatchedTransactions(
                    connections[0], self._clock, path, reserve, ownership.leave_files, max_attempts=max_attempts
                )
                closing.append(transactions)
                claims.extend(transactions.take_over())
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

        writer = Writer(prepare, clean_up, self._feed, name="strandline-journal", on_commit=self._on_commit)
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
        return claims

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim made since `open`, once; ends when the journal is closed."""
        return self._feed.follow()

    async def close(self) -> None:
        """Make everything queued durable, end threads and connections, give up the lock, end `claims()`. Idempotent."""
        writer = self._writer
        if writer is None:
            return
        writer.stop()
        await asyncio.shield(asyncio.wrap_future(writer.finished))
        writer.join()
        self._feed.end()

    # -- verbs ----------------------------------------------------------------------------------------

    async def accept(self, new: NewRun, bounds: Bounds, *, take: bool) -> AcceptAnswer:
        """Keep a run, or refuse it over `bounds`. With `take`, claim it if its session is free and it is first."""
        body = encoded_body(new)

        def decide(table: SessionTable, now: float) -> AcceptAnswer:
            return table.accept(new, body, bounds, take=take, now=now)

        call = partial(self._open_transactions().decide, decide)
        accepted: AcceptAnswer = await self._written(call, new=True)
        return accepted

    async def take(self, key: SessionKey) -> Take:
        """Claim the session's next run, counting an attempt."""
        transactions = self._open_transactions()
        taken: Take = await self._written(
            lambda: transactions.decide(lambda table, now: table.claim_next(key, now=now))
        )
        return taken

    async def stage(self, token: Token, fact: Fact) -> None:
        """Keep what a running run has done so far; durable on return for `RoundStarted`, else with the next verb."""
        encoded = encode_messages(fact)
        transactions = self._open_transactions()
        call = partial(transactions.checkpoint, token, encoded)
        if isinstance(fact, RoundStarted):
            await self._written(call)
        else:
            self._put(Job(call, lost=partial(transactions.owe, token, encoded)))

    async def settle(self, token: Token, settlement: Settlement, *, take: bool, hold: bool = False) -> Take:
        """End a run: outcome, messages, window and state in one commit.

        With `take`, claim the session's next run. With `hold`, keep the claim until `release`; nothing is taken then.
        """
        left = encoded_completion(settlement)
        taken: Take = await self._written(partial(self._open_transactions().finish, token, left, hold, take))
        return taken

    async def release(self, token: Token, *, counted: bool, take: bool) -> Take:
        """Give a running run back to the head of its queue, its facts kept; or end the hold of one that has ended.

        `counted` False takes the attempt of a running one back. With `take`, claim the session's next run.
        """
        taken: Take = await self._written(partial(self._open_transactions().release, token, counted, take))
        return taken

    async def change(self, change: Change) -> ChangeAnswer:
        """Apply a change that somebody asked for, unless what it is about does not allow it (any more)."""
        transactions = self._open_transactions()
        call = partial(transactions.decide, lambda table, now: table.change(change, now=now))
        changed: ChangeAnswer = await self._written(call)
        return changed

    async def prune(self, before: float, limit: int) -> int:
        """Forget up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were forgotten; fewer than `limit` means that no more are left.
        A long walk is made in several transactions, so that other verbs have their turn.
        """
        forgotten = 0
        after: int | None = -1
        while after is not None and forgotten < limit:
            count, after = await self._written(
                partial(self._open_transactions().prune, before, limit - forgotten, after)
            )
            forgotten += count
        return forgotten

    def _open_transactions(self) -> Transactions:
        if self._transactions is None:
            raise JournalUnavailable("the journal is not open")
        return self._transactions

    async def _written(self, call: Callable[[], Any], *, new: bool = False) -> Any:
        job = Job(call, new=new, loop=asyncio.get_running_loop())
        self._put(job)
        assert job.future is not None
        return await job.future

    def _put(self, job: Job) -> None:
        if self._writer is None or not self._writer.put(job):
            raise JournalUnavailable("the journal is not open")

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session; whatever a delivered claim rests on is in it."""
        return await self._answered(partial(reader.load, key=key))

    async def read(self, query: Query[A]) -> A:
        """Answer a query off the caller's loop; whatever a delivered claim rests on is in it."""
        return await self._answered(partial(lists.answer, query=query))

    async def _answered(self, question: Callable[[sqlite3.Connection], T]) -> T:
        readers = self._readers
        if readers is None:
            raise JournalUnavailable("the journal is not open")
        if self._watch is not None and self._watch.gone is not None:
            self._watch.check()  # a connection that is made now would show another file, or none
        try:
            return await asyncio.wrap_future(readers.ask(question))
        except sqlite3.Error as error:
            if self._watch is not None:
                self._watch.check()  # (of a file that was cut off no table is found any more)
            raise translated(error) from error
