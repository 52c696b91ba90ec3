"""Journals in files, as sides of a copy. A file is locked for as long as it takes part.

A destination has its final name from the start, with an application id that no command and no server opens.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from strandline._clock import Clock
from strandline._journal.copying.copy import Numbers, RowsRefused, identity_of
from strandline._journal.driver import companions, connect, make_whole, schema_after, sync, unreadable
from strandline._journal.integrity import check_current, guard
from strandline._journal.ownership import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    UNFINISHED_ID,
    Ownership,
    application_of,
    check_openable,
    existing,
    locate,
    prepare_folder,
)
from strandline._journal.tables import Table
from strandline.errors import JournalDamaged, JournalError, JournalLocked

OWNER: Final = "strandline journal copy"
_OF: Final = "SELECT value FROM meta WHERE name = 'unfinished'"


@contextmanager
def _owned(path: Path, clock: Clock) -> Iterator[Ownership]:
    ownership = Ownership(path, clock)
    try:
        asyncio.run(ownership.acquire(OWNER))
    except JournalLocked as error:
        raise JournalLocked(f"{error} A journal is copied while no server has it.") from error
    try:
        yield ownership
    finally:
        ownership.release()


class FileSource:
    """A journal in a file, open and ours."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.name = str(path)
        self.identity = identity_of("file", str(path))
        self.database = connection

    def numbers(self) -> Numbers:
        """Return what it knows beside its rows."""
        found = dict(self.database.execute("SELECT name, value FROM meta"))
        try:
            return Numbers(found["epoch"], found["pruned"])
        except KeyError as error:
            raise JournalDamaged(f"{self.name} is damaged: it lacks the number {error}. Restore a backup.") from None


@contextmanager
def file_source(file: Path, clock: Clock) -> Iterator[FileSource]:
    """Yield the journal in a file; nobody else can use it inside of the block. It is left as it is."""
    path = existing(file)
    with _owned(path, clock):
        try:
            with closing(guard(path)) as guarding:
                check_current(path, guarding)
                connection = connect(path)
            with closing(connection):
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                yield FileSource(path, connection)
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise unreadable(path, error) from error


class FileDestination:
    """A file that becomes a journal."""

    def __init__(self, path: Path, ownership: Ownership) -> None:
        self.name = str(path)
        self._path = path
        self._ownership = ownership
        self._connection: sqlite3.Connection | None = None
        self._identity = 0

    @property
    def database(self) -> sqlite3.Connection:
        """Reads what was written."""
        assert self._connection is not None
        return self._connection

    def begin(self, identity: int, *, anew: bool) -> bool:
        """Create the file, or open the unfinished copy that it is. Raises a `JournalError` if it is anything else."""
        self._identity = identity
        if application_of(self._path) == UNFINISHED_ID and not anew:
            self._open()
            if self.database.execute(_OF).fetchone() != (identity,):
                raise JournalError(
                    f"{self.name} is an unfinished copy of another journal. Run that copy again, name another file, or"
                    " discard it with --anew."
                )
            return True
        if application_of(self._path) != UNFINISHED_ID and check_openable(self._path):
            raise JournalError(f"{self.name} is a journal already, and nothing is overwritten. Name a new file.")
        self._create()
        return False

    def _create(self) -> None:
        def fill(draft: Path) -> None:
            with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                marks = f"PRAGMA application_id = {UNFINISHED_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
                of = f"INSERT INTO meta VALUES ('unfinished', {self._identity});"
                connection.executescript(f"BEGIN; {marks} {schema_after(0)} {of} COMMIT;")

        for each in companions(self._path):
            each.unlink(missing_ok=True)
        make_whole(self._path, self._path.with_name(self._path.name + ".new"), fill)
        self._open()

    def _open(self) -> None:
        self._ownership.hold_file()
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("PRAGMA synchronous = FULL")

    def clear(self) -> None:
        """Start with a new file."""
        self.close()
        self._create()

    def write(self, table: Table, rows: list[tuple[Any, ...]]) -> None:
        """Add rows; they are durable on return."""
        values = ", ".join("?" * len(table.columns))
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(f"INSERT INTO {table.name} ({table.listed}) VALUES ({values})", rows)
            database.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            database.execute("ROLLBACK")
            raise RowsRefused(f"rows of {table.name} were refused: {error}") from error

    def finish(self, numbers: Numbers) -> None:
        """Make it a journal like others, durably."""
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        for name, value in numbers._asdict().items():
            database.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
        database.execute("DELETE FROM meta WHERE name = 'unfinished'")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("COMMIT")
        self.close()
        sync(self._path.parent)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def file_destination(file: Path, clock: Clock) -> Iterator[FileDestination]:
    """Yield a file to copy to; nobody else can use it inside of the block."""
    path = locate(file)
    prepare_folder(path)
    with _owned(path, clock) as ownership:
        destination = FileDestination(path, ownership)
        try:
            yield destination
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"The copy {path} cannot be written: {error}. Make room there and run the same command again: it"
                " continues. Or name another file."
            ) from error
        finally:
            destination.close()
