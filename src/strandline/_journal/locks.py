"""Advisory locks on whole files (`flock`), as the owners of journals hold them, and who holds one.

A lock of this kind belongs to an open file, is given up by the kernel with its last descriptor, and has nothing to do
with the locks on byte ranges that SQLite takes.
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
"""The bytes on which SQLite's readers have their locks, see `os.h` of SQLite; part of its file format."""
_FLOCK: Final = struct.Struct("hhqqi4x")
"""`struct flock` of Linux on 64 bits: type, whence, start, length, process."""


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file, unless somebody else has it. Raises `OSError`."""
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
    """Return whether the lock of an open file is held by users who could not write what it guards, and by nobody else.

    Those are all but root, this process's user and `owner`. False where the system does not tell who holds it.
    """
    users = [_user(pid) for pid in _holders(os.fstat(descriptor))]
    return bool(users) and all(user not in (None, 0, os.geteuid(), owner) for user in users)


def _holders(status: os.stat_result) -> list[int]:
    """Return the processes that have locked a file; 0 is one of another container."""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return []
    # 5: FLOCK  ADVISORY  WRITE 12345 fd:01:678 0 EOF; one that waits has `->` behind its number
    fields = [line.split() for line in lines]
    return [int(each[4]) for each in fields if len(each) > 5 and each[1] == "FLOCK" and each[5] == place]


def _user(pid: int) -> int | None:
    """Return as whom a process acts, None if that cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[2]) for line in lines if line.startswith("Uid:")), None)


def keep_from_cleaning_up(descriptor: int) -> None:
    """Have no connection of SQLite to this file clean up as the last one, until the descriptor is closed.

    A connection that is closed last moves the WAL into the file and deletes it, also if the file was cut off. It needs
    a lock for that which it cannot have beside ours. Does nothing where that is unknown.
    """
    if (command := getattr(fcntl, "F_OFD_SETLK", None)) is None:
        return
    with suppress(OSError):
        fcntl.fcntl(descriptor, command, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0))
