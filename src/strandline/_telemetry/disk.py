"""The size of a journal, and the free space on its disk."""

import asyncio
import shutil
from pathlib import Path

from msgspec import Struct

from strandline._telemetry.sampler import Sampler


class DiskUsage(Struct, frozen=True):
    """Both in bytes."""

    journal: int
    left: int


class Disk(Sampler[DiskUsage]):
    """Measured in a thread; None before the journal exists, and if no thread is available."""

    def __init__(self, file: Path) -> None:
        super().__init__(self._in_thread)
        self._file = file

    async def _in_thread(self) -> DiskUsage | None:
        try:
            return await asyncio.to_thread(self._measured)
        except RuntimeError:  # no thread is available
            return None

    def _measured(self) -> DiskUsage | None:
        try:
            beside = [self._file, self._file.with_name(f"{self._file.name}-wal")]
            size = sum(each.stat().st_size for each in beside if each.exists())
            return DiskUsage(journal=size, left=shutil.disk_usage(self._file.parent).free)
        except OSError:
            return None
