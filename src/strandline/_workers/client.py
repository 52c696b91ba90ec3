"""One worker, seen from the serving process: its calls, and what it tells of them. Belongs to the serving loop."""

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

LAST_WORDS_S: Final = 1.0
"""How long the connection to a process that is gone may stay open: what it has begun without our knowledge holds it."""
END_S: Final = 0.5
"""How long a process that has closed its connection gets to end: only its end says that nothing of it works."""
WHERE_S: Final = 0.5
"""How long a worker gets to tell where the code of a call is."""


class WorkerClient:
    """The serving process's half of the connection to one worker.

    `kill` ends the process at once, however it is; whoever knows that nothing of it is left says so with `dead`.
    """

    def __init__(self, pid: int, clock: Clock, kill: Callable[[], object], *, resumable: bool | None = None) -> None:
        self.pid = pid
        self.resumable = resumable
        """Whether runs of its target are resumable, None if unknown; its predecessor's answer until it reports."""
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it takes calls, or why not, as soon as that is known."""
        self.leaving = False
        """Whether nothing more is to begin there."""
        self.dismissed = False
        """Whether it was told to end."""
        self.agents = 0
        """How many agents are known to be there."""
        self.why = ""
        """Why it cannot serve, if it has said so."""
        self._clock = clock
        self._kill = kill
        self._channel: Channel | None = None
        self._remotes: dict[int, RemoteCall] = {}
        self._calls: set[Call[Any]] = set()
        """Those that have executed here, until their runs have ended."""
        self._numbers = count()
        self._asked_at: float | None = None
        self._pulse = m.Heartbeat(silent_s=0.0, running=None, backlog=0)
        self._pulse_at = clock.monotonic()
        self._answers: dict[int, asyncio.Future[list[str]]] = {}
        self._dead = False
        self._closed = asyncio.Event()

    def channel(self, frames: Frames | None = None) -> Channel:
        """Return the end of the connection, to be connected."""
        self._channel = Channel(self._receive, self._gone, reports, frames)
        return self._channel

    # -- what is asked of it -----------------------------------------------------------------------

    @property
    def is_free(self) -> bool:
        """Whether calls may begin there."""
        return not (self._dead or self.leaving) and self.ready.done() and self.ready.result()

    @property
    def running(self) -> int:
        """How many calls execute there for runs that have not ended."""
        return len(self._calls)

    @property
    def backlog(self) -> int:
        """How many tools wait there for a thread."""
        return self._pulse.backlog

    def send(self, order: m.Order) -> None:
        """Give an order; in vain if it is dead."""
        if self._channel is not None and not self._dead:
            self._channel.send(order)

    def number(self) -> int:
        """Return the number of a new call."""
        return next(self._numbers)

    async def execute(self, order: m.Build | m.Run, call: Call[Any], attempt: Attempt | None) -> Finished | None:
        """Have a call executed there; a cancel of the task that waits is a cancel of the call.

        Raises `AgentLost` if the worker dies, `FailedThere` for what the user's code raises.
        """
        if self._dead:
            raise AgentLost("the worker process has died")
        call.loop = self
        remote = self._remotes[order.call] = RemoteCall(order.call, call, attempt, self.send)
        self._calls.add(call)  # also between the call that builds an agent and the one that it executes
        call.done.add_done_callback(lambda _: self._calls.discard(call))
        self.send(order)
        while True:
            try:
                return await asyncio.shield(remote.done)
            except asyncio.CancelledError:
                if remote.done.cancelled() or call.done.done():
                    raise  # it was, or nobody waits for it any more: this loop is at its end
                self.send(m.Cancel(order.call))

    def beat(self) -> None:
        """Ask for a sign of life, unless one is owed."""
        if self._asked_at is None and not self._dead:
            self._asked_at = self._clock.monotonic()
            self.send(m.Ping())

    def silent_s(self) -> float:
        """Return for how long a sign of life has been owed, by the worker or by the loop of its agents.

        One that loads what it serves owes none.
        """
        now = self._clock.monotonic()
        if self._dead or not self.ready.done():
            return 0.0
        theirs = self._pulse.silent_s + now - self._pulse_at if self._pulse.silent_s else 0.0
        return max(theirs, 0.0 if self._asked_at is None else now - self._asked_at)

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether it is this call's code that had the agent loop's thread when last heard of."""
        remote = self._remotes.get(-1 if self._pulse.running is None else self._pulse.running)
        return remote is not None and remote.call is call

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return where the code of a call is, as far as the worker can tell in time."""
        lines: list[str] = []
        for number in [each.number for each in self._remotes.values() if each.call is call]:
            answer = self._answers.get(number)
            if answer is None:
                answer = self._answers[number] = asyncio.get_running_loop().create_future()
                self.send(m.GetStack(number))
            try:
                lines += await asyncio.wait_for(asyncio.shield(answer), WHERE_S)
            except TimeoutError:
                lines.append(f"worker {self.pid} does not answer; `py-spy dump --pid {self.pid}` may tell why")
        return lines

    def kill(self) -> None:
        """End it at once."""
        self.leaving = self.dismissed = True
        self._kill()

    def drain(self) -> None:
        """Have nothing more begin there, and end it when nothing executes any more that somebody waits for."""
        self.leaving = self.dismissed = True
        asyncio.get_running_loop().call_soon(self.end_if_idle)  # a run that has just got its agent here begins before

    def end_if_idle(self) -> None:
        """End it if nothing is wanted of it any more."""
        if self.dismissed and not self._dead and not self.running:
            self._kill()

    # -- what it tells -----------------------------------------------------------------------------

    def _receive(self, report: m.Report) -> None:
        if self._dead:
            return
        match report:
            case m.AttemptCall(call) if (remote := self._remotes.get(call)) is not None:
                remote.receive(report)
            case m.AttemptCall():
                pass  # from a task that nobody has counted, of a call of which nothing was to work any more
            case m.Done(call=call):
                self.resumable = report.resumable
                (self._remotes[call] if report.alive else self._remotes.pop(call)).receive(report)
            case m.WorkEnded(call):
                self._remotes.pop(call).over()
            case m.Heartbeat():
                self._pulse, self._pulse_at, self._asked_at = report, self._clock.monotonic(), None
            case m.Stack(call, lines):
                if not (answer := self._answers.pop(call)).done():
                    answer.set_result(lines)
            case m.Ready(resumable):
                self.resumable = resumable
                self.ready.set_result(True)
            case m.LoadFailed(why):
                self.why = why
            case m.Loaded():
                pass  # it knows more when it is ready

    def _gone(self) -> None:
        """Note that the connection has ended: the process is dead, or about to be, or it is ended."""
        self.leaving = True
        self._closed.set()
        asyncio.get_running_loop().call_later(END_S, self._kill)

    async def last_words(self) -> None:
        """Return when all is read that the process has said, which is gone."""
        self.leaving = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), LAST_WORDS_S)

    def dead(self) -> None:
        """Note that nothing of the process is left, nor of what it has said."""
        self._dead = True
        if self._channel is not None:
            self._channel.abort()
        if not self.ready.done():
            self.ready.set_result(False)
        remotes, self._remotes = self._remotes, {}
        for each in remotes.values():
            each.lose()
