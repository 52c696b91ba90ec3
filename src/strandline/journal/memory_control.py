"""The changes that somebody asks the memory journal for, each one step under its lock."""

from msgspec.structs import replace

from strandline.encoding import encode_messages
from strandline.journal.kept import KeptQuestion, KeptRun, KeptSession
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
from strandline.journal.rules import cancelled, check_end
from strandline.journal.steps import Steps
from strandline.model import INTERRUPTS, IfBusy, Lane, Outcome, RunId, RunStatus


class MemoryControls(Steps):
    """Delete, cancel and whatever else changes what is there."""

    def _delete(self, change: Delete) -> Changed | Busy:
        session = self._sessions.get(change.key)
        if session is None:
            return Changed(existed=False)
        if session.claimed is not None or len(session.line):
            return Busy()
        if change.ended_before is not None and not session.rests_since(change.ended_before):
            return Busy()
        self._keep_bytes(session, -session.stored)
        self._by_end.pop(change.key, None)
        del self._sessions[change.key]
        for run_id in session.runs:
            del self._runs[run_id]
        return Changed(existed=True)

    def _end_one(self, change: EndWaiting) -> Changed | Busy | NotDue:
        check_end(RunStatus.QUEUED, change.outcome.status)
        run = self._runs.get(change.run_id)
        if run is None or run.new.key != change.key:
            return Changed(existed=False)
        if run.status is not RunStatus.QUEUED or run.started_at is not None:
            return Busy()
        if change.overdue and (not_due := self._not_due(self._sessions[change.key], run)) is not None:
            return not_due
        self._end_waiting(run, change.outcome, [])
        return Changed(existed=True)

    def _not_due(self, session: KeptSession, run: KeptRun) -> NotDue | None:
        if session.paused or (session.claimed is not None and session.claimed.held):
            return NotDue(None)
        deadline = run.queue_deadline
        return NotDue(deadline) if deadline is None or self._clock.now() < deadline else None

    def _cancel(self, change: Cancel) -> Stopped | Changed | Ended:
        run = self._runs.get(change.run_id)
        if run is None or run.new.key.principal != change.principal:
            return Changed(existed=False)
        if run.outcome is not None:
            session = self._sessions[run.new.key]
            asked = session.open_question
            if asked is None or asked.run_id != change.run_id:
                return Ended()
            self._dismiss(session, asked)
            return Stopped(ended={}, asked=[], input_until=asked.until)
        return self._stop_all([run])

    def _cancel_session(self, change: CancelSession) -> Stopped | Changed:
        session = self._sessions.get(change.key)
        if session is None:
            return Changed(existed=False)
        runs = session.line.in_order()
        if change.running and session.claimed is not None and not session.claimed.held:
            runs.append(session.claimed)
        stopped = self._stop_all(runs)
        if change.running and (asked := session.open_question) is not None:
            self._dismiss(session, asked)
            return replace(stopped, input_until=asked.until)
        return stopped

    def _asked_meanwhile(
        self, session: KeptSession, asked: KeptQuestion, run: KeptRun, *, at_once: bool, answers: bool
    ) -> None:
        """Do what a run that was accepted does to the question that its session waits to be answered."""
        if answers:
            self._close_question(session, asked, "answered")
            asked.answer = run.new.run_id
        elif at_once or run.new.dismisses:
            self._dismiss(session, asked)
        elif run.queue_deadline is not None:
            run.queue_deadline += max(0.0, asked.until - self._clock.now())

    def _move(self, change: Move) -> Changed | Busy | Ended:
        run = self._runs.get(change.run_id)
        if run is None or run.new.key.principal != change.principal:
            return Changed(existed=False)
        if run.status is not RunStatus.QUEUED or run.started_at is not None:
            return Busy() if run.outcome is None else Ended()
        if run.lane == Lane.ANSWER:
            return Changed(existed=True)
        line = self._sessions[run.new.key].line
        line.remove(run)
        if change.priority is None:
            run.lane, run.place = Lane.FRONT, self._sequence
            self._sequence += 1
        else:
            run.lane, run.priority = Lane.NORMAL, change.priority
        line.add(run)
        return Changed(existed=True)

    def _pause(self, change: Pause) -> Changed:
        session = self._sessions.get(change.key)
        if session is None:
            return Changed(existed=False)
        if session.closed_since is None:
            held = session.claimed
            since = held.ended_at if held is not None and held.held else None
            since = self._clock.now() if since is None else since
            asked = session.open_question
            session.closed_since = since if asked is None else max(since, asked.until)
        session.paused = True
        return Changed(existed=True)

    def _resume(self, change: Resume) -> Changed:
        session = self._sessions.get(change.key)
        if session is None:
            return Changed(existed=False)
        if session.paused:
            session.paused = False
            if session.ended_at is not None:
                self._comes_to_rest(session)
            if session.claimed is None or not session.claimed.held:
                self._open_again(session, None)
        return Changed(existed=True)

    def _begun(self, session: KeptSession, if_busy: IfBusy) -> list[KeptRun]:
        """Return what an interrupt cancels in a session: what has begun and has not ended."""
        if if_busy not in INTERRUPTS:
            return []
        begun = [run for run in session.line.in_order() if run.lane == Lane.GIVEN_BACK and run.started_at is not None]
        if session.claimed is not None and not session.claimed.held:
            begun.append(session.claimed)
        return begun

    def _stop_all(self, runs: list[KeptRun], *, discard: bool = False) -> Stopped:
        """End those that wait, and note of those that execute that they can only end as cancelled."""
        ended: dict[RunId, Outcome] = {}
        asked: list[RunId] = []
        for run in runs:
            if run.status is RunStatus.QUEUED:
                question = self._sessions[run.new.key].answered_by(run)
                outcome, messages = cancelled(run.staged(), question=question)
                self._end_waiting(run, outcome, [encode_messages(each) for each in messages], discarded=discard)
                ended[run.new.run_id] = outcome
            else:
                run.cancel_requested = True
                run.discard = run.discard or discard
                asked.append(run.new.run_id)
        return Stopped(ended=ended, asked=asked)
