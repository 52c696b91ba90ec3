"""`journal import` into a database that no server has: what `strandline._journal.importing` does, on its rows.

Each session is one transaction behind the lock that keeps servers away. A server that starts between two of them ends
the import; the sessions that are there stay, and `--skip-existing` continues behind them.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from strandline import __version__
from strandline._clock import Clock
from strandline._journal.changes import SessionRef
from strandline._journal.importing import Conversation, Imported, Work, check_stored, is_there, names_of, rows_of
from strandline._journal.numbers import Clocked
from strandline._journal.partitions import partition_of
from strandline._journal.postgres.maintenance import connected, have_alone
from strandline._journal.postgres.rows import Batch, PostgresRows
from strandline._journal.postgres.schema import check_current, migrate, version_of
from strandline._journal.postgres.wire import ConnectionLost, Refused, Wire
from strandline._model import Principal, SessionKey

COMMAND: Final = "journal import"
_ADVICE: Final = "Sessions are imported while no server has the journal: stop them all first."
_NOBODY: Final = 0
"""Whose rows they are, until a server owns them."""
_NOTE: Final = (
    "INSERT INTO servers (address, name, version, alive, until, top)"
    f" VALUES ('', 'strandline {COMMAND}', ?, false, clock_timestamp(), ?) RETURNING id"
)
"""Has servers draw larger numbers than ours."""
_NOTE_AGAIN: Final = "UPDATE servers SET top = ? WHERE id = ? RETURNING id"


def import_sessions(
    folder: Path,
    address: str,
    clock: Clock,
    *,
    prefix: str,
    principal: str,
    skip_existing: bool,
    dry_run: bool,
    on_step: Callable[[int, int], None],
    named: str | None = None,
) -> list[Imported]:
    """Import every session of `folder` into the journal in a database, whose tables are made if there are none.

    Returns a result for each, in order of their names. Raises a `JournalError` that says what to do; sessions imported
    so far stay then.
    """
    work = Work(names_of(folder, prefix, named), Principal(principal), skip_existing, dry_run, clock.now(), on_step)
    with connected(address, COMMAND) as wire:
        if dry_run:
            if not version_of(wire):
                return work.all(None)
            check_current(wire)
        else:
            migrate(wire)
            have_alone(wire, advice=_ADVICE)
            wire.execute("ROLLBACK")
        return work.all(_Database(wire, clock))


class _Database:
    """A database. Implements `importing.Store`."""

    def __init__(self, wire: Wire, clock: Clock) -> None:
        self._wire = wire
        self._batch = Batch(wire)
        self._rows = PostgresRows(self._batch, _NOBODY)
        self._numbers = Clocked(clock.now)
        self._note: int | None = None
        """The row in `servers` that has the largest of our numbers."""

    def has(self, key: SessionKey) -> bool:
        """Return whether there is a session of this name."""
        return is_there(self._batch, key)

    def keep(self, key: SessionKey, conversation: Conversation, now: float) -> None:
        """Store a session in one transaction. Raises `JournalLocked` if a server is there."""
        have_alone(self._wire, advice=_ADVICE)
        try:
            note = self._write(key, conversation, now)
            self._batch.execute("COMMIT")
        except BaseException:
            self._batch.drop()
            self._rows.forget()
            with suppress(ConnectionLost, Refused):
                self._wire.execute("ROLLBACK")
            raise
        self._note = note

    def _write(self, key: SessionKey, conversation: Conversation, now: float) -> int:
        """Write a session in the transaction that is open; return the number of the row that notes our numbers."""
        (top,) = self._batch.execute("SELECT coalesce(max(top), 0) FROM servers").fetchone()
        self._numbers.begin(0, top)
        partition = partition_of(key)
        session = SessionRef.of(self._numbers.session(partition), key)
        self._rows.write(rows_of(session, partial(self._numbers.row, partition), conversation, now))
        self._rows.count()
        check_stored(self._batch, key, conversation)
        noted = (
            (_NOTE, (__version__, self._numbers.top))
            if self._note is None
            else (_NOTE_AGAIN, (self._numbers.top, self._note))
        )
        (note,) = self._batch.execute(*noted).fetchone()
        return int(note)
