"""Whether the database is silent: it answers nothing at all, as when its machine is gone, or packets are lost.

It only shows it: the lease decides what follows. An answer that takes long is no silence, since a commit may wait
for a disk, or for another transaction. So when one is late, something is asked that waits for nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

PATIENCE_S: Final = 0.4
"""How long an answer may take before something else is asked, and that before the database is silent."""
LOOK_S: Final = 0.1


class Silence:
    """Belongs to the loop of the journal.

    `unanswered_s` returns for how long the statements that were sent last have had no answer, 0 if none are under way.
    `ask` asks for something that the database answers at once.
    """

    def __init__(self, unanswered_s: Callable[[], float], ask: Callable[[], Awaitable[object]]) -> None:
        self._unanswered_s = unanswered_s
        self._ask = ask
        self._has_no_answer = False

    @property
    def is_silent(self) -> bool:
        """Whether it answers nothing."""
        return self._has_no_answer and self._unanswered_s() >= PATIENCE_S

    async def watch(self) -> None:
        """Find out, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._unanswered_s() < PATIENCE_S:
                self._has_no_answer = False
            else:
                await self._is_anybody_there()

    async def _is_anybody_there(self) -> None:
        """Ask, and return when there is an answer, or none will come."""
        asking = asyncio.ensure_future(self._ask())
        try:
            if not (await asyncio.wait([asking], timeout=PATIENCE_S))[0]:
                self._has_no_answer = True
                await asyncio.wait([asking])
            if asking.exception() is None:
                self._has_no_answer = False
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await asking
