"""The space on the journal's disk that is reserved for accepted runs: with less, new runs are refused, so that accepted
ones can end.

Other parts of this server ask before they write to that disk, and wait as new runs do. The disk is measured on the
writer's thread (`measure`), which waits for that disk anyway: at most once a second, and after a failed commit. All
else belongs to the serving loop. Empty pages of the journal's file count as free space, too, since the file never
shrinks. A part of the reserve must be free on the disk itself, for the WAL.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from strandline._clock import Clock

MOST: Final = 64 * 1024 * 1024
SHARE: Final = 10
"""The default reserve is this part of the disk, at most `MOST`."""
LOOK_S: Final = 1.0
COPIES: Final = 2
"""How many copies of a stored byte the disk may hold: in the WAL, and in the file."""

ON_DISK: Final = 4
"""This part of the reserve must be free on the disk itself, however much is free in the journal's file."""

Statvfs = Callable[[Path], os.statvfs_result]


def reserve_bytes(disk: int, wanted: int | None) -> int:
    """Return the reserve of a disk of `disk` bytes."""
    return min(MOST, disk // SHARE) if wanted is None else wanted


class Reserve:
    """A reserve of `wanted` bytes on the disk of `folder`; None: a share of it, 0: none.

    `spare` returns how many bytes of the journal's file can be reused.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        wanted: int | None,
        *,
        spare: Callable[[], int] = lambda: 0,
        statvfs: Statvfs = os.statvfs,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._wanted = wanted
        self._spare = spare
        self._statvfs = statvfs
        self._looked_at = float("-inf")
        self._room: int | None = None
        """The free bytes beyond the reserve at the last measurement; None: unknown."""
        self._written = 0
        """The bytes that new runs may have used since."""
        self.short: str | None = None
        """Why new runs are refused, for people; None: they are not."""

    @property
    def is_due(self) -> bool:
        """Whether to measure before the next check."""
        return self._wanted != 0 and self._clock.monotonic() >= self._looked_at + LOOK_S

    def measure(self) -> None:
        """Measure the free space, if due. Raises nothing.

        Once the reserve is reached, another eighth of it must be free before new runs are accepted again.
        """
        if not self.is_due:
            return
        self._looked_at = self._clock.monotonic()
        self._written = 0
        size = 0
        with suppress(OSError):
            disk = self._statvfs(self._folder)
            size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        if not size:  # some file systems report nothing
            self._room = self.short = None
            return
        reserve = reserve_bytes(size, self._wanted)
        self._room = min(free + self._spare() - reserve, free - reserve // ON_DISK)
        if self._room < (reserve // 8 if self.short is not None else 0):
            self.short = self.short or (
                f"less than {reserve} bytes are left on the journal's disk and in its file, or less than a quarter"
                " of them on the disk; what is left is kept for runs that were accepted (setting disk_reserve_bytes)"
            )
        else:
            self.short = None

    def doubt(self) -> None:
        """Note that something could not be stored: measure again at the next check."""
        self._looked_at = float("-inf")

    def has_room(self, size: int) -> bool:
        """Return whether a new run of `size` bytes leaves the reserve untouched."""
        return self.short is None and (self._room is None or self._written + COPIES * size <= self._room)

    def keeps(self, size: int) -> None:
        """Count a new run of `size` bytes."""
        self._written += COPIES * size

    def grant(self, size: int) -> bool:
        """Return whether others may write `size` bytes, and count them like a new run; False if they would use the
        reserve."""
        if has_room := self.has_room(size):
            self.keeps(size)
        return has_room
