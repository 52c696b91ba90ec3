"""Files and folders that nobody but their owner reads: made so from their first moment, and made so again where they
were laxer. Knows nothing of what is in them.
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
    """Open a file, or with `O_CREAT` make one, that only its owner may read and write; return its descriptor."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, FILE)
    try:
        _tighten(descriptor, path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_empty(path: Path) -> None:
    """Make an empty file that only its owner may read and write. Raises `OSError`, also if something is there."""
    os.close(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def tighten(path: Path) -> None:
    """Take the rights of all others from a file or folder, if it is there.

    It stays as it is if it is another user's, a symbolic link, or a folder for all (`/tmp`: its sticky bit says so).
    Works by name: no descriptor of the file is opened and closed, which would drop the locks that SQLite has on it.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_ISVTX:
            _tighten(path, path, status)
    except (FileNotFoundError, NotADirectoryError):
        pass


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are not there, that only their owner may look into."""
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
        _log.warning("others may read %s, and that cannot be changed: %s", path, error.strerror)
