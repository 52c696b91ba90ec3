"""Files and folders that only their owner may access: created so, and tightened where they were not. Knows nothing of
their content.
"""

import logging
import os
import stat
from pathlib import Path
from typing import Final

_log: Final = logging.getLogger("strandline")

FILE: Final = 0o600
FOLDER: Final = 0o700
_OTHERS: Final = 0o077


def open_file(path: Path, flags: int) -> int:
    """Open a file (with `O_CREAT` create it) that only its owner may read and write; return its descriptor."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, FILE)
    try:
        _tighten(descriptor, path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_empty(path: Path) -> None:
    """Create an empty file that only its owner may read and write. Raises `OSError`, also if it exists."""
    os.close(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def tighten(path: Path) -> None:
    """Remove all rights of others from a file or folder, if it exists.

    Files of other users, symbolic links and shared folders (with a sticky bit, like `/tmp`) stay unchanged. Works by
    name: opening and closing a descriptor would drop SQLite's locks on the file.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_ISVTX:
            _tighten(path, path, status)
    except (FileNotFoundError, NotADirectoryError):
        pass


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, for their owner only."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        if path == path.parent:
            break
        path = path.parent
    for each in reversed(missing):
        try:
            each.mkdir(FOLDER)
        except FileExistsError:
            if not each.is_dir():
                raise


def _tighten(what: int | Path, path: Path, status: os.stat_result) -> None:
    if not status.st_mode & _OTHERS:
        return
    try:
        os.chmod(what, stat.S_IMODE(status.st_mode) & ~_OTHERS)
    except OSError as error:
        _log.warning("others may read %s, and its rights cannot be changed: %s", path, error.strerror)
