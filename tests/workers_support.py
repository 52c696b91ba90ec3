"""Workers that are no processes. `Nearby`: its half of the connection is in this process, with a loop for agents.

`Far`: only its reports exist, on virtual time, and the test writes them.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from strandline._agents.port import Finished, RunContext, Target
from strandline._clock import Clock, SystemClock
from strandline._encoding import encode_messages
from strandline._engine.loops import CURRENT, AgentLoops, Call
from strandline._engine.observers import CURRENT_RUN
from strandline._history import fold
from strandline._model import WHOLE_HISTORY, AgentRecord, Principal, RunId, SessionId, SessionKey, Succeeded
from strandline._telemetry.traces import Traces
from strandline._workers import messages as m
from strandline._workers.channel import Channel, Frames, Writer, frame
from strandline._workers.client import WorkerClient
from strandline._workers.loops import WorkerLoops
from strandline._workers.messages import Loaded
from strandline._workers.runtime import WorkerRuntime, orders
from strandline._workers.target import WorkersTarget
from strandline.testing._virtual import VirtualClock, run_virtual

PIDS = count(100)
Spawn = Callable[[], "Nearby"]


class Nearby:
    """Stands for `strandline._workers.process.WorkerProcess`; a kill cuts the connection and stops its loop."""

    def __init__(self, target: Target) -> None:
        self.pid = next(PIDS)
        self.loops = AgentLoops(executor_threads=8, clock=SystemClock())
        self.runtime: WorkerRuntime | None = None
        self._target = target
        self._dead = asyncio.Event()
        self._ours, self._theirs = socket.socketpair()
        self._beginning: asyncio.Task[None] | None = None
        self._open: list[Channel | Writer] = []
        self._closing = threading.Lock()
        """Held by the thread that closes its loop: two of them at once would break it."""

    async def connect(self, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        writer = Writer(self._theirs)
        runtime = self.runtime = WorkerRuntime(
            self._target,
            self.loops,
            SystemClock(),
            Traces().join,
            on_exit=self.kill,
            on_close=self.kill,
            write=writer.write,
        )
        self._open = [runtime.channel, channel, writer]
        await loop.create_connection(lambda: runtime.channel, sock=self._theirs)
        await loop.create_connection(lambda: channel, sock=self._ours)
        self._beginning = asyncio.create_task(runtime.begin())

    def frames(self) -> Frames:
        return Frames()

    def kill(self) -> None:
        self._dead.set()

    async def ended(self) -> str:
        await self._dead.wait()
        self._close()
        await asyncio.to_thread(self._close_loop)
        return "killed"

    def request_exit(self) -> None:
        self.kill()

    def wait(self, within_s: float) -> None:
        self._close()
        self._close_loop()

    def _close_loop(self) -> None:
        with self._closing:
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
        resumable=target.resumable,
        singleton=target.singleton,
        self_managed=target.self_managed,
        description=target.description,
    )
    return WorkersTarget(loaded, loops, Traces().carried), loops


CONTEXT = RunContext(
    run_id=RunId("r"),
    session_id=SessionId("s"),
    principal=Principal("p"),
    attempt=1,
    metadata={},
    workspace="/",
)
RECORD = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
DONE = Finished(ending=Succeeded(text="done"))
SETUP = m.Setup(
    target="agent.py",
    history="journal",
    keys=False,
    executor_threads=1,
    path=[],
    agent_id="a",
    log_level="info",
    log_format="text",
    log_details=False,
)


class Nowhere(asyncio.WriteTransport):
    """Keeps the orders that are written, and whether it was let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self.is_gone = True


class Far:
    """A worker of which only the reports exist."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.is_ready = True
        self.killed = False
        self.over = asyncio.Event()
        self.transport = Nowhere()
        self.channel: Channel
        self.began_for: object = None
        """The run for which it was started, as far as it knows."""

    async def connect(self, channel: Channel) -> None:
        self.began_for = CURRENT_RUN.get()
        self.channel = channel
        channel.connection_made(self.transport)
        if self.is_ready:
            self.accepts_calls()

    def accepts_calls(self) -> None:
        self.report(m.Ready(resumable=True))

    def dies(self) -> None:
        self.over.set()
        self.channel.connection_lost(None)

    def report(self, *reports: m.Report) -> None:
        self.channel.data_received(frame(*(encode_messages(each) for each in reports)))

    def orders(self) -> list[m.Order]:
        return [each for reported in Frames().feed(b"".join(self.transport.written)) for each in orders(reported)]

    def frames(self) -> Frames:
        return Frames()

    def kill(self) -> None:
        self.killed = True

    async def ended(self) -> str:
        await self.over.wait()
        return "gone"

    def request_exit(self) -> None:
        pass

    def wait(self, within_s: float) -> None:
        pass


class RecordingAttempt:
    """An attempt that records its reports; `gate` delays checkpoints, and `error` makes them fail."""

    def __init__(self) -> None:
        self.reported: list[str] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    def add_text(self, delta: str) -> None:
        self.reported.append(delta)

    async def begin_round(self) -> None:
        await self._checkpoints("round")

    async def end_tool(self, tool_use_id: str, result: object) -> None:
        await self._checkpoints(tool_use_id)

    async def _checkpoints(self, what: str) -> None:
        self.reported.append(what)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class Few:
    """Worker loops over workers that are far away; a process is to be had unless `refuses`."""

    def __init__(self, clock: Clock, workers: int = 1) -> None:
        self.all: list[Far] = []
        self.refuses = False
        self.are_ready = True
        """Whether those that are started take calls at once."""
        self.loops = WorkerLoops([self._begun() for _ in range(workers)], self.spawn, clock, resumable=True)

    def spawn(self) -> Far:
        if self.refuses:
            raise OSError("no more processes")
        return self._begun()

    def _begun(self) -> Far:
        self.all.append(Far(len(self.all)))
        self.all[-1].is_ready = self.are_ready
        return self.all[-1]

    def killed(self) -> list[int]:
        return [each.pid for each in self.all if each.killed]

    def in_use(self) -> list[int]:
        return [worker.pid for worker in self.loops._processes]

    def run(self, attempt: Any = None) -> tuple[Call[Any], WorkerClient]:
        """Begin a run in the worker of the first place."""
        worker = self.loops._workers[0]

        async def works() -> object:
            call = CURRENT.get()
            assert call is not None
            return await worker.execute(order(worker.number()), call, attempt)

        call = self.loops.start(works)
        call.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        return call, worker


def order(number: int, agent: int = 0) -> m.Run:
    return m.Run(
        call=number, agent=agent, owned_until=None, context=CONTEXT, trace=None, carrier=None, prompt="x", messages=[]
    )


def build(number: int) -> m.Build:
    return m.Build(
        call=number,
        run_id=CONTEXT.run_id,
        key=SessionKey(CONTEXT.principal, CONTEXT.session_id),
        trace=None,
        carrier=None,
        record=RECORD,
        progress=fold((), None),
    )


@asynccontextmanager
async def few_workers(clock: Clock, workers: int = 1) -> AsyncIterator[Few]:
    """Have so many such workers, all of which are dead in the end, and nothing of them is left."""
    few = Few(clock, workers)
    try:
        yield few
    finally:
        few.loops.close()
        await asyncio.sleep(1)  # (for those that have just been started)
        for each in few.all:
            each.dies()
        await asyncio.sleep(60)
        assert few.in_use() == []


def virtual(main: Callable[[Few], Coroutine[Any, Any, None]], workers: int = 1) -> None:
    """Run `main` with so many such workers, which take calls, on virtual time."""

    async def begun(clock: VirtualClock) -> None:
        async with few_workers(clock, workers) as few:
            await few.loops.begin()
            await main(few)

    run_virtual(begun)
