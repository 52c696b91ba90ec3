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
from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import json

from strandline import __version__
from strandline._clock import Clock
from strandline._journal.postgres.schema import begin_alone, check_finished
from strandline._journal.postgres.shares import Queued, Seen, View
from strandline._journal.postgres.wire import LOCK_TIMEOUT, Refused, Statement, Wire
from strandline.errors import JournalError, JournalLocked

YOUNG_SHARE: Final = 0.5
SECRET_BYTES: Final = 32
WAIT_S: Final = 0.25
"""How often a server that starts tries again while a command has the database to itself."""
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '300ms'"
_END: Final = "UPDATE servers SET alive = false WHERE alive AND until < clock_timestamp() AND id <> ?"
_LEAVE: Final = "UPDATE servers SET alive = false WHERE id = ? AND conn = ?"
_FREE: Final = (
    "UPDATE partitions SET owner = NULL WHERE owner IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM servers WHERE id = owner AND alive)"
)
_ADD_UP: Final = "SELECT add_up_stored()"
_JOIN: Final = (
    "INSERT INTO servers (address, name, version, queued, until)"
    " VALUES (?, ?, ?, ?, clock_timestamp() + ? * interval '1 ms')"
    " RETURNING id"
)
_LOOK: Final = (
    "SELECT server, its_address, its_name, its_version, is_leaving, left_s, owned,"
    " (SELECT queued FROM servers WHERE id = server), extract(epoch FROM clock_timestamp())::float8"
    " FROM look(?::bigint, ?::bigint, ?::bigint, ?::bigint)"
)
_QUEUED: Final = "UPDATE servers SET queued = ? WHERE id = ? AND conn = ? AND alive"
_NOW: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
_ABOUT_TO_WRITE: Final = "LOCK TABLE servers IN ROW EXCLUSIVE MODE"
"""Waits for a command that has the database to itself, as every write does, and for nothing else."""
_NOBODY: Final = 0
_OVER: Final = -1
_END_BACKENDS: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND relation = 'servers'::regclass AND granted"
    " AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND wait_event = 'ClientRead' AND xact_start < clock_timestamp() - interval '300 ms'"
)
"""Of owners that hold rows and wait for their client: half a batch has come, and the rest never will."""


_NAMED: Final = "process {} on {}"


def process_of(name: str) -> tuple[int, str]:
    """Return the process id and the host of a server, from its name."""
    _, pid, _, host = name.split(" ", 3)
    return int(pid), host


def end_half_batches(wire: Wire) -> None:
    """End the connections that hold rows of `servers` and wait for the rest of their batch, but none of a server that
    starts."""
    begin_alone(wire, waits=False)
    wire.execute(_END_BACKENDS)
    wire.execute("COMMIT")


class Joined(NamedTuple):
    """A server that is there."""

    id: int
    lease_s: float
    sent_at: float
    """When its lease began, at the earliest, by `boottime`."""
    secret: bytes


def join(
    wire: Wire,
    address: str,
    clock: Clock,
    *,
    wait_s: float = 0.0,
    on_wait: Callable[[str], None] = lambda message: None,
    sleep: Callable[[float], bool] = lambda seconds: False,
) -> Joined:
    """Add a server, which listens for the others at an address. It owns nothing yet.

    Waits at most `wait_s` seconds for a command that has the database to itself; `on_wait` is called once then. `sleep`
    returns True if nobody wants the journal any more. Raises a `JournalError` if the database has half a copy.
    """
    until = clock.boottime() + wait_s
    is_reported = False
    while (joined := _joined(wire, address, clock)) is None:
        command = command_of(wire) or "another program, which has locked its table `servers`"
        if clock.boottime() >= until:
            raise JournalLocked(f"The database is in use by {command}. Start again once that has ended.")
        if not is_reported:
            is_reported = True
            on_wait(f"waiting for the database, which is in use by {command}")
        if sleep(min(WAIT_S, max(0.0, until - clock.boottime()))):
            raise JournalLocked("The journal is not wanted any more.")
    return joined


def _joined(wire: Wire, address: str, clock: Clock) -> Joined | None:
    """Add a server; return None if a command keeps all servers away."""
    name = _NAMED.format(os.getpid(), socket.gethostname())
    begin_alone(wire)
    try:
        check_finished(wire)
        (lease_ms,) = wire.execute("SELECT value FROM meta WHERE name = 'lease_ms'").fetchone()
        wire.execute(
            "INSERT INTO cluster (secret) VALUES (?) ON CONFLICT DO NOTHING", (secrets.token_bytes(SECRET_BYTES),)
        )
        (secret,) = wire.execute("SELECT secret FROM cluster").fetchone()
        wire.run([(_LOCK_TIMEOUT, ()), (_ABOUT_TO_WRITE, ()), ("SET LOCAL lock_timeout = DEFAULT", ())])
        wire.run([(_FREE, ()), (_ADD_UP, ())])
        sent_at = clock.boottime()
        published = json.encode(Queued.at(0, {})).decode()
        (me,) = wire.execute(_JOIN, (address, name, __version__, published, lease_ms)).fetchone()
        wire.execute("COMMIT")
    except JournalError:
        wire.execute("ROLLBACK")
        raise
    except Refused as error:
        wire.execute("ROLLBACK")
        if error.state == LOCK_TIMEOUT:
            return None
        raise
    return Joined(me, lease_ms / 1000, sent_at, secret)


def command_of(wire: Wire) -> str | None:
    """Return which command has the database to itself now, for people; None: none is known. See `maintenance`."""
    found = wire.execute(
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'relation'"
        " AND relation = 'servers'::regclass AND mode = 'ShareRowExclusiveLock' AND granted"
    ).fetchone()
    return None if found is None else str(found[0])


def end_servers(wire: Wire, me: int) -> int:
    """End the servers whose leases are over, and free what they owned; return how many.

    Done the next time if one holds its row, or if another server is about to do the same.
    """
    try:
        begin_alone(wire, waits=False)
    except Refused as error:
        if error.state != LOCK_TIMEOUT:
            raise
        return 0
    try:
        _, ended, *_ = wire.run([(_LOCK_TIMEOUT, ()), (_END, (me,)), (_FREE, ()), (_ADD_UP, ()), ("COMMIT", ())])
    except Refused as error:
        wire.execute("ROLLBACK")
        if error.state != LOCK_TIMEOUT:
            raise
        end_half_batches(wire)
        return 0
    return ended.rowcount


def time_of(wire: Wire) -> float:
    """Return what time it is on the database's clock, in seconds since the epoch."""
    (now,) = wire.execute(_NOW).fetchone()
    return float(now)


def look(wire: Wire, me: int, conn: int, lease_ms: int, top: int, publish: Queued | None = None) -> View:
    """Renew our lease, and return who is there and who owns what. Raises `Refused` if we are over.

    `publish` is what the others are to know of our queues, None if they know it already.
    """
    servers: dict[int, Seen] = {}
    free = stray = frozenset[int]()
    at = 0.0
    news: list[Statement] = [] if publish is None else [(_QUEUED, (json.encode(publish).decode(), me, conn))]
    found = wire.run([*news, (_LOOK, (me, conn, lease_ms, top))])[-1]
    for server, address, name, version, leaving, left_s, listed, text, at in found:  # noqa: B007
        queued = json.decode(text, type=Queued) if text else Queued()
        owned = frozenset(map(int, listed.split(","))) if listed else frozenset()
        if server == _NOBODY:
            free = owned
        elif server == _OVER:
            stray = owned
        else:
            servers[server] = Seen(server, address, name, version, leaving, left_s, owned, queued)
    return View(servers, free, stray, at)


def leave(wire: Wire, me: int, conn: int) -> None:
    """End ourselves, and free what we own."""
    begin_alone(wire)
    wire.run([(_LEAVE, (me, conn)), (_FREE, ()), (_ADD_UP, ()), ("COMMIT", ())])
