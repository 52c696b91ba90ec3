"""Copies a journal as of one moment, with or without a running server, and the contents of its files."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from strandline._files.store import INCOMING, FileStore
from strandline._journal.contents import Carrier, OnStep, by_session, each_page, still_recorded
from strandline._journal.driver import connect_reader, copy_into, damaged, is_damage, make_whole, sync
from strandline._journal.ownership import existing
from strandline._journal.port import StoredFile
from strandline._journal.verify import at_one_moment
from strandline.errors import JournalDamaged, JournalError


class Backup(NamedTuple):
    """What was made. `faults`: contents that are missing or changed, in the journal as in the backup."""

    size: int
    files: int = 0
    faults: tuple[str, ...] = ()


class _DeletedMeanwhile(Exception):
    """A file was deleted after the moment of the copy, and before its content was there."""


def beside(file: Path) -> Path:
    """Return the folder that belongs to the copy `file` of a journal."""
    return Path(f"{file}.files")


def backup(
    file: Path,
    to: Path,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    *,
    files: Path | None = None,
    on_file: OnStep = lambda what, done, total: None,
) -> Backup:
    """Copy the journal at `file` to the file `to`, and the contents of its files from the folder `files` to `TO.files`.

    Neither may exist. Both are durable on return; the copy appears whole or not at all, after its folder. `on_step`
    gets the number of pages done and in total, `on_file` that of contents. Raises a `JournalError` that says what to
    do.
    """
    path = existing(file)
    for each in (to, beside(to)):
        if os.path.lexists(each):
            what = "a folder" if each.is_dir() else "there already"
            raise JournalError(f"{each} is {what}, and nothing is overwritten. Name a file that is not there yet.")
    contents = _Contents(path, to, None if files is None else FileStore(files))

    def fill(draft: Path) -> None:
        def fill_at(source: sqlite3.Connection) -> None:
            contents.bring(source)
            copy_into(draft, source, path, "integrity_check", on_step)

        while True:
            with suppress(_DeletedMeanwhile):
                at_one_moment(path, fill_at)
                break
        contents.put(draft, on_file)

    try:
        contents.gather()
        make_whole(to, to.with_name(f".{to.name}.{os.getpid()}.new"), fill, replace=False)
        contents.is_whole = True
        return Backup(to.stat().st_size, contents.count, contents.faults)
    except JournalDamaged as error:
        raise JournalDamaged(f"{error} No backup was made.") from error
    except FileExistsError as error:
        raise JournalError(f"{to} is there already, and nothing is overwritten. Name another file.") from error
    except OSError as error:
        raise JournalError(f"The backup {to} cannot be written: {error.strerror}. Name another file.") from error
    except sqlite3.Error as error:
        if is_damage(error):
            raise JournalDamaged(f"{damaged(path, error)} No backup was made.") from error
        raise JournalError(
            f"The journal {path} cannot be copied to {to}: {error}. Make room there, or name another file."
        ) from error
    finally:
        contents.discard()


class _Contents:
    """The contents of files of one backup, as links or copies.

    All that are there are gathered before the moment of the copy, since those of records of that moment may be deleted
    any time after it. At that moment only what was uploaded meanwhile is missing.
    """

    def __init__(self, path: Path, to: Path, store: FileStore | None) -> None:
        self._path = path
        self._store = store
        self._final = beside(to)
        draft = to.with_name(f".{to.name}.{os.getpid()}.files.new")
        self._folder = draft
        self._gathered = FileStore(draft / "gathered")
        self._named = FileStore(draft / "named")
        self._is_put = False
        self.is_whole = False
        self.count = 0
        self.faults: tuple[str, ...] = ()

    def gather(self) -> None:
        """Take what is there."""
        if self._store is not None:
            for folder in self._store.folders():
                self._gathered.bring(folder, self._store.listed_in(folder), self._store.root / folder)

    def bring(self, source: sqlite3.Connection) -> None:
        """Have the folder have what the records of this moment name. Raises `_DeletedMeanwhile`."""
        if self._store is None or not _has_files(source):
            return
        for page in each_page(source):
            for folder, some in by_session(page.files):
                ids = [each.file_id for each in some]
                for store in (self._gathered, self._store):
                    self._named.bring(folder, ids, store.root / folder)
                self._check_deleted([each for each in some if not self._named.path(each.key, each.file_id).exists()])

    def _check_deleted(self, lacking: list[StoredFile]) -> None:
        """Raise `_DeletedMeanwhile` if the journal has not the records of all these files any more."""
        if lacking and len(at_one_moment(self._path, lambda now: still_recorded(now, lacking))) < len(lacking):
            raise _DeletedMeanwhile

    def put(self, draft: Path, on_file: OnStep) -> None:
        """Compare all contents with the records in the copy, and put their folder to its place."""
        if self._store is None:
            return
        with closing(connect_reader(draft)) as copy:
            if not _has_files(copy):
                return
            carrier = Carrier(self._named, self._named)
            carrier.bring(copy, on_file)
        self.count, self.faults = carrier.files, carrier.faults.sentences
        if self.count:
            shutil.rmtree(self._named.root / INCOMING, ignore_errors=True)
            os.rename(self._named.root, self._final)
            self._is_put = True
            sync(self._final.parent)

    def discard(self) -> None:
        """Remove what is not part of a backup."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._is_put and not self.is_whole:
            shutil.rmtree(self._final, ignore_errors=True)


def _has_files(connection: sqlite3.Connection) -> bool:
    """Return whether a journal has the table of files: an older one lacks it."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone() is not None
