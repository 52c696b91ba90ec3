"""Operations that the journal cannot do now are retried: a known outcome is never given up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from strandline.errors import JournalUnavailable, RecordDamaged

T = TypeVar("T")
_log = logging.getLogger("strandline.runner")

RETRY_S: Final = 1.0
"""How long to wait before the journal is tried again."""


async def until_stored(
    operation: Callable[[], Awaitable[T]], trouble: str, *named: object, log: logging.Logger = _log
) -> T:
    """Return the result of `operation()`, as soon as the journal can; `log` gets each `trouble` (a format of `named`).

    Raises the other errors of `operation()`, and `RecordDamaged`.
    """
    while True:
        try:
            return await operation()
        except RecordDamaged:
            raise
        except JournalUnavailable as error:
            log.error(f"{trouble}: %s", *named, error)
        await asyncio.sleep(RETRY_S)
