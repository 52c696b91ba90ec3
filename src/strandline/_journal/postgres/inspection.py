"""What `strandline doctor` reads of a database: whose the journal in it is, how large it is, and how it is kept.

Nothing is written, and no lock is waited for.
"""

from typing import Final

from msgspec import Struct

from strandline._journal.postgres.bloat import DeadRows, Holder, dead_rows_of, oldest_of
from strandline._journal.postgres.durability import weaknesses
from strandline._journal.postgres.maintenance import connected
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.schema import SCHEMA_VERSION, unfinished, version_of
from strandline._journal.postgres.verify import size_of

_SERVERS: Final = (
    "SELECT coalesce(nullif(name, ''), address), version, extract(epoch FROM until - clock_timestamp())::float8,"
    " (SELECT count(*) FROM partitions WHERE owner = servers.id) FROM servers WHERE alive ORDER BY id"
)


class LiveServer(Struct, frozen=True):
    """A server that is alive, or was when it renewed its lease last."""

    name: str
    version: str
    left_s: float
    """How many seconds are left of its lease; less than 0: it is over."""
    partitions: int


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
        database = Batch(wire)
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
            oldest=oldest_of(database),
            unfinished=is_current and unfinished(wire) is not None,
            servers=tuple(LiveServer(*row) for row in wire.execute(_SERVERS)) if is_current else (),
            bytes=size_of(database) if is_current else 0,
            dead=dead_rows_of(database) if is_current else None,
        )
