"""The serving process's side: a `Target` whose session agents stand for those in worker processes."""

import asyncio
import os
import socket
import subprocess
import sys
import weakref
from itertools import count
from typing import Any

import msgspec

from bench.workers.wire import Channel
from strandline.agents.port import Attempt, Finished, RunStopped, SessionAgent, Target
from strandline.errors import AgentFailed
from strandline.history import Progress
from strandline.model import AgentRecord, SessionKey

LOOK_EVERY_S = 0.02


class WorkerEnd:
    """One worker, seen from the loop on which the engine runs agents."""

    def __init__(self, target: str) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        fd = theirs.fileno()
        arguments = [sys.executable, "-m", "bench.workers.child", str(fd), target]
        self.process = subprocess.Popen(arguments, pass_fds=[fd])
        theirs.close()
        self.agents = 0
        self._channel: Channel | None = None
        self._runs: dict[int, tuple[Attempt, asyncio.Future[Finished]]] = {}
        self._numbers = count()
        self._signalled: set[int] = set()
        self._staging: dict[int, asyncio.Task[None]] = {}

    async def connect(self) -> None:
        """Begin to listen, on the loop that calls it."""
        if self._channel is None:
            channel = self._channel = Channel(self._take, self._gone)
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: channel, sock=self._socket)
            loop.call_later(LOOK_EVERY_S, self._look)

    def say(self, *report: Any) -> None:
        """Tell the worker something."""
        assert self._channel is not None
        self._channel.say(*report)

    async def run(self, attempt: Attempt, agent: int, begin: tuple[Any, Any, Any]) -> Finished:
        """Have a run executed there."""
        number = next(self._numbers)
        done: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self._runs[number] = attempt, done
        self.say("run", number, agent, attempt.prompt, list(attempt.messages), attempt.context, *begin)
        try:
            while True:
                try:
                    return await asyncio.shield(done)
                except asyncio.CancelledError:
                    if done.cancelled():
                        raise
                    self.say("cancel", number)
        finally:
            del self._runs[number]
            self._signalled.discard(number)
            self._staging.pop(number, None)

    def _look(self) -> None:
        for number, (attempt, _) in self._runs.items():
            if number not in self._signalled and attempt.signal.is_set():
                self._signalled.add(number)
                self.say("signal", number)
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _gone(self) -> None:
        for _, done in self._runs.values():
            if not done.done():
                done.set_exception(AgentFailed("the worker has died"))

    def _take(self, report: list[Any]) -> None:
        kind, number, *told = report
        if (run := self._runs.get(number)) is None:
            return
        attempt, done = run
        match kind:
            case "begin_round" | "end_tool" | "end_round":
                before = self._staging.get(number)
                self._staging[number] = asyncio.create_task(self._stage(before, kind, number, attempt, told))
            case "finished":
                for index, message in told[1]:
                    attempt.messages[index]["content"] = message["content"]
                if (last := self._staging.get(number)) is not None and not last.done():
                    last.add_done_callback(lambda _: _set(done, told[0]))
                else:
                    _set(done, told[0])
            case "failed":
                if not done.done():
                    done.set_exception(AgentFailed(told[0]))
            case "ready":
                pass
            case _:
                getattr(attempt, kind)(*told)

    async def _stage(
        self, before: asyncio.Task[None] | None, kind: str, number: int, attempt: Attempt, told: list[Any]
    ) -> None:
        if before is not None and not before.done():
            await before
        if kind == "begin_round":
            try:
                await attempt.begin_round()
                self.say("ack", number, True)
            except RunStopped:
                self.say("ack", number, False)
        else:
            await getattr(attempt, kind)(*told)


def _set(done: asyncio.Future[Finished], finished: Any) -> None:
    if not done.done():
        done.set_result(msgspec.convert(finished, Finished))


class StandIn:
    """The session agent of the serving process."""

    def __init__(
        self, worker: WorkerEnd, number: int, key: SessionKey, record: AgentRecord, progress: Progress
    ) -> None:
        self._worker = worker
        self._number = number
        self._begin: tuple[Any, Any, Any] = key, record, progress
        worker.agents += 1
        weakref.finalize(self, _drop, worker, number)

    async def run(self, attempt: Attempt) -> Finished:
        begin, self._begin = self._begin, (None, None, None)
        return await self._worker.run(attempt, self._number, begin)

    def rest(self) -> None:
        self._worker.say("rest", self._number)


def _drop(worker: WorkerEnd, number: int) -> None:
    worker.agents -= 1
    worker.say("drop", number)


class WorkersTarget:
    """What `target` names, executed in `workers` processes."""

    def __init__(self, text: str, target: Target, workers: int, *, pinned: bool) -> None:
        self.opaque = target.opaque
        self.exclusive = target.exclusive
        self.external = target.external
        self.description = f"{target.description}, in {workers} worker processes"
        self.ends = [WorkerEnd(text) for _ in range(workers)]
        self._numbers = count()
        for core, end in enumerate(self.ends):
            if pinned:
                os.sched_setaffinity(end.process.pid, {core})

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        for end in self.ends:
            await end.connect()
        fewest = min(self.ends, key=lambda end: end.agents)
        return StandIn(fewest, next(self._numbers), key, record, progress)
