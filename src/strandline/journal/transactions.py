"""One transaction after another on the writer's connection: the session table decides, its rows are written at once.

After a transaction that failed, the sessions that it had changed are read anew from the file, which is the truth. Facts
whose callers were told that they would be written stay owed until a later transaction writes them, or ends their run.
Belongs to the writer's thread.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from strandline.clock import Clock
from strandline.errors import StrandlineError
from strandline.journal.changes import Completion
from strandline.journal.driver import cut_off_wal, is_out_of_room, make_room, translated
from strandline.journal.forgetting import prune
from strandline.journal.port import Take
from strandline.journal.reserve import Reserve
from strandline.journal.sqlite_rows import SqliteRows
from strandline.journal.table import SessionTable
from strandline.model import Claim, Token

T = TypeVar("T")

_TRIAL: Final = (
    # (a row that nobody reads, with a name of 8 pages: about what the acceptance of a run and its end take)
    "INSERT OR REPLACE INTO meta VALUES ('trial' || hex(zeroblob(16384)), 0)",
    "DELETE FROM meta WHERE name > 'trial' AND name < 'triam'",
)


class HalfDecided(Exception):
    """An operation failed by `error` after it had changed something: its transaction has to be undone."""

    def __init__(self, error: StrandlineError) -> None:
        super().__init__(str(error))
        self.error = error


class Transactions:
    """The one writing connection, the table of its sessions, and what is owed to it."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock, reserve: Reserve, *, max_attempts: int) -> None:
        self._cursor = connection.cursor()
        self._execute = self._cursor.execute
        self._connection = connection
        self._clock = clock
        self._max_attempts = max_attempts
        self._rows = SqliteRows(connection, reserve)
        self._table: SessionTable
        self._has_failed = False
        self._owed: dict[Token, list[bytes]] = {}
        """Facts that could not be written although their caller was told that they would be."""
        self._paid: set[Token] = set()
        """Those of `_owed` that this transaction writes, or that it makes worthless."""
        self.made: list[Claim] = []
        self.epoch = 0

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        self._rows.close()
        self._cursor.close()

    # -- one transaction ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction; after a failed one, read first what it had changed in memory."""
        if self._has_failed:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            self._table.roll_back()
            self._has_failed = False
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable."""
        self._execute("COMMIT")
        self._table.durable()
        if self._paid:
            for token in self._paid:
                self._owed.pop(token, None)
            self._paid.clear()

    def rollback(self) -> None:
        """Undo the transaction, if it is still open. Raises nothing."""
        self._paid.clear()
        self._has_failed = True
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._execute("ROLLBACK")

    def try_out(self) -> None:
        """Make as much durable as a run needs, and undo it. Raises what hinders it.

        The room that it took is given back: what it found is there for a run.
        """
        try:
            for statement in _TRIAL:
                self._execute("BEGIN IMMEDIATE")
                self._execute(statement)
                self._execute("COMMIT")
            cut_off_wal(self._connection)
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._execute("ROLLBACK")

    def look(self) -> None:
        """Raise what is known to hinder that anything is kept: nothing here."""

    def make_room(self, error: Exception) -> None:
        """After a transaction that was undone because of `error`: give back what space the journal itself can."""
        if is_out_of_room(error):
            make_room(self._connection)

    def translated(self, error: Exception) -> StrandlineError:
        """Return an error of the driver as one of ours."""
        return error.error if isinstance(error, HalfDecided) else translated(error)

    # -- operations -----------------------------------------------------------------------------------

    def decide(self, operation: Callable[[SessionTable, float], T]) -> T:
        """Have the session table decide at the present time, and write what it says.

        An error of ours leaves the transaction as it was; any other, and `HalfDecided`, is one to undo it for.
        """
        try:
            answer = operation(self._table, self._clock.now())
        except StrandlineError as error:
            if self._table.has_decided:
                raise HalfDecided(error) from error
            raise
        changes, claims = self._table.drain()
        try:
            self._rows.write(changes)
        except StrandlineError as error:
            raise HalfDecided(error) from error
        self.made += claims
        return answer

    def take_over(self) -> list[Claim]:
        """Read what is stored, end all holds and fence every older owner, in one transaction.

        Return what was executing, in order of sequence, with fresh tokens and its facts.
        """
        no, seq, row = self._rows.next_numbers()
        self._table = SessionTable.of(
            self._rows, max_attempts=self._max_attempts, next_no=no, next_seq=seq, next_row=row
        )
        self.begin()
        try:
            self._execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            (self.epoch,) = self._execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            claims = self.decide(lambda table, now: table.take_over(self.epoch, now))
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return claims

    def checkpoint(self, token: Token, fact: bytes) -> None:
        """Keep a fact, after those that are owed for the same claim."""

        def operation(table: SessionTable, _: float) -> None:
            self._pay(table, token)
            table.checkpoint(token, fact)

        self.decide(operation)

    def finish(self, token: Token, left: Completion, hold: bool, take: bool) -> Take:
        """End a run; whatever is owed for its claim is worth nothing any more."""
        taken = self.decide(lambda table, now: table.finish(token, left, hold=hold, take=take, now=now))
        if self._owed:
            self._paid.add(token)
        return taken

    def release(self, token: Token, counted: bool, take: bool) -> Take:
        """Have a run wait again, with the facts that are owed for its claim; or end its hold."""

        def operation(table: SessionTable, now: float) -> Take:
            self._pay(table, token)
            return table.release(token, counted=counted, take=take, now=now)

        return self.decide(operation)

    def prune(self, before: float, limit: int, after: int) -> tuple[int, int | None]:
        """Forget runs that ended before `before`; see `prune`."""
        return prune(self._connection, before, limit, after, self._clock.now())

    # -- facts that are owed --------------------------------------------------------------------------

    def owe(self, token: Token, fact: bytes) -> None:
        """Remember a fact that could not be written: the next verb of this claim writes it first, or replaces it."""
        self._owed.setdefault(token, []).append(fact)

    def _pay(self, table: SessionTable, token: Token) -> None:
        """Write the facts that are owed for this claim."""
        if self._owed and token not in self._paid:
            for fact in self._owed.get(token, ()):
                table.checkpoint(token, fact)
            self._paid.add(token)
