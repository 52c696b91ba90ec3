"""The tables in the database: made, or brought to this version, before a server owns anything.

One server at a time does it, under an advisory lock, in one transaction: a database has the tables of one version.
"""

from importlib import resources
from typing import Final

from strandline._journal.postgres.wire import LOCK_TIMEOUT, Refused, Statement, Wire
from strandline.errors import JournalError, JournalForeign, JournalNewer

SCHEMA_VERSION: Final = 15
LOCK: Final = 0x5354524E
"""The key of the advisory lock under which tables and ownership change."""
BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Of every transaction that writes: each statement sees what was committed before it, whatever the default is."""
IDLE_MS: Final = 5_000
"""After which time the database ends a server that holds that lock, and says no more: it may be frozen."""
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '1s'"
_NO_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = DEFAULT"
_END_HALF: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND classid = 0 AND objid = ?::bigint::oid AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND state = 'active' AND wait_event = 'ClientRead' AND query_start < clock_timestamp() - interval '1 s'"
)
"""Of who holds that lock in the middle of a batch, and waits for the rest of it. That is not idle to the database."""
_NOT_ALLOWED: Final = "42501"
_ENCODINGS: Final = ("UTF8", "SQL_ASCII")
"""In which all text can be kept."""
_NAMES: Final = ("meta", "runs", "sessions", "history", "servers")
UNFINISHED: Final = "unfinished"
"""In `meta`: the database has an unfinished copy of another journal. Its value says of which."""


def begin_alone(wire: Wire, *, idle_ms: int = IDLE_MS, waits: bool = True) -> None:
    """Begin a transaction in which tables and ownership may change, once no other is open. Raises `Refused`.

    If it does not wait, with `LOCK_TIMEOUT` if another one is open for a second and lives. One of which only half has
    come, and whose client may be gone, is ended: nobody could start or take over any more.
    """
    patience = f"SET LOCAL idle_in_transaction_session_timeout = {idle_ms}"
    has_ended = False
    while True:
        lock: tuple[Statement, ...] = (("SELECT pg_advisory_xact_lock(?)", (LOCK,)), (_NO_LOCK_TIMEOUT, ()))
        try:
            wire.run([(BEGIN, ()), (patience, ()), (_LOCK_TIMEOUT, ()), *lock])
            return
        except Refused as error:
            wire.execute("ROLLBACK")
            if error.state != LOCK_TIMEOUT or (has_ended and not waits):
                raise
            wire.execute(_END_HALF, (LOCK,))
            has_ended = True


def migrate(wire: Wire) -> int:
    """Make the tables, or bring them to this version. Return of which they were, 0 if there were none.

    Raises a `JournalError` that says what to do.
    """
    check_encoding(wire)
    try:
        begin_alone(wire)
        version = version_of(wire)
        if version:
            check_finished(wire)
        if version < SCHEMA_VERSION:
            make_tables(wire, version)
        wire.execute("COMMIT")
    except Refused as error:
        wire.execute("ROLLBACK")
        raise JournalError(
            f"The tables of the journal cannot be made in the database: {error}. Have its role own a database, or a"
            " schema in its search path, of its own."
        ) from error
    except JournalError:
        wire.execute("ROLLBACK")
        raise
    return version


def make_tables(wire: Wire, version: int = 0) -> None:
    """Make the tables of this version of those of an older one, 0 for none, in the transaction that is open."""
    wire.script(_after(version))
    wire.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (SCHEMA_VERSION,))


def check_current(wire: Wire) -> None:
    """Raise a `JournalError` that says what to do unless there is a whole journal of this version in the database."""
    version = version_of(wire)
    if not version:
        raise JournalError("There is no journal in the database. A server that starts on it makes one.")
    if version < SCHEMA_VERSION:
        raise JournalError(
            f"The journal in the database is of an older version (schema {version}; this is {SCHEMA_VERSION})."
            " `strandline journal migrate` brings it to this one, and so does a server that starts on it."
        )
    check_finished(wire)


def check_finished(wire: Wire) -> None:
    """Raise a `JournalError` if the database has an unfinished copy of a journal."""
    if unfinished(wire) is not None:
        raise JournalError(
            "The database has an unfinished copy of a journal, which nothing may use. Run the same `strandline journal"
            " copy` again: it continues."
        )


def unfinished(wire: Wire) -> int | None:
    """Return of which journal the database has an unfinished copy, None if it has none."""
    row = wire.execute("SELECT value FROM meta WHERE name = ?", (UNFINISHED,)).fetchone()
    return None if row is None else int(row[0])


def check_encoding(wire: Wire) -> None:
    """Raise a `JournalError` unless all text can be kept in the database."""
    (encoding,) = wire.execute("SELECT current_setting('server_encoding')").fetchone()
    if encoding not in _ENCODINGS:
        raise JournalError(
            f"The encoding of the database is {encoding}, which does not have every character. Give the journal a"
            " database with the encoding UTF8."
        )


def version_of(wire: Wire) -> int:
    """Return of which schema the tables are, 0 if there are none. Raises `JournalError` for those of a newer one, for
    another program's, and for those that the role may not read."""
    found = [name for name in _NAMES if wire.execute("SELECT to_regclass(?) IS NOT NULL", (name,)).fetchone()[0]]
    if not found:
        return 0
    try:
        row = wire.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    except Refused as error:
        if error.state == _NOT_ALLOWED:
            raise JournalError(
                f"The role that the journal's address names may not use its tables: {error}. Connect as the role that"
                " owns them."
            ) from error
        row = None
    if row is None or len(found) < len(_NAMES):
        raise JournalForeign(
            f"The database has tables of another program under the names of ours ({', '.join(found)}). Give the journal"
            " a database of its own."
        )
    version = int(row[0])
    if version > SCHEMA_VERSION:
        raise JournalNewer(
            f"The journal in the database is of a newer version (schema {version}; this is {SCHEMA_VERSION}). Start"
            " the version of Strandline that made it, or a newer one."
        )
    return version


def _after(version: int) -> str:
    """Return the SQL that makes this schema of an older one, 0 for an empty database."""
    folder = resources.files("strandline._journal.postgres").joinpath("schema")
    files = sorted((each for each in folder.iterdir() if each.is_file()), key=lambda each: each.name)
    return "\n".join(each.read_text() for each in files if version < int(each.name[:4]) <= SCHEMA_VERSION)
