"""Real Strands agents behind the real engine, in one process: what their tests share."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import target_support
from engine_support import key
from strandline._agents.parameters import NOTHING, Parameters
from strandline._agents.strands import StrandsTarget
from strandline._clock import SystemClock
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._model import AgentRecord, Checkpoint, FencingToken, RoundStarted
from strandline.testing import Gate
from target_support import answer, ask, history, run

__all__ = ["RecordingJournal", "answer", "ask", "history", "loaded", "run", "serving"]


class RecordingJournal(MemoryJournal):
    """A memory journal that records checkpoints, and may hold that of a round."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.log: list[str] = []
        self.checkpoints: list[Checkpoint] = []
        self.hold: Gate | None = None

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        self.log.append(type(checkpoint).__name__)
        self.checkpoints.append(checkpoint)
        if self.hold is not None and isinstance(checkpoint, RoundStarted):
            await self.hold.wait()
        await super().checkpoint(token, checkpoint)


def serving(
    factory: Callable[..., Any],
    folder: Path,
    journal: MemoryJournal | None = None,
    *,
    takes: Parameters = NOTHING,
    **options: Any,
) -> AbstractAsyncContextManager[Service]:
    """Serve the agents of a factory, as `target_support.serving` does."""
    target = StrandsTarget(factory, takes=takes, description="test")
    return target_support.serving(target, folder, journal, **options)


async def loaded(journal: MemoryJournal) -> AgentRecord:
    await journal.open("test", max_attempts=3)
    return await journal.load(key())
