"""Group commit: operations are decided one after another on one event loop, and stored in batches.

While one batch is being stored, the next operations are decided; their rows form the next batch. Answers are sent, and
claims delivered, when what they rest on is durable. An operation that needs an uncached record waits for it, and so do
later operations of the same session, but no others.

If a batch cannot be stored, all decisions since are undone, the sessions concerned are reset to their stored state, and
the operations are decided again, each stored on its own, so that one at fault fails alone. New runs come last: when the
journal cannot be written to, the first of them finds out for all.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from msgspec import Struct

from strandline._clock import Clock
from strandline._journal.changes import Change
from strandline._journal.deferred import DeferredWrites
from strandline._journal.feed import ClaimFeed, resolve
from strandline._journal.records import Missing, Records, RunLocation
from strandline._journal.state import SessionState
from strandline._journal.table import Batch, SessionTable
from strandline._model import Claim, FencingToken, Principal, RunId, SessionKey
from strandline.errors import InvariantBroken, JournalUnavailable, StrandlineError

_log = logging.getLogger("strandline.journal")

NOT_OPEN: Final = "the journal is not open"


class Work(Struct):
    """One piece of work for storage: write rows in one transaction, then read."""

    changes: Sequence[Change]
    operations: int
    """How many operations decided the changes."""
    principals: Iterable[Principal] = ()
    """The principals whose stored bytes to report."""
    reads: Sequence[Callable[[Records], Any]] = ()


class WriteResult(Struct):
    """The result of `Work`. With an `error` nothing was written or read."""

    error: StrandlineError | None = None
    bytes_of: dict[Principal, int] = {}
    found: list[Any] = []
    """What each read returned, or the `StrandlineError` that it raised."""


class Storage(Protocol):
    """Does one piece of work after another, in their order."""

    def put(self, work: Work, done: Callable[[WriteResult], None]) -> bool:
        """Queue work; False once storage is closed. `done` is called once, from any thread."""
        ...


class Operation:
    """An operation of the session table.

    It concerns the session `key`, or that of the run `run_id` or of the claim `token`. Its caller awaits `future` on
    `loop`; if both are None nobody does, and a `checkpoint` that cannot be stored is deferred. A `new` operation stores
    a new run.
    """

    __slots__ = ("checkpoint", "decide", "error", "found", "future", "key", "loop", "new", "result", "run_id", "token")

    def __init__(
        self,
        decide: Callable[[SessionTable, float], Any],
        *,
        key: SessionKey | None = None,
        run_id: RunId | None = None,
        token: FencingToken | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        new: bool = False,
        checkpoint: bytes | None = None,
    ) -> None:
        self.decide = decide
        self.key = key
        self.run_id = run_id if token is None else token.run_id
        self.token = token
        self.loop = loop
        self.future: asyncio.Future[Any] | None = None if loop is None else loop.create_future()
        self.new = new
        self.checkpoint = checkpoint
        self.result: Any = None
        self.error: StrandlineError | None = None
        self.found: dict[Hashable, Any] = {}
        """The records that it needed and that were read."""

    def subject(self, table: SessionTable) -> Hashable:
        """Return its subject: a session, or a run whose session is unknown."""
        return self.key or table.session_of(self.run_id) or self.run_id


class _Read(NamedTuple):
    """A missing record, with the operation that needs it, which is the first that waits at `subject`."""

    subject: Hashable
    operation: Operation
    missing: Missing


class GroupCommit:
    """Belongs to the event loop on which it was created; `submit` may be called from any loop."""

    def __init__(
        self,
        table: SessionTable,
        storage: Storage,
        feed: ClaimFeed,
        clock: Clock,
        deferred: DeferredWrites,
    ) -> None:
        self.table = table
        self._storage = storage
        self._feed = feed
        self._clock = clock
        self._deferred = deferred
        self._loop = asyncio.get_running_loop()
        self._decided: list[Operation] = []
        """Decided operations that are in no batch yet."""
        self._parked: dict[Hashable, deque[Operation]] = {}
        """Operations that wait for missing records, and those behind them, by subject."""
        self._reads: list[_Read] = []
        """Reads that storage was not given yet."""
        self._is_woken = False
        self._is_storing = False
        self._is_dirty = False
        """Whether an operation failed after it changed something."""
        self._stale: set[SessionKey] = set()
        """Sessions to reset to their stored state before the next decision."""
        self.redo: asyncio.Task[None] | None = None
        """The task that decides operations again after a failed commit."""
        self._arrived: deque[Operation] = deque()
        """Operations that came while others are decided again."""
        self.is_closed = False
        """Whether no more operations are accepted."""
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    # -- from outside ---------------------------------------------------------------------------------

    def submit(self, operation: Operation) -> None:
        """Decide an operation. Raises `JournalUnavailable` if this loop is closed."""
        if operation.loop is self._loop or _is_running(self._loop):
            self._start(operation)
            return
        try:
            self._loop.call_soon_threadsafe(self._start, operation)
        except RuntimeError as error:
            raise JournalUnavailable(NOT_OPEN) from error

    async def read(self, read: Callable[[Records], Any]) -> Any:
        """Return what storage reads after all earlier work. Raises `StrandlineError`."""
        (found,) = (await self._work(Work([], 0, reads=[read]))).found
        if isinstance(found, StrandlineError):
            raise found
        return found

    async def close(self) -> None:
        """Accept no more operations; return when all are answered. Idempotent."""
        self.is_closed = True
        await self._at_rest.wait()

    # -- deciding -------------------------------------------------------------------------------------

    def _start(self, operation: Operation) -> None:
        self._at_rest.clear()
        if self.redo is not None or self._stale:
            self._arrived.append(operation)
            if self.redo is None:
                self._begin_redo([])
            return
        subject = operation.subject(self.table)
        if (parked := self._parked.get(subject)) is not None:
            parked.append(operation)
        else:
            self._decide(operation, subject)
        self._wake()

    def _decide(self, operation: Operation, subject: Hashable) -> None:
        """Decide an operation that is first at its place, or park it until the missing record is read."""
        missing = self._try(operation)
        if missing is None:
            self._decided.append(operation)
            return
        if isinstance(missing.what, SessionKey):
            subject = missing.what  # (for a run whose session was unknown)
        parked = self._parked.setdefault(subject, deque())
        parked.append(operation)
        if parked[0] is operation:
            self._reads.append(_Read(subject, operation, missing))

    def _try(self, operation: Operation) -> Missing | None:
        """Have the table decide; return what is missing, if anything."""
        table = self.table
        before = table.decided
        table.found = operation.found
        try:
            operation.result = operation.decide(table, self._clock.now())
        except Missing as missing:
            if table.decided == before:
                return missing
            operation.error = InvariantBroken(f"an operation found too late that it needs {missing.what}")
        except StrandlineError as error:
            operation.error = error
        except Exception as error:
            operation.error = InvariantBroken(f"an operation failed: {error!r}")
            operation.error.__cause__ = error
            self._is_dirty = True
        if operation.error is not None and table.decided != before:
            self._is_dirty = True
        return None

    def _found(self, read: _Read, found: Any) -> None:
        """Resume the operations that waited for a read."""
        parked = self._parked.pop(read.subject)
        if isinstance(found, StrandlineError):
            operation = parked.popleft()
            operation.error = found
            self._decided.append(operation)
        else:
            read.operation.found[read.missing.what] = found
            if isinstance(found, RunLocation):  # it concerns that session, and goes behind what waits there
                read.operation.key = found.key
        while parked:
            operation = parked.popleft()
            subject = operation.key or read.subject
            if subject != read.subject and (others := self._parked.get(subject)) is not None:
                others.append(operation)
                continue
            self._decide(operation, subject)
            if (again := self._parked.get(read.subject)) is not None:
                again.extend(parked)
                return

    # -- storing --------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Give storage the next batch, unless it is busy."""
        self._is_woken = False
        if self._is_storing or self.redo is not None:
            return
        if self._is_dirty:
            decided, self._decided = self._decided, []
            self._undo(decided, [])
            return
        if not self._decided and not self._reads:
            self._rest()
            return
        decided, self._decided = self._decided, []
        reads, self._reads = self._reads, []
        batch = self.table.drain()
        if not batch.changes and not reads:
            self._answer(decided, [])
            self._rest()
            return
        work = Work(batch.changes, len(decided), self.table.principals(batch), [each.missing.read for each in reads])
        self._is_storing = True
        self._put(work, partial(self._stored, decided, batch, reads))

    def _put(self, work: Work, done: Callable[[WriteResult], None]) -> None:
        """Give work to storage; `done` is called on this loop."""

        def on_loop(stored: WriteResult) -> None:
            with suppress(RuntimeError):  # this loop is closed: nobody waits
                self._loop.call_soon_threadsafe(done, stored)

        if not self._storage.put(work, on_loop):
            on_loop(WriteResult(error=JournalUnavailable(NOT_OPEN)))

    def _stored(self, decided: list[Operation], batch: Batch, reads: list[_Read], stored: WriteResult) -> None:
        self._is_storing = False
        if stored.error is not None:
            self._undo(decided, [batch])
            return
        self.table.durable(batch, stored.bytes_of)
        self._answer(decided, batch.claims)
        for read, found in zip(reads, stored.found, strict=True):
            self._found(read, found)
        self._flush()

    def _answer(self, operations: Iterable[Operation], claims: list[Claim]) -> None:
        """Answer the callers, then deliver the claims, after the tasks that the answers wake."""
        for operation in operations:
            if self._deferred and operation.error is None and operation.token is not None:
                self._deferred.committed(operation.token)
            if operation.future is None:
                continue
            answer = operation.result if operation.error is None else operation.error
            if operation.loop is self._loop:
                resolve(operation.future, answer)
            else:
                assert operation.loop is not None
                with suppress(RuntimeError):  # that loop is closed: nobody waits there
                    operation.loop.call_soon_threadsafe(resolve, operation.future, answer)
        if claims:
            self._loop.call_soon(self._feed.put, claims)

    def _rest(self) -> None:
        if not self._parked and not self._arrived:
            self._at_rest.set()

    # -- what could not be stored ---------------------------------------------------------------------

    def _undo(self, decided: list[Operation], batches: list[Batch]) -> None:
        """Undo the decisions that are not stored, and decide them again."""
        self._is_dirty = False
        self._stale |= self.table.undo(batches)
        self._deferred.rolled_back()
        decided += self._decided
        self._decided = []
        for parked in self._parked.values():
            for operation in parked:
                operation.found = {}  # (what was read may have changed)
                self._arrived.append(operation)
        self._parked.clear()
        self._reads.clear()
        self._begin_redo(decided)

    def _begin_redo(self, operations: list[Operation]) -> None:
        self.redo = self._loop.create_task(self._decide_again(operations))

    async def _decide_again(self, operations: list[Operation]) -> None:
        """Decide operations one by one, and those that come meanwhile while any session must be reset."""
        while True:
            refusal: JournalUnavailable | None = None
            for operation in sorted(operations, key=lambda each: each.new):
                operation.result, operation.error, operation.found = None, refusal, {}
                claims: list[Claim] = []
                if refusal is None:
                    is_stored, claims = await self._alone(operation)
                    if not is_stored and operation.checkpoint is not None and operation.token is not None:
                        self._deferred.defer(operation.token, operation.checkpoint)
                    if not is_stored and operation.new and isinstance(operation.error, JournalUnavailable):
                        refusal = operation.error
                with suppress(StrandlineError):
                    await self._put_back()  # (the one who is answered may look at the sessions at once)
                self._answer([operation], claims)
            with suppress(StrandlineError):
                await self._put_back()
            operations = []
            if not self._stale or not self._arrived:
                break
            operations.extend(self._arrived)
            self._arrived.clear()
        self.redo = None
        arrived, self._arrived = self._arrived, deque()
        for operation in arrived:
            self._start(operation)
        self._wake()

    async def _alone(self, operation: Operation) -> tuple[bool, list[Claim]]:
        """Decide an operation and store its decision; return whether that worked, and its claims."""
        try:
            await self._put_back()
            while (missing := self._try(operation)) is not None:
                operation.found[missing.what] = await self.read(missing.read)
        except StrandlineError as error:
            operation.error = error
            return False, []
        if self._is_dirty:
            self._is_dirty = False
            self._stale |= self.table.undo([])
            self._deferred.rolled_back()
            return False, []
        batch = self.table.drain()
        if not batch.changes:
            return True, []
        stored = await self._work(Work(batch.changes, 1, self.table.principals(batch)))
        if stored.error is not None:
            operation.error = stored.error
            self._stale |= self.table.undo([batch])
            self._deferred.rolled_back()
            return False, []
        self.table.durable(batch, stored.bytes_of)
        return True, batch.claims

    async def _put_back(self) -> None:
        """Reset the stale sessions to their stored state. Raises `StrandlineError`."""
        if self._stale:
            self.table.put_back(await self.read(partial(_sessions, sorted(self._stale))))
            self._stale.clear()

    async def _work(self, work: Work) -> WriteResult:
        future: asyncio.Future[WriteResult] = self._loop.create_future()

        def done(stored: WriteResult) -> None:
            if not future.done():  # (else nobody awaits it)
                future.set_result(stored)

        self._put(work, done)
        stored = await future
        if stored.error is not None and work.reads:
            raise stored.error
        return stored


def _sessions(keys: Iterable[SessionKey], records: Records) -> dict[SessionKey, SessionState | None]:
    """Return sessions as stored. A damaged one is left out: only what needs it fails."""
    found: dict[SessionKey, SessionState | None] = {}
    for key in keys:
        try:
            found[key] = records.session(key)
        except JournalUnavailable as error:
            _log.error("%s", error)
            found[key] = None
    return found


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
