"""The service: what every adapter calls, and nothing else of the engine.

It accepts runs (or refuses them before anything is kept), tells whoever waits how they end, and shows what is going
on. `start` and `drain` are its life.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from strandline.agents.port import Target
from strandline.clock import Clock
from strandline.engine.asked import (
    Health,
    Request,
    RunStack,
    RunView,
    Ticket,
    check_answers,
    check_key,
    in_range,
    reused,
    unanswerable,
    within,
)
from strandline.engine.audience import Audience
from strandline.engine.control import Control
from strandline.engine.dispatcher import Dispatcher
from strandline.engine.estimates import RunTimes
from strandline.engine.holds import Holds
from strandline.engine.loops import Loops
from strandline.engine.options import Options
from strandline.engine.pool import AgentPool
from strandline.engine.recovery import recover
from strandline.engine.runner import Runner
from strandline.engine.stream import Later, RunStream
from strandline.engine.upkeep import look_after, prune
from strandline.engine.watch import Watch
from strandline.engine.worker import Worker
from strandline.errors import (
    Draining,
    Invalid,
    NotFound,
    NotReady,
    QueueFull,
    ServerFull,
    SessionBusy,
)
from strandline.journal.port import (
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    ChangeAnswer,
    Changed,
    Delete,
    HistoryPage,
    HistoryQuery,
    Journal,
    Refused,
    Reused,
    RunQuery,
    RunsQuery,
    SessionQuery,
    SessionsPage,
    SessionsQuery,
    Stopped,
    Unanswerable,
)
from strandline.lifecycle import ENDED
from strandline.model import (
    INTERRUPTS,
    ErrorCode,
    IfBusy,
    Keyed,
    Lane,
    Message,
    NewRun,
    OnDisconnect,
    Outcome,
    Principal,
    Run,
    RunError,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
    SessionView,
    responses,
)

_log = logging.getLogger("strandline.service")

HISTORY_PAGE = 500
NO_ROOM = Bounds(0, 0)
"""Lets no new run in, but tells which run a key stands for."""
ATTACH_AGAIN_S = 0.01


class Service:
    """Accepts runs and sees each to its one outcome. Belongs to the serving loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        target: Target,
        loops: Loops,
        clock: Clock,
        new_run_id: Callable[[], RunId],
        workspace: Callable[[SessionKey], str],
        options: Options,
        owner: str = "strandline",
    ) -> None:
        self._journal = journal
        self._target = target
        self._loops = loops
        self._clock = clock
        self._new_run_id = new_run_id
        if target.exclusive:  # one object for all sessions: nothing may run beside it, nor beside what is left of a run
            options = replace(options, max_running=1, max_holds=1)
        self._options = options
        self._owner = owner
        self._bounds = Bounds(options.max_queued_per_session, options.max_queued)
        self._dispatcher = Dispatcher(options.max_running)
        self._pool = AgentPool(
            max_agents=options.max_agents, agent_idle_s=options.agent_idle_s, clock=clock, loops=loops
        )
        self._runner = Runner(
            journal=journal,
            target=target,
            loops=loops,
            pool=self._pool,
            clock=clock,
            options=options,
            workspace=workspace,
            keeps_slot=self._dispatcher.keeps_slot,
        )
        self.exhausted = asyncio.Event()
        """Set when so many runs have ended and still work that the process has to be replaced."""
        self._holds = Holds(
            journal,
            loops,
            clock,
            limit_s=options.hold_limit_s,
            max_holds=options.max_holds,
            on_full=self._exhaust,
        )
        self._watch = Watch(self._runner, self._holds, loops, self._pool, clock, options)
        self._worker = Worker(
            journal=journal,
            dispatcher=self._dispatcher,
            runner=self._runner,
            holds=self._holds,
            clock=clock,
            on_start=self._run_started,
            on_end=self._run_ended,
        )
        self._control = Control(journal, self._worker, self._is_expected)
        self._audience = Audience(lambda *alone: self._worker.spawn(self._control.left_alone(*alone)))
        self._streams: dict[RunId, RunStream] = {}
        self._times = RunTimes()
        self._ready = False
        self._draining = False
        self._last_asked = clock.monotonic()

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, recover what was executing, and let waiting runs start. Raises a `JournalError`."""
        orphans = await self._journal.open(self._owner, max_attempts=self._options.max_attempts)
        try:
            for orphan in orphans:
                await recover(self._journal, orphan, self._options, self._clock.now(), external=self._target.external)
            await self._worker.start()
            self._worker.spawn(look_after(self._watch, self._worker.limits, self._worker.inputs, self._pool))
            self._worker.spawn(prune(self._journal, self._clock, run_retention_s=self._options.run_retention_s))
        except BaseException:
            await self._journal.close()
            raise
        if orphans or self._dispatcher.waiting:
            _log.info("%d runs were executing when the last server died", len(orphans))
        self._ready = True

    async def drain(self) -> None:
        """Stop: accept nothing, let what executes finish within `drain_grace_s`, stop the rest, close the journal.

        On return every run has its outcome or waits in the journal, and every waiter was told which.
        """
        if self._draining:
            return
        self._draining = True
        self._audience.stop()
        for run_id in self._dispatcher.waiting_runs():
            self._later(run_id)
        await self._worker.drain(drain_grace_s=self._options.drain_grace_s, stop_grace_s=self._options.stop_grace_s)
        for run_id in list(self._streams):
            self._later(run_id)
        await self._journal.close()

    async def abort(self) -> None:
        """End the service at once, and leave the journal as a killed process does."""
        await self._worker.abort()
        self._loops.close()

    # -- what adapters ask for ---------------------------------------------------------------------

    async def submit(self, request: Request) -> Ticket:
        """Accept a run: durable on return. Raises `Unavailable` of some kind; nothing is kept then.

        A request whose idempotency key is known is answered by the run that it stands for, also while the server stops;
        raises `KeyReused` if that was another request. A caller that is cancelled meanwhile does not undo an accept.
        """
        key = request.key
        if request.if_busy is IfBusy.ROLLBACK and self._target.external:
            raise Invalid("if_busy cannot be rollback: these agents keep their history themselves")
        timeout_s = within("timeout", request.timeout_s, self._options.timeout_s)
        queue_timeout_s = within("queue_timeout", request.queue_timeout_s, self._options.queue_timeout_s)
        lane = Lane.FRONT if request.if_busy in INTERRUPTS else Lane.NORMAL
        if request.answers is not None:
            lane = Lane.ANSWER
            check_answers(request)
        run_id = self._new_run_id()
        now = self._clock.now()
        new = NewRun(
            run_id=run_id,
            key=key,
            input=request.input if request.answers is None else responses(request.answers),
            if_busy=request.if_busy,
            lane=lane,
            priority=self._priority(request),
            opaque=self._target.opaque,
            timeout_s=timeout_s,
            queue_deadline=now + queue_timeout_s,
            metadata=request.metadata,
            created_at=now,
            keyed=self._keyed(request, now),
        )
        try:
            self._admit()
        except Draining:
            if new.keyed is None or not self._ready:
                raise
            match await self._journal.accept(new, NO_ROOM, take=False):
                case Attached(run_id=run_id):
                    return await self._attached(key, run_id)
                case Reused():
                    raise reused(request) from None
                case Accepted(position=position):  # an answer, which no bound holds: it goes on after the restart
                    stream = self._streams[run_id] = RunStream(run_id)
                    self._later(run_id)
                    return Ticket(run_id=run_id, key=key, position=position, estimated_wait_s=None, stream=stream)
            raise
        stream = self._streams[run_id] = RunStream(run_id)
        on_disconnect = request.on_disconnect or self._options.on_disconnect
        accept = asyncio.create_task(self._accept(new, on_disconnect))
        accept.add_done_callback(_looked_at)
        match await asyncio.shield(accept):
            case Accepted(position=position):
                if self._draining and position:
                    self._later(run_id)
                return Ticket(
                    run_id=run_id,
                    key=key,
                    position=position,
                    estimated_wait_s=self._estimate_s(key, position),
                    stream=stream,
                    heeds=on_disconnect is not OnDisconnect.CONTINUE,
                )
            case Refused(reason="session_busy"):
                raise SessionBusy(
                    f"session {key.session_id} has runs that execute or wait, and this one is not to wait"
                )
            case Refused() as refused:
                raise self._refusal(key, refused)
            case Attached(run_id=run_id):
                return await self._attached(key, run_id)
            case Reused():
                raise reused(request)
            case Unanswerable() as cannot:
                raise unanswerable(key, cannot)

    def joined(self, run_id: RunId) -> None:
        """Note that a client waits for a run; `left` follows."""
        self._audience.joined(run_id)

    def left(self, run_id: RunId, *, lost: bool) -> None:
        """Note that a client waits no longer: it was answered, or it was `lost`, of which the run may die."""
        self._audience.left(run_id, lost=lost)

    async def run(self, principal: Principal, run_id: RunId) -> RunView:
        """Return a run. Raises `NotFound`, also for a run of another principal."""
        self._asked()
        run = await self._journal.read(RunQuery(principal, run_id))
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return self._view(run)

    def _view(self, run: Run) -> RunView:
        phase = "held" if run.held else None
        if run.status not in ENDED:
            phase = self._runner.phase(run.run_id) or ("waiting" if run.status is RunStatus.QUEUED else "model")
        return RunView(run=run, phase=phase, estimated_wait_s=self._estimate_s(run.key, run.position or 0))

    async def wait(self, principal: Principal, run_id: RunId, timeout_s: float) -> RunView:
        """Return a run once it has ended, or as it is after `timeout_s` seconds. Raises `NotFound`."""
        view = await self.run(principal, run_id)
        if view.run.status in ENDED or self._draining:
            return view
        stream = self._streams.get(run_id)
        if stream is None and self._dispatcher.is_waiting(run_id):
            stream = self._streams[run_id] = RunStream(run_id)
        if stream is not None:
            try:
                await asyncio.wait_for(stream.outcome(), timeout_s)
            except TimeoutError:
                pass
        return await self.run(principal, run_id)

    async def cancel(self, principal: Principal, run_id: RunId, *, force: bool = False) -> RunView:
        """Cancel a run and return it: ended, or asked to end (its `cancel_requested`), which then survives a crash.

        With `force` nothing that still works of it holds its session. Raises `NotFound`, `AlreadyEnded`.
        """
        self._asked()
        await self._control.cancel(principal, run_id, force=force)
        return await self.run(principal, run_id)

    async def cancel_session(self, key: SessionKey, *, running: bool = False, force: bool = False) -> Stopped:
        """Cancel all runs that wait in a session, with `running` the one that executes too. Raises `NotFound`."""
        self._asked()
        return await self._control.cancel_session(key, running=running, force=force)

    async def move(self, principal: Principal, run_id: RunId, priority: int | None) -> RunView:
        """Give a run that waits another priority, or with None the last place of the front; return it.

        Raises `Invalid`, `NotFound`, `AlreadyEnded`, `TooLate`.
        """
        self._asked()
        await self._control.move(principal, run_id, None if priority is None else in_range(priority))
        return await self.run(principal, run_id)

    async def pause(self, key: SessionKey) -> SessionView:
        """Let nothing more of a session start until it is resumed, also after a restart. Raises `NotFound`."""
        self._asked()
        await self._control.pause(key)
        return await self.session(key)

    async def resume(self, key: SessionKey) -> SessionView:
        """Let a paused session go on. Raises `NotFound`."""
        self._asked()
        await self._control.resume(key)
        return await self.session(key)

    async def runs(
        self, key: SessionKey, *, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[RunView], str | None]:
        """Return runs of a session, the last in line first, the latest end last, and the cursor of the next page.

        Raises `Invalid` for a cursor that is none; an unknown session has no runs.
        """
        self._asked()
        page = await self._journal.read(RunsQuery(key, cursor, limit))
        return [self._view(run) for run in page.runs], page.after

    async def session(self, key: SessionKey) -> SessionView:
        """Return a session. Raises `NotFound`."""
        self._asked()
        session = await self._journal.read(SessionQuery(key))
        if session is None:
            raise NotFound(f"there is no session {key.session_id}")
        return session

    async def sessions(self, principal: Principal, *, after: SessionId | None = None, limit: int = 100) -> SessionsPage:
        """Return sessions of a principal in the order of their ids, those after `after`."""
        self._asked()
        return await self._journal.read(SessionsQuery(principal, after, limit))

    async def history_page(
        self, key: SessionKey, *, before: int | None = None, limit: int = 100, discarded: bool = False
    ) -> HistoryPage:
        """Return the last messages before index `before`, oldest first; with `discarded` hidden ones too."""
        self._asked()
        return await self._journal.read(HistoryQuery(key, before, limit, discarded))

    async def history(self, key: SessionKey, *, count: int = 0, include_tool_messages: bool = False) -> list[Message]:
        """Return the last `count` messages of a session, oldest first; 0 is all. An unknown session has none."""
        check_key(key)
        self._asked()
        kept: list[Message] = []
        before: int | None = None
        while True:
            page = await self._journal.read(HistoryQuery(key, before, HISTORY_PAGE))
            messages = page.messages if include_tool_messages else [m for m in page.messages if not _only_tools(m)]
            kept = messages + kept
            if page.first == 0 or (count and len(kept) >= count):
                return kept[-count:] if count else kept
            before = page.first

    async def delete(self, key: SessionKey) -> bool:
        """Forget a session; False if there was none. Raises `SessionBusy` while a run of it waits or executes."""
        check_key(key)
        self._admit()
        deleting = asyncio.create_task(self._delete(key))
        deleting.add_done_callback(_looked_at)
        changed = await asyncio.shield(deleting)
        if not isinstance(changed, Changed):
            raise SessionBusy("the session has a run that waits, executes or is held; delete it when that has ended")
        return changed.existed

    def health(self) -> Health:
        """Return what goes on; takes microseconds, whatever user code does."""
        oldest = self._dispatcher.oldest
        quiet_s = self._runner.quiet_s()
        return Health(
            ready=self._ready and not self._draining and not self.exhausted.is_set(),
            draining=self._draining or self.exhausted.is_set(),
            processing=self._worker.executing > 0 or len(self._holds) > 0,
            running=self._worker.executing,
            held=len(self._holds),
            stalled=sum(each >= self._options.stall_after_s for each in quiet_s),
            queue_depth=self._dispatcher.waiting,
            oldest_wait_s=0.0 if oldest is None else max(0.0, self._clock.now() - oldest),
            longest_no_progress_s=max(quiet_s, default=0.0),
            agents_in_memory=len(self._pool),
            lost_clients=self._audience.lost,
        )

    def stacks(self) -> list[RunStack]:
        """Return what every run does that executes, or has ended and still works."""
        now = self._clock.monotonic()
        found = [
            RunStack(
                run=each.attempt.claim.run,
                phase=each.attempt.phase,
                quiet_s=now - each.attempt.last_progress,
                stack=[] if each.call is None else self._loops.stack(each.call),
            )
            for each in self._runner.executing()
        ]
        return found + [
            RunStack(run=claim.run, phase="held", quiet_s=now - since, stack=self._loops.stack(call))
            for claim, call, since in self._holds.all()
        ]

    def idle_s(self) -> float:
        """Return for how many seconds nothing has run, waited or been asked for."""
        if self._worker.executing or self._dispatcher.waiting or len(self._holds):
            self._asked()
        return self._clock.monotonic() - self._last_asked

    # -- inside ------------------------------------------------------------------------------------

    def _priority(self, request: Request) -> int:
        return in_range(self._options.priority if request.priority is None else request.priority)

    def _keyed(self, request: Request, now: float) -> Keyed | None:
        if request.idempotency_key is None:
            return None
        ended_before = now - self._options.idempotency_retention_s
        return Keyed(request.idempotency_key, request.fingerprint, ended_before)

    async def _attached(self, key: SessionKey, run_id: RunId) -> Ticket:
        """Return the ticket of a run that was accepted before, whether it has ended or not. Raises `NotFound`."""
        while True:
            run = await self._journal.read(RunQuery(key.principal, run_id))
            if run is None:
                raise NotFound(f"run {run_id} is not there any more")
            stream = self._streams.get(run_id)
            if run.outcome is not None:
                stream = RunStream(run_id)
                stream.finish(run.outcome)
            elif stream is None and (self._draining or self._dispatcher.is_waiting(run_id)):
                stream = self._streams[run_id] = RunStream(run_id)
                if self._draining:
                    self._later(run_id)
            if stream is not None:
                position = run.position or 0
                return Ticket(
                    run_id=run_id,
                    key=key,
                    position=position,
                    estimated_wait_s=self._estimate_s(key, position),
                    stream=stream,
                    replayed=run.outcome is not None,
                    heeds=run.outcome is None,
                )
            await asyncio.sleep(ATTACH_AGAIN_S)  # it has ended since it was read

    def _exhaust(self) -> None:
        """Start and accept nothing any more: what still works of ended runs must not have company, or more of it."""
        self._dispatcher.stop()
        self.exhausted.set()

    def _is_expected(self, run_id: RunId) -> bool:
        """Tell whether the end of a run is still to come in this process."""
        return run_id in self._streams or self._dispatcher.is_waiting(run_id)

    def _admit(self) -> None:
        self._asked()
        if self._draining or self.exhausted.is_set():
            raise Draining("the server is stopping", retry_after_s=self._options.retry_after_s)
        if not self._ready:
            raise NotReady("the server is starting", retry_after_s=self._options.retry_after_s)

    def _asked(self) -> None:
        self._last_asked = self._clock.monotonic()

    async def _delete(self, key: SessionKey) -> ChangeAnswer:
        """Have the journal delete a session, to the end of it whoever waits."""
        # A run that ends before the deletion and after it was asked for must not leave its agent for another session.
        with self._pool.keeping_none(key):
            changed = await self._journal.change(Delete(key))
        if isinstance(changed, Changed):
            self._worker.resumed(key)  # if it was paused: another one of this name is not
        return changed

    async def _accept(self, new: NewRun, on_disconnect: OnDisconnect) -> AcceptAnswer:
        """Have the journal accept a run, to the end of it whoever waits."""
        try:
            accepted = await self._worker.accept(new, self._bounds)
        except BaseException:
            self._streams.pop(new.run_id, None)
            raise
        if not isinstance(accepted, Accepted):
            self._streams.pop(new.run_id, None)
        elif new.run_id in self._streams:  # else it has ended meanwhile
            self._audience.expect(new.run_id, new.key, on_disconnect)
        if isinstance(accepted, Accepted) and accepted.stopped is not None:
            self._control.tell(new.key, accepted.stopped, discard=new.if_busy is IfBusy.ROLLBACK)
        return accepted

    def _refusal(self, key: SessionKey, refused: Refused) -> QueueFull:
        estimate = self._estimate_s(key, refused.position)
        if refused.reason == "queue_full":
            return QueueFull(
                f"{self._options.max_queued_per_session} runs of session {key.session_id} wait already",
                retry_after_s=self._retry_after_s(key),
                position=refused.position,
                estimated_wait_s=estimate,
            )
        return ServerFull(
            f"{self._options.max_queued} runs wait already on this server",
            retry_after_s=self._options.retry_after_s,
            position=refused.position,
            estimated_wait_s=estimate,
        )

    def _estimate_s(self, key: SessionKey, position: int) -> float | None:
        """Return how long a run at `position` is likely to wait; nobody knows how long a session stays paused."""
        if position and self._worker.limits.is_paused(key):
            return None
        return self._times.wait_s(key, position)

    def _retry_after_s(self, key: SessionKey) -> float:
        """Return when there is likely to be room in the queue of a session: when its next run has ended."""
        if self._worker.limits.is_paused(key):
            return self._options.retry_after_s
        return max(1.0, self._times.mean_s(key) or 1.0)

    def _run_started(self, run_id: RunId) -> None:
        if run_id not in self._streams:  # accepted before a restart: somebody may come to wait for it
            self._streams[run_id] = RunStream(run_id)

    def _run_ended(self, run_id: RunId, key: SessionKey, outcome: Outcome | None, duration_s: float | None) -> None:
        self._audience.forget(run_id)
        if outcome is None:
            self._later(run_id)
            return
        if duration_s is not None:
            self._times.ended(key, duration_s)
        if (stream := self._streams.pop(run_id, None)) is not None:
            stream.finish(outcome)

    def _later(self, run_id: RunId) -> None:
        """Tell whoever waits that a run goes on after a restart, or that it never will."""
        if (stream := self._streams.pop(run_id, None)) is None:
            return
        if self._options.survives:
            stream.finish(Later.LATER)
        else:
            error = RunError(ErrorCode.STOPPED, "the server was stopped, and its journal keeps nothing")
            stream.finish(Outcome(status=RunStatus.FAILED, error=error))


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """Note that whoever asked knows of a failure, or is not there any more."""
    if not task.cancelled():
        task.exception()


def _only_tools(message: Message) -> bool:
    return all("toolUse" in block or "toolResult" in block for block in message["content"])
