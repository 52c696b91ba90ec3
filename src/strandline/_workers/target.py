"""The target of a server with workers: a `Target` whose agents are proxies of agents in workers."""

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress

from strandline._agents.port import Attempt, Finished, SessionAgent
from strandline._engine.loops import CURRENT
from strandline._engine.observers import CURRENT_RUN
from strandline._history import Progress
from strandline._model import AgentRecord, Carrier, SessionKey
from strandline._workers import messages as m
from strandline._workers.client import WorkerClient
from strandline._workers.loops import ForwardedSignal, WorkerLoops


class WorkersTarget:
    """The target that the workers of `loops` have loaded. `carrier` returns the current trace."""

    def __init__(self, loaded: m.Loaded, loops: WorkerLoops, carrier: Callable[[], Carrier | None]) -> None:
        self.singleton = loaded.singleton
        self.self_managed = loaded.self_managed
        self.description = loaded.description
        self.loops = loops
        self._carrier = carrier

    @property
    def resumable(self) -> bool:
        """Whether its tools can be seen, as far as the workers know."""
        return self.loops.resumable

    async def probe(self) -> None:
        """Return when the workers have probed their targets."""
        await self.loops.begin()

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Build an agent in the least busy worker."""
        call, run = CURRENT.get(), CURRENT_RUN.get()
        assert call is not None
        assert run is not None
        worker = await self.loops.free()
        order = m.Build(
            call=worker.number(),
            run_id=run.run_id,
            key=key,
            trace=run.trace,
            carrier=self._carrier(),
            record=record,
            progress=progress,
        )
        await worker.execute(order, call, None)
        return AgentProxy(worker, order.call, self._carrier)


class AgentProxy:
    """Proxy of a session's agent in a worker. When it is garbage-collected, the worker drops the agent."""

    def __init__(self, worker: WorkerClient, number: int, carrier: Callable[[], Carrier | None]) -> None:
        self._worker = worker
        self._number = number
        self._carrier = carrier
        worker.agents += 1
        # (Any thread may release it.)
        weakref.finalize(self, _drop_soon, asyncio.get_running_loop(), worker, number).atexit = False

    async def run(self, attempt: Attempt) -> Finished:
        """Execute an attempt in the worker."""
        worker, call, run = self._worker, CURRENT.get(), CURRENT_RUN.get()
        assert call is not None
        assert run is not None
        order = m.Run(
            call=worker.number(),
            agent=self._number,
            owned_until=worker.owned_until,
            context=attempt.context,
            trace=run.trace,
            carrier=self._carrier(),
            prompt=attempt.prompt,
            messages=list(attempt.messages),
            has_joins=attempt.has_joins,
        )
        assert isinstance(attempt.signal, ForwardedSignal)
        # (It is not set yet: the engine has checked in this very loop iteration.)
        attempt.signal.forward(lambda: worker.send(m.Signal(order.call)))
        attempt.forward_joins(lambda: worker.send(m.JoinsWait(order.call)))
        finished = await worker.execute(order, call, attempt)
        assert finished is not None
        return finished

    def compact(self) -> None:
        """Let the agent take less memory."""
        self._worker.send(m.Compact(self._number))


def _drop_soon(loop: asyncio.AbstractEventLoop, worker: WorkerClient, number: int) -> None:
    with suppress(RuntimeError):  # (the loop is closed, and the worker with it)
        loop.call_soon_threadsafe(_drop, worker, number)


def _drop(worker: WorkerClient, number: int) -> None:
    worker.agents -= 1
    worker.send(m.Drop(number))
