"""How the SQLite file is made and opened, and what its driver's errors mean."""

import os
import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Final

from strandline.errors import (
    InvariantBroken,
    JournalDamaged,
    JournalError,
    JournalUnavailable,
    StrandlineError,
)
from strandline.journal.ownership import APPLICATION_ID, SCHEMA_VERSION

BUSY_S: Final = 5.0
CHECKED_BYTES: Final = 64 << 20
"""Up to this size every page of a file is checked when it is opened (about 0.1 s); a start must not slow with age."""


def create(path: Path) -> None:
    """Make an empty journal at `path`, whole or not at all. The caller owns the lock."""
    draft = path.with_name(path.name + ".new")
    try:
        for leftover in (draft, *companions(draft), *companions(path)):
            leftover.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            # In the creation itself and before WAL, so that the head of the file always shows whose it is.
            marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
            connection.executescript(f"BEGIN; {marks} {schema_after(0)} COMMIT;")
            connection.execute("PRAGMA journal_mode = WAL")
        draft.replace(path)
        sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"The journal {path} cannot be made: {error}. Name another file.") from error


def schema_after(version: int) -> str:
    """Return the SQL that makes a file of this version from one of schema `version`, 0 for one that is empty."""
    files = [each for each in resources.files("strandline.journal").joinpath("schema").iterdir() if each.is_file()]
    files.sort(key=lambda each: each.name)
    return "\n".join(each.read_text() for each in files if int(each.name[:4]) > version)


def sync(path: Path) -> None:
    """Make a file's content durable, or what a folder says of the files in it. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path) -> sqlite3.Connection:
    """Open the writing connection; every commit is synced.

    Raises `JournalDamaged` if pages are found damaged, `sqlite3.Error` if SQLite cannot even tell.
    """
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        if path.stat().st_size <= CHECKED_BYTES:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise damaged(path, verdict)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise JournalError(f"The journal {path} is on a file system without shared memory. Name another file.")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write; each statement, or transaction, sees what was committed before it."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def companions(path: Path) -> list[Path]:
    """Return the files that SQLite may keep beside `path`."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]


# -- errors -------------------------------------------------------------------------------------------

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


def translated(error: Exception) -> StrandlineError:
    """Return what `error` of the driver, or of our own statements, means to whoever called a verb."""
    if isinstance(error, StrandlineError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    reason = None if code is None else _UNAVAILABLE.get(code & 0xFF)
    told: StrandlineError
    if reason is not None:
        told = JournalUnavailable(f"the journal could not be used: {reason}")
    else:
        told = InvariantBroken(f"the journal refused a verb: {error}")
    told.__cause__ = error
    return told


def unreadable(path: Path, error: sqlite3.Error) -> JournalError:
    """Return what an error means that came up while the file was being opened."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return damaged(path, error)
    return JournalError(f"The journal {path} cannot be opened: {error}. Name another file, or make room for it.")


def damaged(path: Path, finding: object) -> JournalDamaged:
    """Return the error for a file whose pages cannot be relied on."""
    return JournalDamaged(
        f"{path} is damaged ({finding}). It was left as it is. Restore a backup, or name another file."
    )
