"""Whose the journal is: one row for each server, with a lease on the clock of the database.

A server that starts adds its row once no other one is alive. Another server is over when it has said so, or when its
lease has ended and it had time to renew it: our connection is at least `YOUNG_SHARE` of a lease old then, since a
database that restarts keeps every server from renewing. Being over is final: the row says so, which waits for a commit
under way and refuses all later ones.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from strandline import __version__
from strandline._journal.postgres.failures import LOCK_TIMEOUT, for_operators
from strandline._journal.postgres.lease import boottime
from strandline._journal.postgres.schema import begin_alone
from strandline._journal.postgres.wire import ConnectionLost, Refused, Wire, check_conninfo
from strandline.errors import JournalError, JournalLocked

YOUNG_SHARE: Final = 0.5
LOOK_S: Final = 0.25
"""How often a server that waits looks whether another one is over."""
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '300ms'"
_ALIVE: Final = (
    "SELECT id, address, extract(epoch FROM until - clock_timestamp())::float8 FROM servers WHERE alive"
    " ORDER BY until DESC"
)
_END: Final = "UPDATE servers SET alive = false WHERE alive AND until < clock_timestamp()"
_JOIN: Final = (
    "INSERT INTO servers (address, version, until) VALUES (?, ?, clock_timestamp() + ? * interval '1 ms') RETURNING id"
)
_END_BACKENDS: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock'"
    " AND relation = 'servers'::regclass AND granted AND pid <> pg_backend_pid()"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""Of owners that hold rows: half a batch has come, and the rest never will."""


def end_half_batches(wire: Wire) -> None:
    """End the connections that hold rows of `servers`, but none of a server that is on its way to be the owner."""
    begin_alone(wire)
    wire.execute(_END_BACKENDS)
    wire.execute("COMMIT")


class Owned(NamedTuple):
    """The journal is ours."""

    id: int
    lease_s: float
    sent_at: float
    """When the lease began, at the earliest, by `boottime`."""


class Waiting:
    """A server on its way to be the owner. `owner` says who else is, in a sentence; None: nobody that is known."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._began = time.monotonic()
        (lease_ms,) = wire.execute("SELECT value FROM meta WHERE name = 'lease_ms'").fetchone()
        self._lease_ms = int(lease_ms)
        self.owner: str | None = None

    def attempt(self) -> Owned | None:
        """Become the owner, or find out who is."""
        wire = self._wire
        try:
            begin_alone(wire)
            wire.execute(_LOCK_TIMEOUT)
            if time.monotonic() - self._began >= YOUNG_SHARE * self._lease_ms / 1000:
                wire.execute(_END)
            alive = wire.execute(_ALIVE).fetchone()
            if alive is None:
                sent_at = boottime()
                address = f"process {os.getpid()} on {socket.gethostname()}"
                (me,) = wire.execute(_JOIN, (address, __version__, self._lease_ms)).fetchone()
                wire.execute("UPDATE partitions SET owner = ?", (me,))
                wire.execute("COMMIT")
                return Owned(me, self._lease_ms / 1000, sent_at)
            wire.execute("ROLLBACK")
        except Refused as error:
            wire.execute("ROLLBACK")
            if error.state != LOCK_TIMEOUT:
                raise
            end_half_batches(wire)
            return None
        _, address, left_s = alive
        self.owner = (
            f"{address}, whose lease ends in {left_s:.0f} s" if left_s > 0 else f"{address}, whose lease is over"
        )
        return None


def acquire(wire: Wire, *, wait_s: float, on_wait: Callable[[str], None], sleep: Callable[[float], bool]) -> Owned:
    """Wait until the journal is ours. `sleep` returns True if nobody wants it any more.

    Raises `JournalLocked`, which names the owner, after `wait_s` seconds. `on_wait` is called once if it has to wait.
    """
    waiting = Waiting(wire)
    until = time.monotonic() + wait_s
    is_reported = False
    while (owned := waiting.attempt()) is None:
        if time.monotonic() >= until:
            raise JournalLocked(
                f"The journal in the database belongs to {waiting.owner or 'another server'}. Stop that server, or name"
                " another database."
            )
        if waiting.owner is not None and not is_reported:
            is_reported = True
            on_wait(f"waiting for the journal in the database: it belongs to {waiting.owner}")
        if sleep(min(LOOK_S, max(0.0, until - time.monotonic()))):
            raise JournalLocked("The journal is not wanted any more.")
    return owned


def owner_of(conninfo: str) -> str | None:
    """Return which server owns the journal in a database now, for people; None: none does.

    Nothing is written. Raises `JournalError` if the database cannot be asked.
    """
    try:
        check_conninfo(conninfo)
        wire = Wire(conninfo)
        try:
            if wire.execute("SELECT to_regclass('servers')::text").fetchone()[0] is None:
                return None
            alive = wire.execute(_ALIVE).fetchone()
        finally:
            wire.close()
    except (ConnectionLost, Refused, ValueError) as error:
        raise JournalError(str(error) if isinstance(error, ValueError) else for_operators(error)) from error
    return None if alive is None or alive[2] < 0 else str(alive[1])
