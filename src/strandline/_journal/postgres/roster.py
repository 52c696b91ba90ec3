"""The servers over a database, for people who operate them: who they are, what they own, and who should leave.

It joins nothing and owns nothing: it reads the tables, and writes which server takes no more sessions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from strandline._journal.cluster import Peer
from strandline._journal.partitions import PARTITIONS, partition_of
from strandline._journal.postgres.failures import for_operators
from strandline._journal.postgres.ownership import process_of
from strandline._journal.postgres.shares import FRESH_SHARE
from strandline._journal.postgres.wire import ConnectionLost, Refused, Wire, check_conninfo
from strandline._model import SessionKey
from strandline.errors import JournalError

_SERVERS: Final = (
    "SELECT s.id, s.name, s.address, s.version, s.leaving,"
    " extract(epoch FROM s.since)::float8, extract(epoch FROM s.until - clock_timestamp())::float8,"
    " (SELECT count(*) FROM partitions WHERE owner = s.id),"
    " (SELECT count(*) FROM runs JOIN sessions ON sessions.no = runs.session JOIN partitions USING (p)"
    " WHERE (runs.status IN ('queued', 'running') OR runs.fence IS NOT NULL) AND partitions.owner = s.id)"
    " FROM servers s WHERE s.alive ORDER BY s.id"
)
_FREE: Final = (
    "SELECT count(*) FROM partitions WHERE owner IS NULL"
    " OR NOT EXISTS (SELECT 1 FROM servers WHERE id = owner AND alive)"
)
_ALIVE: Final = (
    "SELECT id, address, version, servers.name FROM servers, meta WHERE meta.name = 'lease_ms' AND alive"
    " AND until > clock_timestamp() + meta.value * ?::float8 * interval '1 ms' ORDER BY id"
)
_OWNER: Final = (
    "SELECT p.owner, EXISTS (SELECT 1 FROM sessions WHERE principal = ? AND session_id = ?)"
    " FROM partitions p WHERE p.p = ?"
)
_LEAVING: Final = "UPDATE servers SET leaving = (? = 1) WHERE id = ? AND alive RETURNING id"


class ServerRow(Struct, frozen=True):
    """A server that is alive, or whose lease is over and whom no other one has ended yet."""

    id: int
    name: str
    address: str
    """Where it listens for the other servers."""
    version: str
    leaving: bool
    """Whether it takes no more sessions, and hands over those that it has."""
    since: float
    """When it started, in seconds since the epoch."""
    lease_left_s: float
    """For how long its lease lasts without another renewal; less than 0: it is over."""
    partitions: int
    """How many of the 256 it owns."""
    open_runs: int
    """How many runs wait, execute or lock their sessions there."""

    @property
    def process(self) -> tuple[int, str]:
        """Its process id, and the host of that."""
        return process_of(self.name)


class Roster(Struct, frozen=True):
    """The servers over one journal."""

    servers: list[ServerRow]
    free: int
    """How many partitions nobody owns: normally none for longer than a second or two."""
    partitions: int = PARTITIONS


class SessionOwner(Struct, frozen=True):
    """Which server has a session, and whether there is such a session."""

    session_id: str
    caller: str
    partition: int
    server: ServerRow | None
    """None: no server has it at the moment."""
    exists: bool
    """If not, its first request makes it, at that server."""


class Outsider(Struct, frozen=True):
    """The servers as a command sees them that sends them messages. Implements `cluster.Members`."""

    secret: bytes
    peers: dict[int, Peer]
    """Those that have just renewed their leases."""
    names: dict[int, str]
    me: int = 0


def outsider(conninfo: str) -> Outsider:
    """Return the servers that answer if they can be reached, and what to sign with. Raises `JournalError`."""
    with _connected(conninfo) as wire:
        found = wire.execute(_ALIVE, (FRESH_SHARE,)).fetchall()
        row = wire.execute("SELECT secret FROM cluster").fetchone()
    peers = {number: Peer(number, address, version, proves=False) for number, address, version, _ in found}
    return Outsider(b"" if row is None else row[0], peers, {number: name for number, _, _, name in found})


def roster(conninfo: str) -> Roster:
    """Return who shares the journal in a database. Nothing is written. Raises `JournalError`."""
    with _connected(conninfo) as wire:
        servers = [ServerRow(*row) for row in wire.execute(_SERVERS).fetchall()]
        (free,) = wire.execute(_FREE).fetchone()
    return Roster(servers, free)


def owner_of(conninfo: str, key: SessionKey) -> SessionOwner:
    """Return which server has a session. Nothing is written. Raises `JournalError`."""
    partition = partition_of(key)
    with _connected(conninfo) as wire:
        owner, exists = wire.execute(_OWNER, (key.principal, key.session_id, partition)).fetchone()
        servers = [ServerRow(*row) for row in wire.execute(_SERVERS).fetchall()]
    server = next((each for each in servers if each.id == owner), None)
    return SessionOwner(key.session_id, key.principal, partition, server, exists)


def set_leaving(conninfo: str, server: int, *, leaving: bool) -> bool:
    """Have a server hand over what it owns and take no more, or take its share again; False if it is not there.

    It sees that within a second. Raises `JournalError`.
    """
    with _connected(conninfo) as wire:
        return wire.execute(_LEAVING, (int(leaving), server)).fetchone() is not None


@contextmanager
def _connected(conninfo: str) -> Iterator[Wire]:
    try:
        check_conninfo(conninfo)
        wire = Wire(conninfo)
    except (ConnectionLost, Refused, ValueError) as error:
        raise JournalError(str(error) if isinstance(error, ValueError) else for_operators(error)) from error
    try:
        if wire.execute("SELECT to_regclass('cluster')::text").fetchone()[0] is None:
            raise JournalError("No server has used this database yet: it has none of the journal's tables.")
        yield wire
    except (ConnectionLost, Refused) as error:
        raise JournalError(for_operators(error)) from error
    finally:
        wire.close()
