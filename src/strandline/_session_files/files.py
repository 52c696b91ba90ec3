"""Reads and writes the files of one session, in threads. Each file is replaced atomically.

Files of others are never overwritten or removed: a folder without our mark is moved aside.
"""

import glob
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from strandline._model import SessionKey
from strandline._session_files.layout import AGENT, SESSION_FILE, Mark, SessionFile, message_file, read_session_file
from strandline.errors import StrandlineError

BLOCK: Final = 4096
"""A common block size: the room that the smallest file takes."""
DELETING: Final = "deleting"
"""A file in the folder of a session while it is being deleted."""


class NotOurs(StrandlineError):
    """The folder holds the files of another session, which are not touched."""

    code = "session_files_taken"


def written(folder: Path, key: SessionKey) -> tuple[str, Mark] | None:
    """Return when the files of a session were created, and their mark; None if there are none of ours or damaged ones.

    Raises `NotOurs` if the files belong to another session.
    """
    found = _found(folder)
    if found.strandline is None:
        return None
    if found.strandline.key != key:
        other = found.strandline.session_id
        raise NotOurs(
            f"{folder} holds the files of session {other!r}, so those of {key.session_id!r} cannot be written there"
        )
    return (found.created_at, found.strandline) if _is_whole(folder, found.strandline) else None


def _is_whole(folder: Path, mark: Mark) -> bool:
    """Return whether the last file exists and is not empty, as it may be after a power cut."""
    count = mark.files_before(mark.length)
    try:
        return count == 0 or (folder / message_file(count - 1)).stat().st_size > 0
    except FileNotFoundError:
        return False


def write(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files in order, each atomically. Create their folders for this user only."""
    for name, data in files:
        file = folder / name
        _make(file.parent)
        beside = file.with_name(f".{file.name}.tmp")
        with open(beside, "wb", opener=_anew) as opened:
            opened.write(data)
        os.replace(beside, file)


def room_of(files: Iterable[tuple[str, bytes]]) -> int:
    """Return how many bytes of a disk the files take."""
    return sum(-(-len(data) // BLOCK) * BLOCK for _, data in files)


def share_a_disk(folder: Path, file: Path) -> bool:
    """Return whether a folder, which may not exist yet, is on the same disk as a file. True if that is unknown."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        return os.stat(folder).st_dev == os.stat(file).st_dev
    except OSError:
        return True


def _anew(path: str, flags: int) -> int:
    """Open a new file. Remove one of that name, so that no link is followed and no pipe blocks."""
    flags |= os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


def _at_once(path: str, flags: int) -> int:
    """Open a file to read, without blocking on a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _make(folder: Path) -> None:
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def beside(folder: Path) -> Path:
    """Return the temporary folder for a complete rewrite of a session's files."""
    return folder.with_name(f".{folder.name}.new")


def begin(folder: Path) -> None:
    """Prepare a complete rewrite in the folder `beside`; `put_in_place` follows. Call it again to abort the rewrite."""
    _remove(beside(folder))
    _remove(_former(folder))


def put_in_place(folder: Path) -> Path | None:
    """Replace a session's folder by the rewritten one. Return where the former files are now, if they were not ours."""
    _make(beside(folder) / AGENT / "messages")
    ours, aside = _mark(folder) is not None, None
    if os.path.lexists(folder):
        aside = _former(folder) if ours else _free(folder)
        os.rename(folder, aside)
    os.rename(beside(folder), folder)
    if ours:
        _remove(_former(folder))
        return None
    return aside


def intend_deletion(folder: Path, key: SessionKey) -> None:
    """Mark a session's folder, if there is one, as about to be deleted."""
    if (mark := _mark(folder)) is not None and mark.key == key:
        (folder / DELETING).touch(mode=0o600)


def cancel_deletion(folder: Path) -> None:
    """Remove the mark of a deletion."""
    (folder / DELETING).unlink(missing_ok=True)


def remove(folder: Path, key: SessionKey, root: Path) -> None:
    """Remove the files of a session, if they are ours, and then empty parent folders below `root`."""
    if (mark := _mark(folder)) is not None and mark.key == key:
        _remove(folder)
    _remove(beside(folder))
    _remove(_former(folder))
    for parent in folder.parents:
        if not parent.is_relative_to(root) or parent == root:
            break
        try:
            parent.rmdir()
        except OSError:
            break


def is_to_be_removed(folder: Path) -> bool:
    """Return whether a session's folder is marked as about to be deleted."""
    return (folder / DELETING).exists()


def unfinished_deletions(pattern: str) -> list[SessionKey]:
    """Return the sessions whose deletion an earlier server did not finish. `pattern` matches the marks.

    Unreadable folders are ignored.
    """
    keys: list[SessionKey] = []
    for each in glob.glob(pattern, include_hidden=True):
        with suppress(OSError):
            if (mark := _mark(Path(each).parent)) is not None:
                keys.append(mark.key)
    return keys


def _found(folder: Path) -> SessionFile:
    """Read the `session.json` of a folder; one that is not ours has no mark."""
    if folder.is_symlink():
        return SessionFile()
    try:
        with open(folder / SESSION_FILE, "rb", opener=_at_once) as file:
            return read_session_file(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return SessionFile()


def _mark(folder: Path) -> Mark | None:
    return _found(folder).strandline


def _former(folder: Path) -> Path:
    """Return the folder of our former files during a rewrite."""
    return folder.with_name(f".{folder.name}.old")


def _free(folder: Path) -> Path:
    """Return an unused name beside a folder."""
    number = 1
    while os.path.lexists(aside := folder.with_name(f"found-{number}_{folder.name}")):
        number += 1
    return aside


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        # `session.json` goes last, so that an incomplete removal is still known as ours and retried.
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each.name not in (SESSION_FILE, DELETING):
                each.unlink()
        shutil.rmtree(folder)
