"""What callers may do with accepted runs and with sessions: the journal decides, then the engine acts.

Belongs to the serving loop. The journal's answer is true even if this process dies.
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from strandline._engine.admission.refusals import STORAGE_FULL_S, unreachable
from strandline._engine.events import RunChanged, SessionDeleted, SessionEvent, SessionPaused, SessionResumed
from strandline._engine.execution import AgentPool, Claims, Retries
from strandline._engine.files import Files
from strandline._engine.maintenance import Readiness
from strandline._engine.observers import Projection
from strandline._engine.options import Options
from strandline._engine.ownership import Ownership
from strandline._engine.reading import Reading, RestoredView, RunView
from strandline._engine.requests import RunBuilder, RunEdit, checked_priority, client_options_in, with_client_options
from strandline._engine.shielded import to_the_end
from strandline._engine.streams import Streams
from strandline._journal.cluster import Feature
from strandline._journal.editions import edited_parts
from strandline._journal.port import (
    BY_LIST,
    Busy,
    Cancel,
    CancelSession,
    ChangeAnswer,
    Changed,
    Delete,
    DismissedQuery,
    Edit,
    Edited,
    Ended,
    EndWaiting,
    Journal,
    Move,
    Outdated,
    Pause,
    Refused,
    Restore,
    Restored,
    Resume,
    SessionQuery,
    SessionReport,
    SetOptions,
    Stopped,
    Superseded,
    SupersededQuery,
    Unreachable,
)
from strandline._model import (
    IfBusy,
    JoinState,
    Lane,
    OnDisconnect,
    Outcome,
    Principal,
    Run,
    RunDefaults,
    RunId,
    RunStatus,
    SessionKey,
    SessionView,
)
from strandline.errors import (
    AlreadyEnded,
    ChangedMeanwhile,
    Invalid,
    InvariantBroken,
    NotFound,
    NotOwner,
    RecordDamaged,
    SessionBusy,
    StorageFull,
    TooLate,
)

_log = logging.getLogger("strandline.control")

END_HOLD_S: Final = 1.5
"""How long to wait until the journal has the end of a hold that was forced. It never does once the server has drained:
the answer must then be given before connections are closed."""

_Change = Cancel | CancelSession | EndWaiting | Pause | Resume
"""Changes that the engine acts on."""


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
        ownership: Ownership,
        retries: Retries,
        builder: RunBuilder,
        options: Options,
        files: Files,
    ) -> None:
        self._files = files
        self._journal = journal
        self._readiness = readiness
        self._claims = claims
        self._pool = pool
        self._streams = streams
        self._reading = reading
        self._projection = projection
        self._ownership = ownership
        self._retries = retries
        self._builder = builder
        self._options = options
        self._report = SessionReport(builder.server_webhook, options.max_webhooks_per_caller)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._is_over = False

    async def finish(self, patience_s: float) -> None:
        """End no runs from now on, and return when those changes are done that are under way, or after `patience_s`.

        What ended later would be seen by nobody: the streams of events end before the journal is closed.
        """
        self._is_over = True
        if self._under_way:
            await asyncio.wait([*self._under_way], timeout=patience_s)

    async def cancel(self, principal: Principal, run_id: RunId, *, force: bool = False, again: bool = False) -> RunView:
        """Cancel a run and return it: ended, or ending (its `cancel_requested`), which then survives a crash.

        A repeated cancel returns it too. With `force` its session is not locked by a tool that is still executing, now
        or after its end; `again`: the same request may have ended that lock before. Raises `NotFound`, and
        `AlreadyEnded` if the run has ended otherwise and there is no lock to end.
        """
        run = await self._reading.stored_run(principal, run_id)
        if run.outcome is None:
            self._check_over()
        match await self._changed(run.key, Cancel(principal, run_id), force=force):
            case Stopped():
                pass
            case Ended():
                run = await self._reading.stored_run(principal, run_id)
                if force and run.held:
                    await self._claims.end_hold(run_id, END_HOLD_S)
                elif not (force and again) and not await self._was_cancelled(run):
                    raise AlreadyEnded(_ended(run))
            case Changed():
                raise NotFound(f"there is no run {run_id}")
            case Busy():
                raise TooLate(_reached(run))
            case answer:
                raise InvariantBroken(f"the journal answered a cancel with {answer}")
        return await self._reading.changed_run(principal, run_id)

    def _check_over(self) -> None:
        """Raise `Draining` if no run ends here any more."""
        if self._is_over:
            self._readiness.admit()

    async def _was_cancelled(self, run: Run) -> bool:
        """Return whether an ended run is as a cancel leaves it."""
        if run.status is RunStatus.NEEDS_INPUT:
            return await self._journal.read(DismissedQuery(run.key.principal, run.run_id))
        return run.status is RunStatus.CANCELLED

    async def cancel_session(self, key: SessionKey, *, running: bool = False, force: bool = False) -> Stopped:
        """Cancel all runs that wait in a session, with `running` the one that executes too.

        With `force` besides, the session is not locked by a tool of that run, or of one that has ended. Raises
        `NotFound`.
        """
        self._readiness.note_request()
        self._ownership.check(key)
        self._check_over()
        answer = await self._changed(key, CancelSession(key, running), force=force)
        if not isinstance(answer, Stopped):
            raise NotFound(f"there is no session {key.session_id}")
        if running and force:
            session = await self._journal.read(SessionQuery(key))
            if session is not None and session.held and session.claimed is not None:
                await self._claims.end_hold(session.claimed, END_HOLD_S)
        self._projection.changed(key)  # a dismissed question leaves messages without the end of a run
        return answer

    def all_disconnected(self, run_id: RunId, key: SessionKey, on_disconnect: OnDisconnect) -> None:
        """Cancel a run whose clients have all disconnected, if its caller wants that; retried until it is stored."""
        change: Cancel | EndWaiting
        if on_disconnect is OnDisconnect.CANCEL:
            change = Cancel(key.principal, run_id)
        else:
            change = EndWaiting(key, run_id, Outcome(status=RunStatus.CANCELLED))
        if not self._is_over:
            self._claims.spawn(self._cancel_disconnected(run_id, key, change))

    async def _cancel_disconnected(self, run_id: RunId, key: SessionKey, change: Cancel | EndWaiting) -> None:
        trouble = "run %s has lost all its clients and cannot be cancelled yet"
        try:
            await self._retries.until_stored(partial(self._changed, key, change), trouble, run_id, log=_log)
        except RecordDamaged as error:
            _log.error("run %s has lost all its clients and cannot be cancelled: %s", run_id, error)
        except NotOwner:
            _log.info("run %s has lost all its clients here, and has moved to another server", run_id)

    async def move(self, principal: Principal, run_id: RunId, priority: int | None) -> RunView:
        """Give a waiting run another priority, or with None the last place of the front; return it.

        Raises `Invalid`, `NotFound`, `AlreadyEnded`, `TooLate` if it has begun.
        """
        change = Move(principal, run_id, None if priority is None else checked_priority(priority))
        await self._reading.stored_run(principal, run_id)
        match await self._journal.change(change):
            case Changed(existed=True):
                return await self._reading.changed_run(principal, run_id)
            case Busy():
                run = await self._reading.stored_run(principal, run_id)
                raise TooLate(f"run {run_id} has begun" if run.join is not JoinState.APPLIED else _reached(run))
            case Ended():
                raise AlreadyEnded(f"run {run_id} has ended")
            case _:
                raise NotFound(f"there is no run {run_id}")

    async def edit(self, principal: Principal, run_id: RunId, edit: RunEdit) -> RunView:
        """Replace parts of a waiting run, and return it. One that is as requested already is returned whatever it does.

        Raises `Invalid`, `NotFound`, `AlreadyEnded`, `TooLate` if it has begun or answers a question,
        `ChangedMeanwhile`, `StorageFull`.
        """
        run = await self._reading.stored_run(principal, run_id)
        if edit.metadata is not None and BY_LIST in run.metadata:  # (it says which messages the client knows)
            edit = replace(edit, metadata={**edit.metadata, BY_LIST: run.metadata[BY_LIST]})
        if edit.metadata is not None:
            edit = replace(edit, metadata=with_client_options(edit.metadata, client_options_in(run.metadata)))
        self._builder.check_edit(run.key, edit)
        if edit.input is not None:
            edit = replace(edit, input=await self._files.resolved(run.key, edit.input, run.input))
        return await to_the_end(self._edit(run, edit), self._under_way)

    async def _edit(self, run: Run, edit: RunEdit) -> RunView:
        principal, run_id = run.key.principal, run.run_id
        most = self._options.max_stored_bytes_per_principal
        change = Edit(principal, run_id, edit.input, edit.metadata, edit.priority, edit.expected, most)
        answer = await self._journal.change(change)
        match answer:
            case Edited():
                view = await self._reading.changed_run(principal, run_id)
                if answer.parts:
                    self._streams.edited(run_id, run.key, RunChanged(list(answer.parts), view.run.priority))
                return view
            case Refused():
                raise self.storage_full(run.key, "what was edited")
            case Changed():
                raise NotFound(f"there is no run {run_id}")
        run = await self._reading.stored_run(principal, run_id)
        if not edited_parts(run, edit.input, edit.metadata, edit.priority):
            return await self._reading.changed_run(principal, run_id)  # (sent again, since its answer was lost)
        match answer:
            case Outdated():
                raise ChangedMeanwhile(f"run {run_id} is not as If-Match says; read it again, and decide anew")
            case Ended():
                raise AlreadyEnded(f"run {run_id} has ended")
            case Busy():
                raise TooLate(_cannot_edit(run))
            case _:
                raise InvariantBroken(f"the journal answered an edit with {answer}")

    def storage_full(self, key: SessionKey, what: str) -> StorageFull:
        """Return the error for something that would be more than may be kept for a principal."""
        return StorageFull(
            f"{self._options.max_stored_bytes_per_principal} bytes may be kept for {key.principal}, in all its sessions"
            f" (setting max_stored_bytes_per_caller), and {what} would be more; delete sessions that are not needed any"
            " more",
            retry_after_s=max(self._options.retry_after_s, STORAGE_FULL_S),
        )

    async def set_options(self, key: SessionKey, options: Mapping[str, Any] | None) -> SessionView:
        """Set default options of a session's runs, of which None removes one, or with None as `options` remove all;
        return the session.

        Raises `Invalid` for what no request could ask for, `NotFound`, `StorageFull`.
        """
        if options:
            named: list[Feature] = ["options"]
            if options.get("webhook"):
                named.append("webhook")
            if options.get("if_busy") is IfBusy.COLLECT or options.get("collect") is not None:
                named.append("collect")
            self._ownership.check_known(named)
        self._ownership.check(key)
        if options is not None:
            given = {name: value for name, value in options.items() if value is not None}
            self._builder.check_defaults(key, RunDefaults(**given))
        most = self._options.max_stored_bytes_per_principal
        match await self._journal.change(SetOptions(key, options, most)):
            case Changed(existed=True):
                return await self._reading.changed_session(key)
            case Refused():
                raise self.storage_full(key, "these options")
            case _:
                raise NotFound(f"there is no session {key.session_id}")

    async def restore(self, principal: Principal, run_id: RunId) -> RestoredView:
        """Have history continue where it ended when a superseded run was last in it; nothing happens if it is in it.

        Raises `NotFound`, `SessionBusy` unless its session is at rest, `CannotGoBack` if it left no messages, `Invalid`
        if agents keep their history themselves.
        """
        key = (await self._reading.stored_run(principal, run_id)).key
        self._ownership.check_known(("after",))
        if self._options.self_managed:
            raise Invalid("no run can be restored: these agents keep their history themselves")
        match await to_the_end(self._restore(key, Restore(principal, run_id)), self._under_way):
            case Restored(start=start, forgotten=forgotten):
                superseded = Superseded([], [])
                if start is not None:
                    superseded = await self._journal.read(SupersededQuery(key, start=start))
                return RestoredView(key, start is not None, replace(superseded, forgotten=forgotten))
            case Busy():
                raise SessionBusy(
                    f"session {key.session_id} is not at rest: a run of it executes, waits, asks or locks it; restore"
                    " when it has ended"
                )
            case Unreachable() as cannot:
                raise unreachable(cannot, run_id, key.session_id)
            case _:
                raise NotFound(f"there is no run {run_id}")

    async def _restore(self, key: SessionKey, change: Restore) -> ChangeAnswer:
        with self._pool.keeping_none(key):  # (its agent has the messages that are superseded now)
            answer = await self._journal.change(change)
        self._projection.changed(key)
        return answer

    async def pause(self, key: SessionKey) -> SessionView:
        """Pause a session: accept runs, start none until it is resumed, also after a restart. Raises `NotFound`."""
        return await self._paused(key, Pause(key, self._report), SessionPaused())

    async def resume(self, key: SessionKey) -> SessionView:
        """Resume a paused session. Raises `NotFound`."""
        return await self._paused(key, Resume(key, self._report), SessionResumed())

    async def _paused(self, key: SessionKey, change: Pause | Resume, event: SessionEvent) -> SessionView:
        self._ownership.check(key)
        if await self._changed(key, change) == Changed(existed=False):
            raise NotFound(f"there is no session {key.session_id}")
        self._streams.changed(key, event)
        return await self._reading.changed_session(key)

    async def delete(self, key: SessionKey) -> bool:
        """Delete a session; False if there was none. Raises `SessionBusy` while a run of it waits or executes."""
        self._ownership.check(key)
        self._readiness.admit()
        return await self.delete_idle(key, None)

    async def delete_idle(self, key: SessionKey, ended_before: float | None) -> bool:
        """Delete a session if it has been idle since before a moment (None: if it is idle); False if there was none.

        Raises `SessionBusy`.
        """
        changed = await to_the_end(self._delete(Delete(key, ended_before, self._report)), self._under_way)
        if not isinstance(changed, Changed):
            raise SessionBusy(
                "the session has a run that waits or executes, or is locked; delete it when that has ended"
            )
        if changed.existed:
            self._streams.changed(key, SessionDeleted())
        return changed.existed

    async def _delete(self, change: Delete) -> ChangeAnswer:
        # A run that ends while the deletion is under way must not leave its agent for another session.
        key, done = change.key, False
        await self._projection.deleting(key)
        try:
            with self._pool.keeping_none(key):
                changed = await self._journal.change(change)
            done = isinstance(changed, Changed)
        finally:
            await self._projection.deleted(key, done=done)
        if done:
            await self._files.remove_unrecorded(key)
        return changed

    async def _changed(self, key: SessionKey, change: _Change, *, force: bool = False) -> ChangeAnswer:
        """Have the journal make a change and the engine act on it, also if the caller leaves meanwhile."""
        return await to_the_end(self._change(key, change, force), self._under_way)

    async def _change(self, key: SessionKey, change: _Change, force: bool) -> ChangeAnswer:
        answer = await self._journal.change(change)
        match change, answer:
            case _, Stopped():
                self._claims.stopped(key, answer, force=force)
            case EndWaiting(run_id=run_id, outcome=outcome), Changed(existed=True):
                self._claims.ended(run_id, key, outcome)
        return answer


def _reached(run: Run) -> str:
    joined = "the run that it joined" if run.joined is None else f"run {run.joined}, which it joined"
    return f"run {run.run_id} has reached {joined}, and ends with it; cancel that one"


def _cannot_edit(run: Run) -> str:
    if run.join is JoinState.APPLIED:
        return _reached(run)
    if run.lane == Lane.ANSWER:
        return f"run {run.run_id} answers an input request, and can only be cancelled"
    return f"run {run.run_id} has begun"


def _ended(run: Run) -> str:
    if not run.held:
        return f"run {run.run_id} has ended"
    return (
        f"run {run.run_id} has ended, and a tool of it is still executing; with `force` its session continues without"
        " it"
    )
