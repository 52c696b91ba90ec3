"""The operations of the journal, as the session table decides them. How that is stored is left to whoever inherits.

Whatever can be encoded is encoded on the caller's side, before anything is decided.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from strandline.encoding import encode_messages
from strandline.journal.changes import encoded_body, encoded_completion
from strandline.journal.owed import Owed
from strandline.journal.port import AcceptAnswer, Bounds, Cancel, Change, ChangeAnswer, Move, Take
from strandline.journal.rules import check_names
from strandline.journal.table import SessionTable
from strandline.model import Fact, NewRun, RoundStarted, RunId, SessionKey, Settlement, Token

T = TypeVar("T")
Decide = Callable[[SessionTable, float], T]
"""Has the table decide an operation at a time, in seconds since the epoch."""


class Operations(ABC):
    """Accepts, claims, checkpoints, ends and changes runs."""

    def __init__(self) -> None:
        self._owed = Owed()

    @abstractmethod
    async def _operate(
        self,
        decide: Decide[T],
        *,
        key: SessionKey | None = None,
        run_id: RunId | None = None,
        token: Token | None = None,
        new: bool = False,
    ) -> T:
        """Have the table decide about a session, or that of a run or claim; return once what it rests on is durable.

        A `new` operation keeps what was not there before.
        """

    @abstractmethod
    def _operate_later(self, decide: Decide[None], token: Token, fact: bytes) -> None:
        """Have the table decide, before whatever is asked for after this; if it cannot be stored, the fact is owed."""

    async def accept(self, new: NewRun, bounds: Bounds, *, take: bool) -> AcceptAnswer:
        """Keep a run, or refuse it over `bounds`. With `take`, claim it if its session is free and it is first."""
        check_names(new)
        body = encoded_body(new)

        def decide(table: SessionTable, now: float) -> AcceptAnswer:
            return table.accept(new, body, bounds, take=take, now=now)

        return await self._operate(decide, key=new.key, new=True)

    async def take(self, key: SessionKey) -> Take:
        """Claim the session's next run, counting an attempt."""
        return await self._operate(lambda table, now: table.claim_next(key, now=now), key=key)

    async def stage(self, token: Token, fact: Fact) -> None:
        """Keep what a running run has done so far; durable on return for `RoundStarted`, else with the next verb."""
        encoded = encode_messages(fact)

        def decide(table: SessionTable, _: float) -> None:
            self._owed.pay(table, token)
            table.checkpoint(token, encoded)

        if isinstance(fact, RoundStarted):
            await self._operate(decide, token=token)
        else:
            self._operate_later(decide, token, encoded)

    async def settle(self, token: Token, settlement: Settlement, *, take: bool, hold: bool = False) -> Take:
        """End a run: outcome, messages, window and state in one commit.

        With `take`, claim the session's next run. With `hold`, keep the claim until `release`; nothing is taken then.
        """
        left = encoded_completion(settlement)

        def decide(table: SessionTable, now: float) -> Take:
            taken = table.finish(token, left, hold=hold, take=take, now=now)
            self._owed.void(token)
            return taken

        return await self._operate(decide, token=token)

    async def release(self, token: Token, *, counted: bool) -> None:
        """Give a running run back to the head of its queue, its facts kept; or end the hold of one that has ended.

        `counted` False takes the attempt of a running one back.
        """

        def decide(table: SessionTable, now: float) -> None:
            self._owed.pay(table, token)
            table.release(token, counted=counted, now=now)

        await self._operate(decide, token=token)

    async def change(self, change: Change) -> ChangeAnswer:
        """Apply a change that somebody asked for, unless what it is about does not allow it (any more)."""

        def decide(table: SessionTable, now: float) -> ChangeAnswer:
            return table.change(change, now=now)

        if isinstance(change, Cancel | Move):
            return await self._operate(decide, run_id=change.run_id)
        return await self._operate(decide, key=change.key)
