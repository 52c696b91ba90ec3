"""All journals against a list: for any requests in any order, they answer like the simplest model.

The model is a list of runs that is searched and sorted for every query. It shares no code with the journals. Requests
favour existing state: most tokens are valid, most named runs wait, and there are only two sessions, so that few steps
find a session that waits, executes, is held and is partly pruned.
"""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from strandline._history import close, close_answer, dismissed, fold
from strandline._journal.errors import CancelRequested, ClaimLost
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    Busy,
    Cancel,
    CancelSession,
    Changed,
    ClaimResult,
    Delete,
    Ended,
    EndOverdue,
    EndWaiting,
    HistoryQuery,
    Journal,
    Move,
    Pause,
    Refused,
    RestingQuery,
    Resume,
    Reused,
    RunQuery,
    SessionQuery,
    Stopped,
    Unanswerable,
)
from strandline._journal.sqlite import SqliteJournal
from strandline._model import (
    ANONYMOUS,
    WHOLE_HISTORY,
    Cancelled,
    Checkpoint,
    Claim,
    Completion,
    FencingToken,
    IfBusy,
    Inline,
    InputRequest,
    JoinedInput,
    JoinState,
    Keyed,
    Message,
    NewRun,
    OnQuestion,
    Outcome,
    Principal,
    Question,
    Range,
    RoundDone,
    RoundStarted,
    RunId,
    RunsJoined,
    RunStatus,
    SessionId,
    SessionKey,
    StateRecord,
    ToolDone,
    Window,
    responses,
)
from strandline.testing._desk import StillClock, waiting_runs

if TYPE_CHECKING:
    from postgres_support import SharedDatabase

T = TypeVar("T")

SESSIONS = [
    SessionKey(ANONYMOUS, SessionId("s1")),
    SessionKey(Principal("other"), SessionId("s1")),
]
MAX_ATTEMPTS = 2


@dataclass
class ModelRun:
    run_id: RunId
    key: SessionKey
    lane: int
    priority: int
    created_at: float
    queue_deadline: float | None
    status: str = "queued"
    attempt: int = 0
    begun: bool = False
    fence: int | None = None
    last: bool = False
    checkpoints: list[Checkpoint] = field(default_factory=list)
    ended_at: float | None = None
    held: bool = False
    discarded: bool = False
    cancelled: bool = False
    keyed: Keyed | None = None
    if_busy: IfBusy = IfBusy.ENQUEUE
    on_question: OnQuestion = OnQuestion.WAIT
    is_text: bool = True
    discard: bool = False
    resumable: bool = True
    host: "ModelRun | None" = None
    join: JoinState | None = None
    place: int = 0
    answers: list[str] = field(default_factory=list)

    @property
    def interrupts(self) -> bool:
        return self.if_busy in (IfBusy.INTERRUPT, IfBusy.ROLLBACK)

    @property
    def dismisses(self) -> bool:
        return self.interrupts or (self.lane == 3 and self.on_question is OnQuestion.DISMISS)


@dataclass
class ModelQuestion:
    question: Question
    asker: RunId
    until: float
    answer: RunId | None = None


@dataclass
class ModelSession:
    messages: list[tuple[Message, bool]] = field(default_factory=list)
    """Each with whether it was discarded."""
    window: Window = WHOLE_HISTORY
    state: StateRecord | None = None
    paused: bool = False
    closed_since: float | None = None
    question: ModelQuestion | None = None
    closed: dict[str, tuple[RunId, str]] = field(default_factory=dict)
    """What became of input requests, with the run that asked."""
    ended_at: float | None = None
    """When a run of it ended last, or a question was dismissed."""

    def waits_for(self) -> ModelQuestion | None:
        return self.question if self.question is not None and self.question.answer is None else None


class ListModel:
    """What a journal should do, over a list of runs in order of acceptance."""

    def __init__(self) -> None:
        self.runs: list[ModelRun] = []
        self.sessions: dict[SessionKey, ModelSession] = {}
        self.places = 0
        self.taken: list[ModelRun] = []
        """Runs whose claim is due, in order."""

    def waiting(self, key: SessionKey | None = None) -> list[ModelRun]:
        """The queue of a session in order of service, or all that waits in order of acceptance."""
        found = [run for run in self.runs if run.status == "queued" and key in (None, run.key)]
        if key is not None:  # sort is stable
            found = [run for run in found if run.host is None]
            found.sort(key=lambda run: run.lane == 3 and run.join is not JoinState.BECAME_NEXT_RUN)
            found.sort(key=lambda run: run.priority if run.lane == 3 else run.place if run.lane == 2 else 0)
            found.sort(key=lambda run: run.lane)
        return found

    def executing(self) -> list[ModelRun]:
        return [run for run in self.runs if run.status == "running" and run.host is None]

    def joining(self, host: ModelRun) -> list[ModelRun]:
        return [run for run in self.runs if run.host is host and run.ended_at is None]

    def all_waiting(self, key: SessionKey) -> list[ModelRun]:
        """What waits in a session, for its turn or to reach its host."""
        return [run for run in self.waiting() if run.key == key]

    def beside(self, key: SessionKey) -> list[ModelRun]:
        """The executing runs of those sessions that have the same owner."""
        return self.executing()

    def free(self, key: SessionKey) -> bool:
        session = self.sessions.get(key)
        paused = session is not None and session.paused
        return not paused and not self.claimed(key)

    def waits_for(self, key: SessionKey) -> ModelQuestion | None:
        session = self.sessions.get(key)
        return None if session is None else session.waits_for()

    def waits(self, key: SessionKey, now: float) -> bool:
        open_question = self.waits_for(key)
        return open_question is not None and now < open_question.until

    def claimed(self, key: SessionKey) -> bool:
        return any(run.key == key and run.host is None and (run.status == "running" or run.held) for run in self.runs)

    def holder(self, token: FencingToken) -> ModelRun | None:
        return next((run for run in self.runs if (run.run_id, run.fence) == token), None)

    def worker(self, token: FencingToken) -> ModelRun | None:
        run = self.holder(token)
        return None if run is None or run.held else run

    def start(self, run: ModelRun) -> None:
        run.status = "running"
        run.attempt += 1
        run.begun = True
        run.fence = -1  # learnt from the claim
        run.last = run.attempt > 1 and run.attempt >= MAX_ATTEMPTS
        self.taken.append(run)

    def accept(self, run: ModelRun, bounds: Bounds, claim_next: bool, now: float) -> AcceptAnswer:
        for other in reversed(self.runs):
            if run.keyed is None or other.keyed is None or (other.key, other.keyed.key) != (run.key, run.keyed.key):
                continue
            ended_at = None if self.rests_on(other) else other.ended_at
            if ended_at is None or ended_at >= run.keyed.ended_before:
                return Attached(other.run_id) if other.keyed.fingerprint == run.keyed.fingerprint else Reused()
            break
        line = self.waiting(run.key)
        open_question = self.waits_for(run.key)
        may = run.lane == 3 and run.on_question is OnQuestion.ANSWER and run.is_text
        became = may and open_question is not None and len(open_question.question.requests) == 1
        if became and open_question is not None:
            run.lane, run.answers = 1, [open_question.question.requests[0].id]
            run.if_busy = IfBusy.ENQUEUE if run.if_busy is IfBusy.STEER else run.if_busy
        if run.if_busy is IfBusy.STEER:
            hosts = [each for each in self.executing() if each.key == run.key and run.resumable]
            if hosts:
                return self._join(run, hosts[0], bounds)
            run.join = JoinState.BECAME_NEXT_RUN
        waits = self.waits(run.key, now) and not run.dismisses
        behind = not run.answers and (line or waits)
        if run.if_busy is IfBusy.REJECT and (behind or not self.free(run.key)):
            self.runs.append(run)
            run.place = self.places + 1
            position = self.waiting(run.key).index(run) + 1
            self.runs.remove(run)
            return Refused("session_busy", position)
        if (
            run.answers
            and (cannot := self.cannot_answer(run, None if open_question is None else open_question.question))
            is not None
        ):
            return cannot
        begun = [each for each in line if run.interrupts and each.lane == 0 and each.begun]
        for each in begun:
            each.status = "leaves"
        try:
            answer = self._enter(run, bounds, claim_next, now)
        finally:
            for each in begun:
                each.status = "queued"
        if not isinstance(answer, Accepted):
            return answer
        if not run.interrupts:
            return answer
        stopped = Stopped(ended={}, cancelling=[])
        others = [each for each in self.executing() if each.key == run.key and each is not run]
        for each in begun + others:
            done = self.cancel(each, now, discard=run.if_busy is IfBusy.ROLLBACK)
            assert isinstance(done, Stopped)
            stopped.ended.update(done.ended)
            stopped.cancelling.extend(done.cancelling)
        if begun or others:
            return replace(answer, stopped=stopped)
        return answer

    def cannot_answer(self, run: ModelRun, open_question: Question | None) -> Unanswerable | None:
        known = self.sessions[run.key].closed if run.key in self.sessions else {}
        wanted = [] if open_question is None else [each.id for each in open_question.requests]
        for each in run.answers:
            if each not in wanted:
                reason: Any = known[each][1] if each in known else "unknown"
                return Unanswerable(reason, [each])
        left = [each for each in wanted if each not in run.answers]
        return Unanswerable("incomplete", left) if left else None

    def _join(self, run: ModelRun, host: ModelRun, bounds: Bounds) -> AcceptAnswer:
        self.runs.append(run)
        self.places += 1
        run.place = self.places
        position = self.waiting(run.key).index(run) + 1
        if (refused := self._over(run, bounds, position, len(self.all_waiting(run.key)))) is not None:
            return refused
        run.host, run.join = host, JoinState.PENDING
        return Accepted(0, joined=host.run_id)

    def apply_joins(self, host: ModelRun, messages: list[Message]) -> list[JoinedInput]:
        pending = [] if host.cancelled else [run for run in self.joining(host) if run.join is JoinState.PENDING]
        for run in pending:
            run.status, run.join = "running", JoinState.APPLIED
        joined = [JoinedInput(run.run_id, "?" if run.is_text else [{"text": "?"}]) for run in pending]
        if joined:
            host.checkpoints.append(RunsJoined(messages, joined))
        return joined

    def end_joins(self, host: ModelRun, joined: Collection[RunId], now: float) -> list[RunId]:
        ended = []
        for run in self.joining(host):
            if run.join is JoinState.APPLIED and run.run_id in joined:
                run.status, run.ended_at, run.discarded = host.status, now, host.discarded
                ended.append(run.run_id)
            else:
                run.host, run.status, run.join = None, "queued", JoinState.BECAME_NEXT_RUN
        return ended

    def _enter(self, run: ModelRun, bounds: Bounds, claim_next: bool, now: float) -> AcceptAnswer:
        self.places += 1
        run.place = self.places
        self.runs.append(run)
        line = self.waiting(run.key)
        position = line.index(run) + 1
        open_question = self.waits_for(run.key)
        may_go = bool(run.answers) or run.dismisses or not self.waits(run.key, now)
        at_once = claim_next and position == 1 and self.free(run.key) and may_go
        length = len(self.all_waiting(run.key))
        if not at_once and not run.answers and (refused := self._over(run, bounds, position, length)) is not None:
            return refused
        session = self.sessions.setdefault(run.key, ModelSession())
        if session.question is not None and open_question is not None:
            if run.answers:
                session.question.answer = run.run_id
                run.status = "arrives"
                self.close_question(run.key, session.question, "answered", now)
                run.status = "queued"
            elif at_once or run.dismisses:
                run.status = "arrives"
                self.dismiss(run.key, now)
                run.status = "queued"
            elif run.queue_deadline is not None:
                run.queue_deadline += max(0.0, open_question.until - now)
        if at_once:
            self.start(run)
            return Accepted(0)
        return Accepted(position)

    def _over(self, run: ModelRun, bounds: Bounds, position: int, length: int) -> Refused | None:
        if length > bounds.per_session:
            self.runs.remove(run)
            return Refused("queue_full", position)
        own = sum(each.key.principal == run.key.principal for each in self.waiting())
        if bounds.per_principal is not None and own > bounds.per_principal:
            self.runs.remove(run)
            return Refused("principal_full", position)
        if len(self.waiting()) > bounds.total:
            self.runs.remove(run)
            return Refused("server_full", position)
        return None

    # -- questions --

    def ask(self, run: ModelRun, question: Question, until: float, now: float, hold: bool) -> None:
        """Time stands still for it in advance: what closes the session besides counts from the end of that."""
        session = self.sessions[run.key]
        session.question = ModelQuestion(question, run.run_id, until)
        if session.closed_since is not None:
            self.stood_since(run.key, session.closed_since, now)
        if session.closed_since is not None or hold:
            session.closed_since = until
        self.move_deadlines(run.key, max(0.0, until - now))

    def close_question(self, key: SessionKey, open_question: ModelQuestion, how: str, now: float) -> None:
        if any(run.run_id == open_question.asker for run in self.runs):
            for each in open_question.question.requests:
                self.sessions[key].closed[each.id] = (open_question.asker, how)
        self.move_deadlines(key, -max(0.0, open_question.until - now))
        session = self.sessions[key]
        if session.closed_since is not None:
            session.closed_since = min(session.closed_since, now)

    def move_deadlines(self, key: SessionKey, seconds: float) -> None:
        for run in self.all_waiting(key):
            if run.queue_deadline is not None:
                run.queue_deadline += seconds

    def dismiss(self, key: SessionKey, now: float, begun: bool = False) -> None:
        session = self.sessions[key]
        open_question, session.question = session.question, None
        assert open_question is not None
        if open_question.answer is None:
            self.close_question(key, open_question, "dismissed", now)
        session.messages += [(each, False) for each in dismissed(open_question.question, begun=begun)]
        session.ended_at = now

    def answered_by(self, run: ModelRun) -> Question | None:
        open_question = self.sessions[run.key].question
        return open_question.question if open_question is not None and open_question.answer == run.run_id else None

    def answer_ended(self, run: ModelRun, now: float, closed: bool, begun: bool) -> None:
        if self.answered_by(run) is None:
            return
        if closed:
            self.sessions[run.key].question = None
        else:
            self.dismiss(run.key, now, begun)

    def claim_next(self, key: SessionKey, now: float) -> ClaimResult:
        line = self.waiting(key)
        if not line or not self.free(key) or self.waits(key, now):
            return ClaimResult.NOTHING
        attempt = line[0].attempt + 1
        if attempt > 1 and attempt >= MAX_ATTEMPTS and any(run.last for run in self.beside(key)):
            return ClaimResult.BLOCKED
        if self.waits_for(key) is not None:
            self.dismiss(key, now)
        self.start(line[0])
        return ClaimResult.CLAIMED

    def finish(self, run: ModelRun, completion: Completion, claim_next: bool, hold: bool, now: float) -> ClaimResult:
        session = self.sessions[run.key]
        session.ended_at = now
        session.messages = session.messages + [(each, completion.discarded) for each in completion.messages]
        session.window = session.window if completion.window is None else completion.window
        session.state = session.state if completion.state is None else completion.state
        run.status, run.last, run.checkpoints, run.ended_at = completion.outcome.status.value, False, [], now
        run.discarded = completion.discarded
        self.end_joins(run, completion.joined, now)
        question = completion.question
        closed = question is not None or bool(completion.messages and not completion.discarded)
        self.answer_ended(run, now, closed, completion.discarded)
        if question is not None:
            self.ask(run, question, now + completion.answer_within_s, now, hold)
        if hold:
            run.held = True
            return ClaimResult.NOTHING
        run.fence = None
        return self.claim_next(run.key, now) if claim_next else ClaimResult.NOTHING

    def release(self, run: ModelRun, counted: bool, now: float) -> None:
        if run.held:
            self.end_hold(run, now)
        else:
            run.status, run.fence, run.last, run.lane = "queued", None, False, 0
            run.attempt -= 0 if counted else 1
            run.queue_deadline = None

    def end_hold(self, run: ModelRun, now: float) -> None:
        run.held, run.fence = False, None
        if not self.sessions[run.key].paused:
            self.open_again(run.key, run.ended_at, now)

    def open_again(self, key: SessionKey, held_since: float | None, now: float) -> None:
        session = self.sessions[key]
        since = held_since if session.closed_since is None else session.closed_since
        session.closed_since = None
        assert since is not None
        self.stood_since(key, since, now)

    def stood_since(self, key: SessionKey, since: float, now: float) -> None:
        for other in self.all_waiting(key):
            if other.queue_deadline is not None:
                other.queue_deadline += max(0.0, now - max(since, other.created_at))

    def held_since(self, key: SessionKey) -> float | None:
        return next((run.ended_at for run in self.runs if run.key == key and run.held), None)

    def pause(self, key: SessionKey, now: float) -> Changed:
        session = self.sessions.get(key)
        if session is None:
            return Changed(existed=False)
        if session.closed_since is None:
            held_since = self.held_since(key)
            open_question = self.waits_for(key)
            since = now if held_since is None else held_since
            session.closed_since = since if open_question is None else max(since, open_question.until)
        session.paused = True
        return Changed(existed=True)

    def resume(self, key: SessionKey, now: float) -> Changed:
        session = self.sessions.get(key)
        if session is None:
            return Changed(existed=False)
        was_paused, session.paused = session.paused, False
        if was_paused and session.ended_at is not None:
            session.ended_at = now  # (it is at rest from now on at the earliest)
        if was_paused and self.held_since(key) is None:
            self.open_again(key, None, now)
        return Changed(existed=True)

    def move(self, run: ModelRun, priority: int | None) -> Changed | Busy | Ended:
        if run.status != "queued" or run.begun:
            return Busy() if run.ended_at is None else Ended()
        if run.lane == 1:
            return Changed(existed=True)
        if priority is None:
            self.places += 1
            run.lane, run.place = 2, self.places
        else:
            run.lane, run.priority = 3, priority
        return Changed(existed=True)

    def end_waiting(self, key: SessionKey, run_id: RunId, status: RunStatus, now: float) -> Changed | Busy:
        run = next((run for run in self.runs if (run.run_id, run.key) == (run_id, key)), None)
        if run is None:
            return Changed(existed=False)
        if run.status != "queued" or run.begun:
            return Busy()
        self._end(run, status, now)
        return Changed(existed=True)

    def end_overdue(self, key: SessionKey, outcome: Outcome, now: float) -> Stopped:
        overdue: list[ModelRun] = []
        if key in self.sessions and not self.sessions[key].paused and self.held_since(key) is None:
            waiting = [run for run in self.runs if run.key == key and run.status == "queued"]
            overdue = [run for run in waiting if run.queue_deadline is not None and run.queue_deadline <= now]
        for run in overdue:
            self._end(run, outcome.status, now)
        return Stopped(ended={run.run_id: outcome for run in overdue}, cancelling=[])

    def _end(self, run: ModelRun, status: RunStatus, now: float) -> None:
        run.status, run.checkpoints, run.ended_at = status.value, [], now
        self.sessions[run.key].ended_at = now
        self.answer_ended(run, now, closed=False, begun=False)

    def cancel(self, run: ModelRun, now: float, discard: bool = False) -> Stopped | Ended | Busy:
        if run.ended_at is None and run.host is not None and run.join is JoinState.APPLIED:
            return Busy()
        if run.ended_at is not None:
            open_question = self.sessions[run.key].question
            if open_question is None or open_question.answer is not None or open_question.asker != run.run_id:
                return Ended()
            self.dismiss(run.key, now)
            return Stopped(ended={}, cancelling=[], dismissed=True)
        if run.status == "running":
            run.cancelled = True
            run.discard = run.discard or discard
            return Stopped(ended={}, cancelling=[run.run_id])
        question = self.answered_by(run)
        progress = fold(run.checkpoints, question)
        left = close(progress.messages, progress.results, Cancelled()) if progress.messages else []
        if question is not None:
            left = close_answer(progress.messages, progress.results, Cancelled(), begun=progress.begun)
        run.status, run.checkpoints, run.ended_at = "cancelled", [], now
        run.discarded = discard
        self.sessions[run.key].messages += [(each, discard) for each in left]
        self.sessions[run.key].ended_at = now
        joined = self.end_joins(run, progress.joined, now)
        self.answer_ended(run, now, closed=bool(left) and not discard, begun=discard)
        outcome = Outcome(status=RunStatus.CANCELLED, message=left[-1] if left else None)
        return Stopped(ended=dict.fromkeys([run.run_id, *joined], outcome), cancelling=[])

    def cancel_session(self, key: SessionKey, running: bool, now: float) -> Stopped | Changed:
        if key not in self.sessions:
            return Changed(existed=False)
        done = Stopped(ended={}, cancelling=[])
        pending = [run for run in self.all_waiting(key) if run.host is not None]
        executing = [run for run in self.executing() if running and run.key == key]
        for run in pending + self.waiting(key) + executing:
            each = self.cancel(run, now)
            assert isinstance(each, Stopped)
            done.ended.update(each.ended)
            done.cancelling.extend(each.cancelling)
        if running and self.waits_for(key) is not None:
            self.dismiss(key, now)
            return replace(done, dismissed=True)
        return done

    def rests_on(self, run: ModelRun) -> bool:
        """Return whether the question of a run is open."""
        session = self.sessions.get(run.key)
        return session is not None and session.question is not None and session.question.asker == run.run_id

    def prune(self, before: float, limit: int) -> list[ModelRun]:
        ended = [run for run in self.runs if run.ended_at is not None and run.ended_at < before and not run.held]
        old = [run for run in ended if not self.rests_on(run)]
        self.runs = [run for run in self.runs if run not in old[:limit]]
        for run in old[:limit]:
            known = self.sessions[run.key].closed
            self.sessions[run.key].closed = {each: how for each, how in known.items() if how[0] != run.run_id}
        return old[:limit]

    def rests(self, key: SessionKey, before: float) -> bool:
        """Return whether a session is at rest since before a moment."""
        session = self.sessions.get(key)
        if session is None or session.paused or session.question is not None or session.ended_at is None:
            return False
        return not self.waiting(key) and not self.claimed(key) and session.ended_at < before

    def delete(self, key: SessionKey, ended_before: float | None = None) -> Changed | Busy:
        if self.waiting(key) or self.claimed(key):
            return Busy()
        if ended_before is not None and key in self.sessions and not self.rests(key, ended_before):
            return Busy()
        self.runs = [run for run in self.runs if run.key != key]
        return Changed(existed=self.sessions.pop(key, None) is not None)


texts = st.sampled_from(["a", "b", "ü\n", "\x00"])
messages = st.lists(st.builds(lambda text: {"role": "user", "content": [{"text": text}]}, texts), max_size=3)
states = st.one_of(st.none(), st.dictionaries(texts, st.integers(0, 9), max_size=2))
checkpoints: st.SearchStrategy[Checkpoint] = st.one_of(
    st.builds(RoundStarted, messages),
    st.builds(lambda text: ToolDone(text, {"content": [{"image": text.encode()}]}), texts),
    st.builds(RoundDone, messages, states),
)
ranges = st.builds(Range, st.integers(0, 6), st.one_of(st.none(), st.integers(0, 8)))
inlines = st.builds(lambda text: Inline({"role": "user", "content": [{"text": text}]}), texts)
windows = st.one_of(st.none(), st.lists(st.one_of(ranges, inlines), max_size=3).map(tuple))
sessions = st.sampled_from(SESSIONS)
mostly = st.sampled_from([True, True, True, False])
bounds = st.sampled_from(
    [Bounds(5, 9)] * 4
    + [Bounds(each, total) for each, total in ((0, 0), (0, 9), (1, 1), (2, 3))]
    + [Bounds(5, 9, per_principal=most) for most in (0, 2)]
)
deadlines = st.sampled_from([0, 1, 3, None])
waits_s = st.sampled_from([0, 2, 6, 20])
requests = st.tuples(
    sessions,
    st.sampled_from([3, 3, 3, 2, 0]),
    st.sampled_from([3, 3, 1, 5]),
    mostly,
    st.booleans(),
    deadlines,
    st.sampled_from([None, None, b"k1", b"k2"]),
    st.sampled_from([IfBusy.ENQUEUE, IfBusy.ENQUEUE, *IfBusy]),
    st.sampled_from([OnQuestion.WAIT, OnQuestion.WAIT, *OnQuestion]),
)
Request = tuple[SessionKey, int, int, bool, bool, int | None, bytes | None, IfBusy, OnQuestion]
picks = st.integers(0, 11)
"""Which of those that there are. The last two may be of those that were."""
ends = st.sampled_from([status for status in RunStatus if status not in (RunStatus.QUEUED, RunStatus.RUNNING)])


class JournalMachine(RuleBasedStateMachine):
    """One journal and the model side by side; a claim is compared as soon as it is due."""

    def make(self) -> Journal:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.model = ListModel()
        self.clock = StillClock()
        self.made = 0
        self.tokens: list[FencingToken] = []
        self.requests: list[str] = []
        self.claims: list[Claim] = []
        self.come = asyncio.Event()
        self.consumer: asyncio.Task[None] | None = None
        self.journal = self.make()
        self.runner.run(self._open())

    async def _open(self) -> list[Claim]:
        orphans = await self.journal.open("machine", max_attempts=MAX_ATTEMPTS)
        feed = self.journal.claims()

        async def consume() -> None:
            async for claim in feed:
                self.claims.append(claim)
                self.come.set()

        self.consumer = asyncio.create_task(consume())
        await asyncio.sleep(0)
        return orphans

    async def _close(self) -> None:
        await self.journal.close()
        assert self.consumer is not None
        await self.consumer

    def teardown(self) -> None:
        self.runner.run(self._close())
        self.runner.close()
        shutil.rmtree(self.folder)
        assert self.claims == []

    def call(self, *operations: Awaitable[T]) -> list[T | BaseException]:
        """Await operations that are called at once, and let the consumer have what they made; then a second passes."""

        async def main() -> list[T | BaseException]:
            results = await asyncio.gather(*operations, return_exceptions=True)
            with suppress(TimeoutError):  # (then `_check_claims` finds missing ones; the next call finds extra ones)
                async with asyncio.timeout(30):
                    while len(self.claims) < len(self.model.taken):
                        self.come.clear()
                        await self.come.wait()
            return results

        results = self.runner.run(main())
        self._check_claims()
        self.clock.at += 1
        return results

    def _check_claims(self) -> None:
        assert [claim.run.run_id for claim in self.claims] == [run.run_id for run in self.model.taken]
        for claim, run in zip(self.claims, self.model.taken, strict=True):
            self._check_claim(claim, run)
        self.claims.clear()
        self.model.taken.clear()

    def _check_claim(self, claim: Claim, run: ModelRun) -> None:
        if run.status == "running":  # it may have ended again in the same burst
            run.fence = claim.token.fence
        assert all(claim.token.fence > token.fence for token in self.tokens)
        assert (claim.run.attempt, claim.run.lane, claim.run.key) == (run.attempt, run.lane, run.key)
        assert claim.run.queue_deadline == run.queue_deadline
        assert list(claim.checkpoints) == run.checkpoints
        if run.status == "running":
            assert claim.question == self.model.answered_by(run)
        self.tokens.append(claim.token)

    def _token(self, pick: int) -> FencingToken:
        good = [token for token in self.tokens if self.model.holder(token) is not None]
        if pick >= 10 or not good:
            return self.tokens[-1 - pick % len(self.tokens)]
        return good[pick % len(good)]

    def _named(self, pick: int) -> ModelRun:
        waiting = self.model.waiting()
        some = self.model.runs if pick >= 10 or not waiting else waiting
        return some[pick % len(some)]

    # -- requests ------------------------------------------------------------------------------------

    @rule(burst=st.lists(requests, min_size=1, max_size=3), bounds=bounds)
    def accept(self, burst: list[Request], bounds: Bounds) -> None:
        """Runs come, those of one session at once: of others the one goes first of which nothing has to be read."""
        for _, together in itertools.groupby(burst, key=lambda each: each[0]):
            self.accept_at_once(list(together), bounds)

    def accept_at_once(self, burst: list[Request], bounds: Bounds) -> None:
        operations: list[Awaitable[AcceptAnswer]] = []
        expected: list[AcceptAnswer] = []
        for key, lane, priority, claim_next, resumable, wait_s, text, if_busy, on_question in burst:
            if if_busy in (IfBusy.INTERRUPT, IfBusy.ROLLBACK):
                lane = 2
            self.made += 1
            run_id = RunId(f"r{self.made}")
            is_text = self.made % 4 > 0
            new = NewRun(
                run_id=run_id,
                key=key,
                input="?" if is_text else [{"text": "?"}],
                lane=lane,
                priority=priority,
                resumable=resumable,
                created_at=self.clock.at,
                if_busy=if_busy,
                on_question=on_question,
                keyed=None if text is None else Keyed("k", text, self.clock.at - 3),
                queue_deadline=None if wait_s is None else self.clock.at + wait_s,
            )
            run = ModelRun(
                run_id,
                key,
                lane,
                priority,
                new.created_at,
                new.queue_deadline,
                keyed=new.keyed,
                if_busy=if_busy,
                on_question=on_question,
                is_text=is_text,
                resumable=resumable,
            )
            operations.append(self.journal.accept(new, bounds, claim_next=claim_next))
            expected.append(self.model.accept(run, bounds, claim_next, self.clock.at))
        assert self.call(*operations) == expected

    @rule(key=sessions, behind=st.lists(requests, min_size=1, max_size=3), messages=messages, discarded=st.booleans())
    def hold(
        self,
        key: SessionKey,
        behind: list[Request],
        messages: list[Message],
        discarded: bool,
    ) -> None:
        """Have a session execute if it can, hold what does, and have others wait behind it."""
        self.accept([(key, 3, 1, True, False, None, None, IfBusy.ENQUEUE, OnQuestion.WAIT)], Bounds(9, 99))
        if self.model.free(key):
            self.claim_next(key)
        executing = next((run for run in self.model.executing() if run.key == key), None)
        if executing is not None:
            assert executing.fence is not None
            self._finish(
                FencingToken(executing.run_id, executing.fence),
                Completion(outcome=Outcome(status=RunStatus.SUCCEEDED), messages=messages, discarded=discarded),
                claim_next=False,
                hold=True,
            )
        self.accept([(key, *how) for _, *how in behind], Bounds(9, 99))

    @precondition(lambda self: self.model.waiting())
    @rule(key=sessions)
    def claim_next(self, key: SessionKey) -> None:
        expected = self.model.claim_next(key, self.clock.at)
        assert self.call(self.journal.claim_next(key)) == [expected]

    @precondition(lambda self: self.tokens)
    @rule(pick=picks, given=st.lists(checkpoints, min_size=1, max_size=4))
    def checkpoint(self, pick: int, given: list[Checkpoint]) -> None:
        token = self._token(pick)
        run = self.model.worker(token)
        if run is not None:
            run.checkpoints += given
        results = self.call(*(self.journal.checkpoint(token, checkpoint) for checkpoint in given))
        for checkpoint, result in zip(given, results, strict=True):
            if run is not None:
                assert result is None
            elif isinstance(checkpoint, RoundStarted):
                assert isinstance(result, ClaimLost)

    @precondition(lambda self: self.model.executing())
    @rule(key=sessions, given=messages, count=st.integers(1, 2), apply=mostly)
    def steer(self, key: SessionKey, given: list[Message], count: int, apply: bool) -> None:
        """Have runs join what executes, and mostly reach it."""
        how = (3, 3, True, True, None, None, IfBusy.STEER, OnQuestion.WAIT)
        self.accept_at_once([(key, *how)] * count, Bounds(9, 99))
        host = next((run for run in self.model.executing() if run.key == key), None)
        if host is not None and apply and host.fence is not None:
            expected = self.model.apply_joins(host, given)
            token = FencingToken(host.run_id, host.fence)
            assert self.call(self.journal.apply_joins(token, given)) == [expected]

    @precondition(lambda self: self.tokens)
    @rule(pick=picks, given=messages)
    def apply_joins(self, pick: int, given: list[Message]) -> None:
        token = self._token(pick)
        run = self.model.worker(token)
        expected = None if run is None else self.model.apply_joins(run, given)
        (result,) = self.call(self.journal.apply_joins(token, given))
        self._compare(result, expected)

    @precondition(lambda self: self.tokens)
    @rule(
        pick=picks,
        status=ends,
        messages=messages,
        window=windows,
        state=states,
        discarded=st.booleans(),
        claim_next=st.booleans(),
        hold=st.booleans(),
    )
    def finish(
        self,
        pick: int,
        status: RunStatus,
        messages: list[Message],
        window: Window | None,
        state: StateRecord | None,
        discarded: bool,
        claim_next: bool,
        hold: bool,
    ) -> None:
        completion = Completion(
            outcome=Outcome(status=status), messages=messages, window=window, state=state, discarded=discarded
        )
        self._finish(self._token(pick), completion, claim_next, hold)

    def _finish(self, token: FencingToken, completion: Completion, claim_next: bool, hold: bool) -> None:
        run = self.model.worker(token)
        expected: ClaimResult | None = None
        wrong = completion.outcome.status is not RunStatus.CANCELLED
        if run is not None and run.cancelled and (wrong or completion.discarded < run.discard):
            results = self.call(self.journal.finish(token, completion, claim_next=claim_next, hold=hold))
            assert [type(result) for result in results] == [CancelRequested]
            discarded = completion.discarded or run.discard
            completion = replace(completion, outcome=Outcome(status=RunStatus.CANCELLED), discarded=discarded)
        if run is not None:
            joined = [each.run_id for each in self.model.joining(run) if each.join is JoinState.APPLIED]
            completion = replace(completion, joined=tuple(joined[self.made % 3 == 0 :]))  # one may be on its way
            expected = self.model.finish(run, completion, claim_next, hold, self.clock.at)
        (result,) = self.call(self.journal.finish(token, completion, claim_next=claim_next, hold=hold))
        self._compare(result, expected)

    @rule(key=sessions, count=st.sampled_from([1, 2]), wait_s=waits_s, hold=st.sampled_from([False, False, True]))
    def ask(self, key: SessionKey, count: int, wait_s: int, hold: bool) -> None:
        """Have what executes in a session, or else a run that comes, end with a question."""
        if not self.model.claimed(key):
            self.accept([(key, 3, 1, True, False, None, None, IfBusy.ENQUEUE, OnQuestion.WAIT)], Bounds(9, 99))
        executing = next((run for run in self.model.executing() if run.key == key), None)
        if executing is None or executing.cancelled:
            return
        assert executing.fence is not None
        before = self.model.answered_by(executing)
        self.made += 1
        ids = [f"t{self.made}.{n}" for n in range(count + 1)]
        message: Message = {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": each, "name": "pay", "input": {}}} for each in ids],
        }
        sibling = {"toolUseId": ids[-1], "status": "success", "content": [{"text": "done"}]}
        messages: list[Message] = [{"role": "user", "content": [{"text": "?"}]}, message]
        if before is not None and count == 1:  # of the same round
            message, messages = before.message, []
        requests = [InputRequest(each, "sure", self.made) for each in ids[:-1]]
        question = Question(
            requests=requests,
            message=message,
            results={ids[-1]: sibling},
            state={"n": self.made},
        )
        self.requests += [each.id for each in requests]
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
        completion = Completion(outcome=outcome, messages=messages, question=question, answer_within_s=wait_s)
        self._finish(FencingToken(executing.run_id, executing.fence), completion, claim_next=False, hold=hold)

    @precondition(lambda self: self.requests)
    @rule(
        key=sessions,
        how=st.sampled_from(["right"] * 4 + ["part", "more", "old"]),
        claim_next=mostly,
        pick=picks,
        bounds=bounds,
    )
    def answer(self, key: SessionKey, how: str, claim_next: bool, pick: int, bounds: Bounds) -> None:
        open_ = self.model.waits_for(key)
        answers = [] if open_ is None else [each.id for each in open_.question.requests]
        match how:
            case "part":
                answers = answers[1:]
            case "more":
                answers = [*answers, "nobody's"]
            case "old":
                answers = []
        if not answers:
            answers = [self.requests[pick % len(self.requests)]]
        self.made += 1
        new = NewRun(
            run_id=RunId(f"r{self.made}"),
            key=key,
            input=responses(dict.fromkeys(answers, "yes")),
            lane=1,
            created_at=self.clock.at,
            queue_deadline=self.clock.at + 5,
        )
        run = ModelRun(new.run_id, key, 1, new.priority, new.created_at, new.queue_deadline, answers=answers)
        expected = self.model.accept(run, bounds, claim_next, self.clock.at)
        assert self.call(self.journal.accept(new, bounds, claim_next=claim_next)) == [expected]

    @precondition(lambda self: any(session.waits_for() for session in self.model.sessions.values()))
    @rule(key=sessions)
    def take_back(self, key: SessionKey) -> None:
        """Cancel the run that has asked, if it is still known."""
        session = self.model.sessions.get(key)
        if session is None or session.question is None:
            return
        open_question = session.question
        asker = next((run for run in self.model.runs if run.run_id == open_question.asker), None)
        if asker is not None:
            expected = self.model.cancel(asker, self.clock.at)
            assert self.call(self.journal.change(Cancel(key.principal, asker.run_id))) == [expected]

    @precondition(lambda self: self.tokens)
    @rule(pick=picks, counted=st.booleans())
    def release(self, pick: int, counted: bool) -> None:
        token = self._token(pick)
        run = self.model.holder(token)
        if run is not None and run.cancelled and not run.held:
            (result,) = self.call(self.journal.release(token, counted=counted))
            assert isinstance(result, CancelRequested)
            return
        if run is not None:
            self.model.release(run, counted, self.clock.at)
        (result,) = self.call(self.journal.release(token, counted=counted))
        assert isinstance(result, ClaimLost) if run is None else result is None

    def _compare(self, result: object, expected: object) -> None:
        if expected is None:
            assert isinstance(result, ClaimLost)
        else:
            assert result == expected

    @precondition(lambda self: self.model.sessions)
    @rule(key=sessions)
    def delete(self, key: SessionKey) -> None:
        expected = self.model.delete(key)
        assert self.call(self.journal.change(Delete(key))) == [expected]

    @precondition(lambda self: self.model.sessions)
    @rule(key=sessions, age_s=st.sampled_from([0, 0, 1, 3]))
    def delete_at_rest(self, key: SessionKey, age_s: int) -> None:
        before = self.clock.at - age_s
        expected = self.model.delete(key, before)
        assert self.call(self.journal.change(Delete(key, before))) == [expected]

    @precondition(lambda self: self.model.runs)
    @rule(
        pick=picks,
        key=sessions,
        status=st.sampled_from([RunStatus.FAILED, RunStatus.CANCELLED]),
    )
    def end_waiting(self, pick: int, key: SessionKey, status: RunStatus) -> None:
        run = self._named(pick)
        for each in {key, run.key}:
            expected = self.model.end_waiting(each, run.run_id, status, self.clock.at)
            change = EndWaiting(each, run.run_id, Outcome(status=status))
            assert self.call(self.journal.change(change)) == [expected]

    @rule(key=sessions, later_s=st.sampled_from([0.0, 5.0, 5.0]))
    def end_overdue(self, key: SessionKey, later_s: float) -> None:
        self.clock.at += later_s
        outcome = Outcome(status=RunStatus.FAILED)
        due = self.journal.sessions.due(self.clock.at)
        expected = self.model.end_overdue(key, outcome, self.clock.at)
        assert not expected.ended or key in due or later_s == 0.0, "it did not learn that runs are due"
        assert self.call(self.journal.change(EndOverdue(key, outcome))) == [expected]

    @precondition(lambda self: self.model.runs)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        run = self._named(pick)
        expected = self.model.cancel(run, self.clock.at)
        assert self.call(self.journal.change(Cancel(run.key.principal, run.run_id))) == [expected]

    @precondition(lambda self: self.model.executing())
    @rule(pick=picks)
    def cancel_executing(self, pick: int) -> None:
        executing = self.model.executing()
        run = executing[pick % len(executing)]
        expected = self.model.cancel(run, self.clock.at)
        assert self.call(self.journal.change(Cancel(run.key.principal, run.run_id))) == [expected]

    @precondition(lambda self: self.model.sessions)
    @rule(key=sessions, running=st.booleans())
    def cancel_session(self, key: SessionKey, running: bool) -> None:
        expected = self.model.cancel_session(key, running, self.clock.at)
        assert self.call(self.journal.change(CancelSession(key, running))) == [expected]

    @precondition(lambda self: self.model.sessions)
    @rule(key=sessions)
    def pause(self, key: SessionKey) -> None:
        expected = self.model.pause(key, self.clock.at)
        assert self.call(self.journal.change(Pause(key))) == [expected]

    @precondition(lambda self: any(session.closed_since is not None for session in self.model.sessions.values()))
    @rule(key=sessions, both=mostly)
    def resume(self, key: SessionKey, both: bool) -> None:
        for each in SESSIONS if both else [key]:
            expected = self.model.resume(each, self.clock.at)
            assert self.call(self.journal.change(Resume(each))) == [expected]

    @precondition(lambda self: self.model.runs)
    @rule(pick=picks, priority=st.sampled_from([None, 1, 3, 5]))
    def move(self, pick: int, priority: int | None) -> None:
        run = self._named(pick)
        expected = self.model.move(run, priority)
        assert self.call(self.journal.change(Move(run.key.principal, run.run_id, priority))) == [expected]

    @precondition(lambda self: any(run.ended_at is not None for run in self.model.runs))
    @rule(age_s=st.sampled_from([0, 0, 1, 3]), limit=st.sampled_from([9, 1, 0]))
    def prune(self, age_s: int, limit: int) -> None:
        before = self.clock.at - age_s
        forgotten = self.model.prune(before, limit)
        assert self.call(self.journal.prune(before, limit)) == [len(forgotten)]
        queries = (self.journal.read(RunQuery(run.key.principal, run.run_id)) for run in forgotten)
        assert self.call(*queries) == [None] * len(forgotten)

    @rule()
    def restart(self) -> None:
        self.runner.run(self._close())
        self.journal = self.make()
        orphans = self.runner.run(self._open())
        for run in self.model.runs:
            if run.held:
                self.model.end_hold(run, self.clock.at)
        executing = self.model.executing()
        assert [orphan.run.run_id for orphan in orphans] == [run.run_id for run in executing]
        for orphan, run in zip(orphans, executing, strict=True):
            self._check_claim(orphan, run)

    # -- what can be seen -----------------------------------------------------------------------------

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        self.runner.run(self._compare_all())

    async def _compare_all(self) -> None:
        sessions, now = self.journal.sessions, self.clock.at
        waiting = await waiting_runs(self.journal)
        assert [(each.run_id, each.queue_deadline, sessions.is_paused(each.key)) for each in waiting] == [
            (run.run_id, run.queue_deadline, self.model.sessions[run.key].paused) for run in self.model.waiting()
        ]
        # Those that ended long ago were compared before; a change of them would be one of all.
        for run in [run for run in self.model.runs if run.ended_at is None or run.held] + self.model.runs[-4:]:
            found = await self.journal.read(RunQuery(run.key.principal, run.run_id))
            assert found is not None
            line = self.model.waiting(run.key)
            position = line.index(run) + 1 if run in line else None
            assert (found.status, found.attempt, found.position) == (run.status, run.attempt, position)
            assert (found.held, found.discarded, found.ended_at) == (run.held, run.discarded, run.ended_at)
            assert (found.cancel_requested, found.discard, found.if_busy) == (run.cancelled, run.discard, run.if_busy)
            assert (found.join, found.joined) == (run.join, None if run.host is None else run.host.run_id)
        page = await self.journal.read(RestingQuery(self.clock.at, limit=1))
        resting = page.keys
        while page.after is not None:
            page = await self.journal.read(RestingQuery(self.clock.at, page.after, limit=1))
            resting += page.keys
        assert sorted(resting) == sorted(key for key in SESSIONS if self.model.rests(key, self.clock.at))
        for key in SESSIONS:
            session = self.model.sessions.get(key, ModelSession())
            view = await self.journal.read(SessionQuery(key))
            assert (view is not None and view.paused) == session.paused
            open_question = session.waits_for()
            if view is not None:
                wanted = ([], None) if open_question is None else (open_question.question.requests, open_question.until)
                assert (view.input_requests, view.input_until) == wanted
            until = (
                None
                if open_question is None or not self.model.waiting(key) or open_question.until <= now
                else open_question.until
            )
            assert sessions.input_until(key, now) == until
            for hidden in (False, True):
                said = await self.journal.read(HistoryQuery(key, limit=1000, discarded=hidden))
                assert said.messages == [message for message, dropped in session.messages if hidden or not dropped]
                assert said.pending == (session.question is not None and bool(said.messages))
            record = await self.journal.load(key)
            assert (record.window, record.state, record.length) == (
                session.window,
                session.state,
                len(session.messages),
            )
            assert list(zip(record.messages, record.origins, strict=True)) == _seen(session)


def _seen(session: ModelSession) -> list[tuple[Message, int | None]]:
    seen: list[tuple[Message, int | None]] = []
    for part in session.window:
        if isinstance(part, Inline):
            seen.append((part.message, None))
        else:
            end = len(session.messages) if part.end is None else part.end
            seen += [
                (message, n)
                for n, (message, dropped) in enumerate(session.messages)
                if part.start <= n < end and not dropped
            ]
    return seen


class MemoryMachine(JournalMachine):
    kept: MemoryJournal | None = None

    def make(self) -> Journal:
        self.kept = self.kept or MemoryJournal(self.clock)
        return self.kept


class SqliteMachine(JournalMachine):
    def make(self) -> Journal:
        return SqliteJournal(self.folder / "journal.db", self.clock)


class PostgresMachine(JournalMachine):
    shared: "SharedDatabase"
    database: str | None = None

    def make(self) -> Journal:
        from strandline._journal.postgres.journal import PostgresJournal

        self.database = self.database or self.shared.again()
        return PostgresJournal(self.database, self.clock)


@pytest.fixture(scope="class")
def _shared_database(shared_database: "SharedDatabase") -> None:
    PostgresMachine.shared = shared_database


TestMemoryMachine: Any = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSqliteMachine: Any = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

TestPostgresMachine: Any = pytest.mark.usefixtures("_shared_database")(PostgresMachine.TestCase)
TestPostgresMachine.settings = settings(
    max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
