"""Transactions on the writer's connection to the SQLite file. Belongs to the writer's thread."""

import sqlite3
from contextlib import suppress
from typing import Final

from strandline._clock import Clock
from strandline._journal.deletion import prune
from strandline._journal.driver import cut_off_wal, is_out_of_room, translated
from strandline._journal.reserve import Reserve
from strandline._journal.sqlite_rows import SqliteRows
from strandline._journal.table import SessionTable
from strandline._model import Claim
from strandline.errors import StrandlineError

_TRIAL: Final = (
    # (a row that nobody reads, with a name of 8 pages: about what the acceptance of a run and its end take)
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

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
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
        """Make as much durable as a run needs, and undo it. Raises what hinders it.

        The room that it took is free again: what it found is there for a run.
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
        """Raise what is known to hinder that anything is kept: nothing here."""

    def make_room(self, error: Exception) -> None:
        """After a transaction that was undone because of `error`: give back what space the journal itself can."""
        if is_out_of_room(error):
            with suppress(sqlite3.Error):  # (on a full disk it may fail)
                cut_off_wal(self._connection)

    def translated(self, error: Exception) -> StrandlineError:
        """Return an error of the driver as one of ours."""
        return translated(error)

    def take_over(self, *, max_attempts: int) -> tuple[SessionTable, int, list[Claim]]:
        """Read what is stored, end all holds and fence every older owner, in one transaction.

        Return the session table, the epoch of this owner, and what was executing, in order of sequence, with fresh
        tokens and its facts.
        """
        no, seq, row = self.records.next_numbers()
        table = SessionTable.of(
            self.records, max_attempts=max_attempts, next_no=no, next_seq=seq, next_row=row, room=self._reserve
        )
        self.begin()
        try:
            self._execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            (epoch,) = self._execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            claims = table.take_over(epoch, self._clock.now())
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
        """Forget runs that ended before `before`; see `prune`."""
        return prune(self._connection, before, limit, after, self._clock.now())
