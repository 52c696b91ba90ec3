"""Advisory locks on whole files (`flock`), which the owners of journals hold, and their holders.

Such a lock belongs to an open file, is released by the kernel with its last descriptor, and is independent of SQLite's
locks on byte ranges.
"""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

LOCKS: Final = Path("/proc/locks")
_SHARED_FIRST: Final = 0x40000002
_SHARED_SIZE: Final = 510
"""The bytes that SQLite's readers lock, see `os.h` of SQLite; part of its file format."""
_FLOCK: Final = struct.Struct("hhqqi4x")
"""`struct flock` of Linux on 64 bits: type, whence, start, length, process."""


def try_lock(descriptor: int) -> bool:
    """Lock an open file, unless another process has locked it. Raises `OSError`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether `path` still leads to this open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def is_a_strangers(descriptor: int, owner: int) -> bool:
    """Return whether only users who could not write the guarded file hold the lock of an open file.

    Those are all but root, this process's user and `owner`. False if the system does not show the holder.
    """
    users = [_user(pid) for pid in _holders(os.fstat(descriptor))]
    return bool(users) and all(user not in (None, 0, os.geteuid(), owner) for user in users)


def _holders(status: os.stat_result) -> list[int]:
    """Return the processes that have locked a file; 0 for one in another container."""
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return []
    # 5: FLOCK  ADVISORY  WRITE 12345 fd:01:678 0 EOF; a waiting one has `->` after its number
    fields = [line.split() for line in lines]
    return [int(each[4]) for each in fields if len(each) > 5 and each[1] == "FLOCK" and each[5] == inode]


def _user(pid: int) -> int | None:
    """Return the user of a process, None if unknown."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[2]) for line in lines if line.startswith("Uid:")), None)


def keep_from_cleaning_up(descriptor: int) -> None:
    """Keep SQLite's last connection to this file from cleaning up, until the descriptor is closed.

    The last connection to close moves the WAL into the file and deletes it, even if the file was truncated. For that it
    needs a lock which ours excludes. Does nothing on platforms where this is unknown.
    """
    if (command := getattr(fcntl, "F_OFD_SETLK", None)) is None:
        return
    with suppress(OSError):
        fcntl.fcntl(descriptor, command, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0))
