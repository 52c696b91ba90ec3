"""The journal as one process has it: each operation takes its time, may fail, and does nothing any more once that is
dead.

In front of a `MemoryJournal`, which is what survives. Facts that may return when queued wait here, in order, for a
later operation of their token; a crash loses them, as it loses what a real journal has not yet committed. Operations
take effect in any order, but are answered in the order in which they did: so it is with one thread that writes, and the
engine relies on it. A claim comes after the answer to the operation that made it, at once or a while later.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from simulation.loop import Chance, Way
from simulation.process import Process, alive
from strandline._clock import Clock
from strandline._journal.errors import ClaimLost
from strandline._journal.live import NO_SESSIONS
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import (
    AcceptAnswer,
    AsRead,
    Bounds,
    Ceded,
    Change,
    ChangeAnswer,
    ClaimResult,
    Gained,
    Journal,
    Sessions,
)
from strandline._journal.rules import as_sent
from strandline._model import (
    AgentRecord,
    Checkpoint,
    Claim,
    Completion,
    FencingToken,
    JoinedInput,
    Message,
    NewRun,
    RoundStarted,
    SessionKey,
    ToolDone,
)
from strandline.errors import JournalUnavailable

T = TypeVar("T")


class Disk:
    """How well the disk does: `full` fails every operation that writes, `fails` is how often any fails for no
    reason."""

    def __init__(self) -> None:
        self.full = False
        self.fails = 0.0
        self.slow_s = 0.01
        self.stalls = 0.0
        """How often the way to a database takes much longer, up to `longest_s`."""
        self.longest_s = 0.0
        self.faulty = False
        """Whether anything has failed so far."""

    def read(self, chance: Chance) -> None:
        """Read something. Raises `JournalUnavailable` now and then."""
        if self.fails and chance.happens(self.fails):
            self.faulty = True
            raise JournalUnavailable("the disk failed")


class Store(Protocol):
    """What of a journal survives the processes that use it."""

    shared: bool
    """Whether a process may lose it to another one while it lives."""

    def of(self, process: Process, disk: Disk) -> Journal:
        """Return the journal as a process has it."""
        ...

    def close(self) -> None:
        """Return what it takes, when the world is over."""
        ...


MakeStore = Callable[[Clock], Store]


class MemoryStore:
    """A journal in memory that survives."""

    shared = True

    def __init__(self, clock: Clock) -> None:
        self._journal = MemoryJournal(clock)
        self._owner: Process | None = None

    def of(self, process: Process, disk: Disk) -> Journal:
        """Return it for one process."""
        return SlowJournal(self._journal, process, disk, self._owned)

    def close(self) -> None:
        """Do nothing."""

    def _owned(self, process: Process) -> None:
        """Note who has it from now on; the former owner does not know that, and continues."""
        before, self._owner = self._owner, process
        if before is not None and before.alive:
            before.fenced = True
            before.note("fenced")


class SlowJournal:
    """A journal that takes its time."""

    def __init__(
        self, inner: Journal, process: Process, disk: Disk, on_open: Callable[[Process], None] = lambda process: None
    ) -> None:
        self._inner = inner
        self._on_open = on_open
        self._process = process
        self._disk = disk
        self._sessions: Sessions = NO_SESSIONS
        self._queued: dict[FencingToken, list[Checkpoint]] = {}
        self._back = Way(process.chance, disk.slow_s)
        self._unanswered = 0
        """How many operations have taken effect and have not returned; none that comes later returns before them."""

    def epoch_of(self, key: SessionKey) -> int:
        """Return how many processes have had a session."""
        return self._inner.epoch_of(key)

    def owned_until(self) -> float | None:
        """Return until when user code may start."""
        return self._inner.owned_until()

    async def leave(self) -> None:
        """Hand over what rests: to nobody."""
        await self._inner.leave()

    def stay(self, key: SessionKey) -> None:
        """Keep a session to the end."""
        self._inner.stay(key)

    def moves(self) -> AsyncIterator[Gained | Ceded]:
        """Yield what moves between owners: nothing."""
        return self._inner.moves()

    @property
    def epoch(self) -> int:
        """How many owners it has had."""
        return self._inner.epoch

    @property
    def secret(self) -> bytes:
        """What signs there."""
        return self._inner.secret

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept."""
        return self._inner.trouble

    @property
    def is_silent(self) -> bool:
        """Whether what stores it answers nothing."""
        return self._inner.is_silent

    @property
    def low_disk(self) -> str | None:
        """Why nothing new is kept."""
        return self._inner.low_disk

    @property
    def sessions(self) -> Sessions:
        """What waits and executes, as it was when another process opened it."""
        return self._sessions

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Open the journal."""
        await self._before()
        claims = await self._inner.open(owner, max_attempts=max_attempts)
        self._sessions = self._inner.sessions
        self._on_open(self._process)
        await self._after()
        return claims

    async def claims(self) -> AsyncIterator[Claim]:
        """Yield claims, behind the answers of whatever took effect before them."""
        async for claim in self._inner.claims():
            alive(self._process)
            come = asyncio.get_running_loop().create_future()
            self._back.send(partial(_resolve, come))
            await come
            alive(self._process)
            yield claim

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        """Keep a run."""
        return await self._written(lambda: self._inner.accept(new, bounds, claim_next=claim_next))

    async def claim_next(self, key: SessionKey) -> ClaimResult:
        """Claim a session's next run."""
        return await self._written(lambda: self._inner.claim_next(key))

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        """Keep a fact; all but the start of a round are only queued."""
        alive(self._process)
        if not isinstance(checkpoint, RoundStarted):
            self._queued.setdefault(token, []).append(checkpoint)
            loop = asyncio.get_running_loop()
            if self._process.chance.happens(0.7):
                loop.call_later(self._disk.slow_s * self._process.chance.random(), self._flush_soon, token)
            return
        await self._written(lambda: self._inner.checkpoint(token, checkpoint), token)

    async def apply_joins(
        self, token: FencingToken, messages: list[Message], as_read: AsRead = as_sent
    ) -> list[JoinedInput]:
        """Have runs that join reach their host."""
        return await self._written(lambda: self._inner.apply_joins(token, messages, as_read), token)

    async def finish(
        self, token: FencingToken, completion: Completion, *, claim_next: bool, **more: Any
    ) -> ClaimResult:
        """End a run."""
        return await self._written(lambda: self._inner.finish(token, completion, claim_next=claim_next, **more), token)

    async def release(self, token: FencingToken, *, counted: bool) -> None:
        """Requeue a run, or end its hold."""
        await self._written(lambda: self._inner.release(token, counted=counted), token)

    async def change(self, change: Change) -> ChangeAnswer:
        """Apply a change."""
        return await self._written(lambda: self._inner.change(change))

    async def prune(self, before: float, limit: int) -> int:
        """Forget runs."""
        return await self._written(lambda: self._inner.prune(before, limit))

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return the record of a session."""
        await self._before()
        self._disk.read(self._process.chance)
        record = await self._inner.load(key)
        await self._after()
        return record

    async def read(self, query: Any) -> Any:
        """Answer a query."""
        await self._before()
        self._disk.read(self._process.chance)
        page = await self._inner.read(query)
        await self._after()
        return page

    async def close(self) -> None:
        """Make everything queued durable, and close."""
        await self._before()
        if self._process.fenced:
            return
        for token in list(self._queued):
            await self._flush(token)
        await self._inner.close()

    async def _written(self, operation: Callable[[], Awaitable[T]], token: FencingToken | None = None) -> T:
        await self._before()
        if self._process.fenced and token is None:
            raise JournalUnavailable("another process has the journal")
        if self._disk.full or (self._disk.fails and self._process.chance.happens(self._disk.fails)):
            self._disk.faulty = True
            raise JournalUnavailable("the disk is full")
        if token is not None:
            await self._flush(token)
        result = await operation()
        await self._after()
        return result

    async def _before(self) -> None:
        alive(self._process)
        await self._process.chance.pass_time(self._disk.slow_s)
        alive(self._process)

    async def _after(self) -> None:
        if not self._unanswered and self._process.chance.happens(0.3):
            return  # before anybody else does anything, as the journal in memory does
        answered = asyncio.get_running_loop().create_future()
        self._unanswered += 1
        self._back.send(partial(_resolve, answered))
        try:
            await answered
        finally:
            self._unanswered -= 1
        alive(self._process)

    def _flush_soon(self, token: FencingToken) -> None:
        if self._process.alive and not self._process.fenced and not self._disk.full and token in self._queued:
            # The memory journal never waits: its operation is done when its first step is.
            coroutine = self._flush(token)
            try:
                coroutine.send(None)
            except StopIteration:
                pass

    async def _flush(self, token: FencingToken) -> None:
        for checkpoint in self._queued.pop(token, ()):
            try:
                await self._inner.checkpoint(token, checkpoint)
            except (ClaimLost, JournalUnavailable):
                return
            if isinstance(checkpoint, ToolDone):
                self._process.note("kept", token.run_id, id=checkpoint.tool_use_id)


def _resolve(answered: "asyncio.Future[None]") -> None:
    if not answered.done():
        answered.set_result(None)
