"""A drain that begins while runs are being accepted: what was claimed for them is given back, uncounted."""

import asyncio
from pathlib import Path

from engine_support import Played, echo
from strandline.clock import SystemClock
from strandline.engine.asked import Request
from strandline.engine.loops import AgentLoops
from strandline.engine.options import Options
from strandline.engine.service import Service
from strandline.engine.stream import Later
from strandline.journal.port import RunQuery
from strandline.journal.sqlite import SqliteJournal
from strandline.model import ANONYMOUS, RunId, RunStatus, SessionId, SessionKey


def test_accepts_under_way_are_durable_and_go_on_later(tmp_path: Path) -> None:
    """Their callers are told so, and the runs have used up no attempt, although they were claimed as they came."""
    numbers = iter(range(100))

    async def main() -> list[tuple[RunStatus, int]]:
        journal = SqliteJournal(tmp_path / "journal.db", SystemClock())
        loops = AgentLoops(executor_threads=1, clock=SystemClock())
        service = Service(
            journal=journal,
            target=Played(echo, opaque=True),
            loops=loops,
            clock=SystemClock(),
            new_run_id=lambda: RunId(f"run_{next(numbers)}"),
            workspace=lambda key: str(tmp_path),
            options=Options(),
        )
        await service.start()
        asking = [
            asyncio.create_task(service.submit(Request(key=SessionKey(ANONYMOUS, SessionId(name)), input=name)))
            for name in ("one", "two", "three")
        ]
        for _ in range(3):  # they are on their way to the thread that writes, and no further
            await asyncio.sleep(0)
        await service.drain()
        loops.close()
        for each in asking:
            assert await (await each).stream.outcome() is Later.LATER
        await journal.open("test", max_attempts=3)
        runs = [await journal.read(RunQuery(ANONYMOUS, RunId(f"run_{number}"))) for number in range(3)]
        await journal.close()
        return [(run.status, run.attempt) for run in runs if run is not None]

    assert asyncio.run(main()) == [(RunStatus.QUEUED, 0)] * 3
