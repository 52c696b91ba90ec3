"""What is served, when agents are in worker processes: a `Target` whose agents stand for those over there."""

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress

from strandline.agents.port import Attempt, Finished, SessionAgent
from strandline.engine.calls import CURRENT
from strandline.engine.observers import RUN
from strandline.history import Progress
from strandline.model import AgentRecord, Carrier, SessionKey
from strandline.workers import messages as m
from strandline.workers.end import WorkerEnd
from strandline.workers.loops import ToldFlag, WorkerLoops


class WorkersTarget:
    """What the workers of `loops` have loaded. `carried` returns what joins a worker to the trace that is current."""

    def __init__(self, loaded: m.Loaded, loops: WorkerLoops, carried: Callable[[], Carrier | None]) -> None:
        self.exclusive = loaded.exclusive
        self.external = loaded.external
        self.description = loaded.description
        self.loops = loops
        self._carried = carried

    @property
    def opaque(self) -> bool:
        """Whether its tools cannot be seen, as far as the workers know."""
        return self.loops.opaque

    async def try_out(self) -> None:
        """Return when the workers have tried what they serve."""
        await self.loops.begin()

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Have an agent built in the worker that has least to do."""
        call, run = CURRENT.get(), RUN.get()
        assert call is not None
        assert run is not None
        end = await self.loops.free()
        order = m.Build(
            call=end.number(),
            run_id=run.run_id,
            key=key,
            trace=run.trace,
            carrier=self._carried(),
            record=record,
            progress=progress,
        )
        await end.execute(order, call, None)
        return StandIn(end, order.call, self._carried)


class StandIn:
    """Stands for the agent of a session in a worker, which drops that when nobody knows this one any more."""

    def __init__(self, end: WorkerEnd, number: int, carried: Callable[[], Carrier | None]) -> None:
        self._end = end
        self._number = number
        self._carried = carried
        end.agents += 1
        # Whichever thread lets go of it.
        weakref.finalize(self, _drop_soon, asyncio.get_running_loop(), end, number).atexit = False

    async def run(self, attempt: Attempt) -> Finished:
        """Have an attempt executed."""
        end, call, run = self._end, CURRENT.get(), RUN.get()
        assert call is not None
        assert run is not None
        order = m.Run(
            call=end.number(),
            agent=self._number,
            context=attempt.context,
            trace=run.trace,
            carrier=self._carried(),
            prompt=attempt.prompt,
            messages=list(attempt.messages),
        )
        assert isinstance(attempt.signal, ToldFlag)
        # (It is not set yet: the engine has looked in this very step of the loop.)
        attempt.signal.follow(lambda: end.say(m.Signal(order.call)))
        finished = await end.execute(order, call, attempt)
        assert finished is not None
        return finished

    def rest(self) -> None:
        """Have it take less memory."""
        self._end.say(m.Rest(self._number))


def _drop_soon(loop: asyncio.AbstractEventLoop, end: WorkerEnd, number: int) -> None:
    with suppress(RuntimeError):  # (the loop is closed, and the worker gone with it)
        loop.call_soon_threadsafe(_drop, end, number)


def _drop(end: WorkerEnd, number: int) -> None:
    end.agents -= 1
    end.say(m.Drop(number))
