"""Worker processes of a server of the world: with agent loops of their own, at the other end of a connection.

A worker dies by itself (`kill -9`, at whatever its agents do, at its start, or at any time), and its server hears of it
later: first of the connection or first of the process. The loop of its agents may be blocked by one of them, and the
whole process may stand still for a while. Messages to and from a worker travel as bytes.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from simulation.agents import Phase
from simulation.gate import GATE, Gate
from simulation.loop import Chance, SeededLoops
from simulation.perils import Perils
from simulation.pipe import Pipe, Transport
from simulation.process import Process
from simulation.record import Record
from simulation.script import Script
from strandline._clock import Clock
from strandline._engine.loops import CURRENT, Call, Load
from strandline._workers import messages as m
from strandline._workers.channel import Channel, Frames
from strandline._workers.loops import WorkerLoops
from strandline._workers.runtime import WorkerRuntime

T = TypeVar("T")


class VirtualWorker:
    """A process with agents: what its server has of it (`strandline._workers.loops.Process`), what happens there."""

    def __init__(self, server: Process, pid: int, perils: Perils, clock: Clock, *, resumable: bool) -> None:
        self.pid = pid
        self.number = server.number
        self.alive = True
        self.fenced = False
        self.chance: Chance = server.chance
        self.record: Record = server.record
        self.scripts: dict[str, Script] = server.scripts
        self._server = server
        self._perils = perils
        self._clock = clock
        self._resumable = resumable
        self._at_death: list[Callable[[], object]] = []
        self._process, self._agents = Gate(), Gate()
        self._context = Context()
        self._context.run(GATE.set, self._process)
        self._in = Pipe(self.chance, perils.far_s, self._context)
        self._out = Pipe(self.chance, perils.far_s, Context())
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._blocked = 0
        """How many times its agents' loop is blocked at once, or all of it stands still."""
        begins_s = self.chance.between(0.0, 0.5)
        asyncio.get_running_loop().call_later(begins_s, self._begin, context=self._context)
        if perils.happens(self.chance, perils.dies_young):
            asyncio.get_running_loop().call_later(2 * begins_s * self.chance.random(), self.die)

    # -- what its server does ------------------------------------------------------------------------

    async def connect(self, channel: Channel) -> None:
        """Have the server listen."""
        await asyncio.sleep(0)
        channel.connection_made(Transport(self._in))
        self._out.read_by(channel)

    def frames(self) -> Frames:
        """Return nothing: nobody has listened before."""
        return Frames()

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            self._dies()

    async def ended(self) -> str:
        """Wait until the server hears that nothing of it is left."""
        await asyncio.shield(self._ended)
        return "ended by SIGKILL"

    def request_exit(self) -> None:
        """Have it leave: it has nothing to do that takes time."""
        self.kill()

    def wait(self, within_s: float) -> None:
        """Have it gone."""
        self.kill()

    # -- what happens there --------------------------------------------------------------------------

    def note(self, what: str, run: str = "", **details: Any) -> None:
        """Write down what user code does here, after which something may befall the worker."""
        if not self.alive:
            return
        if what == "entered":
            details["worker"] = self.pid
        self._server.note(what, run, **details)
        if what == "model":  # (nothing befalls it in the middle of what it does)
            return
        perils, chance = self._perils, self.chance
        if perils.happens(chance, perils.dies):
            self.die()
        elif CURRENT.get() is not None and perils.happens(chance, perils.blocks):
            self._server.note("blocks", run, worker=self.pid)
            self._loops.blocker = CURRENT.get()
            self._stand_still(self._long_s(), entirely=False)
        elif perils.happens(chance, perils.stands):
            self._server.note("stands", worker=self.pid)
            self._stand_still(self._long_s(), entirely=True)

    def context(self) -> Context:
        """Return a context for what runs in it and is not the engine's."""
        return Context()

    def at_death(self, call: Callable[[], object]) -> None:
        """Have `call` called when it dies."""
        self._at_death.append(call)

    def die(self) -> None:
        """Die by itself."""
        if self.alive and not self._perils.calm and self._perils.deaths_left:
            self._perils.deaths_left -= 1
            self._dies()

    def survivors(self) -> list[str]:
        """Return what a worker that has nothing to do still holds."""
        return [f"{len(self._runtime._calls)} calls in worker {self.pid}"] if self._runtime._calls else []

    def _long_s(self) -> float:
        draw = self.chance.random()
        return self._perils.longest_s if draw < 0.1 else 30.0 * draw**2

    def _begin(self) -> None:
        if not self.alive:
            return
        target = Phase(self, resumable=self._resumable)
        self._loops = WorkersOwnLoops(self.chance, self._clock, self._agents)
        self._runtime = WorkerRuntime(
            target, self._loops, self._clock, lambda carrier: None, on_exit=self.kill, on_close=self.kill
        )
        self._runtime.channel.connection_made(Transport(self._out))
        self._in.read_by(self._runtime.channel)
        loaded = m.Loaded(
            resumable=self._resumable, singleton=False, self_managed=False, description=target.description
        )
        self._runtime.channel.send(loaded)
        asyncio.get_running_loop().create_task(self._tried())

    async def _tried(self) -> None:
        await self.chance.pass_time(0.2)
        await self._runtime.begin()

    def _stand_still(self, seconds: float, *, entirely: bool) -> None:
        self._blocked += 1
        self._agents.shut()
        if entirely:
            self._process.shut()
            self._in.stop(True)
        asyncio.get_running_loop().call_later(seconds, self._go_on, context=Context())

    def _go_on(self) -> None:
        self._blocked -= 1
        if self.alive and not self._blocked:
            self._loops.blocker = None
            self._process.open()
            self._agents.open()
            self._in.stop(False)

    def _dies(self) -> None:
        if self._server.alive:
            self._server.note("worker_died", worker=self.pid)
        self.alive = False
        self._process.die()
        self._agents.die()
        for call in self._at_death:
            call()
        self._in.forget()
        self._out.end(cut=True)
        heard_s = self._perils.hears_s * self.chance.random()
        asyncio.get_running_loop().call_later(heard_s, self._heard, context=Context())

    def _heard(self) -> None:
        if not self._ended.done():
            self._ended.set_result("")


class WorkersOwnLoops(SeededLoops):
    """The agent loops in a worker: as far away from what listens as another thread is, and one that can be blocked."""

    def __init__(self, chance: Chance, clock: Clock, gate: Gate) -> None:
        super().__init__(chance)
        self.blocker: Call[Any] | None = None
        self._clock = clock
        self._gate = gate
        self._pinged_at: float | None = None

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` a while later, once the loop is not blocked."""
        super().post(lambda: self._gate.call(work))

    def post_back(self, work: Callable[[], object]) -> None:
        """Call `work` a while later."""
        self._back.send(work)

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once, as soon as the loop is not blocked."""
        self.post(lambda: call.task is not None and call.task.cancel())

    def owned_until(self, until: float | None) -> None:
        """Do nothing: user code here asks the journal itself."""

    def beat(self) -> None:
        """Ask for a sign of life, unless one is due."""
        if self._pinged_at is None:
            self._pinged_at = self._clock.monotonic()
            self.post(self._answer)

    def _answer(self) -> None:
        self._pinged_at = None

    def load(self) -> Load:
        """Return for how long a sign of life is due."""
        return Load(silent_s=0.0 if self._pinged_at is None else self._clock.monotonic() - self._pinged_at)

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether it is this call's code that has the thread."""
        return call is self.blocker

    def _begin(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        GATE.set(self._gate)  # (in the context of this very callback)
        self._gate.call(lambda: super(WorkersOwnLoops, self)._begin(call, work))


class WorkerPool(WorkerLoops):
    """The workers of one server, which end with it."""

    def __init__(self, server: Process, perils: Perils, clock: Clock, *, resumable: bool) -> None:
        self._everyone: list[VirtualWorker] = []

        def spawn() -> VirtualWorker:
            if perils.happens(server.chance, 0.05):
                raise OSError("no process is to be had")
            return begun()

        def begun() -> VirtualWorker:
            worker = VirtualWorker(server, len(self._everyone) + 1, perils, clock, resumable=resumable)
            self._everyone.append(worker)
            return worker

        super().__init__([begun() for _ in range(perils.workers)], spawn, clock, resumable=resumable)
        self._calls: dict[asyncio.Task[Any], None] = {}

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()`, to be ended with the server."""
        call = super().start(work)
        assert call.task is not None
        self._calls[call.task] = None
        call.task.add_done_callback(lambda task: self._calls.pop(task, None))
        return call

    def close(self) -> bool:
        """End all, and what waits for them."""
        super().close()
        for task in self._calls:
            task.cancel()
        return True

    def kill_some(self, chance: Chance) -> None:
        """Have some workers die."""
        for worker in self._everyone:
            if worker.alive and chance.happens(0.6):
                worker.die()

    def survivors(self) -> list[str]:
        """Return what is left of calls, here and there, when nothing executes, is held or waits."""
        here = sum(len(worker._remotes) for worker in self._workers)
        mine = [f"{here} calls to workers"] if here else []
        lost = [worker.pid for worker in self._everyone if worker.alive and worker not in self._processes.values()]
        mine += [f"a worker {pid} that nobody knows" for pid in lost]
        idle = [worker for worker in self._processes if worker not in self._workers and not worker.running]
        mine += [f"worker {worker.pid}, which is of no use" for worker in idle]
        there = [each for worker in self._everyone if worker in self._used() for each in worker.survivors()]
        return mine + there

    def _used(self) -> list[Any]:
        return [self._processes[worker] for worker in self._workers if worker in self._processes and worker.is_free]
