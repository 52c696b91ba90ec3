"""The operations of the journal, as the session table decides them. Subclasses store the decisions.

Values are encoded on the caller's side, before anything is decided.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from strandline._encoding import encode_messages
from strandline._journal.changes import encode_completion, encoded_body
from strandline._journal.deferred import DeferredWrites
from strandline._journal.port import (
    AcceptAnswer,
    AsRead,
    Bounds,
    Cancel,
    Ceded,
    Change,
    ChangeAnswer,
    ClaimResult,
    Edit,
    Gained,
    Move,
    NoteDeliveries,
    Resend,
    Restore,
)
from strandline._journal.rules import as_sent, check_names
from strandline._journal.table import SessionTable
from strandline._model import (
    Checkpoint,
    Completion,
    FencingToken,
    JoinedInput,
    Message,
    NewRun,
    RoundStarted,
    RunId,
    SessionKey,
)

T = TypeVar("T")
Decide = Callable[[SessionTable, float], T]
"""Decides an operation on the table at a time in seconds since the epoch."""


class Operations(ABC):
    """Accepts, claims, checkpoints, ends and changes runs."""

    def __init__(self) -> None:
        self._deferred = DeferredWrites()

    @property
    @abstractmethod
    def epoch(self) -> int:
        """How many owners the journal has had."""

    # What a journal with one owner says; one that is shared by several has its own.

    def epoch_of(self, key: SessionKey) -> int:
        """Return how many owners a session has had: as many as the journal."""
        return self.epoch

    def owned_until(self) -> float | None:
        """Return None: nobody else can own it while this process lives."""
        return None

    async def leave(self) -> None:
        """Do nothing: nobody is there to continue."""
        return

    def stay(self, key: SessionKey) -> None:
        """Do nothing: no session is handed over before `close`."""
        return

    def moves(self) -> AsyncIterator[Gained | Ceded]:
        """End at once: everything was gained by `open`."""
        return _no_moves()

    @abstractmethod
    async def _operate(
        self,
        decide: Decide[T],
        *,
        key: SessionKey | None = None,
        run_id: RunId | None = None,
        token: FencingToken | None = None,
        new: bool = False,
    ) -> T:
        """Have the table decide about a session, or that of a run or claim; return once the answer is durable.

        A `new` operation stores a new run.
        """

    @abstractmethod
    def _operate_later(self, decide: Decide[None], token: FencingToken, checkpoint: bytes) -> None:
        """Have the table decide, before any later operation; a checkpoint that cannot be stored is deferred."""

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        """Store a run, or refuse it over `bounds`; with `claim_next`, claim it if its session is free and it is
        first."""
        check_names(new)
        body = encoded_body(new)

        def decide(table: SessionTable, now: float) -> AcceptAnswer:
            return table.accept(new, body, bounds, claim_next=claim_next, now=now)

        return await self._operate(decide, key=new.key, new=True)

    async def claim_next(self, key: SessionKey) -> ClaimResult:
        """Claim the session's next run, counting an attempt."""
        return await self._operate(lambda table, now: table.claim_next(key, now=now), key=key)

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        """Store what a running run has done so far; durable on return for `RoundStarted`, else with the next
        operation."""
        encoded = encode_messages(checkpoint)

        def decide(table: SessionTable, _: float) -> None:
            self._deferred.flush(table, token)
            table.checkpoint(token, encoded)

        if isinstance(checkpoint, RoundStarted):
            await self._operate(decide, token=token)
        else:
            self._operate_later(decide, token, encoded)

    async def apply_joins(
        self, token: FencingToken, messages: list[Message], as_read: AsRead = as_sent
    ) -> list[JoinedInput]:
        """Have the runs that wait for a running run reach it; store that with its messages since the last
        checkpoint."""

        def decide(table: SessionTable, now: float) -> list[JoinedInput]:
            return table.apply_joins(
                token, messages, as_read, now=now, first=lambda: self._deferred.flush(table, token)
            )

        return await self._operate(decide, token=token)

    async def finish(
        self, token: FencingToken, completion: Completion, *, claim_next: bool, hold: bool = False
    ) -> ClaimResult:
        """End a run: store outcome, messages, window and state in one commit.

        With `claim_next`, also claim the session's next run. With `hold`, keep the claim until `release` and claim
        nothing.
        """
        left = encode_completion(completion)

        def decide(table: SessionTable, now: float) -> ClaimResult:
            first = partial(self._deferred.flush, table, token) if left.unresolved else None
            taken = table.finish(token, left, hold=hold, claim_next=claim_next, now=now, first=first)
            self._deferred.discard(token)
            return taken

        return await self._operate(decide, token=token)

    async def release(self, token: FencingToken, *, counted: bool) -> None:
        """Requeue a running run at the head of its queue with its checkpoints, or end the hold of one that has ended.

        With `counted` False the attempt of the requeued run does not count.
        """

        def decide(table: SessionTable, now: float) -> None:
            self._deferred.flush(table, token)
            table.release(token, counted=counted, now=now)

        await self._operate(decide, token=token)

    async def change(self, change: Change) -> ChangeAnswer:
        """Apply a requested change, unless the state of its subject does not (or no longer) allow it."""

        def decide(table: SessionTable, now: float) -> ChangeAnswer:
            return table.change(change, now=now)

        if isinstance(change, Cancel | Edit | Move | Restore):
            return await self._operate(decide, run_id=change.run_id)
        if isinstance(change, NoteDeliveries | Resend):
            return await self._operate(decide)
        return await self._operate(decide, key=change.key)


async def _no_moves() -> AsyncIterator[Gained | Ceded]:
    nothing: tuple[Gained, ...] = ()
    for each in nothing:
        yield each
