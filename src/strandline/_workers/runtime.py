"""What a worker does with its orders: has agents built and run on its agent loop, and tells what comes of it.

Belongs to the loop of the worker that listens, which never runs user code: it answers whatever an agent does.
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

LOOK_EVERY_S: Final = 0.02
"""How often it is looked whether a thread that works on after its call has ended."""
orders: Final = decoder(list[m.Order])
"""Reads a frame of orders."""


class _Under(Struct):
    """A call under way, and what can be told it."""

    call: Call[Any]
    attempt: RemoteAttempt | None = None


class WorkerRuntime:
    """The worker's half of the connection. `join` makes the trace current that a carrier names.

    `frames` has what came before anybody listened. `write` sends a frame from any thread; without it, the
    agent loop has to be the loop that listens.
    """

    def __init__(
        self,
        target: Target,
        loops: Loops,
        clock: Clock,
        join: Callable[[Carrier], object],
        *,
        leave: Callable[[], object],
        gone: Callable[[], object],
        frames: Frames | None = None,
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        self.channel = Channel(self._receive, gone, orders, frames, write)
        self._target = target
        self._loops = loops
        self._clock = clock
        self._join = join
        self._leave = leave
        self._agents: dict[int, SessionAgent] = {}
        self._calls: dict[int, _Under] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reports: list[bytes] = []
        """What the agents have reported in this turn of their loop."""

    async def begin(self) -> None:
        """Try what is served, and say that calls are taken; or why they cannot be, and leave."""
        if isinstance(self._target, ProbedAtStart):
            try:
                await self._loops.start(self._target.probe).done
            except SetupError as error:
                self.channel.send(m.LoadFailed(str(error)))
                self._leave()
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
            case m.Cancel(call) if (under := self._calls.get(call)) is not None:
                self._loops.cancel(under.call)
            case m.Proceed(call, allowed) if (attempt := self._attempt(call)) is not None:
                self._loops.post(partial(attempt.proceed, allowed))
            case m.Compact(agent) if (idle := self._agents.get(agent)) is not None:
                self._loops.post(idle.compact)
            case m.Drop(agent):
                self._loops.discard(self._agents.pop(agent, None))
            case m.Ping():
                self._pulse()
            case m.GetStack(call):
                self._spawn(self._tell_where(call))
            case m.Exit():
                self._leave()

    def _attempt(self, call: int) -> RemoteAttempt | None:
        under = self._calls.get(call)
        return None if under is None else under.attempt

    def _run(self, order: m.Run) -> None:
        signal: Signal = self._loops.signal()
        attempt = RemoteAttempt(order, signal, self._send, self._clock, self._write_reports)
        copy_context().run(self._start, order, partial(_run, self._agents[order.agent], attempt), attempt)

    async def _built(self, order: m.Build) -> None:
        self._agents[order.call] = await self._target.build(order.key, order.record, order.progress)

    def _start(
        self,
        order: m.Build | m.Run,
        work: Callable[[], Coroutine[Any, Any, Finished | None]],
        attempt: RemoteAttempt | None,
    ) -> None:
        """Begin a call, in a context of its own."""
        if isinstance(order, m.Build):
            CURRENT_RUN.set(CurrentRun(order.run_id, order.key, order.trace))
        else:
            context = order.context
            CURRENT_RUN.set(CurrentRun(context.run_id, SessionKey(context.principal, context.session_id), order.trace))
        if order.carrier is not None:
            self._join(order.carrier)
        under = self._calls[order.call] = _Under(self._loops.start(partial(_ended, work)), attempt)
        self._spawn(self._tell_end(order.call, under.call))

    async def _tell_end(self, number: int, call: Call[Any]) -> None:
        try:
            finished, failure = await call.done
        except CallCancelled:
            finished, failure = None, m.Failure("CancelledError", "", cancelled=True)
        alive = call.is_alive
        resumable = self._target.resumable
        self.channel.send(m.Done(call=number, resumable=resumable, finished=finished, failure=failure, alive=alive))
        while call.is_alive:  # noqa: ASYNC110 (threads of user code tell nobody that they end)
            await asyncio.sleep(LOOK_EVERY_S)
        del self._calls[number]
        if alive:
            self.channel.send(m.WorkEnded(number))

    # -- reports -----------------------------------------------------------------------------------

    def _send(self, told: bytes) -> None:
        """Send a report, with all others of this turn of the agent loop: before the end of its call, which is told by
        way of the other loop."""
        if not self._reports:
            asyncio.get_running_loop().call_soon(self._write_reports)
        self._reports.append(told)

    def _write_reports(self) -> None:
        told, self._reports = self._reports, []
        if told:
            self.channel.write(frame(*told))

    def _pulse(self) -> None:
        """Say how the agent loop does: whether it has given the sign of life that it was last asked for."""
        load = self._loops.load()
        running = None
        if load.silent_s:
            running = next((call for call, under in self._calls.items() if self._loops.blocks(under.call)), None)
        self.channel.send(m.Heartbeat(silent_s=load.silent_s, running=running, backlog=load.backlog))
        self._loops.beat()

    async def _tell_where(self, call: int) -> None:
        under = self._calls.get(call)
        self.channel.send(m.Stack(call, [] if under is None else await self._loops.stack(under.call)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _run(agent: SessionAgent, attempt: RemoteAttempt) -> Finished:
    """Execute an attempt, unless it was to end before it had begun: others may have kept the loop for long."""
    if attempt.signal.is_set():
        raise RunStopped
    return await agent.run(attempt)


async def _ended(
    work: Callable[[], Coroutine[Any, Any, Finished | None]],
) -> tuple[Finished | None, m.Failure | None]:
    """Do the work, and return every ending of it as a value."""
    try:
        return await work(), None
    except asyncio.CancelledError:
        return None, m.Failure("CancelledError", "", cancelled=True)
    except BaseException as error:  # also SystemExit: a tool that calls sys.exit() fails its own run only
        _log.debug("the run failed here", exc_info=error)
        return None, m.Failure(kind_of(error), detail_of(error))
