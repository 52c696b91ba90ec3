"""The service as a program sees it: `Service` and `Ticket`, facades of the engine's, and no more of it than users need.

The engine's own service starts, drains and serves adapters, whose needs change from version to version. What is here is
stable: docs/library.md promises it, and all that it takes or returns can be imported from `strandline`. It decides
nothing, but checks what a program can get wrong: the event loop, and the key of a session.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from strandline._engine.admission import Ticket as EngineTicket
from strandline._engine.admission import fork_request
from strandline._engine.events import Numbered, Why
from strandline._engine.files import File, FilePage
from strandline._engine.reading import Health, RestoredView, RunPage, RunView
from strandline._engine.requests import (
    CheckedTool,
    Request,
    RunEdit,
    again_request,
    check_key,
    resolution,
    resolve_request,
)
from strandline._engine.schedules import ScheduleChange, ScheduleRequest, ScheduleView, ScheduleViews, view_of
from strandline._engine.service import Service as EngineService
from strandline._engine.streams import Later, RunStream, as_last
from strandline._engine.webhooks import DeliveryPage, SendResult
from strandline._http.routes.export import Export
from strandline._journal.port import Forked, HistoryPage, OpenTool, SessionPage, SessionTree
from strandline._model import (
    FileId,
    IfBusy,
    Message,
    Outcome,
    Principal,
    RunId,
    RunStatus,
    ScheduleId,
    SessionId,
    SessionKey,
    SessionView,
)
from strandline.errors import SetupError


class CancelledRuns(Struct, frozen=True, kw_only=True):
    """What `Service.cancel_session` has done."""

    cancelled: list[RunId]
    """Runs that waited, and are cancelled now."""
    cancelling: list[RunId]
    """Runs that execute, and end as cancelled."""
    dismissed: bool
    """Whether it dismissed the input requests of the session."""


class Ticket:
    """A run that `Service.submit` has accepted."""

    __slots__ = ("_loop", "_ticket")

    def __init__(self, _ticket: EngineTicket, _loop: asyncio.AbstractEventLoop) -> None:
        self._ticket = _ticket
        self._loop = _loop

    def __repr__(self) -> str:
        return f"Ticket(run_id={self.run_id!r}, key={self.key!r}, position={self.position!r})"

    @property
    def run_id(self) -> RunId:
        """The run, for `Service.run`, `wait`, `cancel` and `move`."""
        return self._ticket.run_id

    @property
    def key(self) -> SessionKey:
        """The session of the run."""
        return self._ticket.key

    @property
    def position(self) -> int:
        """Its place in the queue when it was accepted: 0 executes, 1 is the next to start."""
        return self._ticket.position

    @property
    def estimated_wait_s(self) -> float | None:
        """How many seconds it is likely to wait; None until a first run has ended."""
        return self._ticket.estimated_wait_s

    @property
    def attached(self) -> bool:
        """Whether an earlier request with the same idempotency key had been accepted: this is its run."""
        return self._ticket.attached

    @property
    def replayed(self) -> bool:
        """Whether that run had ended already."""
        return self._ticket.replayed

    @property
    def stopped(self) -> tuple[RunId, ...]:
        """The runs that it cancelled, because its request interrupts (`if_busy`)."""
        return self._ticket.stopped

    async def outcome(self) -> Outcome | Later:
        """Wait for the end of the run, and return it.

        `Later.LATER`: the service stops, and the run continues when it is opened again. Cancelling this call does not
        cancel the run.
        """
        _check_loop(self._loop)
        return await self._ticket.outcome()


def _check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raise `SetupError` on another loop than this one, where the caller would wait for ever or change what is read."""
    if asyncio.get_running_loop() is not loop:
        raise SetupError(
            "this service belongs to the event loop that opened it, and was called on another one. From a thread, call"
            " it with asyncio.run_coroutine_threadsafe(service.submit(...), loop)"
        )


class Service:
    """Accepts runs and executes those of each session one at a time; `strandline.open_service` opens one.

    Belongs to the event loop that opened it: on another one, its methods raise `SetupError`. `principal` is the caller:
    `ANONYMOUS`, which HTTP uses without keys, or the name of a key. No caller finds runs or sessions of another one.
    """

    __slots__ = ("_engine", "_loop")

    def __init__(self, _engine: EngineService, _loop: asyncio.AbstractEventLoop) -> None:
        self._engine = _engine
        self._loop = _loop

    def _checked(self, *keys: SessionKey) -> EngineService:
        """Return the engine. Raises `SetupError` on another event loop, and `Invalid` unless keys are of sessions."""
        _check_loop(self._loop)
        for key in keys:
            check_key(key)
        return self._engine

    # -- runs --------------------------------------------------------------------------------------

    async def submit(self, request: Request) -> Ticket:
        """Accept a run; on return it is durable.

        Raises `Invalid` for what no agent can be given, `SessionBusy` with `IfBusy.REJECT`, `KeyReused` if the
        idempotency key stands for another request, and a kind of `Unavailable` if nothing was accepted because a queue
        is full or the service stops. Cancelling this call may leave the run accepted.
        """
        return Ticket(await self._checked().submit(request), self._loop)

    async def run(self, principal: Principal, run_id: RunId) -> RunView:
        """Return a run as it is now, also one of an earlier process. Raises `NotFound`."""
        return await self._checked().run(principal, run_id)

    async def wait(self, principal: Principal, run_id: RunId, timeout_s: float) -> RunView:
        """Return a run once it has ended, or as it is after `timeout_s` seconds. Raises `NotFound`."""
        return await self._checked().wait(principal, run_id, timeout_s)

    async def cancel(self, principal: Principal, run_id: RunId, *, force: bool = False) -> RunView:
        """Cancel a run and return it: ended, or with `cancel_requested` if it executes, which survives a crash.

        A cancel may be repeated. With `force` its session continues without waiting for a tool of it that still works.
        Raises `NotFound`, and `AlreadyEnded` if it has ended otherwise, unless `force` ends such a wait.
        """
        return await self._checked().cancel(principal, run_id, force=force)

    async def move(self, principal: Principal, run_id: RunId, priority: int | None) -> RunView:
        """Give a waiting run another priority (1 to 5, 1 first), or with None move it to the front; return it.

        Raises `Invalid`, `NotFound`, `AlreadyEnded`, and `TooLate` if it has begun.
        """
        return await self._checked().move(principal, run_id, priority)

    async def edit(self, principal: Principal, run_id: RunId, edit: RunEdit) -> RunView:
        """Replace the input, the metadata or the priority of a run that waits; return it.

        One that is as requested already is returned whatever it does, so that an edit can be repeated. Raises
        `Invalid`, `NotFound`, `AlreadyEnded`, `TooLate` if it has begun or answers an input request,
        `ChangedMeanwhile`, `StorageFull`.
        """
        return await self._checked().edit(principal, run_id, edit)

    async def runs(self, key: SessionKey, *, cursor: str | None = None, limit: int = 100) -> RunPage:
        """Return a page of a session's runs: those that wait, last first, then what executes, then the latest ended.

        `cursor` is the `after` of the page before. Raises `Invalid` for a cursor that no page has given.
        """
        return await self._checked(key).runs(key, cursor=cursor, limit=limit)

    async def runs_of(
        self, principal: Principal, *, statuses: Collection[RunStatus] = (), cursor: str | None = None, limit: int = 100
    ) -> RunPage:
        """Return a page of the runs of all sessions of a caller, of these statuses or of all, the last accepted first.

        `cursor` is the `after` of the page before. Raises `Invalid` for a cursor that no page has given.
        """
        return await self._checked().runs_of(principal, statuses=statuses, cursor=cursor, limit=limit)

    async def events(self, principal: Principal, run_id: RunId, *, after: int = 0) -> AsyncGenerator[Numbered, None]:
        """Return the events of a run, from the one after number `after` up to its end, to iterate over.

        They end without `RunFinished` if the service stops first. To stop iterating changes nothing for the run. Raises
        `NotFound`.
        """
        return _of_run(await self._checked().stream(principal, run_id), after)

    async def again(
        self,
        principal: Principal,
        run_id: RunId,
        *,
        if_busy: IfBusy | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Ticket:
        """Replace a run: the conversation continues from where it began, with the same input. Return the new run.

        `metadata` is by default that of the run. Equal calls under one key make one run. Raises `Invalid`, `NotFound`,
        `SessionBusy` unless the session is at rest or `if_busy` is `INTERRUPT` or `ROLLBACK`, `CannotGoBack`, and as
        `submit` does.
        """
        engine = self._checked()
        run, replaced = await engine.repeatable(principal, run_id)
        request = again_request(
            run,
            run_id,
            trusts_senders=engine.options.trusted_senders,
            if_busy=if_busy,
            priority=priority,
            timeout_s=timeout_s,
            queue_timeout_s=queue_timeout_s,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )
        return Ticket(await engine.submit(request, again=replaced), self._loop)

    async def restore(self, principal: Principal, run_id: RunId) -> RestoredView:
        """Have the conversation continue where it ended when a superseded run was last in it.

        Nothing happens if it is in it. Raises `Invalid`, `NotFound`, `SessionBusy` unless the session is at rest,
        `CannotGoBack` if the run left no messages.
        """
        return await self._checked().restore(principal, run_id)

    async def open_tools(self, principal: Principal, run_id: RunId) -> list[OpenTool]:
        """Return the tool calls of a crashed run whose outcome is unknown. Raises `NotFound`, `NotResolvable`."""
        return await self._checked().unresolved(principal, run_id)

    async def resolve(
        self,
        principal: Principal,
        run_id: RunId,
        tools: Sequence[CheckedTool],
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Ticket:
        """Continue a crashed run with what each of its `open_tools` has done; return the run that does.

        Equal calls under one key make one run. Raises `Invalid`, `NotFound`, `NotResolvable`, and as `submit` does.
        """
        engine = self._checked()
        run = await engine.crashed(principal, run_id)
        request = resolve_request(
            run,
            tools,
            trusts_senders=engine.options.trusted_senders,
            timeout_s=timeout_s,
            idempotency_key=idempotency_key,
        )
        found = resolution(run_id, tools, by=principal)
        return Ticket(await engine.submit(request, resolution=found), self._loop)

    # -- sessions ----------------------------------------------------------------------------------

    async def session(self, key: SessionKey) -> SessionView:
        """Return a session. Raises `NotFound`."""
        return await self._checked(key).session(key)

    async def sessions(
        self, principal: Principal | None, *, after: SessionKey | None = None, limit: int = 100
    ) -> SessionPage:
        """Return a page of the sessions of a caller, or with None of all callers, ordered by caller and id.

        `after` is the `after` of the page before.
        """
        return await self._checked(*([] if after is None else [after])).sessions(principal, after=after, limit=limit)

    async def tree(self, key: SessionKey) -> SessionTree:
        """Return the branches of a session's history, and its forks, without messages. Raises `NotFound`."""
        return await self._checked(key).tree(key)

    async def history(self, key: SessionKey, *, count: int = 0, include_tool_messages: bool = False) -> list[Message]:
        """Return the last `count` messages of a session, oldest first; 0 is all.

        Messages of tool calls and results are left out unless `include_tool_messages`. An unknown session has none.
        """
        return await self._checked(key).history(key, count=count, include_tool_messages=include_tool_messages)

    async def history_page(
        self,
        key: SessionKey,
        *,
        before: int | None = None,
        limit: int = 100,
        discarded: bool = False,
        superseded: bool = False,
    ) -> HistoryPage:
        """Return the last messages before index `before`, oldest first, each with its index and its run.

        With `discarded` and `superseded` the hidden ones too. `first` is the `before` of the next page; 0 is the end.
        """
        return await self._checked(key).history_page(
            key, before=before, limit=limit, discarded=discarded, superseded=superseded
        )

    def why(self, session: SessionView) -> Why | None:
        """Return why a session starts no runs, None if it is idle or only executes."""
        return self._checked().why(session)

    async def export(self, key: SessionKey) -> AsyncGenerator[bytes, None]:
        """Return all of a session as a zip, in pieces: history, runs, options and files. Raises `NotFound`."""
        engine = self._checked(key)
        return Export(engine).pieces(await engine.session(key))

    async def cancel_session(self, key: SessionKey, *, running: bool = False, force: bool = False) -> CancelledRuns:
        """Cancel all waiting runs of a session, with `running` the one that executes too.

        With both and `force` the session continues without waiting for a tool that still works. Raises `NotFound`.
        """
        done = await self._checked(key).cancel_session(key, running=running, force=force)
        return CancelledRuns(cancelled=list(done.ended), cancelling=done.cancelling, dismissed=done.dismissed)

    async def set_options(self, key: SessionKey, options: Mapping[str, Any] | None) -> SessionView:
        """Set default run options of a session, by the names of `RunDefaults`, and return it.

        They count for each later run whose request does not set them. None removes an option, and with None as
        `options` all are removed. Raises `Invalid`, `NotFound`, `StorageFull`.
        """
        return await self._checked(key).set_options(key, options)

    async def fork(
        self,
        key: SessionKey,
        session_id: str | None = None,
        *,
        after: str | int | None = None,
        workspace: Literal["empty", "copy"] = "empty",
        idempotency_key: str | None = None,
    ) -> Forked:
        """Make a session that begins with a copy of this one's history; without `session_id` it gets one.

        The copy ends after run `after`, or after the run with the message of this index; with None it is all of
        history. Its workspace is empty, or a copy of this one's as it is now. Equal calls under one key make one
        session. Raises `Invalid`, `NotFound`, `SessionExists`,
        `CannotGoBack` if nothing can end there, `KeyReused`, `StorageFull`.
        """
        engine = self._checked(key)
        return await engine.fork(fork_request(key, session_id, after, workspace, idempotency_key, engine.new_run_id))

    async def pause(self, key: SessionKey) -> SessionView:
        """Pause a session: accept runs, start none, also after a restart; return it. Raises `NotFound`."""
        return await self._checked(key).pause(key)

    async def resume(self, key: SessionKey) -> SessionView:
        """Resume a paused session, and return it. Raises `NotFound`."""
        return await self._checked(key).resume(key)

    async def delete(self, key: SessionKey) -> bool:
        """Delete a session with its history and runs; return whether there was one.

        Raises `SessionBusy` while a run of it waits or executes.
        """
        return await self._checked(key).delete(key)

    # -- files -------------------------------------------------------------------------------------

    async def upload(self, key: SessionKey, data: bytes | AsyncIterator[bytes], name: str = "") -> File:
        """Store a file of a session, which need not exist yet; it is durable on return.

        Inputs of the session name it in a block, `{"file": file.file_id}`. Raises `Invalid`, `FileTooLarge`,
        `StorageFull`, and another `Unavailable`; nothing is stored then.
        """
        pieces = _once(data) if isinstance(data, bytes) else data
        return await self._checked(key).files.add(key, name, pieces, len(data) if isinstance(data, bytes) else 0)

    async def files(self, key: SessionKey, *, after: FileId | None = None, limit: int = 100) -> FilePage:
        """Return a page of a session's files. `after` is the `after` of the page before."""
        return await self._checked(key).files.page(key, after=after, limit=limit)

    async def file(self, key: SessionKey, file_id: FileId) -> tuple[File, Path]:
        """Return a file, and where its content is, which must not be changed. Raises `NotFound`."""
        return await self._checked(key).files.content(key, file_id)

    async def delete_file(self, key: SessionKey, file_id: FileId) -> None:
        """Delete a file; history keeps what names it. Raises `NotFound`."""
        await self._checked(key).files.delete(key, file_id)

    # -- schedules ---------------------------------------------------------------------------------

    async def create_schedule(self, request: ScheduleRequest) -> ScheduleView:
        """Make a schedule of a session, which need not exist yet; it is durable on return.

        Raises `Invalid`, `TooManySchedules`, and another `Unavailable`.
        """
        return view_of(await self._checked().schedules.create(request))

    async def schedule(self, principal: Principal, schedule_id: ScheduleId) -> ScheduleView:
        """Return a schedule. Raises `NotFound`."""
        return view_of(await self._checked().schedules.read(principal, schedule_id))

    async def schedules(
        self,
        principal: Principal,
        *,
        session_id: SessionId | None = None,
        after: ScheduleId | None = None,
        limit: int = 100,
    ) -> ScheduleViews:
        """Return a page of the schedules of a caller, of one session or of all. `after` is that of the page before."""
        page = await self._checked().schedules.page(principal, session=session_id, after=after, limit=limit)
        shown = list[ScheduleView]()
        for each in page.schedules:
            shown.append(view_of(each))
            await asyncio.sleep(0)  # (times of a cron expression can take milliseconds)
        return ScheduleViews(schedules=shown, after=page.after, damaged=page.damaged)

    async def change_schedule(
        self, principal: Principal, schedule_id: ScheduleId, change: ScheduleChange
    ) -> ScheduleView:
        """Change what is set of a schedule, and return it; with other times, and resumed, it continues from now.

        Raises `Invalid`, `NotFound`.
        """
        return view_of(await self._checked().schedules.change(principal, schedule_id, change))

    async def delete_schedule(self, principal: Principal, schedule_id: ScheduleId) -> None:
        """Delete a schedule; its runs stay. Raises `NotFound`."""
        await self._checked().schedules.delete(principal, schedule_id)

    async def run_schedule(self, principal: Principal, schedule_id: ScheduleId) -> RunView:
        """Accept a run of a schedule now, beside its times; return it. Raises `NotFound`, and as `submit` does."""
        engine = self._checked()
        return await engine.run(principal, await engine.schedules.run_now(principal, schedule_id))

    # -- events and webhooks -----------------------------------------------------------------------

    async def changes(
        self,
        principal: Principal,
        *,
        after: int = 0,
        sessions: Collection[SessionId] = (),
        types: Collection[str] = (),
    ) -> AsyncGenerator[Numbered, None]:
        """Return the events of all sessions of a caller, or of these, to iterate over: from now on, or after a number.

        `types` are those of `GET /v1/events`, all without; text is in each run's own `events` alone. They end when the
        service stops.
        """
        subscription = self._checked().changes(principal, after, sessions=sessions, types=types)

        async def iterate() -> AsyncGenerator[Numbered, None]:
            try:
                async for each in subscription:
                    yield each
            finally:
                subscription.close()

        return iterate()

    async def webhooks(
        self, principal: Principal, *, dead: bool | None = None, after: str | None = None, limit: int = 100
    ) -> DeliveryPage:
        """Return a page of a caller's events that wait to be sent to webhooks, or are `dead`, or (None) both.

        `after` is that of the page before.
        """
        return await self._checked().webhooks.page(principal, dead=dead, after=after, limit=limit)

    async def resend(self, principal: Principal, event_id: str) -> None:
        """Send an event to its webhook again at once, as often as a new one. Raises `NotFound`."""
        await self._checked().webhooks.resend(principal, event_id)

    async def test_webhook(self, principal: Principal, url: str) -> SendResult:
        """Send a test to a webhook once; return whether it was received, and what it answered. Raises `Invalid`."""
        return (await self._checked().webhooks.test(principal, url)).result

    # -- the service -------------------------------------------------------------------------------

    def health(self) -> Health:
        """Return what the service does now, in numbers: the content of `/health`."""
        return self._engine.health()


async def _of_run(stream: RunStream, after: int) -> AsyncGenerator[Numbered, None]:
    events = stream.subscribe(after)
    try:
        async for each in events:
            yield as_last(each)
    finally:
        events.close()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
