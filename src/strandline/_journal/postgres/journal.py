"""The journal in PostgreSQL.

This module joins the others into the port: `wire` (one connection), `schema` (the tables), `ownership`, `lease`,
`shares` and `membership` (which servers there are, and who owns what), `silence` (whether the database answers),
`rows`, `dialect` and `transactions` (what is written, behind the fence), and what all stored journals share: `batched`
(operations are decided and stored in batches), `reader` and `lists` (what is read).
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from msgspec.structs import replace

from strandline._clock import Clock, FollowingClock
from strandline._journal import lists, reader
from strandline._journal.batched import LEAVE_S, BatchedJournal
from strandline._journal.cluster import DatabaseVitals
from strandline._journal.commits import NOT_OPEN
from strandline._journal.database import Database
from strandline._journal.feed import ClaimFeed
from strandline._journal.operations import Decide
from strandline._journal.port import A, Ceded, ClaimResult, Gained, Query
from strandline._journal.postgres.bloat import surveyed
from strandline._journal.postgres.durability import warn
from strandline._journal.postgres.failures import for_operators, translated
from strandline._journal.postgres.lease import Lease
from strandline._journal.postgres.membership import Membership, enter
from strandline._journal.postgres.ownership import Joined, join, time_of
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.schema import migrate
from strandline._journal.postgres.shares import Shares
from strandline._journal.postgres.silence import Silence
from strandline._journal.postgres.transactions import OnTime, PostgresTransactions
from strandline._journal.postgres.wire import ANSWER_S, ConnectionLost, Refused, Wire
from strandline._journal.reader import Readers
from strandline._journal.table import SessionTable
from strandline._journal.writer import OnCommit, Writer
from strandline._model import AgentRecord, Claim, Completion, FencingToken, RunId, SessionKey
from strandline.errors import JournalError, JournalUnavailable, StrandlineError

_log = logging.getLogger("strandline.journal")

T = TypeVar("T")

_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
LOOK_S: Final = 0.2
"""How often it is looked whether the lease is over."""
_SILENT: Final = "the database does not answer"


class PostgresJournal(BatchedJournal[PostgresTransactions]):
    """A journal in the database that `conninfo` names, in any form that libpq knows; the tables are made if need be.

    Several servers may use it at once: each owns some partitions. `address` is where this one listens for the others
    (`host:port`), and `open` needs it. `lock_wait_s` is how long `open` waits for servers that may be dead;
    `on_wait` is called once, with a sentence that names them, if that takes long. `on_commit` is called after each
    commit, `on_time` with what the database's clock shows.
    """

    def __init__(
        self,
        conninfo: str,
        clock: Clock,
        *,
        lock_wait_s: float = 60.0,
        on_wait: Callable[[str], None] | None = None,
        on_commit: OnCommit | None = None,
        address: Callable[[], str] = str,
        on_time: OnTime = lambda sent_at, came_at, shown: None,
    ) -> None:
        super().__init__(clock)
        self._on_time = on_time
        self._address = address
        self._membership = Membership(clock)
        self._conninfo = conninfo
        self._lock_wait_s = lock_wait_s
        self._on_wait = on_wait or (lambda message: None)
        self._on_commit = on_commit
        self._answer_s = ANSWER_S
        self._readers: Readers | None = None
        self._watching: asyncio.Task[None] | None = None
        self._silence: Silence | None = None
        self._listening: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._logged: str | None = None
        """What was logged last of failed reads, since one was answered."""

    # -- ownership ------------------------------------------------------------------------------------

    @property
    def low_disk(self) -> str | None:
        """Nothing is known here of the database's disk."""
        return None

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Adopt all partitions that are free, or our share if other servers are there; end all holds in them.

        Return what was executing there, in order of sequence.

        Raises a `JournalError` that says what to do. An object that is open already is closed first. Cancelled, it
        leaves nothing behind.
        """
        if self._writer is not None:
            await self.close()
            self._feed = ClaimFeed()
        unwanted = self._event()
        readers = self._new_readers()
        closing: list[Callable[[], None]] = [readers.close]
        taken: list[tuple[SessionTable, list[Claim]]] = []
        found: list[tuple[Joined, Shares]] = []

        def prepare() -> PostgresTransactions:
            try:
                wire = self._connect()
                closing.append(wire.close)
                migrate(wire)
                warn(wire)
                sent_at = self._clock.boottime()
                shown = time_of(wire)
                self._on_time(sent_at, self._clock.boottime(), shown)
                joined = join(
                    wire, self._address(), self._clock, wait_s=self._lock_wait_s, on_wait=self._on_wait,
                    sleep=unwanted.wait,
                )  # fmt: skip
                lease = Lease(joined.lease_s, joined.sent_at, self._clock.boottime)
                wire.answer_s = self._answer_s = lease.answer_s
                transactions = PostgresTransactions(
                    self._connect_bounded, wire, joined.id, lease, self._clock, self._event(), self._on_time
                )
                closing[1] = transactions.close
                shares = Shares(joined.id, joined.lease_s)
                found.append((joined, shares))
                entered = enter(
                    transactions, shares, self._clock, max_attempts=max_attempts, wait_s=self._lock_wait_s,
                    on_wait=self._on_wait, sleep=unwanted.wait,
                )  # fmt: skip
                taken.append(entered)
                readers.open()
            except JournalError:
                raise
            except Exception as error:
                raise JournalError(f"The journal cannot be opened: {for_operators(error).rstrip('.?')}.") from error
            self._transactions = transactions
            return transactions

        def clean_up() -> None:
            for close in closing:
                close()

        writer = self._new_writer(prepare, clean_up)
        try:
            await self._start(writer)
        finally:
            unwanted.set()
        assert self._transactions is not None
        self._transactions.trouble = partial(setattr, writer, "trouble")
        self._readers = readers
        (table, claims), (joined, shares) = taken[0], found[0]
        self._epoch = joined.id
        self._begin(table, writer)
        self._watch(lease := self._transactions.lease)
        self._membership.begin(joined, shares, table, _Storage(self), lease, max_attempts)
        self._tending = asyncio.create_task(self._membership.tend())
        transactions = self._transactions
        self._silence = Silence(lambda: transactions.unanswered_s, partial(self._answered, _ask))
        self._listening = asyncio.create_task(self._silence.watch())
        return claims

    # What it needs of its machine.

    def _connect(self, *, answer_s: float = ANSWER_S) -> Wire:
        return Wire(self._conninfo, answer_s=answer_s)

    def _event(self) -> threading.Event:
        return threading.Event()

    def _new_writer(self, prepare: Callable[[], PostgresTransactions], clean_up: Callable[[], None]) -> Writer:
        return Writer(prepare, clean_up, name="strandline-journal", on_commit=self._on_commit)

    def _new_readers(self) -> Readers:
        return Readers(self._reader, ConnectionLost, warm_up="SELECT 1", begin=_SNAPSHOT, anew=True)

    async def finish(
        self, token: FencingToken, completion: Completion, *, claim_next: bool, hold: bool = False
    ) -> ClaimResult:
        """End a run. None is left to be resolved while a server is there that would continue its history as if there
        were nothing to resolve."""
        if completion.unresolved and not self._membership.knows("resolve"):
            completion = replace(completion, unresolved=False)
        return await super().finish(token, completion, claim_next=claim_next, hold=hold)

    @property
    def cluster(self) -> Membership:
        """The servers that share the journal."""
        return self._membership

    @property
    def secret(self) -> bytes:
        """What all servers over the database sign with."""
        return self._membership.secret

    def epoch_of(self, key: SessionKey) -> int:
        """Return how many owners a session has had, including this one."""
        return self._open_commits().table.epoch_of(key)

    def owned_until(self) -> float | None:
        """Return until when user code may start here: until the lease is nearly over."""
        return None if self._transactions is None else self._transactions.lease.until

    async def leave(self) -> None:
        """Hand over what rests to other servers, and the rest as its runs end, until `close`."""
        await self._membership.leave()

    def stay(self, key: SessionKey) -> None:
        """Hand a session of ours over at `close` and not before."""
        self._open_commits().table.stay(key)

    def moves(self) -> AsyncIterator[Gained | Ceded]:
        """Yield what is gained after `open`, and what is ceded, until the journal is closed."""
        return self._membership.moves()

    def _connect_bounded(self) -> Wire:
        return self._connect(answer_s=self._answer_s)

    def _reader(self) -> Batch:
        return Batch(self._connect_bounded())

    async def close(self) -> None:
        """Make everything queued durable, end threads, give the journal up, end `claims()`. Idempotent."""
        for task in (self._watching, self._tending, self._listening):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._watching = self._tending = self._listening = None
        self._membership.end()  # (not in the task, which may be cancelled before it begins)
        if self._transactions is not None and (self._transactions.lease.lost is not None or self.trouble is not None):
            self._transactions.give_up()
        hurry = None
        if self._transactions is not None:
            hurry = asyncio.get_running_loop().call_later(LEAVE_S, self._transactions.give_up)
        try:
            await super().close()
        finally:
            if hurry is not None:
                hurry.cancel()

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept at this moment, also while the thread that writes still waits for an answer."""
        if (trouble := super().trouble) is None and self._transactions is not None and self._transactions.lease.is_late:
            return _SILENT
        return trouble

    @property
    def is_silent(self) -> bool:
        """Whether the database answers nothing at the moment, although that has hindered nothing yet."""
        return self._silence is not None and self._silence.is_silent

    # -- the lease ------------------------------------------------------------------------------------

    async def until_lost(self) -> str:
        """Return, in words for people, once the journal may be another server's: nothing may execute any more."""
        while self._transactions is None or (lost := self._transactions.lease.lost) is None:
            self._lost.clear()
            await self._lost.wait()
        return lost

    def _watch(self, lease: Lease) -> None:
        loop = asyncio.get_running_loop()

        def on_loss(why: str) -> None:
            with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(self._lost.set)

        lease.watch(on_loss)
        self._watching = loop.create_task(self._watch_lease(lease))

    async def _watch_lease(self, lease: Lease) -> None:
        """Lose the journal when the lease is over while something executes, since somebody else may have it then, or
        while nobody knows whether a commit was made, since that cannot be found out any more."""
        assert self._transactions is not None
        while lease.lost is None:
            if lease.left_s <= 0 and (self.sessions.claimed_of() or self._transactions.is_in_doubt):
                lease.end(super().trouble)
            else:  # (in short steps: a suspended machine stops the clock of `sleep`, and not the one of the lease)
                await asyncio.sleep(LOOK_S)

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
        if new and (trouble := self.trouble) is not None:  # (while an outcome is unknown nothing else is decided)
            raise JournalUnavailable(trouble)
        return await super()._operate(decide, key=key, run_id=run_id, token=token, new=new)

    async def _call(self, call: Callable[[PostgresTransactions], T]) -> T:
        """Return what a call returns, on the thread that writes, in no transaction."""
        return await self._on_writer(None if self._writer is None else self._writer.call, call)

    async def prune(self, before: float, limit: int) -> int:
        """Forget runs that ended before `before`, for all servers: the owner of the first partition does that."""
        return await super().prune(before, limit) if self._membership.owns(0) else 0

    # -- what is read ---------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session; whatever a delivered claim rests on is in it."""
        return await self._answered(partial(reader.load, key=key))

    async def read(self, query: Query[A]) -> A:
        """Answer a query off the caller's loop; whatever a delivered claim rests on is in it."""
        return await self._answered(partial(lists.answer, query=query))

    async def _answered(self, question: Callable[[Database], T]) -> T:
        if self._readers is None:
            raise JournalUnavailable(NOT_OPEN)
        try:
            answer = await asyncio.wrap_future(self._readers.ask(question))
        except StrandlineError:
            raise
        except (ConnectionLost, Refused) as error:
            if self.trouble is None and (said := for_operators(error)) != self._logged:  # (else the log has said so)
                self._logged = said
                _log.error("nothing can be read: %s", said)
            raise translated(error) from error
        self._logged = None
        return answer

    async def _survey(self, *, whole: bool) -> DatabaseVitals:
        clock = self._clock
        now = clock.own_now if isinstance(clock, FollowingClock) else clock.now
        return await self._answered(partial(surveyed, now=now, whole=whole))


def _ask(database: Database) -> None:
    """Ask for something that is answered at once."""
    database.execute("SELECT 1")


class _Storage:
    """What the membership of a journal needs of it."""

    def __init__(self, journal: PostgresJournal) -> None:
        self.call = journal._call
        self.transact = journal.transact
        self.operate = journal._operate
        self.survey = journal._survey
