"""The store of the memory journal: rows in dictionaries, written as the session table says, and what it asks for.

Whoever calls it holds the journal's lock. It decides nothing.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Any, Final

import msgspec

from strandline.journal.changes import (
    AddCheckpoint,
    AddHistory,
    AddQuestion,
    AddRun,
    AddSession,
    AnswerQuestion,
    Change,
    ChangeRun,
    ChangeSession,
    CloseRequest,
    DropCheckpoints,
    DropQuestion,
    DropSession,
    EndHold,
    EndRun,
    ForgetKey,
    KeepAgent,
    SessionRef,
)
from strandline.journal.kept import KeptQuestion, KeptRun, KeptSession
from strandline.journal.records import KeyedRun, KnownRun, StoredQuestion, StoredRun
from strandline.journal.rules import Closed, drawn
from strandline.journal.state import HistoryEnd, OpenRound, RunState, SessionState
from strandline.model import Lane, Principal, RunId, SessionKey

_raw: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class MemoryStore:
    """Runs and sessions. Implements `records.Records`."""

    def __init__(self) -> None:
        self.sessions: dict[SessionKey, KeptSession] = {}
        self.runs: dict[RunId, KeptRun] = {}
        """In order of sequence."""
        self.waiting: dict[int, KeptRun] = {}
        self.bytes_of: Counter[Principal] = Counter()
        """How many bytes are kept for each principal."""
        self.by_end: OrderedDict[SessionKey, int] = OrderedDict()
        """The sessions in which something has ended, the one that is at rest for longest first, each with a number."""
        self._ends = 0
        self._by_no: dict[int, KeptSession] = {}
        self._by_seq: dict[int, KeptRun] = {}
        self.next_no = 1
        self.next_seq = 0
        self.next_row = 1
        self._writers: Final[dict[type[Change], Callable[[Any], None]]] = {
            AddSession: self._add_session,
            ChangeSession: self._change_session,
            DropSession: self._drop_session,
            AddRun: self._add_run,
            ChangeRun: self._change_run,
            EndRun: self._end_run,
            EndHold: self._end_hold,
            AddHistory: self._add_history,
            KeepAgent: self._keep_agent,
            AddCheckpoint: self._add_checkpoint,
            DropCheckpoints: self._drop_checkpoints,
            ForgetKey: self._forget_key,
            AddQuestion: self._add_question,
            AnswerQuestion: self._answer_question,
            DropQuestion: self._drop_question,
            CloseRequest: self._close_request,
        }

    # -- rows are written -----------------------------------------------------------------------------

    def write(self, changes: Iterable[Change]) -> None:
        """Keep what the session table has decided."""
        for change in changes:
            self._writers[type(change)](change)

    def _of(self, ref: SessionRef) -> KeptSession:
        return self._by_no[ref.no]

    def _add_session(self, row: AddSession) -> None:
        ref = row.session
        self.sessions[ref.key] = self._by_no[ref.no] = KeptSession(ref)
        self.next_no = ref.no + 1

    def _change_session(self, row: ChangeSession) -> None:
        session = self._by_no[row.no]
        session.paused, session.closed_since = row.paused, row.closed_since
        if row.rests_since is not None and row.rests_since != session.rests_since:
            self._rest(session, row.rests_since)

    def _rest(self, session: KeptSession, since: float) -> None:
        session.rests_since = since
        self._ends += 1
        self.by_end[session.ref.key] = self._ends
        self.by_end.move_to_end(session.ref.key)

    def _drop_session(self, row: DropSession) -> None:
        key = row.session.key
        session = self.sessions.pop(key)
        del self._by_no[session.ref.no]
        self.by_end.pop(key, None)
        kept = session.stored + sum(map(len, session.history)) + sum(run.body.size for run in session.runs.values())
        self.bytes_of[key.principal] -= kept
        for run in session.runs.values():
            del self.runs[run.run_id]
            del self._by_seq[run.seq]

    def _add_run(self, row: AddRun) -> None:
        run, session = KeptRun(row), self._of(row.session)
        self.runs[run.run_id] = self._by_seq[run.seq] = session.runs[run.seq] = run
        self.next_seq = row.seq + 1
        self.bytes_of[run.session.key.principal] += run.body.size
        if run.keyed is not None:
            session.keys[run.keyed.key] = run
        self._place(session, run)

    def _place(self, session: KeptSession, run: KeptRun) -> None:
        """Have a run be among those that wait, or the claimed one."""
        if run.fence is None:
            self.waiting[run.seq] = session.waiting[run.seq] = run
            session.claimed = None if session.claimed is run else session.claimed
        else:
            self._leave(session, run)
            session.claimed = run

    def _leave(self, session: KeptSession, run: KeptRun) -> None:
        if run.seq in session.waiting:
            del self.waiting[run.seq], session.waiting[run.seq]

    def _change_run(self, row: ChangeRun) -> None:
        run = self._by_seq[row.seq]
        run.change(row)
        if run.lane == Lane.FRONT:
            self.next_seq = max(self.next_seq, row.urgency - drawn(0) + 1)
        self._place(self._of(run.session), run)

    def _end_run(self, row: EndRun) -> None:
        run, session = self._by_seq[row.seq], self._of(row.session)
        run.end(row)
        session.ended.append(run.seq)
        self._leave(session, run)
        if row.fence is None and session.claimed is run:
            session.claimed = None

    def _end_hold(self, row: EndHold) -> None:
        run = self._by_seq[row.seq]
        run.fence = None
        self._of(run.session).claimed = None

    def _add_history(self, row: AddHistory) -> None:
        session = self._of(row.session)
        if row.messages is not None:
            messages = [bytes(each) for each in _raw(row.messages)]
            self.bytes_of[row.session.key.principal] += sum(map(len, messages))
            session.history += messages
        if row.discarded:
            session.discarded.update(range(row.first, row.first + row.length))
        session.last, session.rows = row.row, row.nth
        self.next_row = row.row + 1
        self._rest(session, row.rests_since)

    def _keep_agent(self, row: KeepAgent) -> None:
        session = self._of(row.session)
        before = session.stored
        session.window = row.window or session.window
        session.state = row.state or session.state
        self.bytes_of[row.session.key.principal] += session.stored - before

    def _add_checkpoint(self, row: AddCheckpoint) -> None:
        self._by_seq[row.seq].facts.append(row.fact)

    def _drop_checkpoints(self, row: DropCheckpoints) -> None:
        self._by_seq[row.seq].facts.clear()

    def _forget_key(self, row: ForgetKey) -> None:
        run = self._by_seq[row.seq]
        self._of(run.session).forget_key(run)

    def _add_question(self, row: AddQuestion) -> None:
        self._of(row.session).question = KeptQuestion(row)

    def _answer_question(self, row: AnswerQuestion) -> None:
        question = self._by_no[row.no].question
        assert question is not None
        question.answer = row.answer

    def _drop_question(self, row: DropQuestion) -> None:
        self._by_no[row.no].question = None

    def _close_request(self, row: CloseRequest) -> None:
        self._by_no[row.no].closed[row.id] = (row.run, row.closed)

    # -- ended runs are forgotten ---------------------------------------------------------------------

    def prune(self, before: float, limit: int, now: float) -> int:
        """Forget up to `limit` runs that ended before `before`, in order of acceptance; return how many.

        In order of sequence, so the walk ends at the first that was accepted too late to have ended before; one that
        was accepted after now, by a clock that was wrong, keeps none that came after it.
        """
        accepted = takewhile(lambda run: not before <= run.created_at <= now, self.runs.values())
        old = list(islice((run for run in accepted if self._is_past(run, before)), limit))
        for run in old:
            del self.runs[run.run_id]
            del self._by_seq[run.seq]
            self._of(run.session).forget(run)
            self.bytes_of[run.session.key.principal] -= run.body.size
        return len(old)

    def _is_past(self, run: KeptRun, before: float) -> bool:
        """Tell whether a run had ended before that moment, and nothing rests on it: no hold, and no open question."""
        if run.ended_at is None or run.ended_at >= before or run.held:
            return False
        question = self._of(run.session).question
        return question is None or question.run != run.seq

    # -- what the session table asks for --------------------------------------------------------------

    def busy_sessions(self) -> Iterator[SessionState]:
        """Yield every session in which runs wait or are claimed."""
        for session in self.sessions.values():
            if session.waiting or session.claimed is not None:
                yield self._state(session)

    def session(self, key: SessionKey) -> SessionState | None:
        """Return a session, None if there is none."""
        session = self.sessions.get(key)
        return None if session is None else self._state(session)

    def _state(self, kept: KeptSession) -> SessionState:
        ref = kept.ref
        state = SessionState(
            ref,
            HistoryEnd(kept.last, kept.rows, len(kept.history)),
            paused=kept.paused,
            closed_since=kept.closed_since,
            rests_since=kept.rests_since,
        )
        if (asked := kept.question) is not None:
            state.round = OpenRound(asked.run, asked.until, asked.answer)
        for run in kept.waiting.values():
            state.queue.add(_run_state(state, run))
        if kept.claimed is not None:
            state.claimed = _run_state(state, kept.claimed)
        return state

    def known_run(self, run_id: RunId) -> KnownRun | None:
        """Return a run, None if it is not kept."""
        run = self.runs.get(run_id)
        return None if run is None else KnownRun(run.session.key, run.seq)

    def keyed_run(self, session: SessionRef, key: str) -> KeyedRun | None:
        """Return the run that an idempotency key stands for."""
        run = self.sessions[session.key].keys.get(key)
        if run is None or run.keyed is None:
            return None
        return KeyedRun(run.run_id, run.seq, run.ended_at, run.keyed.fingerprint)

    def run(self, session: SessionRef, seq: int) -> StoredRun:
        """Return a run with its input and checkpoints."""
        run = self._by_seq[seq]
        return StoredRun(run.shown(None), run.staged())

    def question(self, session: SessionRef, run: int, until: float) -> StoredQuestion:
        """Return the question whose round is open."""
        question = self.sessions[session.key].question
        assert question is not None
        return StoredQuestion(question.decoded())

    def closed_request(self, session: SessionRef, request: str) -> Closed | None:
        """Return what became of an input request."""
        known = self.sessions[session.key].closed.get(request)
        return None if known is None else known[1]

    def stored_bytes(self, principal: Principal) -> int:
        """Return how many bytes are kept for a principal."""
        return self.bytes_of[principal]

    def look_for_room(self) -> None:
        """There is always room."""


def _run_state(session: SessionState, kept: KeptRun) -> RunState:
    run = RunState(
        session,
        kept.run_id,
        kept.seq,
        *kept.rank[:2],
        created_at=kept.created_at,
        queue_deadline=kept.queue_deadline,
        attempt=kept.attempt,
        started_at=kept.started_at,
        moved=kept.moved,
        checkpoints=len(kept.facts),
    )
    run.fence = kept.fence
    run.held_since = kept.ended_at
    run.cancel_requested, run.discard = kept.cancel_requested, kept.discard
    return run
