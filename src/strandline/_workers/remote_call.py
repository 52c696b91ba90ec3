"""One call in a worker, from the serving process: what it reports is taken in order, and kept before it goes on."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from strandline._agents.port import AgentLost, Attempt, Finished, RunStopped
from strandline._engine.execution import FailedRemotely
from strandline._engine.loops import CURRENT, Call, LiveThread
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
        self._say = send
        self._works = LiveThread("worker")
        self._waiting: deque[m.AttemptCall | m.Done | None] | None = None
        """What was reported since one that is being staged, None if none is. A None in it: and then it was lost."""
        self._asks = False
        """Whether it is a round that is being staged."""
        self._staging: asyncio.Task[None] | None = None
        self._refused: Exception | None = None
        self._is_lost = False
        self._context = copy_context()
        """That of the run, for what is logged while a report of it is staged."""
        self._context.run(CURRENT.set, None)  # (its call is alive as the worker says)
        call.enter(self._works)

    def receive(self, report: m.AttemptCall | m.Done) -> None:
        """Take a report, after all those before it."""
        if self._waiting is not None:
            self._waiting.append(report)
        elif isinstance(report, m.Done):
            self._ended(report)
        elif report.method in m.AWAITED:
            self._waiting = deque([report])
            self._staging = asyncio.create_task(self._catch_up(self._waiting), context=self._context)
        else:
            self._tell(report)

    def over(self) -> None:
        """Note that nothing works for it any more."""
        self.call.leave(self._works)

    def lose(self) -> None:
        """Note that its process is gone; what it has reported is taken before, but for what waits behind a round."""
        self.over()
        self._is_lost = True
        if self._waiting is None or self._asks:
            self._lost()
        else:
            self._waiting.append(None)

    def _lost(self) -> None:
        if not self.done.done():
            self.done.set_exception(self._refused or AgentLost("the worker process that executed the run has died"))

    async def _catch_up(self, waiting: deque[m.AttemptCall | m.Done | None]) -> None:
        """Take what was reported, in order, until nothing waits."""
        while waiting:
            report = waiting.popleft()
            if report is None:
                self._lost()
            elif isinstance(report, m.Done):
                self._ended(report)
            elif report.method in m.AWAITED:
                await self._checkpoint(report)
            else:
                self._tell(report)
        self._waiting = None

    def _tell(self, report: m.AttemptCall) -> None:
        try:
            if report.method in m.ATTEMPT_METHODS and self._attempt is not None:
                getattr(self._attempt, report.method)(*report.args)
        except Exception as error:
            self._refuse(error)

    async def _checkpoint(self, report: m.AttemptCall) -> None:
        assert self._attempt is not None
        allowed = False
        self._asks = report.method == "begin_round"
        try:
            if self._asks and self._is_lost:
                pass  # nobody is there to begin it; where it is known, its tools count as begun
            elif self._refused is None or report.method == "end_tool":  # (what has ended is known, kept or not)
                await getattr(self._attempt, report.method)(*report.args)
                allowed = True
        except RunStopped:
            pass
        except Exception as error:
            self._refuse(error)
        if self._asks:
            self._asks = False
            self._say(m.Proceed(self.number, allowed))

    def _refuse(self, error: Exception) -> None:
        """Have the run end, as this error: what it would do further could not be kept."""
        self._refused = self._refused or error
        self._say(m.Cancel(self.number))

    def _ended(self, report: m.Done) -> None:
        if not report.alive:
            self.over()
        if self.done.done():
            return
        failure = report.failure
        if self._refused is not None:
            self.done.set_exception(self._refused)
        elif failure is None:
            self.done.set_result(report.finished)
        elif failure.cancelled:
            self.done.cancel()
        else:
            self.done.set_exception(FailedRemotely(failure.detail, failure.kind))
