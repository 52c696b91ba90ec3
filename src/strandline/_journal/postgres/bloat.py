"""What the database cannot clean up yet, and who keeps it from that: for `strandline doctor` and for metrics.

Nothing is written, and no lock is waited for. A role without `pg_read_all_stats` sees the sessions of its own only.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from msgspec import Struct

from strandline._journal.cluster import DatabaseVitals
from strandline._journal.database import Database
from strandline._journal.tables import TABLES

T = TypeVar("T")

_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
_DEAD: Final = (
    "SELECT relname::text, n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relid = ANY (ARRAY[{}]::regclass[])"
    " ORDER BY n_dead_tup DESC LIMIT 1"
).format(", ".join(f"'{name}'" for name in (*(table.name for table in TABLES), "servers", "stored", "stored_by")))
# (Sessions of other databases, and vacuums, do not keep dead rows of this one.)
_OLDEST: Final = (
    "SELECT holder, age, since_s FROM ("
    "SELECT coalesce(nullif(application_name, ''), 'process ' || pid) AS holder, age(backend_xmin)::bigint AS age,"
    " extract(epoch FROM clock_timestamp() - xact_start)::float8 AS since_s"
    " FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
    " AND coalesce(datname, current_database()) = current_database()"
    " AND backend_type IS DISTINCT FROM 'autovacuum worker'"
    " UNION ALL SELECT 'replication slot ' || slot_name, age(xmin)::bigint, NULL FROM pg_replication_slots"
    " WHERE xmin IS NOT NULL"
    " UNION ALL SELECT 'prepared transaction ' || gid, age(transaction)::bigint,"
    " extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts"
    " WHERE database = current_database()"
    ") AS holders ORDER BY age DESC LIMIT 1"
)


class Holder(Struct, frozen=True):
    """Who keeps the database from removing the oldest versions of rows."""

    name: str
    transactions: int
    """How many transactions have begun since."""
    since_s: float | None
    """For how long; None: not known."""


class DeadRows(Struct, frozen=True):
    """The table with the most versions of rows that nobody sees any more, as of its last statistics."""

    table: str
    live: int
    dead: int


def oldest_of(database: Database) -> Holder | None:
    """Return who keeps the oldest snapshot; None: nobody."""
    return _first(database, _OLDEST, Holder)


def dead_rows_of(database: Database) -> DeadRows | None:
    """Return which of the journal's tables has the most dead versions of rows. The tables must be there."""
    return _first(database, _DEAD, DeadRows)


def surveyed(database: Database, *, now: Callable[[], float], whole: bool) -> DatabaseVitals:
    """Return how a database does; all but its clock only if it is `whole`. `now` is our clock."""
    before = now()
    (its,) = database.execute(_CLOCK).fetchone()
    ahead_s = (before + now()) / 2 - its
    if not whole:
        return DatabaseVitals(ahead_s)
    oldest, dead = oldest_of(database), dead_rows_of(database)
    return DatabaseVitals(
        ahead_s,
        0 if oldest is None else oldest.transactions,
        0 if dead is None else dead.dead,
        0 if dead is None else dead.live,
    )


def _first(database: Database, statement: str, kind: Callable[..., T]) -> T | None:
    row = database.execute(statement).fetchone()
    return None if row is None else kind(*row)
