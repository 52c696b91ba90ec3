"""What callers may do with runs that were accepted, and with sessions: the journal decides, then the engine is told.

Belongs to the serving loop. What the journal has answered is true whatever becomes of this process.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from strandline.engine.execution import AgentPool, Claims
from strandline.engine.observers import Projection
from strandline.engine.queues import SessionQueues
from strandline.errors import AlreadyEnded, InvariantBroken, JournalUnavailable, NotFound, SessionBusy, TooLate
from strandline.journal.port import (
    Busy,
    Cancel,
    CancelSession,
    ChangeAnswer,
    Changed,
    Delete,
    Ended,
    EndWaiting,
    Journal,
    Move,
    Pause,
    Resume,
    RunQuery,
    SessionQuery,
    Stopped,
)
from strandline.model import OnDisconnect, Outcome, Principal, RunId, RunStatus, SessionKey

_log = logging.getLogger("strandline.control")

CANCEL_AGAIN_S: Final = 1.0
"""How long to wait before a cancel that the journal could not keep is tried again."""
UNHELD_S: Final = 5.0
"""How long to wait until the end of a hold that was forced is in the journal."""

_Told = Cancel | CancelSession | EndWaiting | Pause | Resume
"""Changes of which somebody in the engine has to know."""


class Control:
    """`is_expected` tells whether the end of a run is still to come in this process."""

    def __init__(
        self,
        journal: Journal,
        queues: SessionQueues,
        claims: Claims,
        pool: AgentPool,
        is_expected: Callable[[RunId], bool],
        projection: Projection,
    ) -> None:
        self._journal = journal
        self._queues = queues
        self._claims = claims
        self._pool = pool
        self._is_expected = is_expected
        self._projection = projection
        self._under_way: set[asyncio.Task[ChangeAnswer]] = set()

    async def cancel(self, principal: Principal, run_id: RunId, *, force: bool) -> bool:
        """Cancel a run; True if it has ended on return, False if it executes and was asked to.

        With `force` its session is not held by what still works of it then, nor by what still works of it now.
        Raises `NotFound`, and `AlreadyEnded` unless there is a hold to be ended.
        """
        run = await self._journal.read(RunQuery(principal, run_id))
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        match await self._changed(run.key, Cancel(principal, run_id), force=force):
            case Stopped(asked=asked):
                return not asked
            case Ended():
                run = await self._journal.read(RunQuery(principal, run_id))
                if run is None or not run.held:
                    raise AlreadyEnded(f"run {run_id} has ended")
                if not force:
                    raise AlreadyEnded(
                        f"run {run_id} has ended, and something of it still works; with `force` its session goes on"
                        " without it"
                    )
                await self._claims.unheld(run_id, UNHELD_S)
                return True
            case Changed():
                raise NotFound(f"there is no run {run_id}")
            case answer:
                raise InvariantBroken(f"the journal has answered a cancel by {answer}")

    async def cancel_session(self, key: SessionKey, *, running: bool, force: bool) -> Stopped:
        """Cancel all runs that wait in a session, with `running` the one that executes too.

        With `force` besides, the session is not held by what still works of that one, or of one that has ended.
        Raises `NotFound`.
        """
        answer = await self._changed(key, CancelSession(key, running), force=force)
        if not isinstance(answer, Stopped):
            raise NotFound(f"there is no session {key.session_id}")
        if running and force:
            session = await self._journal.read(SessionQuery(key))
            if session is not None and session.held and session.claimed is not None:
                await self._claims.unheld(session.claimed, UNHELD_S)
        return answer

    async def left_alone(self, run_id: RunId, key: SessionKey, on_disconnect: OnDisconnect) -> None:
        """Cancel a run whose clients were lost, if that is wanted; what cannot be kept now is tried again."""
        change: Cancel | EndWaiting
        if on_disconnect is OnDisconnect.CANCEL:
            change = Cancel(key.principal, run_id)
        else:
            change = EndWaiting(key, run_id, Outcome(status=RunStatus.CANCELLED))
        while self._is_expected(run_id):
            try:
                await self._changed(key, change)
                return
            except JournalUnavailable as error:
                _log.error("run %s is left alone and cannot be cancelled yet: %s", run_id, error)
            await asyncio.sleep(CANCEL_AGAIN_S)

    async def move(self, principal: Principal, run_id: RunId, priority: int | None) -> None:
        """Give a run that waits another priority; None: the last place of those at the front.

        Raises `NotFound`, `AlreadyEnded`, `TooLate` if it has begun.
        """
        try:
            moved = await self._journal.change(Move(principal, run_id, priority))
        finally:
            self._queues.any_changed()  # also if nobody waits any more: what is asked from now on is asked after it
        match moved:
            case Changed(existed=True):
                return
            case Busy():
                raise TooLate(f"run {run_id} has begun")
            case Ended():
                raise AlreadyEnded(f"run {run_id} has ended")
            case _:
                raise NotFound(f"there is no run {run_id}")

    async def pause(self, key: SessionKey) -> None:
        """Let nothing more of a session start, also after a restart. Raises `NotFound`."""
        await self._paused(key, Pause(key))

    async def resume(self, key: SessionKey) -> None:
        """Let a paused session go on. Raises `NotFound`."""
        await self._paused(key, Resume(key))

    async def delete(self, key: SessionKey, *, ended_before: float | None = None) -> bool:
        """Forget a session; False if there was none. Raises `SessionBusy` while a run of it waits or executes.

        With `ended_before`, also if it is not at rest since before that moment.
        """
        changed = await self._finished(self._delete(Delete(key, ended_before)))
        if not isinstance(changed, Changed):
            raise SessionBusy("the session has a run that waits, executes or is held; delete it when that has ended")
        return changed.existed

    async def _delete(self, change: Delete) -> ChangeAnswer:
        # A run that ends before the deletion and after it was asked for must not leave its agent for another session.
        key, done = change.key, False
        await self._projection.deleting(key)
        try:
            with self._pool.keeping_none(key):
                changed = await self._journal.change(change)
            done = isinstance(changed, Changed)
        finally:
            await self._projection.deleted(key, done=done)
        if isinstance(changed, Changed):
            self._claims.resumed(key)  # if it was paused: another one of this name is not
        return changed

    async def _paused(self, key: SessionKey, change: Pause | Resume) -> None:
        if await self._changed(key, change) == Changed(existed=False):
            raise NotFound(f"there is no session {key.session_id}")

    async def _changed(self, key: SessionKey, change: _Told, *, force: bool = False) -> ChangeAnswer:
        """Have the journal make a change and tell whoever has to know."""
        return await self._finished(self._change(key, change, force))

    async def _finished(self, change: Coroutine[Any, Any, ChangeAnswer]) -> ChangeAnswer:
        """Have a change made, to the end of it whoever waits."""
        change_made = asyncio.create_task(change)
        self._under_way.add(change_made)
        change_made.add_done_callback(self._made)
        return await asyncio.shield(change_made)

    def _made(self, change_made: "asyncio.Task[ChangeAnswer]") -> None:
        self._under_way.discard(change_made)
        if not change_made.cancelled():
            change_made.exception()  # whoever asked knows of it, or is not there any more

    async def _change(self, key: SessionKey, change: _Told, force: bool) -> ChangeAnswer:
        answer = await self._journal.change(change)
        match change, answer:
            case _, Stopped():
                self.tell(key, answer, force=force)
            case EndWaiting(run_id=run_id, outcome=outcome), Changed(existed=True):
                self._claims.ended(run_id, key, outcome)
            case Pause(), Changed(existed=True):
                self._queues.paused(key)
            case Resume(), Changed(existed=True):
                self._claims.resumed(key)
        return answer

    def tell(self, key: SessionKey, stopped: Stopped, *, force: bool = False, discard: bool = False) -> None:
        """Tell whoever has to know what the journal has cancelled; without a wait after its answer."""
        for run_id, outcome in stopped.ended.items():
            self._claims.ended(run_id, key, outcome)
        for run_id in stopped.asked:
            if self._is_expected(run_id):
                self._claims.asked(run_id, force=force, discard=discard)
        if stopped.input_until is not None:
            self._claims.dismissed(key, stopped.input_until)
