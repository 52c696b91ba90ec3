"""Input requests in the SQLite journal: the question that a session waits to be answered, and what became of others.

A question is a row as long as its round is open at the end of its session's history: until it is dismissed, or the run
that answers it has ended. Belongs to the writer's thread, but for `question_of`.
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from strandline.encoding import decoder, encode_messages
from strandline.errors import JournalUnavailable
from strandline.history import dismissed
from strandline.journal.known import Asked, Session
from strandline.journal.port import Unanswerable
from strandline.journal.reader import between, find_session
from strandline.journal.rows import Rows
from strandline.journal.rules import Closed, check_answer
from strandline.journal.seal import damaged_record, is_sealed, key_crc, question_owner, read_sealed, sealed
from strandline.model import Message, NewRun, Question, SessionKey

_log = logging.getLogger("strandline.journal")

_question: Final[Callable[[bytes], Question]] = decoder(Question)
_NO_RUN: Final = -1
"""Of a row of history that no run has left."""


class Questions(Rows):
    """What the verbs do to the question of a session."""

    def _ask(self, session: Session, seq: int, question: bytes, until: float, *, hold: bool) -> None:
        """Have a session wait for input; the queue deadline of whatever waits in it moves on by as long as it may.

        If it is closed besides, its time stands still for that only when it waits no longer: no minute counts twice.
        """
        self._execute(
            "INSERT OR REPLACE INTO questions (session, run, until, answer, question) VALUES (?,?,?,NULL,?)",
            (session.no, seq, until, sealed(question, question_owner(session.crc, seq, until))),
        )
        self._known.asked(session, Asked(seq, until))
        if session.closed_since is not None:
            self._stood_since(session, session.closed_since)
        if session.closed_since is not None or hold:
            self._closed_since(session, until)
        self._move_deadlines(session, until - self._clock.now())

    def _cannot_answer(
        self, session: Session | None, given: Sequence[str], question: Question | None
    ) -> Unanswerable | None:
        def closed(request: str) -> Closed | None:
            row = (
                session
                and self._execute(
                    "SELECT closed FROM closed_requests WHERE session = ? AND id = ?", (session.no, request)
                ).fetchone()
            )
            return row[0] if row else None

        return check_answer(given, question, closed)

    def _asked_meanwhile(
        self, session: Session, asked: Asked, new: NewRun, seq: int, question: Question | None, dismiss: bool
    ) -> NewRun:
        """Do what a run that was accepted does to the question that its session waits to be answered; with `question`,
        it answers it. Return the run, its queue deadline moved on if it waits for that answer."""
        if question is not None:
            self._close_requests(session, asked, question, "answered")
            self._update("UPDATE questions SET answer = ? WHERE session = ? AND answer IS NULL", (seq, session.no))
            asked.answer = seq
        elif dismiss:
            self._dismiss(session, asked)
        elif new.queue_deadline is not None:
            moved = new.queue_deadline + max(0.0, asked.until - self._clock.now())
            return replace(new, queue_deadline=moved)
        return new

    def _dismiss(self, session: Session, asked: Asked, *, begun: bool = False) -> None:
        """Close the open round of a question in history."""
        question, _ = self._question_or_what_is_left(session, asked)
        if asked.answer is None:
            self._close_requests(session, asked, question, "dismissed")
        messages = dismissed(question, begun=begun)
        self._append(session, _NO_RUN, encode_messages(messages), len(messages), 0)
        self._forget_question(session)

    def _answered(self, session: Session, seq: int, *, closed: bool, begun: bool) -> None:
        """Note that a run has ended; if it answered a question, its round is `closed` by what it left, or else here."""
        asked = self._known.answered_by(session, seq)
        if asked is None:
            return
        if closed:
            self._forget_question(session)
        else:
            self._dismiss(session, asked, begun=begun)

    def _question(self, session: Session, asked: Asked) -> Question:
        """Return a question. Raises `JournalUnavailable` if it is damaged."""
        return question_of(self._connection, session.key, session.no, asked.run, asked.until)

    def _question_or_what_is_left(self, session: Session, asked: Asked) -> tuple[Question, bool]:
        """Return a question and True; if it is damaged, what history has of it and False: nobody can answer that."""
        try:
            return self._question(session, asked), True
        except JournalUnavailable as error:
            _log.error("%s", error)
        last = last_message(self._connection, session.key)
        return Question(requests=[], message=last, results={}, state={}), False

    def _close_requests(self, session: Session, asked: Asked, question: Question, how: Closed) -> None:
        """Note what becomes of the requests of a question, for as long as the run is kept that has asked."""
        if self._execute("SELECT 1 FROM runs WHERE seq = ?", (asked.run,)).fetchone():
            for each in question.requests:
                self._execute(
                    "INSERT OR REPLACE INTO closed_requests (session, id, run, closed) VALUES (?,?,?,?)",
                    (session.no, each.id, asked.run, how),
                )
        now = self._clock.now()
        self._move_deadlines(session, -max(0.0, asked.until - now))
        if session.closed_since is not None and session.closed_since > now:
            self._closed_since(session, now)

    def _forget_question(self, session: Session) -> None:
        self._update("DELETE FROM questions WHERE session = ?", (session.no,))
        self._known.asked(session, None)

    def _move_deadlines(self, session: Session, seconds: float) -> None:
        if session.queued and seconds:
            self._execute(
                "UPDATE runs SET queue_deadline = queue_deadline + ?"
                " WHERE session = ? AND status = 'queued' AND queue_deadline IS NOT NULL",
                (seconds, session.no),
            )


def question_of(connection: sqlite3.Connection, key: SessionKey, session: int, run: int, until: float) -> Question:
    """Return the question of a session. Raises `JournalUnavailable` if it is damaged."""
    (stored,) = connection.execute("SELECT question FROM questions WHERE session = ?", (session,)).fetchone()
    what = f"what session {key.session_id} waits to be answered"
    if not is_sealed(stored):
        raise damaged_record(what)
    return read_sealed(_question, stored, what, question_owner(key_crc(key), run, until))


def last_message(connection: sqlite3.Connection, key: SessionKey) -> Message:
    """Return the last message of a history that is not empty."""
    found = find_session(connection, key)
    assert found is not None
    tail = found.tail
    return between(connection, key, found.no, tail, tail.length - 1, tail.length)[-1][1]
