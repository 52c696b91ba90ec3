"""One transaction after another on the writer's connection, and what outlives one that fails.

What is known by heart is read anew after it; facts whose callers were told that they would be written stay owed until a
later transaction writes them, or ends their run. Belongs to the writer's thread. Knows no verbs.
"""

import sqlite3
from contextlib import suppress
from typing import Final

from strandline.errors import StrandlineError
from strandline.journal.driver import cut_off_wal, is_out_of_room, make_room, translated
from strandline.journal.known import Executing, Known
from strandline.journal.seal import fact_owner, sealed
from strandline.model import Token

_TRIAL: Final = (
    # (a row that nobody reads, with a name of 8 pages: about what the acceptance of a run and its end take)
    "INSERT OR REPLACE INTO meta VALUES ('trial' || hex(zeroblob(16384)), 0)",
    "DELETE FROM meta WHERE name > 'trial' AND name < 'triam'",
)


class Mismatch(Exception):
    """What is known by heart is not what is stored."""


class Transactions:
    """The one writing connection, what is known of its file by heart, and what is owed to it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        # One cursor for all: making one for each statement takes a tenth of the time of a short one. What it returns is
        # to be read before the next statement.
        self._execute = connection.cursor().execute
        self._connection = connection
        self._known = Known(connection)
        self._forgot = False
        self._owed: dict[Token, list[bytes]] = {}
        """Facts that could not be written although their caller was told that they would be."""
        self._paid: set[Token] = set()
        """Those of `_owed` that this transaction writes, or that it makes worthless."""

    def begin(self) -> None:
        """Start a transaction; after a failed one, read first what had been known."""
        if self._forgot:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            self._known.learn()
            self._forgot = False
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable."""
        self._execute("COMMIT")
        if self._paid:
            for token in self._paid:
                self._owed.pop(token, None)
            self._paid.clear()

    def rollback(self) -> None:
        """Undo the transaction, if it is still open, and forget what was known. Raises nothing."""
        self._paid.clear()
        self._forgot = True
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
        return translated(error)

    # -- facts ----------------------------------------------------------------------------------------

    def owe(self, token: Token, fact: bytes) -> None:
        """Remember a fact that could not be written: the next verb of this claim writes it first, or replaces it."""
        self._owed.setdefault(token, []).append(fact)

    def _write_fact(self, executing: Executing, fact: bytes) -> None:
        self._execute(
            "INSERT INTO staged (run, no, fact) VALUES (?,?,?)",
            (executing.seq, executing.staged, sealed(fact, fact_owner(executing.seq, executing.staged))),
        )
        executing.staged += 1

    def _pay(self, token: Token, executing: Executing) -> None:
        """Write the facts that are owed for this claim."""
        if self._owed and token not in self._paid:
            for fact in self._owed.get(token, ()):
                self._write_fact(executing, fact)
            self._paid.add(token)

    def _settled(self, token: Token) -> None:
        """Note that whatever is owed for this claim is worth nothing any more: its run ends in this transaction."""
        if self._owed:
            self._paid.add(token)

    # -- statements -----------------------------------------------------------------------------------

    def _update(self, statement: str, values: tuple[object, ...]) -> None:
        """Execute a statement that has to change one row. Raises `Mismatch`."""
        if self._execute(statement, values).rowcount != 1:
            raise Mismatch(f"not one row was changed by: {statement}")
