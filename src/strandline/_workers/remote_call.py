"""One call in a worker, as the serving process sees it: applies its reports in order and stores checkpoints."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from strandline._agents.port import AgentLost, Attempt, Finished, RunStopped
from strandline._engine.execution import FailedRemotely
from strandline._engine.loops import CURRENT, Call, LiveThread
from strandline._history import UNKNOWN_WAITING
from strandline._workers import messages as m


class RemoteCall:
    """The state of one call. `attempt` receives its reports; `send` sends orders to its worker."""

    def __init__(
        self, number: int, call: Call[Any], attempt: Attempt | None, send: Callable[[m.Order], object]
    ) -> None:
        self.number = number
        self.call = call
        self.done: asyncio.Future[Finished | None] = asyncio.get_running_loop().create_future()
        self._attempt = attempt
        self._send = send
        self._works = LiveThread("worker")
        self._waiting: deque[m.AttemptCall | m.Done | None] | None = None
        """The reports behind a checkpoint that is being stored, None if none is. A None in it: then the worker died."""
        self._in_begin_round = False
        """Whether `begin_round` is being stored."""
        self._storing: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._is_lost = False
        self._context = copy_context()
        """The run's context, for logs of its checkpoints."""
        self._context.run(CURRENT.set, None)  # (the worker reports whether the call is alive)
        call.enter(self._works)

    def receive(self, report: m.AttemptCall | m.Done) -> None:
        """Apply a report, after all those before it."""
        if self._waiting is not None:
            self._waiting.append(report)
        elif isinstance(report, m.Done):
            self._ended(report)
        elif report.method in m.AWAITED:
            self._waiting = deque([report])
            self._storing = asyncio.create_task(self._catch_up(self._waiting), context=self._context)
        else:
            self._apply(report)

    def over(self) -> None:
        """Note that nothing works for the call any more."""
        self.call.leave(self._works)

    def lose(self) -> None:
        """Note that the worker is gone. Earlier reports are applied first, except those behind a `begin_round`."""
        self.over()
        self._is_lost = True
        if self._waiting is None or self._in_begin_round:
            self._lost()
        else:
            self._waiting.append(None)

    def _lost(self) -> None:
        if not self.done.done():
            self.done.set_exception(self._error or AgentLost("the worker process that executed the run has died"))

    async def _catch_up(self, waiting: deque[m.AttemptCall | m.Done | None]) -> None:
        """Apply the waiting reports in order."""
        while waiting:
            report = waiting.popleft()
            if report is None:
                self._lost()
            elif isinstance(report, m.Done):
                self._ended(report)
            elif report.method in m.AWAITED:
                await self._checkpoint(report)
            else:
                self._apply(report)
        self._waiting = None

    def _apply(self, report: m.AttemptCall) -> None:
        try:
            if report.method in m.ATTEMPT_METHODS and self._attempt is not None:
                getattr(self._attempt, report.method)(*report.args)
        except Exception as error:
            self._fail(error)

    async def _checkpoint(self, report: m.AttemptCall) -> None:
        assert self._attempt is not None
        allowed = False
        answer: Any = None
        self._in_begin_round = report.method == "begin_round"
        try:
            if self._in_begin_round and self._is_lost:
                pass  # the tools cannot start any more; if the round were stored, they would count as started
            elif self._error is None or report.method == "end_tool":  # (a result is known even if it cannot be stored)
                answer = await getattr(self._attempt, report.method)(*report.args)
                allowed = True
        except RunStopped:
            pass
        except Exception as error:
            self._fail(error)
        if self._in_begin_round:
            self._in_begin_round = False
            self._send(m.Proceed(self.number, allowed))
        elif report.method == "take_joins":
            self._send(m.Joined(self.number, answer or []))
        elif report.method == "read_waiting":
            self._send(m.WaitingRead(self.number, answer or UNKNOWN_WAITING))

    def _fail(self, error: Exception) -> None:
        """End the run with this error: its further work could not be stored."""
        self._error = self._error or error
        self._send(m.Cancel(self.number))

    def _ended(self, report: m.Done) -> None:
        if not report.alive:
            self.over()
        if self.done.done():
            return
        failure = report.failure
        if self._error is not None:
            self.done.set_exception(self._error)
        elif failure is None:
            self.done.set_result(report.finished)
        elif failure.cancelled:
            self.done.cancel()
        elif failure.stopped:
            self.done.set_exception(RunStopped())
        else:
            self.done.set_exception(FailedRemotely(failure.detail, failure.kind))
