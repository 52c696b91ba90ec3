"""Who is there: one row for each server, with a lease on the clock of the database.

A server that starts adds its row. It is over when it has said so, or when its lease has ended and it had time to renew
it: the connection of who ends it is at least `YOUNG_SHARE` of a lease old then, since a database that restarts keeps
every server from renewing. Being over is final: the row says so, which waits for a commit under way and refuses all
later ones. What it owned is free from the same moment on.

Rows come and end under one advisory lock, so that nobody is missed who has just come.
"""

import os
import secrets
import socket
from typing import Final, NamedTuple

from strandline import __version__
from strandline._clock import boottime
from strandline._journal.postgres.failures import LOCK_TIMEOUT, for_operators
from strandline._journal.postgres.schema import begin_alone
from strandline._journal.postgres.shares import Seen, View
from strandline._journal.postgres.wire import ConnectionLost, Refused, Wire, check_conninfo
from strandline.errors import JournalError

YOUNG_SHARE: Final = 0.5
SECRET_BYTES: Final = 32
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '300ms'"
_ALIVE: Final = (
    "SELECT coalesce(nullif(name, ''), address), extract(epoch FROM until - clock_timestamp())::float8 FROM servers"
    " WHERE alive ORDER BY until DESC"
)
_END: Final = "UPDATE servers SET alive = false WHERE alive AND until < clock_timestamp() AND id <> ?"
_LEAVE: Final = "UPDATE servers SET alive = false WHERE id = ? AND conn = ?"
_FREE: Final = (
    "UPDATE partitions SET owner = NULL WHERE owner IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM servers WHERE id = owner AND alive)"
)
_ADD_UP: Final = "SELECT add_up_stored()"
_JOIN: Final = (
    "INSERT INTO servers (address, name, version, until) VALUES (?, ?, ?, clock_timestamp() + ? * interval '1 ms')"
    " RETURNING id"
)
_LOOK: Final = (
    "SELECT server, its_address, its_name, its_version, is_leaving, left_s, owned FROM look(?::bigint, ?::bigint,"
    " ?::bigint, ?::bigint)"
)
_NOBODY: Final = 0
_OVER: Final = -1
_END_BACKENDS: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND relation = 'servers'::regclass AND granted"
    " AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND wait_event = 'ClientRead' AND xact_start < clock_timestamp() - interval '300 ms'"
)
"""Of owners that hold rows and wait for their client: half a batch has come, and the rest never will."""


def end_half_batches(wire: Wire) -> None:
    """End the connections that hold rows of `servers` and wait for the rest of their batch, but none of a server that
    starts."""
    begin_alone(wire)
    wire.execute(_END_BACKENDS)
    wire.execute("COMMIT")


class Joined(NamedTuple):
    """A server that is there."""

    id: int
    lease_s: float
    sent_at: float
    """When its lease began, at the earliest, by `boottime`."""
    secret: bytes


def join(wire: Wire, address: str) -> Joined:
    """Add a server, which listens for the others at an address. It owns nothing yet."""
    name = f"process {os.getpid()} on {socket.gethostname()}"
    begin_alone(wire)
    try:
        (lease_ms,) = wire.execute("SELECT value FROM meta WHERE name = 'lease_ms'").fetchone()
        wire.execute(
            "INSERT INTO cluster (secret) VALUES (?) ON CONFLICT DO NOTHING", (secrets.token_bytes(SECRET_BYTES),)
        )
        (secret,) = wire.execute("SELECT secret FROM cluster").fetchone()
        wire.run([(_FREE, ()), (_ADD_UP, ())])
        sent_at = boottime()
        (me,) = wire.execute(_JOIN, (address, name, __version__, lease_ms)).fetchone()
        wire.execute("COMMIT")
    except Refused:
        wire.execute("ROLLBACK")
        raise
    return Joined(me, lease_ms / 1000, sent_at, secret)


def end_servers(wire: Wire, me: int) -> None:
    """End the servers whose leases are over, and free what they owned. Done the next time if one holds its row."""
    begin_alone(wire)
    try:
        wire.run([(_LOCK_TIMEOUT, ()), (_END, (me,)), (_FREE, ()), (_ADD_UP, ()), ("COMMIT", ())])
    except Refused as error:
        wire.execute("ROLLBACK")
        if error.state != LOCK_TIMEOUT:
            raise
        end_half_batches(wire)


def look(wire: Wire, me: int, conn: int, lease_ms: int, top: int) -> View:
    """Renew our lease, and return who is there and who owns what. Raises `Refused` if we are over."""
    servers: dict[int, Seen] = {}
    free = stray = frozenset[int]()
    for server, address, name, version, leaving, left_s, listed in wire.execute(_LOOK, (me, conn, lease_ms, top)):
        owned = frozenset(map(int, listed.split(","))) if listed else frozenset()
        if server == _NOBODY:
            free = owned
        elif server == _OVER:
            stray = owned
        else:
            servers[server] = Seen(server, address, name, version, leaving, left_s, owned)
    return View(servers, free, stray)


def leave(wire: Wire, me: int, conn: int) -> None:
    """End ourselves, and free what we own."""
    begin_alone(wire)
    wire.run([(_LEAVE, (me, conn)), (_FREE, ()), (_ADD_UP, ()), ("COMMIT", ())])


def owner_of(conninfo: str) -> str | None:
    """Return which server owns the journal in a database now, for people; None: none does.

    Nothing is written. Raises `JournalError` if the database cannot be asked.
    """
    try:
        check_conninfo(conninfo)
        wire = Wire(conninfo)
        try:
            if wire.execute("SELECT to_regclass('cluster')::text").fetchone()[0] is None:
                return None
            alive = wire.execute(_ALIVE).fetchall()
        finally:
            wire.close()
    except (ConnectionLost, Refused, ValueError) as error:
        raise JournalError(str(error) if isinstance(error, ValueError) else for_operators(error)) from error
    return ", ".join(name for name, left_s in alive if left_s >= 0) or None
