"""Rows that several verbs write: of history, of windows and states, of sessions. Belongs to the writer's thread."""

import sqlite3
from typing import Final

from strandline.clock import Clock
from strandline.journal.known import Session
from strandline.journal.reader import Tail
from strandline.journal.rules import drawn
from strandline.journal.seal import message_owner, sealed
from strandline.journal.transactions import Transactions
from strandline.model import Lane, SessionKey

_LAST_PLACE: Final = f"SELECT max(urgency) FROM runs WHERE status = 'queued' AND lane = {Lane.FRONT}"
_NEW_STATE: Final = "UPDATE agents SET state = ? WHERE session = ?"


class Rows(Transactions):
    """Transactions, and what they write in the same way."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        super().__init__(connection)
        self._clock = clock
        (pruned,) = self._execute("SELECT value FROM meta WHERE name = 'pruned'").fetchone()
        (highest,) = self._execute("SELECT coalesce(max(seq), -1) FROM runs").fetchone()
        (place,) = self._execute(_LAST_PLACE).fetchone()
        self._next_seq: int = max(pruned, highest, (place or 0) - drawn(0)) + 1
        """The next sequence, or place in the front lane."""

    def _append(self, session: Session, seq: int, messages: bytes | None, count: int, discarded: int) -> None:
        """Write the row of history that a run leaves."""
        end = session.end
        if messages is not None:
            messages = sealed(messages, message_owner(session.crc, end.length, discarded=bool(discarded)))
        row = self._execute(
            "INSERT INTO history (session, nth, first, count, previous, run, discarded, messages)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (session.no, end.nth + 1, end.length, count, end.row, seq, discarded, messages),
        ).lastrowid
        self._execute(
            "UPDATE sessions SET last = ?, rests_since = ? WHERE no = ?", (row, self._clock.now(), session.no)
        )
        session.end = Tail(row, end.nth + 1, end.length + count)

    def _keep(self, session: Session, window: bytes | None, state: bytes | None) -> None:
        """Write what an agent is rebuilt from, as far as it changed. Nearly always there is a row, and only a state."""
        if window is None and self._execute(_NEW_STATE, (state, session.no)).rowcount:
            return
        self._execute(
            "INSERT INTO agents (session, window, state) VALUES (?,?,?) ON CONFLICT DO UPDATE SET"
            " window = coalesce(excluded.window, window), state = coalesce(excluded.state, state)",
            (session.no, window, state),
        )

    def _add(self, key: SessionKey) -> Session:
        no = self._execute("INSERT INTO sessions (principal, session_id) VALUES (?,?)", key).lastrowid
        assert no is not None
        session = Session(no, key, Tail())
        self._known.add(session)
        return session

    def _open(self, session: Session, held_since: float | None) -> None:
        """Let the time of a session go on that was held since then, or closed before; what waits gets what it stood."""
        since = session.closed_since if session.closed_since is not None else held_since
        assert since is not None
        self._stood_since(session, since)
        if session.closed_since is not None:
            self._closed_since(session, None)

    def _stood_since(self, session: Session, since: float) -> None:
        """Move the queue deadline of what waits on by as long as it has stood since then."""
        if session.queued:
            self._execute(
                "UPDATE runs SET queue_deadline = queue_deadline + max(0.0, ? - max(?, created_at))"
                " WHERE session = ? AND status = 'queued' AND queue_deadline IS NOT NULL",
                (self._clock.now(), since, session.no),
            )

    def _closed_since(self, session: Session, since: float | None) -> None:
        self._execute("UPDATE sessions SET closed_since = ? WHERE no = ?", (since, session.no))
        session.closed_since = since
