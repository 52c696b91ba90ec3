"""Transactions on the writer's connection to the SQLite file. Belongs to the writer's thread."""

import sqlite3
from contextlib import suppress
from typing import Final

from strandline._clock import Clock
from strandline._journal.deletion import prune
from strandline._journal.driver import cut_off_wal, is_out_of_room, secret_of, translated
from strandline._journal.numbers import Counted
from strandline._journal.reserve import Reserve
from strandline._journal.sqlite_rows import SqliteRows
from strandline._journal.table import SessionTable
from strandline._model import Claim
from strandline.errors import StrandlineError

_TRIAL: Final = (
    # (an unused row with a name of 8 pages: about what accepting and ending a run takes)
    "INSERT OR REPLACE INTO meta VALUES ('trial' || hex(zeroblob(16384)), 0)",
    "DELETE FROM meta WHERE name > 'trial' AND name < 'triam'",
)


class SqliteTransactions:
    """The one writing connection. Implements `writer.Transactions`."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock, reserve: Reserve) -> None:
        self._cursor = connection.cursor()
        self._execute = self._cursor.execute
        self._connection = connection
        self._clock = clock
        self._reserve = reserve
        self.records = SqliteRows(connection, reserve.measure)
        self.write = self.records.write
        self.secret = b""

    def close(self) -> None:
        """Release the connection. Idempotent."""
        self.records.close()
        self._cursor.close()

    def begin(self) -> None:
        """Start a transaction."""
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable."""
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if it is still open. Raises nothing."""
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._execute("ROLLBACK")

    def probe(self) -> None:
        """Make as much durable as a run needs, then undo it. Raises if that fails.

        The space that it used is free again, for a run.
        """
        try:
            for statement in _TRIAL:
                self._execute("BEGIN IMMEDIATE")
                self._execute(statement)
                self._execute("COMMIT")
            cut_off_wal(self._connection)
        finally:
            self.rollback()

    def check(self) -> None:
        """Raise if nothing can be stored, as far as is known; here never."""

    def make_room(self, error: Exception) -> None:
        """Free what space the journal can, after `error` made a transaction fail."""
        if is_out_of_room(error):
            with suppress(sqlite3.Error):  # (on a full disk it may fail)
                cut_off_wal(self._connection)

    def translated(self, error: Exception) -> StrandlineError:
        """Return an error of the driver as one of ours."""
        return translated(error)

    def take_over(self, *, max_attempts: int) -> tuple[SessionTable, int, list[Claim]]:
        """Read the stored sessions, end all holds and fence every older owner, in one transaction.

        Return the session table, the epoch of this owner, and what was executing, in order of sequence, with new tokens
        and its checkpoints.
        """
        no, seq, row = self.records.next_numbers()
        table = SessionTable.of(
            self.records, max_attempts=max_attempts, numbers=Counted(no, seq, row), room=self._reserve
        )
        self.begin()
        try:
            self._execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            (epoch,) = self._execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            self.secret = secret_of(self._connection)
            claims = table.take_over({0: epoch}, self._clock.now())
            batch = table.drain()
            self.write(batch.changes)
            self.commit()
        except BaseException:
            self.rollback()
            raise
        table.durable(batch, {})
        table.records = None
        return table, epoch, claims

    def prune(self, before: float, limit: int, after: int) -> tuple[int, int | None]:
        """Delete runs that ended before `before`; see `prune`."""
        return prune(self._connection, before, limit, after, self._clock.now())
