"""What waits in the session of an attempt, for its agent: shown before each model call, read on request.

Knows no framework. `rounds.py` refreshes what is shown before each model call of an agent that works for the run.
"""

import asyncio
from typing import Any, Final

from msgspec import to_builtins

from strandline._agents.port import Attempt
from strandline._history import UNKNOWN_WAITING, Waiting

READ_S: Final = 10.0
"""How long one read may take; the agent continues without it."""


class LiveWaiting:
    """Belongs to the agent loop, on which it is made; `read` and `refresh` may be awaited from any."""

    def __init__(self, attempt: Attempt) -> None:
        self.shown: dict[str, Any] = {}
        """What the agent sees: `count`, None if it is not known, and `senders`. Changed in place."""
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()

    async def read(self, messages: int) -> Waiting:
        """Return what waits at this moment, with the first `messages` of it; not known if that takes too long."""
        try:
            async with asyncio.timeout(READ_S):
                if asyncio.get_running_loop() is self._loop:
                    return await self._attempt.read_waiting(messages)
                # An agent that a tool calls in a thread has a loop of its own.
                elsewhere = asyncio.run_coroutine_threadsafe(self._attempt.read_waiting(messages), self._loop)
                return await asyncio.wrap_future(elsewhere)
        except TimeoutError:
            return UNKNOWN_WAITING

    async def refresh(self) -> None:
        """Bring `shown` up to date."""
        waiting = await self.read(0)
        self.shown.update(count=waiting.count, senders=to_builtins(waiting.senders))


async def live_waiting(attempt: Attempt) -> LiveWaiting:
    """Return what waits in the session of an attempt that begins."""
    waiting = LiveWaiting(attempt)
    await waiting.refresh()
    return waiting
