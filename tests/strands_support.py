"""Real Strands agents behind the real engine, in one process: what their tests share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from engine_support import key
from strandline.agents.strands import StrandsTarget
from strandline.clock import SystemClock
from strandline.engine.loops import AgentLoops
from strandline.engine.options import Options
from strandline.engine.service import Request, Service
from strandline.history import history_faults
from strandline.journal.memory import MemoryJournal
from strandline.model import AgentRecord, Fact, Message, Outcome, RoundStarted, RunId, Token
from strandline.testing import Gate

RUN_IDS = count()


class Staging(MemoryJournal):
    """A memory journal that notes what is staged, and may hold the staging of a round."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.log: list[str] = []
        self.staged: list[Fact] = []
        self.hold: Gate | None = None

    async def stage(self, token: Token, fact: Fact) -> None:
        self.log.append(type(fact).__name__)
        self.staged.append(fact)
        if self.hold is not None and isinstance(fact, RoundStarted):
            await self.hold.wait()
        await super().stage(token, fact)


@asynccontextmanager
async def serving(
    factory: Callable[..., Any],
    folder: Path,
    journal: MemoryJournal | None = None,
    *,
    takes_session_id: bool = False,
    **options: Any,
) -> AsyncIterator[Service]:
    loops = AgentLoops(executor_threads=8, clock=SystemClock())
    service = Service(
        journal=journal or MemoryJournal(SystemClock()),
        target=StrandsTarget(factory, takes_session_id=takes_session_id, description="test"),
        loops=loops,
        clock=SystemClock(),
        new_run_id=lambda: RunId(f"run_{next(RUN_IDS)}"),
        workspace=lambda key: str(folder / key.session_id),
        options=Options(**{"drain_grace_s": 5, **options}),
    )
    await service.start()
    try:
        yield service
    finally:
        await service.abort()


async def ask(service: Service, text: str, session: str = "s") -> Outcome:
    ticket = await service.submit(Request(key=key(session), input=text))
    end = await asyncio.wait_for(ticket.stream.outcome(), 20)
    assert isinstance(end, Outcome)
    return end


async def history(service: Service, session: str = "s") -> list[Message]:
    messages = await service.history(key(session), count=0, include_tool_messages=True)
    assert history_faults(messages) == []
    return messages


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 60)

    asyncio.run(bounded())


async def loaded(journal: MemoryJournal) -> AgentRecord:
    await journal.open("test", max_attempts=3)
    return await journal.load(key())
