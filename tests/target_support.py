"""Any target behind the real engine, with agents in a thread of their own, for a test."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from engine_support import key
from strandline._agents.port import ProbedAtStart, Target
from strandline._clock import SystemClock
from strandline._engine.loops import AgentLoops, Loops
from strandline._engine.observers import UNPROJECTED, UNTRACED, Projection, Tracing
from strandline._engine.options import Options
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._history import history_faults
from strandline._journal.memory import MemoryJournal
from strandline._model import Checkpoint, Completion, FencingToken, Message, Outcome, RunId
from workers_support import nearby

RUN_IDS = count()
WORKERS: Final = os.environ.get("TESTED_WITH_WORKERS")
"""In how many workers targets are served: all tests can be run with some, by hand."""


class Noting(MemoryJournal):
    """A journal that notes what it is given to keep."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.checkpoints: list[Checkpoint] = []
        self.completions: list[Completion] = []

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        self.checkpoints.append(checkpoint)
        await super().checkpoint(token, checkpoint)

    async def finish(self, token: FencingToken, completion: Completion, **options: Any) -> Any:
        self.completions.append(completion)
        return await super().finish(token, completion, **options)


@asynccontextmanager
async def serving(
    target: Target,
    folder: Path,
    journal: MemoryJournal | None = None,
    *,
    tracing: Tracing = UNTRACED,
    projection: Projection = UNPROJECTED,
    **options: Any,
) -> AsyncIterator[Service]:
    """Serve a target; what still runs at the end of the block is left as a killed process leaves it."""
    loops: Loops = AgentLoops(executor_threads=8, clock=SystemClock())
    if WORKERS is not None:
        target, loops = nearby(target, 1 if target.singleton else int(WORKERS))
    service = Service(
        journal=journal or MemoryJournal(SystemClock()),
        target=target,
        loops=loops,
        clock=SystemClock(),
        new_run_id=lambda key: RunId(f"run_{next(RUN_IDS)}"),
        workspace=lambda key: str(folder / key.session_id),
        options=Options(**{"drain_grace_s": 5, **options}),
        tracing=tracing,
        projection=projection,
    )
    if isinstance(target, ProbedAtStart):
        await loops.start(target.probe).done
    await service.start()
    try:
        yield service
    finally:
        await service.abort()


async def ask(service: Service, text: str, session: str = "s", **more: Any) -> Outcome:
    """Return how a run ends that asks `text`."""
    ticket = await service.submit(Request(key=key(session), input=text, **more))
    end = await asyncio.wait_for(ticket.stream.outcome(), 20)
    assert isinstance(end, Outcome)
    return end


async def answer(service: Service, question: Outcome, response: object = "yes", session: str = "s") -> Outcome:
    """Answer all questions of a run, and return the outcome of the run that continues."""
    answers = {each.id: response for each in question.input_requests}
    ticket = await service.submit(Request(key=key(session), answers=answers))
    end = await asyncio.wait_for(ticket.stream.outcome(), 20)
    assert isinstance(end, Outcome)
    return end


async def history(service: Service, session: str = "s") -> list[Message]:
    """Return the whole history, which must be one that a provider accepts."""
    messages = await service.history(key(session), count=0, include_tool_messages=True)
    assert history_faults(messages) == []
    return messages


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is so, within the time that `run` gives a test."""
    while not condition():
        await asyncio.sleep(0.01)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine, for a minute at most."""

    async def bounded() -> None:
        await asyncio.wait_for(main(), 60)

    asyncio.run(bounded())
