"""Who owns a journal file, and whether it is ours to open: checks that leave the file untouched, and one lock.

The owner holds an `flock` on PATH.lock for as long as it lives: the kernel gives it up when the process dies, and a
laptop may sleep in between. The lock file says who holds it, for the people who have to find out; it is never
removed, since a removed one could be held and made anew at once. PATH is the file itself: symbolic links are followed
first, so that two names of one file are one journal.
"""

import asyncio
import fcntl
import json
import os
import socket
import stat
import struct
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from strandline.clock import Clock
from strandline.errors import (
    JournalDamaged,
    JournalError,
    JournalForeign,
    JournalLocked,
    JournalNewer,
    JournalUnavailable,
)

APPLICATION_ID: Final = 0x5354524C
"""`STRL`, at offset 68 of the file."""
SCHEMA_VERSION: Final = 5

POLL_S: Final = 0.1
MOUNTINFO: Final = Path("/proc/self/mountinfo")
_NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip
_MAGIC: Final = b"SQLite format 3\0"


def locate(path: Path) -> Path:
    """Return where the journal really is or will be: absolute, with every symbolic link followed.

    Opens nothing. Raises `JournalError` if there is something else than a regular file.
    """
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return real
    except OSError as error:
        raise JournalError(f"The journal {path} cannot be reached: {error.strerror}. Name another file.") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(mode), "a device")
        example = " in it" if stat.S_ISDIR(mode) else ""
        raise JournalError(f"The journal {path} is {what}, not a file. It was left as it is. Name a file{example}.")
    return real


def prepare_folder(path: Path, mountinfo: Path = MOUNTINFO) -> None:
    """Make the folder of `path`. Raises `JournalError` if it cannot be used, also if it is on a network file system."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(
            f"The journal's folder {folder} cannot be made: {error.strerror}. Name another file, or make the folder."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise JournalError(f"The journal's folder {folder} is not writable. Name another file, or change its owner.")
    kind = file_system(folder.resolve(), mountinfo)
    if is_network(kind):
        raise JournalError(
            f"The journal {path} would be on a network file system ({kind}), where locks and syncs are not reliable. "
            "Name a file on a local disk."
        )


def file_system(folder: Path, mountinfo: Path = MOUNTINFO) -> str | None:
    """Return the type of the file system that holds `folder` (an absolute path), None where that is not known."""
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return None
    best, kind = "", None
    for line in lines:
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options; see proc(5)
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        if len(fields) < 5 or not tail:
            continue
        point = fields[4].encode().decode("unicode_escape")
        inside = folder == Path(point) or Path(point) in folder.parents
        if inside and len(point) >= len(best):
            best, kind = point, tail.split(" ")[0]
    return kind


def is_network(kind: str | None) -> bool:
    """Tell whether a type of file system is one over a network."""
    return kind in _NETWORK


def check_file(path: Path) -> bool:
    """Return whether there is a journal at `path`; an absent or empty file is none.

    Reads the header only. Raises `JournalDamaged`, `JournalForeign` or `JournalNewer` for a file that is not ours.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise JournalError(f"The journal {path} cannot be read: {error.strerror}. Name another file.") from error
    if not size:
        return False
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise JournalDamaged(
            f"{path} is no SQLite database, or its head is damaged. It was left as it is. "
            "Restore a backup, or name another file."
        )
    page_size, pages, version, application = struct.unpack(">16xH10xI28xI4xI28x", header)
    if application != APPLICATION_ID:
        raise JournalForeign(f"{path} is a database of another program. It was left as it is. Name another file.")
    if version > SCHEMA_VERSION:
        raise newer(path, version)
    if size < pages * (65536 if page_size == 1 else page_size) and not _has_log(path):
        raise JournalDamaged(f"{path} is cut off. It was left as it is. Restore a backup, or name another file.")
    return True


def newer(path: Path, version: int) -> JournalNewer:
    """Return the error for a file that a newer version has written."""
    return JournalNewer(
        f"{path} was written by a newer Strandline (schema {version}, this one knows {SCHEMA_VERSION}). "
        "It was left as it is. Upgrade Strandline, or name another file."
    )


def _has_log(path: Path) -> bool:
    """Tell whether SQLite will mend the file from beside it: what was not copied in yet, or a migration cut off."""
    for log in (f"{path}-wal", f"{path}-journal"):
        try:
            if os.stat(log).st_size:
                return True
        except OSError:
            continue
    return False


class Ownership:
    """The lock on one journal file. Not reentrant; `release` may be called from any thread."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = lock_of(path)
        self._clock = clock
        self._fd: int | None = None
        kept = weakref.ref(self)
        # What user code forks would hold the lock, too, and might outlive this process.
        os.register_at_fork(after_in_child=lambda: _left_to_parent(kept()))

    async def acquire(self, owner: str, *, wait_s: float, on_wait: Callable[[str], None] | None) -> None:
        """Take the lock, waiting up to `wait_s` for another holder, without blocking the event loop.

        `on_wait` is called once, with a sentence that names the holder, when it has to wait. Raises `JournalLocked`
        when the time is up; nothing is held then, nor when the wait is cancelled.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalError(
                f"The lock file {self._path} cannot be opened: {error.strerror}. Change its owner, or"
                " name another file."
            ) from error
        try:
            deadline = self._clock.monotonic() + wait_s
            waiting = False
            while not _try_lock(fd):
                holder = _holder(fd)
                if self._clock.monotonic() >= deadline:
                    raise JournalLocked(
                        f"The journal is in use by {holder}, which did not give it up within {wait_s:g} s. "
                        "Stop that one, or name another file."
                    )
                if not waiting and on_wait is not None:
                    on_wait(f"waiting for the journal, which is in use by {holder}")
                waiting = True
                await asyncio.sleep(POLL_S)
            _sign(fd, owner, self._clock.now())
        except OSError as error:
            os.close(fd)
            raise JournalError(
                f"The lock file {self._path} cannot be locked and written: {error.strerror}. Make room on that disk, or"
                " name a file on another one."
            ) from error
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the lock up. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _left_to_parent(held: Ownership | None) -> None:
    if held is not None:
        held.release()


class Holder(NamedTuple):
    """Who owns a journal; `since` is a time as people read it."""

    pid: int
    host: str
    since: str


def holder(path: Path) -> Holder | None:
    """Return who owns the journal at `path`, None if nobody does or it cannot be told."""
    try:
        fd = os.open(lock_of(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signed(fd)
    finally:
        os.close(fd)
    return None


def lock_of(path: Path) -> Path:
    """Return the lock file of the journal at `path`."""
    return path.with_name(path.name + ".lock")


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(fd: int, owner: str, now: float) -> None:
    since = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, "owner": owner})
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode() + b"\n", 0)


def _signed(fd: int) -> Holder | None:
    try:
        told = json.loads(os.pread(fd, 4096, 0))
        return Holder(int(told["pid"]), str(told["host"]), str(told["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _holder(fd: int) -> str:
    held = _signed(fd)
    return "another process" if held is None else f"process {held.pid} on host {held.host} since {held.since}"


class Watch:
    """Whether a path still leads to the file that was there when the watch began, which is the one that is open.

    SQLite would go on to write into a file that has no name any more, and every commit would seem to be kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _identity(path)
        self.gone = False

    def check(self) -> None:
        """Raise `JournalUnavailable` if the file was deleted or replaced, and for ever after. One `stat`, some 2 us."""
        if not self.gone:
            try:
                self.gone = _identity(self._path) != self._file
            except (FileNotFoundError, NotADirectoryError):
                self.gone = True
            except OSError as error:
                raise JournalUnavailable(f"the journal's file cannot be reached: {error.strerror}") from error
        if self.gone:
            raise JournalUnavailable(
                "the journal's file was deleted or replaced while it was in use, and nothing is kept any more: put back"
                " the file that is wanted, then restart the server"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
