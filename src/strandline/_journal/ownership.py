"""Ownership of a journal file: checks that leave the file unchanged, and two locks.

The owner holds an `flock` on PATH.lock for its whole life: the kernel releases it when the process dies, and a laptop
may sleep in between. The lock file names the owner, for people. It is never removed, since another process could create
a new one while the old one is still held. In case somebody removes it, there is a second `flock`, on the journal's own
file. PATH is the file itself: symbolic links are followed first, so that two links to one file are one journal. A file
with two names of its own (hard links), or one mounted as a file, is refused.
"""

import asyncio
import fcntl
import logging
import os
import shlex
import socket
import stat
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from strandline import _private as private
from strandline._clock import Clock
from strandline._journal.locks import is_a_strangers, is_at, keep_from_cleaning_up, try_lock
from strandline.errors import JournalDamaged, JournalError, JournalForeign, JournalLocked, JournalNewer

_log: Final = logging.getLogger("strandline.journal")

APPLICATION_ID: Final = 0x5354524C
"""`STRL`, at offset 68 of the file."""
UNFINISHED_ID: Final = 0x53545243
"""`STRC`, there too: an unfinished copy of a journal."""
SCHEMA_VERSION: Final = 19

POLL_S: Final = 0.1
MOUNTINFO: Final = Path("/proc/self/mountinfo")
_NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip
_MAGIC: Final = b"SQLite format 3\0"
_CHANGE_OWNER: Final = "Change its owner, or name another file."


@contextmanager
def explained(what: str, advice: str = "Name another file.") -> Iterator[None]:
    """Turn an `OSError` of the block into a `JournalError`: what failed, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"{what}: {error.strerror}. {advice}") from error


def locate(path: Path) -> Path:
    """Return the absolute path of the journal, with every symbolic link followed.

    Opens nothing. Raises `JournalError` if the path is not a regular file.
    """
    real = Path(os.path.realpath(path))
    with explained(f"The journal {path} cannot be reached"):
        try:
            mode = real.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return real
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(mode), "a device")
        example = " in it" if stat.S_ISDIR(mode) else ""
        raise JournalError(f"The journal {path} is {what}, not a file. It was left as it is. Name a file{example}.")
    return real


def prepare_folder(path: Path, mountinfo: Path = MOUNTINFO) -> None:
    """Create the folder of `path`. Raises `JournalError` if it cannot be used or is on a network file system."""
    folder = path.parent
    with explained(f"The journal's folder {folder} cannot be made", "Name another file, or make the folder."):
        private.make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise JournalError(f"The journal's folder {folder} is not writable. Name another file, or change its owner.")
    kind = file_system(folder.resolve(), mountinfo)
    if is_network(kind):
        raise JournalError(
            f"The journal {path} would be on a network file system ({kind}), where locks and syncs are not reliable. "
            "Name a file on a local disk."
        )


def file_system(folder: Path, mountinfo: Path = MOUNTINFO) -> str | None:
    """Return the type of the file system that holds `folder` (an absolute path), None if unknown."""
    best, kind = "", None
    for point, found in _mounts(mountinfo):
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _mounts(mountinfo: Path) -> Iterator[tuple[str, str]]:
    """Yield each mount point and its type."""
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options; see proc(5)
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        if len(fields) < 5 or not tail:
            continue
        yield fields[4].encode().decode("unicode_escape"), tail.split(" ")[0]


def check_only_name(path: Path, mountinfo: Path = MOUNTINFO) -> None:
    """Raise `JournalError` if a journal has other names (hard links), or is mounted as a file.

    SQLite's companion files would be beside one name only: a server at another one would not find accepted runs.
    """
    try:
        links = os.stat(path).st_nlink
    except OSError:
        return
    if links > 1:
        raise JournalError(
            f"The journal {path} has {links} names (hard links), and what belongs beside it would be beside each. It"
            f" was left as it is. Remove the others (find / -xdev -samefile {shlex.quote(str(path))} shows them), or"
            " copy it to a name of its own while no server has it."
        )
    if any(Path(point) == path for point, _ in _mounts(mountinfo)):
        raise JournalError(
            f"The journal {path} is mounted as a file, and what belongs beside it would not be beside the real one. It"
            " was left as it is. Mount the folder that it is in."
        )


def check_openable(path: Path, mountinfo: Path = MOUNTINFO) -> bool:
    """Return whether there is a journal at `path` to open; False: one may be created there.

    Raises the errors of `check_only_name` and `check_file`, and `JournalDamaged` if the journal is missing but its WAL
    or rollback journal is there.
    """
    check_only_name(path, mountinfo)
    if check_file(path):
        return True
    for log in _logs(path):
        raise JournalDamaged(
            f"{path} is not there, or empty, and {log} has what was kept in it last. Both were left as they are."
            f" Put {path.name} back beside it, or restore a backup; to begin anew without it, move {log} away."
        )
    return False


def is_network(kind: str | None) -> bool:
    """Return whether a type of file system is a network file system."""
    return kind in _NETWORK


def check_file(path: Path) -> bool:
    """Return whether there is a journal at `path`; an absent or empty file is none.

    Reads only the header. Raises `JournalDamaged`, `JournalForeign` or `JournalNewer` for any other file.
    """
    with explained(f"The journal {path} cannot be read"):
        try:
            with path.open("rb") as file:
                header = file.read(100)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return False
    if not size:
        return False
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise JournalDamaged(
            f"{path} is no SQLite database, or its head is damaged. It was left as it is. "
            "Restore a backup, or name another file."
        )
    page_size, pages, version, application = struct.unpack(">16xH10xI28xI4xI28x", header)
    if application == UNFINISHED_ID:
        raise JournalError(
            f"{path} is an unfinished copy of a journal, which nothing may use. Run the same `strandline journal copy`"
            " again: it continues."
        )
    if application != APPLICATION_ID:
        raise JournalForeign(f"{path} is a database of another program. It was left as it is. Name another file.")
    if version > SCHEMA_VERSION:
        raise newer(path, version)
    if size < pages * (65536 if page_size == 1 else page_size) and not any(_logs(path)):
        raise JournalDamaged(f"{path} is cut off. It was left as it is. Restore a backup, or name another file.")
    return True


def application_of(path: Path) -> int | None:
    """Return the application id of a database, None if the file is missing or too short to be one."""
    with explained(f"{path} cannot be read"):
        try:
            with path.open("rb") as file:
                header = file.read(100)
        except FileNotFoundError:
            return None
    return int.from_bytes(header[68:72]) if len(header) == 100 else None


def existing(file: Path) -> Path:
    """Return the absolute path of an existing journal. Raises `JournalError`, also if there is none."""
    path = locate(file)
    if not check_file(path):
        raise JournalError(f"There is no journal at {file}. Name the file of one.")
    return path


def newer(path: Path, version: int) -> JournalNewer:
    """Return the error for a file of a newer version."""
    return JournalNewer(
        f"{path} was written by a newer Strandline (schema {version}, this one knows {SCHEMA_VERSION}). "
        "It was left as it is. Upgrade Strandline, or name another file."
    )


def _logs(path: Path) -> Iterator[str]:
    """Yield the files from which SQLite would restore the one beside them: a WAL, or a migration's rollback journal."""
    for log in (f"{path}-wal", f"{path}-journal"):
        with suppress(OSError):
            if os.stat(log).st_size:
                yield log


class Ownership:
    """The locks on one journal file. Not reentrant; `release` may be called from any thread."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._file = path
        self._path = lock_of(path)
        self._clock = clock
        self._fd: int | None = None
        self._file_fd: int | None = None
        reference = weakref.ref(self)
        # Processes that user code forks would hold the locks, too, and might outlive this process.
        os.register_at_fork(after_in_child=lambda: _left_to_parent(reference()))

    async def acquire(self, owner: str, *, wait_s: float = 0.0, on_wait: Callable[[str], None] | None = None) -> None:
        """Take the locks, waiting up to `wait_s` for another owner, without blocking the event loop.

        If it has to wait, it calls `on_wait` once with a sentence that names the owner. Raises `JournalLocked` when the
        time is up; then, and when the wait is cancelled, it holds nothing. It locks the journal's own file if that
        exists; else `hold_file` does, once the file is created.
        """
        patience = _Patience(self._clock, wait_s, self._clock.monotonic() + wait_s, on_wait)
        lock = f"The lock file {self._path} cannot be"
        try:
            with explained(f"{lock} locked and written", "Make room on that disk, or name a file on another one."):
                while self._fd is None or not is_at(self._fd, self._path):
                    self.release()  # (it was deleted or replaced while another process held it)
                    with explained(f"{lock} opened", _CHANGE_OWNER):
                        self._fd = private.open_file(self._path, os.O_RDWR | os.O_CREAT)
                    if not await self._locks(self._fd, patience):
                        self._replace_lock(self._fd)
                self._file_fd = self._open_file()
                if self._file_fd is not None:
                    await self._locks(self._file_fd, patience)  # (another user may have it: PATH.lock is ours)
                _sign(self._fd, owner, self._clock.now())
        except BaseException:
            self.release()
            raise

    def hold_file(self) -> None:
        """Lock the journal's own file if `acquire` did not find it, or found an empty one that was replaced since.

        Call this before SQLite opens the file: closing a descriptor of it drops SQLite's locks. Raises `JournalLocked`.
        """
        if self._file_fd is not None:
            if is_at(self._file_fd, self._file):
                return
            os.close(self._file_fd)
        self._file_fd = self._open_file()
        if self._file_fd is not None and not try_lock(self._file_fd):
            raise JournalLocked("The journal is in use by another process. Stop that one, or name another file.")

    def leave_files(self) -> None:
        """Keep SQLite from touching the files as it closes them."""
        if self._file_fd is not None:
            keep_from_cleaning_up(self._file_fd)

    def _open_file(self) -> int | None:
        """Open the journal's own file, if it exists. From now on only SQLite may open and close it."""
        with explained(f"The journal {self._file} cannot be opened", _CHANGE_OWNER):
            try:
                return os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None

    async def _locks(self, fd: int, patience: "_Patience") -> bool:
        """Lock an open file; False if another user locked it, having opened it while everyone could read it."""
        while not try_lock(fd):
            if is_a_strangers(fd, self._owner()):
                return False
            await patience.wait(_holder(self._fd))
        return True

    def _owner(self) -> int:
        """Return the user who owns the journal's file; root if it does not exist yet."""
        try:
            return os.stat(self._file).st_uid
        except OSError:
            return 0

    def _replace_lock(self, fd: int) -> None:
        """Remove a lock file that another user holds, so that a new one is created."""
        if is_at(fd, self._path):
            _log.warning("another user's process holds %s, and cannot own the journal: a new one is made", self._path)
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Release the locks. Idempotent. SQLite must have closed the file."""
        held = (self._file_fd, self._fd)
        self._fd = self._file_fd = None
        for fd in held:
            if fd is not None:
                os.close(fd)


class _Patience(Struct):
    """The time to wait for another owner, and the callback that reports the wait once."""

    clock: Clock
    wait_s: float
    deadline: float
    on_wait: Callable[[str], None] | None

    async def wait(self, holder: str) -> None:
        """Wait a moment. Raises `JournalLocked` when the time is up."""
        if self.clock.monotonic() >= self.deadline:
            raise JournalLocked(
                f"The journal is in use by {holder}, which did not give it up within {self.wait_s:g} s. "
                "Stop that one, or name another file."
            )
        on_wait, self.on_wait = self.on_wait, None
        if on_wait is not None:
            on_wait(f"waiting for the journal, which is in use by {holder}")
        await asyncio.sleep(POLL_S)


def _left_to_parent(held: Ownership | None) -> None:
    if held is not None:
        held.release()


class Holder(Struct, frozen=True):
    """The owner of a journal, as its lock file says; `since` is a time in readable form."""

    pid: int
    host: str
    since: str
    owner: str = ""


def holder(path: Path) -> Holder | None:
    """Return the owner of the journal at `path`, None if there is none or it is unknown."""
    with lock_seen(path) as (fd, held):
        return _signed(fd) if held else None


def is_held(path: Path) -> bool:
    """Return whether the journal at `path` has an owner, perhaps this very process. Does not open the journal's own
    file: closing it would drop SQLite's locks of this process."""
    with lock_seen(path) as (_, held):
        return held


@contextmanager
def lock_seen(path: Path) -> Iterator[tuple[int, bool]]:
    """Open the lock file, if it exists, and yield whether it is locked; if not, no process can lock it inside the
    block."""
    try:
        fd = os.open(lock_of(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield -1, False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            yield fd, True
        else:
            yield fd, False
    finally:
        os.close(fd)


def lock_of(path: Path) -> Path:
    """Return the lock file of the journal at `path`."""
    return path.with_name(path.name + ".lock")


def _sign(fd: int, owner: str, now: float) -> None:
    since = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    os.ftruncate(fd, 0)
    os.pwrite(fd, msgspec.json.encode(Holder(os.getpid(), socket.gethostname(), since, owner)) + b"\n", 0)


def _signed(fd: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except (OSError, ValueError):  # (the base of msgspec's errors)
        return None


def _holder(fd: int | None) -> str:
    held = None if fd is None else _signed(fd)
    return "another process" if held is None else f"process {held.pid} on host {held.host} since {held.since}"
