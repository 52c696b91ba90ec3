"""Creates and opens the SQLite file, and translates the driver's errors."""

import glob
import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from strandline import _private as private
from strandline._journal.errors import RunIdTaken
from strandline._journal.ownership import APPLICATION_ID, SCHEMA_VERSION
from strandline.errors import (
    InvariantBroken,
    JournalDamaged,
    JournalError,
    JournalUnavailable,
    StrandlineError,
)

BUSY_S: Final = 5.0
PAGE_BYTES: Final = 4096
WAL_PAGES: Final = 1000
SECRET_BYTES: Final = 32
COPY_PAGES: Final = 1000
"""Pages per step of a copy."""
LEAST_WAL_PAGES: Final = 16
WAL_SHARE: Final = 8
"""The WAL takes at most about this part of the free space that the disk has when the journal is opened."""


def create(path: Path) -> None:
    """Create an empty journal at `path`, whole or not at all. The caller owns the lock."""

    def fill(draft: Path) -> None:
        for each in companions(path):
            each.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            # Set at creation and before WAL mode, so that the file's header always identifies it.
            marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
            connection.executescript(f"BEGIN; {marks} {schema_after(0)} COMMIT;")
            connection.execute("PRAGMA journal_mode = WAL")

    try:
        make_whole(path, path.with_name(path.name + ".new"), fill)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"The journal {path} cannot be made: {error}. Name another file.") from error


def make_whole(path: Path, draft: Path, fill: Callable[[Path], None], *, replace: bool = True) -> None:
    """Have `fill` write a database to the empty file `draft`, and move it to `path` once it is whole and durable.

    Only its owner can read it, from the start. No draft is left behind. With `replace` False it raises
    `FileExistsError` if `path` exists, even if another process has just created it.
    """
    try:
        _remove(draft)
        private.make_empty(draft)
        fill(draft)
        sync(draft)
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            _remove(draft)


def copy_into(
    draft: Path, source: sqlite3.Connection, path: Path, check: str, on_step: Callable[[int, int], None] | None = None
) -> None:
    """Copy what `source` sees of the journal at `path` to the file `draft`, without companion files.

    `on_step` gets the number of pages done and in total. Raises `JournalDamaged` if the copy, reopened, has not the
    journal's marks or does not pass the pragma `check`.
    """
    # A read pins the snapshot: else each write of a server would restart the copy.
    source.execute("SELECT count(*) FROM sqlite_master").fetchone()
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # synced once, as a whole
        source.backup(copy, pages=COPY_PAGES, progress=on_step and (lambda _, left, all_: on_step(all_ - left, all_)))
        copy.execute("PRAGMA journal_mode = DELETE")
    with closing(connect_reader(draft)) as copy:
        if (found := _marks(copy)) != _marks(source):
            raise damaged(path, f"its copy is marked {found}")
        if (finding := integrity_error(copy, check)) is not None:
            raise damaged(path, finding)


def _marks(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return application, version_of(connection)


def version_of(connection: sqlite3.Connection) -> int:
    """Return the schema version of a file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def integrity_error(connection: sqlite3.Connection, check: str = "integrity_check") -> str | None:
    """Return the first fault that SQLite finds in pages and tables, None if there is none."""
    (verdict,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
    return None if verdict == "ok" else str(verdict)


def schema_after(version: int, upto: int = SCHEMA_VERSION) -> str:
    """Return the SQL that migrates a file from schema `version` (0: empty) to schema `upto`."""
    files = [each for each in resources.files("strandline._journal").joinpath("schema").iterdir() if each.is_file()]
    files.sort(key=lambda each: each.name)
    return "\n".join(each.read_text() for each in files if version < int(each.name[:4]) <= upto)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path) -> sqlite3.Connection:
    """Open the writing connection; every commit is synced."""
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise JournalError(f"The journal {path} is on a file system without shared memory. Name another file.")
        connection.text_factory = _readable  # (a damaged text matches nothing, and fails no other row)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = ON")  # (the default differs between builds of SQLite)
        connection.execute(f"PRAGMA journal_size_limit = {WAL_PAGES * PAGE_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_wal_pages(path)}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_in_memory() -> sqlite3.Connection:
    """Create an empty journal in memory and begin its one transaction, which ends with the connection.

    It cannot be rolled back, since SQLite keeps no rollback journal. Any thread may use it, one at a time.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.deserialize(_empty_journal())
        empty.backup(connection)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("BEGIN")
    return connection


def secret_of(connection: sqlite3.Connection) -> bytes:
    """Return what only servers over a journal know; the first one draws it, in the transaction that is open."""
    connection.execute("INSERT OR IGNORE INTO signing_keys VALUES ('server', ?)", (secrets.token_bytes(SECRET_BYTES),))
    (secret,) = connection.execute("SELECT value FROM signing_keys WHERE name = 'server'").fetchone()
    return bytes(secret)


@cache
def _empty_journal() -> bytes:
    """Return an empty database with the tables of a journal; creating it takes ten times as long as copying it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema_after(0))
        return connection.serialize()


def _readable(text: bytes) -> str:
    """Return a stored text, with marks in place of invalid UTF-8."""
    return text.decode(errors="replace")


def _wal_pages(path: Path) -> int:
    """Return after how many pages the WAL is moved into the file: fewer on a disk that the WAL would fill."""
    system = os.statvfs(path.parent)
    room = system.f_bavail * system.f_frsize // PAGE_BYTES
    return max(LEAST_WAL_PAGES, min(WAL_PAGES, room // WAL_SHARE))


def cut_off_wal(connection: sqlite3.Connection) -> None:
    """Move the WAL into the file and truncate it, as far as nobody reads from it: it holds many versions of a page.

    Raises `sqlite3.Error` if the file cannot take it, as on a full disk.
    """
    _checkpoint(connection, "TRUNCATE")


def begin_wal_anew(connection: sqlite3.Connection) -> None:
    """Move the WAL into the file and restart it, if nobody reads from it and there is space. Raises nothing.

    Frames that a killed process left at its end can then not be mistaken for part of it.
    """
    with suppress(sqlite3.Error):
        _checkpoint(connection, "RESTART")


def _checkpoint(connection: sqlite3.Connection, mode: str) -> None:
    """Move the WAL into the file, without waiting for readers."""
    try:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    finally:
        with suppress(sqlite3.Error):
            connection.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000:.0f}")


def free_bytes(connection: sqlite3.Connection) -> int:
    """Return how many bytes of the file are empty pages. Raises nothing."""
    with suppress(sqlite3.Error):
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages) * PAGE_BYTES
    return 0


def connect_reader(path: Path, how: str = "mode=ro") -> sqlite3.Connection:
    """Open a read-only connection; each statement, or transaction, sees what was committed before it.

    With `immutable=1` for `how` there are no locks or companion files, and changes by others go unnoticed.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = _readable
    connection.execute("PRAGMA query_only = ON")
    return connection


def tighten(path: Path) -> None:
    """Let only their owner read the journal, its companion files, and the copies beside it.

    SQLite gives companion files the rights of the file.
    """
    for each in (path, *companions(path), *path.parent.glob(f"{glob.escape(path.name)}.v*.bak")):
        private.tighten(each)


def companions(path: Path) -> list[Path]:
    """Return the companion files that SQLite may keep beside `path`."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]


def _remove(path: Path) -> None:
    """Delete a database and its companion files, as far as they exist. Raises `OSError`."""
    for each in (path, *companions(path)):
        each.unlink(missing_ok=True)


# -- errors -------------------------------------------------------------------------------------------

_TAKEN: Final = "UNIQUE constraint failed: runs.run_id"
_UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY: "it is locked",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_LOCKED: "it is locked",
    sqlite3.SQLITE_NOMEM: "memory is exhausted",
    sqlite3.SQLITE_NOTADB: "it is damaged",
    sqlite3.SQLITE_READONLY: "it cannot be written to",
}


def code_of(error: Exception) -> int:
    """Return the primary code of an SQLite error, 0 for any other error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_damage(error: Exception) -> bool:
    """Return whether `error` means damaged pages, which a retry does not repair."""
    return code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_no_text(error: Exception) -> bool:
    """Return whether `error` means a text with invalid UTF-8."""
    return isinstance(error, sqlite3.OperationalError) and not code_of(error)


def is_out_of_room(error: Exception) -> bool:
    """Return whether `error` could come from a full disk (a limit of a file's size shows as failed I/O)."""
    return code_of(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def translated(error: Exception) -> StrandlineError:
    """Return an error of the driver, or of our own statements, as the error of an operation."""
    if isinstance(error, StrandlineError):
        return error
    code = code_of(error)
    reason = _UNAVAILABLE.get(code)
    if is_no_text(error):
        reason = "it is damaged"
    raised: StrandlineError
    if reason is not None:
        raised = JournalUnavailable(f"the journal could not be used: {reason}")
    elif str(error) == _TAKEN:
        raised = RunIdTaken()
    else:
        raised = InvariantBroken(f"the journal refused an operation: {error}")
    raised.__cause__ = error
    return raised


def unreadable(path: Path, error: Exception) -> StrandlineError:
    """Return an error during the opening of the file as one of ours.

    Errors that are not the driver's come from impossible rows: a session without a row, a text in place of a number.
    """
    if isinstance(error, JournalUnavailable):
        return damaged(path, error)
    if isinstance(error, StrandlineError):
        return error
    if not isinstance(error, sqlite3.Error):
        return damaged(path, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if is_damage(error) or code_of(error) in (0, sqlite3.SQLITE_ERROR):
        return damaged(path, error)
    return JournalError(f"The journal {path} cannot be opened: {error}. Name another file, or make room for it.")


def damaged(path: Path, finding: object) -> JournalDamaged:
    """Return the error for a file with damaged pages."""
    return JournalDamaged(
        f"{path} is damaged ({finding}). It was left as it is. Restore a backup, or name another file."
    )
