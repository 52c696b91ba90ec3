"""What is served, when agents are in worker processes: a `Target` whose agents stand for those over there."""

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
    """What the workers of `loops` have loaded. `carried` returns what joins a worker to the trace that is current."""

    def __init__(self, loaded: m.Loaded, loops: WorkerLoops, carried: Callable[[], Carrier | None]) -> None:
        self.singleton = loaded.singleton
        self.self_managed = loaded.self_managed
        self.description = loaded.description
        self.loops = loops
        self._carried = carried

    @property
    def resumable(self) -> bool:
        """Whether its tools can be seen, as far as the workers know."""
        return self.loops.resumable

    async def probe(self) -> None:
        """Return when the workers have tried what they serve."""
        await self.loops.begin()

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Have an agent built in the worker that has least to do."""
        call, run = CURRENT.get(), CURRENT_RUN.get()
        assert call is not None
        assert run is not None
        worker = await self.loops.free()
        order = m.Build(
            call=worker.number(),
            run_id=run.run_id,
            key=key,
            trace=run.trace,
            carrier=self._carried(),
            record=record,
            progress=progress,
        )
        await worker.execute(order, call, None)
        return AgentProxy(worker, order.call, self._carried)


class AgentProxy:
    """Stands for the agent of a session in a worker, which drops that when nobody knows this one any more."""

    def __init__(self, worker: WorkerClient, number: int, carried: Callable[[], Carrier | None]) -> None:
        self._worker = worker
        self._number = number
        self._carried = carried
        worker.agents += 1
        # Whichever thread lets go of it.
        weakref.finalize(self, _drop_soon, asyncio.get_running_loop(), worker, number).atexit = False

    async def run(self, attempt: Attempt) -> Finished:
        """Have an attempt executed."""
        worker, call, run = self._worker, CURRENT.get(), CURRENT_RUN.get()
        assert call is not None
        assert run is not None
        order = m.Run(
            call=worker.number(),
            agent=self._number,
            context=attempt.context,
            trace=run.trace,
            carrier=self._carried(),
            prompt=attempt.prompt,
            messages=list(attempt.messages),
        )
        assert isinstance(attempt.signal, ForwardedSignal)
        # (It is not set yet: the engine has looked in this very step of the loop.)
        attempt.signal.follow(lambda: worker.send(m.Signal(order.call)))
        finished = await worker.execute(order, call, attempt)
        assert finished is not None
        return finished

    def compact(self) -> None:
        """Have it take less memory."""
        self._worker.send(m.Compact(self._number))


def _drop_soon(loop: asyncio.AbstractEventLoop, worker: WorkerClient, number: int) -> None:
    with suppress(RuntimeError):  # (the loop is closed, and the worker gone with it)
        loop.call_soon_threadsafe(_drop, worker, number)


def _drop(worker: WorkerClient, number: int) -> None:
    worker.agents -= 1
    worker.send(m.Drop(number))
