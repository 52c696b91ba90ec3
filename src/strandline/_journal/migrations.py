"""Migrates a journal file of an older version: first a copy of it, then one transaction.

The caller owns the lock, and no other process has the file open. A crash at any moment leaves the old file or the new
one. The copy is one plain file beside the journal, `PATH.v1-20260101T000000Z.bak` for schema 1, which the older version
can open under its own name; it is never removed once the journal is migrated.
"""

import asyncio
import logging
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from strandline._clock import Clock
from strandline._journal.driver import connect, copy_into, make_whole, schema_after, sync, unreadable, version_of
from strandline._journal.integrity import guard
from strandline._journal.ownership import SCHEMA_VERSION, Ownership, check_only_name, existing, newer
from strandline._journal.records import DamagedSession
from strandline._journal.sqlite_rows import SqliteRows
from strandline.errors import JournalError

_log: Final = logging.getLogger("strandline.journal")


def migrate(connection: sqlite3.Connection, path: Path, now: float, guarding: sqlite3.Connection | None = None) -> None:
    """Migrate the journal at `path`, which `connection` has open, to this version if it is older.

    `now` is in seconds since the epoch. `guarding` is another connection of ours, which is closed once the copy is
    checked: until then nothing may move the WAL into the file, afterwards it must be moved there.

    Raises `JournalNewer` for a newer file, `JournalDamaged` for a damaged one, and `JournalError` if the copy or the
    change cannot be made; the file is unchanged then, and no copy is left behind. Faults in rows that a server reads at
    its start are raised as reading them raises them.
    """
    version = version_of(connection)
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise newer(path, version)
    copy = _copy(connection, path, version, now)
    if guarding is not None:
        guarding.close()
    try:
        _change(connection, version)
    except Exception as error:
        _undo(connection)
        copy.unlink(missing_ok=True)  # a server that restarts again and again must not fill the disk with them
        if not isinstance(error, sqlite3.Error):
            raise
        raise JournalError(
            f"The journal {path} is of an older version (schema {version}) and cannot be migrated: {error}. It was left"
            " as it is. Make room on that disk and let no other program have the file open, then start again."
        ) from error
    try:
        # The rollback journal of the change must be durably gone before anything is written that it would undo.
        sync(path.parent)
        connection.execute("PRAGMA journal_mode = WAL")
    except (OSError, sqlite3.Error) as error:
        raise JournalError(
            f"The journal {path} was migrated, but cannot be opened now: {error}. Start again; if that fails, {copy} is"
            " a copy of it as it was."
        ) from error
    _log.info("migrated %s from schema %d to %d; a copy of it as it was is %s", path, version, SCHEMA_VERSION, copy)


def migrate_file(file: Path, clock: Clock) -> int:
    """Migrate the journal in `file`, which no server may have; return of which version it was."""
    path = existing(file)
    check_only_name(path)
    ownership = Ownership(path, clock)
    asyncio.run(ownership.acquire("strandline journal migrate"))
    try:
        guarding = guard(path)
        with closing(guarding), closing(connect(path)) as connection:
            version = version_of(connection)
            migrate(connection, path, clock.now(), guarding)
        return version
    except sqlite3.Error as error:
        raise unreadable(path, error) from error
    finally:
        ownership.release()


def _change(connection: sqlite3.Connection, version: int) -> None:
    # Not in WAL mode, where the change would stay in the WAL for a while: an older server reads the file's header to
    # see that it is too new.
    (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode != "delete":
        raise sqlite3.OperationalError("another program has it open")
    connection.executescript(f"BEGIN EXCLUSIVE; {schema_after(version)} PRAGMA user_version = {SCHEMA_VERSION};")
    with closing(SqliteRows(connection)) as rows:
        for session in rows.busy_sessions():  # (faults are found while all of this can be undone)
            if isinstance(session, DamagedSession):
                raise session.error
    connection.execute("COMMIT")


def _undo(connection: sqlite3.Connection) -> None:
    for statement in ("ROLLBACK",) * connection.in_transaction + ("PRAGMA journal_mode = WAL",):
        with suppress(sqlite3.Error):
            connection.execute(statement)


def _copy(connection: sqlite3.Connection, path: Path, version: int, now: float) -> Path:
    """Copy what `connection` sees of the journal, whole or not at all; return the path of the synced and checked
    copy."""
    at = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    copy = path.with_name(f"{path.name}.v{version}-{at}.bak")
    draft = path.with_name(path.name + ".bak.new")
    try:
        make_whole(copy, draft, lambda draft: copy_into(draft, connection, path, "quick_check"))
    except (OSError, sqlite3.Error) as error:
        raise JournalError(
            f"The journal {path} is of an older version (schema {version}), and the copy that is made before it is"
            f" migrated cannot be made beside it: {error}. It was left as it is. Make room on that disk for a copy of"
            " the file, or name another file."
        ) from error
    return copy
