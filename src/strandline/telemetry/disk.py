"""What the disk says of a journal: how large it is, and how much room is left. A disk that hangs holds nobody up."""

import asyncio
import shutil
from pathlib import Path
from typing import Final

from msgspec import Struct

LOOK_S: Final = 0.5
"""How long a look may take before what was seen last is told instead."""


class Place(Struct, frozen=True):
    """In bytes."""

    journal: int
    left: int


class Disk:
    """Where a journal is kept. Belongs to one event loop; one look at a time, in a thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._look: asyncio.Future[Place | None] | None = None
        self._seen: Place | None = None

    async def look(self) -> Place | None:
        """Return what is seen, or was last if that takes too long; None before the journal is there."""
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(asyncio.to_thread(self._measured))
        look = self._look  # (another scrape may begin the next one meanwhile)
        done, _ = await asyncio.wait([look], timeout=LOOK_S)
        if done:
            self._seen = look.result()
        return self._seen

    def _measured(self) -> Place | None:
        try:
            beside = [self._file, self._file.with_name(f"{self._file.name}-wal")]
            size = sum(each.stat().st_size for each in beside if each.exists())
            return Place(journal=size, left=shutil.disk_usage(self._file.parent).free)
        except OSError:
            return None
