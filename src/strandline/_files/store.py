"""Where uploaded files are kept: a folder for this server's user only, in it one of each session.

A file is written beside its place, synced and renamed, so that it is there whole or not at all; the journal's record of
it comes after that, and is what counts. So files without a record are left by a crash, and may be removed. Nothing here
is ever changed: a kept file is read-only, and agents' tools get copies.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from strandline import _private as private
from strandline._files.kinds import TypeProbe
from strandline._model import FileId, SessionKey

INCOMING: Final = "incoming"
"""The folder of files that are being uploaded."""
READ_ONLY: Final = 0o400
_FOLDER: Final = re.compile(r"[0-9a-f]{64}")
_ID: Final = re.compile(r"file_[0-9a-f]{32}")
_FOLDERS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
COPIES: Final = "uploads"
"""The folder in a session's workspace that has copies for tools."""


def new_file_id() -> FileId:
    """Return a random id: nobody can guess that of another file."""
    return FileId(f"file_{secrets.token_hex(16)}")


def is_file_id(text: str) -> bool:
    """Return whether a text has the form of an id, and so is safe as the name of a file."""
    return _ID.fullmatch(text) is not None


def folder_of(key: SessionKey) -> str:
    """Return the name of a session's folder."""
    return hashlib.sha256("\0".join(key).encode()).hexdigest()


class Incoming:
    """A file while it is uploaded. Used by one thread at a time."""

    def __init__(self, root: Path, file_id: FileId) -> None:
        self.file_id = file_id
        self.size = 0
        self._root = root
        private.make_folder(root / INCOMING)
        self._path = root / INCOMING / file_id
        self._hash = hashlib.sha256()
        self._probe = TypeProbe()
        self._file = open(self._path, "xb", opener=_private_file)  # noqa: SIM115 (closed by `keep` or `discard`)

    def write(self, piece: bytes) -> None:
        """Write the next bytes."""
        self._file.write(piece)
        self._hash.update(piece)
        self._probe.add(piece)
        self.size += len(piece)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written, in hex."""
        return self._hash.hexdigest()

    def media_type(self, name: str) -> str:
        """Return the type of what was written."""
        return self._probe.media_type(name)

    def keep(self, key: SessionKey) -> None:
        """Bring it to its place, durably, under its id. Raises `OSError`; `discard` it then."""
        self.keep_in(folder_of(key), self.file_id)

    def keep_in(self, folder_name: str, name: str) -> None:
        """Bring it to a folder of a session, durably, under an id. Raises `OSError`; `discard` it then."""
        self._file.flush()
        os.fchmod(self._file.fileno(), READ_ONLY)
        os.fsync(self._file.fileno())
        self._file.close()
        folder = self._root / folder_name
        private.make_folder(folder)
        _sync(self._root)
        _bring(folder, partial(os.rename, self._path, folder / name))
        _sync(folder)

    def discard(self) -> None:
        """Remove it, unless it is at its place."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


class FileStore:
    """The files under one folder, which is made with its first file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, file_id: FileId) -> Incoming:
        """Begin a file. Raises `OSError`."""
        private.make_folder(self.root)
        return Incoming(self.root, file_id)

    def path(self, key: SessionKey, file_id: FileId) -> Path:
        """Return where a file is, if it is kept."""
        return path_of(str(self.root), key, file_id)

    def share(self, source: SessionKey, to: SessionKey, file_ids: Iterable[str]) -> None:
        """Have another session have files of one as well, as far as they are there. Raises `OSError`."""
        self.bring(folder_of(to), file_ids, self.root / folder_of(source))

    def bring(self, name: str, file_ids: Iterable[str], source: Path) -> None:
        """Have the folder `name` of a session have files of the folder `source`, as links or copies, durably.

        Those that are in the one already, or not in the other, are left out. Raises `OSError`.
        """
        folder = self.root / name
        private.make_folder(folder)
        for file_id in file_ids:
            kept = source / file_id
            try:
                _bring(folder, partial(os.link, kept, folder / file_id))
            except (FileExistsError, FileNotFoundError):
                continue
            except OSError:  # (another file system or one without links, or a file that has as many as it may)
                with suppress(FileNotFoundError):
                    self._copy(kept, name, file_id)
        _sync(folder)
        _sync(self.root)

    def _copy(self, kept: Path, name: str, file_id: str) -> None:
        with open(kept, "rb") as source:
            copy = Incoming(self.root, new_file_id())
            try:
                while piece := source.read(1 << 20):
                    copy.write(piece)
                copy.keep_in(name, file_id)
            finally:
                copy.discard()

    def folders(self) -> list[str]:
        """Return the names of all sessions' folders that are there now."""
        return [each for each in _entries(self.root) if _FOLDER.fullmatch(each)]

    def listed_in(self, folder: str) -> list[str]:
        """Return the ids of the files that a folder has now."""
        return [each for each in _entries(self.root / folder) if is_file_id(each)]

    def listed(self) -> list[tuple[str, str]]:
        """Return all files that are there now, as the names of their folders and their own."""
        found = []
        for folder in (INCOMING, *self.folders()):
            found += [(folder, each) for each in self.listed_in(folder)]
        return found

    def listed_of(self, key: SessionKey) -> list[str]:
        """Return the ids of a session's files that are there now."""
        return self.listed_in(folder_of(key))

    def age_s(self, folder: str, name: str, now: float) -> float:
        """Return for how long a file has not been changed; 0 if it is gone."""
        try:
            return now - (self.root / folder / name).stat().st_mtime
        except OSError:
            return 0.0

    def remove(self, folder: str, name: str) -> None:
        """Remove a file, if it is there, and its session's folder, if that is empty then."""
        with suppress(OSError):
            (self.root / folder / name).unlink(missing_ok=True)
        if folder != INCOMING:  # (which the next upload uses, perhaps in this moment)
            with suppress(OSError):
                (self.root / folder).rmdir()


def path_of(root: str, key: SessionKey, file_id: str) -> Path:
    """Return where a file of a session is under the folder `root`."""
    return Path(root, folder_of(key), file_id)


def copy_for_tools(kept: Path, workspace: Path, file_id: str, name: str) -> Path | None:
    """Copy a file into a session's workspace, unless it is there already; return its path, None if it is not kept.

    `name` is safe. Tools may do what they like with the copy, and with the folders above it: no symbolic link that they
    leave there is followed. Raises `OSError`, also for such a link.
    """
    private.make_folder(workspace)
    folder = os.open(workspace, _FOLDERS)
    try:
        for each in (COPIES, file_id):
            with suppress(FileExistsError):
                os.mkdir(each, private.FOLDER, dir_fd=folder)
            above, folder = folder, os.open(each, _FOLDERS, dir_fd=folder)
            os.close(above)
        if not _is_file(name, folder) and not _copied(kept, name, folder):
            return None
    finally:
        os.close(folder)
    return workspace / COPIES / file_id / name


def _is_file(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _copied(kept: Path, name: str, folder: int) -> bool:
    """Copy a file into an open folder, in place of what has its name there; return whether it is kept."""
    beside = f".{secrets.token_hex(4)}.tmp"
    try:
        with (
            open(kept, "rb") as source,
            open(os.open(beside, _NEW, private.FILE, dir_fd=folder), "wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
        os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileNotFoundError:
        return False
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=folder)
    return True


def _bring(folder: Path, put: Callable[[], object]) -> None:
    """Put something into a folder, which somebody may just have removed, since it was empty."""
    try:
        put()
    except FileNotFoundError:
        private.make_folder(folder)
        put()


def _entries(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            yield from (each.name for each in found)
    except (FileNotFoundError, NotADirectoryError):
        return


def _private_file(path: str, flags: int) -> int:
    return private.open_file(Path(path), flags)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
