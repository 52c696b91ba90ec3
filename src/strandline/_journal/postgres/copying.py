"""Journals in databases, as sides of a copy. No server can own one for as long as it takes part.

A destination has a mark in its table `meta` from its first row on, which every server and every command looks for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from strandline import __version__
from strandline._journal.copying.copy import Numbers, RowsRefused, identity_of
from strandline._journal.deletion import COUNT_STORED_BYTES
from strandline._journal.numbers import PARTITION_BITS
from strandline._journal.partitions import partition_of
from strandline._journal.postgres.durability import DURABLE
from strandline._journal.postgres.maintenance import connected, have_alone
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.schema import (
    BEGIN,
    UNFINISHED,
    begin_alone,
    check_current,
    check_encoding,
    make_tables,
    unfinished,
    version_of,
)
from strandline._journal.postgres.wire import Refused, Wire
from strandline._journal.rules import drawn
from strandline._journal.tables import TABLES, Table
from strandline._model import Lane, SessionKey
from strandline._printable import without_passwords
from strandline.errors import JournalError

COMMAND: Final = "journal copy"
_ADVICE: Final = "A journal is copied while no server has it: stop them all first."
_MARK: Final = f"INSERT INTO meta (name, value) VALUES ('{UNFINISHED}', ?)"
_IDS: Final = "pg_get_serial_sequence('servers', 'id')::regclass"
_TOP: Final = (
    "INSERT INTO servers (address, name, version, alive, until, top) SELECT '', 'strandline journal copy', ?, false,"
    f" clock_timestamp(), greatest(max(number), 0) >> {PARTITION_BITS} FROM (SELECT max(no) AS number FROM sessions"
    " UNION ALL SELECT max(seq) FROM runs UNION ALL SELECT max(no) FROM history"
    " UNION ALL SELECT value FROM meta WHERE name = 'pruned'"
    f" UNION ALL SELECT max(urgency) - {drawn(0)} FROM runs WHERE status = 'queued' AND lane = {Lane.FRONT}) AS numbers"
)
"""Has servers draw larger numbers than all that there are."""
_COUNTS: Final = "stored, stored_by"
"""How many bytes there are for each principal: counted at the end."""
_NAMES: Final = ", ".join(table.name for table in TABLES)


class DatabaseSource:
    """A journal in a database, which is ours."""

    def __init__(self, address: str, wire: Wire, identity: int) -> None:
        self.name = without_passwords(address)
        self.identity = identity
        self.database = Batch(wire)

    def numbers(self) -> Numbers:
        """Return what it knows beside its rows."""
        (epoch, pruned) = self.database.execute(
            "SELECT (SELECT greatest(max(epoch), (SELECT max(id) FROM servers)) FROM partitions), value FROM meta"
            " WHERE name = 'pruned'"
        ).fetchone()
        return Numbers(epoch, pruned)


@contextmanager
def database_source(address: str) -> Iterator[DatabaseSource]:
    """Yield the journal in a database; no server can own it inside of the block. It is left as it is."""
    with connected(address, COMMAND) as wire:
        check_current(wire)
        identity = _identity(wire)
        have_alone(wire, snapshot=True, advice=_ADVICE)
        yield DatabaseSource(address, wire, identity)
        wire.execute("ROLLBACK")


def _identity(wire: Wire) -> int:
    tables = wire.execute("SELECT current_database()::text, 'meta'::regclass::oid::bigint").fetchone()
    try:
        (system,) = wire.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
    except Refused:  # (not everybody may ask everywhere)
        (system,) = wire.execute("SELECT inet_server_addr()::text || ':' || inet_server_port()::text").fetchone()
    return identity_of("database", system, *tables)


class DatabaseDestination:
    """A database that becomes a journal. `guarding` is a connection that keeps servers away."""

    def __init__(self, address: str, wire: Wire, guarding: Wire) -> None:
        self.name = without_passwords(address)
        self.database = Batch(wire)
        self._wire = wire
        self._guarding = guarding

    def begin(self, identity: int, *, anew: bool) -> bool:
        """Make the tables, or look at those that are there. Raises a `JournalError` if there is any row."""
        wire = self._wire
        check_encoding(wire)
        begin_alone(wire)
        version = version_of(wire)
        if not version:
            make_tables(wire)
            wire.execute(_MARK, (identity,))
        wire.execute("COMMIT")
        have_alone(self._guarding, advice=_ADVICE)
        of = unfinished(wire)
        if of is None:
            check_current(wire)
            (is_used,) = wire.execute(
                "SELECT EXISTS (SELECT 1 FROM sessions) OR EXISTS (SELECT 1 FROM runs)"
            ).fetchone()
            if is_used:
                raise JournalError(
                    f"{self.name} has a journal already, and nothing is overwritten. Name an empty database."
                )
            wire.execute(_MARK, (identity,))
        elif anew:
            self.clear()
            wire.execute("UPDATE meta SET value = ? WHERE name = ?", (identity, UNFINISHED))
        elif of != identity:
            raise JournalError(
                f"{self.name} has an unfinished copy of another journal. Run that copy again, name another database, or"
                " discard it with --anew."
            )
        return version > 0 and of is not None and not anew

    def clear(self) -> None:
        """Delete all rows."""
        self._wire.execute(f"TRUNCATE {_NAMES}, {_COUNTS}")

    def write(self, table: Table, rows: list[tuple[Any, ...]]) -> None:
        """Add rows; they are durable on return."""
        columns, batch = list(table.columns), self.database
        if table.name == "sessions":
            key = slice(columns.index("principal"), columns.index("session_id") + 1)
            columns, rows = ["p", *columns], [(partition_of(SessionKey(*row[key])), *row) for row in rows]
        statement = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        batch.write(BEGIN)
        batch.executemany(statement, rows)
        try:
            batch.execute("COMMIT")
        except Refused as error:
            batch.execute("ROLLBACK")
            if not error.state.startswith(("22", "23")):
                raise
            raise RowsRefused(f"rows of {table.name} were refused: {error}") from error

    def finish(self, numbers: Numbers) -> None:
        """Make it a journal like others, durably."""
        self._wire.execute(f"ANALYZE {_NAMES}")
        batch = Batch(self._guarding)  # (nobody else may write to `servers`)
        batch.write(f"SELECT {DURABLE}")
        batch.write(f"TRUNCATE {_COUNTS}")
        batch.write(f"INSERT INTO stored (principal, bytes) {COUNT_STORED_BYTES}")
        batch.write("UPDATE meta SET value = ? WHERE name = 'pruned'", (numbers.pruned,))
        batch.write("UPDATE partitions SET owner = NULL, epoch = greatest(epoch, ?)", (numbers.epoch,))
        batch.write(f"SELECT setval({_IDS}, greatest(?, pg_sequence_last_value({_IDS}), 1))", (numbers.epoch,))
        batch.write(_TOP, (__version__,))
        batch.write("DELETE FROM meta WHERE name = ?", (UNFINISHED,))
        batch.execute("COMMIT")


@contextmanager
def database_destination(address: str) -> Iterator[DatabaseDestination]:
    """Yield a database to copy to; no server can own it inside of the block."""
    with connected(address, COMMAND) as guarding, connected(address, COMMAND) as wire:
        yield DatabaseDestination(address, wire, guarding)
