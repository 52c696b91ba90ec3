"""The session table over a store that loses commits: what lives in memory is what is stored, and nothing is half done.

Operations come in a hostile order, alone or several to a commit; commits fail with their rows written or not, records
turn out damaged, owners change. After each operation the live table is compared with one that is made anew from what is
stored, and the rows, read by `tests/stored_rows.py`, are judged by rules that share no code with the table or with the
journal's own reading. `BREAKAGES` shows that each rule can fail.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from stored_rows import SeenRun, StoredRows
from strandline._encoding import encode_messages
from strandline._journal import accepting, live, table
from strandline._journal.changes import AddCheckpoint, SessionRef, encode_completion, encoded_body
from strandline._journal.errors import CancelRequested, ClaimLost
from strandline._journal.numbers import Counted
from strandline._journal.port import (
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
    Move,
    Pause,
    Refused,
    Resume,
    Reused,
    Stopped,
    Unanswerable,
)
from strandline._journal.port import Change as AnyChange
from strandline._journal.records import Missing, StoredQuestion, StoredRun
from strandline._journal.state import RunState, SessionState
from strandline._journal.table import Batch, SessionTable
from strandline._model import (
    ANONYMOUS,
    Claim,
    Completion,
    FencingToken,
    IfBusy,
    InputRequest,
    Keyed,
    Message,
    NewRun,
    OnQuestion,
    Outcome,
    Principal,
    Question,
    Range,
    RoundStarted,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
    StateRecord,
    responses,
)
from strandline.errors import JournalUnavailable

SESSIONS: Final = [
    SessionKey(ANONYMOUS, SessionId("s1")),
    SessionKey(ANONYMOUS, SessionId("s2")),
    SessionKey(Principal("other"), SessionId("s1")),
    SessionKey(Principal("other"), SessionId("s2")),
]
MAX_ATTEMPTS: Final = 2
INTERRUPTING: Final = (IfBusy.INTERRUPT, IfBusy.ROLLBACK)

sessions = st.sampled_from([*SESSIONS, *SESSIONS[:1] * 4])
mostly = st.sampled_from([True, True, True, False])
NARROW: Final = [Bounds(1, 99), Bounds(9, 2), Bounds(9, 99, 1), Bounds(9, 9, 9, 60)]
picks = st.integers(0, 50)
STORED, UNWRITTEN, LOST = "stored", "never written", "written and lost"
fates = st.sampled_from([STORED, STORED, STORED, UNWRITTEN, LOST])


class FaultyStore(StoredRows):
    """A store in which records are damaged: those runs and questions cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[int] = set()
        """The sequences of those runs, and of the runs that have asked those questions."""

    def run(self, session: SessionRef, seq: int) -> StoredRun:
        stored = super().run(session, seq)
        if seq in self.damaged:
            return StoredRun(replace(stored.run, input="?", resumable=False), (), JournalUnavailable("damaged"))
        return stored

    def question(self, session: SessionRef, run: int, until: float) -> StoredQuestion:
        if run not in self.damaged:
            return super().question(session, run, until)
        last = msgspec.json.decode(self.sessions[session.key].history[-1])
        left = Question(requests=[], message=last, results={}, state={})
        return StoredQuestion(left, JournalUnavailable("damaged"))


# -- a table, as values ---------------------------------------------------------------------------------


def picture_of_run(run: RunState) -> dict[str, object]:
    hidden = ("session", "new", "due", "host", "host_id")
    shown = {name: getattr(run, name) for name in RunState.__struct_fields__ if name not in hidden}
    return shown | {"host": run.host and run.host.run_id}


def picture(table: SessionTable, keys: list[SessionKey]) -> dict[str, object]:
    """Return everything that decisions of a table rest on, as far as these sessions are concerned."""
    found = {key: table._find(key) for key in keys}
    shown: dict[SessionKey, dict[str, object] | None] = {}
    for key, session in found.items():
        if session is None:
            shown[key] = None
            continue
        of_it: dict[str, object] = {name: getattr(session, name) for name in ("ref", "end", "paused")}
        of_it |= {name: getattr(session, name) for name in ("closed_since", "rests_since")}
        of_it["round"] = session.round and (session.round.run, session.round.until, session.round.answer)
        of_it["queue"] = [picture_of_run(run) for run in session.queue]
        of_it["ranks"] = [session.queue.ahead(run.rank) for run in session.queue]
        of_it["joining"] = [picture_of_run(run) for run in session.joining]
        of_it["claimed"] = session.claimed and picture_of_run(session.claimed)
        shown[key] = of_it
    return {
        "sessions": shown,
        "runs": {run_id: (run.session.key, run.seq) for run_id, run in table._runs.items()},
        "waiting": table.waiting,
        "waiting of": +table._waiting_of,
        "last attempts": set(table._last_attempts),
    }


def restored(store: FaultyStore) -> SessionTable:
    no, seq, row = store.next_numbers()
    return SessionTable.of(store, max_attempts=MAX_ATTEMPTS, numbers=Counted(no, seq, row))


# -- what a client sees, and the rules for it ----------------------------------------------------------


@dataclass
class ClientView:
    """What a client knows that got every answer. Nothing that was not stored is answered."""

    lanes: dict[RunId, int] = field(default_factory=dict)
    urgencies: dict[RunId, int] = field(default_factory=dict)
    arrivals: list[RunId] = field(default_factory=list)
    steering: set[RunId] = field(default_factory=set)
    """Those that came to join what executes; a turn of their own is before others of their priority."""
    places: int = 0
    """How many places in the front lane were drawn."""
    cancelled: set[RunId] = field(default_factory=set)
    tokens: list[FencingToken] = field(default_factory=list)
    claimed: dict[RunId, FencingToken] = field(default_factory=dict)
    ends: dict[RunId, tuple[RunStatus, bytes]] = field(default_factory=dict)
    histories: dict[SessionKey, list[bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    pruned: int = -1
    """The highest sequence of a run that was pruned."""

    def rank(self, run_id: RunId) -> tuple[int, int, bool, int]:
        lane = self.lanes[run_id]
        goes_first = lane == 3 and run_id in self.steering
        return (lane, self.urgencies[run_id], not goes_first, self.arrivals.index(run_id))

    def wait_in(self, run_id: RunId, lane: int, priority: int) -> None:
        """Note that a run waits in a lane from now on."""
        self.places += 1
        self.lanes[run_id] = lane
        self.urgencies[run_id] = {2: self.places, 3: priority}.get(lane, 0)


Operation = Callable[[], object]


def _repeatable(claims: list[Claim]) -> list[object]:
    """Return claims as they are made again: with other fences, and later sequences of runs that are accepted."""
    return [(replace(claim.run, sequence=0), claim.checkpoints, claim.question) for claim in claims]


def _completion(how: RunStatus, said: int, *, discarded: bool, n: int) -> Completion:
    said_of_it: list[Message] = [{"role": "user", "content": [{"text": f"said {n}"}]}] * said
    state: StateRecord | None = {"n": n} if n % 3 == 0 else None
    window = (Range(0, None),) if n % 4 == 0 else None
    return Completion(outcome=Outcome(status=how), messages=said_of_it, window=window, state=state, discarded=discarded)


class SessionTableMachine(RuleBasedStateMachine):
    """One table, one store, and a judge."""

    def __init__(self) -> None:
        super().__init__()
        self.store = FaultyStore()
        self.table = restored(self.store)
        self.view = ClientView()
        self.now = 1_000.0
        self.epoch = 1
        self.made = 0
        self.fence = 0
        """The largest that was ever given, even to a claim that was never delivered."""
        self.batches: list[Batch] = []
        """Those that are not durable."""
        self.before: ClientView | None = None
        """The client's view when operations began to share a commit; None: each has a commit of its own."""
        self.table.take_over({0: self.epoch}, self.now)
        self.table.drain()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(live, "CACHED_SESSIONS", 2)
        self.patch.setattr(accepting, "KEPT_BYTES", 12)

    def teardown(self) -> None:
        """Let as many sessions stay in memory as before."""
        self.patch.undo()
        self.store.close()

    # -- how an operation is done ---------------------------------------------------------------------

    def do(self, operation: Operation, fate: str = STORED) -> object:
        """Do what a journal does: decide, write the rows, commit. With another fate it comes true when repeated."""
        first: tuple[object, list[object]] | None = None
        if fate != STORED and self.before is None:
            self.begin()
            first = self.write(operation, keep=fate == LOST)
            self.lose_all()
        answer, claimed = self.write(operation)
        if first is not None:
            assert (answer, claimed) == first, "what is repeated is answered otherwise"
        if self.before is None:
            self.is_durable()
        return answer

    def is_durable(self) -> None:
        """Make all decisions of the table durable."""
        for batch in self.batches:
            self.table.durable(batch, {key: self.store.noted[key] for key in self.table.principals(batch)})
        self.batches.clear()

    def decide(self, operation: Operation) -> object:
        """Decide, with what is missing read as a journal reads it: after the rows that were decided before."""
        decided, self.table.found = self.table.decided, {}
        self.table.records = None
        try:
            while True:
                try:
                    return operation()
                except Missing as missing:
                    assert self.table.decided == decided, "it was found too late that something is missing"
                    self.table.found[missing.what] = missing.read(self.store)
        finally:
            self.table.records = self.store

    def write(self, operation: Operation, *, keep: bool = True) -> tuple[object, list[object]]:
        """Decide, and keep the rows; return the answer and the claims, as far as they are the same when repeated."""
        waited = self.waiting()
        answer: object
        try:
            answer = self.decide(operation)
        except (ClaimLost, CancelRequested, JournalUnavailable) as error:
            answer = type(error)
            assert not self.table.decided, "what has failed has left something"
            self.what_lives_is_what_is_stored()
        if not keep:
            return answer, _repeatable(self.table._claims)
        batch = self.table.drain()
        self.batches.append(batch)
        changes, claims = batch.changes, batch.claims
        self.store.write(changes)
        for claim in claims:
            self.judge_claim(claim)
        if isinstance(answer, Refused | Attached | Reused | Unanswerable | Busy | Ended):
            assert not changes
        if isinstance(answer, ClaimResult):
            assert (answer is ClaimResult.CLAIMED) == bool(claims)
        if isinstance(answer, Stopped):
            assert answer.ended.keys() <= waited.keys()
        return answer, _repeatable(claims)

    def begin(self) -> None:
        """Have what comes be stored or lost together."""
        self.before = copy.deepcopy(self.view)
        self.store.transaction("BEGIN")

    def lose_all(self) -> None:
        """Lose what was written since `begin`; it was never answered."""
        assert self.before is not None
        self.view, self.before = self.before, None
        self.store.transaction("ROLLBACK")
        self.table.records = self.store
        stale = self.table.undo(self.batches)
        self.batches.clear()
        self.table.put_back({key: self.store.session(key) for key in stale})
        assert not self.table.decided
        self.what_lives_is_what_is_stored()

    # -- the judge ------------------------------------------------------------------------------------

    def waiting(self, key: SessionKey | None = None) -> dict[RunId, SeenRun]:
        kept = self.store.runs.values()
        return {run.run_id: run for run in kept if run.status is RunStatus.QUEUED and key in (None, run.key)}

    def line(self, key: SessionKey) -> list[RunId]:
        """What waits in a session for its turn, the next one first."""
        return sorted((each for each, run in self.waiting(key).items() if not run.is_pending), key=self.view.rank)

    def executing(self) -> list[SeenRun]:
        return [run for run in self.store.runs.values() if run.status is RunStatus.RUNNING]

    def open_until(self, key: SessionKey) -> float | None:
        """Until when a session waits to be answered."""
        session = self.store.sessions.get(key)
        open_question = None if session is None else session.question
        return None if open_question is None or open_question.answer is not None else open_question.until

    def open_requests(self, key: SessionKey) -> list[str]:
        """What a session waits to be answered, as far as it can be read."""
        session = self.store.sessions.get(key)
        open_question = None if session is None else session.question
        if open_question is None or open_question.answer is not None or open_question.run in self.store.damaged:
            return []
        return open_question.requests

    def judge_claim(self, claim: Claim) -> None:
        """Check a claim as it is delivered."""
        run_id, key = claim.run.run_id, claim.run.key
        assert claim.token.fence > self.fence, "fences rise, whatever becomes of commits"
        self.fence = claim.token.fence
        if run_id not in self.view.lanes:
            return  # (its accept is not answered yet: `accept` checks)
        self.judge_start(run_id, key)
        if claim.run.sequence in self.store.damaged:
            assert claim.damaged, "claimed as if all of it could be read"
        self.view.tokens.append(claim.token)
        self.view.claimed[run_id] = claim.token

    def judge_start(self, run_id: RunId, key: SessionKey) -> None:
        """Look whether the run that was claimed was the one to start, and whether any was to start."""
        session = self.store.sessions[key]
        assert not session.paused, "claimed in a pause"
        rank = self.view.rank(run_id)
        for other in self.line(key):
            assert rank < self.view.rank(other), f"{run_id} was claimed before {other}"
        until = self.open_until(key)
        is_over = until is None or (until <= self.now and session.question is None)
        assert is_over, "claimed while an answer is waited for"

    def note_stopped(self, stopped: object) -> None:
        if isinstance(stopped, Stopped):
            self.view.cancelled.update(stopped.cancelling)

    @invariant()
    def what_lives_is_what_is_stored(self) -> None:
        in_memory = list(self.table._sessions)
        busy = [key for key, each in self.store.sessions.items() if each.waiting or each.claimed is not None]
        assert set(busy) <= set(in_memory)
        live = picture(self.table, in_memory)
        other = restored(self.store)
        other._epochs = {0: 0}  # (it is never asked for a claim)
        assert live == picture(other, in_memory), "what lives is not what is stored"
        ours, stored = self.table.numbers, other.numbers
        assert isinstance(ours, Counted)
        assert isinstance(stored, Counted)
        assert (ours.no >= stored.no, ours.seq >= stored.seq, ours.next_row >= stored.next_row) == (True, True, True)

    @invariant()
    def every_run_is_in_one_place(self) -> None:
        assert list(self.store.runs) == [each for each in self.view.arrivals if each in self.store.runs]
        at_last = [run for run in self.executing() if run.attempt >= MAX_ATTEMPTS]
        assert len(at_last) <= 1, "two last attempts"
        for key in self.store.sessions:
            order = self.line(key)
            places = [self.table.position(each) for each in order]
            assert places == list(range(1, len(order) + 1)), "where it stands"
        for run_id, run in self.store.runs.items():
            if run.is_pending and run.ended_at is None:
                assert run.status is RunStatus.QUEUED
                assert self.table.position(run_id) is None, "it waits for no turn"
                assert run.host is not None
                assert self.store.runs[run.host].ended_at is None, "its host goes on"
            states = [run_id in self.waiting(), run in self.executing(), run.ended_at is not None]
            assert sum(states) == 1, f"{run_id} is in {states}"
            assert (run.status is RunStatus.RUNNING) <= (run.fence is not None)
            if run.ended_at is not None:
                assert run.outcome is not None
                end = self.view.ends.setdefault(run_id, (run.status, run.outcome))
                assert end == (run.status, run.outcome), "an end is for good"
                assert run_id not in self.view.cancelled or run.status is RunStatus.CANCELLED
                assert not run.checkpoints
            elif run_id in self.view.cancelled:
                assert run.status is RunStatus.RUNNING, f"{run_id} had to end as cancelled"

    @invariant()
    def what_is_claimed_is_counted(self) -> None:
        claimed = sum(session.claimed is not None for session in self.table._sessions.values())
        assert +self.table._claimed_in == ({0: claimed} if claimed else {}), "what is claimed is not what is counted"

    @invariant()
    def histories_only_grow(self) -> None:
        for key, session in self.store.sessions.items():
            known = self.view.histories.get(key, [])
            assert session.history[: len(known)] == known
            self.view.histories[key] = list(session.history)
            live = self.table._find(key)
            assert live is not None
            assert (live.end.length, live.end.nth, live.end.row) == (len(session.history), session.rows, session.last)
        assert +self.store.counted == +self.store.noted

    # -- what is done ---------------------------------------------------------------------------------

    @rule(
        key=sessions,
        lane=st.sampled_from([3, 3, 3, 2]),
        priority=st.sampled_from([1, 3, 3, 5]),
        claim_next=mostly,
        how=st.sampled_from([IfBusy.ENQUEUE] * 4 + list(IfBusy)),
        on_question=st.sampled_from([OnQuestion.WAIT, *OnQuestion]),
        queue_s=st.sampled_from([2.0, None]),
        keyed=st.sampled_from([None, None, None, "k1", "k2"]),
        bounds=st.sampled_from(
            [Bounds(9, 99)] * 3 + [Bounds(1, 99), Bounds(9, 2), Bounds(9, 99, 1), Bounds(9, 9, 9, 60)]
        ),
        fate=fates,
    )
    def accept(
        self,
        key: SessionKey,
        lane: int,
        priority: int,
        claim_next: bool,
        how: IfBusy,
        on_question: OnQuestion,
        queue_s: float | None,
        keyed: str | None,
        bounds: Bounds,
        fate: str,
    ) -> None:
        """A run comes."""
        self.made += 1
        new = NewRun(
            run_id=RunId(f"r{self.made}"),
            key=key,
            input=f"ask {self.made}" + " and more" * (self.made % 2),
            lane=2 if how in INTERRUPTING else lane,
            priority=priority,
            created_at=self.now,
            queue_deadline=None if queue_s is None else self.now + queue_s,
            keyed=None if keyed is None else Keyed(keyed, keyed.encode() * 16, self.now - 2),
            if_busy=how,
            on_question=on_question,
        )
        self.enter(new, bounds, claim_next, fate)

    @precondition(lambda self: any(each.question is not None for each in self.store.sessions.values()))
    @rule(key=sessions, right=mostly, pick=picks, claim_next=mostly, fate=fates)
    def answer(self, key: SessionKey, right: bool, pick: int, claim_next: bool, fate: str) -> None:
        """An answer comes, mostly to open requests."""
        session = self.store.sessions.get(key)
        requests = [] if session is None or session.question is None else session.question.requests
        ids = requests if right else self.view.requests[pick % (len(self.view.requests) or 1) :][:1]
        if not ids:
            return
        self.made += 1
        run_id, given = RunId(f"r{self.made}"), responses(dict.fromkeys(ids, "yes"))
        new = NewRun(run_id=run_id, key=key, input=given, lane=1, created_at=self.now, queue_deadline=self.now + 2)
        self.enter(new, Bounds(1, 1), claim_next, fate)

    def enter(self, new: NewRun, bounds: Bounds, claim_next: bool, fate: str) -> None:
        body, now = encoded_body(new), self.now
        waited, until = self.waiting(new.key), self.open_until(new.key)
        becomes_answer = new.may_answer and len(self.open_requests(new.key)) == 1
        waited_in_all = self.waiting()
        steers = new.if_busy is IfBusy.STEER and not becomes_answer
        hosts = [each.run_id for each in self.executing() if each.key == new.key and steers]
        answer = self.do(lambda: self.table.accept(new, body, bounds, claim_next=claim_next, now=now), fate)
        if isinstance(answer, Refused):
            self.judge_refusal(answer, new, bounds, waited_in_all)
        if isinstance(answer, Attached):
            known = self.store.runs[answer.run_id]
            assert new.keyed is not None
            assert (known.key, known.idempotency_key) == (new.key, new.keyed.key)
        if not isinstance(answer, Accepted):
            assert new.run_id not in self.store.runs
            return
        run = self.store.runs[new.run_id]
        others = [each.seq for run_id, each in self.store.runs.items() if run_id != run.run_id]
        assert run.seq > max(others, default=-1), "sequences rise"
        assert run.seq > self.view.pruned, "that of a run that was pruned is not used again"
        self.view.arrivals.append(new.run_id)
        answers = new.lane == 1 or becomes_answer
        if steers:
            self.view.steering.add(new.run_id)
        self.view.wait_in(new.run_id, 1 if answers else new.lane, new.priority)
        self.note_stopped(answer.stopped)
        if answer.stopped is not None:
            assert all(run_id in waited for run_id in answer.stopped.ended)
        assert answer.joined == (hosts[0] if hosts else None), "it joins what executes"
        assert (run.host, run.is_pending) == (answer.joined, bool(hosts))
        assert (answer.position == 0) == (run.fence is not None or bool(hosts))
        if hosts:
            assert run.fence is None, "what joins has no turn of its own"
        elif answer.position == 0:
            assert claim_next
            assert run.fence is not None
            may_start = answers or until is None or until <= now or new.dismisses
            assert may_start, "claimed while an answer is waited for"
            self.judge_start(new.run_id, new.key)
            token = FencingToken(new.run_id, run.fence)
            self.view.tokens.append(token)
            self.view.claimed[new.run_id] = token
            return
        else:
            assert answer.position == self.line(new.key).index(new.run_id) + 1, "where it stands"
        if not answers:
            of_principal = [each for each in self.waiting().values() if each.key.principal == new.key.principal]
            most = len(waited_in_all) + 1 if bounds.per_principal is None else bounds.per_principal
            assert len(self.waiting(new.key)) <= bounds.per_session, "more wait than may"
            assert len(self.waiting()) <= bounds.total, "more wait than may"
            assert len(of_principal) <= most, "more wait than may"
        if bounds.stored_bytes is not None:
            assert self.store.noted[new.key.principal] <= bounds.stored_bytes

    def judge_refusal(self, refused: Refused, new: NewRun, bounds: Bounds, waited: dict[RunId, SeenRun]) -> None:
        """A run is refused for a reason that is there."""
        in_session = [run for run in waited.values() if run.key == new.key]
        of_principal = [run for run in waited.values() if run.key.principal == new.key.principal]
        session = self.store.sessions.get(new.key)
        match refused.reason:
            case "queue_full":
                assert len(in_session) >= bounds.per_session
            case "principal_full":
                assert bounds.per_principal is not None
                assert len(of_principal) >= bounds.per_principal
            case "server_full":
                assert len(waited) >= bounds.total
            case "storage_full":
                assert bounds.stored_bytes is not None
                size = encoded_body(new).size
                is_larger = new.may_answer  # (as the answer that it may become)
                assert is_larger or self.store.noted[new.key.principal] + size > bounds.stored_bytes
            case reason:
                assert reason == "session_busy"
                assert new.if_busy is IfBusy.REJECT
                assert session is not None
                is_open = (self.open_until(new.key) or 0) > self.now
                assert session.claimed is not None or session.paused or in_session or is_open

    @precondition(lambda self: self.waiting())
    @rule(key=sessions, fate=fates)
    def claim_next(self, key: SessionKey, fate: str) -> None:
        """The next run of a session is claimed."""
        now = self.now
        answer = self.do(lambda: self.table.claim_next(key, now=now), fate)
        self.judge_nothing(key, answer)

    def judge_nothing(self, key: SessionKey, answer: object) -> None:
        """No run waits for good."""
        if answer is ClaimResult.CLAIMED:
            return
        session, line = self.store.sessions.get(key), self.line(key)
        if session is None or not line or session.claimed is not None or session.paused:
            assert answer is not ClaimResult.BLOCKED, "blocked where nothing is to start"
            return
        if (self.open_until(key) or 0) > self.now:
            assert answer is ClaimResult.NOTHING
            return
        assert answer is ClaimResult.BLOCKED, f"{line[0]} waits for nothing"
        assert self.store.runs[line[0]].attempt + 1 >= MAX_ATTEMPTS
        assert any(run.attempt >= MAX_ATTEMPTS for run in self.executing())

    def token(self, pick: int) -> FencingToken | None:
        """Return a token, mostly one of a claim that stands."""
        good = [self.view.claimed[run.run_id] for run in self.store.runs.values() if run.fence is not None]
        if good and pick % 5 < 4:
            return good[pick % len(good)]
        return self.view.tokens[pick % len(self.view.tokens)] if self.view.tokens else None

    @rule(pick=picks, fate=fates)
    def checkpoint(self, pick: int, fate: str) -> None:
        """What executes has done something."""
        if (token := self.token(pick)) is None:
            return
        self.made += 1
        checkpoint = RoundStarted([{"role": "user", "content": [{"text": f"checkpoint {self.made}"}]}])
        encoded = encode_messages(checkpoint)
        run = self.store.runs.get(token.run_id)
        stale = run is None or run.fence != token.fence or run.ended_at is not None
        answer = self.do(lambda: self.table.checkpoint(token, encoded), fate)
        assert answer is (ClaimLost if stale else None)
        assert stale or self.store.runs[token.run_id].checkpoints[-1] == encoded

    @rule(
        pick=picks,
        how=st.sampled_from([RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.NEEDS_INPUT]),
        said=st.integers(0, 2),
        discarded=st.sampled_from([False, False, True]),
        hold=st.sampled_from([False, False, True]),
        claim_next=mostly,
        within_s=st.sampled_from([0.0, 3.0, 9.0]),
        obey=mostly,
        fate=fates,
    )
    def finish(
        self,
        pick: int,
        how: RunStatus,
        said: int,
        discarded: bool,
        hold: bool,
        claim_next: bool,
        within_s: float,
        obey: bool,
        fate: str,
    ) -> None:
        """A run ends, some with a question."""
        if (token := self.token(pick)) is not None:
            self.end(token, how, said, discarded, hold, claim_next, within_s, obey, fate)

    def end(
        self,
        token: FencingToken,
        how: RunStatus,
        said: int,
        discarded: bool,
        hold: bool,
        claim_next: bool,
        within_s: float,
        obey: bool,
        fate: str,
    ) -> None:
        run = self.store.runs.get(token.run_id)
        is_good = run is not None and run.fence == token.fence and run.ended_at is None
        is_cancelling = token.run_id in self.view.cancelled
        if obey and is_cancelling:
            how, discarded = RunStatus.CANCELLED, True
        left = encode_completion(self._completion(how, said, discarded, within_s))
        now = self.now
        answer = self.do(lambda: self.table.finish(token, left, hold=hold, claim_next=claim_next, now=now), fate)
        if not is_good:
            assert answer is ClaimLost
            return
        if answer is CancelRequested:
            assert is_cancelling
            return
        assert not is_cancelling or how is RunStatus.CANCELLED, f"{token.run_id} had to end as cancelled"
        ended = self.store.runs[token.run_id]
        assert (ended.status, ended.outcome, ended.ended_at) == (how, left.outcome, now)
        assert (ended.fence is not None) == hold
        if how is RunStatus.NEEDS_INPUT and (within_s or hold):
            assert self.open_until(ended.key) == now + within_s
        if hold or not claim_next:
            assert answer is ClaimResult.NOTHING
        else:
            self.judge_nothing(ended.key, answer)

    @rule(
        key=sessions,
        behind=mostly,
        said=st.integers(0, 1),
        hold=st.sampled_from([False, False, True]),
        claim_next=st.booleans(),
        within_s=st.sampled_from([0.0, 3.0, 9.0]),
        fate=fates,
    )
    def ask(
        self, key: SessionKey, behind: bool, said: int, hold: bool, claim_next: bool, within_s: float, fate: str
    ) -> None:
        """What executes in a session, or else a run that comes, ends with a question; another one is behind it."""
        session = self.store.sessions.get(key)
        for _ in range((session is None or session.claimed is None) + behind):
            self.made += 1
            new = NewRun(run_id=RunId(f"r{self.made}"), key=key, input="?", created_at=self.now)
            self.enter(new, Bounds(9, 99), True, STORED)
        session = self.store.sessions[key]
        if session.claimed is not None:
            token = self.view.claimed[session.claimed.run_id]
            self.end(token, RunStatus.NEEDS_INPUT, said, False, hold, claim_next, within_s, True, fate)

    def _completion(self, how: RunStatus, said: int, discarded: bool, within_s: float) -> Completion:
        self.made += 1
        if how is not RunStatus.NEEDS_INPUT:
            return _completion(how, said, discarded=discarded, n=self.made)
        ids = [f"t{self.made}.{n}" for n in range(1 + said % 2)]
        uses = [{"toolUse": {"toolUseId": each, "name": "pay", "input": {}}} for each in ids]
        message: Message = {"role": "assistant", "content": uses}
        requests = [InputRequest(each, "sure", self.made) for each in ids]
        self.view.requests += ids
        question = Question(requests=requests, message=message, results={}, state={"n": self.made})
        outcome = Outcome(status=how, input_requests=requests)
        messages: list[Message] = [{"role": "user", "content": [{"text": f"? {self.made}"}]}, message]
        return Completion(outcome=outcome, messages=messages, question=question, answer_within_s=within_s)

    @rule(pick=picks, counted=st.booleans(), fate=fates)
    def release(self, pick: int, counted: bool, fate: str) -> None:
        """A run is requeued, or a hold is over."""
        if (token := self.token(pick)) is not None:
            self.requeue(token, counted, fate)

    @precondition(lambda self: any(run.fence is not None for run in self.store.runs.values()))
    @rule(counted=mostly, fate=fates)
    def give_all_back(self, counted: bool, fate: str) -> None:
        """Whatever executes is tried again, if it may be; holds are over."""
        for token in [self.view.claimed[run.run_id] for run in self.store.runs.values() if run.fence is not None]:
            self.requeue(token, counted, fate)
            self.claim_next(self.session_of_token(token), fate)

    def session_of_token(self, token: FencingToken) -> SessionKey:
        return self.store.runs[token.run_id].key

    def requeue(self, token: FencingToken, counted: bool, fate: str) -> None:
        run, now = self.store.runs.get(token.run_id), self.now
        is_good = run is not None and run.fence == token.fence
        is_held = run is not None and run.ended_at is not None
        is_cancelling = token.run_id in self.view.cancelled
        if is_good and not is_held and not is_cancelling:
            self.view.wait_in(token.run_id, 0, 0)
        answer = self.do(lambda: self.table.release(token, counted=counted, now=now), fate)
        if not is_good:
            assert answer is ClaimLost
        elif is_cancelling and not is_held:
            assert answer is CancelRequested, f"{token.run_id} had to end as cancelled"
        else:
            assert answer is None

    @precondition(lambda self: self.store.runs)
    @rule(
        pick=picks,
        key=sessions,
        kind=st.sampled_from(
            [Cancel, Cancel, CancelSession, EndWaiting, EndOverdue, Move, Move, Pause, Resume, Resume, Delete]
        ),
        flag=st.booleans(),
        priority=st.sampled_from([None, None, 1, 5]),
        fate=fates,
    )
    def change(
        self, pick: int, key: SessionKey, kind: type[AnyChange], flag: bool, priority: int | None, fate: str
    ) -> None:
        """Somebody asks for a change."""
        runs = list(self.waiting()) or list(self.store.runs)
        every = list(self.store.runs) if pick % 3 == 0 else runs
        run = self.store.runs[every[pick % len(every)]] if every else None
        run_id = RunId("nobody") if run is None else run.run_id
        of = key if run is None else run.key
        change: AnyChange
        if kind is Cancel:
            change = Cancel(of.principal, run_id)
        elif kind is CancelSession:
            change = CancelSession(key, flag)
        elif kind is EndWaiting:
            change = EndWaiting(of, run_id, Outcome(status=RunStatus.FAILED))
        elif kind is EndOverdue:
            change = EndOverdue(key, Outcome(status=RunStatus.FAILED))
        elif kind is Move:
            change = Move(of.principal, run_id, priority)
        elif kind is Delete:
            change = Delete(key, self.now - 1 if flag else None)
        else:
            change = Pause(key) if kind is Pause else Resume(key)
        now, began = self.now, run is not None and run.started_at is not None
        waited = run_id in self.waiting()
        answer = self.do(lambda: self.table.change(change, now=now), fate)
        self.note_stopped(answer)
        if kind is Move and answer == Changed(existed=True):
            assert waited
            assert not began
            if self.view.lanes[run_id] != 1:
                self.view.wait_in(run_id, 2 if priority is None else 3, priority or 0)
        if kind is Delete and answer == Changed(existed=True):
            self.view.histories.pop(key, None)
            assert key not in self.store.sessions
            assert not any(each.key == key for each in self.store.runs.values())
        if kind is CancelSession and isinstance(answer, Stopped):
            assert not self.waiting(key)
            assert not flag or (self.open_until(key) is None)
        if kind in (Pause, Resume) and key in self.store.sessions:
            assert self.store.sessions[key].paused == (kind is Pause)

    @precondition(lambda self: self.waiting())
    @rule(key=sessions, seconds=st.sampled_from([1.0, 5.0]), fate=fates)
    def stand_still(self, key: SessionKey, seconds: float, fate: str) -> None:
        """A session is paused for a while."""
        now = self.now
        self.do(lambda: self.table.change(Pause(key), now=now), fate)
        self.claim_next(key, fate)
        self.now += seconds
        later = self.now
        self.do(lambda: self.table.change(Resume(key), now=later), fate)

    @precondition(lambda self: self.before is None)
    @rule(age_s=st.sampled_from([0, 1]), limit=st.sampled_from([1, 9]))
    def prune(self, age_s: int, limit: int) -> None:
        """Ended runs are forgotten."""
        before = self.now - age_s
        in_time = takewhile(lambda run: not before <= run.created_at <= self.now, self.store.runs.values())
        askers = {each.question.run for each in self.store.sessions.values() if each.question is not None}
        old = [run for run in in_time if run.ended_at is not None and run.ended_at < before]
        past = [run.run_id for run in old if run.fence is None and run.seq not in askers][:limit]
        self.view.pruned = max([self.view.pruned, *(self.store.runs[run_id].seq for run_id in past)])
        left = [run_id for run_id in self.store.runs if run_id not in past]
        assert self.store.prune(before, limit, self.now) == (len(past), None)
        self.table.forget_stored()  # (as every journal does)
        assert list(self.store.runs) == left

    @rule(pick=picks, question=st.booleans())
    def damage(self, pick: int, question: bool) -> None:
        """A record is damaged: that of a waiting run which is read when it is claimed, or a question."""
        askers = [each.question.run for each in self.store.sessions.values() if each.question is not None]
        read = [run.seq for run in self.waiting().values() if run.size > accepting.KEPT_BYTES]
        found = askers if question else read
        if found and self.before is None and pick % 4 == 0:
            self.store.damaged.add(found[pick % len(found)])

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    # -- commits --------------------------------------------------------------------------------------

    @precondition(lambda self: self.before is None)
    @rule()
    def gather(self) -> None:
        """Operations gather for one commit."""
        self.begin()

    @precondition(lambda self: self.before is not None)
    @rule()
    def commit(self) -> None:
        """What has gathered is stored."""
        self.store.transaction("COMMIT")
        self.is_durable()
        self.before = None

    @precondition(lambda self: self.before is not None)
    @rule()
    def lose(self) -> None:
        """The commit fails; its answers were never sent."""
        self.lose_all()

    @precondition(lambda self: self.before is None)
    @rule()
    def take_over(self) -> None:
        """Another process owns the store."""
        held = [run.run_id for run in self.store.runs.values() if run.fence is not None and run.ended_at]
        executing = [run.run_id for run in self.executing()]
        self.epoch += 1
        self.table = restored(self.store)
        claims = self.table.take_over({0: self.epoch}, self.now)
        batch = self.table.drain()
        self.store.write(batch.changes)
        self.batches = [batch]
        self.is_durable()
        assert batch.claims == []
        assert [claim.run.run_id for claim in claims] == executing
        assert not any(self.store.runs[each].fence for each in held)
        for claim in claims:
            assert claim.token.fence > self.fence
            self.fence = claim.token.fence
            self.view.tokens.append(claim.token)
            self.view.claimed[claim.run.run_id] = claim.token


TestSessionTable: Any = SessionTableMachine.TestCase
TestSessionTable.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


# -- the tests of the test ------------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def count_none_that_leaves(patch: pytest.MonkeyPatch) -> None:
    """A run that leaves its queue still counts as waiting."""
    patch.setattr(SessionTable, "_leave_queue", lambda table, run: table._leave(run) or table._count(run.session, 1))


def write_no_moved_deadline(patch: pytest.MonkeyPatch) -> None:
    """Deadlines that stand still are moved in memory alone."""

    def delay(table: SessionTable, run: RunState, seconds: float) -> None:
        if run.queue_deadline is not None:
            run.queue_deadline += seconds

    patch.setattr(SessionTable, "_delay", delay)


def note_before_looking(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint is noted before its token is looked at."""
    original = SessionTable.checkpoint

    def hasty(table: SessionTable, token: FencingToken, checkpoint: bytes) -> None:
        if (run := table._runs.get(token.run_id)) is not None and run.fence != token.fence:
            table._note(run.session, AddCheckpoint(run.seq, run.checkpoints, checkpoint))
        original(table, token, checkpoint)

    patch.setattr(SessionTable, "checkpoint", hasty)


def roll_back_rows_alone(patch: pytest.MonkeyPatch) -> None:
    """The rows of a commit that failed are dropped, and what they say stays in memory."""

    def undo(table: SessionTable, batches: list[Batch]) -> set[SessionKey]:
        for batch in [*batches, table.drain()]:
            table.durable(batch, {})
        return set()

    patch.setattr(SessionTable, "undo", undo)


def give_fences_again(patch: pytest.MonkeyPatch) -> None:
    """The fences of a commit that failed are given again."""
    undo, durable = SessionTable.undo, SessionTable.durable
    stored: dict[int, int] = {}

    def note(table: SessionTable, batch: Batch, kept: dict[Principal, int]) -> None:
        assert isinstance(table.numbers, Counted)
        stored[id(table)] = table.numbers.last_fence
        durable(table, batch, kept)

    def reuse(table: SessionTable, batches: list[Batch]) -> set[SessionKey]:
        assert isinstance(table.numbers, Counted)
        table.numbers.last_fence = stored.get(id(table), table.numbers.last_fence)
        return undo(table, batches)

    patch.setattr(SessionTable, "durable", note)
    patch.setattr(SessionTable, "undo", reuse)


def look_up_nothing(patch: pytest.MonkeyPatch) -> None:
    """What an operation needs is looked up when it is needed."""
    patch.setattr(SessionTable, "_look_ahead", lambda table, session, joined=(): None)
    patch.setattr(SessionTable, "_look_up_waiting", lambda table, runs: None)


def start_in_a_pause(patch: pytest.MonkeyPatch) -> None:
    """A pause keeps nothing from being claimed."""
    claim_next = SessionTable._claim_next

    def heedless(table: SessionTable, session: SessionState) -> ClaimResult:
        paused, session.paused = session.paused, False
        try:
            return claim_next(table, session)
        finally:
            session.paused = paused

    patch.setattr(SessionTable, "_claim_next", heedless)


def take_no_notice_of_priorities(patch: pytest.MonkeyPatch) -> None:
    """Runs go by lane and sequence alone."""
    patch.setattr(RunState, "rank", property(lambda run: (run.lane, 0, run.seq)))


def know_no_last_attempt(patch: pytest.MonkeyPatch) -> None:
    """Last attempts run beside each other."""
    patch.setattr(live, "is_last", lambda attempt, max_attempts: False)


def let_a_cancelled_run_go_on(patch: pytest.MonkeyPatch) -> None:
    """A run that is to end as cancelled ends otherwise, or is requeued."""
    patch.setattr(table, "check_cancel", lambda run, end, *, discarded: None)


def leave_a_question_out(patch: pytest.MonkeyPatch) -> None:
    """A session stops waiting for input."""
    patch.setattr(SessionState, "question", property(lambda session: None))


def take_more_than_fits(patch: pytest.MonkeyPatch) -> None:
    """No queue is ever full."""
    patch.setattr(SessionTable, "_full", lambda table, new, bounds, waiting, leaving: None)


def forget_who_waits(patch: pytest.MonkeyPatch) -> None:
    """The end of a run claims nothing, and says that nothing waits."""
    finish = SessionTable.finish
    patch.setattr(
        SessionTable,
        "finish",
        lambda table, token, left, *, hold, claim_next, now: finish(
            table, token, left, hold=hold, claim_next=False, now=now
        ),
    )


LIVES = "what lives is not what is"
BREAKAGES: dict[Break, str] = {
    count_none_that_leaves: LIVES,
    write_no_moved_deadline: LIVES,
    note_before_looking: "what has failed has left something",
    roll_back_rows_alone: LIVES,
    give_fences_again: "fences rise",
    look_up_nothing: "found too late",
    start_in_a_pause: "claimed in a pause|blocked where nothing is to start",
    take_no_notice_of_priorities: "was claimed before|where it stands",
    know_no_last_attempt: "two last attempts",
    let_a_cancelled_run_go_on: "had to end as cancelled",
    leave_a_question_out: "claimed while an answer is waited for",
    take_more_than_fits: "more wait than may",
    forget_who_waits: "waits for nothing",
}


@pytest.mark.parametrize("make", BREAKAGES, ids=lambda make: make.__name__)
def test_the_machine_finds(make: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    make(monkeypatch)
    first = settings(
        TestSessionTable.settings, max_examples=500, phases=[Phase.generate], derandomize=True, database=None
    )
    with pytest.raises(AssertionError, match=BREAKAGES[make]):
        run_state_machine_as_test(SessionTableMachine, settings=first)
