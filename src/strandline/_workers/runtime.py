"""Execute orders in a worker: build and run agents on the agent loop, and report.

Belongs to the worker's main loop, which never runs user code, so it always answers.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from msgspec import Struct

from strandline._agents.port import Finished, ProbedAtStart, RunStopped, SessionAgent, Signal, Target
from strandline._clock import Clock
from strandline._encoding import decoder
from strandline._engine.execution import detail_of, kind_of
from strandline._engine.loops import Call, CallCancelled, Loops
from strandline._engine.observers import CURRENT_RUN, CurrentRun
from strandline._model import Carrier, SessionKey
from strandline._workers import messages as m
from strandline._workers.attempt import RemoteAttempt
from strandline._workers.channel import Channel, Frames, frame
from strandline.errors import SetupError

_log = logging.getLogger("strandline.runner")

POLL_EVERY_S: Final = 0.02
"""How often to check whether the threads of an ended call have finished."""
orders: Final = decoder(list[m.Order])
"""Decodes a frame of orders."""


class _Running(Struct):
    """A running call and its attempt."""

    call: Call[Any]
    attempt: RemoteAttempt | None = None


class WorkerRuntime:
    """The worker's half of the connection. `join` continues the trace of a carrier.

    `frames` holds what arrived before the loop ran. `write` sends a frame from any thread; without it, the agent loop
    must be the main loop.
    """

    def __init__(
        self,
        target: Target,
        loops: Loops,
        clock: Clock,
        join: Callable[[Carrier], object],
        *,
        on_exit: Callable[[], object],
        on_close: Callable[[], object],
        frames: Frames | None = None,
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        self.channel = Channel(self._receive, on_close, orders, frames, write)
        self._target = target
        self._loops = loops
        self._clock = clock
        self._join = join
        self._exit = on_exit
        self._owned_until: float | None = None
        self._agents: dict[int, SessionAgent] = {}
        self._calls: dict[int, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reports: list[bytes] = []
        """The reports of the current iteration of the agent loop."""

    async def begin(self) -> None:
        """Probe the target and report `Ready`, or report why it cannot be served and exit."""
        if isinstance(self._target, ProbedAtStart):
            try:
                await self._loops.start(self._target.probe).done
            except SetupError as error:
                self.channel.send(m.LoadFailed(str(error)))
                self._exit()
                return
        self.channel.send(m.Ready(self._target.resumable))

    # -- orders ------------------------------------------------------------------------------------

    def _receive(self, order: m.Order) -> None:
        match order:
            case m.Run():
                self._run(order)
            case m.Build():
                copy_context().run(self._start, order, partial(self._built, order), None)
            case m.Signal(call) if (attempt := self._attempt(call)) is not None:
                attempt.signal.set()
            case m.Cancel(call) if (running_call := self._calls.get(call)) is not None:
                self._loops.cancel(running_call.call)
            case m.Proceed(call, allowed) if (attempt := self._attempt(call)) is not None:
                self._loops.post(partial(attempt.proceed, allowed))
            case m.JoinsWait(call) if (attempt := self._attempt(call)) is not None:
                self._loops.post(attempt.note_joins)
            case m.Joined(call, content) if (attempt := self._attempt(call)) is not None:
                self._loops.post(partial(attempt.join, content))
            case m.WaitingRead(call, waiting) if (attempt := self._attempt(call)) is not None:
                self._loops.post(partial(attempt.waiting_read, waiting))
            case m.Compact(agent) if (idle := self._agents.get(agent)) is not None:
                self._loops.post(idle.compact)
            case m.Drop(agent):
                self._loops.discard(self._agents.pop(agent, None))
            case m.Ping():
                self._heartbeat()
            case m.OwnedUntil(until):
                self._owned_until = until
            case m.GetStack(call):
                self._spawn(self._report_stack(call))
            case m.Exit():
                self._exit()

    def _attempt(self, call: int) -> RemoteAttempt | None:
        running_call = self._calls.get(call)
        return None if running_call is None else running_call.attempt

    def _run(self, order: m.Run) -> None:
        signal: Signal = self._loops.signal()
        self._owned_until = order.owned_until
        attempt = RemoteAttempt(order, signal, self._send, self._clock, self._write_reports, lambda: self._owned_until)
        copy_context().run(self._start, order, partial(_run, self._agents[order.agent], attempt), attempt)

    async def _built(self, order: m.Build) -> None:
        self._agents[order.call] = await self._target.build(order.key, order.record, order.progress)

    def _start(
        self,
        order: m.Build | m.Run,
        work: Callable[[], Coroutine[Any, Any, Finished | None]],
        attempt: RemoteAttempt | None,
    ) -> None:
        """Start a call in its own context."""
        if isinstance(order, m.Build):
            CURRENT_RUN.set(CurrentRun(order.run_id, order.key, order.trace))
        else:
            context = order.context
            CURRENT_RUN.set(CurrentRun(context.run_id, SessionKey(context.principal, context.session_id), order.trace))
        if order.carrier is not None:
            self._join(order.carrier)
        running_call = self._calls[order.call] = _Running(self._loops.start(partial(_ended, work)), attempt)
        self._spawn(self._report_end(order.call, running_call.call))

    async def _report_end(self, number: int, call: Call[Any]) -> None:
        try:
            finished, failure = await call.done
        except CallCancelled:
            finished, failure = None, m.Failure("CancelledError", "", cancelled=True)
        alive = call.is_alive
        resumable = self._target.resumable
        self.channel.send(m.Done(call=number, resumable=resumable, finished=finished, failure=failure, alive=alive))
        while call.is_alive:  # noqa: ASYNC110 (threads of user code end without an event)
            await asyncio.sleep(POLL_EVERY_S)
        del self._calls[number]
        if alive:
            self.channel.send(m.WorkEnded(number))

    # -- reports -----------------------------------------------------------------------------------

    def _send(self, report: bytes) -> None:
        """Send a report with all others of this iteration of the agent loop, before the `Done` of its call."""
        if not self._reports:
            asyncio.get_running_loop().call_soon(self._write_reports)
        self._reports.append(report)

    def _write_reports(self) -> None:
        reports, self._reports = self._reports, []
        if reports:
            self.channel.write(frame(*reports))

    def _heartbeat(self) -> None:
        """Report whether the agent loop has answered its last ping."""
        load = self._loops.load()
        running = None
        if load.silent_s:
            running = next(
                (call for call, running_call in self._calls.items() if self._loops.blocks(running_call.call)), None
            )
        self.channel.send(m.Heartbeat(silent_s=load.silent_s, running=running, backlog=load.backlog))
        self._loops.beat()

    async def _report_stack(self, call: int) -> None:
        running_call = self._calls.get(call)
        self.channel.send(m.Stack(call, [] if running_call is None else await self._loops.stack(running_call.call)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _run(agent: SessionAgent, attempt: RemoteAttempt) -> Finished:
    """Execute an attempt, unless it was stopped before it started: the loop may have been busy."""
    if attempt.signal.is_set():
        raise RunStopped
    return await agent.run(attempt)


async def _ended(
    work: Callable[[], Coroutine[Any, Any, Finished | None]],
) -> tuple[Finished | None, m.Failure | None]:
    """Return every ending of `work` as a value."""
    try:
        return await work(), None
    except asyncio.CancelledError:
        return None, m.Failure("CancelledError", "", cancelled=True)
    except RunStopped:
        return None, m.Failure("RunStopped", "", stopped=True)
    except BaseException as error:  # also SystemExit: a tool that calls sys.exit() fails its own run only
        _log.debug("the run failed here", exc_info=error)
        return None, m.Failure(kind_of(error), detail_of(error))
