"""The changes that somebody asks the SQLite journal for, as they run on the writer's thread: delete, end, cancel."""

from collections.abc import Sequence
from typing import Any, Final

from strandline.encoding import encode_messages
from strandline.journal.damage import readable
from strandline.journal.forgetting import delete_session
from strandline.journal.known import Executing, Session
from strandline.journal.port import (
    Busy,
    Cancel,
    CancelSession,
    Changed,
    Delete,
    Ended,
    EndWaiting,
    Move,
    NotDue,
    Pause,
    Resume,
    Stopped,
)
from strandline.journal.questions import Questions
from strandline.journal.reader import RUN_COLUMNS
from strandline.journal.rules import cancelled, drawn
from strandline.journal.seal import end_owner, sealed
from strandline.model import INTERRUPTS, IfBusy, Lane, Message, Outcome, RunId, RunStatus, SessionKey

_QUEUED: Final = RunStatus.QUEUED.value
_GIVEN_BACK: Final = (
    "SELECT run_id, lane, urgency, seq, started_at, attempt FROM runs WHERE session = ? AND status = 'queued'"
    f" AND lane = {Lane.GIVEN_BACK} AND started_at IS NOT NULL ORDER BY urgency, seq"
)
_PAUSE: Final = "UPDATE sessions SET paused = ?, closed_since = ? WHERE no = ?"
_RESUME: Final = "UPDATE sessions SET paused = 0, rests_since = iif(rests_since IS NULL, NULL, ?) WHERE no = ?"
_RUNNING: Final = RunStatus.RUNNING.value
_LINE: Final = (
    "SELECT run_id, lane, urgency, seq, started_at, attempt FROM runs WHERE session = ? AND status = 'queued'"
    " ORDER BY lane, urgency, seq"
)


class Controls(Questions):
    """The verbs that somebody asks for, and what an accept does to a busy session."""

    def delete(self, change: Delete) -> Changed | Busy:
        """Forget a session with its history, state and ended runs, unless a run of it waits or executes."""
        session = self._known.session(change.key)
        if session is None:
            return Changed(existed=False)
        if session.queued or session.claimed is not None:
            return Busy()
        if change.ended_before is not None and not self._rests_since(session, change.ended_before):
            return Busy()
        delete_session(self._connection, session)
        self._known.forget(session)
        return Changed(existed=True)

    def end_waiting(self, change: EndWaiting, outcome: bytes) -> Changed | Busy | NotDue:
        """End a run of this session if it still waits; it leaves a row of history without messages, as all do."""
        session = self._known.session(change.key)
        if session is None:
            return Changed(existed=False)
        row = self._execute(
            "SELECT lane, urgency, seq, started_at, attempt, status, queue_deadline FROM runs"
            " WHERE run_id = ? AND session = ?",
            (change.run_id, session.no),
        ).fetchone()
        if row is None:
            return Changed(existed=False)
        *waits, status, deadline = row
        if status != _QUEUED or waits[3] is not None:
            return Busy()
        if change.overdue and (not_due := self._not_due(session, deadline)) is not None:
            return not_due
        self._end_waiting(session, waits, change.outcome.status, outcome)
        return Changed(existed=True)

    def cancel(self, change: Cancel) -> Stopped | Changed | Ended:
        """End a run that waits, or note that the one that executes can only end as cancelled."""
        row = self._execute(
            "SELECT session_id, status, run_id, lane, urgency, seq, started_at, attempt"
            " FROM runs JOIN sessions ON no = session WHERE run_id = ? AND principal = ?",
            (change.run_id, change.principal),
        ).fetchone()
        if row is None:
            return Changed(existed=False)
        session_id, status, run_id, *waits = row
        if status == _RUNNING:
            return Stopped(ended={}, asked=[self._have_end(self._known.executing[run_id])])
        session = self._known.session(SessionKey(change.principal, session_id))
        assert session is not None
        if status != _QUEUED:
            asked = self._known.open_question(session)
            if asked is None or asked.run != waits[2]:
                return Ended()
            self._dismiss(session, asked)
            return Stopped(ended={}, asked=[], input_until=asked.until)
        return Stopped(ended={run_id: self._cancel_waiting(session, waits)}, asked=[])

    def cancel_session(self, change: CancelSession) -> Stopped | Changed:
        """End all that waits in a session; with `running`, note that what executes can only end as cancelled."""
        session = self._known.session(change.key)
        if session is None:
            return Changed(existed=False)
        waiting = self._execute(_LINE, (session.no,)).fetchall() if session.queued else []
        ended = {RunId(run_id): self._cancel_waiting(session, waits) for run_id, *waits in waiting}
        claimed = session.claimed
        asks = change.running and claimed is not None and claimed.held_since is None
        until = None
        if change.running and (question := self._known.open_question(session)) is not None:
            self._dismiss(session, question)
            until = question.until
        return Stopped(ended, [self._have_end(claimed)] if asks and claimed is not None else [], until)

    def pause(self, change: Pause) -> Changed:
        """Take nothing more of a session; its time stands still, since before if it is held."""
        session = self._known.session(change.key)
        if session is None:
            return Changed(existed=False)
        if session.closed_since is None:
            held = session.claimed
            is_held = held is not None and held.held_since is not None
            since = held.held_since if is_held and held is not None else None
            since = self._clock.now() if since is None else since
            asked = self._known.open_question(session)
            session.closed_since = since if asked is None else max(since, asked.until)
        session.paused = True
        self._execute(_PAUSE, (1, session.closed_since, session.no))
        return Changed(existed=True)

    def resume(self, change: Resume) -> Changed:
        """Let a session go on, unless it is held: then when that is over. It rests since now at the earliest."""
        session = self._known.session(change.key)
        if session is None:
            return Changed(existed=False)
        if session.paused:
            session.paused = False
            self._execute(_RESUME, (self._clock.now(), session.no))
            if session.claimed is None or session.claimed.held_since is None:
                self._open(session, None)
        return Changed(existed=True)

    def move(self, change: Move) -> Changed | Busy | Ended:
        """Give a run that waits another priority, or the last place of the front lane."""
        row = self._execute(
            "SELECT session_id, status, started_at, lane, urgency, seq FROM runs JOIN sessions ON no = session"
            " WHERE run_id = ? AND principal = ?",
            (change.run_id, change.principal),
        ).fetchone()
        if row is None:
            return Changed(existed=False)
        session_id, status, started_at, *before = row
        if status != _QUEUED or started_at is not None:
            return Busy() if status in (_QUEUED, _RUNNING) else Ended()
        session = self._known.session(SessionKey(change.principal, session_id))
        assert session is not None
        lane, urgency, seq = before
        if lane == Lane.ANSWER:
            return Changed(existed=True)
        if change.priority is None:
            place = (int(Lane.FRONT), drawn(self._next_seq), seq)
            self._next_seq += 1
        else:
            place = (int(Lane.NORMAL), change.priority, seq)
        self._update(
            "UPDATE runs SET lane = ?, urgency = ?, moved = coalesce(?, moved) WHERE seq = ? AND status = 'queued'",
            (*place[:2], change.priority, seq),
        )
        self._known.left(session, (lane, urgency, seq))
        self._known.waits(session, place)
        return Changed(existed=True)

    # -- parts of verbs -------------------------------------------------------------------------------

    def _rests_since(self, session: Session, before: float) -> bool:
        """Tell whether the last run of a session in which none waits or is claimed had ended before that moment."""
        (since,) = self._execute("SELECT rests_since FROM sessions WHERE no = ?", (session.no,)).fetchone()
        is_open = session.paused or self._known.question(session) is not None
        return not is_open and since is not None and since < before

    def _not_due(self, session: Session, deadline: float | None) -> NotDue | None:
        if session.paused or (session.claimed is not None and session.claimed.held_since is not None):
            return NotDue(None)
        return NotDue(deadline) if deadline is None or self._clock.now() < deadline else None

    def _given_back(self, session: Session, if_busy: IfBusy) -> list[list[Any]]:
        """Return what an interrupt ends of the waiting runs: those that have begun."""
        if if_busy not in INTERRUPTS or not session.queued:
            return []
        return [list(row) for row in self._execute(_GIVEN_BACK, (session.no,)).fetchall()]

    def _interrupt(self, session: Session, given_back: Sequence[list[Any]], if_busy: IfBusy) -> Stopped | None:
        """Cancel what has begun in a session, for a run that goes before all that has not."""
        if if_busy not in INTERRUPTS:
            return None
        discard = if_busy is IfBusy.ROLLBACK
        ended = {RunId(run_id): self._cancel_waiting(session, waits, discard) for run_id, *waits in given_back}
        claimed = session.claimed
        asks = claimed is not None and claimed.held_since is None
        asked = [self._have_end(claimed, discard)] if asks and claimed is not None else []
        return Stopped(ended, asked) if ended or asked else None

    def _have_end(self, executing: Executing, discard: bool = False) -> RunId:
        discard = discard or executing.discard
        self._update(
            "UPDATE runs SET cancel_requested = 1, discard = ? WHERE seq = ? AND fence = ? AND status = 'running'",
            (int(discard), executing.seq, executing.fence),
        )
        executing.cancel_requested, executing.discard = True, discard
        return executing.run_id

    def _cancel_waiting(self, session: Session, waits: list[Any], discard: bool = False) -> Outcome:
        """End a run that waits as cancelled; one that was given back is closed by what it had staged."""
        seq, started_at = waits[2:4]
        question = None
        if (asked := self._known.answered_by(session, seq)) is not None:
            question, _ = self._question_or_what_is_left(session, asked)
        outcome, messages = cancelled((), question=question)
        if started_at is not None:
            row = self._execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE seq = ?", (seq,)).fetchone()
            _, staged = readable(self._connection, row, session.key)
            outcome, messages = cancelled(staged, question=question)
        self._end_waiting(session, waits, outcome.status, encode_messages(outcome), messages, discard)
        if started_at is not None:
            self._execute("DELETE FROM staged WHERE run = ?", (seq,))
        return outcome

    def _end_waiting(
        self,
        session: Session,
        waits: list[Any],
        status: RunStatus,
        outcome: bytes,
        messages: Sequence[Message] = (),
        discard: bool = False,
    ) -> None:
        """End the run that waits at (lane, urgency, seq), which comes with when it was started, and its attempts."""
        lane, urgency, seq, started_at, attempt = waits
        now = self._clock.now()
        owner = end_owner(session.crc, seq, attempt, discard, started_at, now)
        self._update(
            "UPDATE runs SET status = ?, outcome = ?, ended_at = ?, discarded = ? WHERE seq = ? AND status = 'queued'",
            (status.value, sealed(outcome, owner), now, int(discard), seq),
        )
        self._append(session, seq, encode_messages(messages) if messages else None, len(messages), int(discard))
        self._answered(session, seq, closed=bool(messages) and not discard, begun=discard)
        self._known.left(session, (lane, urgency, seq))
