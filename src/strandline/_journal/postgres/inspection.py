"""What `strandline doctor` reads of a database: whose the journal in it is, how large it is, and how it is kept.

Nothing is written, and no lock is waited for.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from msgspec import Struct

from strandline._journal.postgres.durability import weaknesses
from strandline._journal.postgres.maintenance import connected
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.schema import SCHEMA_VERSION, unfinished, version_of
from strandline._journal.postgres.verify import size_of
from strandline._journal.postgres.wire import Wire
from strandline._journal.tables import TABLES

T = TypeVar("T")

_SERVERS: Final = (
    "SELECT coalesce(nullif(name, ''), address), version, extract(epoch FROM until - clock_timestamp())::float8,"
    " (SELECT count(*) FROM partitions WHERE owner = servers.id) FROM servers WHERE alive ORDER BY id"
)
_DEAD: Final = (
    "SELECT relname::text, n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relid = ANY (ARRAY[{}]::regclass[])"
    " ORDER BY n_dead_tup DESC LIMIT 1"
).format(", ".join(f"'{name}'" for name in (*(table.name for table in TABLES), "servers", "stored")))
_OLDEST: Final = (
    "SELECT holder, age, since_s FROM ("
    "SELECT coalesce(nullif(application_name, ''), 'process ' || pid) AS holder, age(backend_xmin)::bigint AS age,"
    " extract(epoch FROM clock_timestamp() - xact_start)::float8 AS since_s"
    " FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
    " UNION ALL SELECT 'replication slot ' || slot_name, age(xmin)::bigint, NULL FROM pg_replication_slots"
    " WHERE xmin IS NOT NULL"
    " UNION ALL SELECT 'prepared transaction ' || gid, age(transaction)::bigint,"
    " extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts"
    ") AS holders ORDER BY age DESC LIMIT 1"
)


class LiveServer(Struct, frozen=True):
    """A server that is alive, or was when it renewed its lease last."""

    name: str
    version: str
    left_s: float
    """How many seconds are left of its lease; less than 0: it is over."""
    partitions: int


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


class Inspection(Struct, frozen=True, kw_only=True):
    """What there is to know of a database. `schema` is 0 if it has no journal."""

    version: str
    synchronous_commit: str
    fsync: str
    schema: int
    unfinished: bool = False
    servers: tuple[LiveServer, ...] = ()
    bytes: int = 0
    dead: DeadRows | None = None
    oldest: Holder | None = None
    weaknesses: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether the journal has the schema of this version."""
        return self.schema == SCHEMA_VERSION


def inspect(address: str) -> Inspection:
    """Look at a database. Raises a `JournalError` if it cannot be asked, or has anything else under our names."""
    with connected(address, "doctor") as wire:
        version, synchronous_commit, fsync = wire.execute(
            "SELECT current_setting('server_version'), current_setting('synchronous_commit'), current_setting('fsync')"
        ).fetchone()
        schema = version_of(wire)
        is_current = schema == SCHEMA_VERSION
        return Inspection(
            version=version,
            synchronous_commit=synchronous_commit,
            fsync=fsync,
            schema=schema,
            weaknesses=tuple(weaknesses(wire)),
            oldest=_first(wire, _OLDEST, Holder),
            unfinished=is_current and unfinished(wire) is not None,
            servers=tuple(LiveServer(*row) for row in wire.execute(_SERVERS)) if is_current else (),
            bytes=size_of(Batch(wire)) if is_current else 0,
            dead=_first(wire, _DEAD, DeadRows) if is_current else None,
        )


def _first(wire: Wire, statement: str, kind: Callable[..., T]) -> T | None:
    row = wire.execute(statement).fetchone()
    return None if row is None else kind(*row)
