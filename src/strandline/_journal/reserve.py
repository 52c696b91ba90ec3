"""The room on the journal's disk that is kept for what was accepted: with less, no new run is, and the others can end.

Others of this server that write onto that disk ask first, and wait as long as new runs do. The disk is asked on the
writer's thread (`measure`), which waits for that disk anyway: once a second at most, and after a commit that failed.
All else belongs to the serving loop. Empty pages of the journal's file count as room, too: what was deleted makes room
for new runs, although the file never shrinks. A part of the reserve has to be on the disk itself, for the WAL.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from strandline._clock import Clock

MOST: Final = 64 * 1024 * 1024
SHARE: Final = 10
"""The reserve is this part of the disk, at most `MOST`, if nobody says anything else."""
LOOK_S: Final = 1.0
COPIES: Final = 2
"""What is kept is on the disk as often as this: in the WAL, and in the file when it was moved there."""

ON_DISK: Final = 4
"""This part of the reserve is wanted on the disk itself, whatever room there is in the journal's file."""

Statvfs = Callable[[Path], os.statvfs_result]


def reserve_bytes(disk: int, wanted: int | None) -> int:
    """Return how large the reserve of a disk of so many bytes is."""
    return min(MOST, disk // SHARE) if wanted is None else wanted


class Reserve:
    """`wanted` bytes of the disk of `folder`; None: a share of it, 0: none.

    `spare` tells how many bytes of the journal's file are free to be used again.
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
        """What was left beyond the reserve when it was last looked at; None: it cannot be told."""
        self._kept = 0
        """What new runs may have taken of that since."""
        self.short: str | None = None
        """Why no new run is kept, for people; None: new runs are kept."""

    @property
    def is_due(self) -> bool:
        """Whether how much is left has to be looked up before anything is asked."""
        return self._wanted != 0 and self._clock.monotonic() >= self._looked_at + LOOK_S

    def measure(self) -> None:
        """See how much is left, if that is not known. Raises nothing.

        Once there is too little, an eighth of the reserve has to be free besides before new runs are kept again.
        """
        if not self.is_due:
            return
        self._looked_at = self._clock.monotonic()
        self._kept = 0
        size = 0
        with suppress(OSError):
            disk = self._statvfs(self._folder)
            size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        if not size:  # some file systems tell nothing of themselves
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
        """Note that something could not be kept: the disk is asked again at the next look."""
        self._looked_at = float("-inf")

    def has_room(self, size: int) -> bool:
        """Return whether a new run of so many bytes leaves the reserve as it is."""
        return self.short is None and (self._room is None or self._kept + COPIES * size <= self._room)

    def keeps(self, size: int) -> None:
        """Note a new run of so many bytes."""
        self._kept += COPIES * size

    def grant(self, size: int) -> bool:
        """Let others write so many bytes, as if they were a new run; False if those would be of the reserve."""
        if has_room := self.has_room(size):
            self.keeps(size)
        return has_room
