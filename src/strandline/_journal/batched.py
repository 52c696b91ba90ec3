"""A journal whose operations are decided on one loop and stored in batches, by a thread that writes.

What all journals outside of the process share: `operations` (the session table decides), `commits` (on the caller's
loop, in batches), `writer` (one thread, one transaction for each batch). Who owns the journal, how it is opened and how
it is read is left to the subclass.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from strandline._clock import Clock
from strandline._journal.commits import NOT_OPEN, GroupCommit, Operation, Storage
from strandline._journal.feed import ClaimFeed, resolve
from strandline._journal.live import NO_SESSIONS
from strandline._journal.operations import Decide, Operations
from strandline._journal.port import Sessions
from strandline._journal.table import SessionTable
from strandline._journal.writer import Transactions, Writer
from strandline._model import Claim, FencingToken, RunId, SessionKey
from strandline.errors import JournalUnavailable

T = TypeVar("T")

LEAVE_S: Final = 5.0
"""How long an `open` that was cancelled waits for its thread to give up the journal."""


class Prunable(Transactions, Protocol):
    """Transactions that can also forget runs."""

    def prune(self, before: float, limit: int, after: int) -> tuple[int, int | None]:
        """Forget runs that ended before `before`, in a transaction that is open; see `deletion.prune`."""
        ...


P = TypeVar("P", bound=Prunable)


class BatchedJournal(Operations, Generic[P]):
    """Accepts, claims, checkpoints, ends, changes and prunes runs; `open` sets `_writer` and calls `_begin`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._feed = ClaimFeed()
        self._writer: Writer | None = None
        self._commits: GroupCommit | None = None
        self._transactions: P | None = None
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """How many owners the journal has had, this one counted; 0 before it was opened."""
        return self._epoch

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept at this moment; None: it can, as far as is known."""
        return None if self._writer is None else self._writer.trouble

    @property
    def is_silent(self) -> bool:
        """A file does not say that it is not there: operations fail."""
        return False

    @property
    def sessions(self) -> Sessions:
        """What waits and executes since it was opened."""
        return NO_SESSIONS if self._commits is None else self._commits.table

    async def _start(self, writer: Writer) -> None:
        """Start a thread, and return when it is prepared. If it cannot be, or this is cancelled, it ends."""
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
        self._writer = writer

    def _begin(self, table: SessionTable, storage: Storage) -> None:
        """Decide operations from here on."""
        self._commits = GroupCommit(table, storage, self._feed, self._clock, self._deferred)

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim made since `open`, once; ends when the journal is closed."""
        return self._feed.follow()

    async def close(self) -> None:
        """Make everything queued durable, end threads, give up ownership, end `claims()`. Idempotent."""
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
        """Forget up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were forgotten; fewer than `limit` means that no more are left.
        A long walk is made in several transactions, so that operations have their turn.
        """
        forgotten = 0
        after: int | None = -1
        try:
            while after is not None and forgotten < limit:
                step: Callable[[P], tuple[int, int | None]] = partial(
                    _prune, before=before, limit=limit - forgotten, after=after
                )
                count, after = await self.transact(step)
                forgotten += count
        finally:  # (steps before one that failed have made room)
            if self._commits is not None:
                self._commits.table.forget_stored()
        return forgotten

    async def transact(self, call: Callable[[P], T]) -> T:
        """Return what a call returns that writes rows which the session table does not decide, in a transaction."""
        return await self._on_writer(None if self._writer is None else self._writer.transact, call)

    async def _on_writer(
        self, put: Callable[[Callable[[], Any], Callable[[Any], None]], bool] | None, call: Callable[[P], T]
    ) -> T:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()

        def done(answer: Any) -> None:
            with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(resolve, answered, answer)

        if put is None or self._transactions is None or not put(partial(call, self._transactions), done):
            raise JournalUnavailable(NOT_OPEN)
        return await answered


def _prune(transactions: Prunable, before: float, limit: int, after: int) -> tuple[int, int | None]:
    return transactions.prune(before, limit, after)
