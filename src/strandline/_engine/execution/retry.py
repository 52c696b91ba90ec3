"""Operations that the journal cannot do now are retried: a known outcome is never given up.

An outage of the journal fails each of them, again and again. The log has the first, each new reason, and one reminder a
minute; `Readiness` logs that the journal as a whole is away, and when it is back how many operations had waited.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from strandline._clock import Clock
from strandline.errors import JournalUnavailable, RecordDamaged

T = TypeVar("T")
_log = logging.getLogger("strandline.runner")

RETRY_S: Final = 1.0
"""How long to wait before the journal is tried again."""
OVER_S: Final = 3.0
"""How long after the last failure the next one is a new outage."""
REMIND_S: Final = 60.0
"""How often the log says that it lasts."""


class Retries:
    """Used on any loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed_at = self._logged_at = float("-inf")
        self._logged: set[str] = set()
        """The reasons that were logged in this outage."""
        self.waited = 0
        """How many operations had to wait, since the start."""
        self.waiting = 0
        """How many of them still do."""

    async def until_stored(
        self, operation: Callable[[], Awaitable[T]], trouble: str, *named: object, log: logging.Logger = _log
    ) -> T:
        """Return the result of `operation()`, as soon as the journal can; `log` gets the `trouble` (a format of
        `named`).

        Raises the other errors of `operation()`, and `RecordDamaged`.
        """
        waits = False
        try:
            while True:
                try:
                    return await operation()
                except RecordDamaged:
                    raise
                except JournalUnavailable as error:
                    self.waited += not waits
                    self.waiting += not waits
                    waits = True
                    self.failed(log, trouble, *named, error=error)
                await asyncio.sleep(RETRY_S)
        finally:
            self.waiting -= waits

    def failed(self, log: logging.Logger, trouble: str, *named: object, error: JournalUnavailable) -> None:
        """Log that the journal could not do something, which is tried again, unless the log says so already."""
        now, reason = self._clock.monotonic(), str(error)
        if now > self._failed_at + OVER_S:
            self._logged.clear()
        elif now > self._logged_at + REMIND_S:
            self._logged.discard(reason)
        self._failed_at = now
        if reason not in self._logged:
            self._logged.add(reason)
            self._logged_at = now
            log.error(f"{trouble}: %s", *named, reason)
