"""What the journal cannot keep or load now is asked of it again: an outcome that is known is never given up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from strandline.errors import JournalUnavailable, RecordDamaged

T = TypeVar("T")
_log = logging.getLogger("strandline.runner")

RETRY_S: Final = 1.0
"""How long to wait before the journal is asked again."""


async def until_stored(
    operation: Callable[[], Awaitable[T]], trouble: str, *named: object, log: logging.Logger = _log
) -> T:
    """Return what `operation()` does, as soon as the journal can; `log` has each `trouble` (a format of `named`).

    Raises whatever else `operation()` raises, and `RecordDamaged`.
    """
    while True:
        try:
            return await operation()
        except RecordDamaged:
            raise
        except JournalUnavailable as error:
            log.error(f"{trouble}: %s", *named, error)
        await asyncio.sleep(RETRY_S)
