"""The serving process's client of one worker. Belongs to the serving loop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final

from strandline._agents.port import AgentLost, Attempt, Finished
from strandline._clock import Clock
from strandline._engine.loops import Call
from strandline._workers import messages as m
from strandline._workers.channel import Channel, Frames
from strandline._workers.remote_call import RemoteCall
from strandline._workers.reports import reports

READ_REST_S: Final = 1.0
"""How long to read from the connection of a dead process: a process that it started may still hold it open."""
END_S: Final = 0.5
"""How long a process that closed its connection gets to exit before it is killed."""
WHERE_S: Final = 0.5
"""How long a worker gets to answer with a stack."""


class WorkerClient:
    """The serving process's half of the connection to one worker.

    `kill` ends the process at once. The owner of the process calls `dead` when the process is gone.
    """

    def __init__(self, pid: int, clock: Clock, kill: Callable[[], object], *, resumable: bool | None = None) -> None:
        self.pid = pid
        self.resumable = resumable
        """Whether runs of its target are resumable, None if unknown; its predecessor's answer until it reports."""
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Resolves to whether the worker accepts calls."""
        self.leaving = False
        """Whether no more calls may start there."""
        self.dismissed = False
        """Whether the process is to be killed as soon as it is idle."""
        self.owned_until: float | None = None
        """Until when user code may start there, by `boottime`; None: without limit."""
        self.agents = 0
        """The number of agents in the worker."""
        self.why = ""
        """Why the target could not be loaded, if the worker has reported it."""
        self._clock = clock
        self._kill = kill
        self._channel: Channel | None = None
        self._remotes: dict[int, RemoteCall] = {}
        self._calls: set[Call[Any]] = set()
        """The calls that executed here, until their runs have ended."""
        self._numbers = count()
        self._pinged_at: float | None = None
        self._heartbeat = m.Heartbeat(silent_s=0.0, running=None, backlog=0)
        self._heartbeat_at = clock.monotonic()
        self._answers: dict[int, asyncio.Future[list[str]]] = {}
        self._dead = False
        self._closed = asyncio.Event()

    def channel(self, frames: Frames | None = None) -> Channel:
        """Return the channel to connect."""
        self._channel = Channel(self._receive, self._closed_by_worker, reports, frames)
        return self._channel

    # -- orders ------------------------------------------------------------------------------------

    @property
    def is_free(self) -> bool:
        """Whether calls may start there."""
        return not (self._dead or self.leaving) and self.ready.done() and self.ready.result()

    @property
    def running(self) -> int:
        """The number of calls that execute there for runs that have not ended."""
        return len(self._calls)

    @property
    def backlog(self) -> int:
        """The number of tools that wait there for a thread."""
        return self._heartbeat.backlog

    def send(self, order: m.Order) -> None:
        """Send an order; do nothing if the worker is dead."""
        if self._channel is not None and not self._dead:
            self._channel.send(order)

    def number(self) -> int:
        """Return a number for a new call."""
        return next(self._numbers)

    async def execute(self, order: m.Build | m.Run, call: Call[Any], attempt: Attempt | None) -> Finished | None:
        """Execute a call in the worker. Cancelling the waiting task cancels the call.

        Raises `AgentLost` if the worker dies, `FailedRemotely` if the user's code raises.
        """
        if self._dead:
            raise AgentLost("the worker process has died")
        call.loop = self
        remote = self._remotes[order.call] = RemoteCall(order.call, call, attempt, self.send)
        self._calls.add(call)  # also between the call that builds an agent and the one that runs it
        call.done.add_done_callback(lambda _: self._calls.discard(call))
        self.send(order)
        while True:
            try:
                return await asyncio.shield(remote.done)
            except asyncio.CancelledError:
                if remote.done.cancelled() or call.done.done():
                    raise  # the call was cancelled, or its run has ended: this loop is closing
                self.send(m.Cancel(order.call))

    def beat(self) -> None:
        """Send a ping, unless one is unanswered."""
        if self._pinged_at is None and not self._dead:
            self._pinged_at = self._clock.monotonic()
            self.send(m.Ping())

    def silent_s(self) -> float:
        """Return how long a ping has been unanswered, by the worker or by its agent loop.

        0 while the worker loads its target.
        """
        now = self._clock.monotonic()
        if self._dead or not self.ready.done():
            return 0.0
        theirs = self._heartbeat.silent_s + now - self._heartbeat_at if self._heartbeat.silent_s else 0.0
        return max(theirs, 0.0 if self._pinged_at is None else now - self._pinged_at)

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether this call occupied the agent loop at the last heartbeat."""
        remote = self._remotes.get(-1 if self._heartbeat.running is None else self._heartbeat.running)
        return remote is not None and remote.call is call

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return the stack of a call, as far as the worker answers in time."""
        lines: list[str] = []
        for number in [each.number for each in self._remotes.values() if each.call is call]:
            answer = self._answers.get(number)
            if answer is None:
                answer = self._answers[number] = asyncio.get_running_loop().create_future()
                self.send(m.GetStack(number))
            try:
                lines += await asyncio.wait_for(asyncio.shield(answer), WHERE_S)
            except TimeoutError:
                lines.append(f"worker {self.pid} does not answer; `py-spy dump --pid {self.pid}` may show why")
        return lines

    def kill(self) -> None:
        """Kill the process."""
        self.leaving = self.dismissed = True
        self._kill()

    def drain(self) -> None:
        """Start no more calls there, and kill the process once no run waits for it."""
        self.leaving = self.dismissed = True
        asyncio.get_running_loop().call_soon(self.end_if_idle)  # a run that has just got its agent here starts first

    def end_if_idle(self) -> None:
        """Kill the process if it is dismissed and idle."""
        if self.dismissed and not self._dead and not self.running:
            self._kill()

    # -- reports -----------------------------------------------------------------------------------

    def _receive(self, report: m.Report) -> None:
        if self._dead:
            return
        match report:
            case m.AttemptCall(call) if (remote := self._remotes.get(call)) is not None:
                remote.receive(report)
            case m.AttemptCall():
                pass  # from a task that was not counted, of a call that has ended
            case m.Done(call=call):
                self.resumable = report.resumable
                (self._remotes[call] if report.alive else self._remotes.pop(call)).receive(report)
            case m.WorkEnded(call):
                self._remotes.pop(call).over()
            case m.Heartbeat():
                self._heartbeat, self._heartbeat_at, self._pinged_at = report, self._clock.monotonic(), None
            case m.Stack(call, lines):
                if not (answer := self._answers.pop(call)).done():
                    answer.set_result(lines)
            case m.Ready(resumable):
                self.resumable = resumable
                self.ready.set_result(True)
            case m.LoadFailed(why):
                self.why = why
            case m.Loaded():
                pass  # `Ready` says more

    def _closed_by_worker(self) -> None:
        """Note that the connection was closed: the process is dead, or will be killed."""
        self.leaving = True
        self._closed.set()
        asyncio.get_running_loop().call_later(END_S, self._kill)

    async def read_rest(self) -> None:
        """Return when all reports of a dead process are read."""
        self.leaving = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), READ_REST_S)

    def dead(self) -> None:
        """Note that the process is gone and all its reports are read."""
        self._dead = True
        if self._channel is not None:
            self._channel.abort()
        if not self.ready.done():
            self.ready.set_result(False)
        remotes, self._remotes = self._remotes, {}
        for each in remotes.values():
            each.lose()
