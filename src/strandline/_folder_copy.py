"""Copies of folders that somebody else may be changing: no symbolic link is followed, and nothing but files is read."""

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from strandline import _private as private

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A link or a pipe that has taken a file's place is not opened, or not waited for."""


def copy_folder(source: Path, to: Path) -> None:
    """Copy a folder, for its owner only, in place of whatever is at `to`. A source that does not exist is empty.

    Symbolic links are copied as links, wherever they lead; pipes, sockets and devices are left out. What is created or
    removed meanwhile may be in the copy or not. Raises `OSError`.
    """
    remove_folder(to)
    private.make_folder(to)
    if not source.is_dir() or source.is_symlink():
        return
    for folder, folders, files, descriptor in os.fwalk(source, follow_symlinks=False, onerror=_raise):
        into = to / os.path.relpath(folder, source)
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                _copy(name, descriptor, into / name)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _copy(name: str, folder: int, to: Path) -> None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=folder), to)
    elif stat.S_ISDIR(status.st_mode):
        to.mkdir(private.FOLDER)
    elif stat.S_ISREG(status.st_mode):
        with open(os.open(name, _READ, dir_fd=folder), "rb") as read:
            if not stat.S_ISREG(os.fstat(read.fileno()).st_mode):
                return
            mode = private.FILE | (status.st_mode & stat.S_IXUSR)
            with open(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as written:
                shutil.copyfileobj(read, written)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
