"""Files of one session, read and written in threads: each is replaced as a whole, none is ever seen half written.

Nothing that somebody else has left there is overwritten or removed: a folder without our mark is moved aside.
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
"""Of a disk, as most have them: what the smallest file takes."""
DELETING: Final = "deleting"
"""Lies in the folder of a session that is about to be deleted, until that is done."""


class NotOurs(StrandlineError):
    """The folder of a session has the files of another session; they are left alone."""

    code = "session_files_taken"


def kept(folder: Path, key: SessionKey) -> tuple[str, Mark] | None:
    """Return since when a session has files, and how far they go; None if none of ours are there, or damaged ones.

    Raises `NotOurs` if the files are those of another session.
    """
    found = _found(folder)
    if found.strandline is None:
        return None
    if found.strandline.key != key:
        other = found.strandline.session_id
        raise NotOurs(f"{folder} has the files of session {other!r}, so those of {key.session_id!r} cannot be there")
    return (found.created_at, found.strandline) if _is_whole(folder, found.strandline) else None


def _is_whole(folder: Path, mark: Mark) -> bool:
    """Return whether the last file is there and is not empty, as one may be after a power cut."""
    count = mark.files_before(mark.length)
    try:
        return count == 0 or (folder / message_file(count - 1)).stat().st_size > 0
    except FileNotFoundError:
        return False


def write(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files, in order, each at once. Their folders are made, for nobody but this user."""
    for name, data in files:
        file = folder / name
        _make(file.parent)
        beside = file.with_name(f".{file.name}.tmp")
        with open(beside, "wb", opener=_anew) as written:
            written.write(data)
        os.replace(beside, file)


def room_of(files: Iterable[tuple[str, bytes]]) -> int:
    """Return how much of a disk files take."""
    return sum(-(-len(data) // BLOCK) * BLOCK for _, data in files)


def share_a_disk(folder: Path, file: Path) -> bool:
    """Return whether what is written into a folder, which may not be there yet, takes the room of a file's disk.

    If that cannot be told, it may.
    """
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        return os.stat(folder).st_dev == os.stat(file).st_dev
    except OSError:
        return True


def _anew(path: str, flags: int) -> int:
    """Open a file that is made here: what has its name goes, so no link is written through, and no pipe waited for."""
    flags |= os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


def _at_once(path: str, flags: int) -> int:
    """Open a file to read, without waiting for anybody where it is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _make(folder: Path) -> None:
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def beside(folder: Path) -> Path:
    """Return the folder in which the files of a session are written that are written from the beginning."""
    return folder.with_name(f".{folder.name}.new")


def begin(folder: Path) -> None:
    """Make room to write the files of a session beside its folder, all of them; `put_in_place` follows.

    Called once more instead of that, it leaves nothing of them.
    """
    _remove(beside(folder))
    _remove(_former(folder))


def put_in_place(folder: Path) -> Path | None:
    """Have the files that were written beside a session's folder take its place.

    Returns where its former files are now, if those were not ours.
    """
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
    """Note in a session's folder, if there is one, that it is about to be deleted."""
    if (mark := _mark(folder)) is not None and mark.key == key:
        (folder / DELETING).touch(mode=0o600)


def keep(folder: Path) -> None:
    """Note that a session's folder is not deleted after all."""
    (folder / DELETING).unlink(missing_ok=True)


def remove(folder: Path, key: SessionKey, root: Path) -> None:
    """Remove the files of a session, if there are any of ours, and folders below `root` that are empty then.

    Those may have its name, too.
    """
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
    """Return whether somebody meant to delete a session when its files were seen last."""
    return (folder / DELETING).exists()


def meant_to_be_deleted(pattern: str) -> list[SessionKey]:
    """Return the sessions that were about to be deleted when a server ended. `pattern` is that of their notes.

    A folder that cannot be read stays as it is.
    """
    keys: list[SessionKey] = []
    for each in glob.glob(pattern, include_hidden=True):
        with suppress(OSError):
            if (mark := _mark(Path(each).parent)) is not None:
                keys.append(mark.key)
    return keys


def _found(folder: Path) -> SessionFile:
    """Return what `session.json` says in a folder; whatever is none of ours has no mark."""
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
    """Return where our own former files are while others take their place."""
    return folder.with_name(f".{folder.name}.old")


def _free(folder: Path) -> Path:
    """Return a name beside a folder that nothing has."""
    number = 1
    while os.path.lexists(place := folder.with_name(f"found-{number}_{folder.name}")):
        number += 1
    return place


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        # What makes it a session goes last, so that what could not be removed is known as ours, and tried again.
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each.name not in (SESSION_FILE, DELETING):
                each.unlink()
        shutil.rmtree(folder)
