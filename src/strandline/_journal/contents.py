"""The contents of files, which a folder beside the journal has: they go along with a copy of it, and are checked.

A content is never changed, and is there before its record is stored; it goes after its record. So what a record of one
moment names is in the folder, unless its record was deleted since. Knows neither files nor databases of journals.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Final

import msgspec
from msgspec import Struct

from strandline._files.store import FileStore, folder_of
from strandline._journal.database import Database
from strandline._journal.files import file, files
from strandline._journal.port import FileQuery, FilesQuery, StoredFile, StoredFiles
from strandline.errors import JournalError

OnStep = Callable[[str, int, int], None]
"""Called with what is done, how much of it is done, and how much there is."""
PAGE: Final = 500
MOST_FAULTS: Final = 100
"""How many faults of a journal are named at most; the rest is counted."""


class _Record(Struct, frozen=True):
    sha256: str


_record: Final = msgspec.json.Decoder(_Record)


class Faults:
    """What is wrong with contents, a sentence each."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self.count = 0

    def add(self, fault: str) -> None:
        """Add a fault."""
        self.count += 1
        if self.count <= MOST_FAULTS:
            self._named.append(fault)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The faults, with how many more there are."""
        more = self.count - len(self._named)
        return (*self._named, f"and {more:,} more") if more else tuple(self._named)


def fault_of(store: FileStore, stored: StoredFile) -> str | None:
    """Read a content whole; return what is wrong with it, None if it is what was uploaded.

    Raises `FileNotFoundError`.
    """
    what = f"the content of file {stored.file_id} in session {stored.key.session_id}"
    try:
        sha256 = _record.decode(stored.record).sha256
    except msgspec.DecodeError:
        return f"the record of file {stored.file_id} is damaged"
    try:
        with open(store.path(stored.key, stored.file_id), "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"{what} cannot be read: {error.strerror}"
    return None if found == sha256 else f"{what} is not what was uploaded"


def missing(stored: StoredFile) -> str:
    """Return the fault of a content that is not there."""
    return f"the content of file {stored.file_id} in session {stored.key.session_id} is missing"


def in_any_case(store: FileStore, stored: StoredFile) -> str | None:
    """Return what is wrong with a content, also that it is not there."""
    try:
        return fault_of(store, stored)
    except FileNotFoundError:
        return missing(stored)


def each_page(database: Database) -> Iterator[StoredFiles]:
    """Yield the records of all files of a journal, some at a time, session after session."""
    after: str | None = None
    while True:
        page = files(database, FilesQuery(after=after, limit=PAGE))
        yield page
        if (after := page.after) is None:
            return


def count_of(database: Database) -> int:
    """Return how many files a journal has."""
    return int(database.execute("SELECT count(*) FROM files").fetchone()[0])


def still_recorded(database: Database, some: Iterable[StoredFile]) -> list[StoredFile]:
    """Return those of some files that a journal has now."""
    return [each for each in some if file(database, FileQuery(each.key, each.file_id)) is not None]


def by_session(stored: Iterable[StoredFile]) -> Iterator[tuple[str, list[StoredFile]]]:
    """Yield the files of each session, with the name of its folder."""
    for key, some in groupby(stored, key=lambda each: each.key):
        yield folder_of(key), list(some)


class Carrier:
    """Brings the contents of a journal's files from a folder to another one, for a copy of the journal.

    None for a folder: it is not known. The same folder for both: it stays, and is only checked.
    """

    def __init__(self, source: FileStore | None, to: FileStore | None) -> None:
        self._source = source
        self._to = to
        self.files = 0
        self.faults = Faults()

    def check(self, database: Database) -> None:
        """Raise a `JournalError` if there are files, and a folder is not known."""
        if None in (self._source, self._to) and count_of(database):
            side, option = ("source", "--files") if self._source is None else ("copy", "--files-to")
            raise JournalError(
                f"The journal has uploaded files, and their folder is not known on the side of the {side}, which is"
                f" in a database. Name it with {option} FOLDER, or the setting files."
            )

    def bring(self, database: Database, on_step: OnStep) -> None:
        """Bring what the records in `database` name, and is not there yet; compare each content with its hash.

        Raises a `JournalError` if the folder cannot be written.
        """
        if self._source is None or self._to is None:
            return
        try:
            self._bring(database, self._source, self._to, on_step)
        except OSError as error:
            raise JournalError(
                f"Files cannot be copied to {self._to.root}: {error.strerror}. Make room there and run the same command"
                " again: it continues."
            ) from error

    def _bring(self, database: Database, source: FileStore, to: FileStore, on_step: OnStep) -> None:
        if not (total := count_of(database)):
            return
        is_same = source.root.resolve() == to.root.resolve()
        for page in each_page(database):
            for folder, some in by_session(page.files):
                if not is_same:
                    to.bring(folder, [each.file_id for each in some], source.root / folder)
                for each in some:
                    on_step("files", self.files, total)
                    self._check(source, to, folder, each)
                    self.files += 1
            for file_id in page.damaged:
                self.faults.add(f"the record of file {file_id} is damaged")
        on_step("files", total, total)

    def _check(self, source: FileStore, to: FileStore, folder: str, stored: StoredFile) -> None:
        fault = in_any_case(to, stored)
        if fault is not None and in_any_case(source, stored) is None:  # (what an earlier copy left is damaged)
            to.remove(folder, stored.file_id)
            to.bring(folder, [stored.file_id], source.root / folder)
            fault = in_any_case(to, stored)
        if fault is not None:
            self.faults.add(fault)
