"""A worker that is no process: its half of the connection in this one, with an agent loop of its own, for a test."""

import asyncio
import socket
from collections.abc import Callable
from itertools import count

from strandline.agents.port import Target
from strandline.clock import SystemClock
from strandline.engine.loops import AgentLoops
from strandline.telemetry.traces import Traces
from strandline.workers.channel import Channel, Frames, Writer
from strandline.workers.inside import Inside
from strandline.workers.loops import WorkerLoops
from strandline.workers.messages import Loaded
from strandline.workers.target import WorkersTarget

PIDS = count(100)
Spawn = Callable[[], "Nearby"]


class Nearby:
    """Stands for `strandline.workers.process.WorkerProcess`; a kill cuts the connection and stops its loop."""

    def __init__(self, target: Target) -> None:
        self.pid = next(PIDS)
        self.loops = AgentLoops(executor_threads=8, clock=SystemClock())
        self.inside: Inside | None = None
        self._target = target
        self._dead = asyncio.Event()
        self._ours, self._theirs = socket.socketpair()
        self._beginning: asyncio.Task[None] | None = None
        self._open: list[Channel | Writer] = []

    async def connect(self, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        writer = Writer(self._theirs)
        inside = self.inside = Inside(
            self._target,
            self.loops,
            SystemClock(),
            Traces().join,
            leave=self.kill,
            gone=self.kill,
            write=writer.write,
        )
        self._open = [inside.channel, channel, writer]
        await loop.create_connection(lambda: inside.channel, sock=self._theirs)
        await loop.create_connection(lambda: channel, sock=self._ours)
        self._beginning = asyncio.create_task(inside.begin())

    def frames(self) -> Frames:
        return Frames()

    def kill(self) -> None:
        self._dead.set()

    async def ended(self) -> str:
        await self._dead.wait()
        self._close()
        await asyncio.to_thread(self.loops.close)
        return "killed"

    def leave(self) -> None:
        self.kill()

    def gone(self, within_s: float) -> None:
        self._close()
        self.loops.close()

    def _close(self) -> None:
        for each in self._open:
            each.close()
        self._open = []


def nearby(target: Target, workers: int = 2, spawn: Spawn | None = None) -> tuple[WorkersTarget, WorkerLoops]:
    """Return what serves `target` in so many workers of this kind, to be made inside of a loop."""
    spawn = spawn or (lambda: Nearby(target))
    loops = WorkerLoops([spawn() for _ in range(workers)], spawn, SystemClock())
    loaded = Loaded(
        opaque=target.opaque, exclusive=target.exclusive, external=target.external, description=target.description
    )
    return WorkersTarget(loaded, loops, Traces().carried), loops
