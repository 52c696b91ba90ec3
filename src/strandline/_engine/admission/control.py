"""What callers may do with runs that were accepted, and with sessions: the journal decides, then the engine is told.

Belongs to the serving loop. What the journal has answered is true whatever becomes of this process.
"""

import asyncio
import logging
from functools import partial
from typing import Any, Final

from strandline._engine.admission.shielded import to_the_end
from strandline._engine.events import SessionDeleted, SessionEvent, SessionPaused, SessionResumed
from strandline._engine.execution import AgentPool, Claims, until_stored
from strandline._engine.maintenance import Readiness
from strandline._engine.observers import Projection
from strandline._engine.reading import Reading, RunView
from strandline._engine.requests import check_key, checked_priority
from strandline._engine.streams import Streams
from strandline._journal.port import (
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
    SessionQuery,
    Stopped,
)
from strandline._model import OnDisconnect, Outcome, Principal, RunId, RunStatus, SessionKey, SessionView
from strandline.errors import AlreadyEnded, InvariantBroken, NotFound, RecordDamaged, SessionBusy, TooLate

_log = logging.getLogger("strandline.control")

END_HOLD_S: Final = 1.0
"""How long to wait until the end of a hold that was forced is in the journal. It never is once the server has drained:
then the answer has to be given before connections are closed."""

_Told = Cancel | CancelSession | EndWaiting | Pause | Resume
"""Changes of which somebody in the engine has to know."""


class Control:
    """Belongs to the serving loop."""

    def __init__(
        self,
        journal: Journal,
        readiness: Readiness,
        claims: Claims,
        pool: AgentPool,
        streams: Streams,
        reading: Reading,
        projection: Projection,
    ) -> None:
        self._journal = journal
        self._readiness = readiness
        self._claims = claims
        self._pool = pool
        self._streams = streams
        self._reading = reading
        self._projection = projection
        self._under_way: set[asyncio.Task[Any]] = set()

    async def cancel(self, principal: Principal, run_id: RunId, *, force: bool = False) -> RunView:
        """Cancel a run and return it: ended, or asked to end (its `cancel_requested`), which then survives a crash.

        With `force` its session is not held by what still works of it then, nor by what still works of it now.
        Raises `NotFound`, and `AlreadyEnded` unless there is a hold to be ended.
        """
        run = await self._reading.kept(principal, run_id)
        match await self._changed(run.key, Cancel(principal, run_id), force=force):
            case Stopped():
                pass
            case Ended():
                run = await self._reading.kept(principal, run_id)
                if not run.held:
                    raise AlreadyEnded(f"run {run_id} has ended")
                if not force:
                    raise AlreadyEnded(
                        f"run {run_id} has ended, and something of it still works; with `force` its session goes on"
                        " without it"
                    )
                await self._claims.end_hold(run_id, END_HOLD_S)
            case Changed():
                raise NotFound(f"there is no run {run_id}")
            case answer:
                raise InvariantBroken(f"the journal has answered a cancel by {answer}")
        return await self._reading.run(principal, run_id)

    async def cancel_session(self, key: SessionKey, *, running: bool = False, force: bool = False) -> Stopped:
        """Cancel all runs that wait in a session, with `running` the one that executes too.

        With `force` besides, the session is not held by what still works of that one, or of one that has ended.
        Raises `NotFound`.
        """
        self._readiness.note_request()
        answer = await self._changed(key, CancelSession(key, running), force=force)
        if not isinstance(answer, Stopped):
            raise NotFound(f"there is no session {key.session_id}")
        if running and force:
            session = await self._journal.read(SessionQuery(key))
            if session is not None and session.held and session.claimed is not None:
                await self._claims.end_hold(session.claimed, END_HOLD_S)
        self._projection.changed(key)  # a question that was dismissed leaves something without a run that ends
        return answer

    def all_disconnected(self, run_id: RunId, key: SessionKey, on_disconnect: OnDisconnect) -> None:
        """Cancel a run whose clients were lost, if that is wanted; what cannot be kept now is tried again."""
        change: Cancel | EndWaiting
        if on_disconnect is OnDisconnect.CANCEL:
            change = Cancel(key.principal, run_id)
        else:
            change = EndWaiting(key, run_id, Outcome(status=RunStatus.CANCELLED))
        self._claims.spawn(self._cancel_alone(run_id, key, change))

    async def _cancel_alone(self, run_id: RunId, key: SessionKey, change: Cancel | EndWaiting) -> None:
        trouble = "run %s is left alone and cannot be cancelled yet"
        try:
            await until_stored(partial(self._changed, key, change), trouble, run_id, log=_log)
        except RecordDamaged as error:
            _log.error("run %s is left alone and cannot be cancelled: %s", run_id, error)

    async def move(self, principal: Principal, run_id: RunId, priority: int | None) -> RunView:
        """Give a run that waits another priority, or with None the last place of the front; return it.

        Raises `Invalid`, `NotFound`, `AlreadyEnded`, `TooLate` if it has begun.
        """
        change = Move(principal, run_id, None if priority is None else checked_priority(priority))
        self._readiness.note_request()
        match await self._journal.change(change):
            case Changed(existed=True):
                return await self._reading.run(principal, run_id)
            case Busy():
                raise TooLate(f"run {run_id} has begun")
            case Ended():
                raise AlreadyEnded(f"run {run_id} has ended")
            case _:
                raise NotFound(f"there is no run {run_id}")

    async def pause(self, key: SessionKey) -> SessionView:
        """Let nothing more of a session start until it is resumed, also after a restart. Raises `NotFound`."""
        return await self._paused(key, Pause(key), SessionPaused())

    async def resume(self, key: SessionKey) -> SessionView:
        """Let a paused session go on. Raises `NotFound`."""
        return await self._paused(key, Resume(key), SessionResumed())

    async def _paused(self, key: SessionKey, change: Pause | Resume, event: SessionEvent) -> SessionView:
        if await self._changed(key, change) == Changed(existed=False):
            raise NotFound(f"there is no session {key.session_id}")
        self._streams.changed(key, event)
        return await self._reading.session(key)

    async def delete(self, key: SessionKey) -> bool:
        """Forget a session; False if there was none. Raises `SessionBusy` while a run of it waits or executes."""
        check_key(key)
        self._readiness.admit()
        return await self.delete_idle(key, None)

    async def delete_idle(self, key: SessionKey, ended_before: float | None) -> bool:
        """Forget a session if it is at rest since before a moment (None: if it is); False if there was none.

        Raises `SessionBusy`.
        """
        changed = await to_the_end(self._delete(Delete(key, ended_before)), self._under_way)
        if not isinstance(changed, Changed):
            raise SessionBusy("the session has a run that waits, executes or is held; delete it when that has ended")
        if changed.existed:
            self._streams.changed(key, SessionDeleted())
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
        return changed

    async def _changed(self, key: SessionKey, change: _Told, *, force: bool = False) -> ChangeAnswer:
        """Have the journal make a change and tell whoever has to know, to the end of it whoever waits."""
        return await to_the_end(self._change(key, change, force), self._under_way)

    async def _change(self, key: SessionKey, change: _Told, force: bool) -> ChangeAnswer:
        answer = await self._journal.change(change)
        match change, answer:
            case _, Stopped():
                self._claims.stopped(key, answer, force=force)
            case EndWaiting(run_id=run_id, outcome=outcome), Changed(existed=True):
                self._claims.ended(run_id, key, outcome)
        return answer
