"""The database for commands: read as of one moment beside servers, or kept from them all.

A command that has the database to itself holds a lock on the table `servers`, which every server has to write to before
it owns anything. The lock ends with the command's connection, however that ends. Servers that start meanwhile wait.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from strandline._journal.postgres.failures import for_operators
from strandline._journal.postgres.ownership import YOUNG_SHARE, command_of
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.schema import BEGIN, check_current
from strandline._journal.postgres.wire import LOCK_TIMEOUT, ConnectionLost, Refused, Wire, check_conninfo
from strandline._printable import without_passwords
from strandline.errors import JournalError, JournalLocked

STATEMENT_S: Final = 24 * 3600.0
"""How long a statement of a command may take: it reads whole tables."""
LOOK_S: Final = 0.25
_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"
_PATIENCE: Final = (
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL lock_timeout = '5s'",
)
_LOCK: Final = "LOCK TABLE servers IN SHARE ROW EXCLUSIVE MODE"
_ALIVE: Final = (
    "SELECT coalesce(nullif(name, ''), address), extract(epoch FROM until - clock_timestamp())::float8 FROM servers"
    " WHERE alive ORDER BY until DESC"
)
_END: Final = "UPDATE servers SET alive = false WHERE alive AND until < clock_timestamp()"


@contextmanager
def connected(address: str, command: str) -> Iterator[Wire]:
    """Yield a connection for a command, which ends with the block.

    Errors of the driver become a `JournalError` that says where the database is, without its password.
    """
    shown = without_passwords(address)
    try:
        check_conninfo(address)
        wire = Wire(address, answer_s=STATEMENT_S)
        try:
            wire.execute("SELECT set_config('application_name', ?, false)", (named(command),))
            yield wire
        finally:
            wire.close()
    except ValueError as error:
        raise JournalError(f"{shown}: {error}.") from None
    except (ConnectionLost, Refused) as error:
        raise JournalError(f"{shown}: {for_operators(error).rstrip('.')}.") from error


def named(command: str) -> str:
    """Return what a command calls itself in the database, where names have 63 characters at most."""
    return f"strandline {command}, process {os.getpid()} on {socket.gethostname()}"[:63]


@contextmanager
def at_one_moment(wire: Wire) -> Iterator[Batch]:
    """Yield the database as of this moment, whatever servers write meanwhile. Nothing can be written."""
    _run(wire, f"{_SNAPSHOT} READ ONLY", "SELECT 1")
    check_current(wire)
    yield Batch(wire)
    wire.execute("ROLLBACK")


def have_alone(wire: Wire, *, snapshot: bool = False, advice: str = "") -> None:
    """Begin a transaction during which no server owns anything, nor begins to. The tables must be there.

    With `snapshot` it sees the database as of now. Raises `JournalLocked` with `advice` if a server is alive. A server
    whose lease is over is ended for good, once it had time to renew it.
    """
    began = time.monotonic()
    (lease_ms,) = wire.execute("SELECT value FROM meta WHERE name = 'lease_ms'").fetchone()
    while True:
        _run(wire, _SNAPSHOT if snapshot else BEGIN, _LOCK)  # (before the first read, which takes the snapshot)
        alive = wire.execute(_ALIVE).fetchone()
        if alive is None:
            return
        wire.execute("ROLLBACK")
        address, left_s = alive
        if left_s > 0:
            raise JournalLocked(
                f"The journal in the database belongs to {address}, whose lease ends in {left_s:.0f} s."
                f" {advice or 'Stop that server first.'}"
            )
        if time.monotonic() - began >= YOUNG_SHARE * lease_ms / 1000:
            _run(wire, BEGIN, _END)
            wire.execute("COMMIT")
        else:
            time.sleep(LOOK_S)


def _run(wire: Wire, begin: str, statement: str) -> None:
    """Execute a statement in a new transaction. Raises `JournalLocked` if it has to wait for others for too long."""
    try:
        wire.run([(each, ()) for each in (begin, *_PATIENCE, statement)])
    except Refused as error:
        wire.execute("ROLLBACK")
        if error.state != LOCK_TIMEOUT:
            raise
        raise JournalLocked(f"The database is in use by {command_of(wire) or 'a server'}. Try again later.") from error
